"""[[map]] and [[shape]] as writers apply them, to lines, names of Graphite and samples: once a head."""

from collections.abc import Sequence

import pytest

from agent._core import Aggregator, Feed, Guard, Lane, Ring, Rules, Waker, read_statsd
from agent.aggregation import make_aggregator
from agent.config import FileOutput, FilterTable, Listen, Map, Shape, ShapeTag
from agent.guards import compiled, rules
from agent.rules import map_rule, shape_rule, template_rules
from agent.templates import compile_templates

STATSD = Listen(address="udp://127.0.0.1:8125", format="statsd", percentiles=(90.0,))


def ring() -> Ring:
    return Ring(None, 1 << 20, Waker())


def lines(ring: Ring) -> list[bytes]:
    found: list[bytes] = []
    while (batch := ring.take(1 << 24, 1 << 20, True)) is not None:
        found += bytes(memoryview(batch)).splitlines()
        batch.release()
    return found


def guard(shapes: Sequence[Shape] = (), maps: Sequence[Map] = (), *measurements: str) -> Guard:
    """For one ring, whose output wants these measurements."""
    output = FileOutput(name="one", path="one", filter=FilterTable(measurement=measurements))
    made = Rules([shape_rule(one) for one in shapes], [map_rule(one) for one in maps])
    return Guard(compiled(rules([output])), None, 0, made)


