"""Guards that are turned on, changed and turned off under load: nothing is lost, and each does its work.

Metrics come in four ways at once: lines over UDP and over HTTP, counters, and Graphite. One output gets
everything that is accepted, and its files tell what that was.
"""

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.errors import EXIT_OK
from tests.integration.agent_process import (
    AgentProcess,
    Status,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    load,
    output,
    send_unixgram,
)

ROUND = 4000
"""Lines by UDP between two reloads; the rest comes beside them."""


class Guard(NamedTuple):
    """What is written for it, at first and changed; and what must rise then, and stands still without it."""

    first: str
    changed: str
    rises: Callable[[Status], int]
    rises_changed: Callable[[Status], int]
    some: str = ""
    some_changed: str = ""
    """The same in the table of the second output."""
    reasons: frozenset[str] = frozenset()
    """For which it drops metrics."""


def counted(key: str) -> Callable[[Status], int]:
    return lambda status: sum(one[key] for one in status["listeners"])


def denied(status: Status) -> int:
    return sum(one["dropped"].get("denied", 0) for one in status["listeners"])


def left_out(status: Status) -> int:
    return sum(ring["filtered"] for ring in output(status, "some")["rings"])


PINNED = '[[types.field]]\nmeasurement = "load1"\nfield = "id"\ntype = "{}"\n'

GUARDS = {
    "cardinality": Guard(
        "[cardinality]\nmax_series = 40\n",
        '[cardinality]\nmax_series = 30\nmode = "observe"\n',
        counted("overflowed"),
        counted("observed"),
        # Names that have no tags cannot be brought together; a measurement that comes after too many of them
        # is one more, whatever its tags.
        reasons=frozenset({"cardinality"}),
    ),
    "shape": Guard(
        '[[shape]]\nmeasurement = ["load1"]\nadd_tags = { dc = "eu" }\n',
        '[[shape]]\nmeasurement = ["load1"]\ndrop_tags = ["host"]\nrename = "load"\n',
        counted("shaped"),
        counted("shaped"),
    ),
    "types": Guard(
        "[types]\n" + PINNED.format("float"),
        "[types]\n" + PINNED.format("string"),
        counted("coerced"),
        counted("fields_rejected"),
    ),
    "map": Guard(
        '[[map]]\nmatch = "web.*.hits"\nmeasurement = "hits"\ntags = { host = "$1" }\n',
        '[[map]]\nmatch = "web.*.hits"\naction = "drop"\n',
        counted("shaped"),
        denied,
        reasons=frozenset({"denied"}),
    ),
    "route": Guard(
        "",
        "",
        left_out,
        left_out,
        '[output.filter]\nmeasurement = ["load1"]\n',
        'shard = "series"\nshard_group = "pair"\n[output.filter]\ntag.host = ["h00*1", "h00*2"]\n',
    ),
}


def config(port: int, http_port: int, guard: str = "", some: str = "") -> str:
    return f"""
        [flush]
        interval = "100ms"
        [[listen]]
        name = "udp"
        address = "udp://127.0.0.1:{port}"
        receive_buffer = "32MiB"
        [[listen]]
        name = "http"
        address = "http://127.0.0.1:{http_port}"
        [[listen]]
        name = "counters"
        address = "unixgram://{{folder}}/counters"
        format = "statsd"
        interval = "100ms"
        [[listen]]
        name = "paths"
        address = "unixgram://{{folder}}/paths"
        format = "graphite"
        {guard}
        [[output]]
        name = "out"
        type = "file"
        path = "{{folder}}/out"
        [[output]]
        name = "some"
        type = "null"
        {some}
    """


class Others:
    """A thread that sends the same by the other three ways, until it is told to end."""

    def __init__(self, folder: Path, http_port: int) -> None:
        self.sent = 0
        """In each of the three ways."""
        self._folder = folder
        self._http = http.client.HTTPConnection("127.0.0.1", http_port, timeout=30)
        self._over = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def finish(self) -> int:
        self._over.set()
        self._thread.join()
        self._http.close()
        if self._error is not None:
            raise self._error
        return self.sent

    def _run(self) -> None:
        try:
            while not self._over.wait(0.002):
                self._send()
        except Exception as error:
            self._error = error

    def _send(self) -> None:
        n = self.sent
        send_unixgram(self._folder / "counters", b"web.w%d.hits:1|c\nweb.w%d.other:1|c" % (n % 90, n % 7))
        send_unixgram(self._folder / "paths", b"disk.d%d.free %d %d" % (n % 50, n, 1_700_000_000 + n))
        self._http.request(
            "POST", "/write?db=x", b"posted,host=p%d n=%di %d" % (n % 80, n, 10**18 + n * 10**6)
        )
        answer = self._http.getresponse()
        body = answer.read()
        assert answer.status == 204, body
        self.sent += 1


