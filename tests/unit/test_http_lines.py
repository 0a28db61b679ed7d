"""Line protocol over HTTP: what is written, and what each version's clients are answered."""

import gzip
import threading
import zlib
from collections.abc import Iterator

import cramjam
import pytest

from tests.conftest import wait_until
from tests.unit.http_rig import Rig

WRITES = ("/write?db=d", "/api/v2/write?org=o&bucket=b", "/api/v3/write_lp?db=d")
GOOD = b"a v=1 1700000000000000001\nb,t=x v=2i 1700000000000000002\n"
MIXED = b"a v=1 1700000000000000001\n\n# no line\nbad\nb v=2 1700000000000000002\nc v=1.2.3\n"
KEPT = b"a v=1 1700000000000000001\nb v=2 1700000000000000002\n"


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as one:
        yield one


@pytest.mark.parametrize("path", WRITES)
def test_204_when_the_lines_are_in_the_ring(rig: Rig, path: str) -> None:
    answer = rig.ask(path, GOOD)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["x-influxdb-version"].startswith("1.8")
    assert rig.written() == GOOD
    assert rig.counted() == {"datagrams": 1, "bytes": len(GOOD), "received": 2, "accepted": 2}


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("gzip", lambda data: gzip.compress(data[:20]) + gzip.compress(data[20:])),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data, wbits=-15)),
        ("snappy", lambda data: bytes(cramjam.snappy.compress_raw(data))),
        ("GZIP", gzip.compress),
    ],
)
def test_encodings(rig: Rig, path: str, encoding: str, encode: "type[bytes]") -> None:
    assert rig.ask(path, encode(GOOD), {"Content-Encoding": encoding}).status == 204
    assert rig.written() == GOOD


def test_large_bodies_of_each_encoding(rig: Rig) -> None:
    """Those that are read in another thread."""
    text = b"".join(b"m,t=%d v=%d %d\n" % (at % 7, at, at) for at in range(60_000))
    for encoding, data in (
        ("identity", text),
        ("gzip", gzip.compress(text)),
        ("deflate", zlib.compress(text)),
        ("snappy", bytes(cramjam.snappy.compress_raw(text))),
    ):
        assert len(data) > (1 << 20 if encoding == "identity" else 32 << 10)
        assert rig.ask("/write", data, {"Content-Encoding": encoding}).status == 204
        assert rig.written() == text


def test_chunks_are_put_together(rig: Rig) -> None:
    assert rig.ask("/write", iter([b"a v=", b"1 17", b"00000000000000001\n"])).status == 204
    assert rig.written() == b"a v=1 1700000000000000001\n"


def test_several_requests_on_one_connection(rig: Rig) -> None:
    head = b"POST /write HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n"
    with rig.connect() as sock:
        sock.sendall((head + b"m v=1 1\n") * 50)
        got = b""
        while got.count(b"204 No Content") < 50:
            got += sock.recv(65536)
    assert rig.written() == b"m v=1 1\n" * 50
    assert rig.input.events == {"204": 50, "accepted": 1}


@pytest.mark.parametrize(
    ("path", "time"),
    [
        ("/write?precision=n", 1_700_000_000_000_000_000),
        ("/write?precision=ns", 1_700_000_000_000_000_000),
        ("/write?precision=u", 1_700_000_000_000_000),
        ("/write?precision=us", 1_700_000_000_000_000),
        ("/write?precision=%C2%B5", 1_700_000_000_000_000),
        ("/write?precision=ms", 1_700_000_000_000),
        ("/write?precision=s", 1_700_000_000),
        ("/api/v2/write?precision=us", 1_700_000_000_000_000),
        ("/api/v2/write?precision=ms", 1_700_000_000_000),
        ("/api/v2/write?precision=s", 1_700_000_000),
        ("/api/v3/write_lp?precision=microsecond", 1_700_000_000_000_000),
        ("/api/v3/write_lp?precision=ms", 1_700_000_000_000),
        ("/api/v3/write_lp?precision=second", 1_700_000_000),
        ("/api/v3/write_lp", 1_700_000_000),
        ("/api/v3/write_lp?precision=auto", 1_700_000_000_000),
        ("/api/v3/write_lp?precision=auto", 1_700_000_000_000_000),
        ("/api/v3/write_lp", 1_700_000_000_000_000_000),
    ],
)
def test_precisions(rig: Rig, path: str, time: int) -> None:
    assert rig.ask(path, b"m v=1 %d" % time).status == 204
    assert rig.written() == b"m v=1 1700000000000000000\n"


