"""What is counted of attempts, and measured: how long they took, how large they were. With a lock held."""

from agent._core import Histogram
from agent.delivery.task import AttemptCounters
from agent.outputs.base import Kind, Payload, Verdict


class Measures:
    """Of the attempts at one output. For whoever holds the lock that guards it."""

    def __init__(self) -> None:
        self.request_seconds = Histogram(1e-4, 9)
        self.request_bytes = Histogram(1.0, 9)
        """As sent."""
        self.compression_ratio = Histogram(1.0, 2)
        """Bytes before compression by bytes as sent."""
        self._attempts = self._retries = self._bytes_raw = self._bytes_sent = 0
        self._requests: dict[str, int] = {}

    def count(self, payload: Payload, verdict: Verdict, took: float, again: bool) -> None:
        """An attempt with *payload* came to *verdict* after *took* seconds; *again*: not the first of it."""
        if verdict.status is not None:
            answer = f"{verdict.status // 100}xx"
        else:
            answer = "error" if verdict.kind is Kind.RETRY else ""
        if answer:
            self._requests[answer] = self._requests.get(answer, 0) + 1
        raw, sent = payload.raw_bytes, len(payload.data)
        self._attempts += 1
        self._retries += again
        self._bytes_raw += raw
        self._bytes_sent += sent
        self.request_seconds.observe(took)
        self.request_bytes.observe(sent)
        if payload.compression and sent:
            self.compression_ratio.observe(raw / sent)

    def read(self, opened: int) -> AttemptCounters:
        """One reading; *opened* is the breaker's."""
        return AttemptCounters(
            attempts=self._attempts,
            requests=dict(self._requests),
            retries=self._retries,
            bytes_raw=self._bytes_raw,
            bytes_sent=self._bytes_sent,
            opened=opened,
            histograms={
                "request_seconds": self.request_seconds.read(),
                "request_bytes": self.request_bytes.read(),
                "compression_ratio": self.compression_ratio.read(),
            },
        )
