"""All guards at once, in order: names mapped, heads shaped, series counted, types kept, outputs chosen."""

from agent._core import Feed, Lane, Ring, Types, Waker, read_statsd
from agent.aggregation import make_aggregator
from agent.config import (
    Cardinality,
    CardinalityLimit,
    Config,
    FileOutput,
    FilterTable,
    Listen,
    Map,
    Shape,
    TypesField,
)
from agent.config import Types as TypesConfig
from agent.guards import Guards
from agent.kept_types import pin
from agent.watch import Watch

KEPT = TypesConfig(field=(TypesField(measurement="requests", field="ms", type="integer"),))

CONFIG = Config(
    map=(Map(match="web.*.ms", measurement="http", tags={"host": "$1"}, field="ms"),),
    shape=(Shape(measurement=("http",), rename="requests", drop_tags=("id",)),),
    cardinality=Cardinality(reserve=0.0, limit=(CardinalityLimit(measurement="requests", max_series=1),)),
    types=KEPT,
    output=(
        FileOutput(
            name="requests",
            path="requests",
            filter=FilterTable(measurement=("requests",), tag={"host": ("a", "__overflow__")}),
        ),
        FileOutput(name="rest", path="rest", filter=FilterTable(measurement=("!requests",))),
    ),
)


class Stages:
    """Guards of a new agent, and the rings of its two outputs."""

    def __init__(self) -> None:
        watch, types = Watch(), Types(1000)
        watch.configure(CONFIG.cardinality)
        pin(types, KEPT)
        self.guards = Guards(CONFIG, watch.book, {}, types=types)
        self.rings = [Ring(None, 1 << 20, Waker()) for _ in CONFIG.output]

    def lines(self) -> list[bytes]:
        """For the first output; for the other there are none."""
        found: list[list[bytes]] = []
        for ring in self.rings:
            batch = ring.take(1 << 24, 1 << 20, True)
            found.append(bytes(memoryview(batch)).splitlines() if batch is not None else [])
            if batch is not None:
                batch.release()
        assert found[1] == []
        return found[0]


def test_lines_and_names_pass_all_stages() -> None:
    stages, feed = Stages(), Feed()
    feed.set_layout((), stages.rings, stages.guards.of("feed", (), stages.rings))
    one_series = b"http,host=a,id=1 ms=1 1\nhttp,host=a,id=2 ms=2i 2\n"
    assert feed.read(0, one_series + b'http,host=b,id=3 ms=3 3\nhttp,host=b,id=4 ms="x" 4\n')["dropped"] == {
        "type_conflict": 1
    }
    assert stages.lines() == [
        b"requests,host=a ms=1i 1",
        b"requests,host=a ms=2i 2",
        b"requests,host=__overflow__ ms=3i 3",
    ]
    # It was moved on in time, as all of an overflow series are.
    assert stages.guards.take_rejected() == [(b'requests,host=__overflow__ ms="x" 5', "integer", "string")]
    stats = feed.stats()["listeners"][0]
    assert (stats["accepted"], stats["shaped"], stats["overflowed"]) == (3, 3, 1)
    assert (stats["coerced"], stats["fields_rejected"]) == (2, 1)
    feed.read(0, b"web.a.ms 5 6\nweb.c.ms 7 8\n", format="graphite")
    assert [line.rpartition(b" ")[0] for line in stages.lines()] == [
        b"requests,host=a ms=5i",
        b"requests,host=__overflow__ ms=7i",
    ]


def test_samples_pass_all_stages() -> None:
    stages, aggregator = Stages(), make_aggregator(Listen(address="udp://127.0.0.1:1", format="statsd"), 1)
    lane = stages.guards.of("lane-0", (), stages.rings)
    data = b"web.a.ms:1|c\nweb.d.ms:2|c\nweb.e.ms:3|c\n"
    result = read_statsd(data, aggregator, rings=stages.rings, guard=lane)
    assert (result["accepted"], result["shaped"], result["overflowed"]) == (3, 3, 2)
    tick = stages.guards.of("tick", (), stages.rings)
    assert aggregator.tick([Lane(0)], stages.rings, 7, guard=tick) == 2
    assert stages.lines() == [
        b"requests,host=a,metric_type=counter ms=1i 7",
        b"requests,host=__overflow__,metric_type=counter ms=5i 7",
    ]
    # With a time of their own they pass at once.
    data = b"web.a.ms:4:1|c|T9\nweb.f.ms:4|c|T9\nweb.a.ms:4.5|c|T9\n"
    result = read_statsd(data, aggregator, rings=stages.rings, guard=lane)
    assert [line.rpartition(b" ")[0] for line in stages.lines()] == [
        b"requests,host=a,metric_type=counter ms=5i",
        b"requests,host=__overflow__,metric_type=counter ms=4i",
    ]
    assert (result["accepted"], result["shaped"], result["overflowed"]) == (3, 3, 1)
    assert (result["coerced"], result["fields_rejected"], result["dropped"]) == (3, 1, {"type_conflict": 1})
