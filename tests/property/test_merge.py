"""Lines of one series and one time: against plain Python, and what must hold whatever comes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agent import _core
from tests.reference.merge import Line, merge

names = st.sampled_from(["cpu", "m", "a=b", "x\\ y", "x\\,y"])
keys = st.sampled_from(["h", "host", "k\\=", "\\,"])
values = st.sampled_from(["a", "b", "\\=a", "1\\ 2", "c\\,d"])
fields = st.sampled_from(["v", "w", "v\\ 1", "a\\=b", "idle"])
texts = st.sampled_from(["1", "2i", "3u", "t", '"x"', '"a,b=\\"c d\\" \\\\"', '"two\nlines 7"', "-1e5"])
lines = st.builds(
    Line,
    names,
    st.lists(st.tuples(keys, values), max_size=3, unique_by=lambda tag: tag[0]).map(tuple),
    st.dictionaries(fields, texts, min_size=1, max_size=4),
    st.sampled_from([0, 1, 2, 9, 99, -5, 1_700_000_000_000_000_000, 2**63 - 3, 2**63 - 2]),
)


def body(many: list[Line]) -> bytes:
    return "".join(line.text() for line in many).encode()


@settings(deadline=None, max_examples=1000)
@given(st.lists(lines, max_size=30), st.booleans())
def test_bodies_are_merged_as_plain_python_does(many: list[Line], nudge: bool) -> None:
    wanted = merge(many, nudge)
    found = _core.merge_lines(body(many), nudge)
    assert found == (None if wanted is None else (body(wanted), len(wanted)))


@settings(deadline=None)
@given(st.lists(lines, max_size=30), st.booleans())
def test_what_was_merged_has_nothing_more_to_merge(many: list[Line], nudge: bool) -> None:
    found = _core.merge_lines(body(many), nudge)
    if found is not None:
        assert _core.count_lines(found[0]) == found[1] <= len(many)
        again = _core.merge_lines(found[0], nudge)
        # Only what has nowhere to go stays together: times end.
        assert again is None or any(line.time >= 2**63 - 4 for line in many)


def test_the_order_of_tags_does_not_matter() -> None:
    text = b"cpu,a=1,b=2 x=1 5\ncpu,b=2,a=1 y=2 5\ncpu,b=2,a=1 x=3 5\ncpu,b=1,a=2 x=4 5\n"
    assert _core.merge_lines(text, False) == (b"cpu,a=1,b=2 x=3,y=2 5\ncpu,b=1,a=2 x=4 5\n", 2)
    nudged = b"cpu,a=1,b=2 x=1,y=2 5\ncpu,b=2,a=1 x=3 6\ncpu,b=1,a=2 x=4 5\n"
    assert _core.merge_lines(text, True) == (nudged, 3)


def test_a_line_that_would_be_too_long_stays_as_it_is() -> None:
    long = b"m " + b",".join(b"f%d=1" % i for i in range(7000)) + b" 1\n"
    more = b"m " + b",".join(b"g%d=1" % i for i in range(7000)) + b" 1\n"
    assert len(long) < 65536 and _core.merge_lines(long + more, False) is None
    merged = _core.merge_lines(long + more + b"m last=1 1\n", False)
    assert merged is not None and merged[1] == 2 and merged[0].startswith(long[:-3] + b",last=1 1\n")


def test_many_lines_of_one_place_take_no_time_without_end() -> None:
    text = b"".join(b"m,host=a v=%d 1700000000000000000\n" % i for i in range(20000))
    assert _core.merge_lines(text, False) == (b"m,host=a v=19999 1700000000000000000\n", 1)
    nudged = _core.merge_lines(text, True)
    assert nudged is not None and nudged[1] == 20000
    assert nudged[0].endswith(b"m,host=a v=19999 1700000000000019999\n")


def test_what_is_no_line_of_ours_stays_as_it_is() -> None:
    for odd in (b"\n", b"abc", b"m v=1\n", b"m,a v=1 5\n", b"m v=1 x\n", b"m  5\n"):
        assert _core.merge_lines(odd + odd, False) is None
    assert _core.merge_lines(b"", False) is None
