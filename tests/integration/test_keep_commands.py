"""``penstock spool`` and ``penstock rejected``, with an agent that runs and with none."""

import json
import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.store.spool_file import metrics_of
from tests.conftest import wait_until
from tests.integration.agent_process import ROOT, AgentProcess, free_port, send_udp
from tests.integration.fake_influxdb import Answer, FakeInfluxDB
from tests.unit.spool_folder import Rig, end_all

CONFIG = """
[[listen]]
address = "udp://127.0.0.1:{port}"
[flush]
interval = "20ms"
[[output]]
name = "influx"
type = "influxdb"
url = "{url}"
org = "an org"
bucket = "metrics"
token = "t0ken=="
retries = 0
retry_min = "10ms"
retry_max = "200ms"
{more}
[output.spool]
min_free_space = "0B"
"""


class Bench:
    """An agent, its server, and the command."""

    def __init__(self, folder: Path, more: str = "", spool: bool = True) -> None:
        self.server = FakeInfluxDB(2)
        self.port = free_port()
        config = CONFIG.replace("{port}", str(self.port)).replace("{url}", self.server.url)
        if not spool:
            config = config.partition("[output.spool]")[0] + "spool = false\n"
        self.agent = AgentProcess(folder, config.replace("{more}", more))
        self.spool = self.agent.state_dir / "spool" / "influx"
        self.rejected = self.agent.state_dir / "rejected" / "influx"

    def down(self) -> None:
        self.server.rule = lambda: Answer(503)

    def up(self) -> None:
        self.server.rule = lambda: None

    def names(self, folder: Path) -> list[str]:
        if not folder.exists():
            return []
        return sorted(name for name in os.listdir(folder) if name.endswith((".lp", ".lp.gz")))

    def waiting(self) -> int:
        return sum(metrics_of(name) or 0 for name in self.names(self.spool))

    def fill(self, count: int, first: int = 0) -> None:
        """Have *count* metrics in the spool, one by one, with the server down."""
        self.down()
        for number in range(first, first + count):
            before = self.waiting()
            send_udp(self.port, b"m v=%di %d" % (number, 10**18 + number))
            wait_until(lambda before=before: self.waiting() == before + 1, what=self.agent.log_text())

    def refuse(self, count: int) -> None:
        """Have *count* metrics that are rejected, each in a file of its own."""
        self.server.refuse = lambda line: "parse: bad v" if b"bad=" in line else ""
        for number in range(count):
            before = len(self.names(self.rejected))
            send_udp(self.port, b"m bad=%di %d" % (number, 10**18 + number))
            wait_until(lambda before=before: len(self.names(self.rejected)) == before + 1)

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """What the command prints; errors behind."""
        config = ["-c", str(self.agent.config_path)]
        command = [sys.executable, "-m", "agent", *map(str, arguments), *config]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, (done, self.agent.log_text())
        return done.stdout + done.stderr

    def balanced(self) -> None:
        self.agent.wait_for(lambda status: status["ledger"]["balance"] == "balanced")


def make(folder: Path, more: str = "", spool: bool = True) -> Iterator[Bench]:
    bench = Bench(folder, more, spool)
    try:
        with bench.agent:
            yield bench
    finally:
        bench.server.close()
        end_all()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from make(tmp_path)


@pytest.fixture
def spoolless(tmp_path: Path) -> Iterator[Bench]:
    yield from make(tmp_path, spool=False)


def line(number: int) -> bytes:
    return b"m v=%di %d\n" % (number, 10**18 + number)


def test_looking_needs_no_agent_and_disturbs_none(bench: Bench) -> None:
    bench.fill(3)
    for running in (True, False):
        if not running:
            bench.agent.stop()
        names = bench.names(bench.spool)
        text = bench("spool", "ls")
        assert text.split()[-10:-8] == ["influx", str(len(names))], text
        found = json.loads(bench("spool", "ls", "influx", "--json"))
        assert [one["name"] for one in found] == names
        assert names[0] in bench("spool", "ls", "influx")
        assert bench("spool", "show", "influx", *names).encode() == b"".join(map(line, range(3)))
        assert bench("spool", "verify") == f"{len(names)} files, 3 metrics, 0 damaged\n"
    (bench.spool / names[0]).write_bytes(b"damaged")
    assert bench("spool", "verify", "influx", code=1).startswith(f"influx/{names[0]}: the checksum")
    assert len(bench.names(bench.spool)) == len(names)
    assert "name a file as ls does" in bench("spool", "show", "influx", "../../x/y", code=2)
    assert "No such file" in bench("spool", "show", "influx", "missing", code=1)
    assert "wanted the name of an output" in bench("spool", "ls", "../etc", code=2)


