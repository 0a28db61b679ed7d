"""``penstock send`` into an agent that listens to everything: what arrives is what was given."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.agent_process import ROOT, AgentProcess, at_rest, free_port, listener
from tests.integration.certificates import make_certificates
from tests.integration.servers import free_tcp_port

LINES = "".join(f"m,n={number} v={number} 1700000000000000000\n" for number in range(3000))
GIVEN = {
    "line": LINES,
    "protobuf": LINES,
    "graphite": "".join(f"a.b{number} {number} 1700000000\n" for number in range(3000)),
    "statsd": "".join(f"a{number}:{number}|c\n" for number in range(3000)),
    "json": "".join(f'{{"name":"m","fields":{{"v":{number}}}}}\n' for number in range(3000)),
}
GIVEN["msgpack"] = GIVEN["json"]
ADDRESSES = (
    ("unixgram", "unixgram", ("line", "statsd", "graphite", "json", "msgpack", "protobuf")),
    ("unix", "unix", ("line", "statsd", "graphite")),
    ("udp", "udp", ("line",)),
    ("tcp", "tcp", ("line",)),
    ("tls", "tcp", ("line",)),
    ("http", "http", ("line",)),
    ("https", "http", ("line",)),
)
NAMES = [(f"{name}-{format}", format) for name, _, formats in ADDRESSES for format in formats]


def config(folder: Path) -> str:
    text = '[flush]\ninterval = "10ms"\n[[output]]\nname = "out"\ntype = "file"\npath = "{folder}/out"\n'
    for name, scheme, formats in ADDRESSES:
        for format in formats:
            if scheme.startswith("unix"):
                where = f"{{folder}}/{name}-{format}"
            else:
                where = f"127.0.0.1:{free_port() if scheme == 'udp' else free_tcp_port()}"
            text += f'[[listen]]\nname = "{name}-{format}"\naddress = "{scheme}://{where}"\n'
            text += f'format = "{format}"\n' if scheme != "http" else 'tokens = ["secret"]\n'
            if name in ("tls", "https"):
                text += 'cert = "{folder}/elsewhere.pem"\nkey = "{folder}/elsewhere.key"\n'
    return text


def send(agent: AgentProcess, *arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "agent", "send", "-c", str(agent.config_path), *arguments]
    return subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, timeout=60)


def test_every_format_arrives_by_every_address(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    with AgentProcess(tmp_path, config(tmp_path)) as agent:
        for name, format in NAMES:
            # What a receive buffer holds at once.
            given = GIVEN[format] if name != "udp-line" else LINES[:20_000].rpartition("\n")[0] + "\n"
            count = given.count("\n")
            done = send(agent, "--to", name, given=given)
            assert (done.returncode, done.stderr) == (0, ""), name
            assert done.stdout.startswith(f"{count:,} sent to ")
            status = agent.wait_for(
                lambda status, name=name, count=count: listener(status, name)["received"] >= count,  # type: ignore[misc]
                what=name,
            )
            one = listener(status, name)
            assert (one["received"], one["accepted"]) == (count, count), name
        agent.wait_for(at_rest)


def test_arguments_go_to_the_first_listener_and_what_is_malformed_stays_here(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    with AgentProcess(tmp_path, config(tmp_path)) as agent:
        done = send(agent, "a v=1", "b v=\x1b[31m", "c v=2")
        assert done.returncode == 1
        assert done.stdout == f"2 sent to unixgram://{tmp_path}/unixgram-line, as line\n"
        told = done.stderr.splitlines()
        assert told[0].startswith("penstock: ") and told[0].endswith(": b v=\\x1b[31m")
        assert told[1:] == ["penstock: 1 malformed, and not sent"]
        status = agent.wait_for(lambda status: listener(status, "unixgram-line")["received"] == 2)
        assert listener(status, "unixgram-line")["dropped"] == {}
        assert send(agent, "--no-check", "b v=").returncode == 0
        agent.wait_for(lambda status: listener(status, "unixgram-line")["dropped"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--to", "nobody"), "no listener is named 'nobody'; there are unixgram-line,"),
        (("--to", "unixgram:///none"), "unixgram:///none: there is no such socket"),
        (("--to", "https-line", "--ca", "ca.pem"), "its certificate is not to be trusted"),
    ],
)
def test_what_cannot_be_sent_is_one_line_and_exit_code_1(
    tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    make_certificates(tmp_path)
    with AgentProcess(tmp_path, config(tmp_path)) as agent:
        words = [str(tmp_path / word) if word.endswith(".pem") else word for word in arguments]
        done = send(agent, *words, "a v=1")
        assert done.returncode == 1 and done.stdout == ""
        assert told in done.stderr and done.stderr.count("\n") == 1


def test_a_wrong_token_is_told_in_the_listeners_words(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    with AgentProcess(tmp_path, config(tmp_path)) as agent:
        (tmp_path / "token").write_text("wrong\n")
        done = send(agent, "--to", "http-line", "--token-file", str(tmp_path / "token"), "a v=1")
        assert done.returncode == 1
        assert "answers 401: " in done.stderr and "unauthorized access" in done.stderr
