"""What concerns several keys of a configuration: what must be unique, belong together, or not meet.

A key that is wrong in itself has been reported before; nothing is said here about what depends on it.
"""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from agent.config_broker_kinds import AGENT, KafkaConsumerOptions, NatsOptions, Options
from agent.config_schema import (
    EXPIRE_INTERVALS_MAX,
    FORMAT_KEYS,
    SCHEME_FORMATS,
    SCHEME_KEYS,
    BrokerOutput,
    FileOutput,
    HttpOutput,
    InfluxOutput,
    KafkaOutput,
    RemoteWriteOutput,
    ServerOutput,
    Table,
    strangers,
)
from agent.config_source import Source
from agent.config_values import format_duration, format_size, one_of, parse_listen_address, quote
from agent.templates import problems as template_problems

LISTENERS_MAX = 64
"""The lanes keep counters for so many."""

OUTPUTS_MAX = 16
"""A lane writes at most so many rings."""

# Which version of the write endpoint knows which key, and which it cannot do without.
_VERSIONS: dict[str, tuple[int, ...]] = {
    "org": (2,),
    "bucket": (2,),
    "token": (2, 3),
    "database": (1, 3),
    "retention_policy": (1,),
    "consistency": (1,),
    "username": (1,),
    "password": (1,),
}
_REQUIRED = {1: ("database",), 2: ("org", "bucket"), 3: ("database",)}


_TLS_KEYS = ("ca", "cert", "key", "insecure_skip_verify")

# What speaks with a broker is there if the extra of its name was installed.
_LIBRARIES = {"nats": ("nats", "nats-py"), "kafka": ("confluent_kafka", "confluent-kafka")}
_LISTEN_OPTIONS: Mapping[str, Options] = {"nats": NatsOptions(), "kafka": KafkaConsumerOptions()}
_LISTEN_REQUIRED = {
    "nats": ("subject", 'the subject of the messages, such as "metrics.>"'),
    "kafka": ("topic", "the topic that the messages are in"),
}


SCHEME_INSTEAD = {
    "sources": 'who sends by a Unix socket has no address; say who may open it with "mode" and "owner"',
}
"""What else to do than to remove a key that is for other schemes."""


class Section:
    """One table as it was read: the struct, with defaults in place of what was wrong or missing."""

    def __init__(self, path: str, table: Table, given: Mapping[str, object], wrong: frozenset[str]) -> None:
        self.path = path
        self.table: Any = table
        self.given = given
        self.wrong = wrong

    def sure(self, *keys: str) -> bool:
        """True if nothing is wrong with these keys, so that a check on them would not mislead."""
        return self.wrong.isdisjoint(keys)

    def quoted(self, key: str) -> str:
        """The value of *key* for a message: as the file has it, with its references unresolved."""
        return quote(self.given.get(key, getattr(self.table, key)))


def check_agent(source: Source, agent: Section) -> None:
    """The same for ``[agent]``."""
    for key in ("admin_cert", "admin_key"):
        if agent.sure(key) and getattr(agent.table, key):
            _check_readable(source, agent, key)
    if agent.sure("admin_cert", "admin_key") and agent.table.admin_key and not agent.table.admin_cert:
        source.report("agent.admin_cert", 'is missing; "admin_key" needs it')
    for key in ("admin_token", "admin_cert"):
        if agent.sure("admin", key) and getattr(agent.table, key) and not agent.table.admin:
            source.report(f"agent.{key}", 'is for the address of "admin", which is off; remove it')


