"""What collectd's write_http sends becomes points as in Telegraf's parser of collectd."""

import json
from collections.abc import Iterator

import pytest

from tests.unit.http_rig import Rig

INTERFACE = {
    "values": [1901474177, 2.5],
    "dstypes": ["derive", "gauge"],
    "dsnames": ["rx", "tx"],
    "time": 1280959128.123,
    "interval": 10,
    "host": "leeloo octo",
    "plugin": "interface",
    "plugin_instance": "eth0",
    "type": "if_octets",
    "type_instance": "",
}


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as one:
        yield one


def test_a_value_list_is_a_point_for_each_value(rig: Rig) -> None:
    text = json.dumps([INTERFACE, {**INTERFACE, "values": [None, 7], "plugin_instance": ""}]).encode()
    assert rig.ask("/collectd", text, {"Content-Type": "application/json"}).status == 204
    assert sorted(rig.written().splitlines()) == [
        b"interface_rx,host=leeloo\\ octo,instance=eth0,type=if_octets value=1901474177 1280959128123000000",
        b"interface_tx,host=leeloo\\ octo,instance=eth0,type=if_octets value=2.5 1280959128123000000",
        b"interface_tx,host=leeloo\\ octo,type=if_octets value=7 1280959128123000000",
    ]
    assert rig.counted() == {"datagrams": 1, "bytes": len(text), "received": 3, "accepted": 3}
    assert rig.balanced()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b"[{}]",
        json.dumps([INTERFACE, {**INTERFACE, "values": [1]}]).encode(),
        json.dumps([{**INTERFACE, "values": ["x", 1]}]).encode(),
        json.dumps([{**INTERFACE, "values": [True, 1]}]).encode(),
        json.dumps([{**INTERFACE, "plugin": ""}]).encode(),
        json.dumps([{**INTERFACE, "time": None}]).encode(),
        json.dumps([{**INTERFACE, "dsnames": [1, 2]}]).encode(),
    ],
)
def test_anything_else_is_refused_as_a_whole(rig: Rig, body: bytes) -> None:
    answer = rig.ask("/collectd", body)
    assert answer.status == 400
    assert answer.body.startswith(b"the body is not what collectd's write_http sends: ")
    assert rig.written() == b""
