"""Graphite, remote write and OpenTelemetry alone: how fast they become lines in a ring, on one core."""

from collections.abc import Callable

from agent import _core
from agent.templates import compile_templates
from tests.bench.harness import Figure, Run, Target, check_equal
from tests.reference import wire

_MESSAGE_BYTES = 60_000
"""About what a lane gets from one receive with UDP_GRO; it stays in the processor's second cache."""

NOW_NS = 1_700_000_000_000_000_000
TIME_MS = 1_700_000_000_000

Bench = Callable[[float], dict[str, int]]


def _value(index: int) -> float:
    """Values of many digits, as sensors and counters of seconds have them."""
    return (index * 7919 % 1_000_003) / 100


def _measure(run: Run, kinds: list[tuple[str, str, Bench, Target | None]]) -> None:
    """The kinds by name, unit and measurement: metrics per second of this thread's CPU."""
    seconds = run.size(1, 0) or 0.1
    figures: list[tuple[Figure, Bench]] = [
        (run.figure(name, unit, target=target), bench) for name, unit, bench, target in kinds
    ]
    for _ in run.rounds("reading"):
        for figure, bench in figures:
            result = bench(seconds)
            check_equal(result["accepted"], result["received"], "metrics accepted")
            figure.add(result["received"] / result["cpu_ns"] * 1e3)


def _checked(data: bytes, format: str, lines: list[str], graphite: _core.Graphite | None = None) -> None:
    """What the reader makes of *data* is these lines, one by one."""
    found = _core.read_format(data, format, graphite=graphite, now_ns=NOW_NS)
    check_equal((found["received"], found["accepted"]), (len(lines), len(lines)), "metrics read")
    check_equal(found["body"].decode().splitlines() == lines, True, "every line is as it must be")


def measure_graphite(run: Run) -> None:
    """Lines of 50 bytes: as they are, with tags, and by a template."""
    count = _MESSAGE_BYTES // 50
    rows = [(f"web{index % 100:03d}", f"{_value(index):g}") for index in range(count)]
    plain = "".join(f"servers.{host}.cpu.load {value} 1700000000\n" for host, value in rows).encode()
    tagged = "".join(f"cpu.load;host={host};dc=eu1 {value} 1700000000\n" for host, value in rows).encode()
    shaped = compile_templates(["servers.* .host.measurement*", "measurement*"], "_")
    _checked(plain, "graphite", [f"servers.{host}.cpu.load value={value} {NOW_NS}" for host, value in rows])
    _checked(
        tagged, "graphite", [f"cpu.load,host={host},dc=eu1 value={value} {NOW_NS}" for host, value in rows]
    )
    _checked(
        plain, "graphite", [f"cpu_load,host={host} value={value} {NOW_NS}" for host, value in rows], shaped
    )
    unit = "M lines/core-s"
    _measure(
        run,
        [
            (
                "paths",
                unit,
                lambda seconds: _core.bench_format(plain, "graphite", seconds),
                Target(8, at_least=True),
            ),
            (
                "paths with two tags",
                unit,
                lambda seconds: _core.bench_format(tagged, "graphite", seconds),
                Target(6, at_least=True),
            ),
            (
                "paths by a template",
                unit,
                lambda seconds: _core.bench_format(plain, "graphite", seconds, graphite=shaped),
                Target(4, at_least=True),
            ),
        ],
    )


def _request(labels: int, samples: int) -> tuple[bytes, list[str]]:
    """A WriteRequest of series with so many labels beside the name and so many samples, and its lines."""
    parts, lines, size = [], [], 0
    while size < _MESSAGE_BYTES:
        index = len(parts)
        named = {f"label_{at}": f"value-{at}-{index}" for at in range(labels)}
        values = [(_value(index + at), TIME_MS + 15_000 * at) for at in range(samples)]
        parts.append(
            wire.series(
                {b"__name__": b"node_cpu_seconds_total"} | {k.encode(): v.encode() for k, v in named.items()},
                *(wire.sample(value, time) for value, time in values),
            )
        )
        head = "".join(f",{name}={value}" for name, value in named.items())
        lines += [
            f"node_cpu_seconds_total{head} value={repr(value).removesuffix('.0')} {time}000000"
            for value, time in values
        ]
        size += len(parts[-1])
    return b"".join(parts), lines


def measure_remote_read(run: Run) -> None:
    """Requests as Prometheus sends them, one sample for each series, and with more of either."""
    kinds: list[tuple[str, str, Bench, Target | None]] = []
    for labels, samples, target in ((5, 1, Target(5, at_least=True)), (10, 1, None), (5, 10, None)):
        body, lines = _request(labels, samples)
        _checked(body, "protobuf", lines)
        name = f"{labels} labels beside the name, {samples} sample{'s' * (samples > 1)} a series"
        kinds.append((name, "M samples/core-s", _bench_of(body, "protobuf"), target))
    _measure(run, kinds)


def _bench_of(body: bytes, format: str) -> Bench:
    return lambda seconds: _core.bench_format(body, format, seconds)


def measure_otlp(run: Run) -> None:
    """Gauges of two attributes, in a resource of five."""

    def attribute(number: int, key: str, value: str) -> bytes:
        return wire.data(number, wire.data(1, key.encode()), wire.data(2, wire.data(1, value.encode())))

    count = _MESSAGE_BYTES // 60
    points = [
        wire.data(
            1,
            wire.fixed64(3, NOW_NS),
            wire.double(4, _value(index)),
            attribute(7, "host", f"web{index % 100}"),
            attribute(7, "state", "idle"),
        )
        for index in range(count)
    ]
    resource = wire.data(1, *(attribute(1, f"key{at}", f"value{at}") for at in range(5)))
    metric = wire.data(2, wire.data(1, b"system.cpu.time"), wire.data(5, *points))
    body = wire.data(1, resource, wire.data(2, metric))
    shared = "".join(f",key{at}=value{at}" for at in range(5))
    _checked(
        body,
        "otlp",
        [
            f"system.cpu.time{shared},host=web{index % 100},state=idle "
            f"gauge={repr(_value(index)).removesuffix('.0')} {NOW_NS}"
            for index in range(count)
        ],
    )
    _measure(
        run,
        [("gauges, seven tags", "M points/core-s", _bench_of(body, "otlp"), Target(4, at_least=True))],
    )
