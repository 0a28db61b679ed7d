"""Outputs and listeners of brokers in a configuration: what is taken, what is refused and what is secret."""

from pathlib import Path

import pytest

from agent import config_checks
from agent.config import Agent, BrokerOutput, Config, KafkaOutput, Listen, NatsOutput, diff, dump
from agent.config_toml import to_toml
from agent.config_values import Address, parse_listen_address
from agent.errors import ConfigError
from tests.unit.config_folder import LISTEN, OUTPUT, Folder

NATS = '[[output]]\nname = "n"\ntype = "nats"\nsubject = "metrics"\n'
KAFKA = '[[output]]\nname = "k"\ntype = "kafka"\ntopic = "metrics"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_the_id_is_the_name_of_the_host_or_what_is_given(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "wéb 1.example")
    assert folder.load(LISTEN + OUTPUT).agent.known_as == "w_b_1.example"
    assert folder.load('[agent]\nid = "edge/1"\n' + LISTEN + OUTPUT).agent.known_as == "edge/1"
    assert Agent().known_as == "w_b_1.example"


@pytest.mark.parametrize("id", ["two words", "é", "x" * 257])
def test_an_id_is_printable_ascii_without_spaces(folder: Folder, id: str) -> None:
    (problem,) = folder.problems(f'[agent]\nid = "{id}"\n{LISTEN}{OUTPUT}')
    assert problem.startswith("agent.id: got ") and "1 to 256 letters" in problem


def test_the_outputs_are_read(folder: Folder) -> None:
    text = (
        'servers = ["tls://h1:4222", "tls://[::1]:4223"]\nsubject = "a.{agent}.b"\nstream = "S"\n'
        'format = "protobuf"\noptions = { user = "u", password = "p", tls_handshake_first = true }\n'
    )
    config = folder.load(LISTEN + '[[output]]\nname = "n"\ntype = "nats"\n' + text)
    assert config.output == (
        NatsOutput(
            name="n",
            servers=("tls://h1:4222", "tls://[::1]:4223"),
            subject="a.{agent}.b",
            stream="S",
            format="protobuf",
            options={"user": "u", "password": "p", "tls_handshake_first": "true"},
        ),
    )
    assert config.output[0].target == "tls://h1:4222,tls://[::1]:4223 a.{agent}.b"
    # Names with dots in quotes, and without.
    text = '[output.options]\nsecurity.protocol = "SASL_SSL"\nqueue.buffering.max.kbytes = 4096\n'
    text += 'socket.keepalive.enable = true\n"sasl.mechanism" = "PLAIN"\n'
    config = folder.load(LISTEN + KAFKA + 'brokers = ["h1:9092"]\nmessage_key = "a-{agent}"\n' + text)
    assert config.output == (
        KafkaOutput(
            name="k",
            brokers=("h1:9092",),
            topic="metrics",
            message_key="a-{agent}",
            options={
                "security.protocol": "SASL_SSL",
                "queue.buffering.max.kbytes": "4096",
                "socket.keepalive.enable": "true",
                "sasl.mechanism": "PLAIN",
            },
        ),
    )
    assert config.output[0].target == "kafka://h1:9092 metrics"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("servers = []", 'servers: got none; wanted an array of "nats://HOST:PORT" or "tls://HOST:PORT", '),
        ('servers = "nats://h:1"', 'servers: got "nats://h:1"; wanted an array of "nats://HOST:PORT" or '),
        ('servers = ["h:1"]', 'servers: "h:1": wanted an array of "nats://HOST:PORT" or "tls://HOST:PORT", '),
        ('servers = ["nats://h"]', 'servers: "nats://h": a port from 0 to 65535 is missing at its end'),
        ('servers = ["nats://u:hush@h:1"]', "servers: no user or password may stand in an address; use"),
        ('subject = "a..b"', 'subject: got "a..b"; wanted a subject such as "metrics.{agent}"'),
        ('subject = "a.>"', 'subject: got "a.>"; wanted a subject such as "metrics.{agent}"'),
        ('subject = "a.*"', 'subject: got "a.*"; wanted a subject such as "metrics.{agent}"'),
        ('subject = "a.{host}"', 'subject: got "a.{host}"; wanted a subject such as "metrics.{agent}"'),
        ('subject = "a b"', 'subject: got "a b"; wanted a subject such as "metrics.{agent}"'),
        ('subject = ""', "subject: is empty; wanted a subject such as "),
        ('stream = "a.b"', 'stream: got "a.b"; wanted a name without spaces, dots, asterisks, > and slashes'),
        ('options = { pasword = "hush" }', 'options: unknown option "pasword"; did you mean "password"?'),
        ("options = { tls_handshake_first = 1 }", 'options: "tls_handshake_first": wanted true or false'),
        ('options = "hush"', "options: got a value that is no table; wanted a table of options of nats-py"),
        ('options = { token = "" }', 'options: "token": wanted a text, a number, true or false'),
        (
            'format = "protobuf"\ncompression_level = 1',
            'compression_level: is for format = "line" only, protobuf is in snappy always; remove it',
        ),
        ('key = "/dev/null"', 'cert: is missing; "key" needs it'),
        ('ca = "/nonexistent"', 'ca: "/nonexistent" cannot be read: No such file or directory'),
        ('retry_min = "2s"\nretry_max = "1s"', "retry_min: 2s is longer than retry_max (1s)"),
        ("tls_timeout = 1", "unknown key"),
    ],
)
def test_a_mistake_in_a_nats_output(folder: Folder, text: str, problem: str) -> None:
    head = NATS.replace('subject = "metrics"\n', "") if text.startswith("subject") else NATS
    found = folder.problems(f"{LISTEN}{head}{text}\n")
    assert len(found) == 1 and problem in found[0] and "hush" not in found[0]
    assert found[0].startswith("output[0].")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('topic = ".."', 'topic: got ".."; wanted 1 to 249 letters, digits, and any of ._-'),
        ('topic = "a b"', 'topic: got "a b"; wanted 1 to 249 letters, digits, and any of ._-'),
        ('brokers = ["kafka://h:1"]', "brokers: "),
        ('message_key = "{host}"', 'message_key: got "{host}"; braces stand in "{agent}" only'),
        (
            'options = { "acks" = "1" }',
            'options: "acks" is set by penstock itself; in its place there is nothing to choose',
        ),
        (
            'options = { "compression.type" = "zstd" }',
            'options: "compression.type" is set by penstock itself; in its place there is the key "comp',
        ),
        ('options = { "Sasl Password" = "hush" }', 'options: "Sasl Password" is no option of librdkafka'),
        (
            'options = { "sasl.password" = "hush" }',
            'options: "sasl.password" is of no use without "security.protocol", "SASL_SSL" or',
        ),
        (
            'insecure_skip_verify = true\noptions = { "security.protocol" = "SASL_PLAINTEXT" }',
            'insecure_skip_verify: is for TLS, which "security.protocol" turns off',
        ),
    ],
)
def test_a_mistake_in_a_kafka_output(folder: Folder, text: str, problem: str) -> None:
    head = KAFKA.replace('topic = "metrics"\n', "") if text.startswith("topic") else KAFKA
    (found,) = folder.problems(f"{LISTEN}{head}{text}\n")
    assert found.startswith(f"output[0].{problem}") and "hush" not in found


