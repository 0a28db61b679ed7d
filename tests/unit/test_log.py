"""Log lines: their form, what they never show, and the limit on how many of one kind leave."""

import io
import logging
import os
import pty
import random
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import orjson
import pytest

from agent import log
from agent.config import InfluxOutput

logger = logging.getLogger("agent.tested")


class Stderr(io.StringIO):
    """Standard error that says whether it is a terminal."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def lines(self) -> list[str]:
        return self.getvalue().splitlines()

    def records(self) -> list[dict[str, object]]:
        return [orjson.loads(line) for line in self.lines()]


@pytest.fixture
def stderr() -> Iterator[Stderr]:
    yield Stderr()
    log.teardown()


def test_json_line_has_time_level_logger_message_and_fields(stderr: Stderr) -> None:
    log.setup("info", "json", stderr)
    logger.warning("a batch was refused", extra={"output": "influx", "status": 400, "share": 0.5})
    (record,) = stderr.records()
    time = record.pop("time")
    assert isinstance(time, str)
    assert len(time) == len("2026-01-01T00:00:00.000000Z") and time.endswith("Z")
    assert record == {
        "level": "warning",
        "logger": "agent.tested",
        "message": "a batch was refused",
        "output": "influx",
        "status": 400,
        "share": 0.5,
    }


def test_a_field_cannot_replace_what_the_line_has_itself(stderr: Stderr) -> None:
    log.setup("info", "json", stderr)
    logger.error("here", extra={"level": "none", "time": 0})
    (record,) = stderr.records()
    assert (record["level"], record["level_"], record["time_"]) == ("error", "none", 0)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"cpu\xff value", "cpu\\xff value"),
        (Path("/run/penstock"), "/run/penstock"),
        (OSError("no space"), "no space"),
        ({"b", "a"}, ["a", "b"]),
        (1 << 70, str(1 << 70)),
        ("\ud800", "\\ud800"),
        (float("nan"), None),
        ({1: None}, {"1": None}),
    ],
)
def test_any_value_gets_into_a_json_line(stderr: Stderr, value: object, shown: object) -> None:
    log.setup("info", "json", stderr)
    logger.info("here", extra={"value": value, "other": "kept"})
    (record,) = stderr.records()
    assert record["value"] == shown
    assert (record["message"], record["other"]) == ("here", "kept")


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_secret_of_the_config_is_masked(stderr: Stderr, form: str) -> None:
    log.setup("info", form, stderr)
    output = InfluxOutput(name="i", url="http://h", token="hush-hush", password="quiet")
    logger.info("configured", extra={"config": output, "many": [output], "big": 1 << 70})
    logger.info("configured %s", output)
    assert "***" in stderr.getvalue()
    assert "hush" not in stderr.getvalue() and "quiet" not in stderr.getvalue()


def test_a_traceback_is_a_field_in_json_and_indented_in_text(stderr: Stderr) -> None:
    log.setup("info", "json", stderr)
    try:
        raise KeyError("missing")
    except KeyError:
        logger.exception("failed")
        log.setup("info", "text", stderr)
        logger.exception("failed")
    lines = stderr.lines()
    record = orjson.loads(lines[0])
    assert record["exception"].startswith("Traceback") and "KeyError: 'missing'" in record["exception"]
    assert lines[1].endswith("ERROR   tested: failed")
    assert all(line.startswith("  ") for line in lines[2:]) and lines[-1] == "  KeyError: 'missing'"


def test_text_line_quotes_what_is_not_a_plain_word(stderr: Stderr) -> None:
    log.setup("info", "text", stderr)
    logger.info(
        "ready", extra={"address": "udp://127.0.0.1:8089", "line": 'a b="c"', "empty": "", "count": 3}
    )
    assert stderr.lines()[0].endswith(
        r'INFO    tested: ready address=udp://127.0.0.1:8089 line="a b=\"c\"" empty="" count=3'
    )


def test_bytes_from_outside_stay_on_their_line_and_steer_no_terminal(stderr: Stderr) -> None:
    log.setup("info", "text", stderr)
    logger.info("bad line", extra={"line": b"x\n12:00:00.000 ERROR forged\x1b[2J\r\xe2\x80\xa8"})
    assert len(stderr.getvalue().splitlines()) == 1
    assert "\x1b" not in stderr.getvalue()
    assert r"\n12:00:00.000 ERROR forged\x1b[2J\r\u2028" in stderr.getvalue()


def test_auto_is_text_on_a_terminal_and_json_elsewhere(stderr: Stderr) -> None:
    log.setup("info", "auto", stderr)
    logger.info("one")
    stderr.terminal = True
    log.setup("info", "auto", stderr)
    logger.info("two")
    first, second = stderr.lines()
    assert orjson.loads(first)["message"] == "one"
    assert second.endswith("INFO    tested: two")


def test_standard_error_is_where_lines_go(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    try:
        with open(follower, "w", buffering=1) as terminal:
            monkeypatch.setattr(sys, "stderr", terminal)
            log.setup("info", "auto")
            logger.info("here", extra={"count": 1})
            assert os.read(leader, 4096).rstrip().endswith(b"tested: here count=1")
    finally:
        log.teardown()
        os.close(leader)


def test_the_level_is_changed_by_a_second_setup(stderr: Stderr) -> None:
    log.setup("warning", "json", stderr)
    logger.info("unheard")
    log.setup("debug", "json", stderr)
    logger.debug("heard")
    assert [record["message"] for record in stderr.records()] == ["heard"]


def test_libraries_are_heard_from_warning_on(stderr: Stderr) -> None:
    log.setup("debug", "json", stderr)
    logging.getLogger("urllib3.connectionpool").debug("POST /write?u=me&p=secret")
    logging.getLogger("urllib3.connectionpool").warning("retrying")
    assert [record["message"] for record in stderr.records()] == ["retrying"]


def test_a_closed_standard_error_harms_nobody(stderr: Stderr) -> None:
    log.setup("info", "json", stderr)
    stderr.close()
    logger.info("into the void")


class Clock:
    """Monotonic seconds that stand still until told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def _record(message: str, level: int = logging.INFO, name: str = "agent.tested") -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, message, None, None)


