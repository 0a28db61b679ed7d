"""Single functions of the core, under pytest-benchmark: what ``test_core.py`` measures, group by group."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.agent_run import ROOT
from tests.bench.harness import Run, check

TESTS = Path(__file__).parents[1] / "test_core.py"
BASELINE = "test_baseline_"


def measure(run: Run) -> None:
    """One figure for each group: the function beside its baseline. The tests check the results."""
    groups: dict[str, dict[bool, list[Any]]] = {}
    for _ in run.rounds("functions"):
        with run.place() as folder:
            path = folder / "benchmark.json"
            # Without the project's own options, which skip benchmarks.
            command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib"]
            command += [str(TESTS), "--benchmark-only", f"--benchmark-json={path}"]
            command += [f"--benchmark-max-time={run.size(5, 1) / 10}", "--benchmark-min-rounds=3"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
            check(done.returncode == 0, f"the functions are wrong:\n{done.stdout}")
            for one in json.loads(path.read_text())["benchmarks"]:
                sides = groups.setdefault(one["group"], {False: [], True: []})
                sides[one["name"].startswith(BASELINE)].append(one)
    for group, sides in groups.items():
        baseline = sides[True][0]["name"].removeprefix(BASELINE).replace("_", " ")
        figure = run.figure(group, "µs", baseline=baseline)
        for ours, least in zip(sides[False], sides[True], strict=True):
            figure.add(ours["stats"]["median"] * 1e6, least["stats"]["median"] * 1e6)
