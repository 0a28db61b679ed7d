"""What `promtool test rules` is told of configs/alerts.yml: a healthy agent, and one trouble for each alert.

Series are in promtool's notation: ``1x500`` is 1 and 500 times the same, ``0+60x500`` rises by 60 each time.
"""

from typing import Any

INTERVAL_S = 60
HOURS = 13
STEPS = HOURS * 60
HEALTHY_AT = ("1h", "7h", "12h")

_AGENT = 'job="penstock",instance="a:8690"'
_LISTENER, _OUTPUT = f'{_AGENT},listener="udp"', f'{_AGENT},output="influx"'

HEALTHY = {
    f"up{{{_AGENT}}}": f"1x{STEPS}",
    f"penstock_ready{{{_AGENT}}}": f"1x{STEPS}",
    f"penstock_ledger_broken{{{_AGENT}}}": f"0x{STEPS}",
    f"penstock_config_last_reload_successful{{{_AGENT}}}": f"1x{STEPS}",
    f'penstock_lane_cpu_seconds_total{{{_AGENT},lane="0"}}': f"0+30x{STEPS}",
    f"penstock_slo_share_ratio{{{_OUTPUT}}}": f"0.999x{STEPS}",
    # Half of what the objective allows is late.
    f"penstock_slo_due_metrics_total{{{_OUTPUT}}}": f"0+100000x{STEPS}",
    f"penstock_slo_late_metrics_total{{{_OUTPUT}}}": f"0+50x{STEPS}",
    f"penstock_kernel_dropped_datagrams_total{{{_LISTENER}}}": f"3x{STEPS}",
    f'penstock_dropped_metrics_total{{{_LISTENER},reason="number"}}': f"4x{STEPS}",
    # By the configuration's will: no alert.
    f'penstock_dropped_metrics_total{{{_LISTENER},reason="denied"}}': f"0+10x{STEPS}",
    f"penstock_output_missed_metrics_total{{{_OUTPUT}}}": f"5x{STEPS}",
    f'penstock_output_dropped_metrics_total{{{_OUTPUT},reason="spool_full"}}': f"5x{STEPS}",
    f"penstock_output_rejected_metrics_total{{{_OUTPUT}}}": f"5x{STEPS}",
    f'penstock_output_state{{{_OUTPUT},state="ok"}}': f"1x{STEPS}",
    f'penstock_output_state{{{_OUTPUT},state="retrying"}}': f"0x{STEPS}",
    f'penstock_output_state{{{_OUTPUT},state="holding"}}': f"0x{STEPS}",
    f"penstock_output_waiting_bytes{{{_OUTPUT}}}": f"60x{STEPS}",
    f"penstock_output_capacity_bytes{{{_OUTPUT}}}": f"100x{STEPS}",
    f"penstock_spool_bytes{{{_OUTPUT}}}": f"500x{STEPS}",
    f"penstock_spool_limit_bytes{{{_OUTPUT}}}": f"1000x{STEPS}",
    f"penstock_spool_oldest_timestamp_seconds{{{_OUTPUT}}}": f"0x{STEPS}",
    f'penstock_disk_failing{{{_OUTPUT},folder="spool"}}': f"0x{STEPS}",
    f"penstock_guard_refused_series_total{{{_AGENT}}}": f"9x{STEPS}",
}

# Alert: the start of the one series that is another, its values, when it must fire, and, where that is told,
# when it must not yet.
TROUBLES: dict[str, tuple[str, str, str, str]] = {
    "PenstockDown": ("up", "1x9 0x99", "11m", "10m"),
    "PenstockNotReady": ("penstock_ready", "1x9 0x99", "11m", "10m"),
    "PenstockLedgerBroken": ("penstock_ledger_broken", "0x9 1x99", "11m", "10m"),
    "PenstockReloadRefused": ("penstock_config_last_reload_successful", "1x9 0x99", "10m", "9m"),
    "PenstockLaneBusy": ("penstock_lane_cpu_seconds_total", "0+57x99", "20m", "4m"),
    "PenstockBudgetBurnsFast": ("penstock_slo_late_metrics_total", "0x120 1500+1500x99", "3h", "2h"),
    "PenstockBudgetBurnsSlow": ("penstock_slo_late_metrics_total", f"0+700x{STEPS}", "10h", ""),
    "PenstockBudgetTrickles": ("penstock_slo_late_metrics_total", f"0+150x{STEPS}", "12h", ""),
    "PenstockKernelDrops": ("penstock_kernel_dropped_datagrams_total", "3x29 4x99", "31m", "29m"),
    "PenstockDropping": ('penstock_dropped_metrics_total{reason="number"', "4x29 5x99", "31m", "29m"),
    "PenstockMissing": ("penstock_output_missed_metrics_total", "5x29 6x99", "31m", "29m"),
    "PenstockRejecting": ("penstock_output_rejected_metrics_total", "5x29 6+1x99", "37m", "33m"),
    "PenstockHolding": ('penstock_output_state{state="holding"', "0x9 1x99", "15m", "14m"),
    "PenstockRetrying": ('penstock_output_state{state="retrying"', "0x9 1x99", "25m", "24m"),
    "PenstockRingFills": ("penstock_output_waiting_bytes", "60x9 71x99", "11m", "10m"),
    "PenstockSpoolFills": ("penstock_spool_bytes", "100+5x99", "45m", "5m"),
    "PenstockSpoolOld": ("penstock_spool_oldest_timestamp_seconds", "60x120", "72m", "70m"),
    "PenstockDiskFailing": ("penstock_disk_failing", "0x9 1x99", "11m", "10m"),
    "PenstockSeriesLimited": ("penstock_guard_refused_series_total", "9x29 10+1x99", "37m", "33m"),
}

# What else fires with it, as it should.
COMPANIONS = {f"PenstockBudgetBurns{state}": {"PenstockBudgetTrickles"} for state in ("Fast", "Slow")}


def tests(rules: str) -> dict[str, Any]:
    """The file for promtool, of the alerts in the file *rules*."""
    groups = [_group("a healthy agent", HEALTHY, [("", at, set()) for at in HEALTHY_AT])]
    for alert, (changed, values, fires, quiet) in TROUBLES.items():
        series = dict(HEALTHY)
        name, _, label = changed.partition("{")
        [key] = [key for key in series if key.startswith(f"{name}{{") and label in key]
        series[key] = values
        expected = [("", fires, {alert} | COMPANIONS.get(alert, set()))]
        if quiet:
            expected.append((alert, quiet, set()))
        groups.append(_group(alert, series, expected))
    return {"rule_files": [rules], "evaluation_interval": "1m", "tests": groups}


def _group(name: str, series: dict[str, str], expected: list[tuple[str, str, set[str]]]) -> dict[str, Any]:
    """*expected*: an alert, or empty for all; when; and which of them fire then."""
    queries = []
    for alert, at, firing in expected:
        match = f'alertstate="firing"{f", alertname=`{alert}`" if alert else ""}'
        samples = [{"labels": f'{{alertname="{one}"}}', "value": 1} for one in sorted(firing)]
        queries.append(
            {"expr": f"count by (alertname) (ALERTS{{{match}}})", "eval_time": at, "exp_samples": samples}
        )
    return {
        "name": name,
        "interval": f"{INTERVAL_S}s",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": queries,
    }
