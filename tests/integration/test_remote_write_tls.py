"""The remote_write output over TLS: verified, unverified, and with a certificate of the client."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cramjam
import pytest

from agent import _core
from agent.config import RemoteWriteOutput
from agent.outputs import make
from agent.outputs.base import Kind, Verdict
from tests.integration.certificates import make_certificates, server_context

BODY = _core.samples_of_lines(b"cpu,host=a v=1.5 1700000000000000000\n")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@contextmanager
def server(
    certificates: Path, name: str = "server", client: bool = False
) -> Iterator[tuple[str, list[bytes]]]:
    """An address, and the bodies that come there."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(bytes(cramjam.snappy.decompress_raw(body)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

        def finish_request(self, request: Any, client_address: Any) -> None:
            # The handshake is the connection's own affair: one that fails holds up no other.
            with context.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)

    context = server_context(certificates, name)
    if client:
        context.load_verify_locations(certificates / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    with Server(("127.0.0.1", 0), Handler) as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://127.0.0.1:{one.server_address[1]}/api/v1/write", bodies
        one.shutdown()
        thread.join()


def send(url: str, certificates: Path, **settings: Any) -> Verdict:
    for key in ("ca", "cert", "key"):
        if key in settings:
            settings[key] = str(certificates / settings[key])
    output = make(RemoteWriteOutput(name="out", url=url, **settings))
    try:
        return output.post(output.encode(memoryview(BODY), 1, "pb"))
    finally:
        output.close()


@pytest.mark.parametrize(
    "settings", [{"ca": "ca.pem"}, {"insecure_skip_verify": True}], ids=["verified", "unverified"]
)
def test_a_server_that_is_trusted_gets_the_samples(certificates: Path, settings: dict[str, Any]) -> None:
    with server(certificates) as (url, bodies):
        assert send(url, certificates, **settings).kind is Kind.DELIVERED
    assert bodies == [BODY]


@pytest.mark.parametrize("settings", [{}, {"ca": "other.pem"}], ids=["the system's", "another"])
def test_a_server_of_another_authority_gets_nothing(certificates: Path, settings: dict[str, Any]) -> None:
    with server(certificates) as (url, bodies):
        verdict = send(url, certificates, **settings)
    assert verdict.kind is Kind.RETRY and "certificate verify failed" in verdict.text
    assert bodies == []


def test_a_certificate_for_another_host_is_refused(certificates: Path) -> None:
    with server(certificates, "elsewhere") as (url, bodies):
        assert send(url, certificates, ca="ca.pem").kind is Kind.RETRY
    assert bodies == []


def test_a_server_that_wants_a_certificate_gets_it(certificates: Path) -> None:
    with server(certificates, client=True) as (url, bodies):
        assert send(url, certificates, ca="ca.pem").kind is Kind.RETRY
        mutual = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}
        assert send(url, certificates, **mutual).kind is Kind.DELIVERED
    assert bodies == [BODY]
