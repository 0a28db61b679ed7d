"""Rules tried without a socket: what the core makes of some bytes, under a configuration.

What is read passes the same reader, rules, limits and filters as in a running agent; only what it writes is
taken here. ``penstock test`` compares that with what a file of cases expects, ``penstock check --explain``
shows what each rule has done.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent._core import Feed, Graphite, Lane, Ring, Types, Waker, read_format, read_lines, read_statsd
from agent.aggregation import make_aggregator
from agent.config import Config, Listen
from agent.config_schema import METRIC_TYPES
from agent.errors import TrialError
from agent.guards import Guards
from agent.kept_types import pin
from agent.rules import compile_rules
from agent.templates import compile_templates
from agent.watch import Watch

FORMATS = ("line", "statsd", "graphite")

_RING_BYTES = 1 << 24
_EVERYTHING = 1 << 30
_SPACES = re.compile(rb"(?<!\\) ")


class Result(NamedTuple):
    """What became of some bytes."""

    received: int
    dropped: dict[str, int]
    outputs: dict[str, list[str]]
    """The lines for each output."""


class Case(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One ``[[case]]`` of a file."""

    name: str = ""
    listener: str = ""
    format: str = ""
    input: str
    points: list[str] | None = None
    """Lines that every output gets, in any order; those without a time match any time."""
    outputs: dict[str, list[str]] = {}
    """The same for outputs by themselves."""
    drops: dict[str, int] = {}
    """Metrics by the reason for which they are dropped."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    case: list[Case]


def cases(path: Path) -> list[Case]:
    """The cases of a file. Raises TrialError."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text()), _File).case
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise TrialError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return found


def listener_for(config: Config, name: str, format: str) -> Listen:
    """The listener of that name, or the first of that format, or one by default. Raises TrialError."""
    wanted = ("name", name) if name else ("format", format or "line")
    named = [one for one in config.listen if getattr(one, wanted[0]) == wanted[1]]
    if name and not named:
        raise TrialError(f'no listener is named "{name}"')
    listen = named[0] if named else Listen(address="udp://127.0.0.1:0", format=format or "line")
    if listen.format not in FORMATS:
        raise TrialError(f'format "{listen.format}" cannot be tried; {", ".join(FORMATS)} can')
    return listen


def listener_that_reads(config: Config, data: bytes) -> Listen:
    """The first listener that understands *data*, else the first that can be tried, or one by default."""
    tried = [one for one in config.listen if one.format in FORMATS] or [Listen(address="udp://127.0.0.1:0")]
    return next((one for one in tried if _first(one, data)[0]), tried[0])