@contextmanager
def others(folder: Path, http_port: int) -> Iterator[Others]:
    sender = Others(folder, http_port)
    try:
        yield sender
    finally:
        sender.finish()


def field(line: bytes, key: bytes) -> bytes:
    """The text of a field; empty without it."""
    fields = line.rsplit(b" ", 2)[1]
    return next((one.split(b"=")[1] for one in fields.split(b",") if one.startswith(key + b"=")), b"")


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_comes_changes_and_goes_under_load(tmp_path: Path, name: str) -> None:
    guard = GUARDS[name]
    port, http_port = free_port(), free_port(socket.SOCK_STREAM)
    off = (config(port, http_port), None)
    first = (config(port, http_port, guard.first, guard.some), guard.rises)
    changed = (config(port, http_port, guard.changed, guard.some_changed), guard.rises_changed)
    with (
        AgentProcess(tmp_path, off[0]) as agent,
        load(port, 20_000, flows=4) as sender,
        others(tmp_path, http_port) as more,
    ):

        def wait_more(rises: Callable[[Status], int] | None) -> None:
            before = agent.status()
            wanted = listener(before, "udp")["received"] + ROUND, listener(before, "paths")["received"] + 50
            after = agent.wait_for(
                lambda status: (
                    listener(status, "udp")["received"] >= wanted[0]
                    and listener(status, "paths")["received"] >= wanted[1]
                    and (rises is None or rises(status) > rises(before))
                )
            )
            if rises is None:
                for one in (guard.rises, guard.rises_changed):
                    assert one(after) == one(before)

        for text, rises in (off, first, changed, off, changed, first, changed, first, off, first):
            assert agent.reload(text)["applied"]
            wait_more(rises)
        others_sent, sent = more.finish(), sender.finish()
        status = agent.wait_for(
            lambda status: listener(status, "udp")["received"] == sent and at_rest(status),
            what=f"received = {sent}",
        )
        assert_balanced(status)
        assert listener(status, "udp")["kernel_drops"] == 0
        for one, count in (("http", others_sent), ("paths", others_sent), ("counters", 2 * others_sent)):
            assert listener(status, one)["received"] == count
        reasons = {reason for one in status["listeners"] for reason, n in one["dropped"].items() if n}
        assert reasons == guard.reasons
        assert agent.stop() == EXIT_OK
        assert agent.log("stopped")[-1]["balanced"] is True
    lines = delivered_lines(tmp_path / "out")
    accepted = {one["name"]: one["accepted"] for one in status["listeners"]}
    assert accepted["udp"] == sent
    if "cardinality" not in guard.reasons:
        assert accepted["http"] == others_sent
    # Each line has a millisecond of its own, in which those of an overflow series are spread.
    udp = [int(one.rsplit(b" ", 1)[1]) // 10**6 for one in lines if one.startswith(b"load")]
    assert len(udp) == len(set(udp)) == accepted["udp"]
    posted = [field(one, b"n") for one in lines if one.startswith(b"posted")]
    assert len(posted) == len(set(posted)) == accepted["http"]
    paths = [field(one, b"value") for one in lines if one.startswith(b"disk.")]
    assert len(paths) == len(set(paths)) == accepted["paths"]
    counters = [field(one, b"value") for one in lines if one.startswith((b"web_", b"hits"))]
    assert sum(int(one.rstrip(b"i")) for one in counters) == accepted["counters"]


def test_series_that_are_known_pass_whatever_the_limit_becomes(tmp_path: Path) -> None:
    """Also over reloads that make it smaller than what there is, and new guards for the writers."""

    def config(limit: int, outputs: int) -> str:
        tables = "".join(f'[[output]]\nname = "out{n}"\ntype = "null"\n' for n in range(outputs))
        return f"""
            [[listen]]
            address = "unixgram://{{folder}}/sock"
            [cardinality]
            max_series = {limit}
            reserve = 0
            {tables}
        """

    known = [b"m,host=h%d v=1" % n for n in range(100)]
    new = [b"m,host=n%d v=1" % n for n in range(100)]
    with AgentProcess(tmp_path, config(100, 1)) as agent:

        def send(lines: list[bytes]) -> int:
            """Returns how many of them went into overflow series."""
            before = agent.status()["listeners"][0]
            send_unixgram(tmp_path / "sock", b"\n".join(lines))
            wanted = before["received"] + len(lines)
            after = agent.wait_for(lambda status: status["listeners"][0]["received"] == wanted)
            return int(after["listeners"][0]["overflowed"] - before["overflowed"])

        assert (send(known), send(new)) == (0, 100)
        for limit, outputs in ((10, 1), (10, 2), (100, 1), (1, 3)):
            assert agent.reload(config(limit, outputs))["applied"]
            assert (send(known), send(new)) == (0, 100)
        assert agent.reload(config(200, 3))["applied"]
        assert (send(known), send(new)) == (0, 0)
        assert agent.stop() == EXIT_OK
