"""The rules of the StatsD reader, each shown by an example."""

from dataclasses import replace
from typing import Any

import pytest

from tests.reference.points import Point
from tests.reference.statsd_readers import NAMES, Outcome, Reader, Settings, reader

PLAIN = Settings()


@pytest.fixture(scope="module", params=NAMES)
def read(request: pytest.FixtureRequest) -> Reader:
    return reader(request.param)


def only(outcome: Outcome) -> Point:
    """The one point that came of it; nothing was dropped."""
    assert not outcome.dropped
    (point,) = [*outcome.passed, *outcome.ticked]
    return point


def tags_of(point: Point) -> dict[bytes, bytes]:
    return {key: value for key, value in point.tags if key != b"metric_type"}


def fields_of(point: Point) -> dict[bytes, Any]:
    return {key: value for key, _, value in point.fields}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a", "value"),
        (b"a:", "type"),
        (b"a:1", "type"),
        (b"a:1|", "type"),
        (b"a:1|C", "type"),
        (b"a:1|c |@0.1", "type"),
        (b"a:x|", "type"),
        (b"a:1|c:", "type"),
        (b"a:1|c|@0.5:", "type"),
        (b"a:1|c:2", "type"),
        (b":1|c", "name"),
        (b"\xc3\xa9:1|c", "name"),
        (b",k=v:1|c", "name"),
        (b"[k=v]:1|c", "name"),
        (b"a|b:1|c", "name"),
        (b"a|#k:v", "name"),
        (b"a\xff|b:1|c", "name"),
        (b"a\xff:1|c", "utf8"),
        (b"a:1|c|#k:\xff", "utf8"),
        (b"a:1|c|#k:\xed\xa0\x80", "utf8"),
        (b"a:|c", "value"),
        (b"a:::|c", "value"),
        (b"a: |c", "value"),
        (b"a:1: :2|c", "value"),
        (b"a:|s", "value"),
        (b"a:1:x|c", "value"),
        (b"a:nan|g", "value"),
        (b"a:inf|g", "value"),
        (b"a:0x10|c", "value"),
        (b"a:1e400|g", "value"),
        (b"a:1_000|c", "value"),
        (b"a:.|c", "value"),
        (b"a:1e|c", "value"),
        (b"a:x|c|@0", "value"),
        (b"a:1|c|@", "rate"),
        (b"a:1|c|@0", "rate"),
        (b"a:1|c|@-1", "rate"),
        (b"a:1|c|@1.1", "rate"),
        (b"a:1|c|@x", "rate"),
        (b"a:1|c|@1e-310", "rate"),
        (b"a:1|g|@2", "rate"),
        (b"a:1|c|@2|T0", "rate"),
        (b"a:1|c|T0|@2", "timestamp"),
        (b"a:1|c|T", "timestamp"),
        (b"a:1|c|T-1", "timestamp"),
        (b"a:1|c|T1.5", "timestamp"),
        (b"a:1|ms|Tx", "timestamp"),
        (b"a:1|c|T9223372037", "timestamp"),
        (b"a:1|c|#" + b"k:v," * 129, "tag"),
        (b"a:1|c|#k:" + b"v" * 8_192, "key_too_long"),
        (b"_e{1,1}:", "event"),
        (b"_e{0,1}:|b", "event"),
        (b"_e{1,2}:a|b", "event"),
        (b"_e{1,1}:a|bc", "event"),
        (b"_e{1,1}:ab|", "event"),
        (b"_e{1}:a|b", "event"),
        (b"_e{-1,1}:a|b", "event"),
        (b"_e{1,1}:a|\xff", "utf8"),
        (b"_sc|a", "service_check"),
        (b"_sc|a|4", "service_check"),
        (b"_sc|a|00", "service_check"),
        (b"_sc||0", "service_check"),
        (b"_sc|a|0|m:\xff", "utf8"),
    ],
)
def test_the_first_thing_that_is_wrong_names_the_reason(read: Reader, line: bytes, reason: str) -> None:
    outcome = read([line + b"\nb:1|c"], PLAIN)
    assert outcome.dropped == {reason: 1}
    assert (outcome.received, outcome.accepted) == (2, 1)
    assert [point.name for point in outcome.ticked] == [b"b"]


def test_a_malformed_line_counts_once_and_has_no_effect(read: Reader) -> None:
    outcome = read([b"a:1:2:x|c", b"a:1:2|c:3|x", b"a:5|c|#k:v|@7"], PLAIN)
    assert (outcome.received, outcome.accepted, outcome.ticked) == (3, 0, [])


def test_blank_lines_are_not_lines(read: Reader) -> None:
    assert read([b"", b"\n\n", b" \r\n\t\n\0"], PLAIN) == Outcome()


@pytest.mark.parametrize(
    "line", [b"a:1|c\r", b" a:1|c ", b"a:1|c\0", b"\t\v\f a:1|c\0\0", b"a: 1 |c", b"a:\t1|c|@ 1 "]
)
def test_blanks_around_a_line_and_a_number_are_nothing(read: Reader, line: bytes) -> None:
    assert only(read([line], PLAIN)) == only(read([b"a:1|c"], PLAIN))


