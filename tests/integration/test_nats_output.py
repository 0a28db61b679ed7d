"""The nats output against a real server: what is published, and what each thing that goes wrong means."""

import itertools
import threading
import time

import pytest

from agent.config import NatsOutput
from agent.errors import OutputError
from agent.outputs import make, nats_connection
from agent.outputs.base import Kind, Payload, plain
from agent.relay.message import parse
from tests.conftest import need, wait_until
from tests.integration.certificates import make_certificates
from tests.integration.fault_proxy import Fault, FaultProxy
from tests.integration.nats_server import nats_server

pytestmark = pytest.mark.needs("nats-server")

BODY = b"cpu,host=a v=1.5 1000000000000000000\ncpu,host=b v=2 1000000000000000001\n"


def sink(server, subject="metrics.x", agent="edge-1", **settings):
    settings.setdefault("servers", (server.url,))
    return make(NatsOutput(name="n", subject=subject, **settings), agent)


def body(count=2, size=0):
    return b"".join(b'm,n=%d s="%s" %d\n' % (n, b"x" * size, n + 1) for n in range(count))


NUMBERS = itertools.count(1 << 60)


def another_trace():
    return f"00-{next(NUMBERS):032x}-1b2c3d4e5f607182-01"


def payload_of(output, data=BODY, trace=""):
    """*trace* says of which batch it is; another one each time if it is empty."""
    trace = trace or another_trace()
    payload = output.encode(memoryview(data), data.count(b"\n"))
    payload.trace, payload.oldest_ns = trace, 1_700_000_000_000_000_000
    return payload


def post(output, data=BODY, trace="", seconds=20.0):
    return output.post(payload_of(output, data, trace), time.monotonic() + seconds)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with nats_server(tmp_path_factory.mktemp("nats"), "max_payload: 64KB\n") as started:
        started.add_stream("metrics", "metrics.>")
        yield started


@pytest.fixture
def opened():
    """What is closed at the end of the test, in its place."""
    outputs = []
    yield lambda output: outputs.append(output) or output
    for output in outputs:
        output.close()


@pytest.mark.parametrize(
    ("settings", "compression"),
    [({}, "gz"), ({"compression": "none"}, ""), ({"format": "protobuf"}, "gz")],
    ids=["gzip", "none", "lines of before"],
)
def test_a_batch_is_a_message_that_says_what_it_is(server, opened, settings, compression):
    output = opened(sink(server, subject="metrics.{agent}", agent="web.1/é", **settings))
    assert output.encoding == ("pb" if "format" in settings else "lp")
    before = server.count("metrics")
    trace = another_trace()
    assert post(output, trace=trace).kind is Kind.DELIVERED
    (one,) = server.messages("metrics")[before:]
    assert one.subject == "metrics.web_1__"
    message = parse(one.headers | {"Penstock-Agent": "a"}, one.data)
    assert message.payload == Payload(one.data, 2, len(BODY), "lp", compression)
    assert plain(message.payload) == BODY and message.oldest_ns == 1_700_000_000_000_000_000
    assert message.batch == trace[3:35] and one.headers["traceparent"] == trace
    assert one.headers["Nats-Msg-Id"] == message.identity
    # The same once more is the same; another part of the batch is another.
    assert post(output, trace=trace).kind is Kind.DELIVERED and server.count("metrics") == before + 1
    assert post(output, body(1), trace).kind is Kind.DELIVERED and server.count("metrics") == before + 2


def test_samples_are_published_as_samples(server, opened):
    output = opened(sink(server, format="protobuf"))
    samples = make_samples()
    payload = output.encode(memoryview(samples), 2, "pb")
    before = server.count("metrics")
    assert output.post(payload).kind is Kind.DELIVERED
    (one,) = server.messages("metrics")[before:]
    message = parse(one.headers, one.data)
    assert (message.payload.encoding, message.payload.compression, message.agent) == ("pb", "sz", "edge-1")
    assert plain(message.payload) == samples and message.place is None


