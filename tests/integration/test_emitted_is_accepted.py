"""Whatever comes in, a real InfluxDB 1.6 never answers 400 to what the line reader writes.

Each example has databases of its own, for two reasons. A field that has one type in one line and another in
the next is refused for that, and not for how it is written; so lines are dealt out over databases in which
none of them contradict. And a point that an earlier example wrote must not count as found.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import examples
from tests.integration.servers import Influxd, influxd
from tests.reference import lines
from tests.reference.corpus import load
from tests.reference.points import Point, split
from tests.reference.readers import Reader, reader


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    with influxd(tmp_path_factory.mktemp("influxd")) as running:
        yield running


@pytest.fixture(scope="module")
def read() -> Reader:
    return reader("scalar")


def without_contradictions(body: bytes) -> list[list[tuple[bytes, Point]]]:
    """The lines of *body* with their points, in groups in each of which a field has one type."""
    groups: list[tuple[dict[tuple[bytes, bytes], str], list[tuple[bytes, Point]]]] = []
    for line, point in split(body):
        types = {(point.name, key): kind for key, kind, _ in point.fields}
        fitting = (
            pair for pair in groups if all(pair[0].get(key, kind) == kind for key, kind in types.items())
        )
        group = next(fitting, None)
        if group is None:
            group = ({}, [])
            groups.append(group)
        group[0].update(types)
        group[1].append((line, point))
    return [members for _, members in groups]


def assert_taken(server: Influxd, body: bytes) -> None:
    """Every line of *body* is answered with 204, all lines of a group together, and each group is stored."""
    for group in without_contradictions(body):
        database = server.create_database()
        try:
            text = b"".join(line for line, _ in group)
            answer = server.write(database, text)
            assert answer.status == 204, f"{answer.text} for {text!r}"
            stored = {point.name for _, point in group}
            measurements = server.query("SHOW MEASUREMENTS", database)
            assert sum(len(series["values"]) for series in measurements) == len(stored), text
        finally:
            server.drop_database(database)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=lines.datagrams, tags=lines.agent_tags, precision=st.sampled_from(["ns", "us", "ms", "s"]))
@example(data=b"m time=1\nm time=1,f=2\n", tags=[], precision="ns")
@example(data=b"m" + b"".join(b",t%d=v" % number for number in range(100)) + b" f=1", tags=[], precision="ns")
@example(data=b"m f=1 9223372036854775806\nm f=1 -9223372036854775806\n", tags=[], precision="ns")
@example(data=b'm\\\\ ,t=a\\\\,b f="x\ny\\"",g=1u\n', tags=[], precision="s")
@example(data=b'm\\\\ x,a=b"c f="x\ny" 5\nm,a\\\\ b=c f"x=1,g="\n" 6\n', tags=[(b"q", b'"')], precision="ns")
def test_lines(
    server: Influxd, read: Reader, data: bytes, tags: list[tuple[bytes, bytes]], precision: str
) -> None:
    assert_taken(server, read(data, tags=tags, precision=precision, unsigned=False, now_ns=10**18).body)


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.one_of(st.binary(max_size=100), st.text('m,= "\\\n\ta1.i', max_size=30).map(str.encode)))
def test_raw_bytes(server: Influxd, read: Reader, data: bytes) -> None:
    assert_taken(server, read(data, unsigned=False, now_ns=10**18).body)


def test_corpus(server: Influxd, read: Reader) -> None:
    try:
        cases = load()
    except FileNotFoundError as error:
        pytest.skip(f"no corpus at {error.filename}")
    body = b"".join(
        read(case.text, precision=case.precision, now_ns=case.now_ns, unsigned=False).body for case in cases
    )
    for group in without_contradictions(body):
        database = server.create_database()
        answer = server.write(database, b"".join(line for line, _ in group))
        assert answer.status == 204, answer.text


def test_strings_come_back_as_they_were_sent(server: Influxd, read: Reader) -> None:
    """The escapes that we write mean to InfluxDB what those that came in meant."""
    data = b'm,t\\ x=\\ a\\,b\\\\c f="a\\"b\\\\c\\xd\ne\x00\r",g=.5,h=1_000,i=007i,j=T,k=1.,l=1e3\n'
    database = server.create_database()
    assert server.write(database, read(data, now_ns=5).body).status == 204
    (series,) = server.query("SELECT * FROM m", database)
    assert dict(zip(series["columns"], series["values"][0], strict=True)) == {
        "time": 5,
        "t x": " a,b\\\\c",
        "f": 'a"b\\c\\xd\ne\x00\r',
        "g": 0.5,
        "h": 1000,
        "i": 7,
        "j": True,
        "k": 1,
        "l": 1000,
    }
