"""The structs of a configuration: every key with its type, its kind, its range and its default.

Durations are seconds and sizes are bytes here, whatever unit the file uses. Fields of a secret kind
appear as ``***`` in a struct's ``repr``.
"""

import os
import re
import socket
from collections.abc import Mapping
from typing import Annotated

from msgspec import Struct, field
from msgspec.structs import force_setattr, replace

from agent.config_broker_kinds import (
    STREAM_NAME,
    STREAM_NAME_WANTED,
    TOPIC,
    TOPIC_WANTED,
    Options,
    Subject,
)
from agent.config_guards import Cardinality, Collisions, Types
from agent.config_kinds import (
    Choice,
    Choices,
    Duration,
    Durations,
    Flag,
    HostPort,
    Integer,
    IntegerOrAuto,
    ListenAddress,
    Number,
    Percentiles,
    Secrets,
    Size,
    SomeDurations,
    Tags,
    Text,
    Texts,
)
from agent.config_networks import Networks
from agent.config_outputs import OUTPUT_TYPE as OUTPUT_TYPE
from agent.config_outputs import OUTPUT_TYPES as OUTPUT_TYPES
from agent.config_outputs import BrokerOutput as BrokerOutput
from agent.config_outputs import Destination as Destination
from agent.config_outputs import FileOutput as FileOutput
from agent.config_outputs import FilterTable as FilterTable
from agent.config_outputs import HttpOutput as HttpOutput
from agent.config_outputs import InfluxOutput as InfluxOutput
from agent.config_outputs import KafkaOutput as KafkaOutput
from agent.config_outputs import NatsOutput as NatsOutput
from agent.config_outputs import NullOutput as NullOutput
from agent.config_outputs import Output as Output
from agent.config_outputs import RejectedTable as RejectedTable
from agent.config_outputs import RemoteWriteOutput as RemoteWriteOutput
from agent.config_outputs import ServerOutput as ServerOutput
from agent.config_outputs import SpoolTable as SpoolTable
from agent.config_rules import METRIC_TYPES as METRIC_TYPES
from agent.config_rules import Map, Shape
from agent.config_table import Table as Table
from agent.config_table import kinds as kinds
from agent.config_values import KIB, MIB, parse_duration


def _processors() -> int:
    return len(os.sched_getaffinity(0))


class Agent(Table, frozen=True, kw_only=True):
    """``[agent]``: what concerns the whole process."""

    id: Annotated[
        str,
        Text(
            pattern=r"[\x21-\x7e]{1,256}",
            wanted="1 to 256 letters, digits and other characters of ASCII, without spaces",
        ),
    ] = ""
    """By which relays know this agent; empty: the name of the host, see :attr:`known_as`."""
    tags: Annotated[dict[str, str], Tags()] = field(default_factory=dict)
    state_dir: Annotated[str, Text(wanted="the path of a folder", empty=False)] = "/var/lib/penstock"
    runtime_dir: Annotated[str, Text(wanted="the path of a folder", empty=False)] = "/run/penstock"
    lanes: Annotated[int, IntegerOrAuto(1, 64, _processors)] = 1
    admin: Annotated[str, HostPort()] = "127.0.0.1:8690"
    admin_token: Annotated[str, Text(secret=True, chars_max=16 * KIB)] = ""
    admin_cert: Annotated[str, Text()] = ""
    admin_key: Annotated[str, Text()] = ""
    drain_timeout: Annotated[float, Duration("0s", "1h")] = 30.0
    self_metrics: Annotated[bool, Flag()] = False
    capture_ring: Annotated[int, Size("0B", "1GiB")] = 0

    @property
    def known_as(self) -> str:
        """By what name relays know this agent."""
        return self.id or re.sub(r"[^\x21-\x7e]", "_", socket.gethostname())[:256] or "unknown"


class Log(Table, frozen=True, kw_only=True):
    """``[log]``: what is told on standard error, and how."""

    level: Annotated[str, Choice("debug", "info", "warning", "error")] = "info"
    format: Annotated[str, Choice("auto", "json", "text")] = "auto"
    trace: Annotated[float, Number(0.0, 1.0)] = 0.001


_EXPIRE = "5m"

EXPIRE_INTERVALS_MAX = 65_000
"""Silence is counted in intervals, and not further."""


_TAG_NAME = r"(?!(?:time|_measurement|_field)\Z)[^\s,=\\]{1,256}"
_TAG_NAME_WANTED = "a name for a tag, without spaces, commas, equals signs and backslashes"


