"""The house rules that a reader may rely on: who imports whom, what stands in files, what is declared."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli import cli
from tests.conftest import missing, need

ROOT = Path(__file__).resolve().parents[2]

# A module may import only what stands before it. A new module needs its place here.
MODULES = (
    "agent",
    "agent._core",
    "agent.errors",
    "agent.capture_file",
    "agent.log",
    "agent.systemd",
    "agent.lock",
    "agent.config_values",
    "agent.terminal",
    "agent.patterns",
    "agent.templates",
    "agent.config_kinds",
    "agent.config_globs",
    "agent.config_table",
    "agent.config_arrays",
    "agent.config_networks",
    "agent.config_guards",
    "agent.config_rules",
    "agent.config_broker_kinds",
    "agent.config_outputs",
    "agent.config_schema",
    "agent.config_source",
    "agent.rules",
    "agent.config_checks",
    "agent.config_rule_checks",
    "agent.config",
    "agent.config_toml",
    "agent.accounts",
    "agent.ledger",
    "agent.quantiles",
    "agent.objectives",
    "agent.batch_id",
    "agent.outputs.base",
    "agent.outputs.bodies",
    "agent.relay",
    "agent.relay.message",
    "agent.relay.account",
    "agent.relay.intervals",
    "agent.relay.fleet",
    "agent.relay.sources",
    "agent.outputs.null",
    "agent.outputs.torn",
    "agent.outputs.file",
    "agent.outputs.refusals",
    "agent.outputs.verdicts",
    "agent.outputs.resolve",
    "agent.outputs.exchange",
    "agent.outputs.http",
    "agent.outputs.server",
    "agent.outputs.broker",
    "agent.outputs.nats_connection",
    "agent.outputs.nats",
    "agent.outputs.kafka_producer",
    "agent.outputs.kafka",
    "agent.outputs.influxdb",
    "agent.outputs.remote_write",
    "agent.outputs",
    "agent.store",
    "agent.store.disk",
    "agent.store.ages",
    "agent.store.trouble",
    "agent.store.folder",
    "agent.store.owed",
    "agent.store.stock",
    "agent.store.commit",
    "agent.store.spool_file",
    "agent.store.spool",
    "agent.store.rejected",
    "agent.delivery",
    "agent.delivery.breaker",
    "agent.delivery.limiter",
    "agent.delivery.trace",
    "agent.delivery.task",
    "agent.delivery.leases",
    "agent.delivery.measures",
    "agent.delivery.attempts",
    "agent.delivery.work",
    "agent.delivery.promise",
    "agent.delivery.telling",
    "agent.delivery.delivery",
    "agent.delivery.backlog",
    "agent.delivery.feed",
    "agent.delivery.senders",
    "agent.delivery.spiller",
    "agent.delivery.relief",
    "agent.delivery.flusher",
    "agent.relay.carrier",
    "agent.relay.reading",
    "agent.relay.intake",
    "agent.relay.nats_client",
    "agent.relay.offsets",
    "agent.keeping",
    "agent.store.stores",
    "agent.listeners",
    "agent.inputs.base",
    "agent.inputs.otlp_json",
    "agent.inputs.http",
    "agent.inputs.http.refused",
    "agent.inputs.http.tokens",
    "agent.inputs.http.body",
    "agent.inputs.http.lines",
    "agent.inputs.http.query",
    "agent.inputs.http.samples",
    "agent.inputs.http.collectd",
    "agent.inputs.http.connections",
    "agent.inputs.http.door",
    "agent.inputs.http.input",
    "agent.inputs.object_formats",
    "agent.inputs.host_collectors",
    "agent.inputs.host_disk",
    "agent.inputs.host",
    "agent.inputs.broker",
    "agent.inputs.nats_session",
    "agent.inputs.nats",
    "agent.inputs.kafka",
    "agent.inputs",
    "agent.aggregation",
    "agent.gate",
    "agent.door",
    "agent.losers",
    "agent.rings",
    "agent.bursts",
    "agent.route",
    "agent.guards",
    "agent.watch",
    "agent.kept_types",
    "agent.captures",
    "agent.sessions",
    "agent.pipeline",
    "agent.admin",
    "agent.admin.bind",
    "agent.admin.access",
    "agent.admin.status",
    "agent.admin.metrics_delivery",
    "agent.admin.metrics_fleet",
    "agent.admin.metrics_objectives",
    "agent.admin.metrics_watching",
    "agent.admin.metrics",
    "agent.admin.files",
    "agent.admin.guard",
    "agent.admin.keep",
    "agent.admin.stream",
    "agent.admin.watching",
    "agent.admin.server",
    "agent.admin.client",
    "agent.admin.figures",
    "agent.admin.screen",
    "agent.admin.following",
    "agent.admin.top_table",
    "agent.admin.top_sections",
    "agent.admin.top",
    "agent.admin.fleet_table",
    "agent.vitals",
    "agent.history",
    "agent.sampler",
    "agent.service",
    "agent.replay",
    "agent.wire",
    "agent.sending",
    "agent.load",
    "agent.load_report",
    "agent.cli_options",
    "agent.trial",
    "agent.cli_files",
    "agent.cli_trial",
    "agent.cli_keep",
    "agent.cli_send",
    "agent.cli_bench",
    "agent.cli_tap",
    "agent.cli_capture",
    "agent.cli_replay",
    "agent.cli_top",
    "agent.cli_fleet",
    "agent.installation",
    "agent.cli",
    "agent.__main__",
)

# The same for what a header includes.
HEADERS = (
    "port.h",
    "scan.h",
    "num.h",
    "num_powers.h",
    "num_shortest.h",
    "utf8.h",
    "sum.h",
    "ring_file.h",
    "ring.h",
    "ring_adopt.h",
    "delays.h",
    "burst.h",
    "burst_left.h",
    "capture.h",
    "stats.h",
    "line_set.h",
    "mix.h",
    "pattern.h",
    "heads.h",
    "plan_route.h",
    "plan.h",
    "plan_shape.h",
    "plan_map.h",
    "slots.h",
    "heavy.h",
    "book_tally.h",
    "book_charge.h",
    "book_set.h",
    "book.h",
    "types.h",
    "types_mend.h",
    "types_refused.h",
    "line.h",
    "guard_outcome.h",
    "guard.h",
    "guard_map.h",
    "proto.h",
    "point_names.h",
    "point.h",
    "point_body.h",
    "line_emit.h",
    "line_text.h",
    "line_body.h",
    "merge.h",
    "tap.h",
    "line_value.h",
    "line_fast.h",
    "line_general.h",
    "line_reader.h",
    "foreign.h",
    "graphite.h",
    "remote_read.h",
    "otlp_value.h",
    "otlp_point.h",
    "otlp_read.h",
    "object_text.h",
    "objects.h",
    "json_split.h",
    "sketch.h",
    "members.h",
    "series.h",
    "aggregate.h",
    "statsd.h",
    "statsd_point.h",
    "statsd_metric.h",
    "statsd_event.h",
    "statsd_reader.h",
    "ticker.h",
    "source_peer.h",
    "source.h",
    "lane_socket.h",
    "stream.h",
    "lane_base.h",
    "lane_datagram.h",
    "lane_source.h",
    "lane_stream.h",
    "receiver.h",
    "lane.h",
    "feed.h",
)

# Where the name of a distribution is not the one that is imported.
DISTRIBUTIONS = {"influxdb_client": "influxdb-client", "prometheus_client": "prometheus-client"} | {
    "nats": "nats-py",
    "confluent_kafka": "confluent-kafka",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted((ROOT / "agent").rglob("*.py"))}


def imported(path: Path) -> Iterator[str]:
    """Every module that *path* imports, inside functions and for types too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in SOURCES or inner == "agent._core" else node.module


