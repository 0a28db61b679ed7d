"""The admin HTTP answers over TCP and over its Unix socket, and bounds what a connection may cost."""

import asyncio
import json
import os
import re
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent import ledger
from agent._core import Lane, Ring, Waker
from agent.accounts import GuardAccount, OutputReading
from agent.admin import server
from agent.admin.access import Access
from agent.admin.guard import Guard, Guards
from agent.admin.server import Admin, start
from agent.admin.status import OutputState, ReloadOutcome, ReloadStatus, ServiceStatus, Watched
from agent.config import Cardinality, Slo
from agent.errors import ControlError
from agent.objectives import Promised
from agent.relay.account import RelayCounters
from agent.relay.sources import Sources
from agent.sampler import Sampler
from agent.sessions import Sessions
from agent.store.rejected import RejectedCounters
from agent.store.spool_file import SpoolCounters
from agent.watch import Watch

EVERYBODY = Access()

NAME = 'in "quotes" \\ and\nlines'
"""A listener's name that has every character which the text format escapes."""


@dataclass
class Counters:
    """What a delivery counts."""

    delivered: int = 0
    rejected: int = 0
    merged: int = 0
    restored: int = 0
    carried: int = 0
    batches: int = 0
    replayed: int = 0
    attempts: int = 7
    retries: int = 0
    splits: int = 0
    bytes_raw: int = 0
    bytes_sent: int = 0
    opened: int = 0
    traced: int = 3
    on_time: int = 0
    histograms: dict[str, tuple[list[int], float]] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=lambda: {"request": 1.5})
    dropped: dict[str, int] = field(default_factory=lambda: {"drain_timeout": 0})
    requests: dict[str, int] = field(default_factory=lambda: {"2xx": 5, "error": 2})


class Service:
    """A service with a real lane and ring, whose readiness and reloads are set by the test."""

    def __init__(self) -> None:
        self.lane = Lane(0)
        self.ring = Ring(None, 1 << 20, Waker())
        self.lane.set_layout((), [self.ring])
        self.counters = Counters()
        self.reasons: list[str] = []
        self.reloads = ReloadStatus(applied_time=1000.0)
        self.outcome = ReloadOutcome(time=2000.0, changes=("flush.interval: 0.2 -> 0.5",))
        self.reloading = asyncio.Event()
        self.reloading.set()
        self.spool: SpoolCounters | None = None
        self.refused: RejectedCounters | None = None
        self.guards: GuardAccount | None = None
        self.relays: dict[int, RelayCounters] = {}
        self.promises = {"influx": Promised(young=0, on_time=0)}
        self.sampler = Sampler(self)
        self.watching = Sessions()
        self.relayed: Sources | None = None

    def status(self) -> ServiceStatus:
        state = OutputState(
            name="influx",
            type="influxdb",
            target="http://h:8086",
            state="holding",
            breaker="half_open",
            limit=3,
            round_trip=0.25,
            spool_max_bytes=1 << 30 if self.spool is not None else 0,
        )
        return ServiceStatus(
            state="running", started=1000.0, config="/c.toml", reload=self.reloads, outputs=(state,)
        )

    def ledger(self) -> ledger.Ledger:
        rings = {"lane-0": self.ring.stats()}
        output = OutputReading("influx", "influxdb", self.counters, rings, self.spool, self.refused)
        names = {0: (NAME, "udp://x")}
        return ledger.read(names, [self.lane.stats()], [output], guards=self.guards, relays=self.relays)

    def sessions(self) -> Sessions:
        return self.watching

    def ready(self) -> list[str]:
        return self.reasons

    def slo(self) -> Slo:
        return Slo(window=43_200.0)

    def promised(self) -> dict[str, Promised]:
        return self.promises

    def sources(self) -> Sources | None:
        return self.relayed

    def watched(self) -> Watched:
        return self.sampler.watched()

    def pulse(self) -> Sampler:
        return self.sampler

    async def reload(self) -> ReloadOutcome:
        await self.reloading.wait()
        done = self.outcome.applied
        self.reloads = ReloadStatus(
            applied=self.reloads.applied + done, refused=self.reloads.refused + (not done), last=self.outcome
        )
        return self.outcome


@dataclass
class Running:
    """A service with both of its servers, and clients for them."""

    service: Service
    tcp: Admin
    control: Admin
    over_tcp: aiohttp.ClientSession
    over_unix: aiohttp.ClientSession

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with self.over_tcp.get(path, headers=headers) as response:
            return response.status, await response.text()

    async def post(self, path: str) -> tuple[int, Any]:
        async with self.over_unix.post(path) as response:
            return response.status, json.loads(await response.text())

    def connect(self) -> socket.socket:
        host, _, port = self.tcp.address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=10)


