"""The table of verdicts: what the answers of InfluxDB's three write endpoints mean."""

import gzip
import json

import pytest
from urllib3 import HTTPHeaderDict

from agent.outputs.base import TEXT_CHARS_MAX, Kind, Payload, Refusal, one_line
from agent.outputs.verdicts import ALONE_MAX, RETRY_AFTER_MAX, classify

VERSIONS = (1, 2, 3)


def lines(count, line=b"m,t=v f=%di %d"):
    return [line % (n, n + 1) for n in range(count)]


def verdict(version, status, body=b"", of=100, **headers):
    """The verdict on the lines *of*, or so many of them."""
    of = lines(of) if isinstance(of, int) else of
    data = b"".join(line + b"\n" for line in of)
    named = HTTPHeaderDict({name.replace("_", "-"): value for name, value in headers.items()})
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify(version, status, named, body, Payload(data, len(of), len(data)))


def quote(*bad, reason="bad"):
    return "\n".join(f"unable to parse '{line.decode()}': {reason} {n}" for n, line in enumerate(bad))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        (range(200, 209), Kind.DELIVERED),
        ((413,), Kind.SPLIT),
        ((408, 425, 429, 500, 501, 502, 503, 504, 507, 599), Kind.RETRY),
        ((301, 307, 308, 401, 403, 404, 405, 407, 411, 415, 426, 451), Kind.HOLD),
    ],
)
def test_a_status_alone_decides_in_every_version(version, statuses, kind):
    for status in statuses:
        found = verdict(version, status)
        assert (found.kind, found.status) == (kind, status)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    "body", [b"", b"<html>no</html>", b"{", b"[1]", b"\xff\xfe", {"error": None}, {"data": 3}]
)
def test_a_refusal_that_names_no_lines_is_bisected(version, status, body):
    assert verdict(version, status, body).kind is Kind.SPLIT


def test_version_1_names_the_lines_that_it_could_not_parse():
    of = lines(100)
    error = f"partial write: {quote(of[3], of[50])} dropped=0"
    found = verdict(1, 400, {"error": error})
    assert (found.kind, found.refused) == (Kind.DELIVERED, (Refusal(3, "bad 0"), Refusal(50, "bad 1")))
    assert found.text == one_line(error)


@pytest.mark.parametrize("version", [1, 2])
def test_a_body_of_which_no_line_can_be_parsed_is_refused_line_by_line(version):
    of = lines(3)
    key = "error" if version == 1 else "message"
    found = verdict(version, 400, {key: quote(*of)}, of)
    assert found.kind is Kind.DELIVERED
    assert found.refused == (Refusal(0, "bad 0"), Refusal(1, "bad 1"), Refusal(2, "bad 2"))


def test_version_2_names_lines_of_a_body_that_it_refused_as_a_whole():
    of = lines(100)
    found = verdict(2, 400, {"code": "invalid", "message": quote(of[7], of[9])}, of)
    assert (found.kind, found.refused, found.suspects) == (Kind.SPLIT, (), (7, 9))


def test_quoted_lines_with_newlines_and_with_text_like_the_server_s():
    of = [b'm s="a\nb" 1', b"m s=\"it's 'x': \nunable to parse 'm f=1 3': no\" 2", b"m f=1 3", b"m f=2 4"]
    found = verdict(1, 400, {"error": f"partial write: {quote(of[0], of[1])} dropped=0"}, of)
    assert found.refused == (Refusal(0, "bad 0"), Refusal(1, "bad 1"))


def test_lines_that_stand_there_twice_are_quoted_twice():
    of = [b"m f=1 1", b"m f=2 2", b"m f=1 1", b"m f=3 3"]
    found = verdict(1, 400, {"error": f"partial write: {quote(of[0], of[0])} dropped=0"}, of)
    assert found.refused == (Refusal(0, "bad 0"), Refusal(2, "bad 1"))


