"""What is shipped for Prometheus works: the scrape, the alerts, and every query of the dashboard."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.conftest import need, wait_until
from tests.integration import alert_rules
from tests.integration.agent_process import ROOT, AgentProcess, free_port, send_udp
from tests.integration.fake_influxdb import FakeInfluxDB
from tests.integration.fault_proxy import FaultProxy
from tests.integration.servers import Prometheus
from tests.unit.test_metrics_docs import rows

CONFIGS = ROOT / "configs"


class Scraper(Prometheus):
    """A Prometheus with the files that are shipped, and the agent at *port*."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, "127.0.0.1", {})
        text = (CONFIGS / "prometheus.yml").read_text()
        assert "127.0.0.1:8690" in text
        (folder / "prometheus.yml").write_text(text.replace("127.0.0.1:8690", f"127.0.0.1:{port}"))
        shutil.copy(CONFIGS / "alerts.yml", folder)

    def arguments(self) -> list[str]:
        return [
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={self.host}:{self.port}",
            "--log.level=warn",
        ]

    def query(self, expression: str) -> list[dict[str, object]]:
        answer = self.request("GET", f"/api/v1/query?{urlencode({'query': expression})}")
        assert answer.status == 200, f"{expression}: {answer.text}"
        return list(answer.json()["data"]["result"])


@contextmanager
def scraper(folder: Path, port: int) -> Iterator[Scraper]:
    server = Scraper(folder / "prometheus", port)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def config(udp: int, statsd: int, admin: int, url: str) -> str:
    """An agent with about everything."""
    return f"""
[agent]
admin = "127.0.0.1:{admin}"
[[listen]]
address = "udp://127.0.0.1:{udp}"
name = "udp"
[[listen]]
address = "tcp://127.0.0.1:0"
name = "tcp"
[[listen]]
address = "udp://127.0.0.1:{statsd}"
name = "statsd"
format = "statsd"
interval = "1s"
[cardinality]
max_series = 50
[flush]
interval = "50ms"
[[output]]
name = "influx"
type = "influxdb"
url = "{url}"
org = "an org"
bucket = "metrics"
token = "t0ken=="
retry_max = "500ms"
batch_timeout = "1s"
[output.spool]
max_bytes = "64MiB"
min_free_space = "0B"
[[output]]
name = "void"
type = "null"
"""


def expressions() -> list[str]:
    """Those of the dashboard, with its variables filled in."""
    found = []
    dashboard = json.loads((CONFIGS / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "30s")
            found.append(re.sub(r"\$(job|instance|listener|output)\b", ".*", text))
    assert len(found) > 35 and not any("$" in text for text in found)
    return found


def promtool(*arguments: str, text: str | None = None) -> str:
    """What it says; it must find nothing wrong."""
    done = subprocess.run(
        [need("promtool"), *arguments], input=text, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_none_of_a_healthy_agent(tmp_path: Path) -> None:
    rules = CONFIGS / "alerts.yml"
    assert "19 rules found" in promtool("check", "rules", str(rules))
    alerts = re.findall(r"- alert: (\w+)", rules.read_text())
    assert alerts == list(alert_rules.TROUBLES)
    path = tmp_path / "test.json"  # JSON is YAML, too
    path.write_text(json.dumps(alert_rules.tests(str(rules))))
    promtool("test", "rules", str(path))


def test_each_alert_says_what_it_is_and_what_to_do() -> None:
    for alert in (CONFIGS / "alerts.yml").read_text().split("- alert: ")[1:]:
        assert "severity: " in alert
        assert len(re.findall(r"^          (?:summary|description): \"", alert, re.MULTILINE)) == 2, alert


@pytest.mark.parametrize("name", ["alerts.yml", "grafana.json"])
def test_every_metric_that_is_asked_for_is_told_of(name: str) -> None:
    known = rows()
    for metric in set(re.findall(r"\b(?:penstock|process)_\w+", (CONFIGS / name).read_text())):
        histogram = re.sub(r"_(bucket|sum|count)$", "", metric)
        assert metric in known or (histogram in known and known[histogram][0] == "histogram"), metric


def test_the_dashboard_is_one(tmp_path: Path) -> None:
    dashboard = json.loads((CONFIGS / "grafana.json").read_text())
    assert dashboard["schemaVersion"] == 38
    names = [one["name"] for one in dashboard["templating"]["list"]]
    assert names == ["datasource", "job", "instance", "listener", "output"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies over another"
        taken |= cells
        if panel["type"] != "row":
            assert panel["title"] and panel["targets"] and panel["fieldConfig"]["defaults"]["unit"]


def test_a_scrape_has_what_dashboard_and_alerts_ask_for(tmp_path: Path) -> None:
    udp, statsd, admin = free_port(), free_port(), free_port(socket.SOCK_STREAM)
    with (
        FakeInfluxDB(2) as database,
        FaultProxy("127.0.0.1", database.port) as proxy,
    ):
        with AgentProcess(tmp_path, config(udp, statsd, admin, proxy.url)) as agent:
            # Of an agent that nothing has come to.
            promtool("check", "metrics", text=agent.metrics())
            with scraper(tmp_path, admin) as server:
                sent = 0

                def send(count: int) -> None:
                    nonlocal sent
                    for _ in range(count):
                        sent += 1
                        send_udp(udp, b"m,host=h%d v=%d,w=1 %d" % (sent % 80, sent, sent))
                        send_udp(statsd, b"hits:1|c")
                    send_udp(udp, b"no metric")

                def served(expression: str) -> bool:
                    send(5)
                    return bool(server.query(expression))

                send(100)
                agent.wait_for(lambda status: status["outputs"][0]["ledger"]["delivered"] > 0)
                proxy.refuse()
                send(100)
                agent.wait_for(lambda status: status["outputs"][0]["ledger"]["spooled"] > 0)
                proxy.listen()
                wait_until(lambda: served('up{job="penstock"} == 1'), 30)
                for expression in expressions():
                    wait_until(lambda found=expression: served(found), 60, expression)  # type: ignore[misc]
                targets = server.request("GET", "/api/v1/targets").json()["data"]["activeTargets"]
                assert [(one["health"], one["lastError"]) for one in targets] == [("up", "")]
                groups = server.request("GET", "/api/v1/rules").json()["data"]["groups"]
                assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
            promtool("check", "metrics", text=agent.metrics())
            told = set(re.findall(r"^# TYPE (\w+) ", agent.metrics(), re.MULTILINE))
            assert told <= set(rows())
            assert agent.stop() == 0
