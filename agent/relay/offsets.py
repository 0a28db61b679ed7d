"""How far a relay is in a partition of Kafka: messages come in order, and are decided in any."""

from collections import deque
from collections.abc import Mapping
from typing import Any


class Partition:
    """What was taken of one partition since it came to us."""

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.next = -1
        """Offset behind the last one that was taken, or where to begin; -1 if that is not known."""
        self.committed = -1
        self.gone = False
        self._order: deque[int] = deque()
        self._done: set[int] = set()

    def took(self, offset: int) -> bool:
        """A message has come; False if it had before."""
        if offset < self.next:
            return False
        self._order.append(offset)
        self.next = offset + 1
        return True

    def decided(self, offset: int) -> None:
        if self._order and offset >= self._order[0]:
            self._done.add(offset)

    @property
    def position(self) -> int:
        """What may be committed: the oldest offset that is undecided; -1 if that is not known."""
        while self._order and self._order[0] in self._done:
            self._done.discard(self._order.popleft())
        return self._order[0] if self._order else self.next


class Spot:
    """Where a message lies."""

    __slots__ = ("offset", "partition")

    def __init__(self, partition: Partition, offset: int) -> None:
        self.partition = partition
        self.offset = offset

    def about(self) -> Mapping[str, Any]:
        return {
            "topic": self.partition.topic,
            "partition": self.partition.number,
            "offset": self.offset,
        }