def test_a_line_that_is_too_long_is_called_so(read: Reader) -> None:
    settings = replace(PLAIN, max_line=8)
    outcome = read([b"aaa:1|c\r\naaaa:1|c\r\n         \n???????????"], settings)
    assert (outcome.received, outcome.dropped) == (4, {"line_too_long": 3})


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"page.views", b"page_views"),
        (b"a b\t \tc", b"a_b_c"),
        (b"a \xc3\xa9 b", b"a__b"),
        (b"a/b$c", b"a-bc"),
        (b'a"b\\c', b"abc"),
        (b"a=b;c-d", b"a=b;c-d"),
        (b"a..b.", b"a__b_"),
    ],
)
def test_names_are_sanitised(read: Reader, raw: bytes, name: bytes) -> None:
    assert only(read([raw + b":1|c"], PLAIN)).name == name


def test_the_separator_stands_for_dots(read: Reader) -> None:
    assert only(read([b"a.b:1|c"], replace(PLAIN, separator="_-"))).name == b"a_-b"
    assert only(read([b"a.b:1|c"], replace(PLAIN, separator="."))).name == b"a.b"


def test_spellings_of_one_name_are_one_series(read: Reader) -> None:
    outcome = read(
        [b"a.b:1|c|#x:1,y:2", b"a_b:2|c|#y:2,x:1", b"a_b,x=1,y=2:4|c", b"a.b[y=2]:8|c|#x:1"], PLAIN
    )
    assert fields_of(only(outcome)) == {b"value": 15.0}


@pytest.mark.parametrize(
    ("line", "tags"),
    [
        (b"a:1|c|#k:v,w:x:y=z", {b"k": b"v", b"w": b"x:y=z"}),
        (b"a:1|c|#k,l:,#m:1,,:v", {b"k": b"true", b"l": b"true", b"m": b"1"}),
        (b"a:1|c|#k:1|#k:2,l:3", {b"k": b"2", b"l": b"3"}),
        (b"a,k=v,l,m=,=n,o=p=q:1|c", {b"k": b"v", b"o": b"p=q"}),
        (b"a#k=v,l=w:1|c", {b"k": b"v", b"l": b"w"}),
        (b"a[k=v,l=w]:1|c", {b"k": b"v", b"l": b"w"}),
        (b"[k=v]a:1|c", {b"k": b"v"}),
        (b"a[]:1|c", {}),
        (b"a,k=1#l=2:1|c", {b"k": b"1#l=2"}),
        (b"a,k=1,l=2:1|c|#l:3,m:4", {b"k": b"1", b"l": b"3", b"m": b"4"}),
        (b"a:1|c|#k:a b,l m:c", {b"k": b"a b", b"l m": b"c"}),
        (b"a:1|c|#k:c:\\dir,l:\\\\x,m:e\\", {b"k": b"c:\\dir", b"l": b"/\\x", b"m": b"e/"}),
        (b'a:1|c|#k:\\ =\\=\\"', {b"k": b'/ =/=/"'}),
        (b"a:1|c|#time:1,_field:2,metric_type:3", {b"time_": b"1", b"_field_": b"2", b"metric_type_": b"3"}),
        (b"a:1|c|#metric\x01type:g", {b"metric_type_": b"g"}),
        (b"a:1|c|#k:x\ty\x7fz", {b"k": b"x_y_z"}),
    ],
)
def test_tags(read: Reader, line: bytes, tags: dict[bytes, bytes]) -> None:
    point = only(read([line], PLAIN))
    assert point.name == b"a"
    assert tags_of(point) == tags


@pytest.mark.parametrize("head", [b"a[k=v", b"a]k=v", b"a]b[k=v,x=y", b"a[k=v#x,y"])
def test_half_a_bracket_leaves_the_whole_head_to_the_name(read: Reader, head: bytes) -> None:
    assert tags_of(only(read([head + b":1|c"], PLAIN))) == {}


@pytest.mark.parametrize(
    ("dialect", "names"),
    [
        ("auto", [b"a", b"a", b"a", b"a"]),
        ("dogstatsd", [b"a", b"ak=v", b"ak=v", b"ak=v"]),
        ("influxdb", [b"a", b"a", b"ak=v", b"ak=v"]),
        ("librato", [b"a", b"ak=v", b"a", b"ak=v"]),
        ("signalfx", [b"a", b"ak=v", b"ak=v", b"a"]),
        ("none", [b"a", b"ak=v", b"ak=v", b"ak=v"]),
    ],
)
def test_a_dialect_that_is_not_read_is_part_of_the_name_or_nothing(
    read: Reader, dialect: str, names: list[bytes]
) -> None:
    settings = replace(PLAIN, dialect=dialect)
    lines = [b"a:1|c|#k:v", b"a,k=v:1|c", b"a#k=v:1|c", b"a[k=v]:1|c"]
    points = [only(read([line], settings)) for line in lines]
    assert [point.name for point in points] == names
    dogs = {b"k": b"v"} if dialect in ("auto", "dogstatsd") else {}
    assert tags_of(points[0]) == dogs
    assert [bool(tags_of(point)) for point in points[1:]] == [name == b"a" for name in names[1:]]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"a:1|c", 1.0),
        (b"a:+1|c", 1.0),
        (b"a:-1.5|c", -1.5),
        (b"a:1:2:::3|c", 6.0),
        (b"a:1|c|@0.1", 10.0),
        (b"a:1|c|@0.5:1|c:1|c|@0.25", 7.0),
        (b"a:1|c|:2|c", 3.0),
        (b"a:1|c|#k:v|@0.5", 2.0),
        (b"a:1|c|@0.5|@0.25", 4.0),
        (b"a:9007199254740993|c", 9007199254740992.0),
    ],
)
def test_counters_are_sums_of_values_by_rates(read: Reader, line: bytes, value: float) -> None:
    assert fields_of(only(read([line], PLAIN))) == {b"value": value}