def run(folder: Path, body: Callable[[Running], Awaitable[None]], access: Access = EVERYBODY) -> None:
    """Run *body* with everything started, and close everything; over TCP, *access* says who is answered."""

    async def main() -> None:
        service = Service()
        path = folder / "control.sock"
        tcp = await start("127.0.0.1:0", service, access=access)
        control = await start(str(path), service)
        async with (
            aiohttp.ClientSession(f"http://{tcp.address}") as over_tcp,
            aiohttp.ClientSession("http://unix", connector=aiohttp.UnixConnector(str(path))) as over_unix,
        ):
            try:
                await body(Running(service, tcp, control, over_tcp, over_unix))
            finally:
                await tcp.aclose()
                await control.aclose()
        assert not path.exists()

    asyncio.run(main())


def test_health_never_depends_on_readiness(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        assert await running.get("/healthz") == (200, "ok\n")
        status, text = await running.get("/readyz")
        assert (status, json.loads(text)) == (200, {"ready": True, "reasons": [], "detail": []})
        running.service.reasons = ["lane 0 ended"]
        status, text = await running.get("/readyz")
        assert (status, json.loads(text)) == (
            503,
            {"ready": False, "reasons": ["lane 0 ended"], "detail": []},
        )
        assert (await running.get("/healthz"))[0] == 200

    run(tmp_path, body)


def test_a_disk_that_fails_is_told_and_keeps_nobody_from_being_ready(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        running.service.spool = SpoolCounters(failing="cannot store: No space left on device")
        running.service.refused = RejectedCounters(failing="cannot write: Read-only file system")
        expected = [
            "output influx: spool: cannot store: No space left on device",
            "output influx: rejected: cannot write: Read-only file system",
        ]
        status, text = await running.get("/readyz")
        assert (status, json.loads(text)) == (200, {"ready": True, "reasons": [], "detail": expected})
        assert json.loads((await running.get("/api/status"))[1])["detail"] == expected

    run(tmp_path, body)


def test_the_page_links_to_every_endpoint(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        status, page = await running.get("/")
        links = re.findall(r'href="([^"]+)"', page)
        assert status == 200 and set(links) >= {"/healthz", "/readyz", "/metrics", "/api/status"}
        for link in links:
            assert link.startswith("#") or (await running.get(link))[0] == 200
        assert (await running.get("/nowhere"))[0] == 404

    run(tmp_path, body)


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def test_metrics_are_the_ledger(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            running.service.lane.add_socket(0, sock.fileno())
            running.service.ring.put(b"m v=1 1\n", 1, 1)
            status, text = await running.get("/metrics")
            running.service.lane.remove_socket(sock.fileno())
        assert status == 200
        found = samples(text)
        # The parser undoes the escapes, so the label is the name itself.
        listener = ("listener", NAME)
        assert found["penstock_received_metrics_total", (listener,)] == 0
        assert found["penstock_listener_sockets", (listener,)] == 1
        assert found["penstock_dropped_metrics_total", (listener, ("reason", "ring_full"))] == 0
        output = ("output", "influx")
        assert found["penstock_output_waiting_metrics", (output,)] == 1
        assert found["penstock_output_ring_slots_used", (output, ("writer", "lane-0"))] == 1
        assert found["penstock_output_merged_metrics_total", (output,)] == 0
        assert found["penstock_output_attempts_total", (output,)] == 7
        assert found["penstock_output_requests_total", (("answer", "error"), output)] == 2
        assert found["penstock_output_state", (output, ("state", "holding"))] == 1
        assert found["penstock_output_state", (output, ("state", "ok"))] == 0
        assert found["penstock_lane_running", (("lane", "0"),)] == 0
        assert found["penstock_socket_receive_buffer_bytes", (("lane", "0"), listener)] > 0
        assert found["penstock_socket_queue_bytes", (("lane", "0"), listener)] == 0
        assert found["penstock_socket_kernel_dropped_datagrams_total", (("lane", "0"), listener)] == 0
        assert found["penstock_ready", ()] == 1
        assert found["penstock_config_last_reload_successful", ()] == 1
        assert found["penstock_config_applied_timestamp_seconds", ()] == 1000
        assert found["process_resident_memory_bytes", ()] > 1 << 20
        for name, _ in found:
            assert re.fullmatch(r"(penstock|process)_[a-z_]+", name), name

    run(tmp_path, body)


def test_metrics_tell_of_the_breaker_and_of_what_is_on_disk(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        output = ("output", "influx")
        found = samples((await running.get("/metrics"))[1])
        assert found["penstock_output_breaker_state", (output, ("state", "half_open"))] == 1
        assert found["penstock_output_breaker_state", (output, ("state", "closed"))] == 0
        assert found["penstock_output_concurrency_limit", (output,)] == 3
        assert found["penstock_output_round_trip_seconds", (output,)] == 0.25
        names = {name for name, _ in found} - {"penstock_rejected_fields_total"}
        assert not [name for name in names if name.startswith(("penstock_spool", "penstock_rejected"))]
        running.service.spool = SpoolCounters(
            restored=4,
            stored=3,
            decided=1,
            dropped={"spool_age": 2},
            metrics=4,
            files=2,
            bytes=8192,
            oldest_ns=1_500_000_000,
            foreign=1,
            errors={"ENOSPC": 5},
            failing="full",
        )
        running.service.refused = RejectedCounters(metrics=6, files=1, bytes=4096, unsaved=7, removed=8)
        running.service.counters.replayed = 9
        running.service.counters.opened = 2
        text = (await running.get("/metrics"))[1]
        found = samples(text)
        expected = {
            "output_restored_metrics_total": 4,
            "output_spooled_metrics": 4,
            "output_replayed_files_total": 9,
            "output_breaker_openings_total": 2,
            "spool_restored_metrics_total": 4,
            "spool_stored_metrics_total": 3,
            "spool_decided_metrics_total": 1,
            "spool_files": 2,
            "spool_bytes": 8192,
            "spool_foreign_files": 1,
            "spool_limit_bytes": 1 << 30,
            "spool_oldest_timestamp_seconds": 1.5,
            "rejected_kept_metrics": 6,
            "rejected_files": 1,
            "rejected_bytes": 4096,
            "rejected_unsaved_metrics_total": 7,
            "rejected_removed_metrics_total": 8,
        }
        assert {name: found[f"penstock_{name}", (output,)] for name in expected} == expected
        assert found["penstock_output_dropped_metrics_total", (output, ("reason", "spool_age"))] == 2
        assert found["penstock_output_stage_seconds_total", (output, ("stage", "request"))] == 1.5
        assert found["penstock_output_stage_seconds_total", (output, ("stage", "store"))] == 0
        assert found["penstock_traced_batches_total", ()] == 3
        # 5 of at most 100 us, 7 of up to 125 us, one beyond all bounds; of these few bounds are shown.
        seconds = [5, 7, *[0] * 89, 1]
        running.service.counters.histograms = {"delay_seconds": (seconds, 2.5)}
        found = samples((await running.get("/metrics"))[1])
        shown = {
            dict(labels)["le"]: value
            for (name, labels), value in found.items()
            if name.endswith("delay_seconds_bucket")
        }
        assert list(shown)[:2] == ["0.001", "0.0025"] and shown["0.001"] == shown["10000.0"] == 12
        assert shown["+Inf"] == found["penstock_output_delay_seconds_count", (output,)] == 13
        assert found["penstock_output_delay_seconds_sum", (output,)] == 2.5
        errors = (("error", "ENOSPC"), ("folder", "spool"), output)
        assert found["penstock_disk_errors_total", errors] == 5
        assert found["penstock_disk_failing", (("folder", "spool"), output)] == 1
        assert found["penstock_disk_failing", (("folder", "rejected"), output)] == 0

    run(tmp_path, body)


def test_metrics_tell_who_looks_on_and_what_threads_take(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        service = running.service
        found = samples((await running.get("/metrics"))[1])
        assert found["penstock_page_clients", ()] == found["penstock_ledger_broken", ()] == 0
        assert found["penstock_tap_clients", ()] == found["penstock_tap_skipped_metrics_total", ()] == 0
        service.counters.delivered = 1
        for second in range(1, 9):
            service.sampler.tick(float(second))
        async with running.over_unix.get("/api/stream"):
            found = samples((await running.get("/metrics"))[1])
            assert found["penstock_page_clients", ()] == 1
        assert found["penstock_ledger_broken", ()] == 1
        assert found["penstock_thread_cpu_seconds_total", (("thread", "main"),)] > 0

    run(tmp_path, body)


def test_metrics_speak_openmetrics_to_who_asks_for_it(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        _, text = await running.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert text.endswith("# EOF\n")

    run(tmp_path, body)


def test_status_shows_service_and_ledger(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        status, text = await running.get("/api/status")
        found = json.loads(text)
        assert status == 200
        assert (found["state"], found["config"], found["pid"]) == ("running", "/c.toml", os.getpid())
        assert found["ledger"] == {"balance": "balanced", "problems": [], "broken_since": None}
        (output,) = found["outputs"]
        assert (output["name"], output["state"], output["target"]) == ("influx", "holding", "http://h:8086")
        assert output["ledger"]["requests"] == {"2xx": 5, "error": 2}
        assert (output["breaker"], output["limit"], output["round_trip"]) == ("half_open", 3, 0.25)
        running.service.counters.delivered = 1
        found = json.loads((await running.get("/api/status"))[1])
        assert found["ledger"]["balance"] == "broken"
        assert found["ledger"]["problems"][0].startswith(
            "output influx: 0 restored + 0 written, but 1 delivered"
        )

    run(tmp_path, body)


def test_reload_answers_with_the_changes_or_the_problems(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        assert await running.post("/api/reload") == (
            200,
            {"applied": True, "changes": ["flush.interval: 0.2 -> 0.5"], "problems": []},
        )
        running.service.outcome = ReloadOutcome(time=3000.0, problems=("output[0].url: is missing",))
        status, answer = await running.post("/api/reload?wait=1")
        assert (status, answer["applied"]) == (409, False)
        assert answer["problems"] == ["output[0].url: is missing"]
        found = samples((await running.get("/metrics"))[1])
        assert found["penstock_reloads_total", (("result", "applied"),)] == 1
        assert found["penstock_reloads_total", (("result", "refused"),)] == 1
        assert found["penstock_config_last_reload_successful", ()] == 0
        assert found["penstock_config_last_reload_timestamp_seconds", ()] == 3000
        last = json.loads((await running.get("/api/status"))[1])["reload"]["last"]
        assert (last["applied"], last["problems"]) == (False, ["output[0].url: is missing"])

    run(tmp_path, body)


def test_reload_without_waiting_answers_at_once(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        running.service.reloading.clear()
        assert await running.post("/api/reload?wait=0") == (202, {"accepted": True})
        assert running.service.reloads.applied == 0
        running.service.reloading.set()
        deadline = time.monotonic() + 10
        while running.service.reloads.applied != 1 and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        assert running.service.reloads.applied == 1
        assert (await running.post("/api/reload?wait=perhaps"))[0] == 400

    run(tmp_path, body)


def test_reload_goes_on_when_the_one_who_asked_goes_away(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        running.service.reloading.clear()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(running.post("/api/reload"), 0.1)
        running.service.reloading.set()
        deadline = time.monotonic() + 10
        while running.service.reloads.applied != 1 and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        assert running.service.reloads.applied == 1

    run(tmp_path, body)


def test_reload_is_refused_over_tcp(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        async with running.over_tcp.post("/api/reload") as response:
            assert response.status == 403
        assert running.service.reloads.applied == 0

    run(tmp_path, body)


@pytest.mark.parametrize("path", ["/api/tap", "/api/capture?last=1"])
def test_what_metrics_say_is_shown_on_the_control_socket_only(tmp_path: Path, path: str) -> None:
    async def body(running: Running) -> None:
        status, text = await running.get(path)
        assert status == 403 and "on the control socket only" in json.loads(text)["error"]
        async with running.over_unix.get(path) as response:
            # There is nothing to look at, and whoever may ask is told so.
            assert response.status == 409
            assert re.search("there are none|nothing is kept", (await response.json())["error"])

    run(tmp_path, body)


def test_only_a_client_that_does_not_take_a_stream_is_cut() -> None:
    guards = Guards(64, request_timeout=0.2, answer_timeout=0.1)

    class Stream(asyncio.Protocol):
        """Writes without an end, as much as is taken."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport
            guards.request_arrived(transport)
            guards.stream(transport)
            self.writing = asyncio.ensure_future(self.write())
            self.paused = asyncio.Event()
            self.paused.set()

        async def write(self) -> None:
            assert isinstance(self.transport, asyncio.Transport)
            while not self.transport.is_closing():
                self.transport.write(b"x" * 65536)
                await asyncio.sleep(0.01)
                await self.paused.wait()

        def pause_writing(self) -> None:
            self.paused.clear()

        def resume_writing(self) -> None:
            self.paused.set()

        def connection_lost(self, exc: Exception | None) -> None:
            self.writing.cancel()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Guard(Stream(), guards), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            deaf = socket.create_connection(("127.0.0.1", port))
            deadline = loop.time() + 20
            read = 0
            while len(guards._open) < 2:
                assert loop.time() < deadline
                await asyncio.sleep(0.001)
            while len(guards._open) == 2:  # until the deaf one is cut
                assert loop.time() < deadline
                read += len(await reader.read(1 << 16))
            before = loop.time()
            while loop.time() < before + 0.5:
                assert await reader.read(1 << 16)
            assert len(guards._open) == 1 and read
            deaf.close()
            writer.transport.abort()
            while guards._open:
                assert loop.time() < deadline
                await asyncio.sleep(0.001)

    asyncio.run(main())


def test_the_control_socket_is_its_owners_alone(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        mode = os.stat(running.control.address).st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600

    run(tmp_path, body)


def test_a_stale_control_socket_is_replaced_and_a_live_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def body(running: Running) -> None:
        with pytest.raises(ControlError, match="another agent runs"):
            await start(str(path), running.service)
        assert (await running.post("/api/reload"))[0] == 200

    run(tmp_path, body)


def test_another_file_in_the_place_of_the_control_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("mine")

    async def main() -> None:
        with pytest.raises(ControlError, match=re.escape(str(path))):
            await start(str(path), Service())

    asyncio.run(main())
    assert path.read_text() == "mine"


def test_a_taken_port_is_an_error_that_names_it(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        with pytest.raises(ControlError, match=f"{re.escape(running.tcp.address)}: Address already in use"):
            await start(running.tcp.address, running.service)

    run(tmp_path, body)


def answered(sock: socket.socket) -> bytes:
    """Everything that comes until the server closes."""
    parts = []
    try:
        while part := sock.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
    ids=["line", "header", "rubbish"],
)
def test_a_request_beyond_the_limits_is_refused_and_costs_its_connection_only(
    tmp_path: Path, request_bytes: bytes
) -> None:
    async def body(running: Running) -> None:
        with running.connect() as sock:
            sock.sendall(request_bytes)
            answer = await asyncio.to_thread(answered, sock)
            assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
        assert (await running.get("/healthz"))[0] == 200

    run(tmp_path, body)


def test_a_request_that_does_not_arrive_in_time_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_REQUEST_TIMEOUT", 0.1)

    async def body(running: Running) -> None:
        with running.connect() as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost")
            assert await asyncio.to_thread(answered, sock) == b""
        assert (await running.get("/healthz"))[0] == 200

    run(tmp_path, body)


def test_an_answer_that_does_not_come_in_time_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_ANSWER_TIMEOUT", 0.1)

    async def body(running: Running) -> None:
        running.service.reloading.clear()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await running.post("/api/reload")
        running.service.reloading.set()

    run(tmp_path, body)


def test_connections_are_bounded_and_one_that_ends_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)

    async def body(running: Running) -> None:
        with running.connect(), running.connect() as second:
            # Accepted in the order of their arrival, so the third is the one too many.
            with running.connect() as third:
                assert await asyncio.to_thread(answered, third) == b""
            second.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await asyncio.to_thread(answered, second)).startswith(b"HTTP/1.1 200")
            assert (await running.get("/healthz"))[0] == 200

    run(tmp_path, body)


def test_closing_leaves_the_socket_file_of_a_successor(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "control.sock"
        first = await start(str(path), Service())
        path.unlink()
        second = await start(str(path), Service())
        await first.aclose()
        assert path.exists()
        await second.aclose()
        assert not path.exists()

    asyncio.run(main())


def test_what_guards_the_database_is_told_where_there_is_something(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        assert json.loads((await running.get("/api/status"))[1])["guards"] is None
        assert "penstock_guard" not in (await running.get("/metrics"))[1]
        watch = Watch()
        watch.configure(Cardinality(max_series=100))
        watch.look_after(1_000_000_000, 5_000_000_000)
        for i in range(300):
            watch.book.decide(f'http,id="{i}'.encode())
        running.service.guards = watch.account()
        guards = json.loads((await running.get("/api/status"))[1])["guards"]
        assert 70 <= guards["series"] <= 76 and guards["series_max"] == 100 and guards["overflow_series"] == 1
        offender = guards["offenders"][0]
        assert (offender["measurement"], offender["tag"], offender["policy"]) == ("http", "id", "overflow")
        assert offender["refused"] == guards["refused"] == 300 - guards["series"] and offender["since"] == 5.0
        found = samples((await running.get("/metrics"))[1])
        assert found["penstock_guard_series", ()] == guards["series"]
        assert found["penstock_guard_refused_series_total", ()] == guards["refused"]
        labels = (("measurement", "http"), ("tag", "id"))
        assert found["penstock_offender_series", labels] == offender["series"]
        assert found["penstock_offender_new_series_per_minute", labels] == offender["per_minute"]

    run(tmp_path, body)
