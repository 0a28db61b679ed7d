"""Print the table of ARCHITECTURE.md: what five parsers made of the corpus, and what we do.

python -m tests.reference.corpus_table
"""

import sys
from collections import Counter
from itertools import groupby

from tests.reference.corpus import GUIDES, Case, Verdict, load
from tests.reference.line_protocol import read
from tests.reference.points import parse


def row(cases: list[Case]) -> tuple[list[int], Counter[str]]:
    """Inputs; of how many we keep a guide's points, others, none; and why lines were dropped."""
    same = other = none = 0
    reasons: Counter[str] = Counter()
    for case in cases:
        result = read(case.text, precision=case.precision, now_ns=case.now_ns, line_bytes_max=len(case.text))
        points = parse(result.body)
        reasons.update(result.dropped)
        if not points:
            none += 1
        elif any(case.accepted_by(name, points) for name in GUIDES):
            same += 1
        else:
            other += 1
    return [len(cases), same, other, none], reasons


def main() -> int:
    try:
        cases = load()
    except FileNotFoundError as error:
        print(f"no corpus: {error}", file=sys.stderr)
        return 1
    print(
        "| the five parsers | inputs | accepted, with the points of 1.8, 2.7 or v2 | with others | dropped |"
    )
    print("|---|---:|---:|---:|---:|")
    order = list(Verdict)
    reasons: dict[Verdict, Counter[str]] = {}
    for verdict, group in groupby(
        sorted(cases, key=lambda case: order.index(case.verdict)), key=lambda case: case.verdict
    ):
        counts, reasons[verdict] = row(list(group))
        print(f"| {verdict.value} |", " | ".join(map(str, counts)), "|")
    counts, every = row(cases)
    print("| all |", " | ".join(map(str, counts)), "|")
    print()
    print("| lines dropped, by reason |", " | ".join(v.name.lower() for v in reasons), "| all |")
    print("|---|" + "---:|" * (len(reasons) + 1))
    for reason, total in every.most_common():
        print(f"| `{reason}` |", " | ".join(str(c[reason]) for c in reasons.values()), f"| {total} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
