"""Other people's 614 StatsD cases: each comes out as theirs, or differs for a reason that is written down.

The reasons are in tests/reference/statsd_differences.py. A difference that none of them explains fails, and
so does a reason that explains more or fewer cases than it says.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.conftest import missing
from tests.reference import statsd_corpus as corpus
from tests.reference.statsd_compare import complaints
from tests.reference.statsd_corpus import Case, State
from tests.reference.statsd_differences import ETSY, EXPORTER, Difference, explain
from tests.reference.statsd_readers import NAMES, Outcome, Reader, Settings, reader, reference

StateOf = Callable[[Outcome, State], State]


def cases_of(load: Callable[[], Any]) -> Any:
    try:
        return load()
    except FileNotFoundError as error:
        missing(f"no corpus at {error.filename}")


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def read(name: str) -> Reader:
    return reader(name)


def settings_of(case: Case) -> Settings:
    """Dots are kept, so that names can be told apart as they are there."""
    return Settings(dialect=case.dialect, separator=".")


def check(read: Reader, cases: Sequence[Case], state: StateOf, differences: Sequence[Difference]) -> None:
    explained: Counter[str] = Counter()
    for case in cases:
        outcome = read(case.datagrams, settings_of(case))
        found = state(outcome, case.expected)
        if corpus.agree(case.expected, found):
            continue
        difference = explain(case, differences)
        assert difference is not None, f"{case}: {found} {outcome.dropped}"
        assert difference.ours in outcome.dropped if difference.ours else outcome.accepted, case
        explained[difference.name] += 1
    assert explained == {difference.name: difference.cases for difference in differences}


def test_etsy_lines_come_out_as_there_or_are_explained(read: Reader) -> None:
    check(read, cases_of(corpus.etsy_cases), corpus.etsy_state, ETSY)


def test_exporter_lines_come_out_as_there_or_are_explained(read: Reader) -> None:
    check(read, cases_of(corpus.exporter_cases), corpus.exporter_state, EXPORTER)


def test_every_case_comes_out_as_in_the_reference(read: Reader) -> None:
    for load in (corpus.etsy_cases, corpus.exporter_cases):
        for case in cases_of(load):
            settings = settings_of(case)
            expected = reference(case.datagrams, settings)
            wrong = complaints(expected, read(case.datagrams, settings), settings.relative_error)
            assert not wrong, (case, wrong)


def test_no_case_is_counted_twice_or_not_at_all(read: Reader) -> None:
    for load in (corpus.etsy_cases, corpus.exporter_cases):
        for case in cases_of(load):
            outcome = read(case.datagrams, settings_of(case))
            assert outcome.received == outcome.accepted + sum(outcome.dropped.values()), case
            if not outcome.passed:
                assert outcome.accepted == outcome.aggregated, case


TIMER_FIELDS = {
    "upper": "upper",
    "lower": "lower",
    "mean": "mean",
    "median": "median",
    "std": "stddev",
    "count": "count",
    "sum": "sum",
}
"""etsy's names and ours. Not sent, as Telegraf does not: count_ps, sum_squares, and of the values below a
percentile count, mean, sum, sum_squares; histograms; percentiles counted from the top, and that of 0."""


def test_etsy_timers_have_the_same_aggregates(name: str, read: Reader) -> None:
    compared: Counter[str] = Counter()
    for case in cases_of(corpus.timer_cases):
        percentiles = tuple(p for p in case.percentiles if p > 0)
        rate = len(case.values) / case.count if case.values else 1.0
        lines = [f"t:{value!r}|ms|@{rate!r}".encode() for value in case.values]
        outcome = read(lines, Settings(percentiles=percentiles))
        if not case.values:
            # etsy sends a count of 0 for a timer that was silent. We send nothing then.
            assert not outcome.ticked
            continue
        (point,) = outcome.ticked
        fields = {key.decode(): value for key, _, value in point.fields}
        pairs = [(theirs, ours, case.expected[theirs]) for theirs, ours in TIMER_FIELDS.items()]
        for percentile in percentiles:
            upper = f"upper_{percentile:g}".replace(".", "_")
            if upper in case.expected:
                pairs.append((upper, f"{percentile:g}_percentile", case.expected[upper]))
        for theirs, ours, value in pairs:
            if theirs == "sum" and rate != 1:
                # Telegraf's sum is of all values that the samples stand for; etsy's of the samples.
                value /= rate
            exact = name == "reference" or not (ours == "median" or ours.endswith("percentile"))
            assert fields[ours] == pytest.approx(value, rel=1e-9 if exact else 0.01), (case.name, ours)
            compared[ours] += 1
        assert fields.keys() == {*TIMER_FIELDS.values(), *(f"{p:g}_percentile" for p in percentiles)}
    assert sum(compared.values()) == 27 * len(TIMER_FIELDS) + 111
    assert compared["90_percentile"] == 23


def test_etsy_counters_have_the_same_value(read: Reader) -> None:
    for case in cases_of(lambda: corpus.load("etsy_aggregates")["counters"]):
        outcome = read([f"c:{case['value']}|c".encode()], Settings())
        assert [point.fields for point in outcome.ticked] == [((b"value", "f", float(case["value"])),)]
