"""The harness itself: figures, targets, and checks that do find what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import __main__ as command
from tests.bench import native, report
from tests.bench.harness import CheckError, Figure, Lost, NotHere, Run, Target
from tests.bench.native import Body, Lines
from tests.bench.scenarios import SCENARIOS
from tests.bench.verify import check_dump


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(runs=2, quick=False, folder=tmp_path, scenario="one")


def test_a_ratio_is_that_of_the_same_round() -> None:
    figure = Figure("f", "s", target=Target(2.5, at_least=False, of_ratio=True))
    figure.add(10, 5)
    figure.add(100, 20)
    figure.add(6, 3)
    assert figure.ratios == [2, 5, 2]
    assert figure.met is True


@pytest.mark.parametrize(
    ("bound", "at_least", "met"), [(4, True, True), (6, True, False), (4, False, False), (5, False, True)]
)
def test_a_target_bounds_the_median(bound: float, at_least: bool, met: bool) -> None:
    figure = Figure("f", "s", [1, 5, 100], target=Target(bound, at_least))
    assert figure.met is met


def test_a_quick_run_has_no_targets(tmp_path: Path) -> None:
    figure = Run(1, True, tmp_path).figure("f", "s", target=Target(1, True))
    figure.add(0)
    assert figure.met is None


def test_a_round_that_lost_datagrams_is_run_again(run: Run) -> None:
    left = [Lost("one"), Lost("two")]

    def attempt() -> str:
        if left:
            raise left.pop()
        return "done"

    assert run.retry(attempt) == "done"


def test_a_round_that_always_loses_is_wrong(run: Run) -> None:
    def attempt() -> None:
        raise Lost("again")

    with pytest.raises(CheckError, match="each of 3 attempts"):
        run.retry(attempt)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(b"=1000000003i", b"=1000000004i"),
        lambda text: text + text[:117],
        lambda text: text[117:],
        lambda text: text[:-1],
        lambda text: text.replace(b"h000007", b"h000008"),
    ],
    ids=["an id twice and one not at all", "one line more", "one less", "a torn end", "another series"],
)
def test_a_dump_that_is_not_what_was_sent_is_found(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    lines = Lines()
    good = lines.text(100)
    check_dump(native.write_bodies(tmp_path / "good", [Body(good, 0, False)]), lines, 100, False)
    dump = native.write_bodies(tmp_path / "bad", [Body(spoil(good), 0, False)])
    with pytest.raises(CheckError):
        check_dump(dump, lines, 100, False)


def test_an_uncompressed_body_where_gzip_was_asked_for_is_found(tmp_path: Path) -> None:
    dump = native.write_bodies(tmp_path / "dump", [Body(Lines().text(1), 0, False)])
    with pytest.raises(CheckError, match="compressed"):
        check_dump(dump, Lines(), 1, True)


@pytest.mark.parametrize(
    ("error", "code", "key"),
    [(None, 0, ""), (CheckError("so wrong"), 1, "failures"), (NotHere("no influxd"), 0, "not_run")],
)
def test_the_command_fails_for_wrong_output_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception | None, code: int, key: str
) -> None:
    def scenario(run: Run) -> None:
        run.figure("speed", "1/s", baseline="none", target=Target(9, True)).add(1.0, 2.0)
        if error:
            raise error

    path = tmp_path / "figures.json"
    monkeypatch.delenv("PENSTOCK_REQUIRE_ALL", raising=False)
    monkeypatch.delenv("PENSTOCK_BENCH_QUICK", raising=False)
    monkeypatch.setitem(SCENARIOS, "reader", scenario)
    monkeypatch.setattr("sys.argv", ["bench", "--only", "reader", "--json", str(path)])
    assert command.main() == code
    written = json.loads(path.read_text())
    [figure] = written["figures"]
    assert (figure["median"], figure["baseline_median"], figure["ratio"]) == (1.0, 2.0, 0.5)
    assert (figure["target"], figure["met"]) == ("≥ 9", False)
    if key:
        assert written[key] == {"reader": str(error)}


def test_the_table_says_what_is_met(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.figure("slow", "GB/s", target=Target(2, True)).add(1.0)
    run.figure("fast", "GB/s", target=Target(2, True)).add(3.0)
    report.show(run, {"two": "lines [lost]"}, {})
    lines = capsys.readouterr().out.splitlines()
    assert any("slow" in line and "NOT MET" in line for line in lines)
    assert any("fast" in line and " met " in line for line in lines)
    assert "two: WRONG: lines [lost]" in lines
