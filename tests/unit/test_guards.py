"""Guards: who gets which metric by filters and shards, whatever the format; and when a guard stays."""

from pathlib import Path

from agent import config
from agent._core import Book, Feed, Guard, Lane, Plan, Ring, Waker, read_statsd
from agent.aggregation import make_aggregator
from agent.config import Cardinality, Config, FileOutput, FilterTable, Listen
from agent.config_toml import to_toml
from agent.guards import Guards, compiled, rules
from agent.watch import Watch
from tests.reference import remote_write
from tests.unit.http_rig import Rig


def output(name: str, *measurement: str, shard: str = "", **tag: tuple[str, ...]) -> FileOutput:
    return FileOutput(name=name, path=name, shard=shard, filter=FilterTable(measurement=measurement, tag=tag))


def plan(*outputs: FileOutput) -> Plan:
    return compiled(rules(outputs))


def ring() -> Ring:
    return Ring(None, 1 << 20, Waker())


def lines(ring: Ring) -> list[bytes]:
    found: list[bytes] = []
    while (batch := ring.take(1 << 24, 1 << 20, True)) is not None:
        found += bytes(memoryview(batch)).splitlines()
        batch.release()
    return found


def heads(ring: Ring) -> list[bytes]:
    return [line.split(b" ")[0] for line in lines(ring)]


# ---- whatever the format ----


def test_every_format_passes_the_guard() -> None:
    feed, cpu, rest = Feed(), ring(), ring()
    guard = Guard(plan(output("cpu", "cpu*"), output("rest", "!cpu*", dc=("eu",))))
    feed.set_layout([(b"dc", b"eu")], [cpu, rest], guard)
    assert feed.read(0, b"cpu v=1 1\nmem v=1 1\nmem,dc=us v=1 1\n")["dropped"] == {"unrouted": 1}
    assert (lines(cpu), lines(rest)) == ([b"cpu,dc=eu v=1 1"], [b"mem,dc=eu v=1 1"])
    assert feed.read(0, b"cpu.a 1 1\nmem;dc=us 1 1\n", format="graphite")["dropped"] == {"unrouted": 1}
    assert heads(cpu) == [b"cpu.a,dc=eu"]
    request = remote_write.WriteRequest()
    for name in ("cpu", "mem"):
        series = request.timeseries.add()
        series.labels.add(name="__name__", value=name)
        series.samples.add(value=1, timestamp=1)
    assert feed.read(0, request.SerializeToString(), format="protobuf")["accepted"] == 2
    assert (heads(cpu), heads(rest)) == ([b"cpu,dc=eu"], [b"mem,dc=eu"])
    feed.write(0, [("cpu", None, {"f": 1}, 1), ("mem", {"dc": "us"}, {"f": 1}, 1)])
    assert (heads(cpu), heads(rest)) == ([b"cpu,dc=eu"], [])
    stats = feed.stats()["listeners"][0]
    assert stats["received"] == stats["accepted"] + sum(stats["dropped"].values())


def test_what_one_request_adds_to_its_lines_is_not_taken_for_that_of_another() -> None:
    feed, eu, us = Feed(), ring(), ring()
    feed.set_layout((), [eu, us], Guard(plan(output("eu", db=("eu",)), output("us", db=("us", "")))))
    for _ in range(2):
        feed.read(0, b"cpu v=1 1\n", tags=[(b"db", b"eu")])
        feed.read(0, b"cpu v=2 1\n", tags=[(b"db", b"us")])
        feed.read(0, b"cpu v=3 1\n")
    assert lines(eu) == 2 * [b"cpu,db=eu v=1 1"]
    assert lines(us) == 2 * [b"cpu,db=us v=2 1", b"cpu v=3 1"]


def test_points_of_a_tick_go_where_they_belong() -> None:
    [lane], one, two = [Lane(0)], ring(), ring()
    aggregator = make_aggregator(Listen(address="udp://127.0.0.1:1", format="statsd"), 1)
    read_statsd(b"cpu:1|c\nmem:2|c\nnet:3|c\n", aggregator)
    guard = Guard(plan(output("one", "cpu"), output("two", "cpu", "mem", dc=("eu",))))
    tags = [(b"dc", b"eu")]
    assert aggregator.tick([lane], [one, two], 1, tags=tags, guard=guard) == 2
    assert heads(one) == [b"cpu,metric_type=counter,dc=eu"]
    assert sorted(heads(two)) == [b"cpu,metric_type=counter,dc=eu", b"mem,metric_type=counter,dc=eu"]
    stats = aggregator.stats()
    assert (stats["points"], stats["unrouted"], stats["ring_full"]) == (2, 1, 0)
    for target, filtered in ((one, 1), (two, 0)):
        figures = target.stats()
        assert figures["accepted"] == figures["written"] + figures["missed"]
        assert figures["filtered"] == filtered