def test_every_module_has_its_place() -> None:
    assert set(SOURCES) | {"agent._core"} == set(MODULES)


@pytest.mark.parametrize("name", SOURCES)
def test_modules_import_downward_only(name: str) -> None:
    allowed = MODULES[: MODULES.index(name)]
    wrong = [one for one in imported(SOURCES[name]) if one.split(".")[0] == "agent" and one not in allowed]
    assert wrong == []


def test_every_header_has_its_place() -> None:
    assert {path.name for path in (ROOT / "ext").glob("*.h")} == set(HEADERS)


@pytest.mark.parametrize("name", HEADERS)
def test_headers_include_downward_only_and_know_no_python(name: str) -> None:
    text = (ROOT / "ext" / name).read_text()
    ours = re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE)
    assert [one for one in ours if one not in HEADERS[: HEADERS.index(name)]] == []
    assert "Python.h" not in text


def test_every_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [one for name in ("nats", "kafka") for one in project["optional-dependencies"][name]]
    declared = {re.split(r"[\[<>=!~; ]", one)[0] for one in (*project["dependencies"], *extras)}
    used = {one.split(".")[0] for path in SOURCES.values() for one in imported(path)}
    used -= {"agent", *sys.stdlib_module_names}
    assert {DISTRIBUTIONS.get(one, one) for one in used} <= declared