def check(source: Source, flush: Section, listen: list[Section], output: list[Section]) -> None:
    """Report to *source* what is wrong between keys; says nothing about keys that are wrong in themselves."""
    # What seems to be missing may stand in the file that could not be read.
    if not source.unread:
        if not source.tree.get("listen", []) and "host" not in source.tree:
            source.report(
                "listen", 'nothing would be received; wanted at least one [[listen]] with an "address"'
            )
        if "output" not in source.tree or source.tree["output"] == []:
            source.report("output", "nothing would be delivered; wanted at least one [[output]]")
    most = LISTENERS_MAX - ("host" in source.tree)
    if len(listen) > most:
        source.report("listen", f"{len(listen)} listeners; at most {most} are allowed")
    for section in listen:
        if "host" in source.tree and section.sure("name") and section.table.name == "host":
            source.report(f"{section.path}.name", '"host" is taken by [host]; wanted another')
    if len(output) > OUTPUTS_MAX:
        source.report("output", f"{len(output)} outputs; at most {OUTPUTS_MAX} are allowed")
    taken = _check_unique(source, listen, "address", _bound_address)
    # The name of a listener is its address where none is given, whose repetition is told already.
    named = [one for one in listen if "name" in one.given or one not in taken]
    _check_unique(source, named, "name", lambda one: one.table.name if one.sure("name") else "")
    _check_unique(source, output, "name", lambda one: one.table.name if one.sure("name") else "")
    _check_unique(source, output, "path", _folder)
    for section in output:
        if section.sure("name") and section.table.name == "_guard":
            source.report(f"{section.path}.name", '"_guard" is taken by [types]; wanted another')
    for section in listen:
        _check_listen(source, section)
        _check_listen_tls(source, section)
        _check_listen_broker(source, section)
    _check_groups(source, output)
    for section in output:
        _check_room(source, flush, section)
        if section.sure("shard", "shard_group") and section.table.shard_group and not section.table.shard:
            source.report(f"{section.path}.shard", 'is missing; "shard_group" needs it')
        if isinstance(section.table, InfluxOutput):
            _check_version(source, section)
        if isinstance(section.table, RemoteWriteOutput):
            _check_one_authorization(source, section)
        if isinstance(section.table, HttpOutput):
            _check_credentials(source, section)
        if isinstance(section.table, BrokerOutput):
            _check_broker(source, section)
        if isinstance(section.table, ServerOutput):
            _check_tls(source, section)
            _check_retry(source, section)
            _check_spool(source, flush, section)


def check_guards(source: Source, optional: Mapping[str, Section]) -> None:
    """The same for the tables of guards, by name, those that are there."""
    cardinality = optional.get("cardinality")
    if cardinality is not None and cardinality.sure("limit"):
        first: dict[tuple[str, str], int] = {}
        for index, limit in enumerate(cardinality.table.limit):
            same = first.setdefault((limit.measurement, limit.tag), index)
            if same != index:
                source.report(
                    f"cardinality.limit[{index}]",
                    f"is for the same measurements and tag as cardinality.limit[{same}], which comes first",
                )
    types = optional.get("types")
    if types is not None and types.sure("field"):
        fields: dict[tuple[str, str], int] = {}
        for index, field in enumerate(types.table.field):
            same = fields.setdefault((field.measurement, field.field), index)
            if same != index:
                source.report(f"types.field[{index}]", f"is the same field as types.field[{same}]")


def _check_unique(
    source: Source, sections: list[Section], key: str, identity: Callable[[Section], str]
) -> list[Section]:
    """Report, and return, each section whose *identity* an earlier one has; an empty identity is nobody's."""
    first: dict[str, Section] = {}
    taken = []
    for section in sections:
        what = identity(section)
        if what and first.setdefault(what, section) is not section:
            taken.append(section)
            value = section.quoted(key)
            source.report(f"{section.path}.{key}", f"{value} is taken by {first[what].path}; wanted another")
    return taken


def _bound_address(section: Section) -> str:
    """What two listeners cannot both be bound to; empty for port 0, which stands for any free one."""
    if not section.sure("address"):
        return ""
    scheme, host, port, path, brokers = parse_listen_address(section.table.address)
    if brokers:
        # Several groups may read what one broker has.
        return ""
    if path:
        return os.path.normpath(path)
    try:
        host = ip_address(host).compressed
    except ValueError:
        host = host.lower()
    return f"{scheme} {host} {port}" if port else ""


def _folder(section: Section) -> str:
    if not isinstance(section.table, FileOutput) or not section.sure("path"):
        return ""
    return os.path.abspath(section.table.path)