class Fed:
    """A feed with a guard and one ring."""

    def __init__(self, guard: Guard, tags: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.feed, self.ring, self.guard = Feed(), ring(), guard
        self.feed.set_layout(tags, [self.ring], guard)

    def read(self, data: bytes, **more: object) -> list[bytes]:
        self.result = self.feed.read(0, data, **more)  # type: ignore[arg-type]
        return lines(self.ring)

    def balanced(self) -> bool:
        stats, ring = self.feed.stats()["listeners"][0], self.ring.stats()
        return (
            stats["received"] == stats["accepted"] + sum(stats["dropped"].values())
            and ring["accepted"] == ring["written"] + ring["missed"]
        )


SHAPE = Shape(
    measurement=("http*",), drop_tags=("request_id",), tags={"path": ShapeTag(templates=("/user/:id",))}
)


def test_lines_are_shaped_before_outputs_choose() -> None:
    rename = Shape(measurement=("old",), rename="new")
    fed = Fed(guard([SHAPE, rename, Shape(measurement=("secret",), drop=True)], (), "http", "new"))
    data = b"http,path=/user/7,request_id=a v=1 1\nhttp,path=/x v=2 2\nold v=3\nsecret v=4 4\nmem v=5 5\n"
    for _ in range(4):
        found = fed.read(data)
        assert found[:2] == [b"http,path=/user/:id v=1 1", b"http,path=/x v=2 2"]
        assert found[2].startswith(b"new v=3 ") and len(found) == 3
        assert fed.result["dropped"] == {"denied": 1, "unrouted": 1}
    # Of those that are changed or dropped the second sight is kept.
    assert fed.guard.stats()["unknown"] == 5 + 3
    stats = fed.feed.stats()["listeners"][0]
    assert (stats["shaped"], stats["accepted"]) == (8, 12)
    assert fed.balanced()


def test_rules_see_the_tags_of_the_agent() -> None:
    shape = Shape(measurement=("cpu",), drop_tags=("dc",), add_tags={"a": "x", "host": "y"})
    fed = Fed(guard([shape]), [(b"dc", b"eu"), (b"host", b"web1")])
    assert fed.read(b"cpu,z=1 v=1 1\nmem v=1 1\n") == [
        b"cpu,a=x,host=web1,z=1 v=1 1",
        b"mem,dc=eu,host=web1 v=1 1",
    ]


def test_a_head_that_cannot_be_written_costs_the_line() -> None:
    tags = {f"t{i}": "x" for i in range(64)}
    more = {f"u{i}": "x" for i in range(36)}
    fed = Fed(guard([Shape(measurement=("a",), add_tags=tags), Shape(measurement=("a", "b"), add_tags=more)]))
    # A hundred tags make a server fail.
    assert len(fed.read(b"a v=1 1\nb v=1 1\n")) == 1
    assert fed.result["dropped"] == {"tag": 1}
    wide = Fed(guard([Shape(measurement=("m",), rename="m" * 1000)]))
    assert wide.read(b"m,k=" + b"x" * 64700 + b" v=1 1\n", line_bytes_max=65536) == []
    assert wide.result["dropped"] == {"key_too_long": 1}


GRAPHITE = [
    Map(match="servers.*.cpu.*", measurement="cpu", tags={"host": "$1", "dc": "rule"}, field="$2"),
    Map(match="debug.*", action="drop"),
    Map(match="servers.*.*", tags={"host": "$1"}),
]


def test_names_of_graphite_are_mapped() -> None:
    fed = Fed(guard((), GRAPHITE), [(b"dc", b"eu"), (b"host", b"agent")])
    data = (
        b"servers.web1.cpu.load;rack=r1 1 1\nservers.web1.cpu.a,b 2 1\nservers.web2.mem 3 1\n"
        b"debug.x 4 1\nother.name 5 1\nservers.w;host=own.cpu.y 6 1\n"
    )
    for _ in range(4):
        assert fed.read(data, format="graphite", precision="s") == [
            b"cpu,dc=rule,host=web1,rack=r1 load=1 1000000000",
            b"cpu,dc=rule,host=web1 a\\,b=2 1000000000",
            b"servers.web2.mem,dc=eu,host=web2 value=3 1000000000",
            b"other.name,dc=eu,host=agent value=5 1000000000",
            b"servers.w,host=own.cpu.y,dc=eu value=6 1000000000",
        ]
        assert fed.result["dropped"] == {"denied": 1}
    assert fed.feed.stats()["listeners"][0]["shaped"] == 12
    assert fed.balanced()


def test_a_mapped_name_is_shaped_and_goes_before_templates() -> None:
    shape = Shape(measurement=("cpu",), rename_tags={"host": "server"})
    fed = Fed(guard([shape], GRAPHITE))
    graphite = compile_templates([".host.measurement.field"], "_")
    for _ in range(3):
        found = fed.read(
            b"servers.web1.cpu.load 1 1\nservers.web1.mem.free 2 1\nservers.web1.mem 2 1\n",
            format="graphite",
            precision="s",
            graphite=graphite,
        )
        assert found == [
            b"cpu,dc=rule,server=web1 load=1 1000000000",
            b"mem,host=web1 free=2 1000000000",
            b"mem,host=web1 value=2 1000000000",
        ]


def statsd(
    data: bytes, guard: Guard, tags: Sequence[tuple[bytes, bytes]] = (), rounds: int = 3
) -> list[bytes]:
    """What a tick makes of *data*, read so many times."""
    aggregator = make_aggregator(STATSD, 1)
    target = ring()
    for _ in range(rounds):
        result = read_statsd(data, aggregator, tags=tags, rings=[target], guard=guard)
        assert result["received"] == result["accepted"] + sum(result["dropped"].values())
    tick(aggregator, target, tags)
    return sorted(lines(target))


def tick(aggregator: Aggregator, target: Ring, tags: Sequence[tuple[bytes, bytes]] = ()) -> int:
    output = FileOutput(name="one", path="one")
    decides = Guard(compiled(rules([output])))
    return aggregator.tick([Lane(0)], [target], 7, tags=tags, guard=decides)


def test_samples_of_names_that_become_one_series_are_added_up() -> None:
    found = statsd(
        b"web.eu1.hits:1|c\nweb.us1.hits:2|c\nother:3|c\n",
        guard((), [Map(match="web.*.hits", measurement="hits")]),
    )
    assert found == [b"hits,metric_type=counter value=9 7", b"other,metric_type=counter value=9 7"]


def test_samples_have_tags_and_fields_of_their_names() -> None:
    maps = [
        Map(match="web.*.*", measurement="web", tags={"host": "$1", "dc": "rule"}, field="$2"),
        Map(match="no.*", action="drop"),
    ]
    data = b"web.eu1.hits:1|c|#k:v\nweb.eu1.users:a|s\nweb.eu1.load:2|g\nno.x:1|c\nweb.eu1.late:4|c|T17\n"
    found = statsd(data, guard((), maps), [(b"dc", b"eu"), (b"z", b"1")])
    assert found == [
        b"web,dc=rule,host=eu1,k=v,metric_type=counter,z=1 hits=3 7",
        *3 * [b"web,dc=rule,host=eu1,metric_type=counter,z=1 late=4 17000000000"],
        b"web,dc=rule,host=eu1,metric_type=gauge,z=1 load=2 7",
        b"web,dc=rule,host=eu1,metric_type=set,z=1 users=1 7",
    ]


def test_a_type_with_several_fields_has_the_name_before_each() -> None:
    [line] = statsd(b"t.took:1:3|ms\n", guard((), [Map(match="t.*", measurement="t", field="$1")]), rounds=1)
    fields = [field.split(b"=")[0] for field in line.split(b" ")[1].split(b",")]
    names = ("mean", "median", "stddev", "sum", "upper", "lower", "count", "90_percentile")
    assert fields == [f"took_{name}".encode() for name in names]


def test_samples_are_shaped_as_lines_are() -> None:
    shape = Shape(measurement=("a",), drop_tags=("id",))
    data = b"a:1|c|#id:1\na:1|c|#id:2\na:1|c|#id:3,k:v\nb:1|c|#id:1\n"
    decides = guard([shape, Shape(measurement=("c",), drop=True)])
    assert statsd(data + b"c:1|c\n", decides) == [
        b"a,k=v,metric_type=counter value=3 7",
        b"a,metric_type=counter value=6 7",
        b"b,id=1,metric_type=counter value=3 7",
    ]


@pytest.mark.parametrize("field", ["", "took"])
def test_shaped_samples_are_counted(field: str) -> None:
    decides = guard((), [Map(match="a.*", measurement="a", field=field)])
    aggregator = make_aggregator(STATSD, 1)
    for _ in range(4):
        result = read_statsd(b"a.b:1|c\na.b:1|c\nx:1|c\n", aggregator, rings=[ring()], guard=decides)
        assert (result["accepted"], result["shaped"]) == (3, 2)
    assert aggregator.stats()["series"] == 2


def test_templates_are_for_statsd_too() -> None:
    made = Rules((), template_rules(["web.* .host.measurement*", "measurement*"], 1, b"."))
    output = FileOutput(name="one", path="one")
    decides = Guard(compiled(rules([output])), None, 0, made)
    assert statsd(b"web.eu1.hits.get:1|c\na.b:1|c\n", decides, rounds=1) == [
        b"a.b,metric_type=counter value=1 7",
        b"hits.get,host=eu1,metric_type=counter value=1 7",
    ]


def test_a_field_that_is_too_long_costs_the_sample() -> None:
    aggregator = make_aggregator(STATSD, 1)
    decides = guard((), [Map(match="*", field="$1")])
    data = b"x" * 256 + b":1|c\n" + b"x" * 257 + b":1|c\n" + b"x" * 257 + b":1|c|T1\n"
    result = read_statsd(data, aggregator, rings=[ring()], guard=decides)
    assert (result["accepted"], result["dropped"]) == (1, {"key_too_long": 2})
