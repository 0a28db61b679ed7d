"""What tests of relays share: messages as an edge sends them, and a broker's listener in a relay's config."""

import asyncio
import gzip
import time
from collections.abc import Iterable, Mapping
from typing import Any

from agent.batch_id import Place, batch_id
from agent.outputs.base import Payload
from agent.outputs.base import snappy as compress_snappy
from agent.relay.message import headers, identity

EPOCH = 1_700_000_000_000_000_000


def lines(first: int, count: int, name: str = "m") -> bytes:
    """Lines that are all different."""
    return b"".join(
        b"%s,n=%d v=%di %d\n" % (name.encode(), n, n, EPOCH + n) for n in range(first, first + count)
    )


def message(
    first: int,
    count: int = 10,
    *,
    agent: str = "edge-1",
    compression: str = "gz",
    epoch: int = EPOCH,
    body: bytes | None = None,
    **changed: str,
) -> tuple[dict[str, str], bytes]:
    """Headers and body of a batch whose first slot is *first*; *changed* replaces headers, by what follows
    ``Penstock-``, in lower case. An empty one is left out."""
    text = lines(first, count) if body is None else body
    data = {
        "gz": lambda: gzip.compress(text, mtime=0),
        "": lambda: text,
        "sz": lambda: compress_snappy(text),
    }[compression]()
    payload = Payload(data, count, len(text), "lp", compression, oldest_ns=time.time_ns())
    payload.trace = f"00-{batch_id(Place(epoch, first, count))}-00f067aa0ba902b7-00"
    told = headers(payload, agent)
    for name, value in changed.items():
        told[f"Penstock-{name.capitalize()}"] = value
    return {name: value for name, value in told.items() if value}, data


def publish_nats(server: Any, subject: str, messages: Iterable[tuple[Mapping[str, str], bytes]]) -> None:
    """Publish *messages* to a stream, each with the identity that an edge gives it."""

    async def send(stream: Any) -> None:
        for told, data in messages:
            batch = told.get("Penstock-Batch", "")
            known = {"Nats-Msg-Id": identity(batch, data)} if batch else {}
            await stream.publish(subject, data, headers={**told, **known}, timeout=10)

    server.run(send)


def again(server: Any, subject: str, messages: Iterable[tuple[Mapping[str, str], bytes]]) -> None:
    """The same, where the server is not to know that it had them."""

    async def send(stream: Any) -> None:
        await asyncio.gather(
            *(stream.publish(subject, data, headers=dict(told), timeout=10) for told, data in messages)
        )

    server.run(send)


def publish_kafka(
    broker: Any, topic: str, messages: Iterable[tuple[Mapping[str, str], bytes]], partition: int = 0
) -> None:
    """Publish *messages* to one partition, in order."""
    from confluent_kafka import Producer

    failed: list[object] = []
    producer = Producer({"bootstrap.servers": broker.address, "log_level": 0, "enable.idempotence": True})
    for told, data in messages:
        producer.produce(
            topic,
            data,
            headers=[(name, value.encode()) for name, value in told.items()],
            partition=partition,
            on_delivery=lambda error, _: failed.append(error) if error is not None else None,
        )
    assert producer.flush(60) == 0 and not failed, failed