def test_what_no_output_wants_is_no_fault_of_the_client() -> None:
    with Rig() as rig:
        rig.feed.set_layout((), [rig.ring], Guard(plan(output("cpu", "cpu"))))
        assert rig.ask("/write?db=x", b"mem v=1 1").status == 204
        assert rig.ask("/write?db=x", b"mem v=1 1\ncpu v=1 1").status == 204
        answer = rig.ask("/api/v2/write?org=o&bucket=b", b"mem v=1 1\nbad\ncpu v=1 1")
        assert answer.status == 400 and b"1 of 3 lines" in answer.body
        assert rig.ask("/api/v3/write_lp?db=x&accept_partial=false", b"mem v=1 1\ncpu v=1 1").status == 204
        assert rig.counted()["dropped"]["unrouted"] == 4
        assert rig.balanced()


# ---- when a guard stays ----


def test_a_guard_stays_as_long_as_rules_tags_and_rings_do() -> None:
    rings, other = [ring(), ring()], ring()
    outputs = (output("a", "x*"), output("b", shard="series"))
    book = Book()
    first = Guards(Config(output=outputs), book, {})
    guard = first.of("lane-0", (), rings)
    assert guard is not None
    second = Guards(Config(output=outputs), book, {}, first)
    assert second.of("lane-0", (), rings) is guard
    assert second.of("lane-1", (), rings) is not guard
    assert second.of("lane-0", [(b"dc", b"eu")], rings) is not guard
    assert Guards(Config(output=outputs), book, {}, first).of("lane-0", (), [rings[0], other]) is not guard
    changed = (output("a", "y*"), output("b", shard="series"))
    assert Guards(Config(output=changed), book, {}, first).of("lane-0", (), rings) is not guard
    assert Guards(Config(output=(output("a"), output("b"))), book, {}, first).of("lane-0", (), rings) is None
    limited = Guards(Config(output=outputs, cardinality=Cardinality(max_series=7)), book, {}, first)
    assert limited.of("lane-0", (), rings) is not guard
    # Undone, the former guards decide again.
    assert first.of("lane-0", (), rings) is guard


# ---- in the configuration ----

HEAD = '[[listen]]\naddress = "udp://127.0.0.1:1"\n[[output]]\ntype = "null"\nname = "n"\n'


def test_filters_and_shards_are_read_and_written_again(tmp_path: Path) -> None:
    file = tmp_path / "penstock.toml"
    file.write_text(
        HEAD + 'shard = "series"\n[output.filter]\nmeasurement = ["cpu", "!x"]\ntag.dc = ["eu*", ""]\n'
    )
    read = config.load(file)
    [one] = read.output
    assert one.filter == FilterTable(measurement=("cpu", "!x"), tag={"dc": ("eu*", "")})
    for defaults in (True, False):
        file.write_text(to_toml(read, defaults=defaults))
        assert config.load(file) == read
    file.write_text(HEAD)
    changes = config.diff(config.load(file), read)
    assert [change.path for change in changes] == [
        "output[n].shard",
        "output[n].filter.measurement",
        "output[n].filter.tag",
    ]


def test_what_guards_have_counted_outlives_them() -> None:
    def config_with(limit: int) -> Config:
        return Config(listen=(), output=(output("out"),), cardinality=Cardinality(max_series=limit))

    watch, feed, out = Watch(), Feed(), ring()
    watch.configure(Cardinality(max_series=100))
    book = watch.book
    first = Guards(config_with(100), book, {})
    assert first.stats() == {"unknown": 0, "given_up": 0, "rejected_unsaved": 0, "heads": 0, "bytes": 0}
    feed.set_layout([], [out], first.of("feed", [], [out]))
    feed.read(0, b"m,a=1 v=1 1\nm,a=2 v=1 1\nm,a=1 v=1 2\n")
    second = Guards(config_with(50), book, {}, first)
    feed.set_layout([], [out], second.of("feed", [], [out]))
    second.inherit(first)
    feed.read(0, b"m,a=1 v=1 3\n")
    same = Guards(config_with(50), book, {}, second)
    assert same.of("feed", [], [out]) is second.of("feed", [], [out])
    same.inherit(second)
    stats = same.stats()
    assert stats is not None and stats["unknown"] == 3
    off = Guards(Config(listen=(), output=(output("out"),)), book, {}, same)
    off.inherit(same)
    stats = off.stats()
    assert stats is not None and stats["unknown"] == 3
    assert Guards(Config(listen=(), output=(output("out"),)), book, {}).stats() is None
