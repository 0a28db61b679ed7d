"""What is told of the book: an account, and one line with the remedy."""

import logging
import tomllib

import pytest

from agent.config import Cardinality, CardinalityLimit
from agent.watch import OFFENDERS_MAX, Watch, remedy

SECOND = 1_000_000_000


class Clock:
    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.now = 1000 * SECOND

    def later(self, seconds: float = 1.0) -> None:
        self.now += int(seconds * SECOND)
        self.watch.look_after(self.now, self.now)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def clock(watch: Watch) -> Clock:
    return Clock(watch)


def flood(watch: Watch, measurement: str, tag: str, count: int, first: int = 0) -> None:
    for i in range(first, first + count):
        watch.book.decide(f"{measurement},{tag}=v{i},host=h1".encode())


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.__dict__["measurement"], record.__dict__["tag"])
        for record in caplog.records
        if record.message == "a tag makes too many series"
    ]


def test_without_limits_there_is_no_account(watch: Watch, clock: Clock) -> None:
    clock.later()
    assert watch.account() is None


def test_an_offender_is_told_once_with_its_remedy(
    watch: Watch, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    watch.configure(Cardinality(max_series=100))
    clock.later()
    flood(watch, "http", "request_id", 1000)
    clock.later()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.message == "a tag makes too many series"
    said = record.__dict__
    assert (said["measurement"], said["tag"], said["policy"]) == ("http", "request_id", "overflow")
    assert 70 <= said["series"] <= 75 and said["per_minute"] > 800 and said["samples"][0].startswith("v")
    shape = {"measurement": ["http"], "drop_tags": ["request_id"]}
    assert tomllib.loads(said["remedy"]) == {"shape": [shape]}
    flood(watch, "http", "request_id", 1000, first=1000)
    for _ in range(500):
        clock.later()
    assert len(caplog.records) == 1
    clock.later(200)
    assert len(caplog.records) == 2
    clock.later(2000)
    assert len(caplog.records) == 2, "nothing was refused since"


def test_all_offenders_together_are_told_once_a_minute(
    watch: Watch, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    watch.configure(Cardinality(max_series=50))
    clock.later()
    for count in (1, 300):
        for name in ("a", "b", "c"):
            flood(watch, name, "id", count)
    clock.later()
    assert len(told(caplog)) == 1
    for _ in range(59):
        clock.later()
    assert len(told(caplog)) == 1
    for _ in range(200):
        clock.later()
    assert sorted(told(caplog)) == [("a", "id"), ("b", "id"), ("c", "id")]


def test_the_account_has_the_offenders_and_stays_small(watch: Watch, clock: Clock) -> None:
    watch.configure(Cardinality(max_series=1000, mode="observe"))
    clock.later()
    for count in (1, 60):
        for name in range(40):
            flood(watch, f"m{name:02}", "id", count)
    account = watch.account()
    assert account is not None
    assert account.series <= account.series_max == 1000
    assert account.observed > 500 and account.refused == 0 and account.bytes > 0
    assert len(account.offenders) == OFFENDERS_MAX
    assert account.offenders[0].policy == "observe" and account.offenders[0].per_minute >= 50
    watch.configure(None)
    assert watch.account() is None
    watch.settle()
    assert watch.book.stats()["series"] == 0


def test_limits_come_with_a_reload_and_the_series_stay(watch: Watch, clock: Clock) -> None:
    watch.configure(Cardinality(max_series=100))
    clock.later()
    flood(watch, "http", "id", 20)
    limit = CardinalityLimit(measurement="ht*", tag="id", max_series=3, policy="drop")
    watch.configure(Cardinality(max_series=100, limit=(limit,)))
    watch.settle()
    assert watch.book.decide(b"http,id=v7,host=h1") == ("passes", b"http,id=v7,host=h1")
    for i in range(5):
        assert watch.book.decide(f"http,id=new{i}".encode())[0] == ("passes" if i < 3 else "drops")


@pytest.mark.parametrize(
    ("measurement", "tag", "samples", "wanted"),
    [
        ("a*b?", "c[d]", [], {"measurement": ["a[*]b[?]"], "drop_tags": ["c[[]d]"]}),
        ("!x", 'q"$', [], {"measurement": ["?x"], "drop_tags": ['q"$$']}),
        ("m" * 128, "t", [], {"measurement": ["m" * 128 + "*"], "drop_tags": ["t"]}),
        ("", "", ["job_1", "job_22", "job_3"], {"measurement": ["job_*"], "drop": True}),
        ("", "", ["abc", "abd*"], None),
        ("", "", [], None),
    ],
)
def test_remedies(measurement: str, tag: str, samples: list[str], wanted: dict[str, object] | None) -> None:
    text = remedy(
        {
            "measurement": measurement,
            "tag": tag,
            "count": 1,
            "error": 0,
            "series": 1,
            "refused": 1,
            "per_minute": 1,
            "samples": samples,
            "policy": "drop",
            "since_ns": 0,
            "last_ns": 0,
        }
    )
    assert tomllib.loads(text) == ({"shape": [wanted]} if wanted else {})