@pytest.mark.parametrize("part", [b"c:abc", b"e:it-x", b"card:low", b"x", b"", b":", b"1.0", b"c:a:1|c"])
def test_unknown_parts_are_ignored(read: Reader, part: bytes) -> None:
    outcome = read([b"a:1|c|" + part + b"|#k:v|" + part], PLAIN)
    assert tags_of(only(outcome)) == {b"k": b"v"}
    assert fields_of(only(outcome)) == {b"value": 1.0}


def test_a_timestamp_passes_counters_and_gauges_unaggregated(read: Reader) -> None:
    outcome = read([b"a:1:2|c|@0.5|T1656581400", b"b:5:-7|g|T1|#k:v|T2", b"c:1|c:2|g|T3"], PLAIN)
    assert outcome.ticked == []
    assert (outcome.received, outcome.accepted, outcome.aggregated) == (6, 6, 0)
    assert [(p.name, tags_of(p), fields_of(p)[b"value"], p.time_ns) for p in outcome.passed] == [
        (b"a", {}, 6.0, 1_656_581_400 * 10**9),
        (b"b", {b"k": b"v"}, -7.0, 2 * 10**9),
        (b"c", {}, 1.0, 3 * 10**9),
        (b"c", {}, 2.0, 3 * 10**9),
    ]


@pytest.mark.parametrize("kind", [b"ms", b"h", b"d", b"s"])
def test_a_timestamp_of_another_type_is_checked_and_ignored(read: Reader, kind: bytes) -> None:
    outcome = read([b"a:1|" + kind + b"|T1656581400"], PLAIN)
    assert (outcome.passed, outcome.aggregated) == ([], 1)


@pytest.mark.parametrize(
    ("line", "name", "tags", "fields"),
    [
        (
            b"_e{5,4}:title|text",
            b"title",
            {},
            {b"alert_type": b"info", b"priority": b"normal", b"text": b"text"},
        ),
        (
            b'  _e{10,9}:#a b,c=d\\e|x\\ny|"z\\ |t:error|p:low|k:a b|s:src|d:7|h:web1|#k:v,host:web2|x:y\r',
            b"_a b,c=d\\e",
            {b"k": b"v", b"source": b"web2", b"aggregation_key": b"a b"},
            {
                b"alert_type": b"error",
                b"source_type_name": b"src",
                b"priority": b"low",
                b"text": b'x\ny|"z\\ ',
                b"ts": 7,
            },
        ),
        (
            b"_e{1,0}:a||t:x|p:high|d:|h:|k:|h:w|s:|d:x",
            b"a",
            {b"source": b"w"},
            {b"alert_type": b"info", b"priority": b"normal", b"text": b""},
        ),
        (
            b"_e{1,2}:a|b ",
            b"a",
            {},
            {b"alert_type": b"info", b"priority": b"normal", b"text": b"b "},
        ),
    ],
)
def test_events(
    read: Reader, line: bytes, name: bytes, tags: dict[bytes, bytes], fields: dict[bytes, Any]
) -> None:
    outcome = read([line], PLAIN)
    point = only(outcome)
    assert (point.name, dict(point.tags), fields_of(point)) == (name, tags, fields)
    assert (outcome.received, outcome.accepted, outcome.aggregated) == (1, 1, 0)


@pytest.mark.parametrize(
    ("line", "tags", "fields"),
    [
        (b"_sc|db up|0", {b"check_name": b"db up"}, {b"status": 0, b"status_text": b"ok"}),
        (
            b"_sc|db|2|d:5|h:web1|#k:v,check_name:x|m:it\\nis|m:down|x",
            {b"check_name": b"db", b"source": b"web1", b"k": b"v"},
            {b"status": 2, b"status_text": b"critical", b"message": b"down", b"ts": 5},
        ),
        (
            b"_sc|db|3|h:web1|#source:web2|m:",
            {b"check_name": b"db", b"source": b"web2"},
            {b"status": 3, b"status_text": b"unknown"},
        ),
    ],
)
def test_service_checks(
    read: Reader, line: bytes, tags: dict[bytes, bytes], fields: dict[bytes, Any]
) -> None:
    point = only(read([line], PLAIN))
    assert (point.name, dict(point.tags), fields_of(point)) == (b"statsd_service_check", tags, fields)
