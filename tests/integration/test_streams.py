"""Connections to a whole agent: delivered, pushed back, kept across a reload, drained, and under attack."""

import os
import resource
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.bench.native import Beside
from tests.conftest import need, wait_until
from tests.integration.agent_process import (
    AgentProcess,
    Status,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    load,
    output,
    send_udp,
)
from tests.integration.certificates import make_certificates
from tests.integration.test_ledger import file_output

QUIET = os.environ.get("PENSTOCK_QUIET_MACHINE") == "1"


def tcp(port: int, *keys: str, name: str = "tcp") -> str:
    return f'[[listen]]\nname = "{name}"\naddress = "tcp://127.0.0.1:{port}"\n' + "\n".join(keys) + "\n"


def unix(*keys: str) -> str:
    return '[[listen]]\nname = "unix"\naddress = "unix://{folder}/in.sock"\n' + "\n".join(keys) + "\n"


def lines(count: int, begin: int = 0) -> bytes:
    return b"".join(b"m,t=%d v=%di %d\n" % (n % 100, n, 10**18 + n) for n in range(begin, begin + count))


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 20)


def connect_unix(folder: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(20)
    client.connect(str(folder / "in.sock"))
    return client


def settled(agent: AgentProcess, received: int, name: str = "tcp") -> Status:
    status = agent.wait_for(
        lambda status: listener(status, name)["received"] == received and at_rest(status),
        what=f"received = {received}",
    )
    assert_balanced(status)
    return status


@pytest.mark.parametrize("lanes", [1, 2])
def test_lines_of_many_connections_are_delivered(tmp_path: Path, lanes: int) -> None:
    port = free_port(socket.SOCK_STREAM)
    agent_table = f'[agent]\nadmin = ""\nlanes = {lanes}\n'
    config = f"{agent_table}{tcp(port)}{unix()}{file_output('out')}"
    with AgentProcess(tmp_path, config) as agent, ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(20)]
        clients += [stack.enter_context(connect_unix(tmp_path)) for _ in range(20)]
        for number, client in enumerate(clients):
            client.sendall(lines(1000, number * 1000))
        settled(agent, 20_000)
        status = settled(agent, 20_000, "unix")
        assert listener(status, "tcp")["connections"] == listener(status, "unix")["connections"] == 20
        assert 'penstock_listener_connections{listener="unix"} 20.0' in agent.metrics()
        assert "Connections" in agent.command("status").stdout
        assert agent.stop() == 0
        assert sorted(delivered_lines(tmp_path / "out")) == sorted(lines(40_000).splitlines())


def test_ipv6_is_spoken(tmp_path: Path) -> None:
    try:
        port = free_port(socket.SOCK_STREAM, "::1")
    except OSError:
        pytest.skip("no IPv6")
    config = f'[[listen]]\nname = "tcp"\naddress = "tcp://[::1]:{port}"\n{file_output("out")}'
    with AgentProcess(tmp_path, config) as agent:
        with socket.create_connection(("::1", port)) as client:
            client.sendall(lines(10))
        settled(agent, 10)


def test_a_slow_output_pushes_back_and_nothing_is_lost(tmp_path: Path) -> None:
    need("cc")
    port, count = free_port(socket.SOCK_STREAM), 400_000
    with Beside("http_null") as server:
        config = (
            f'[flush]\nbatch_bytes = "256KiB"\n{tcp(port)}'
            f'[[output]]\nname = "out"\ntype = "influxdb"\nurl = "http://{server.address}"\norg = "o"\n'
            'bucket = "b"\nring_bytes = "1MiB"\nspool = false\n'
            'response_timeout = "60s"\nbatch_timeout = "10m"\n'
        )
        with AgentProcess(tmp_path, config) as agent:
            server.process.send_signal(signal.SIGSTOP)
            client = connect(port)
            client.settimeout(120)
            sender = threading.Thread(target=client.sendall, args=(lines(count),), daemon=True)
            sender.start()
            agent.wait_for(lambda status: status["lanes"][0]["paused"], what="paused")
            before = agent.memory
            paused = listener(agent.status(), "tcp")["received"]
            assert paused < count / 4
            # Datagrams would be dropped now; what is sent by the stream waits with its sender.
            for _ in range(20):
                status = agent.status()
                assert listener(status, "tcp")["received"] == paused
                assert status["ledger"]["balance"] == "balanced"
                assert sender.is_alive()
            assert agent.memory < before + (4 << 20)
            server.process.send_signal(signal.SIGCONT)
            sender.join(120)
            client.close()
            status = settled(agent, count)
            account = listener(status, "tcp")
            assert account["accepted"] == count and account["dropped"] == {}
            assert output(status, "out")["delivered"] == count
            assert agent.stop() == 0
        assert server.stop()["lines"] == count


