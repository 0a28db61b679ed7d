"""Filters and shards against the reference: what a guarded writer puts into its rings."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agent._core import Feed, Guard, Plan, Ring, Waker
from agent.patterns import compile_globs
from tests.reference.points import parse
from tests.reference.routes import Output, route

texts = st.sampled_from(
    ["a", "b.c", "é", "x y", "a,b=c", "cpu", "host", "dc", 'q"', "eu1", "eu2", "a-long.text/of some=30,bytes"]
)
points = st.lists(
    st.tuples(texts, st.dictionaries(texts, texts, max_size=4), st.just({"v": 1}), st.integers(1, 1000)),
    max_size=30,
)
globs = st.lists(
    st.tuples(
        st.sampled_from(["", "!"]),
        st.sampled_from(["*", "a*", "cpu", "?", "*=*", "[a-e]*", "[!a-e]*", "eu?", "é", "x *", "*u*1", ""]),
    ).map("".join),
    max_size=3,
)
outputs = st.lists(
    st.builds(
        Output,
        st.sampled_from(["one", "two", "three", "eu", "influx-eu-west-1.example"]),
        st.sampled_from([None, "", "g"]),
        globs,
        st.dictionaries(texts, globs, max_size=2),
        st.sampled_from(["series", "measurement"]),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda output: output.name,
)
agent_tags = st.lists(
    st.tuples(st.sampled_from([b"dc", b"host", b"a,b"]), st.sampled_from([b"eu 1", b"x"])),
    max_size=2,
    unique_by=lambda pair: pair[0],
)


def lines(ring: Ring) -> list[bytes]:
    """What waits in a ring."""
    found: list[bytes] = []
    while (batch := ring.take(1 << 24, 1 << 20, True)) is not None:
        found += bytes(memoryview(batch)).splitlines()
        batch.release()
    return found


def plan_of(wanted: list[Output]) -> Plan:
    return Plan(
        [
            (
                output.name,
                None if output.group is None else (output.shard, output.group),
                compile_globs(output.measurement),
                {key: compile_globs(values) for key, values in output.tag.items()},
            )
            for output in wanted
        ]
    )


@settings(max_examples=300)
@given(outputs, points, agent_tags)
def test_every_output_gets_what_is_for_it_and_nothing_else(
    wanted: list[Output], came: list[object], tags: list[tuple[bytes, bytes]]
) -> None:
    plain, [everything] = Feed(), rings(1)
    plain.set_layout(tags, [everything])
    plain.write(0, came)
    guarded, targets = Feed(), rings(len(wanted))
    guarded.set_layout(tags, targets, Guard(plan_of(wanted)))
    result = guarded.write(0, came)
    written = lines(everything)
    expected: dict[str, list[bytes]] = {output.name: [] for output in wanted}
    nobody = 0
    for line in written:
        [point] = parse(line + b"\n")
        names = route(wanted, point.name, dict(point.tags))
        for name in names:
            expected[name].append(line)
        nobody += not names
    for output, ring in zip(wanted, targets, strict=True):
        assert lines(ring) == expected[output.name]
        stats = ring.stats()
        assert stats["accepted"] == stats["written"] == len(expected[output.name])
        assert stats["filtered"] == result["accepted"] - len(expected[output.name])
    assert result["dropped"].get("unrouted", 0) == nobody


def rings(count: int) -> list[Ring]:
    waker = Waker()
    return [Ring(None, 1 << 20, waker) for _ in range(count)]


def test_an_output_that_is_added_takes_its_part_from_all_others_and_moves_nothing_else() -> None:
    series = [(b"cpu", {b"host": b"h%d" % i, b"dc": b"eu%d" % (i % 3)}) for i in range(4000)]
    before = [Output(name, "") for name in ("one", "two", "three")]
    moved = {"one": 0, "two": 0, "three": 0}
    for measurement, tags in series:
        [was], [now] = (
            route(before, measurement, tags),
            route([*before, Output("four", "")], measurement, tags),
        )
        if now != was:
            assert now == "four"
            moved[was] += 1
    # A quarter, within four standard deviations of a coin of one in four; a third of that from each.
    assert abs(sum(moved.values()) - 1000) < 4 * 28
    assert all(abs(count - 333) < 4 * 18 for count in moved.values())


def test_of_a_group_that_shares_measurements_one_output_gets_all_series_of_one() -> None:
    wanted = [Output(name, "", shard="measurement") for name in ("one", "two", "three")]
    feed, targets = Feed(), rings(len(wanted))
    feed.set_layout((), targets, Guard(plan_of(wanted)))
    points = [(f"m{i % 60}", {"host": f"h{i}"}, {"v": 1}, i) for i in range(600)]
    assert feed.write(0, points)["accepted"] == 600
    found = [{line.split(b",")[0] for line in lines(ring)} for ring in targets]
    assert sum(map(len, found)) == len(set.union(*found)) == 60 and min(map(len, found)) > 5
