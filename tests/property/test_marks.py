"""Marks: a batch with two lines of one series and time is always marked, and times that rise leave none."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from agent import _core
from agent._core import Feed, Guard, Plan, Ring, Waker
from agent.config import Config, FileOutput, Shape
from agent.patterns import compile_globs
from agent.rules import compile_rules
from tests.reference.points import Point, parse

ANY = compile_globs(())
NOW = 1_700_000_000_000_000_000

NAMES = ("cpu", "mem", "a-name.longer_than/sixteen")
TAGS = ("", ",host=a", ",host=a,dc=eu", ",host=a,request=1", ",host=a,request=2")
names, tags = st.sampled_from(NAMES), st.sampled_from(TAGS)
values = st.sampled_from(["v=1", "v=2i,w=t", "w=f", 'text="a b\\"c,d"'])


@dataclass
class Step:
    """A line, at so many nanoseconds from the newest time of all, and what is done after it."""

    head: str
    fields: str
    ahead: int | None
    """None: it has no time."""
    burst_ends: bool
    take: int
    """So many metrics at most; 0 for nothing."""
    anew: bool
    """It gets another guard, as after a reload."""


steps = st.lists(
    st.builds(
        Step,
        st.tuples(names, tags).map("".join),
        values,
        # Most times rise, so that most batches have no reason to be marked but the one that is looked for.
        st.sampled_from([1] * 20 + [3, 7, 1000] + [0] * 10 + [-1, -5, None]),
        st.booleans(),
        st.sampled_from([0, 0, 0, 1, 2, 5, 1000]),
        st.sampled_from([False] * 19 + [True]),
    ),
    max_size=40,
)


def collides(points: list[Point]) -> bool:
    places = [(point.name, point.tags, point.time_ns) for point in points]
    return len(set(places)) < len(places)


@settings(max_examples=300, deadline=None)
@given(steps, st.sampled_from([1, 2, 256]), st.booleans(), st.booleans(), st.sampled_from([1, 10**9]))
def test_a_batch_with_a_collision_is_marked(
    many: list[Step], slot_metrics: int, shaped: bool, full: bool, unit: int
) -> None:
    feed = Feed()
    rings = [Ring(None, 65536, Waker(), slot_metrics=slot_metrics, slot_bytes=1 << 16) for _ in range(2)]
    config = Config(
        output=(FileOutput(name="a", path="a"),), shape=(Shape(drop_tags=("request",)),) if shaped else ()
    )
    rules = compile_rules(config, {})
    plan = Plan([("all", None, ANY, {}), ("cpu", None, compile_globs(("cpu",)), {})])

    def connect() -> None:
        feed.set_layout((), rings, Guard(plan, rules=rules, collisions=True))

    def look(most: int) -> None:
        for ring in rings:
            while (batch := ring.take(1 << 24, most, True)) is not None:
                body = bytes(memoryview(batch))
                if collides(parse(body)):
                    assert batch.marked, body
                if batch.marked:
                    assert batch.merge(True) == _core.merge_lines(body, True)
                batch.release()
                if most < 1000:
                    break

    def read(text: str) -> None:
        feed.read(0, text.encode(), precision="ns" if unit == 1 else "s")

    connect()
    # Heads that are new mark whatever they are in: here they are known, twice over.
    newest = NOW // unit
    for time in (newest, newest + 1):
        read("".join(f"{name}{tag} v=1 {time}\n" for name in NAMES for tag in TAGS))
    look(1 << 30)
    if full:
        # The first one soon has no room: what it misses is in the other one all the same.
        rings[0].put(b'full text="%s" 1\n' % bytes(b"x" * 63500))
    newest += 1
    text = ""
    for step in many:
        if step.ahead is None:
            text += f"{step.head} {step.fields}\n"
        else:
            text += f"{step.head} {step.fields} {newest + step.ahead}\n"
            newest = max(newest, newest + step.ahead)
        if step.burst_ends or step.take or step.anew:
            read(text)
            text = ""
        if step.take:
            look(step.take)
        if step.anew:
            connect()
    read(text)
    look(1 << 30)


@settings(deadline=None)
@given(st.sets(st.tuples(names, tags), min_size=1), st.lists(values, min_size=1))
def test_times_that_rise_leave_no_mark(heads: set[tuple[str, str]], fields: list[str]) -> None:
    feed, ring = Feed(), Ring(None, 1 << 20, Waker())
    feed.set_layout((), [ring], Guard(Plan([("all", None, ANY, {})]), collisions=True))

    def read(time: str, fields: str = "v=1") -> bool:
        feed.read(0, "".join(f"{name}{tag} {fields}{time}\n" for name, tag in heads).encode())
        batch = ring.take(1 << 24, 1 << 20, True)
        assert batch is not None
        marked = batch.marked
        batch.release()
        return marked

    assert read(" -7"), "heads that are new"
    for place, number in enumerate((-6, 0, 1, 2, 9, 10, 99_999_999, 100_000_000, NOW, NOW + 1)):
        assert not read(f" {number}", fields[place % len(fields)])
    assert not read("") and not read("") and read(f" {NOW}") and not read("")


def test_heads_that_become_one_always_leave_a_mark() -> None:
    feed, ring = Feed(), Ring(None, 1 << 20, Waker())
    config = Config(output=(FileOutput(name="a", path="a"),), shape=(Shape(drop_tags=("request",)),))
    plan = Plan([("all", None, ANY, {})])
    feed.set_layout((), [ring], Guard(plan, rules=compile_rules(config, {}), collisions=True))
    for time in range(10):
        feed.read(0, b"cpu,request=1 v=1 %d\ncpu,request=2 w=1 %d\n" % (time, time))
        batch = ring.take(1 << 24, 1 << 20, True)
        assert batch is not None and batch.marked
        assert batch.merge(False) == (b"cpu v=1,w=1 %d\n" % time, 1)
        batch.release()


def test_off_there_is_no_mark() -> None:
    feed, ring = Feed(), Ring(None, 1 << 20, Waker())
    for guard in (None, Guard(Plan([("all", None, ANY, {})]))):
        feed.set_layout((), [ring], guard)
        feed.read(0, b"cpu v=1 1\ncpu v=2 1\n")
        batch = ring.take(1 << 24, 1 << 20, True)
        assert batch is not None and not batch.marked
        batch.release()


def test_a_mark_goes_with_its_run() -> None:
    """Slots are used again and again: what is marked is the run, not the place."""
    ring = Ring(None, 1 << 20, Waker())
    for number in range(3 * 65536):
        assert ring.put(b"m v=1 1\n", marked=number % 7 == 0)
        if number % 1000 != 999:
            continue
        for at in range(number - 999, number + 1):
            batch = ring.take(1, 1, True)
            assert batch is not None and batch.marked == (at % 7 == 0)
            batch.release()