class Trial:
    """Reads what it is given as a new agent would under *config*."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._numbers = {listen.name: number for number, listen in enumerate(config.listen)}
        self._tags = [(key.encode(), value.encode()) for key, value in config.agent.tags.items()]
        self._rules = compile_rules(config, self._numbers)

    def read(self, listen: Listen, data: bytes) -> Result:
        """*data* as one message for *listen*; of StatsD with a tick behind it."""
        watch = Watch()
        watch.configure(self._config.cardinality)
        number = self._numbers.get(listen.name, len(self._numbers))
        rings = [Ring(None, _RING_BYTES, Waker()) for _ in self._config.output]
        guards = Guards(self._config, watch.book, self._numbers, types=_types(self._config))
        if listen.format == "statsd":
            aggregator = make_aggregator(listen, 1)
            guard = guards.of("lane-0", self._tags, rings)
            read = read_statsd(data, aggregator, tags=self._tags, rings=rings, guard=guard, listener=number)
            received, dropped = read["received"], read["dropped"]
            aggregator.tick([Lane(0)], rings, 0, tags=self._tags, guard=guards.of("tick", self._tags, rings))
            stats = aggregator.stats()
            for reason, points in (("unrouted", stats["unrouted"]), ("type_conflict", stats["conflicts"])):
                if points:
                    dropped[reason] = dropped.get(reason, 0) + points
        else:
            feed = Feed()
            feed.set_layout(self._tags, rings, guards.of("feed", self._tags, rings))
            found = feed.read(
                number, data, format=listen.format, precision=listen.precision, graphite=_graphite(listen)
            )
            received, dropped = found["received"], found["dropped"]
        lines = {
            output.name: list(_lines(ring, listen.format == "statsd"))
            for output, ring in zip(self._config.output, rings, strict=True)
        }
        return Result(received, dropped, lines)

    def explain(self, listen: Listen, data: bytes) -> Iterator[str]:
        """What each rule does to the first metric of *data*, and where it goes, in lines for a person."""
        series, name, metric_type = _first(listen, data)
        if not series:
            yield "not a metric that can be read: " + ", ".join(self.read(listen, data).dropped)
            return
        yield series.decode()
        if self._rules is not None:
            found = self._rules.apply(
                series,
                extra=b"".join(b",%b=%b" % (_escape(key), _escape(value)) for key, value in self._tags),
                name=name,
                listener=self._numbers.get(listen.name, len(self._numbers)),
                type=metric_type,
            )
            for stage, rule, head, dropped in found["steps"]:
                yield f"  {f'{stage}[{rule}]':12} {f'dropped, {dropped}' if dropped else head.decode()}"
            if found["field"]:
                yield f"  {'field':12} {found['field'].decode()}"
        result = self.read(listen, data)
        for reason in result.dropped:
            yield f"  {'dropped':12} {reason}"
        for output, lines in result.outputs.items():
            for line in lines or ["nothing"]:
                yield f"  {output:12} {line}"


def problems(trial: Trial, config: Config, case: Case) -> list[str]:
    """How *case* comes out otherwise than it says. Raises TrialError."""
    result = trial.read(listener_for(config, case.listener, case.format), case.input.encode())
    wrong = []
    if result.dropped != case.drops:
        wrong.append(f"dropped {_told(result.dropped)}; expected {_told(case.drops)}")
    expected = dict.fromkeys(result.outputs, case.points) if case.points is not None else {}
    for output, lines in {**expected, **case.outputs}.items():
        if output not in result.outputs:
            raise TrialError(f'no output is named "{output}"')
        wrong += [f"{output}: {one}" for one in _differences(result.outputs[output], lines or [])]
    return wrong


def _differences(found: list[str], expected: list[str]) -> Iterator[str]:
    left = list(found)
    for line in expected:
        same = [one for one in left if line in (one, one.rpartition(" ")[0])]
        if same:
            left.remove(same[0])
        else:
            yield f"missing:    {line}"
    for line in left:
        yield f"unexpected: {line}"


def _told(drops: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items())) or "nothing"


def _lines(ring: Ring, timeless: bool) -> Iterator[str]:
    """What is in *ring*. *timeless*: a time of 0 is that of the tick, and left out."""
    while (batch := ring.take(_EVERYTHING, _EVERYTHING, True)) is not None:
        for line in bytes(memoryview(batch)).decode().splitlines():
            yield line.removesuffix(" 0") if timeless else line
        batch.release()


def _types(config: Config) -> Types | None:
    """Of fields, in memory: none is known but those that are pinned."""
    if config.types is None:
        return None
    types = Types(config.types.max_fields)
    pin(types, config.types)
    return types


def _graphite(listen: Listen) -> Graphite | None:
    return compile_templates(listen.templates, listen.join) if listen.format == "graphite" else None


def _first(listen: Listen, data: bytes) -> tuple[bytes, bytes | None, int]:
    """Of the first metric: its head without rules and agent's tags, its name as it came, its type's bit."""
    if listen.format == "line":
        return _SPACES.split(read_lines(data, precision=listen.precision)["body"])[0], None, 0
    if listen.format == "graphite":
        body = read_format(data, "graphite", graphite=_graphite(listen))["body"]
        return _SPACES.split(body)[0], data.split()[0].split(b";")[0] if body else None, 0
    aggregator, ring = make_aggregator(listen, 1), Ring(None, _RING_BYTES, Waker())
    read_statsd(data.split(b"\n")[0], aggregator)
    aggregator.tick([Lane(0)], [ring], 0)
    line = next(_lines(ring, True), "").encode()
    metric_type = re.search(rb",metric_type=([a-z]+)", line)
    name = re.split(rb"[,#]", re.sub(rb"\[.*?\]", b"", data.split(b":")[0]))[0]
    bit = 1 << METRIC_TYPES.index(metric_type[1].decode()) if metric_type else 0
    return _SPACES.split(line)[0], name, bit


def _escape(text: bytes) -> bytes:
    return re.sub(rb"([, =])", rb"\\\1", text)