def test_long_work_shows_a_bar_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text(f'[agent]\nstate_dir = "{tmp_path}"\n')
    rig = Rig(tmp_path / "spool" / "influx")
    for at in range(20):
        rig.put(at=at)
    leader, terminal = pty.openpty()
    command = [sys.executable, "-m", "agent", "spool", "verify", "-c", tmp_path / "penstock.toml"]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=terminal, timeout=60)
    os.close(terminal)
    assert (done.returncode, done.stdout) == (0, b"20 files, 60 metrics, 0 damaged\n")
    assert b"20/20" in os.read(leader, 1 << 16)
    os.close(leader)
    rig.spool.close()


def test_a_running_agent_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    bench.fill(3)
    more = tmp_path / "more.lp"
    more.write_bytes(b"# brought\n" + line(7) + line(8))
    assert "2 metrics added" in bench("spool", "replay", "influx", more, "--no-wait")
    assert bench("spool", "replay", "influx", "--timeout", "300ms", code=1).endswith(
        "5 metrics are still in the spool\n"
    )
    bench.up()
    bench("spool", "replay", "influx")
    assert bench.server.lines == {line(number) for number in (0, 1, 2, 7, 8)}
    assert bench.waiting() == 0 and not bench.server.problems
    bench.balanced()


def test_without_an_agent_the_command_delivers(bench: Bench, tmp_path: Path) -> None:
    bench.fill(3)
    bench.agent.stop()
    more = tmp_path / "more.lp"
    more.write_bytes(line(7) + b"m bad=1i 5\n")
    bench.server.refuse = lambda line: "parse: bad v" if b"bad=" in line else ""
    text = bench("spool", "replay", "influx", more, "--timeout", "1s", code=1)
    assert "2 metrics added" in text and "0 metrics delivered, 0 rejected" in text
    assert "5 metrics are still in the spool" in text and "503" in text
    assert bench.waiting() == 5
    bench.up()
    assert "4 metrics delivered, 1 rejected" in bench("spool", "replay", "influx")
    assert bench.server.lines == {line(number) for number in (0, 1, 2, 7)}
    assert bench.waiting() == 0 and not bench.server.problems
    (name,) = bench.names(bench.rejected)
    assert bench("rejected", "show", "influx", name).endswith("m bad=1i 5\n")
    assert "is no output of the configuration" in bench("spool", "replay", "other", code=1)


@pytest.mark.parametrize("running", [True, False])
def test_files_of_a_spool_are_dropped(bench: Bench, running: bool) -> None:
    bench.fill(4)
    if not running:
        bench.agent.stop()
    names = bench.names(bench.spool)
    assert bench("spool", "drop", "influx", names[0], names[0]) == "1 files removed\n"
    assert bench("spool", "drop", "influx", "--older-than", "1h") == "0 files removed\n"
    # What is being tried at that moment goes when that has failed.
    wait_until(lambda: bench.names(bench.spool) == names[1:])
    assert bench("spool", "drop", "influx", "--older-than", "0s") == f"{len(names) - 1} files removed\n"
    wait_until(lambda: bench.names(bench.spool) == [])
    assert "name some files" in bench("spool", "drop", "influx", code=2)
    if running:
        bench.balanced()
        (output,) = bench.agent.status()["outputs"]
        assert output["ledger"]["dropped"]["spool_dropped"] == 4


