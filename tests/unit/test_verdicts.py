"""The table of verdicts: what the answers of InfluxDB's three write endpoints mean."""

import json

import pytest
from urllib3 import HTTPHeaderDict

from agent.outputs.base import TEXT_CHARS_MAX, Kind, one_line
from agent.outputs.verdicts import RETRY_AFTER_MAX, classify

VERSIONS = (1, 2, 3)


def verdict(version, status, body=b"", metrics=100, **headers):
    named = HTTPHeaderDict({name.replace("_", "-"): value for name, value in headers.items()})
    return classify(
        version, status, named, body if isinstance(body, bytes) else json.dumps(body).encode(), metrics
    )


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


def test_version_1_counts_what_it_dropped():
    found = verdict(1, 400, {"error": "partial write: field type conflict: … already exists dropped=7"})
    assert (found.kind, found.rejected) == (Kind.DELIVERED, 7)
    assert "field type conflict" in found.text


def test_version_1_lists_the_lines_that_it_could_not_parse():
    text = "partial write: unable to parse 'a': bad\nunable to parse 'b unable to parse ': bad dropped=0"
    found = verdict(1, 400, {"error": text})
    assert (found.kind, found.rejected) == (Kind.DELIVERED, 2)


def test_version_1_that_could_parse_no_line_rejects_them_all():
    assert verdict(1, 400, {"error": "unable to parse 'a': missing fields"}).kind is Kind.REJECT


def test_all_lines_dropped_is_a_rejection():
    assert verdict(1, 400, {"error": "partial write: conflict dropped=100"}).kind is Kind.REJECT
    assert verdict(1, 400, {"error": "partial write: conflict dropped=101"}).kind is Kind.REJECT
    assert verdict(3, 400, {"error": "partial", "data": [{"line_number": 1}]}, metrics=1).kind is Kind.REJECT


def test_version_2_refuses_the_whole_batch_with_400_and_some_points_with_422():
    text = "unable to parse 'x partial write: dropped=3': bad partial write: dropped=3"
    assert verdict(2, 400, {"code": "invalid", "message": text}).kind is Kind.SPLIT
    text = "failure writing points to database: partial write: past retention dropped=3"
    found = verdict(2, 422, {"code": "unprocessable entity", "message": text})
    assert (found.kind, found.rejected) == (Kind.DELIVERED, 3)


def test_version_3_names_each_line():
    data = [{"line_number": n, "error_message": f"no {n}", "original_line": "x"} for n in (2, 5)]
    found = verdict(3, 400, {"error": "partial write of line protocol occurred", "data": data})
    assert (found.kind, found.rejected) == (Kind.DELIVERED, 2)
    assert found.text == "partial write of line protocol occurred: no 2 (line 2)"


def test_version_3_that_wrote_nothing_is_bisected():
    data = {"line_number": 2, "error_message": "no", "original_line": "x"}
    assert verdict(3, 400, {"error": "parsing failed for write_lp endpoint", "data": data}).kind is Kind.SPLIT


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