@pytest.mark.parametrize(
    "error",
    [
        "partial write: unable to parse 'm f=9 9': bad dropped=0",
        "partial write: unable to parse 'm f=2 2 dropped=0",
        "partial write: unable to parse 'm f=2 2': bad\nunable to parse 'm f=2 2': bad dropped=0",
        # It stands there twice and is quoted once.
        "partial write: unable to parse 'm f=1 1': bad dropped=0",
        # Two lines could be meant.
        "partial write: unable to parse 'm f=3': 4': bad dropped=0",
        "partial write: unable to parse 'm f=2 2': bad",
        "unable to parse 'm f=2 2': bad",
    ],
)
def test_what_is_quoted_unclearly_is_bisected(error):
    of = [b"m f=1 1", b"m f=2 2", b"m f=1 1", b"m f=3", b"m f=3': 4"]
    found = verdict(1, 400, {"error": error}, of)
    assert (found.kind, found.refused) == (Kind.SPLIT, ())


@pytest.mark.parametrize(("version", "status"), [(1, 400), (2, 422)])
def test_lines_that_are_only_counted_are_guessed_and_sent_apart(version, status):
    reason = 'field type conflict: input field "f" on measurement "m" is type {}, already exists as type {}'
    of = [
        b"m,t=v f=1i 1",
        b"m,t=v f=1 2",
        b'm,t=v e="x",f=2 3',
        b"m,t=f\\ f=v e=2 4",
        b"n,t=v f=1 5",
        b'm,t=v f="1" 6',
        b"m f=-1.5e+10,g=2u 7",
        b"m,t=v f=2u 8",
        b"m,t=v g=2,f=t 9",
    ]
    for kind, at in [
        ("float", (1, 2, 6)),
        ("integer", (0,)),
        ("string", (5,)),
        ("unsigned", (7,)),
        ("boolean", (8,)),
    ]:
        text = f"partial write: {reason.format(kind, 'other')} dropped={len(at)}"
        found = verdict(version, status, {"error": text}, of)
        assert (found.kind, found.refused, found.suspects) == (Kind.SPLIT, (), at)


def test_a_guess_knows_escaped_names():
    text = (
        'partial write: field type conflict: input field "a b=" on measurement "m, n" is type float, already'
    )
    of = [b"m\\,\\ n a\\ b\\==1 1", b"m a=1 1"]
    assert verdict(1, 400, {"error": f"{text} exists as type string dropped=1"}, of).suspects == (0,)


def test_points_past_the_retention_are_the_oldest_ones():
    of = [b"m f=1 50", b"m f=1 10", b"m f=1 40", b"m f=1 -20"]
    text = "partial write: points beyond retention policy dropped=2"
    found = verdict(1, 400, {"error": text}, of)
    assert (found.kind, found.suspects) == (Kind.SPLIT, (1, 3))


def test_lines_that_are_counted_without_a_clue_are_bisected():
    found = verdict(1, 400, {"error": "partial write: max-series-per-database limit exceeded: (1) dropped=7"})
    assert (found.kind, found.refused, found.suspects) == (Kind.SPLIT, (), ())


@pytest.mark.parametrize("dropped", [100, 101])
def test_all_lines_dropped_is_a_rejection(dropped):
    assert verdict(1, 400, {"error": f"partial write: conflict dropped={dropped}"}).kind is Kind.REJECT
    text = 'field type conflict: input field "f" on measurement "m" is type integer, already exists as'
    assert verdict(1, 400, {"error": f"partial write: {text} dropped={dropped}"}).kind is Kind.REJECT


def test_a_few_lines_that_are_all_dropped_are_asked_for_one_by_one():
    """Each may have its own reason, and only that of one is given."""
    for count in (1, 2, ALONE_MAX, ALONE_MAX + 1):
        error = f"partial write: max-series-per-database limit exceeded: (1) dropped={count}"
        alone = Kind.SPLIT if 1 < count <= ALONE_MAX else Kind.REJECT
        assert verdict(1, 400, {"error": error}, count).kind is alone


def test_all_lines_dropped_for_reasons_of_which_one_is_given_are_told_apart():
    of = [b"m f=1 1", b"m f=1 2", b"n f=1 3"]
    text = (
        'field type conflict: input field "f" on measurement "m" is type float, already exists as type string'
    )
    found = verdict(1, 400, {"error": f"partial write: {text} dropped=3"}, of)
    assert (found.kind, found.suspects) == (Kind.SPLIT, (0, 1))


