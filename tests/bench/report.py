"""The table and the JSON of a run."""

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.harness import Figure, Run


def _number(value: float) -> str:
    """Four significant digits, thousands apart."""
    if value and abs(value) < 1000:
        return f"{value:.4g}"
    return f"{value:,.0f}".replace(",", " ")


def _spread(values: Sequence[float]) -> str:
    """Median, and the least and the greatest where there are several."""
    if not values:
        return ""
    text = _number(statistics.median(values))
    return f"{text} ({_number(min(values))} … {_number(max(values))})" if len(values) > 1 else text


def _ratio(figure: Figure) -> str:
    return f"{statistics.median(figure.ratios):.3g}" if figure.ratios else ""


def _verdict(figure: Figure) -> str:
    return {None: "", True: "met", False: "NOT MET"}[figure.met]


def show(run: Run, failures: dict[str, str], missing: dict[str, str]) -> None:
    """Print one table for each scenario. Wide, whatever the terminal: a cut table is worth nothing."""
    console = Console(width=None if os.isatty(1) else 200)
    for scenario, figures in run.figures.items():
        table = Table(title=scenario, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for head in ("", "unit"):
            table.add_column(head)
        for head in ("median (least … most)", "baseline", "ratio", "target"):
            table.add_column(head, justify="right")
        table.add_column("")
        table.add_column("baseline is; notes", style="dim")
        for figure in figures:
            table.add_row(
                figure.name,
                figure.unit,
                _spread(figure.values),
                _spread(figure.baseline_values),
                _ratio(figure),
                str(figure.target or ""),
                _verdict(figure),
                "; ".join(filter(None, (figure.baseline, figure.note))),
            )
        console.print(table)
    for scenario, reason in missing.items():
        console.print(f"{scenario}: not run, {reason}", highlight=False, markup=False)
    for scenario, reason in failures.items():
        console.print(f"{scenario}: WRONG: {reason}", highlight=False, markup=False)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    from agent._core import ISA

    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "isa": ISA,
        "load": os.getloadavg()[0],
    }


def document(run: Run, failures: dict[str, str], missing: dict[str, str], seconds: float) -> dict[str, Any]:
    """The whole run for ``--json``."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 1),
        "machine": machine(),
        "runs": run.runs,
        "quick": run.quick,
        "failures": failures,
        "not_run": missing,
        "figures": [
            {
                "scenario": scenario,
                "name": figure.name,
                "unit": figure.unit,
                "median": statistics.median(figure.values) if figure.values else None,
                "values": figure.values,
                "baseline": figure.baseline,
                "baseline_median": (
                    statistics.median(figure.baseline_values) if figure.baseline_values else None
                ),
                "baseline_values": figure.baseline_values,
                "ratio": statistics.median(figure.ratios) if figure.ratios else None,
                "target": str(figure.target) if figure.target else None,
                "met": figure.met,
                "note": figure.note,
            }
            for scenario, figures in run.figures.items()
            for figure in figures
        ],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write the JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    new.replace(path)