def test_what_is_required_is_missed(folder: Folder) -> None:
    text = '[[output]]\nname = "n"\ntype = "nats"\n[[output]]\nname = "k"\ntype = "kafka"\n'
    assert folder.problems(LISTEN + text) == [
        'output[0].subject: is missing; wanted a subject such as "metrics.{agent}"',
        "output[1].topic: is missing; wanted 1 to 249 letters, digits, and any of ._-",
    ]


def test_the_listeners_are_read(folder: Folder) -> None:
    config = folder.load(
        '[[listen]]\naddress = "nats://h1:4222,[::1]:4223"\nsubject = "a.*.>"\nstream = "S"\ndurable = "d"\n'
        'max_in_flight = "1MiB"\noptions = { user = "u" }\n'
        '[[listen]]\naddress = "kafka://h1:9092"\ntopic = "t"\ngroup = "g"\noptions.client.rack = "r"\n'
        # Another group may read the same.
        '[[listen]]\nname = "other"\naddress = "kafka://h1:9092"\ntopic = "t"\n' + OUTPUT
    )
    nats, kafka, other = config.listen
    assert parse_listen_address(nats.address) == Address("nats", brokers=(("h1", 4222), ("::1", 4223)))
    assert (nats.stream, nats.subject, nats.durable, nats.max_in_flight) == ("S", "a.*.>", "d", 1 << 20)
    assert nats.options == {"user": "u"} and kafka.options == {"client.rack": "r"}
    assert (kafka.topic, kafka.group, kafka.max_in_flight) == ("t", "g", 64 << 20)
    assert (other.group, other.durable) == ("penstock", "penstock")
    # What is shown of a listener has its keys and no others, and its secrets masked.
    shown = to_toml(config)
    assert 'options = { user = "***" }' in shown and shown.count("durable") == 1 and "tokens" not in shown
    assert "options={'user'" not in repr(nats) and "options='***'" in repr(nats)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            'address = "nats://h:1"',
            'subject: is missing; wanted the subject of the messages, such as "metrics.>"',
        ),
        ('address = "kafka://h:1"', "topic: is missing; wanted the topic that the messages are in"),
        ('address = "kafka://h:1,h2"\ntopic = "t"', 'address: "kafka://h:1,h2": a port from 0 to 65535 is'),
        ('address = "nats://h:0"\nsubject = "a"', 'address: "nats://h:0": a port from 1 to 65535 is missing'),
        (
            'address = "nats://u:hush@h:1"\nsubject = "a"',
            "address: no user or password may stand in the address",
        ),
        ('address = "nats://h:1"\nsubject = "a.>.b"', 'subject: got "a.>.b"; wanted a subject such as'),
        ('address = "nats://h:1"\nsubject = "a"\nformat = "line"', "format: is for udp://, tcp://, "),
        (
            'address = "nats://h:1"\nsubject = "a"\nrate = 1',
            "rate: is for udp://, tcp://, unixgram://, unix://",
        ),
        ('address = "nats://h:1"\nsubject = "a"\ntopic = "t"', "topic: is for kafka:// only; remove it"),
        ('address = "udp://h:1"\nsubject = "a"', "subject: is for nats:// only; remove it"),
        (
            'address = "nats://h:1"\nsubject = "a"\noptions.usr = "hush"',
            'options: unknown option "usr"; did you',
        ),
        (
            'address = "kafka://h:1"\ntopic = "t"\noptions.group.id = "g"',
            'options: "group.id" is set by penstock itself; in its place there is the key "group"',
        ),
        (
            'address = "kafka://h:1"\ntopic = "t"\noptions.sasl.password = "hush"',
            'options: "sasl.password" is of no use without "security.protocol"',
        ),
        ('address = "nats://h:1"\nsubject = "a"\nca = "/nonexistent"', 'ca: "/nonexistent" cannot be read'),
    ],
)
def test_a_mistake_in_a_listener(folder: Folder, text: str, problem: str) -> None:
    (found,) = folder.problems(f"[[listen]]\n{text}\n{OUTPUT}")
    assert found.startswith(f"listen[0].{problem}") and "hush" not in found


