"""Sends streams of datagrams to a running agent, no faster than its kernel buffers allow.

Nothing is lost on the way to a test that compares every point: what is under way to a listener never fills
more than half of its receive buffer, and then its own counter is waited for.
"""

import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.integration.agent_process import AgentProcess, listener
from tests.integration.mixed_lines import Stream

Target = tuple[str, int] | Path


def charge(datagram: bytes) -> int:
    """What a datagram costs in a receive buffer at most, bookkeeping of the kernel included."""
    return 2_304 + 2 * len(datagram)


def send_paced(agent: AgentProcess, streams: Sequence[Stream], targets: Mapping[str, Target]) -> None:
    """Send all datagrams of *streams*, taking turns; returns when the last one has been received.

    *targets* has the address of each listener: host and port, or the path of a Unix socket.
    """
    room = _room(agent, targets)
    sent = dict.fromkeys(targets, 0)
    under_way = dict.fromkeys(targets, 0)

    def wait_for(name: str) -> None:
        agent.wait_for(
            lambda status: listener(status, name)["datagrams"] >= sent[name],
            timeout=30,
            what=f"{sent[name]} datagrams received by {name}",
        )
        under_way[name] = 0

    with ExitStack() as stack:
        senders = [(stack.enter_context(_connect(targets[one.listener])), one) for one in streams]
        for turn in range(max(len(one.datagrams) for one in streams)):
            for sender, stream in senders:
                if turn >= len(stream.datagrams):
                    continue
                name, datagram = stream.listener, stream.datagrams[turn]
                if under_way[name] + charge(datagram) > room[name]:
                    wait_for(name)
                sender.send(datagram)
                sent[name] += 1
                under_way[name] += charge(datagram)
        for name in targets:
            wait_for(name)


def _room(agent: AgentProcess, targets: Mapping[str, Target]) -> dict[str, float]:
    """Bytes that may be under way to each listener. A full Unix socket makes its sender wait."""
    status = agent.wait_for(
        lambda status: all(
            listener(status, name)["receive_buffer_bytes"]
            for name, target in targets.items()
            if not isinstance(target, Path)
        ),
        what="the sizes of the receive buffers",
    )
    room = {}
    for name, target in targets.items():
        one = listener(status, name)
        # All senders may have come to the same lane's socket.
        size = one["receive_buffer_bytes"] / one["sockets"] / 2
        room[name] = float("inf") if isinstance(target, Path) else size
    return room


def _connect(target: Target) -> socket.socket:
    if isinstance(target, Path):
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.connect(str(target))
        return sender
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    sender = socket.socket(family, socket.SOCK_DGRAM)
    sender.connect(target)
    return sender
