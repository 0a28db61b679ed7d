"""Which outputs a series is for, in plain Python: filters, and one output of each group of shards."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate

from tests.reference.mix import mix_bytes, mix_pair


@dataclass(frozen=True)
class Output:
    name: str
    group: str | None = None
    """Of shards; None: it gets everything that its filter lets through."""
    measurement: Sequence[str] = ()
    tag: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shard: str = "series"
    """What the group shares: ``series``, or ``measurement``."""

    def wants(self, measurement: bytes, tags: Mapping[bytes, bytes]) -> bool:
        """Whether its filter lets a series through."""
        return wanted(self.measurement, measurement) and all(
            wanted(globs, tags.get(key.encode(), b"")) for key, globs in self.tag.items()
        )


def wanted(globs: Sequence[str], name: bytes) -> bool:
    """Whether a list of globs takes a name: one of those that want it, or there are none, and no other."""
    text = name.decode()
    takes = [glob for glob in globs if not glob.startswith("!")]
    refuses = [glob[1:] for glob in globs if glob.startswith("!")]
    return (not takes or any(re.match(translate(glob), text) for glob in takes)) and not any(
        re.match(translate(glob), text) for glob in refuses
    )


def identity(measurement: bytes, tags: Mapping[bytes, bytes]) -> int:
    """Of a series, whatever the order of its tags."""
    total = sum(mix_pair(key, value) for key, value in tags.items()) % (1 << 64)
    return mix_bytes(total, measurement)


def score(output: Output, series: int) -> int:
    """How much a series belongs to an output."""
    return mix_bytes(mix_bytes(0, output.name.encode()), series.to_bytes(8, "little"))


def route(outputs: Sequence[Output], measurement: bytes, tags: Mapping[bytes, bytes]) -> set[str]:
    """The names of the outputs that get the series."""
    of = {"series": identity(measurement, tags), "measurement": identity(measurement, {})}
    outputs = [output for output in outputs if output.wants(measurement, tags)]
    chosen = {output.name for output in outputs if output.group is None}
    for shard, group in {(output.shard, output.group) for output in outputs if output.group is not None}:
        members = [output for output in outputs if (output.shard, output.group) == (shard, group)]
        chosen.add(max(members, key=lambda output: score(output, of[shard])).name)
    return chosen