def test_minutes_and_hours_of_version_1(rig: Rig) -> None:
    assert rig.ask("/write?precision=m", b"m v=1 28333333").status == 204
    assert rig.ask("/write?precision=h", b"m v=1 472222").status == 204
    assert rig.written() == b"m v=1 1699999980000000000\nm v=1 1699999200000000000\n"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/write?precision=d", {"error": 'invalid precision "d" (use n, u, ms, s, m or h)'}),
        (
            "/api/v2/write?precision=m",
            {
                "code": "invalid",
                "message": "invalid precision; valid precision units are ns, us, ms, and s",
            },
        ),
        (
            "/api/v3/write_lp?precision=h",
            {"error": "unknown precision 'h'; known are auto, ns, us, ms and s"},
        ),
        ("/api/v3/write_lp?accept_partial=1", {"error": "accept_partial is '1'; it is true or false"}),
    ],
)
def test_wrong_parameters(rig: Rig, path: str, body: object) -> None:
    answer = rig.ask(path, GOOD)
    assert (answer.status, answer.json) == (400, body)
    assert rig.written() == b""


def test_version_1_names_bad_lines(rig: Rig) -> None:
    answer = rig.ask("/write", MIXED)
    told = (
        "partial write: unable to parse 'bad': missing or malformed fields\n"
        "unable to parse 'c v=1.2.3': invalid number dropped=2"
    )
    assert (answer.status, answer.json) == (400, {"error": told})
    assert answer.headers["x-influxdb-error"] == told.splitlines()[0]
    assert answer.headers["content-type"] == "application/json"
    assert rig.written() == KEPT
    answer = rig.ask("/write", b"bad")
    assert answer.json == {"error": "unable to parse 'bad': missing or malformed fields"}


@pytest.mark.parametrize("line", [b"a\0b", b"a\rb", b"\xff\xfe", b"a\x1b[0m", "ä 1".encode(), b"\x0b"])
@pytest.mark.parametrize("path", WRITES)
def test_whatever_a_bad_line_holds_the_answer_is_whole(rig: Rig, path: str, line: bytes) -> None:
    answer = rig.ask(path, line + b"\n" + KEPT)
    assert answer.status == 400 and answer.json
    assert answer.headers.get("x-influxdb-error", "partial").isprintable()
    assert rig.written() == KEPT


def test_version_2_names_bad_lines(rig: Rig) -> None:
    answer = rig.ask("/api/v2/write", MIXED)
    assert (answer.status, answer.json) == (
        400,
        {
            "code": "invalid",
            "message": "partial write: 2 of 4 lines are malformed, all others are written:\n"
            "line 2: unable to parse 'bad': missing or malformed fields\n"
            "line 4: unable to parse 'c v=1.2.3': invalid number",
        },
    )
    assert rig.written() == KEPT


def test_version_3_names_bad_lines(rig: Rig) -> None:
    answer = rig.ask("/api/v3/write_lp", MIXED)
    bad = {"original_line": "bad", "line_number": 2, "error_message": "missing or malformed fields"}
    assert (answer.status, answer.json) == (
        400,
        {
            "error": "partial write of line protocol occurred",
            "data": [
                bad,
                {"original_line": "c v=1.2.3", "line_number": 4, "error_message": "invalid number"},
            ],
        },
    )
    assert rig.written() == KEPT
    answer = rig.ask("/api/v3/write_lp?accept_partial=false", MIXED)
    assert (answer.status, answer.json) == (
        400,
        {"error": "parsing failed for write_lp endpoint", "data": bad},
    )
    assert rig.written() == b""
    assert rig.counted()["dropped"] == {"field": 2, "number": 2, "body_refused": 2}
    assert rig.ask("/api/v3/write_lp?accept_partial=false", GOOD).status == 204
    assert rig.written() == GOOD
    assert rig.balanced()


def test_an_answer_names_a_hundred_lines_at_most(rig: Rig) -> None:
    data = rig.ask("/api/v3/write_lp", b"bad\n" * 1000).json["data"]
    assert [one["line_number"] for one in data] == list(range(1, 101))
    assert rig.ask("/write", b"bad\n" * 1000).json["error"].endswith("\nand 900 more")


