"""An HTTP listener through reload, stop and kill: connections stay, and what was answered 204 is kept."""

import http.client
import shutil
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
)
from tests.integration.certificates import make_certificates

CONFIG = """
[[listen]]
address = "http://127.0.0.1:{port}"
name = "{name}"
{more}

[flush]
interval = "{interval}"

[[output]]
name = "out"
type = "file"
path = "{{folder}}/out"
"""


def config(port: int, name: str = "door", more: str = "", interval: str = "20ms") -> str:
    return CONFIG.format(port=port, name=name, more=more, interval=interval)


def post(connection: http.client.HTTPConnection, body: bytes, token: str = "") -> int:
    connection.request("POST", "/write", body, {"Authorization": f"Token {token}"} if token else {})
    response = connection.getresponse()
    response.read()
    return response.status


@pytest.fixture
def port() -> int:
    return free_port(socket.SOCK_STREAM)


@pytest.fixture
def connection(port: int) -> Iterator[http.client.HTTPConnection]:
    one = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    yield one
    one.close()


def test_a_connection_stays_through_reloads(
    tmp_path: Path, port: int, connection: http.client.HTTPConnection
) -> None:
    with AgentProcess(tmp_path, config(port)) as agent:
        assert post(connection, b"m v=1 1") == 204
        sock = connection.sock
        assert agent.reload(config(port, more='tokens = ["a"]'))["applied"]
        assert post(connection, b"m v=2 2") == 401
        assert post(connection, b"m v=2 2", "a") == 204
        # Another name is another account, on the same connection.
        assert agent.reload(config(port, name="other", more='max_body = "1KiB"'))["applied"]
        assert post(connection, b"m v=3 3") == 204
        assert connection.sock is sock
        assert post(connection, bytes(1025)) == 413
        status = agent.wait_for(at_rest)
        assert_balanced(status)
        assert [listener(status, name)["accepted"] for name in ("door", "other")] == [2, 1]
        # What cannot be followed changes nothing.
        assert not agent.reload(config(port, name="other", more='cert = "/nowhere"'))["applied"]
        connection.close()
        assert post(connection, b"m v=4 4") == 204
        agent.reload(config(port).replace("http://127.0.0.1", "udp://127.0.0.1"))
        with pytest.raises(OSError):
            post(connection, b"m v=5 5")
        with socket.create_server(("127.0.0.1", port)):
            pass
        wait_until(lambda: len(delivered_lines(tmp_path / "out")) == 4)
        assert agent.stop() == 0
    assert delivered_lines(tmp_path / "out") == [b"m v=%d %d" % (at, at) for at in (1, 2, 3, 4)]


def test_a_reload_reads_the_certificates_again(tmp_path: Path, port: int) -> None:
    certificates = make_certificates(tmp_path)
    for kind in ("pem", "key"):
        shutil.copy(certificates / f"server.{kind}", tmp_path / f"own.{kind}")
    text = config(port, more='cert = "{folder}/own.pem"\nkey = "{folder}/own.key"')

    def presented() -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=20)

    with AgentProcess(tmp_path, text) as agent:
        first = presented()
        assert first == (certificates / "server.pem").read_text()
        for kind in ("pem", "key"):
            shutil.copy(certificates / f"elsewhere.{kind}", tmp_path / f"own.{kind}")
        assert presented() == first
        assert agent.reload()["applied"]
        assert presented() == (certificates / "elsewhere.pem").read_text()
        (tmp_path / "own.pem").write_text("broken")
        assert not agent.reload()["applied"]
        assert presented() == (certificates / "elsewhere.pem").read_text()
        assert agent.stop() == 0


def test_a_socket_that_systemd_has_opened_is_used_and_left_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with AgentProcess(tmp_path, config(port), pass_fds={"door": sock}) as agent:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            assert post(client, b"m v=1 1") == 204
            client.close()
            assert agent.stop() == 0
            # Who connects between two runs waits for the next one.
            with socket.create_connection(("127.0.0.1", port), timeout=20) as waiting:
                waiting.sendall(b"POST /write HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\nm v=2 2")
                agent.start()
                assert waiting.recv(1000).startswith(b"HTTP/1.1 204 ")
            assert agent.stop() == 0
    assert sorted(delivered_lines(tmp_path / "out")) == [b"m v=1 1", b"m v=2 2"]


def test_what_was_answered_survives_a_kill(
    tmp_path: Path, port: int, connection: http.client.HTTPConnection
) -> None:
    with AgentProcess(tmp_path, config(port, interval="1h")) as agent:
        for at in range(40):  # fewer lines than a batch has
            body = b"".join(b"m,body=%d v=%d %d\n" % (at, line, line) for line in range(100))
            assert post(connection, body) == 204
        agent.signal(signal.SIGKILL)
        agent.wait()
        assert delivered_lines(tmp_path / "out") == []
        agent.write_config(config(port))
        agent.start()
        wait_until(lambda: len(delivered_lines(tmp_path / "out")) == 4000)
        status = agent.wait_for(at_rest)
        assert_balanced(status)
        assert status["outputs"][0]["ledger"]["restored"] == 4000
    assert len(set(delivered_lines(tmp_path / "out"))) == 4000


def test_nothing_answered_is_lost_at_a_stop(tmp_path: Path, port: int) -> None:
    answered: list[bytes] = []

    def send(number: int) -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            for at in range(100_000):
                line = b"m,client=%d v=%d %d" % (number, at, at)
                if post(client, line) != 204:
                    return
                answered.append(line)
        except (OSError, http.client.HTTPException):
            return  # closed, or not there any more
        finally:
            client.close()

    with AgentProcess(tmp_path, config(port)) as agent:
        threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answered) > 500)
        assert agent.stop() == 0
        for thread in threads:
            thread.join()
    found = delivered_lines(tmp_path / "out")
    assert set(answered) <= set(found)
    # A request whose answer was cut off may have been taken.
    assert len(found) <= len(answered) + 4