@pytest.mark.parametrize("running", [True, False])
def test_what_was_refused_is_shown_sent_once_more_or_dropped(bench: Bench, running: bool) -> None:
    bench.refuse(3)
    if not running:
        bench.agent.stop()
    names = bench.names(bench.rejected)
    assert names[1] in bench("rejected", "ls", "influx") and "bad v" in bench("rejected", "ls", "influx")
    shown = bench("rejected", "show", "influx", names[0]).splitlines()
    assert shown[0].startswith("# ") and "400" in shown[0] and "bad v" in "".join(shown[:-1])
    assert shown[-1] == f"m bad=0i {10**18}"
    assert bench("rejected", "drop", "influx", names[0]) == "1 files removed\n"
    bench.server.refuse = lambda line: ""
    assert "1 metrics of 1 files go once more" in bench("rejected", "retry", "influx", names[1])
    assert "1 metrics of 1 files go once more" in bench("rejected", "retry", "influx", "--all")
    assert bench.names(bench.rejected) == []
    assert "there is no" in bench("rejected", "retry", "influx", names[1], code=1)
    bench("spool", "replay", "influx")
    assert bench.server.lines == {b"m bad=%di %d\n" % (number, 10**18 + number) for number in (1, 2)}
    if running:
        bench.balanced()


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "no more guarded"])
def test_what_the_type_guard_left_out_is_shown_and_dropped_but_not_sent_as_it_is(
    bench: Bench, tmp_path: Path, running: bool, guarded: bool
) -> None:
    config = bench.agent.config_path.read_text()
    pinned = '[types]\n[[types.field]]\nmeasurement = "m"\nfield = "v"\ntype = "integer"\n'
    bench.agent.config_path.write_text(f"{config}{pinned}")
    assert bench.agent.reload()["applied"]
    folder = bench.agent.state_dir / "rejected" / "_guard"
    for number in range(3):
        before = len(bench.names(folder))
        send_udp(bench.port, b'm v="%d" %d' % (number, 10**18 + number))
        wait_until(lambda before=before: len(bench.names(folder)) == before + 1)
    if not guarded:
        # What is there stays, for the commands, also after a restart.
        bench.agent.config_path.write_text(config)
        assert bench.agent.stop() == 0
        bench.agent.spawn()
        bench.agent.wait_notified("READY", 3)
    if not running:
        bench.agent.stop()
    names = bench.names(folder)
    assert "_guard" in bench("rejected", "ls")
    assert names[1] in bench("rejected", "ls", "_guard")
    shown = bench("rejected", "show", "_guard", names[0]).splitlines()
    assert 'type conflict: field "v" of "m" is integer, came as string "0"' in "".join(shown[:-1])
    assert shown[-1] == f'm v="0" {10**18}'
    for which in (names[0], "--all"):
        refused = bench("rejected", "retry", "_guard", which, code=1)
        assert "would be left out once more" in refused and "penstock spool replay OUTPUT COPY" in refused
    assert bench("rejected", "drop", "_guard", names[0]) == "1 files removed\n"
    assert bench.names(folder) == names[1:]
    # As it says: mended in a copy, past the guards.
    copy = tmp_path / "copy.lp"
    copy.write_text((folder / names[1]).read_text().replace('"', "") + "m v=7i 7\n")
    assert "2 metrics added" in bench("spool", "replay", "influx", copy)
    assert bench.server.lines == {b"m v=1 %d\n" % (10**18 + 1), b"m v=7i 7\n"}
    assert bench("rejected", "drop", "_guard", "--all", "--yes") == "2 files removed\n"
    assert bench.names(folder) == [] and not (bench.agent.state_dir / "spool" / "_guard").exists()
    if running:
        bench.balanced()


def test_without_a_spool_the_running_agent_gets_what_was_refused(spoolless: Bench) -> None:
    bench = spoolless
    bench.refuse(2)
    bench("rejected", "retry", "influx", "--all")
    # Refused again: the same lines, in new files.
    wait_until(lambda: len(bench.names(bench.rejected)) == 2)
    bench.balanced()
    bench.server.refuse = lambda line: ""
    bench("rejected", "retry", "influx", "--all")
    wait_until(lambda: bench.names(bench.rejected) == [])
    assert len(bench.server.lines) == 2
    bench.balanced()
    assert "has no spool" in bench("spool", "replay", "influx", code=1)
    bench.refuse(0)
    bench.server.refuse = lambda line: "parse: bad v" if b"bad=" in line else ""
    bench.refuse(1)
    bench.agent.stop()
    assert "an agent must be running" in bench("rejected", "retry", "influx", "--all", code=1)
    assert len(bench.names(bench.rejected)) == 1


def test_the_place_of_an_agent_is_not_taken_beside_it(bench: Bench, tmp_path: Path) -> None:
    bench.fill(1)
    # Its socket is not where the command looks for it, but it holds the lock.
    text = bench("spool", "drop", "influx", "--all", "--yes", "--socket", tmp_path / "no.sock", code=1)
    assert "another agent runs with it" in text and str(bench.agent.pid) in text
    assert bench.waiting() == 1


@pytest.fixture
def open_bench() -> Iterator[Bench]:
    """A bench in a folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        os.chmod(folder, 0o755)
        yield from make(Path(folder))


@pytest.mark.needs("root")
def test_root_leaves_nothing_behind_that_the_agents_user_cannot_use(
    open_bench: Bench, tmp_path: Path
) -> None:
    bench = open_bench
    bench.refuse(1)
    bench.agent.stop()
    state = bench.agent.state_dir
    for path in (state, *state.rglob("*")):
        os.chown(path, 65534, 65534)
    secret = tmp_path / "secret.lp"
    secret.write_bytes(line(1))
    secret.chmod(0o600)
    bench("spool", "replay", "influx", secret, "--no-wait")
    bench("rejected", "retry", "influx", "--all")
    assert len(bench.names(bench.spool)) == 2 and bench.names(bench.rejected) == []
    for path in (state, *state.rglob("*")):
        assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534), path