class Listen(Table, frozen=True, kw_only=True):
    """``[[listen]]``: one bound address and the format spoken on it.

    Which keys are for some formats or schemes only is in :data:`FORMAT_KEYS` and :data:`SCHEME_KEYS`.
    """

    address: Annotated[str, ListenAddress()]
    name: Annotated[str, Text(chars_max=256)] = ""
    """Empty in the file means the address; never empty here."""
    format: Annotated[str, Choice("line", "statsd", "graphite", "json", "msgpack", "protobuf")] = "line"
    precision: Annotated[str, Choice("ns", "us", "ms", "s", empty=True)] = ""
    """Empty in the file means the format's own, see :data:`FORMAT_PRECISION`; never empty here."""
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
    numbers: Annotated[str, Choice("float", "as_written", empty=True)] = ""
    """Empty in the file means the format's own, see :data:`FORMAT_NUMBERS`; never empty here."""
    templates: Annotated[
        tuple[str, ...], Texts('an array of strings, such as ["servers.* .host.measurement*"]', 1000)
    ] = ()
    join: Annotated[
        str, Text(pattern="[A-Za-z0-9_.-]{0,8}", wanted="up to 8 letters, digits, and any of _.-")
    ] = "_"
    max_connections: Annotated[int, Integer(1, 65_536)] = 1024
    idle_timeout: Annotated[float, Duration("0s", "1d")] = 600.0
    """0 means never."""
    cert: Annotated[str, Text(wanted="the path of a file")] = ""
    key: Annotated[str, Text(wanted="the path of a file")] = ""
    client_ca: Annotated[str, Text(wanted="the path of a file")] = ""
    tokens: Annotated[tuple[str, ...], Secrets()] = ()
    max_body: Annotated[int, Size("1KiB", "1GiB")] = 25_000_000
    database_tag: Annotated[str, Text(pattern=_TAG_NAME, wanted=_TAG_NAME_WANTED)] = ""
    bucket_tag: Annotated[str, Text(pattern=_TAG_NAME, wanted=_TAG_NAME_WANTED)] = ""
    rate: Annotated[int, Integer(0, 1_000_000_000)] = 0
    """0 means any, as with the next."""
    source_rate: Annotated[int, Integer(0, 1_000_000_000)] = 0
    burst: Annotated[float, Duration("10ms", "1h")] = 1.0
    max_sources: Annotated[int, Integer(16, 10_000_000)] = 16_384
    sources: Annotated[tuple[str, ...], Networks()] = ()
    """Networks; empty means all."""
    stream: Annotated[str, Text(pattern=STREAM_NAME, wanted=STREAM_NAME_WANTED, chars_max=255)] = ""
    """Empty means the one that has the subject."""
    subject: Annotated[str, Subject(empty=True)] = ""
    durable: Annotated[
        str, Text(pattern=STREAM_NAME, wanted=STREAM_NAME_WANTED, empty=False, chars_max=255)
    ] = "penstock"
    topic: Annotated[str, Text(pattern=TOPIC, wanted=TOPIC_WANTED)] = ""
    group: Annotated[str, Text(empty=False, chars_max=255)] = "penstock"
    max_in_flight: Annotated[int, Size("64KiB", "64GiB")] = 64 * MIB
    ca: Annotated[str, Text(wanted="the path of a file")] = ""
    insecure_skip_verify: Annotated[bool, Flag()] = False
    options: Annotated[dict[str, str], Options()] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            force_setattr(self, "name", self.address)
        if not self.precision:
            force_setattr(self, "precision", FORMAT_PRECISION.get(self.format, "ns"))
        if not self.numbers:
            force_setattr(self, "numbers", FORMAT_NUMBERS.get(self.format, "float"))


FORMAT_PRECISION: Mapping[str, str] = {"graphite": "s", "json": "s"}
"""Unit of the timestamps of a format, where it is not the nanosecond."""


FORMAT_NUMBERS: Mapping[str, str] = {"msgpack": "as_written"}
"""What whole numbers become in a format, where it is not a float. JSON's do not say what they were."""