def test_a_missing_library_is_told_with_what_installs_it(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_checks, "find_spec", lambda name: None)
    listen = '[[listen]]\naddress = "kafka://h:1"\ntopic = "t"\n'
    assert folder.problems(listen + NATS) == [
        "listen[0].address: needs confluent-kafka, which is not installed: pip install 'penstock[kafka]'",
        "output[0].type: needs nats-py, which is not installed: pip install 'penstock[nats]'",
    ]


def test_options_are_secrets(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TEST_SECRET", "hush")
    config = folder.load(LISTEN + NATS + 'options = { password = "${PENSTOCK_TEST_SECRET}" }\n')
    (output,) = config.output
    assert isinstance(output, BrokerOutput)
    assert isinstance(output, NatsOutput) and output.options == {"password": "hush"}
    assert "hush" not in f"{config!r}{dump(config)}{to_toml(config)}"
    other = Config(listen=config.listen, output=(NatsOutput(name="n", subject="metrics"),))
    assert [str(change) for change in diff(other, config)] == ["output[n].options: {} → {'password': '***'}"]
    with pytest.raises(ConfigError) as raised:
        folder.load(LISTEN + NATS + 'options = { user = "hush", tokn = "${PENSTOCK_TEST_SECRET}" }\n')
    assert "hush" not in str(raised.value)


def test_the_outputs_of_a_group_share_one_thing(folder: Folder) -> None:
    null = '[[output]]\nname = "{}"\ntype = "null"\nshard = "{}"\nshard_group = "{}"\n'
    text = "".join(null.format(*one) for one in (("a", "series", "g"), ("b", "measurement", "h")))
    assert [one.shard for one in folder.load(LISTEN + text).output] == ["series", "measurement"]
    (problem,) = folder.problems(LISTEN + text + null.format("c", "measurement", "g"))
    assert problem == (
        'output[2].shard: is "measurement", and "series" in output[0]: '
        "the outputs of a group share either series or measurements"
    )


def test_listeners_of_brokers_differ_by_their_names(folder: Folder) -> None:
    listen = '[[listen]]\naddress = "nats://h:1"\nsubject = "a"\n'
    assert folder.problems(listen * 2 + OUTPUT) == [
        'listen[1].name: "nats://h:1" is taken by listen[0]; wanted another'
    ]
    assert Listen(address="nats://h:1").name == "nats://h:1"
