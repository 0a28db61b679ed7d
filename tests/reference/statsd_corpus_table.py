"""Print the table of ARCHITECTURE.md: how other people's StatsD cases come out here, and where that is meant.

python -m tests.reference.statsd_corpus_table
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence

from tests.reference import statsd_corpus as corpus
from tests.reference.statsd_corpus import Case, State, agree
from tests.reference.statsd_differences import ETSY, EXPORTER, Difference, explain
from tests.reference.statsd_readers import Outcome, Settings, reference


def count(
    cases: Sequence[Case], state: Callable[[Outcome, State], State], differences: Sequence[Difference]
) -> Counter[str]:
    """How many cases come out as theirs (under an empty name), and how many each difference explains."""
    counts: Counter[str] = Counter()
    for case in cases:
        outcome = reference(case.datagrams, Settings(dialect=case.dialect, separator="."))
        difference = None
        if not agree(case.expected, state(outcome, case.expected)):
            difference = explain(case, differences)
            if difference is None:
                raise ValueError(f"nothing explains {case}")
        counts[difference.name if difference else ""] += 1
    return counts


def main() -> int:
    try:
        rows = [
            ("etsy's server", corpus.etsy_cases(), corpus.etsy_state, ETSY),
            ("statsd_exporter", corpus.exporter_cases(), corpus.exporter_state, EXPORTER),
        ]
    except FileNotFoundError as error:
        print(f"no corpus: {error}", file=sys.stderr)
        return 1
    print("| cases of | difference | cases | here | why |")
    print("|---|---|---:|---|---|")
    for title, cases, state, differences in rows:
        counts = count(cases, state, differences)
        print(f"| {title} | none | {counts['']} of {len(cases)} | | |")
        for one in differences:
            ours = f"dropped: `{one.ours}`" if one.ours else "accepted"
            print(f"| | {one.name} | {counts[one.name]} | {ours} | {one.why} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
