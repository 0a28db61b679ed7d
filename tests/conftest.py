"""What all tests share: polling with a deadline, and skips that are failures where everything must be there.

A test that wants a program, root or a server says so with ``need("influxd")`` or the marker
``@pytest.mark.needs("influxd", "root")``. On a machine without it the test is skipped with the reason.
With ``PENSTOCK_REQUIRE_ALL=1`` in the environment, as in ``.ci/run``, it fails instead: a run that is meant
to show everything must not be green because something was missing.

Tests marked ``slow`` are run there, with ``--slow``, and where ``-m`` names them.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Generator
from typing import NoReturn

import pytest

# Bounds on time that only a machine which does nothing else keeps are loosened unless it is said to be one.
QUIET = os.environ.get("PENSTOCK_QUIET_MACHINE", "") not in ("", "0")

REQUIRE_ALL = os.environ.get("PENSTOCK_REQUIRE_ALL", "") not in ("", "0")

# A run of all tests draws so many random examples that it finds nearly what there is; one that somebody waits
# for draws a fifth of them.
THOROUGH = REQUIRE_ALL or "--slow" in sys.argv

# What may be missing even then: test data that lives outside the repository, and what only another
# processor, kernel or distribution has. A reason is taken for one of these by its first words.
OPTIONAL_REASONS = ("no corpus", "no AVX2", "no IPv6", "no UDP_GRO", "no newer systemd")

# Debian puts servers where an ordinary user's PATH does not look.
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))


def missing(reason: str) -> NoReturn:
    """Skip the test for want of something, or fail it where nothing may be wanting."""
    if REQUIRE_ALL and not reason.startswith(OPTIONAL_REASONS):
        pytest.fail(f"{reason}, and PENSTOCK_REQUIRE_ALL is set", pytrace=False)
    pytest.skip(reason)


def need(name: str) -> str:
    """The path of program *name*, or an empty string for ``need("root")``; skips or fails without it."""
    if name == "root":
        if os.geteuid() != 0:
            missing("needs root")
        return ""
    path = shutil.which(name, path=_PATH)
    if path is None:
        missing(f"needs {name}, which is not installed")
    return path


def wait_until(condition: Callable[[], object], timeout: float = 10.0, what: str = "") -> None:
    """Poll *condition* every 5 ms; fails after *timeout* seconds, saying *what* did not happen."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what or condition}")
        time.sleep(0.005)


def examples(count: int) -> int:
    """How many random examples to draw of *count*."""
    return count if THOROUGH else max(count // 5, 25)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that are marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if REQUIRE_ALL or config.getoption("slow") or config.getoption("markexpr"):
        return
    slow = [item for item in items if item.get_closest_marker("slow") is not None]
    if slow:
        items[:] = [item for item in items if item.get_closest_marker("slow") is None]
        config.hook.pytest_deselected(items=slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            need(name)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip that did not come through :func:`need` into a failure too."""
    if not REQUIRE_ALL or not report.skipped or hasattr(report, "wasxfail"):
        return
    where = report.longrepr
    reason = str(where[2] if isinstance(where, tuple) else where).removeprefix("Skipped: ")
    if not reason.startswith((*OPTIONAL_REASONS, "Skipping benchmark")):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: skipped ({reason}), and PENSTOCK_REQUIRE_ALL is set"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report