def test_a_body_without_lines(rig: Rig) -> None:
    for body in (b"", b"\n# nothing\n\n"):
        assert rig.ask("/write", body).status == 204
        answer = rig.ask("/api/v2/write", body)
        assert (answer.status, answer.json["message"]) == (400, "writing requires points")
        assert rig.ask("/api/v3/write_lp", body).json == {"error": "incoming write was empty"}
    assert rig.written() == b""


def test_databases_may_become_tags() -> None:
    with Rig({"database_tag": "database", "bucket_tag": "bucket"}) as rig:
        rig.feed.set_layout([(b"dc", b"eu")], [rig.ring])
        assert rig.ask("/write?db=my%20db&rp=auto", b"m v=1 1").status == 204
        assert rig.ask("/api/v2/write?org=o&bucket=b/c", b"m,bucket=own v=1 1").status == 204
        assert rig.ask("/api/v2/write?bucket=b", b"m v=1 1").status == 204
        assert rig.ask("/write", b"m v=1 1").status == 204
        assert rig.written() == (
            b"m,database=my\\ db,dc=eu v=1 1\nm,bucket=own,dc=eu v=1 1\n"
            b"m,bucket=b,dc=eu v=1 1\nm,dc=eu v=1 1\n"
        )
        answer = rig.ask("/write?db=a%0Ab", b"m v=1 1")
        assert (answer.status, answer.json) == (400, {"error": "'a\\nb' cannot be the value of a tag"})


def test_a_full_ring_is_told_before_anything_is_read() -> None:
    text = b"".join(b"measurement,tag=value field=%d 1700000000000000000\n" % at for at in range(5000))
    with Rig(ring_bytes=1 << 18) as rig:
        for path in WRITES:
            first = rig.ask(path, text[: 50 * 2000])
            assert first.status == 204
            second = rig.ask(path, text)
            assert second.status == 429 and second.headers["retry-after"] == "1"
            assert b"the buffers are full; nothing was taken" in second.body
            assert len(rig.written().splitlines()) < 2001
        assert rig.balanced()


@pytest.mark.parametrize("encoding", ["gzip", "chunked"])
def test_so_is_one_that_is_too_full_for_what_a_body_turns_out_to_be(encoding: str) -> None:
    text = b"".join(b"measurement,tag=value field=%d 1700000000000000000\n" % at for at in range(2500))
    with Rig(ring_bytes=1 << 18) as rig:
        assert rig.ask("/write", text).status == 204
        if encoding == "gzip":
            answer = rig.ask("/write", gzip.compress(text), {"Content-Encoding": "gzip"})
        else:
            answer = rig.ask("/write", iter([text[:50_000], text[50_000:]]))
        assert (answer.status, answer.json) == (429, {"error": "the buffers are full; nothing was taken"})
        assert rig.written() == text
        assert rig.balanced()


def test_a_ring_that_fills_in_the_middle_is_told_as_it_is() -> None:
    text = b"".join(b"measurement,tag=value field=%d 1700000000000000000\n" % at for at in range(6000))
    with Rig(ring_bytes=1 << 18) as rig:
        answer = rig.ask("/api/v2/write", text)
        lines = len(rig.written().splitlines())
        told = f"the buffers are full: {6000 - lines} of 6000 lines found no room; send all again"
        assert (answer.status, answer.json) == (429, {"code": "too many requests", "message": told})
        assert rig.counted()["dropped"] == {"ring_full": 6000 - lines}
        assert rig.balanced()


def test_what_is_under_way_at_a_stop_is_taken_and_what_comes_later_is_not() -> None:
    with Rig() as rig:
        head = b"POST /write HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n"
        with rig.connect() as sock, rig.connect() as idle:
            sock.sendall(head + b"m v=")
            idle.sendall(head + b"m v=0 1\n")
            assert b"204" in idle.recv(1000)
            assert rig.written() == b"m v=0 1\n"
            wait_until(lambda: rig.input.busy == 1)
            stopping = threading.Thread(target=rig.input.stop, args=(10.0,))
            stopping.start()
            assert idle.recv(1000) == b"", "what has no request under way is closed"
            sock.sendall(b"1 1\n" + head + b"m v=2 1\n")
            got = sock.recv(1000)
            while b"503" not in got and (more := sock.recv(1000)):
                got += more
            stopping.join()
            assert got.startswith(b"HTTP/1.1 204")
            assert rig.written() == b"m v=1 1\n"
            assert rig.balanced()
