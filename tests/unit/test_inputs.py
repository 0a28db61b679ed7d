"""Inputs in a pipeline: when they start, what they are told, when they stop, and where their metrics go."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from msgspec.structs import replace

from agent import inputs
from agent.config import Agent, Config, FileOutput, Listen, Output
from agent.errors import ConfigError, ListenError
from agent.inputs.base import Input, Source
from agent.ledger import Ledger
from agent.listeners import BoundSocket
from agent.pipeline import Pipeline
from tests.conftest import wait_until


class Told(Input):
    """Notes what it is told. Reads nothing."""

    made: ClassVar[list["Told"]] = []

    def __init__(
        self, config: Listen, source: Source, sockets: Sequence[BoundSocket], open_burst: inputs.OpenBurst
    ) -> None:
        self.config, self.source, self.sockets = config, source, list(sockets)
        self.told: list[str] = []
        self.refuse = ""
        Told.made.append(self)

    def check(self, config: Listen) -> None:
        if config.max_line == 64:
            raise ListenError("refused by the test")

    def start(self) -> None:
        self.told.append("start")
        assert all(one.fd >= 0 for one in self.sockets)

    def reconfigure(self, config: Listen) -> None:
        self.told.append(f"max_line {config.max_line}")

    def stop(self, drain: float) -> None:
        assert all(one.fd >= 0 for one in self.sockets)
        self.told.append("stop")

    def beats(self) -> dict[str, int]:
        return {f"told-{self.source.number}": 7}


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Told, "made", [])
    monkeypatch.setitem(inputs.KINDS, "unixgram", Told)


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    one = Pipeline()
    yield one
    one.stop(5.0)


def config(folder: Path, *listens: Listen, outputs: Sequence[str] = ("out",)) -> Config:
    made: list[Output] = [
        FileOutput(name=name, path=str(folder / name), ring_bytes=1 << 20) for name in outputs
    ]
    return Config(
        agent=Agent(runtime_dir=str(folder), state_dir=str(folder / "state")),
        listen=listens,
        output=tuple(made),
    )


def listen(folder: Path, name: str) -> Listen:
    return Listen(address=f"unixgram://{folder}/{name}.sock", name=name)


def written(ledger: Ledger) -> dict[str, dict[str, int]]:
    return {one.name: {ring.writer: ring.written for ring in one.rings} for one in ledger.outputs}


def test_what_an_input_hands_over_reaches_every_output_and_balances(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.apply(config(tmp_path, listen(tmp_path, "a"), outputs=("one", "two")))
    [told] = Told.made
    assert told.told == ["start"]
    assert pipeline.beats()["told-0"] == 7
    assert told.source.has_room(1000)
    assert told.source.read(b"m v=1 1\nbad\nm v=2 2\n", errors_max=3)["accepted"] == 2
    assert list(pipeline.samples()) == [("a", "field", b"bad\n")]
    wait_until(lambda: sum(one.delivered for one in pipeline.ledger().outputs) == 4)
    ledger = pipeline.ledger()
    wait_until(lambda: pipeline.ledger().balance() == [])
    assert written(ledger) == {"one": {"lane-0": 0, "feed": 2}, "two": {"lane-0": 0, "feed": 2}}
    [account] = ledger.listeners
    assert (account.name, account.sockets, account.received, account.accepted) == ("a", 1, 3, 2)
    assert [lane.lane for lane in ledger.lanes] == [0, -1]


def test_an_output_has_a_feed_ring_from_when_an_input_needs_it(pipeline: Pipeline, tmp_path: Path) -> None:
    lanes_only = Listen(address="udp://127.0.0.1:0")
    pipeline.apply(config(tmp_path, lanes_only))
    assert written(pipeline.ledger()) == {"out": {"lane-0": 0}}
    assert [lane.lane for lane in pipeline.ledger().lanes] == [0]
    pipeline.apply(config(tmp_path, lanes_only, listen(tmp_path, "a")))
    assert Told.made[0].source.read(b"m v=1 1\n")["accepted"] == 1
    wait_until(lambda: written(pipeline.ledger()) == {"out": {"lane-0": 0, "feed": 1}})
    pipeline.apply(config(tmp_path, lanes_only))
    assert Told.made[0].told == ["start", "stop"]
    assert not (tmp_path / "a.sock").exists()
    # What came by it stays in the ledger.
    assert [(one.name, one.sockets, one.accepted) for one in pipeline.ledger().listeners] == [
        (lanes_only.name, 1, 0),
        ("a", 0, 1),
    ]


def test_an_input_stays_with_its_sockets_as_long_as_its_address(pipeline: Pipeline, tmp_path: Path) -> None:
    first = listen(tmp_path, "a")
    pipeline.apply(config(tmp_path, first))
    [told] = Told.made
    inode = (tmp_path / "a.sock").stat().st_ino
    pipeline.apply(config(tmp_path, first))
    assert told.told == ["start"], "nothing has changed"
    pipeline.apply(config(tmp_path, replace(first, max_line=128, name="b")))
    assert told.told == ["start", "max_line 128"]
    assert told.source.number == 1
    assert (tmp_path / "a.sock").stat().st_ino == inode
    assert len(Told.made) == 1
    told.source.read(b"m v=1 1\n")
    wait_until(lambda: [one.accepted for one in pipeline.ledger().listeners] == [0, 1])
    assert [one.sockets for one in pipeline.ledger().listeners] == [0, 1]


def test_what_an_input_cannot_follow_leaves_everything_as_it_was(pipeline: Pipeline, tmp_path: Path) -> None:
    first = listen(tmp_path, "a")
    pipeline.apply(config(tmp_path, first))
    with pytest.raises(ConfigError, match="refused by the test"):
        pipeline.apply(config(tmp_path, replace(first, max_line=64), listen(tmp_path, "b")))
    assert Told.made[0].told == ["start"]
    assert [one.told for one in Told.made[1:]] == [[]], "it was made, and never started"
    assert not (tmp_path / "b.sock").exists()


def test_an_input_that_cannot_start_undoes_the_reload(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = listen(tmp_path, "a")
    pipeline.apply(config(tmp_path, first))

    def start(self: Told) -> None:
        raise OSError("no more threads")

    monkeypatch.setattr(Told, "start", start)
    with pytest.raises(ConfigError, match="no more threads"):
        pipeline.apply(config(tmp_path, replace(first, max_line=128), listen(tmp_path, "b")))
    assert Told.made[0].told == ["start", "max_line 128", f"max_line {first.max_line}"]
    assert Told.made[1].told == ["stop"]
    assert Told.made[0].source.read(b"m v=1 1\n")["accepted"] == 1


def test_a_socket_goes_over_from_a_lane_to_an_input_and_back(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = listen(tmp_path, "a")
    monkeypatch.delitem(inputs.KINDS, "unixgram")
    pipeline.apply(config(tmp_path, one))
    inode = (tmp_path / "a.sock").stat().st_ino
    monkeypatch.setitem(inputs.KINDS, "unixgram", Told)
    pipeline.apply(config(tmp_path, one))
    assert Told.made[0].told == ["start"]
    assert [account.sockets for account in pipeline.ledger().listeners] == [1]
    monkeypatch.delitem(inputs.KINDS, "unixgram")
    pipeline.apply(config(tmp_path, one))
    assert Told.made[0].told == ["start", "stop"]
    assert [account.sockets for account in pipeline.ledger().listeners] == [1]
    assert (tmp_path / "a.sock").stat().st_ino == inode


def test_an_input_that_ended_is_a_failure(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.apply(config(tmp_path, listen(tmp_path, "a")))
    assert pipeline.failures() == []
    Told.made[0].failure = "it ended"
    assert pipeline.failures() == ["it ended"]
