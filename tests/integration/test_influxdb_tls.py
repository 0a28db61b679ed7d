"""The influxdb output over TLS: verified, unverified, and with a certificate of the client."""

import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.config import InfluxOutput
from agent.errors import OutputError
from agent.outputs import make
from agent.outputs.base import Kind
from tests.integration.certificates import make_certificates, server_context
from tests.integration.fake_influxdb import Answer, FakeInfluxDB

BODY = b"cpu,host=a v=1.5 1000000000000000000\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def start(certificates, name="server", client=False):
    context = server_context(certificates, name)
    if client:
        context.load_verify_locations(certificates / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return FakeInfluxDB(2, tls=context)


def output(url, certificates, **settings):
    for key in ("ca", "cert", "key"):
        if key in settings:
            settings[key] = str(certificates / settings[key])
    return make(
        InfluxOutput(name="influx", url=url, org="an org", bucket="metrics", token="t0ken==", **settings)
    )


def post(output):
    return output.post(output.encode(memoryview(BODY), 1))


def send(output):
    try:
        return post(output)
    finally:
        output.close()


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_server_of_the_given_authority_is_trusted(certificates, compression):
    with start(certificates) as server:
        sink = output(server.url, certificates, ca="ca.pem", compression=compression)
        for _ in range(3):
            assert post(sink).kind is Kind.DELIVERED
        assert server.lines == {BODY} and server.connections == 1 and not server.problems
        sink.close()


@pytest.mark.parametrize("settings", [{}, {"ca": "other.pem"}], ids=["the system's", "another"])
def test_a_server_of_another_authority_is_not(certificates, settings):
    with start(certificates) as server:
        verdict = send(output(server.url, certificates, **settings))
        assert verdict.kind is Kind.RETRY and not server.requests
        assert verdict.text.startswith("TLS: ") and "certificate verify failed" in verdict.text


def test_a_certificate_for_another_host_is_refused(certificates):
    with start(certificates, "elsewhere") as server:
        verdict = send(output(server.url, certificates, ca="ca.pem"))
        assert verdict.kind is Kind.RETRY and verdict.text.startswith("TLS: ") and not server.requests


@pytest.mark.parametrize("name", ["server", "elsewhere"])
def test_verification_can_be_left_out(certificates, name):
    with start(certificates, name) as server:
        assert send(output(server.url, certificates, insecure_skip_verify=True)).kind is Kind.DELIVERED


def test_a_server_that_wants_a_certificate_gets_it(certificates):
    with start(certificates, client=True) as server:
        mutual = output(server.url, certificates, ca="ca.pem", cert="client.pem", key="client.key")
        assert send(mutual).kind is Kind.DELIVERED and server.lines == {BODY}


def test_without_that_certificate_it_refuses(certificates):
    with start(certificates, client=True) as server:
        verdict = send(output(server.url, certificates, ca="ca.pem"))
        assert verdict.kind is Kind.RETRY and not server.requests


def test_a_dead_connection_costs_another_try_at_once(certificates):
    with start(certificates) as server:
        sink = output(server.url, certificates, ca="ca.pem")
        assert post(sink).kind is Kind.DELIVERED
        server.script(Answer(cut="early"))
        assert post(sink).kind is Kind.DELIVERED
        server.drop_connections()
        assert post(sink).kind is Kind.DELIVERED
        assert server.connections == 3
        # On a fresh connection the same is a failure.
        server.drop_connections()
        server.script(Answer(cut="early"))
        assert post(sink).kind is Kind.RETRY
        sink.close()


def test_abort_ends_what_is_under_way(certificates):
    with start(certificates) as server, ThreadPoolExecutor(1) as threads:
        gate = threading.Event()
        server.rule = lambda: arrived.set() or Answer(gate=gate)
        arrived = threading.Event()
        sink = output(server.url, certificates, ca="ca.pem")
        future = threads.submit(post, sink)
        assert arrived.wait(10)
        sink.abort()
        assert future.result(5).kind is Kind.RETRY
        gate.set()
        sink.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ca": "server.key"}, "ca: .*server.key holds no certificate"),
        ({"ca": "absent.pem"}, "ca: .*absent.pem"),
        ({"cert": "client.pem", "key": "server.key"}, "cert, key: .*client.pem with .*server.key"),
        ({"cert": "client.pem"}, "cert, key: .*client.pem cannot be used"),
    ],
)
def test_files_that_cannot_be_used_are_told_before_anything_is_sent(certificates, settings, said):
    with pytest.raises(OutputError, match=said):
        output("https://127.0.0.1:1", certificates, **settings)
