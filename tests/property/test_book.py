"""The book against plain Python: any order of heads, epochs and limits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import _core
from tests.reference import book as reference

SECOND = 1_000_000_000
WINDOW = 80

names = st.sampled_from(["cpu", "http", "httpd", "m1", "m2"])
keys = st.sampled_from(["a", "b", "id", "user"])
values = st.sampled_from(["x", "y", "z", reference.OVERFLOW]) | st.integers(0, 40).map(str)
heads = st.tuples(
    names, st.lists(st.tuples(keys, values), max_size=4, unique_by=lambda tag: tag[0]).map(tuple)
)
bombs = st.tuples(heads, st.sampled_from(["id", "user", ""]), st.integers(2, 60))
policies = st.sampled_from(["overflow", "drop_tag", "drop"])
limits = st.lists(
    st.builds(
        reference.Limit,
        st.sampled_from(["*", "http*", "m?", "cpu"]),
        st.sampled_from(["", "id", "user", "a"]),
        st.integers(0, 20),
        policies,
    ),
    max_size=4,
    unique_by=lambda one: (one.measurement, one.tag),
).map(tuple)
books = st.builds(
    reference.Book,
    st.integers(1, 60),
    policies,
    st.sampled_from([0.0, 0.25, 0.5, 0.9]),
    st.booleans(),
    limits,
)
steps = st.lists(heads | bombs | st.just("epoch"), max_size=60)


def text(measurement: str, tags: reference.Tags) -> bytes:
    return ",".join([measurement, *(f"{key}={value}" for key, value in tags)]).encode()


@settings(deadline=None, max_examples=300)
@given(books, steps)
def test_the_book_does_as_plain_python_does(wanted: reference.Book, todo: list[object]) -> None:
    book = _core.Book()
    book.configure(
        wanted.max_series,
        WINDOW,
        policy=wanted.policy,
        observe=wanted.observe,
        reserve=wanted.reserve,
        limits=[
            (one.measurement.encode(), one.tag.encode(), one.max_series, one.policy) for one in wanted.limits
        ],
    )
    now = SECOND
    book.sweep(now, now)
    passed: set[bytes] = set()
    for step in todo:
        if step == "epoch":
            now += WINDOW // 8 * SECOND
            book.sweep(now, now)
            wanted.turn_epoch()
            passed.clear()
        else:
            assert isinstance(step, tuple)
            many = [step]
            if len(step) == 3:
                (measurement, tags), key, count = step
                many = [
                    (f"{measurement}{i}", tags)
                    if not key
                    else (measurement, (*(tag for tag in tags if tag[0] != key), (key, f"n{i}")))
                    for i in range(count)
                ]
            for measurement, tags in many:
                verdict, head = wanted.decide(measurement, tags)
                assert book.decide(text(measurement, tags)) == (verdict, text(measurement, head))
                if verdict in ("passes", "overflows"):
                    passed.add(text(measurement, tuple(sorted(head))))
        stats = book.stats()
        assert stats["series"] == wanted.series <= wanted.max_series
        assert stats["overflow_series"] == wanted.overflow_series
        assert len(passed) <= wanted.max_series + reference.OVERFLOW_MAX


def test_the_offender_is_told() -> None:
    book = _core.Book()
    book.configure(1000, 3600)
    book.sweep(SECOND, 5 * SECOND)
    for i in range(20):
        book.decide(b"http,host=h%d" % i)
    for i in range(3000):
        book.decide(b"http,host=h1,request_id=%d" % i)
    first = book.offenders()[0]
    assert (first["measurement"], first["tag"], first["policy"]) == ("http", "request_id", "overflow")
    assert 700 <= first["series"] <= 750 and first["refused"] == 3000 - first["series"]
    assert first["per_minute"] == pytest.approx(3000, rel=0.15)
    assert first["samples"][0] == "0" and first["count"] == 3000 and first["error"] == 0
    assert first["since_ns"] == first["last_ns"] == 5 * SECOND
    book.clear()
    assert book.offenders() == [] and book.stats()["series"] == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_series": 0}, "max_series is 0"),
        ({"window": 0.5}, "window is 0.5"),
        ({"reserve": 0.95}, "reserve is 0.95"),
        ({"limits": [(b"*", b"", 1, "")] * 65}, "65 limits"),
        ({"policy": "guess"}, "not in tuple"),
    ],
)
def test_what_is_out_of_range(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _core.Book().configure(**({"max_series": 10, "window": 60.0} | wrong))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no head"):
        _core.Book().decide(b"m,a")