def _check_listen(source: Source, section: Section) -> None:
    """Keys that mean nothing for the scheme or the format are refused: whoever sets a mode relies on it."""
    if section.sure("address"):
        scheme, format = parse_listen_address(section.table.address).scheme, section.table.format
        for key, schemes in strangers(SCHEME_KEYS, scheme).items():
            if key in section.given:
                wanted = ", ".join(f"{one}://" for one in schemes)
                wanted = " and ".join(wanted.rsplit(", ", 1))
                instead = SCHEME_INSTEAD.get(key, "remove it")
                source.report(f"{section.path}.{key}", f"is for {wanted} only; {instead}")
        if section.sure("format") and format not in (known := SCHEME_FORMATS.get(scheme, (format,))):
            source.report(
                f"{section.path}.format", f"{quote(format)} is not for {scheme}://; wanted {one_of(known)}"
            )
    if section.sure("format"):
        for key, formats in strangers(FORMAT_KEYS, section.table.format).items():
            if key in section.given:
                wanted = " or ".join(map(quote, formats))
                source.report(f"{section.path}.{key}", f"is for format = {wanted} only; remove it")
    if section.sure("templates"):
        for index, problem in template_problems(section.table.templates):
            source.report(f"{section.path}.templates[{index}]", problem)
    if section.sure("interval", "expire"):
        longest, known = max(section.table.expire.values()), section.table.interval * EXPIRE_INTERVALS_MAX
        if longest > known:
            source.report(
                f"{section.path}.expire",
                f"{format_duration(longest)} is longer than {EXPIRE_INTERVALS_MAX:,} intervals "
                f"({format_duration(known)})",
            )


def _check_listen_tls(source: Source, section: Section) -> None:
    table = section.table
    for key in ("cert", "key", "client_ca", "ca"):
        if section.sure(key) and getattr(table, key):
            _check_readable(source, section, key)
    for key in ("key", "client_ca"):
        if section.sure("cert", key) and getattr(table, key) and not table.cert:
            source.report(f"{section.path}.cert", f'is missing; "{key}" needs it')


def _check_listen_broker(source: Source, section: Section) -> None:
    """What is known only with the scheme: which key and which options a broker's listener must have."""
    scheme = parse_listen_address(section.table.address).scheme if section.sure("address") else ""
    if scheme not in _LISTEN_OPTIONS:
        return
    _check_library(source, f"{section.path}.address", scheme)
    key, wanted = _LISTEN_REQUIRED[scheme]
    if section.sure(key) and not getattr(section.table, key):
        source.report(f"{section.path}.{key}", f"is missing; wanted {wanted}")
    if section.sure("options"):
        for name, text in section.table.options.items():
            if problem := _LISTEN_OPTIONS[scheme].wrong(name, text):
                source.report(f"{section.path}.options", problem)
        if scheme == "kafka":
            _check_protocol(source, section)


def _check_broker(source: Source, section: Section) -> None:
    table = section.table
    _check_library(source, f"{section.path}.type", table.type)
    for key in ("compression", "compression_level"):
        if section.sure("format", key) and table.format == "protobuf" and key in section.given:
            source.report(
                f"{section.path}.{key}",
                'is for format = "line" only, protobuf is in snappy always; remove it',
            )
    if isinstance(table, KafkaOutput):
        if section.sure("options"):
            _check_protocol(source, section)
        rest = table.message_key.replace(AGENT, "")
        if section.sure("message_key") and ("{" in rest or "}" in rest):
            key = section.quoted("message_key")
            source.report(f"{section.path}.message_key", f"got {key}; braces stand in {quote(AGENT)} only")


def _check_library(source: Source, path: str, name: str) -> None:
    module, library = _LIBRARIES[name]
    if find_spec(module) is None:
        source.report(path, f"needs {library}, which is not installed: pip install 'penstock[{name}]'")


def _check_protocol(source: Source, section: Section) -> None:
    """librdkafka does not say that it leaves out what is not of its protocol."""
    options = section.table.options
    protocol = options.get("security.protocol", "").lower()
    tls = [key for key in _TLS_KEYS if section.sure(key) and getattr(section.table, key)]
    sasl = sorted(name for name in options if name.startswith("sasl."))
    if sasl and not protocol.startswith("sasl_"):
        source.report(
            f"{section.path}.options",
            f'{quote(sasl[0])} is of no use without "security.protocol", "SASL_SSL" or "SASL_PLAINTEXT"',
        )
    for key in tls if protocol.endswith("plaintext") else ():
        source.report(f"{section.path}.{key}", 'is for TLS, which "security.protocol" turns off')


