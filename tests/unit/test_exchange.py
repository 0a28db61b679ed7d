"""One POST and its answer: what is written, and every shape of answer in every way of being cut."""

import gzip
import socket
import threading
from http.client import HTTPException

import pytest
from urllib3.exceptions import ProtocolError

from agent.outputs import exchange

USUAL = [
    b"HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 400 Bad Request\r\nX-Influxdb-Error: no\r\nContent-Length: 7\r\n\r\nrefused",
    b"HTTP/1.1 200 OK\r\ncontent-length:  0\r\n\r\n",
]
OTHERS = [
    b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nref\r\n4\r\nused\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s"
    % (len(packed := gzip.compress(b"packed", mtime=0)), packed),
    b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20000,
    b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
]
LAST = [
    b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    b"HTTP/1.0 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 204 No Content\r\n\r\nnobody asked",
]


def receive(pieces: list[bytes]) -> tuple[exchange.Answer, bool, int]:
    """What is made of an answer that comes in *pieces*, each one read, before the connection is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    heard: list[int] = []
    with ours, theirs:
        ours.settimeout(10)
        for piece in pieces:
            # Longer ones than a read takes would be cut by the kernel.
            for at in range(0, len(piece), 8000):
                theirs.send(piece[at : at + 8000])
        theirs.shutdown(socket.SHUT_WR)
        answer, good = exchange.receive(ours, lambda: heard.append(1))
    return answer, good, len(heard)


@pytest.mark.parametrize("text", USUAL)
def test_a_usual_answer_is_read_at_once(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_any", None)
    answer, good, heard = receive([text])
    assert (answer.status, good, heard) == (int(text[9:12]), True, 1)
    assert answer.body == text.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("text", USUAL + OTHERS)
def test_an_answer_may_come_in_any_pieces(text: bytes) -> None:
    whole = receive([text])
    assert whole[1:] == (True, 1)
    for cut in [*range(1, min(len(text), 200))]:
        assert receive([text[:cut], text[cut:]]) == whole, cut
    assert receive([text[at : at + 1] for at in range(200)] + [text[200:]] * (len(text) > 200)) == whole


def test_what_others_say_is_the_same() -> None:
    bodies = [receive([text])[0].body for text in OTHERS]
    assert bodies == [b"refused", b"ok", b"packed", b"x" * 20000, b""]
    assert receive([OTHERS[3]])[0].headers["retry-AFTER"] == "3"
    assert receive([USUAL[2]])[0].headers["x-influxdb-error"] == "no"


@pytest.mark.parametrize("text", LAST)
def test_a_connection_that_ends_or_says_more_is_not_used_again(text: bytes) -> None:
    answer, good, _ = receive([text])
    assert (answer.status // 100, good) == (2, False)


def test_an_answer_that_is_longer_than_anybody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "ANSWER_BYTES_MAX", 10_000)
    answer, good, _ = receive([OTHERS[3]])
    assert (len(answer.body), good) == (10_000, False)


@pytest.mark.parametrize("text", [*USUAL[2:3], *OTHERS[:2], *OTHERS[3:4]])
def test_an_answer_that_is_cut_off_is_none(text: bytes) -> None:
    head = text.rfind(b"\r\n\r\n", 0, 150) + 4
    # Between the two, http.client takes the end of the connection for that of the head.
    for cut in [*range(12), *range(head, min(len(text) - 1, head + 100))]:
        with pytest.raises((OSError, HTTPException, ProtocolError)):
            receive([text[:cut]])


@pytest.mark.parametrize("text", [b"hello\r\n\r\n", b"HTTP/1.1 x\r\n\r\n", b"HTTP/1.1 99 no\r\n\r\n"])
def test_what_is_no_answer_is_an_error(text: bytes) -> None:
    with pytest.raises((OSError, HTTPException, ProtocolError)):
        receive([text])


def test_the_head_says_what_it_must() -> None:
    text = exchange.head("db:8086", "/write?db=a", {"User-Agent": "penstock", "X": "ä"}, 12)
    assert text.decode("latin-1").split("\r\n") == [
        "POST /write?db=a HTTP/1.1",
        "Host: db:8086",
        "Accept-Encoding: identity",
        "Content-Length: 12",
        "User-Agent: penstock",
        "X: ä",
        "",
        "",
    ]
    own = exchange.head("db", "/", {"host": "other", "Accept-Encoding": "gzip"}, 0)
    assert own.count(b"ost: ") == 1 and own.count(b"Encoding") == 1


@pytest.mark.parametrize(
    ("target", "headers"), [("/a b", {}), ("/a\nb", {}), ("/", {"A": "b\r\nC: d"}), ("/", {"A\n": "b"})]
)
def test_no_head_has_more_in_it_than_was_meant(target: str, headers: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        exchange.head("db", target, headers, 0)


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_a_body_is_sent_whole_however_little_the_kernel_takes(size: int) -> None:
    ours, theirs = socket.socketpair()
    found = bytearray()

    def read() -> None:
        while piece := theirs.recv(100_000):
            found.extend(piece)

    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with ours, theirs:
        ours.settimeout(10)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        reader = threading.Thread(target=read)
        reader.start()
        with memoryview(body) as view:
            exchange.send(ours, b"H" * 10_000, view)
        ours.shutdown(socket.SHUT_WR)
        reader.join(10)
    assert found == b"H" * 10_000 + body


def test_a_server_that_answers_early_and_closes_is_heard() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(10)
        theirs.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        theirs.close()
        exchange.send(ours, b"POST / HTTP/1.1\r\n\r\n", bytes(5_000_000))
        answer, good = exchange.receive(ours, lambda: None)
    assert (answer.status, good) == (413, False)
