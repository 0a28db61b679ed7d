"""An agent with listeners of JSON and MessagePack: what comes out, what is counted, reload and stop."""

from __future__ import annotations

import random
import socket
from collections import Counter
from pathlib import Path

import msgpack
import orjson
import pytest

from tests.conftest import wait_until
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    send_udp,
    send_unixgram,
)


def config(port: int, path: Path, more: str = "") -> str:
    return f"""
[agent]
tags = {{ dc = "eu1" }}
[[listen]]
name = "json"
address = "udp://127.0.0.1:{port}"
format = "json"
{more}
[[listen]]
name = "msgpack"
address = "unixgram://{path}"
format = "msgpack"
[[output]]
name = "out"
type = "file"
path = "{{folder}}/out"
"""


def metric(number: int) -> dict[str, object]:
    return {"name": "m", "tags": {"n": str(number % 7)}, "fields": {"f": number + 0.5, "i": number}}


def test_every_metric_of_mixed_datagrams_comes_out_once_and_the_ledger_balances(tmp_path: Path) -> None:
    random.seed(3)
    port, path = free_port(), tmp_path / "m.sock"
    text = config(port, path).replace("{folder}", str(tmp_path))
    with AgentProcess(tmp_path, text) as agent:
        expected: Counter[bytes] = Counter()
        bad = 0
        for number in range(600):
            numbers = range(number * 10 + 1, number * 10 + random.randrange(2, 10))
            some = [metric(one) | {"timestamp": one} for one in numbers]
            parts = [orjson.dumps(one) for one in some]
            form = number % 5
            datagram = {
                0: orjson.dumps(some),
                1: orjson.dumps({"metrics": some}),
                2: b"\n".join(parts),
                3: b"".join(parts),
                4: b"\n".join([*parts, b'{"name":']),
            }[form]
            bad += form == 4
            send_udp(port, datagram)
            packed = b"".join(msgpack.packb(metric(one)) for one in numbers)
            send_unixgram(path, packed + b"\xc1" if form == 4 else packed)
            for i in numbers:
                expected[b"m,n=%d,dc=eu1 f=%d.5,i=%d %d000000000" % (i % 7, i, i, i)] += 1
                expected[b"m,n=%d,dc=eu1 f=%d.5,i=%di" % (i % 7, i, i)] += 1
        both = ("json", "msgpack")
        agent.wait_for(lambda status: sum(listener(status, name)["datagrams"] for name in both) == 1200)
        status = agent.wait_for(at_rest)
        for name in both:
            account = listener(status, name)
            assert account["accepted"] == sum(expected.values()) // 2
            assert account["dropped"] == {name: bad}
            assert account["kernel_drops"] == 0
        assert_balanced(status)
        wait_until(lambda: agent.log("malformed line"))
        assert agent.stop() == 0
    # Those of MessagePack are integers, and their lines are stamped.
    heads = [(line, line.rsplit(b" ", 1)[0]) for line in delivered_lines(tmp_path / "out")]
    lines = Counter(head if head.endswith(b"i") else line for line, head in heads)
    assert lines == expected


def test_a_reload_changes_how_numbers_are_written_and_keeps_the_socket(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "m.sock"
    text = config(port, path).replace("{folder}", str(tmp_path))
    with AgentProcess(tmp_path, text) as agent:
        send_udp(port, b'{"name":"a","fields":{"f":1},"timestamp":1}')
        agent.wait_for(lambda status: listener(status, "json")["accepted"] == 1)
        agent.reload(
            config(port, path, 'numbers = "as_written"\nprecision = "ms"').replace("{folder}", str(tmp_path))
        )
        send_udp(port, b'{"name":"a","fields":{"f":1},"timestamp":1}')
        agent.wait_for(lambda status: listener(status, "json")["accepted"] == 2)
        # The same address is read as lines from here on, and then as JSON again.
        lines = text.replace('format = "json"', 'format = "line"')
        agent.reload(lines)
        send_udp(port, b"a f=2 5\n")
        agent.wait_for(lambda status: listener(status, "json")["accepted"] == 3)
        agent.reload(text)
        send_udp(port, b'{"name":"a","fields":{"f":3},"timestamp":1}')
        status = agent.wait_for(lambda status: listener(status, "json")["accepted"] == 4)
        assert listener(status, "json")["dropped"] == {}
        assert agent.stop() == 0
    # The ring of the lane and that of the feed have no order between them.
    assert sorted(delivered_lines(tmp_path / "out")) == [
        b"a,dc=eu1 f=1 1000000000",
        b"a,dc=eu1 f=1i 1000000",
        b"a,dc=eu1 f=2 5",
        b"a,dc=eu1 f=3 1000000000",
    ]


def test_a_stop_reads_what_the_kernel_holds(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "m.sock"
    with AgentProcess(tmp_path, config(port, path).replace("{folder}", str(tmp_path))) as agent:
        for number in range(2000):
            send_udp(port, orjson.dumps(metric(number) | {"timestamp": number}))
        assert agent.stop() == 0
        [stopped] = agent.log("stopped")
        assert stopped["balanced"]
        accepted = stopped["listeners"]["json"]["accepted"]
        assert accepted + stopped["listeners"]["json"]["kernel_drops"] == 2000
    assert len(delivered_lines(tmp_path / "out")) == accepted


@pytest.mark.parametrize("form", ["line", "json", "msgpack"])
def test_descriptors_that_come_along_are_closed(tmp_path: Path, form: str) -> None:
    text = {"line": b"m v=1 1", "json": b'{"name":"m","fields":{"v":1}}'}.get(form) or msgpack.packb(
        {"name": "m", "fields": {"v": 1}}
    )
    path = tmp_path / "in.sock"
    config = f'[[listen]]\naddress = "unixgram://{path}"\nname = "in"\nformat = "{form}"\n'
    with AgentProcess(tmp_path, f'{config}[[output]]\nname = "out"\ntype = "null"\n') as agent:

        def held() -> int:
            return len(list(Path(f"/proc/{agent.pid}/fd").iterdir()))

        def send(count: int) -> None:
            before = listener(agent.status(), "in")["accepted"]
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.connect(str(path))
                for number in range(count):
                    socket.send_fds(sock, [text], [0, 1, 2][: 1 + number % 3])
            agent.wait_for(lambda status: listener(status, "in")["accepted"] == before + count)

        send(5)
        agent.wait_for(at_rest)
        before = held()
        send(200)
        agent.wait_for(at_rest)
        assert held() <= before + 5