def _check_groups(source: Source, output: list[Section]) -> None:
    """The outputs of a group share one thing."""
    first: dict[str, Section] = {}
    for section in output:
        if not section.sure("shard", "shard_group") or not section.table.shard:
            continue
        other = first.setdefault(section.table.shard_group, section)
        if other.table.shard != section.table.shard:
            source.report(
                f"{section.path}.shard",
                f"is {section.quoted('shard')}, and {other.quoted('shard')} in {other.path}: "
                "the outputs of a group share either series or measurements",
            )


def _check_readable(source: Source, section: Section, key: str) -> None:
    try:
        with open(getattr(section.table, key), "rb"):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        source.report(f"{section.path}.{key}", f"{section.quoted(key)} cannot be read: {reason}")


def _check_room(source: Source, flush: Section, section: Section) -> None:
    if not flush.sure("batch_bytes") or not section.sure("ring_bytes"):
        return
    ring, batch = section.table.ring_bytes, flush.table.batch_bytes
    if ring < 2 * batch:
        source.report(
            f"{section.path}.ring_bytes",
            f"{format_size(ring)} must be at least twice flush.batch_bytes ({format_size(batch)}), "
            "so that one batch is on its way while the next is gathered",
        )


def _check_version(source: Source, section: Section) -> None:
    """Each version has keys of its own; one that the version would ignore is refused."""
    if not section.sure("version"):
        return
    version = section.table.version
    wanted = " and ".join(quote(key) for key in _REQUIRED[version])
    for key, versions in _VERSIONS.items():
        if (
            key in section.given
            and section.sure(key)
            and getattr(section.table, key)
            and version not in versions
        ):
            known = " and ".join(str(one) for one in versions)
            source.report(
                f"{section.path}.{key}", f"is for version {known}; version {version} wants {wanted}"
            )
    for key in _REQUIRED[version]:
        if section.sure(key) and not getattr(section.table, key):
            source.report(f"{section.path}.{key}", f"is missing; version {version} wants {wanted}")


def _check_credentials(source: Source, section: Section) -> None:
    if section.sure("username", "password") and section.table.password and not section.table.username:
        source.report(f"{section.path}.username", 'is missing; "password" needs it')


def _check_one_authorization(source: Source, section: Section) -> None:
    if section.sure("token", "username") and section.table.token and section.table.username:
        source.report(f"{section.path}.token", 'a server is told one of "token" and "username"; remove one')


def _check_tls(source: Source, section: Section) -> None:
    table = section.table
    plain = isinstance(table, HttpOutput) and section.sure("url") and urlsplit(table.url).scheme == "http"
    for key in _TLS_KEYS:
        value = getattr(table, key)
        if not section.sure(key) or not value:
            continue
        if plain:
            source.report(
                f"{section.path}.{key}", 'is for "https://" only, and the url begins with "http://"'
            )
        elif isinstance(value, str):
            _check_readable(source, section, key)
    if section.sure("cert", "key") and table.key and not table.cert:
        source.report(f"{section.path}.cert", 'is missing; "key" needs it')


def _check_retry(source: Source, section: Section) -> None:
    table = section.table
    if section.sure("retry_min", "retry_max") and table.retry_min > table.retry_max:
        low, high = format_duration(table.retry_min), format_duration(table.retry_max)
        source.report(f"{section.path}.retry_min", f"{low} is longer than retry_max ({high})")


def _check_spool(source: Source, flush: Section, section: Section) -> None:
    """A spool that cannot take one batch would drop each as it comes."""
    spool = section.table.spool
    if spool is None or not flush.sure("batch_bytes") or not section.sure("spool", "spool.max_bytes"):
        return
    if spool.max_bytes < flush.table.batch_bytes:
        source.report(
            f"{section.path}.spool.max_bytes",
            f"{format_size(spool.max_bytes)} is less than one batch: flush.batch_bytes is "
            f"{format_size(flush.table.batch_bytes)}",
        )