def make_samples():
    from agent._core import samples_of_lines

    return samples_of_lines(BODY)


def test_many_senders_share_a_connection(server, opened):
    output = opened(sink(server))
    before = server.count("metrics")
    kinds = []

    def send():
        kinds.extend(post(output).kind for _ in range(25))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(kinds) == {Kind.DELIVERED} and len(kinds) == 200
    assert server.count("metrics") == before + 200


def test_what_is_larger_than_the_server_takes_is_split_before_it_is_sent(server, opened):
    output = opened(sink(server, compression="none"))
    before = server.count("metrics")
    verdict = post(output, body(100, 1000))
    assert verdict.kind is Kind.SPLIT
    assert "bytes, and the server takes 65536" in verdict.text
    # The headers count: a body of just the limit is too large.
    data = body(1, 65536 - 20)
    assert len(data) <= 65536
    assert post(output, data).kind is Kind.SPLIT
    assert post(output, body(10, 1000)).kind is Kind.DELIVERED
    assert server.count("metrics") == before + 1


def test_what_is_larger_than_the_stream_takes_is_split(server, opened):
    server.add_stream("small", "small", max_msg_size=2000)
    output = opened(sink(server, subject="small", compression="none"))
    verdict = post(output, body(10, 1000))
    assert verdict.kind is Kind.SPLIT and "message size exceeds maximum" in verdict.text
    assert post(output, body(1, 1000)).kind is Kind.DELIVERED


def test_where_no_stream_takes_the_subject_it_is_tried_again_and_then_held(server, opened, monkeypatch):
    output = opened(sink(server, subject="nobody"))
    verdict = post(output)
    assert (verdict.kind, verdict.status) == (Kind.RETRY, 503)
    assert verdict.text.startswith('no stream takes the subject "nobody": make one that does')
    monkeypatch.setattr(nats_connection, "SILENCE_S", 0.0)
    assert post(output).kind is Kind.HOLD
    server.add_stream("somebody", "nobody")
    assert post(output).kind is Kind.DELIVERED
    server.delete_stream("somebody")
    monkeypatch.setattr(nats_connection, "SILENCE_S", 15.0)
    # Counted anew.
    assert post(output).kind is Kind.RETRY


def test_another_stream_than_the_expected_one_is_held(server, opened):
    verdict = post(opened(sink(server, stream="other")))
    assert verdict.kind is Kind.HOLD
    assert verdict.text.startswith('another stream than "other" takes the subject "metrics.x": ')
    assert post(opened(sink(server, stream="metrics"))).kind is Kind.DELIVERED


def test_a_full_stream_is_tried_again(server, opened):
    server.add_stream("full", "full", max_msgs=1, discard="new")
    output = opened(sink(server, subject="full"))
    assert post(output).kind is Kind.DELIVERED
    verdict = post(output, body(3))
    assert verdict.kind is Kind.RETRY and "maximum messages exceeded" in verdict.text


def test_a_server_that_goes_and_comes_back(tmp_path, opened):
    with nats_server(tmp_path) as server:
        server.add_stream("metrics", "metrics.>")
        output = opened(sink(server))
        assert post(output).kind is Kind.DELIVERED
        server.kill()
        for number in range(3):
            verdict = post(output, body(number + 3))
            assert verdict.kind is Kind.RETRY, verdict
        assert verdict.text == "cannot connect: Connection refused"
        server.start()
        assert post(output, body(5)).kind is Kind.DELIVERED
        assert server.count("metrics") == 2