def test_a_reload_keeps_connections_and_what_they_hold(tmp_path: Path) -> None:
    port, other = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)
    with (
        AgentProcess(tmp_path, f"{tcp(port)}{tcp(other, name='gone')}{file_output('out')}") as agent,
        connect(port) as client,
        connect(other) as leaving,
    ):
        client.sendall(b"m v=1i 1\nm v=")
        leaving.sendall(b"m v=3i 3\nm v=4i 4\nm v=5")
        settled(agent, 1)
        keys = ['idle_timeout = "5m"', 'precision = "s"']
        after = f"{tcp(port, *keys)}{file_output('out')}"
        assert agent.reload(after)["applied"]
        # What the kernel held of the one that left was read; the half line nobody can finish.
        assert leaving.recv(1) == b""
        status = agent.status()
        gone = listener(status, "gone")
        assert (gone["received"], gone["accepted"], gone["dropped"]) == (3, 2, {"unfinished": 1})
        assert gone["connections_closed"] == {"stopped": 1}
        client.sendall(b"2i 2\n")
        status = settled(agent, 2)
        assert listener(status, "tcp")["connections_accepted"] == 1
        with pytest.raises(ConnectionRefusedError):
            connect(other)
        # Its number may change with its name; the connection stays.
        assert agent.reload(after.replace('name = "tcp"', 'name = "new"'))["applied"]
        client.sendall(b"m v=6i 6\n")
        status = settled(agent, 1, "new")
        assert listener(status, "new")["connections"] == 1 and listener(status, "tcp")["connections"] == 0
        assert agent.stop() == 0
        assert b"m v=2i 2000000000" in delivered_lines(tmp_path / "out")


def test_stop_delivers_what_the_kernel_holds(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_STREAM)
    with AgentProcess(tmp_path, f"{tcp(port)}{unix()}{file_output('out')}") as agent, ExitStack() as stack:
        for number in range(50):
            for client in (connect(port), connect_unix(tmp_path)):
                stack.enter_context(client).sendall(lines(200, number * 200))
        assert agent.stop() == 0
        assert len(delivered_lines(tmp_path / "out")) == 20_000
        assert not (tmp_path / "in.sock").exists()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_sockets_of_systemd_are_adopted(tmp_path: Path, family: int) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as passed:
        passed.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "in.sock"))
        passed.listen(16)
        address = passed.getsockname()
        where = unix() if family == socket.AF_UNIX else tcp(address[1], name="unix")
        config = f'[agent]\nadmin = ""\nlanes = 2\n{where}{file_output("out")}'
        config = config.replace("{folder}", str(tmp_path))
        for round_ in range(2):
            (folder := tmp_path / f"{round_}").mkdir()
            with AgentProcess(folder, config, pass_fds={"penstock.socket": passed}) as agent:
                with socket.socket(family, socket.SOCK_STREAM) as client:
                    client.connect(address)
                    client.sendall(lines(100))
                settled(agent, 100, "unix")
                assert agent.stop() == 0
            # Between two processes nobody is turned away: the socket is systemd's.
            with socket.socket(family, socket.SOCK_STREAM) as early:
                early.connect(address)


# ---- TLS ----


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def tls_keys(certificates: Path, name: str = "server", mutual: bool = False) -> list[str]:
    keys = [f'cert = "{certificates}/{name}.pem"', f'key = "{certificates}/{name}.key"']
    return [*keys, f'client_ca = "{certificates}/ca.pem"'] if mutual else keys