def test_the_eleventh_line_of_a_kind_is_held_back_and_counted() -> None:
    clock = Clock()
    limit = log.RateLimit(clock=clock)
    assert [limit.filter(_record("bad line")) for _ in range(17)] == [True] * 10 + [False] * 7
    clock.now += 9.999
    assert not limit.filter(_record("bad line"))
    clock.now += 0.001
    let_through = _record("bad line")
    assert limit.filter(let_through)
    assert vars(let_through)["suppressed"] == 8
    after = _record("bad line")
    assert limit.filter(after)
    assert "suppressed" not in vars(after)


def test_the_limit_counts_each_message_level_and_logger_by_itself() -> None:
    limit = log.RateLimit(count=1, clock=Clock())
    assert limit.filter(_record("one"))
    assert not limit.filter(_record("one"))
    assert limit.filter(_record("two"))
    assert limit.filter(_record("one", level=logging.ERROR))
    assert limit.filter(_record("one", name="agent.other"))


def test_the_limit_remembers_a_bounded_number_of_messages() -> None:
    limit = log.RateLimit(count=1, clock=Clock())
    for number in range(3 * limit.templates_max):
        assert limit.filter(_record(f"message {number}"))
    assert not limit.filter(_record(f"message {3 * limit.templates_max - 1}"))
    # The first was forgotten to make room, so it passes again.
    assert limit.filter(_record("message 0"))


def test_what_no_further_line_tells_is_told_by_a_sweep_and_once(
    stderr: Stderr, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(log, "RateLimit", partial(log.RateLimit, 2, 10.0, clock))
    log.setup("info", "json", stderr)
    for _ in range(5):
        logger.warning("bad line")
    log.sweep()
    clock.now += log.LEFT_OUT_S - 0.001
    log.sweep()
    assert len(stderr.records()) == 2 and log.suppressed() == 3
    clock.now += 0.001
    log.sweep()
    log.sweep()
    (told,) = stderr.records()[2:]
    assert (told["message"], told["of"], told["suppressed"], told["level"]) == (
        "lines of the log were left out",
        "bad line",
        3,
        "info",
    )
    # Told already.
    logger.warning("bad line")
    assert "suppressed" not in stderr.records()[-1]


def test_every_line_passes_or_is_told_of(stderr: Stderr, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, drawn = Clock(), random.Random(3)
    monkeypatch.setattr(log.RateLimit, "templates_max", 40)
    monkeypatch.setattr(log, "RateLimit", partial(log.RateLimit, 3, 10.0, clock))
    log.setup("info", "json", stderr)
    logged = 0
    for _ in range(3000):
        for _ in range(drawn.randrange(8)):
            logger.warning(f"message {min(drawn.randrange(60), drawn.randrange(60))}")
            logged += 1
        clock.now += drawn.random()
        log.sweep()
    log.sweep(everything=True)
    swept = "lines of the log were left out"
    passed = [record for record in stderr.records() if record["message"] != swept]
    held = sum(int(str(record.get("suppressed", 0))) for record in stderr.records())
    assert len(passed) + held == logged and log.suppressed() == held > 1000


def test_a_sweep_that_nobody_would_hear_forgets_nothing(
    stderr: Stderr, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(log, "RateLimit", partial(log.RateLimit, 1, 10.0, clock))
    log.setup("warning", "json", stderr)
    for _ in range(3):
        logger.warning("bad line")
    clock.now += 100
    log.sweep(everything=True)
    logger.warning("bad line")
    assert [record.get("suppressed") for record in stderr.records()] == [None, 2]


def test_loggers_of_which_every_line_is_wanted_have_no_limit(stderr: Stderr) -> None:
    log.setup("info", "json", stderr)
    for _ in range(50):
        logging.getLogger("agent.objectives").warning("an error budget burns")
    assert len(stderr.records()) == 50


def test_suppressed_is_a_field_of_the_line_that_passes(
    stderr: Stderr, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(log, "RateLimit", partial(log.RateLimit, 2, 10.0, clock))
    log.setup("info", "json", stderr)
    for number in range(5):
        logger.info("again", extra={"number": number})
    # A reload between must not open the gate.
    log.setup("info", "json", stderr)
    logger.info("again", extra={"number": 5})
    clock.now += 10
    logger.info("again", extra={"number": 6})
    records = stderr.records()
    assert [record["number"] for record in records] == [0, 1, 6]
    assert [record.get("suppressed") for record in records] == [None, None, 4]