FORMAT_KEYS: Mapping[str, tuple[str, ...]] = {
    "line": ("precision",),
    "graphite": ("precision", "templates", "join"),
    "json": ("precision", "numbers"),
    "msgpack": ("numbers",),
    "statsd": (
        "templates",
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
"""Keys of a listener that not all formats have."""

_DATAGRAM = ("receive_buffer", "max_datagram")
_LANE = ("format", "precision")
_STREAM = ("max_connections", "idle_timeout")
_TLS = ("cert", "key", "client_ca")
_RATES = ("rate", "source_rate", "burst", "max_sources")
_BROKER = ("max_in_flight", "options", "ca", "cert", "key", "insecure_skip_verify")

SCHEME_KEYS: Mapping[str, tuple[str, ...]] = {
    "udp": (*_LANE, *_RATES, *_DATAGRAM, "gro", "sources"),
    "tcp": (*_LANE, *_RATES, *_STREAM, *_TLS, "sources"),
    "unixgram": (*_LANE, *_RATES, *_DATAGRAM, "mode", "owner"),
    "unix": (*_LANE, *_RATES, *_STREAM, "max_datagram", "mode", "owner"),
    "http": (*_RATES, *_STREAM, *_TLS, "tokens", "max_body", "database_tag", "bucket_tag", "sources"),
    "nats": (*_BROKER, "stream", "subject", "durable"),
    "kafka": (*_BROKER, "topic", "group"),
}
"""Keys of a listener that not all schemes of addresses have."""

SCHEME_FORMATS: Mapping[str, tuple[str, ...]] = dict.fromkeys(("tcp", "unix"), ("line", "statsd", "graphite"))
"""What is spoken on an address of a scheme, where that is not every format."""


def strangers(known: Mapping[str, tuple[str, ...]], mine: str) -> dict[str, list[str]]:
    """The keys of *known* that *mine* does not have, each with the formats or schemes that have it."""
    return {
        key: [name for name, names in known.items() if key in names]
        for keys in known.values()
        for key in keys
        if key not in known.get(mine, ())
    }


COLLECTORS = ("cpu", "mem", "swap", "disk", "diskio", "net", "system", "processes", "penstock")
"""What ``[host]`` can say of this machine, and of the agent."""


OWN = "penstock"
"""The collector that speaks of the agent."""


class Host(Table, frozen=True, kw_only=True):
    """``[host]``: metrics of this machine, under Telegraf's names; none without the table."""

    interval: Annotated[float, Duration("1s", "1d")] = 10.0
    collectors: Annotated[tuple[str, ...], Choices(*COLLECTORS)] = COLLECTORS
    intervals: Annotated[dict[str, float], SomeDurations(COLLECTORS, "60s", "1s", "1d")] = field(
        default_factory=dict
    )
    """Of collectors that have one of their own."""
    hostname: Annotated[str, Text(chars_max=256)] = ""
    percpu: Annotated[bool, Flag()] = True
    totalcpu: Annotated[bool, Flag()] = True
    ignore_fs: Annotated[tuple[str, ...], Texts('an array of strings, such as ["tmpfs"]', 64)] = (
        *("tmpfs", "devtmpfs", "devfs", "iso9660", "overlay", "aufs", "squashfs"),
    )
    mount_points: Annotated[tuple[str, ...], Texts('an array of strings, such as ["/"]', 64)] = ()
    devices: Annotated[tuple[str, ...], Texts('an array of strings, such as ["sd*"]', 64)] = ()
    interfaces: Annotated[tuple[str, ...], Texts('an array of strings, such as ["eth*"]', 64)] = ()

    def interval_of(self, collector: str) -> float:
        """Seconds between two readings of *collector*."""
        return self.intervals.get(collector, self.interval)


class Flush(Table, frozen=True, kw_only=True):
    """``[flush]``: a batch leaves at the first of these three."""

    batch_lines: Annotated[int, Integer(1, 10_000_000)] = 5000
    batch_bytes: Annotated[int, Size("1KiB", "1GiB")] = 1 * MIB
    interval: Annotated[float, Duration("1ms", "1h")] = 0.2


class Slo(Table, frozen=True, kw_only=True):
    """``[slo]``: the objective that every output is measured by."""

    share: Annotated[float, Number(0.0, 0.999999)] = 0.999
    """0 means none."""
    within: Annotated[float, Duration("1ms", "1d")] = 1.0
    window: Annotated[float, Duration("6h", "365d")] = 30 * 86400.0


class Config(Struct, frozen=True, kw_only=True):
    """A whole configuration, checked."""

    agent: Agent = Agent()
    log: Log = Log()
    listen: tuple[Listen, ...] = ()
    host: Host | None = None
    cardinality: Cardinality | None = None
    types: Types | None = None
    collisions: Collisions | None = None
    map: tuple[Map, ...] = ()
    shape: tuple[Shape, ...] = ()
    flush: Flush = Flush()
    slo: Slo = Slo()
    output: tuple[Output, ...] = ()

    @property
    def gathered(self) -> Host | None:
        """``[host]``, and the agent's own measurements where ``self_metrics`` asks for them."""
        if not self.agent.self_metrics:
            return self.host
        host = self.host if self.host is not None else Host(collectors=())
        return replace(host, collectors=tuple(dict.fromkeys((*host.collectors, OWN))))