def tracked() -> list[Path]:
    """The files that are committed, or would be."""
    need("git")
    if not (ROOT / ".git").exists():
        missing("no corpus of tracked files: this is no clone")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in out.split("\0") if name and (ROOT / name).is_file()]


# Put together from halves, so that this file does not contain what it looks for.
UNWANTED = re.compile(
    "|".join(
        (
            "py" + r"pi\.org",
            "python" + "hosted",
            "index" + "-url",
            "find" + "-links",
            "deb" + r"\.debian\.org",
            "archive" + r"\.ubuntu\.com",
            r"(?<![\w.])/" + r"(?:root|home|work|Users|mnt)/\w",
        )
    )
)


def test_no_file_names_a_registry_or_a_folder_of_somebodys_machine() -> None:
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if UNWANTED.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_the_readme_names_every_command_and_every_target() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [name for name in cli.commands if f"penstock {name}" not in readme] == []
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(targets) == {
        *("help", "run", "test", "bench", "lint", "fuzz", "build", "clean"),
        *("wheel", "deb", "man"),
    }
    assert [name for name in targets if name != "help" and f"make {name}" not in readme] == []


def test_scripts_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run([need("bash"), "-n", str(script)], check=True)


PROBE = """
import pytest
from tests.conftest import missing, need

def test_a():
    need("a-program-that-nobody-has")

@pytest.mark.needs("another-one")
def test_b():
    pass

def test_c():
    pytest.skip("in passing")

def test_d():
    missing("no corpus of anything")

def test_e():
    assert need("sh").endswith("/sh")
"""


@pytest.mark.parametrize(
    ("require", "outcome"),
    [("0", "1 passed, 4 skipped"), ("1", "2 failed, 1 passed, 1 skipped, 1 error")],
)
def test_a_skip_is_a_failure_where_everything_must_be_there(
    tmp_path: Path, require: str, outcome: str
) -> None:
    (tmp_path / "test_probe.py").write_text(PROBE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = needs: what must be there\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PENSTOCK_REQUIRE_ALL": require},
        capture_output=True,
        text=True,
    )
    assert outcome in result.stdout.splitlines()[-1], result.stdout


def test_the_architecture_tells_the_order_of_the_headers() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| ((?:`\w+\.h` ?)+)\|", text, re.MULTILINE)
    assert tuple(re.findall(r"\w+\.h", " ".join(rows))) == HEADERS


def test_the_architecture_has_the_counts_of_today() -> None:
    table = subprocess.run(
        [sys.executable, "-m", "tests.reference.corpus_table"], cwd=ROOT, capture_output=True, text=True
    )
    if table.returncode:
        missing(table.stderr.strip())
    assert table.stdout.strip() in (ROOT / "ARCHITECTURE.md").read_text()