def test_what_is_under_way_when_the_connection_breaks_fails_at_once(tmp_path, opened):
    with nats_server(tmp_path) as server:
        server.add_stream("metrics", "metrics.>")
        output = opened(sink(server))
        assert post(output).kind is Kind.DELIVERED
        server.freeze()
        verdicts = []
        threads = [
            threading.Thread(target=lambda: verdicts.append(post(output, body(4), seconds=60)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(output._under_way) == 3)
        wait_until(lambda: all("confirmation" in one.phase for one in tuple(output._under_way)))
        server.kill()
        for thread in threads:
            thread.join(10)
        assert [verdict.kind for verdict in verdicts] == [Kind.RETRY] * 3
        assert all(verdict.text.startswith("the connection was lost") for verdict in verdicts)


def test_a_silent_server_costs_the_time_that_there_is_and_no_more(tmp_path, opened):
    with nats_server(tmp_path) as server:
        server.add_stream("metrics", "metrics.>")
        output = opened(sink(server, connect_timeout=0.5, response_timeout=0.3))
        assert post(output).kind is Kind.DELIVERED
        server.freeze()
        large = body(100, 10_000)
        for data in (body(3), large, large):
            began = time.monotonic()
            verdict = post(output, data)
            assert verdict.kind is Kind.RETRY and verdict.text.startswith("timed out while ")
            assert time.monotonic() - began < 10
        # A deadline that comes first.
        output_2 = opened(sink(server, connect_timeout=30.0))
        began = time.monotonic()
        verdict = post(output_2, seconds=0.2)
        assert verdict == post(output_2, seconds=0.0)
        assert verdict.text == "timed out while waiting for a connection" and time.monotonic() - began < 10
        server.thaw()
        wait_until(lambda: post(output, body(6)).kind is Kind.DELIVERED)


@pytest.mark.parametrize("size", [0, 10_000], ids=["small", "more than sockets hold"])
def test_a_connection_that_has_died_without_a_word_is_made_anew(tmp_path, opened, size):
    """As behind a firewall that has forgotten it: nothing is refused, and nothing ever comes."""
    with nats_server(tmp_path) as server, FaultProxy(server.host, server.port) as proxy:
        server.add_stream("metrics", "metrics.>")
        # Less than until it is doubted.
        output = opened(sink(server, servers=(f"nats://127.0.0.1:{proxy.port}",), response_timeout=0.4))
        assert post(output).kind is Kind.DELIVERED
        proxy.fault = Fault(stall=True, forget=True)
        assert post(output, body(90, size)).text == "timed out while waiting for the confirmation"
        proxy.heal()
        verdicts = []
        wait_until(
            lambda: verdicts.append(post(output, body(91, size))) or verdicts[-1].kind is Kind.DELIVERED
        )
        assert {one.kind for one in verdicts[:-1]} <= {Kind.RETRY} and proxy.accepted == 2
        assert len(verdicts) > 1


@pytest.mark.parametrize("how", ["abort", "interrupt"])
def test_an_attempt_can_be_ended(tmp_path, opened, how):
    with nats_server(tmp_path) as server:
        server.add_stream("metrics", "metrics.>")
        output = opened(sink(server))
        assert post(output).kind is Kind.DELIVERED
        server.freeze()
        verdicts = []
        thread = threading.Thread(target=lambda: verdicts.append(post(output, body(4), seconds=60)))
        thread.start()
        wait_until(lambda: output._under_way)
        if how == "abort":
            output.abort()
        else:
            output.interrupt(0.0)
            assert output._under_way
            output.interrupt(time.monotonic())
        thread.join(10)
        assert [(one.kind, one.text) for one in verdicts] == [(Kind.RETRY, f"{how}ed")]
        server.thaw()
        if how == "abort":
            assert post(output).text == "aborted"
        else:
            wait_until(lambda: post(output, body(6)).kind is Kind.DELIVERED)


def test_closing_ends_the_thread(tmp_path):
    with nats_server(tmp_path) as server:
        server.add_stream("metrics", "metrics.>")
        before = set(threading.enumerate())
        output = sink(server)
        output.tick()
        assert output.due() is None
        (thread,) = set(threading.enumerate()) - before
        assert thread.name == "nats-n"
        assert post(output).kind is Kind.DELIVERED
        server.freeze()
        output.close()
        output.close()
        assert not thread.is_alive()
        server.thaw()


USERS = """
accounts {
  A: { jetstream: enabled, users: [
    { user: "test", password: "t" },
    { user: "writer", password: "right" },
    { user: "reader", password: "r", permissions: { publish: { deny: ["metrics.>"] } } },
    { user: "deaf", password: "d", permissions: { subscribe: { deny: [">"] } } },
    { user: "custom", password: "c", permissions: { subscribe: { allow: ["_MINE.>"] } } },
  ] }
  B: { users: [ { user: "plain", password: "p" } ] }
}
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    with nats_server(folder, USERS, user="test", password="t") as started:
        started.add_stream("metrics", "metrics.>")
        yield started


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"user": "writer", "password": "right"}, Kind.DELIVERED, ""),
        ({"user": "custom", "password": "c", "inbox_prefix": "_MINE"}, Kind.DELIVERED, ""),
        ({}, Kind.HOLD, "the server refuses us: Authorization Violation; see user, password and the like"),
        (
            {"user": "writer", "password": "wrong"},
            Kind.HOLD,
            "the server refuses us: Authorization Violation",
        ),
        ({"token": "x"}, Kind.HOLD, "the server refuses us: Authorization Violation"),
        ({"user": "reader", "password": "r"}, Kind.HOLD, 'this user may not publish to "metrics.x", or not '),
        (
            {"user": "deaf", "password": "d"},
            Kind.HOLD,
            'this user may not publish to "metrics.x", or not sub',
        ),
        ({"user": "custom", "password": "c"}, Kind.HOLD, 'this user may not publish to "metrics.x", or not '),
        ({"user": "plain", "password": "p"}, Kind.RETRY, 'no stream takes the subject "metrics.x"'),
        ({"user_credentials": "/nonexistent"}, Kind.HOLD, "the server refuses us: Authorization Violation"),
    ],
    ids=lambda one: str(one)[:30],
)
def test_who_may_publish(guarded, opened, options, kind, text):
    output = opened(sink(guarded, options=options))
    before, trace = guarded.count("metrics"), another_trace()
    for _ in range(2):
        verdict = post(output, trace=trace)
        assert verdict.kind is kind and verdict.text.startswith(text), verdict
    # What is published by somebody who may not hear that it was is stored, and once.
    deaf = options.get("password") in ("d", "c")
    assert guarded.count("metrics") == before + (kind is Kind.DELIVERED or deaf)


# The seed of a user, and its public key; made for this test.
SEED = "SUALLFNGRIBCDHL7CT6VZ56AZHAK767ESQAAHRCJA2NJ7RTOBB3HCG3TJQ"
PUBLIC = "UBNHHGYFEK3SRCP375MHYZCMA7ZUQZTXSJ27SIH2J3QBPI62DEPB3DUD"


def test_a_server_that_knows_keys(tmp_path, opened):
    config = f'authorization {{ users: [ {{ nkey: "{PUBLIC}" }}, {{ user: "test", password: "t" }} ] }}'
    (tmp_path / "seed").write_text(SEED)
    (tmp_path / "damaged").write_text(SEED[:-4])
    with nats_server(tmp_path, config, user="test", password="t") as server:
        server.add_stream("metrics", "metrics.>")
        assert post(opened(sink(server, options={"nkeys_seed": f"{tmp_path}/seed"}))).kind is Kind.DELIVERED
        assert post(opened(sink(server, options={"nkeys_seed_str": SEED}))).kind is Kind.DELIVERED
        for name in ("damaged", "missing"):
            verdict = post(opened(sink(server, options={"nkeys_seed": f"{tmp_path}/{name}"})))
            assert verdict.kind is Kind.HOLD and verdict.text.startswith("the credentials cannot be ")
            assert SEED[:-4] not in verdict.text
        verdict = post(opened(sink(server, options={"user_credentials": f"{tmp_path}/missing"})))
        assert (
            verdict.text == f"the credentials cannot be read: No such file or directory: {tmp_path}/missing"
        )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def tls(certificates, more=""):
    names = f'cert_file: "{certificates}/server.pem", key_file: "{certificates}/server.key"'
    return f"tls {{ {names}{more} }}\n"


def secure(server, certificates, **settings):
    for key in ("ca", "cert", "key"):
        if key in settings:
            settings[key] = str(certificates / settings[key])
    return sink(server, **settings)


def test_tls_and_a_certificate_of_ours(tmp_path, opened, certificates):
    more = f', verify: true, ca_file: "{certificates}/ca.pem"'
    ours = {"cert": "client.pem", "key": "client.key"}
    context = make_context(certificates)
    with nats_server(tmp_path, tls(certificates, more), tls=context) as server:
        server.add_stream("metrics", "metrics.>")
        output = opened(secure(server, certificates, ca="ca.pem", **ours))
        assert post(output).kind is Kind.DELIVERED
        for settings in ({}, {"ca": "other.pem", **ours}):
            verdict = post(opened(secure(server, certificates, **settings)))
            assert verdict.kind is Kind.RETRY and verdict.text.startswith("TLS: "), verdict
        assert post(opened(secure(server, certificates, ca="ca.pem"))).kind is Kind.RETRY
        unverified = secure(server, certificates, insecure_skip_verify=True, **ours)
        assert post(opened(unverified)).kind is Kind.DELIVERED
        assert server.count("metrics") == 2


def make_context(certificates):
    import ssl

    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    return context


@pytest.mark.parametrize("how", ["scheme", "ca"])
def test_where_tls_is_wanted_nothing_is_told_to_a_server_without_it(tmp_path, opened, certificates, how):
    """nats-py would go on in plain text, with the password."""
    config = 'authorization { user: "u", password: "p" }\ntrace: true\nlogtime: false\n'
    with nats_server(tmp_path, config, user="u", password="p") as server:
        server.add_stream("metrics", "metrics.>")
        wanted = (
            {"servers": (server.url.replace("nats://", "tls://"),)} if how == "scheme" else {"ca": "ca.pem"}
        )
        output = opened(secure(server, certificates, options={"user": "u", "password": "p"}, **wanted))
        connects = server.log_path.read_text().count("CONNECT")
        verdict = post(output)
        assert verdict.kind is Kind.HOLD
        assert verdict.text == "the server does not ask for TLS, which is wanted; nothing was sent to it"
        assert server.log_path.read_text().count("CONNECT") == connects > 0


def test_a_certificate_that_cannot_be_used_is_told_when_the_output_is_made(tmp_path):
    need("openssl")
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(OutputError, match=r"ca: .* holds no certificate that can be used"):
        make(NatsOutput(name="n", subject="s", ca=str(tmp_path / "ca.pem")), "a")


def test_one_server_of_several_is_enough(server, opened):
    # A name that nobody has, and a port that nobody listens on.
    servers = ("nats://127.0.0.1:1", "nats://nobody.invalid:4222", server.url)
    for _ in range(3):
        assert post(opened(sink(server, servers=servers))).kind is Kind.DELIVERED


def test_what_another_output_has_left_is_published_as_it_is(server, opened):
    output = opened(sink(server))
    assert output.post(Payload(memoryview(BODY), 2, len(BODY))).kind is Kind.DELIVERED
    with memoryview(BODY) as view:
        payload = Payload(view, 2, len(BODY))
        assert output.post(payload).kind is Kind.DELIVERED
    # Nothing holds the view any more: it could be released.


def test_another_who_answers_is_no_stream(tmp_path, opened):
    import asyncio

    import nats

    with nats_server(tmp_path) as server:
        ready, done = threading.Event(), threading.Event()

        async def answer():
            client = await nats.connect(server.url)

            async def reply(message):
                await message.respond(b"hello")

            await client.subscribe("metrics.x", cb=reply)
            await client.flush()
            ready.set()
            while not done.is_set():
                await asyncio.sleep(0.01)
            await client.close()

        thread = threading.Thread(target=lambda: asyncio.run(answer()))
        thread.start()
        try:
            assert ready.wait(20)
            verdict = post(opened(sink(server)))
        finally:
            done.set()
            thread.join(20)
        assert verdict.kind is Kind.HOLD
        assert verdict.text.startswith('something that is no stream answers on "metrics.x"')
