"""Other people's 3,455 line-protocol inputs: what each reader makes of them is what the rule demands.

The rule: accept what InfluxDB 1.8, InfluxDB 2.7 or line-protocol v2 (the guides) accept, if those that accept
it understand the same, and write only what every version takes. The exceptions are listed here one by one,
each with its reason; a new one fails the test.
"""

from collections.abc import Iterator

import pytest

from tests.conftest import missing
from tests.reference.corpus import GUIDES, Case, Verdict, load
from tests.reference.line_protocol import ReadResult
from tests.reference.points import parse
from tests.reference.readers import NAMES, Reader, reader

UNTRANSPORTABLE = {
    "control_character",
    "utf8",
    "backslash",
    "tag_duplicate",
    "tag_reserved",
    "timestamp_range",
    "key_too_long",
}
"""Reasons that say: some version takes this, but there is no form of it that all of them take."""

AGREED_BUT_DROPPED = {
    # All parse it, but InfluxDB 1 and 2 refuse to store a point that has no field but `time`, with 400.
    b"m time=1",
}

REJECTED_BUT_GOOD_WHEN_CUT = {
    # The quote of the first line is never closed. For the five it swallows the second line; we cut at the LF.
    b'm f="x 2\nm g="y" 3',
}

MISREAD_BY_INFLUXDB = {
    # Bytes behind a closing quote: InfluxDB 1.8 and 2.7 take all but the first quote and the last byte for
    # the string, so that `u f=""\v0234567` has the string `"\v023456`.
    b'u f=""\x0b0234567\n\x86\x0bf=",u "\x0b0234568',
    b'u f=""\x0b023567\n\x86\x0bf=",u "\x0b023454567\n\x86\x0bf=",u "\x0b0234568',
    b'u f=""\x0b156988626739664\n"\x0b6=", "\x0b611063598960478\n',
    b'u f=""\x0b423854286900992936\n\x86\x0bf=", "\x0b4542842170943040400',
    b'u f=""\x0b854286900992936\n\x86\x0bf=", "\x0b854286900992936\n\x86\x0bf=", "\x0b45445428421709430404',
    # Commas, equals signs and quotes in no order: they count commas and equals signs, which happen to match.
    b'" ,"="=",=nAL,","=""',
    b'" "="""","="""","="""",,"="=",=n""","="","="","=""""""',
    # The tab ends the tag's value here, as it does for Telegraf.
    b"m,t=a\tb f=1",
}


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    try:
        return load()
    except FileNotFoundError as error:
        missing(f"no corpus at {error.filename}")


@pytest.fixture(scope="module", params=NAMES)
def read(request: pytest.FixtureRequest) -> Reader:
    return reader(request.param)


def results(read: Reader, cases: list[Case], *verdicts: Verdict) -> Iterator[tuple[Case, ReadResult]]:
    for case in cases:
        if case.verdict in verdicts:
            options = {"precision": case.precision, "now_ns": case.now_ns}
            yield case, read(case.text, **options, line_bytes_max=max(len(case.text), 1))


def test_what_the_guides_agree_on_is_accepted_with_those_points(read: Reader, cases: list[Case]) -> None:
    wrong = {
        case.text
        for case, result in results(read, cases, Verdict.AGREED)
        if not case.accepted_by(GUIDES[0], parse(result.body))
    }
    assert wrong == AGREED_BUT_DROPPED


def test_what_all_reject_is_rejected(read: Reader, cases: list[Case]) -> None:
    accepted = {case.text for case, result in results(read, cases, Verdict.REJECTED) if result.accepted}
    assert accepted == REJECTED_BUT_GOOD_WHEN_CUT


def test_blank_lines_and_comments_are_not_lines(read: Reader, cases: list[Case]) -> None:
    for case, result in results(read, cases, Verdict.NOTHING):
        assert result == ReadResult(), case.text


def test_where_guides_differ_we_have_the_points_of_one_or_none(read: Reader, cases: list[Case]) -> None:
    for case, result in results(read, cases, Verdict.SAME, Verdict.DIFFERENT):
        points = parse(result.body)
        assert not points or any(case.accepted_by(name, points) for name in GUIDES), case.text


def test_what_a_guide_accepts_is_dropped_only_if_it_cannot_be_written_for_all(
    read: Reader, cases: list[Case]
) -> None:
    unexplained = {
        case.text
        for case, result in results(read, cases, Verdict.SAME)
        if not result.accepted and not UNTRANSPORTABLE.intersection(result.dropped)
    }
    assert unexplained <= MISREAD_BY_INFLUXDB
    assert not any(
        result.accepted
        for case, result in results(read, cases, Verdict.SAME)
        if case.text in MISREAD_BY_INFLUXDB
    )


def test_others_alone_are_followed_only_in_tabs_for_spaces(read: Reader, cases: list[Case]) -> None:
    for case, result in results(read, cases, Verdict.OTHERS):
        if result.accepted:
            assert b"\t" in case.text or b"\r" in case.text, case.text
            theirs = [point for point in case.points["telegraf"] if point is not None]
            named = {(point.name, point.fields) for point in theirs}
            for point in parse(result.body):
                assert (point.name, tuple(sorted(point.fields))) in named


def test_what_is_written_reads_back_as_itself(read: Reader, cases: list[Case]) -> None:
    for case, result in results(read, cases, *Verdict):
        again = read(result.body, line_bytes_max=2**20)
        assert again == ReadResult(result.body, result.accepted, result.accepted), case.text


def test_counts_add_up(read: Reader, cases: list[Case]) -> None:
    for case, result in results(read, cases, *Verdict):
        assert result.received == result.accepted + sum(result.dropped.values()), case.text
        assert len(parse(result.body)) == result.accepted
        assert result.rewritten <= result.accepted