def client_context(certificates: Path, name: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if name:
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return context


def connect_tls(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(connect(port), server_hostname="127.0.0.1")


@pytest.mark.parametrize("lanes", [1, 2])
def test_tls_and_mutual_tls(tmp_path: Path, certificates: Path, lanes: int) -> None:
    port = free_port(socket.SOCK_STREAM)
    keys = tls_keys(certificates, mutual=True)
    agent_table = f'[agent]\nadmin = ""\nlanes = {lanes}\n'
    with AgentProcess(tmp_path, f"{agent_table}{tcp(port, *keys)}{file_output('out')}") as agent:
        known = client_context(certificates, "client")
        with ExitStack() as stack:
            for number in range(8):
                client = stack.enter_context(connect_tls(port, known))
                client.sendall(lines(2000, number * 2000) + b"m v=1")
                client.unwrap() if number % 2 else None
        # Four ended their streams as TLS has it, and so their last lines; four went without a word.
        settled(agent, 16_008)
        status = agent.wait_for(
            lambda status: sum(listener(status, "tcp")["connections_closed"].values()) == 8, what="all closed"
        )
        account = listener(status, "tcp")
        assert (account["accepted"], account["dropped"]) == (16_004, {"unfinished": 4})
        assert account["connections_closed"] == {"ended": 4, "reset": 4}
        with pytest.raises(OSError), connect_tls(port, client_context(certificates)) as stranger:
            stranger.sendall(b"m v=1\n")
            stranger.recv(1)
        with connect(port) as plain:
            plain.sendall(b"m v=1\n" * 10)
            with suppress(ConnectionResetError):
                plain.recv(100)
        status = agent.wait_for(lambda status: listener(status, "tcp")["handshakes_failed"] == 2)
        assert listener(status, "tcp")["received"] == 16_008
        # It is counted first, and logged then.
        wait_until(lambda: len(agent.log("a TLS handshake failed")) == 2)
        assert agent.stop() == 0


def test_certificates_are_read_again_at_a_reload(tmp_path: Path, certificates: Path) -> None:
    port = free_port(socket.SOCK_STREAM)
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("server.pem", "server.key"):
        (mine / name).write_bytes((certificates / name).read_bytes())
    with AgentProcess(tmp_path, f"{tcp(port, *tls_keys(mine))}{file_output('out')}") as agent:
        context = client_context(certificates)
        with connect_tls(port, context) as kept:
            kept.sendall(b"m v=1i 1\n")
            settled(agent, 1)
            (mine / "server.pem").write_text("no certificate")
            assert not agent.reload()["applied"]
            connect_tls(port, context).close()
            for kind in ("pem", "key"):
                (mine / f"server.{kind}").write_bytes((certificates / f"elsewhere.{kind}").read_bytes())
            assert agent.reload()["applied"]
            with pytest.raises(ssl.SSLCertVerificationError):
                connect_tls(port, context)
            kept.sendall(b"m v=2i 2\n")
            settled(agent, 2)
            # TLS goes, the socket stays, and what spoke it is let go.
            assert agent.reload(f"{tcp(port)}{file_output('out')}")["applied"]
            with connect(port) as plain:
                plain.sendall(b"m v=3i 3\n")
                settled(agent, 3)
        assert agent.stop() == 0


def test_a_client_that_never_shakes_hands_is_closed(tmp_path: Path, certificates: Path) -> None:
    port = free_port(socket.SOCK_STREAM)
    keys = [*tls_keys(certificates), "max_connections = 2"]
    with AgentProcess(tmp_path, f"{tcp(port, *keys)}{file_output('out')}") as agent:
        with connect(port) as silent, connect(port) as other, connect(port) as third:
            # They count while they are at it, so nobody can hold more than is allowed that way.
            third.settimeout(5)
            assert third.recv(1) == b""
            other.close()
            assert silent.recv(1) == b""
        status = agent.wait_for(lambda status: listener(status, "tcp")["handshakes_failed"] == 2)
        assert listener(status, "tcp")["connections_refused"] == 1


def test_a_silent_client_of_tls_is_closed_and_costs_nothing(tmp_path: Path, certificates: Path) -> None:
    port = free_port(socket.SOCK_STREAM)
    keys = [*tls_keys(certificates), 'idle_timeout = "1s"']
    with AgentProcess(tmp_path, f"{tcp(port, *keys)}{file_output('out')}") as agent:
        with connect_tls(port, client_context(certificates)) as client:
            client.sendall(b"m v=1i 1\n")
            with suppress(ssl.SSLEOFError):
                assert client.recv(1) == b""
            wait_until(lambda: closed(agent) == {"idle": 1})
        assert listener(agent.status(), "tcp")["connections"] == 0
        assert agent.stop() == 0


def test_push_back_reaches_through_tls(tmp_path: Path, certificates: Path) -> None:
    need("cc")
    port, count = free_port(socket.SOCK_STREAM), 200_000
    with Beside("http_null") as server:
        config = (
            f'[flush]\nbatch_bytes = "256KiB"\n{tcp(port, *tls_keys(certificates))}'
            f'[[output]]\nname = "out"\ntype = "influxdb"\nurl = "http://{server.address}"\norg = "o"\n'
            'bucket = "b"\nring_bytes = "1MiB"\nspool = false\n'
            'response_timeout = "60s"\nbatch_timeout = "10m"\n'
        )
        with AgentProcess(tmp_path, config) as agent:
            server.process.send_signal(signal.SIGSTOP)
            client = connect_tls(port, client_context(certificates))
            client.settimeout(120)
            sender = threading.Thread(target=client.sendall, args=(lines(count),), daemon=True)
            sender.start()
            agent.wait_for(lambda status: status["lanes"][0]["paused"], what="paused")
            sender.join(0.5)
            assert sender.is_alive()
            server.process.send_signal(signal.SIGCONT)
            sender.join(120)
            client.unwrap()
            client.close()
            status = settled(agent, count)
            assert listener(status, "tcp")["dropped"] == {}
            assert agent.stop() == 0


# ---- hostile clients ----

Attack = Callable[[int], "Iterator[None]"]


@contextmanager
def idle_crowd(port: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(CROWD):
            stack.enter_context(connect(port))
        yield


@contextmanager
def slow_loris(port: int) -> Iterator[None]:
    stop = threading.Event()
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(50)]

        def trickle() -> None:
            while not stop.wait(0.02):
                for client in clients:
                    try:
                        client.send(b"x")
                    except OSError:
                        continue

        thread = threading.Thread(target=trickle)
        thread.start()
        yield
        stop.set()
        thread.join()


@contextmanager
def never_reads(port: int) -> Iterator[None]:
    with connect(port) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"bad\n" * 1000)
        yield


@contextmanager
def garbage(port: int) -> Iterator[None]:
    with connect(port) as client:
        client.sendall(os.urandom(1 << 20))
        yield


@contextmanager
def huge_line(port: int) -> Iterator[None]:
    with connect(port) as client:
        client.sendall(b"x" * (8 << 20) + b"\nm v=1i 1\n")
        yield


@contextmanager
def resets(port: int) -> Iterator[None]:
    for _ in range(200):
        client = connect(port)
        client.sendall(b"m v=1i 1\nm v=")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    yield


@contextmanager
def half_closed(port: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(connect(port))
            client.sendall(b"m v=1i 1")
            client.shutdown(socket.SHUT_WR)
        yield


def closed(agent: AgentProcess) -> dict[str, int]:
    return dict(listener(agent.status(), "tcp")["connections_closed"])


CROWD = 10_000 if resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 11_000 else 1000
ATTACKS = {
    one.__name__: one
    for one in (idle_crowd, slow_loris, never_reads, garbage, huge_line, resets, half_closed)
}
RATE = 100_000 if QUIET else 20_000


@pytest.mark.parametrize("name", ATTACKS)
def test_other_doors_do_not_notice(tmp_path: Path, name: str) -> None:
    need("cc")
    port, udp = free_port(socket.SOCK_STREAM), free_port()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    config = (
        f"{tcp(port, f'max_connections = {CROWD}', 'idle_timeout = ' + chr(34) + '3s' + chr(34))}"
        f'[[listen]]\nname = "udp"\naddress = "udp://127.0.0.1:{udp}"\nreceive_buffer = "16MiB"\n'
        '[[output]]\nname = "out"\ntype = "null"\n'
    )
    with AgentProcess(tmp_path, config) as agent:
        send_udp(udp, b"m v=1")
        before = agent.wait_for(lambda status: listener(status, "udp")["received"] == 1)
        memory = agent.memory
        began = time.monotonic()
        with ATTACKS[name](port), load(udp, RATE, seconds=2.0) as sender:
            if name == "idle_crowd":
                agent.wait_for(lambda status: listener(status, "tcp")["connections"] == CROWD)
                grown = agent.memory - memory
                print(f"{CROWD} idle connections: {grown / CROWD:.0f} bytes each")
                assert grown < CROWD * 512 + (4 << 20)
            sent = sender.finish(stop=False)
            for attack, reason, count in (("idle_crowd", "idle", CROWD), ("slow_loris", "slow", 50)):
                if name == attack:
                    wait_until(lambda: closed(agent).get(reason) == count, 20)  # noqa: B023
        agent.wait_for(lambda status: listener(status, "tcp")["connections"] == 0, what="all closed")
        status = agent.wait_for(at_rest)
        assert_balanced(status)
        account, door = listener(status, "udp"), listener(status, "tcp")
        got = account["received"] - listener(before, "udp")["received"]
        assert got + account["kernel_drops"] >= sent
        assert got >= sent * (0.95 if QUIET else 0.5)
        expected = {
            "slow_loris": (50, {"unfinished": 50}),
            "huge_line": (2, {"line_too_long": 1}),
            "resets": (400, {"unfinished": 200}),
            "half_closed": (50, {}),
            "idle_crowd": (0, {}),
        }
        if name in expected and name != "resets":
            assert (door["received"], door["dropped"]) == expected[name]
        assert door["connections_accepted"] == sum(door["connections_closed"].values())
        print(f"{name}: {time.monotonic() - began:.1f} s, {door['connections_closed']}, {door['dropped']}")
        assert agent.stop() == 0


def test_connections_leave_descriptors_for_what_delivers(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_STREAM)
    few = (need("prlimit"), "--nofile=200:200")
    with AgentProcess(tmp_path, f"{tcp(port)}{file_output('out')}", prefix=few) as agent:
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(port)) for _ in range(300)]

            def decided(status: Status) -> bool:
                account = listener(status, "tcp")
                return bool(account["connections_accepted"] + account["connections_refused"] == 300)

            account = listener(agent.wait_for(decided), "tcp")
            taken = account["connections"]
            assert 20 < taken < 110
            # Which of them were taken is not told: a request for the status needs a descriptor, too.
            for client in clients:
                with suppress(OSError):
                    client.sendall(b"m v=1i 1\n")
            settled(agent, taken)
        agent.wait_for(lambda status: listener(status, "tcp")["connections"] == 0)
        with connect(port) as client:
            client.sendall(b"m v=1i 1\n")
            settled(agent, taken + 1)
        assert agent.stop() == 0
        assert len(delivered_lines(tmp_path / "out")) == taken + 1


def test_sources_are_those_in_front_of_tls(tmp_path: Path, certificates: Path) -> None:
    port = free_port(socket.SOCK_STREAM)
    keys = [*tls_keys(certificates), 'sources = ["127.0.0.2", "127.0.0.3"]', "source_rate = 1"]
    context = client_context(certificates)

    def connect(address: str) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(address, 0))
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    with AgentProcess(tmp_path, f"{tcp(port, *keys)}{file_output('out')}") as agent:
        with pytest.raises(OSError):
            connect("127.0.0.4")
        with connect("127.0.0.2") as client, connect("127.0.0.3") as other:
            client.sendall(b"m v=1 1\n" * 100)
            agent.wait_for(lambda status: listener(status, "tcp")["received"] == 100)
            client.sendall(b"m v=1 1\n")
            other.sendall(b"m v=2 2\n")
            status = agent.wait_for(
                lambda status: listener(status, "tcp")["received"] == 101 and at_rest(status)
            )
        assert listener(status, "tcp")["connections_refused"] == 1
        assert b"m v=2 2" in delivered_lines(tmp_path / "out")