def test_version_2_believes_a_count_only_where_it_wrote_the_rest():
    text = "unable to parse 'x partial write: dropped=3': bad partial write: dropped=3"
    found = verdict(2, 400, {"code": "invalid", "message": text})
    assert (found.kind, found.suspects) == (Kind.SPLIT, ())


def test_version_3_names_each_line():
    data = [{"line_number": n, "error_message": f"no {n}", "original_line": "x"} for n in (2, 5)]
    found = verdict(3, 400, {"error": "partial write of line protocol occurred", "data": data})
    assert (found.kind, found.refused) == (Kind.DELIVERED, (Refusal(1, "no 2"), Refusal(4, "no 5")))
    assert found.text == "partial write of line protocol occurred: no 2 (line 2)"


@pytest.mark.parametrize("number", [0, 101, -1, True, "7", None, 2.0])
def test_version_3_is_not_believed_with_numbers_that_make_no_sense(number):
    data = [{"line_number": 3, "error_message": "no"}, {"line_number": number, "error_message": "no"}]
    found = verdict(3, 400, {"error": "partial write of line protocol occurred", "data": data})
    assert (found.kind, found.refused) == (Kind.SPLIT, ())


def test_version_3_that_wrote_nothing_is_bisected():
    data = {"line_number": 2, "error_message": "no", "original_line": "x"}
    assert verdict(3, 400, {"error": "parsing failed for write_lp endpoint", "data": data}).kind is Kind.SPLIT


@pytest.mark.parametrize("version", VERSIONS)
def test_a_payload_that_is_compressed_is_read_all_the_same(version):
    of = lines(10)
    data = b"\n".join(of) + b"\n"
    payload = Payload(gzip.compress(data), 10, len(data), compression="gz")
    answer = {
        "error": f"partial write: {quote(of[4])} dropped=0" if version == 1 else quote(of[4]),
        "data": [{"line_number": 5, "error_message": "bad 0"}] if version == 3 else None,
    }
    found = classify(version, 400, HTTPHeaderDict(), json.dumps(answer).encode(), payload)
    assert found.suspects == (4,) if version == 2 else found.refused == (Refusal(4, "bad 0"),)


@pytest.mark.parametrize("version", VERSIONS)
def test_lines_cannot_make_a_server_seem_to_have_dropped_others(version):
    """The server repeats the bytes of a bad line; they must not be taken for its own words."""
    hostile = "m v=x partial write: dropped=99"
    body = {"error": f"refused '{hostile}': bad", "message": f"unable to decode '{hostile}': bad"}
    assert verdict(version, 400, body).kind is Kind.SPLIT


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("7", None, 7.0),
        ("0.5", None, 0.5),
        ("-3", None, 0.0),
        ("999999", None, RETRY_AFTER_MAX),
        ("Thu, 01 Jan 2026 00:00:10 GMT", "Thu, 01 Jan 2026 00:00:04 GMT", 6.0),
        ("Thu, 01 Jan 2026 00:00:00 GMT", "Thu, 01 Jan 2026 00:00:04 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None, 0.0),
        ("soon", None, None),
        ("nan", None, None),
        ("inf", None, None),
        ("", None, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds_or_as_a_date(status, value, date, seconds):
    headers = {"Retry_After": value} | ({"Date": date} if date else {})
    assert verdict(2, status, **headers).retry_after == seconds


def test_the_text_is_fit_for_a_log():
    found = verdict(2, 500, b"two\nlines \x1b[31m and " + b"x" * 5000)
    assert found.text.startswith("two lines �[31m and x")
    assert len(found.text) == TEXT_CHARS_MAX and found.text.endswith("…")
    assert one_line("plain") == "plain"


def test_where_a_server_says_nothing_the_headers_and_the_status_do():
    assert verdict(1, 500, X_Influxdb_Error="timeout").text == "timeout"
    assert verdict(2, 307, Location="https://elsewhere/").text == "https://elsewhere/"
    assert verdict(3, 502).text == "HTTP 502"
