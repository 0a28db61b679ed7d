"""An agent that publishes to a broker, for tests: its configuration, what is sent to it, what comes of it."""

from agent.outputs.base import plain
from agent.relay.message import Message
from tests.integration.agent_process import AgentProcess, Status, output, send_unixgram

HELD = "an output is refused until somebody mends it; everything is kept"
REJECTED = "metrics were rejected for good"


def edge_config(output: str) -> str:
    """An agent ``edge-1`` with the keys *output* of its output ``stream``."""
    return f"""
[agent]
id = "edge-1"
[flush]
interval = "50ms"
[[listen]]
name = "door"
address = "unixgram://{{folder}}/door.sock"
[[output]]
name = "stream"
retries = 1
retry_max = "200ms"
compression = "none"
{output}
[output.spool]
min_free_space = "0B"
"""


def lines(first: int, count: int, size: int = 0) -> list[bytes]:
    """Lines of *size* bytes and a few more, numbered from *first* on."""
    return [b'm,n=%d s="%s" %d' % (n, b"x" * size, n + 1) for n in range(first, first + count)]


def send(agent: AgentProcess, sent: list[bytes]) -> None:
    for first in range(0, len(sent), 50):
        send_unixgram(agent.folder / "door.sock", b"\n".join(sent[first : first + 50]))


def lines_of(messages: list[Message]) -> list[bytes]:
    return [line for one in messages for line in bytes(plain(one.payload)).splitlines()]


def decided(agent: AgentProcess, status: Status, message: str, where: dict[str, int]) -> bool:
    """Whether the log says *message*, and the lines are *where* they are to be."""
    (state,) = status["outputs"]
    told = agent.log(message) and (message != HELD or state["state"] == "holding")
    return bool(told) and where.items() <= output(status, "stream").items()


def assert_whole(messages: list[Message]) -> None:
    """No slot is missing between the first and the last of the one ring, and none is there twice."""
    places = sorted({one.place for one in messages if one.place is not None})
    assert {one.agent for one in messages} == {"edge-1"} and len({place.epoch for place in places}) == 1
    assert [place.first for place in places[1:]] == [place.first + place.slots for place in places[:-1]]
