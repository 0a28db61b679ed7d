"""The structs of a configuration: every key with its type, its kind, its range and its default.

Durations are seconds and sizes are bytes here, whatever unit the file uses. Fields of a secret kind
appear as ``***`` in a struct's ``repr``.
"""

import os
from collections.abc import Mapping
from functools import cache
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Literal, get_type_hints
from urllib.parse import urlsplit

from msgspec import Struct, field
from msgspec.structs import force_setattr

from agent.config_kinds import (
    MASK,
    Choice,
    Duration,
    Durations,
    Flag,
    HostPort,
    Inner,
    Integer,
    IntegerOrAuto,
    Kind,
    ListenAddress,
    Number,
    Percentiles,
    Size,
    Tags,
    Text,
    Url,
)
from agent.config_values import GIB, KIB, MIB, parse_duration


def _processors() -> int:
    return len(os.sched_getaffinity(0))


class Table(Struct, frozen=True, kw_only=True):
    """A table of the configuration. Its ``repr`` masks secrets."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        known = kinds(type(self))
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return [(name, MASK if known[name].secret and value else value) for name, value in values.items()]


class Agent(Table, frozen=True, kw_only=True):
    """``[agent]``: what concerns the whole process."""

    tags: Annotated[dict[str, str], Tags()] = {}
    state_dir: Annotated[str, Text(wanted="the path of a folder", empty=False)] = "/var/lib/penstock"
    runtime_dir: Annotated[str, Text(wanted="the path of a folder", empty=False)] = "/run/penstock"
    lanes: Annotated[int, IntegerOrAuto(1, 64, _processors)] = 1
    admin: Annotated[str, HostPort()] = "127.0.0.1:8690"
    drain_timeout: Annotated[float, Duration("0s", "1h")] = 30.0


class Log(Table, frozen=True, kw_only=True):
    """``[log]``: what is told on standard error, and how."""

    level: Annotated[str, Choice("debug", "info", "warning", "error")] = "info"
    format: Annotated[str, Choice("auto", "json", "text")] = "auto"


METRIC_TYPES = ("counter", "gauge", "set", "timing", "histogram", "distribution")
"""What StatsD knows, by the names that points of it carry in their tag ``metric_type``."""

_EXPIRE = "5m"

EXPIRE_INTERVALS_MAX = 65_000
"""Silence is counted in intervals, and not further."""


class Listen(Table, frozen=True, kw_only=True):
    """``[[listen]]``: one bound address and the format spoken on it.

    ``precision`` is for line protocol only; ``interval`` and what stands behind it for StatsD only.
    """

    address: Annotated[str, ListenAddress()]
    name: Annotated[str, Text(chars_max=256)] = ""
    """Empty in the file means the address; never empty here."""
    format: Annotated[str, Choice("line", "statsd", later=("graphite", "json", "msgpack", "protobuf"))] = (
        "line"
    )
    precision: Annotated[str, Choice("ns", "us", "ms", "s")] = "ns"
    receive_buffer: Annotated[int, Size("4KiB", "512MiB")] = 8 * MIB
    max_line: Annotated[int, Size("64B", "64KiB")] = 64 * KIB
    max_datagram: Annotated[int, Size("64B", "64KiB")] = 64 * KIB
    gro: Annotated[bool, Flag()] = True
    mode: Annotated[str, Text(pattern="0?[0-7]{3}", wanted='an octal mode such as "0660"', empty=False)] = (
        "0660"
    )
    owner: Annotated[
        str, Text(pattern=r"[^:\s]+(:[^:\s]+)?|:[^:\s]+", wanted='"user", "user:group" or ":group"')
    ] = ""
    interval: Annotated[float, Duration("100ms", "1d")] = 10.0
    percentiles: Annotated[tuple[float, ...], Percentiles()] = (90.0,)
    relative_error: Annotated[float, Number(0.0001, 0.2)] = 0.01
    gauge_deltas: Annotated[bool, Flag()] = True
    reset_gauges: Annotated[bool, Flag()] = False
    expire: Annotated[dict[str, float], Durations(METRIC_TYPES, _EXPIRE, "1s", "365d")] = field(
        default_factory=lambda: dict.fromkeys(METRIC_TYPES, parse_duration(_EXPIRE))
    )
    """By metric type."""
    max_series: Annotated[int, Integer(1, 100_000_000)] = 1_000_000
    separator: Annotated[
        str, Text(pattern="[A-Za-z0-9_.-]{1,8}", wanted="1 to 8 letters, digits, and any of _.-", empty=False)
    ] = "_"
    dialect: Annotated[str, Choice("auto", "dogstatsd", "influxdb", "librato", "signalfx", "none")] = "auto"

    def __post_init__(self) -> None:
        if not self.name:
            force_setattr(self, "name", self.address)


FORMAT_KEYS: Mapping[str, tuple[str, ...]] = {
    "line": ("precision",),
    "statsd": (
        "interval",
        "percentiles",
        "relative_error",
        "gauge_deltas",
        "reset_gauges",
        "expire",
        "max_series",
        "separator",
        "dialect",
    ),
}
"""Keys of a listener that one format alone has."""

SCHEME_KEYS: Mapping[str, tuple[str, ...]] = {"udp": ("gro",), "unixgram": ("mode", "owner")}
"""Keys of a listener that one scheme of addresses alone has."""


class Flush(Table, frozen=True, kw_only=True):
    """``[flush]``: a batch leaves at the first of these three."""

    batch_lines: Annotated[int, Integer(1, 10_000_000)] = 5000
    batch_bytes: Annotated[int, Size("1KiB", "1GiB")] = 1 * MIB
    interval: Annotated[float, Duration("1ms", "1h")] = 0.2


class Destination(Table, frozen=True, kw_only=True):
    """What every ``[[output]]`` has, whatever its type."""

    name: Annotated[
        str,
        Text(
            # Also the name of a folder, which "." and ".." cannot be.
            pattern=r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]+",
            wanted="letters, digits, and any of _.-",
            empty=False,
            chars_max=64,
        ),
    ]
    ring_bytes: Annotated[int, Size("64KiB", "64GiB")] = 64 * MIB


class SpoolTable(Table, frozen=True, kw_only=True):
    """``[output.spool]``: the queue on disk of one output."""

    max_bytes: Annotated[int, Size("64KiB", "1024TiB")] = 10 * GIB
    max_age: Annotated[float, Duration("1s", "3650d")] = 7 * 86400.0
    min_free_space: Annotated[int, Size("0B", "1024TiB")] = 1 * GIB
    sync: Annotated[str, Choice("interval", "always", "never")] = "interval"
    spill_at: Annotated[float, Number(0.01, 1)] = 0.7


class RejectedTable(Table, frozen=True, kw_only=True):
    """``[output.rejected]``: what the server refused for good, with its reasons, in files."""

    max_bytes: Annotated[int, Size("64KiB", "1024TiB")] = 256 * MIB
    max_age: Annotated[float, Duration("1s", "3650d")] = 30 * 86400.0


class InfluxOutput(Destination, frozen=True, kw_only=True, tag_field="type", tag="influxdb"):
    """An InfluxDB, or whatever takes one of its three write endpoints."""

    type: ClassVar[Literal["influxdb"]] = "influxdb"
    url: Annotated[str, Url()]
    version: Annotated[int, Integer(1, 3)] = 2
    org: Annotated[str, Text()] = ""
    bucket: Annotated[str, Text()] = ""
    token: Annotated[str, Text(secret=True, chars_max=16 * KIB)] = ""
    database: Annotated[str, Text()] = ""
    retention_policy: Annotated[str, Text()] = ""
    consistency: Annotated[str, Choice("", "any", "one", "quorum", "all")] = ""
    username: Annotated[str, Text()] = ""
    password: Annotated[str, Text(secret=True)] = ""
    compression: Annotated[str, Choice("auto", "gzip", "none")] = "auto"
    compression_level: Annotated[int, Integer(0, 3)] = 2
    max_concurrency: Annotated[int, Integer(1, 64)] = 4
    connect_timeout: Annotated[float, Duration("1ms", "10m")] = 5.0
    tls_timeout: Annotated[float, Duration("1ms", "10m")] = 10.0
    response_timeout: Annotated[float, Duration("1ms", "1h")] = 30.0
    idle_timeout: Annotated[float, Duration("1ms", "1h")] = 30.0
    batch_timeout: Annotated[float, Duration("1ms", "1d")] = 60.0
    retries: Annotated[int, Integer(0, 1000)] = 3
    retry_min: Annotated[float, Duration("1ms", "1h")] = 0.1
    retry_max: Annotated[float, Duration("1ms", "1h")] = 30.0
    breaker_sensitivity: Annotated[float, Number(1.5, 1000)] = 10.0
    order: Annotated[str, Choice("fresh_first", "oldest_first")] = "fresh_first"
    ca: Annotated[str, Text(wanted="the path of a file")] = ""
    cert: Annotated[str, Text(wanted="the path of a file")] = ""
    key: Annotated[str, Text(wanted="the path of a file")] = ""
    insecure_skip_verify: Annotated[bool, Flag()] = False
    spool: Annotated[SpoolTable | None, Inner(SpoolTable, optional=True)] = SpoolTable()
    """None where the file says ``false``: nothing is kept on disk."""
    rejected: Annotated[RejectedTable, Inner(RejectedTable)] = RejectedTable()

    @property
    def gzip(self) -> bool:
        """Whether bodies are compressed: ``auto`` saves the work where no network lies between."""
        if self.compression != "auto":
            return self.compression == "gzip"
        host = urlsplit(self.url).hostname or ""
        if host == "localhost" or host.endswith(".localhost"):
            return False
        try:
            return not ip_address(host).is_loopback
        except ValueError:
            return True


class FileOutput(Destination, frozen=True, kw_only=True, tag_field="type", tag="file"):
    """A folder of rotated files of line protocol."""

    type: ClassVar[Literal["file"]] = "file"
    path: Annotated[str, Text(wanted="the path of a folder", empty=False)]
    rotate_bytes: Annotated[int, Size("1KiB", "64GiB")] = 64 * MIB
    rotate_interval: Annotated[float, Duration("100ms", "30d")] = 3600.0
    compression: Annotated[str, Choice("none", "gzip")] = "none"
    max_files: Annotated[int, Integer(0, 1_000_000)] = 100


class NullOutput(Destination, frozen=True, kw_only=True, tag_field="type", tag="null"):
    """Takes everything and keeps nothing: for measuring, and for trying a configuration."""

    type: ClassVar[Literal["null"]] = "null"


Output = InfluxOutput | FileOutput | NullOutput

OUTPUT_TYPES: dict[str, type[Output]] = {one.type: one for one in (InfluxOutput, FileOutput, NullOutput)}
"""The struct of each ``type`` of an output."""

OUTPUT_TYPE = Choice(*OUTPUT_TYPES, later=("remote_write",))


class Config(Struct, frozen=True, kw_only=True):
    """A whole configuration, checked."""

    agent: Agent = Agent()
    log: Log = Log()
    listen: tuple[Listen, ...] = ()
    flush: Flush = Flush()
    output: tuple[Output, ...] = ()


@cache
def kinds(table: type[Struct]) -> Mapping[str, Kind]:
    """The kind of each key of a config struct, in the order of its fields."""
    hints = get_type_hints(table, include_extras=True)
    return {
        name: kind
        for name in table.__struct_fields__
        for kind in getattr(hints[name], "__metadata__", ())
        if isinstance(kind, Kind)
    }
