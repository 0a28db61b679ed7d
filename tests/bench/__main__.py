"""``python -m tests.bench``: run the scenarios, print their tables, write JSON.

Ends with 0 whether or not the targets are met, with 1 if an output was wrong, with 2 for wrong usage.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import native, report
from tests.bench.harness import CheckError, Lost, NotHere, Run
from tests.bench.scenarios import SCENARIOS

RESULTS = Path(__file__).with_name("results")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Run the benchmarks.")
    parser.add_argument(
        "--quick",
        action="store_true",
        default=os.environ.get("PENSTOCK_BENCH_QUICK", "") not in ("", "0"),
        help="each scenario once and briefly, with all its checks and no targets (PENSTOCK_BENCH_QUICK=1)",
    )
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="may be given several times")
    parser.add_argument("--runs", type=int, help="rounds of each measurement (5; 1 if quick)")
    parser.add_argument(
        "--json", type=Path, help="where to write the figures (tests/bench/results/TIME.json)"
    )
    options = parser.parse_args()
    if options.runs is not None and options.runs < 1:
        parser.error("--runs is at least 1")
    return options


def main() -> int:
    """Run what the command line asks for; returns the exit code."""
    options = _options()
    started = time.monotonic()
    failures: dict[str, str] = {}
    missing: dict[str, str] = {}
    native.build()
    # Rings belong into memory, where /run is.
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=parent) as folder:
        run = Run(options.runs or (1 if options.quick else 5), options.quick, Path(folder))
        for name in options.only or SCENARIOS:
            run.scenario = name
            try:
                SCENARIOS[name](run)
            except NotHere as reason:
                missing[name] = str(reason)
            except (CheckError, Lost, native.NativeError) as error:
                failures[name] = str(error)
                run.say(f"WRONG: {error}")
    report.show(run, failures, missing)
    path = options.json or RESULTS / time.strftime("%Y-%m-%dT%H%M%SZ.json", time.gmtime())
    report.write(path, report.document(run, failures, missing, time.monotonic() - started))
    print(f"figures: {path}")
    if missing and os.environ.get("PENSTOCK_REQUIRE_ALL", "") not in ("", "0"):
        return 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
