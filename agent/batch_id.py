"""The id of a batch, by which it is known from its ring to the far end of a broker.

It is 32 hexadecimal digits, as a trace id is (https://www.w3.org/TR/trace-context/#trace-id), and says where
the batch lay: in which ring, from which slot on, over how many::

    18b4f2a1c03de5a7  9c3f0d5e7b1a2846
    │                 └ first slot << 17 | slots, mixed: it looks random, for whoever samples by it
    └ when the ring was made, nanoseconds since 1970: below 2^63

Slots of a ring are counted from its making, through every process that goes on with it. So the same batch has
the same id when a process that was killed sends it again, and two batches that were cut differently out of
the same slots can be told to overlap. A body that was in no ring has an id of chance, 2^127 at least.
"""

import random
import re
from typing import NamedTuple

_MASK = 2**64 - 1
_FACTOR = 0x9E3779B97F4A7C15
_INVERSE = pow(_FACTOR, -1, 2**64)
_SLOT_BITS = 17
_ID = re.compile("[0-9a-f]{32}")

# One of our own: whoever seeds the common one must not have the same ids again. Any thread.
_bits = random.Random().getrandbits


class Place(NamedTuple):
    """Where a batch lay."""

    epoch: int
    """When its ring was made, nanoseconds since 1970."""
    first: int
    """Its first slot, of all that the ring ever had; below 2^47."""
    slots: int
    """How many it is, 65,536 at most."""


def batch_id(place: Place) -> str:
    """The id of the batch that lay at *place*."""
    where = place.first << _SLOT_BITS | place.slots
    return f"{place.epoch & _MASK:016x}{(where ^ place.epoch) * _FACTOR & _MASK:016x}"


def chance_id() -> str:
    """An id for what lay nowhere."""
    return f"{1 << 127 | _bits(127):032x}"


def place_of(batch: str) -> Place | None:
    """Where the batch of that id lay; None if in no ring. Raises ValueError if it is no id."""
    if not _ID.fullmatch(batch):
        raise ValueError(f"no id of a batch: {batch[:64]!r}; it is 32 hexadecimal digits, in lower case")
    epoch, mixed = int(batch[:16], 16), int(batch[16:], 16)
    if epoch >> 63:
        return None
    where = (mixed * _INVERSE & _MASK) ^ epoch
    return Place(epoch, where >> _SLOT_BITS, where & (1 << _SLOT_BITS) - 1)
