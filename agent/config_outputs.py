"""The structs of outputs: what all have, what those have that send to a server, and one for each type."""

from ipaddress import ip_address
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from msgspec import field

from agent.config_broker_kinds import (
    AGENT,
    STREAM_NAME,
    STREAM_NAME_WANTED,
    TOPIC,
    TOPIC_WANTED,
    Addresses,
    KafkaOptions,
    NatsOptions,
    Subject,
)
from agent.config_globs import Globs, TagGlobs
from agent.config_kinds import Choice, Duration, Flag, Headers, Inner, Integer, Number, Size, Text, Url
from agent.config_table import Table
from agent.config_values import GIB, KIB, MIB


class FilterTable(Table, frozen=True, kw_only=True):
    """``[output.filter]``: which metrics an output gets."""

    measurement: Annotated[tuple[str, ...], Globs()] = ()
    tag: Annotated[dict[str, tuple[str, ...]], TagGlobs()] = field(default_factory=dict)


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
    shard: Annotated[str, Choice("series", "measurement", empty=True)] = ""
    """Of the outputs of its group one gets each series, or each measurement;
    empty: it gets all of them."""
    shard_group: Annotated[str, Text(chars_max=256)] = ""
    filter: Annotated[FilterTable, Inner(FilterTable)] = FilterTable()


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


class ServerOutput(Destination, frozen=True, kw_only=True):
    """What outputs have in common that send to a server: time limits, retries, certificates, a spool."""

    max_concurrency: Annotated[int, Integer(1, 64)] = 4
    connect_timeout: Annotated[float, Duration("1ms", "10m")] = 5.0
    response_timeout: Annotated[float, Duration("1ms", "1h")] = 30.0
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
    def target(self) -> str:
        """Where it sends to, for people and without credentials."""
        raise NotImplementedError


class HttpOutput(ServerOutput, frozen=True, kw_only=True):
    """What outputs have in common that post to a server over HTTP."""

    url: Annotated[str, Url()]
    tls_timeout: Annotated[float, Duration("1ms", "10m")] = 10.0
    idle_timeout: Annotated[float, Duration("1ms", "1h")] = 30.0

    @property
    def target(self) -> str:
        return self.url


class InfluxOutput(HttpOutput, frozen=True, kw_only=True, tag_field="type", tag="influxdb"):
    """An InfluxDB, or whatever takes one of its three write endpoints."""

    type: ClassVar[Literal["influxdb"]] = "influxdb"
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


class RemoteWriteOutput(HttpOutput, frozen=True, kw_only=True, tag_field="type", tag="remote_write"):
    """Whatever takes Prometheus remote write. *url* has the path of its endpoint, and its query.

    The defaults of ``max_concurrency`` and ``order`` are those that Prometheus itself needs: it refuses
    samples of a series that come out of the order of their times.
    """

    type: ClassVar[Literal["remote_write"]] = "remote_write"
    url: Annotated[str, Url(query=True)]
    protocol: Annotated[str, Choice("1.0", "2.0")] = "1.0"
    token: Annotated[str, Text(secret=True, chars_max=16 * KIB)] = ""
    username: Annotated[str, Text()] = ""
    password: Annotated[str, Text(secret=True)] = ""
    headers: Annotated[dict[str, str], Headers()] = field(default_factory=dict)
    max_concurrency: Annotated[int, Integer(1, 64)] = 1
    order: Annotated[str, Choice("fresh_first", "oldest_first")] = "oldest_first"


class FileOutput(Destination, frozen=True, kw_only=True, tag_field="type", tag="file"):
    """A folder of rotated files of line protocol, or of samples of remote write."""

    type: ClassVar[Literal["file"]] = "file"
    path: Annotated[str, Text(wanted="the path of a folder", empty=False)]
    format: Annotated[str, Choice("line", "protobuf")] = "line"
    rotate_bytes: Annotated[int, Size("1KiB", "64GiB")] = 64 * MIB
    rotate_interval: Annotated[float, Duration("100ms", "30d")] = 3600.0
    compression: Annotated[str, Choice("none", "gzip")] = "none"
    max_files: Annotated[int, Integer(0, 1_000_000)] = 100


class NullOutput(Destination, frozen=True, kw_only=True, tag_field="type", tag="null"):
    """Takes everything and keeps nothing: for measuring, and for trying a configuration."""

    type: ClassVar[Literal["null"]] = "null"


class BrokerOutput(ServerOutput, frozen=True, kw_only=True):
    """What outputs have in common that publish batches, each as one message, for a relay to take."""

    format: Annotated[str, Choice("line", "protobuf")] = "line"
    compression: Annotated[str, Choice("gzip", "none")] = "gzip"
    """Of lines; protobuf is in snappy always."""
    compression_level: Annotated[int, Integer(0, 3)] = 2


class NatsOutput(BrokerOutput, frozen=True, kw_only=True, tag_field="type", tag="nats"):
    """A stream of NATS JetStream.

    It confirms within milliseconds, or, when its leader dies in between, never.
    """

    type: ClassVar[Literal["nats"]] = "nats"
    response_timeout: Annotated[float, Duration("1ms", "1h")] = 5.0
    servers: Annotated[tuple[str, ...], Addresses("nats", "tls", port=4222)] = ("nats://127.0.0.1:4222",)
    subject: Annotated[str, Subject(agent=True)]
    stream: Annotated[str, Text(pattern=STREAM_NAME, wanted=STREAM_NAME_WANTED, chars_max=255)] = ""
    """That takes the subject, if it must be a certain one."""
    options: Annotated[dict[str, str], NatsOptions()] = field(default_factory=dict)

    @property
    def target(self) -> str:
        return f"{','.join(self.servers)} {self.subject}"


class KafkaOutput(BrokerOutput, frozen=True, kw_only=True, tag_field="type", tag="kafka"):
    """A topic of Kafka, or of what speaks its protocol."""

    type: ClassVar[Literal["kafka"]] = "kafka"
    brokers: Annotated[tuple[str, ...], Addresses(port=9092)] = ("127.0.0.1:9092",)
    topic: Annotated[str, Text(pattern=TOPIC, wanted=TOPIC_WANTED, empty=False)]
    message_key: Annotated[str, Text(chars_max=256)] = AGENT
    """By which a message gets its partition; empty: any. ``key`` is a file here as everywhere."""
    options: Annotated[dict[str, str], KafkaOptions()] = field(default_factory=dict)

    @property
    def target(self) -> str:
        return f"kafka://{','.join(self.brokers)} {self.topic}"


Output = InfluxOutput | RemoteWriteOutput | NatsOutput | KafkaOutput | FileOutput | NullOutput

OUTPUT_TYPES: dict[str, type[Output]] = {
    one.type: one
    for one in (InfluxOutput, RemoteWriteOutput, NatsOutput, KafkaOutput, FileOutput, NullOutput)
}
"""The struct of each ``type`` of an output."""

OUTPUT_TYPE = Choice(*OUTPUT_TYPES)
