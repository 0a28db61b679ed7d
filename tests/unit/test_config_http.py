"""Keys of listeners that speak HTTP, and that their tokens are shown to nobody."""

from pathlib import Path

import pytest

from agent.config import Listen, diff, dump
from agent.config_toml import to_toml
from agent.errors import ConfigError
from tests.unit.config_folder import Folder

OUTPUT = '[[output]]\nname = "o"\ntype = "null"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_what_an_http_listener_may_have(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TEST_TOKEN", "t0ken")
    folder.write("", "cert.pem")
    config = folder.load(
        f"""
        [[listen]]
        address = "http://127.0.0.1:8186"
        max_connections = 7
        idle_timeout = "0s"
        cert = "{folder.path}/cert.pem"
        client_ca = "{folder.path}/cert.pem"
        tokens = ["${{PENSTOCK_TEST_TOKEN}}", "other"]
        max_body = "1MB"
        database_tag = "db"
        bucket_tag = "bucket"
        {OUTPUT}
        """
    )
    assert config.listen == (
        Listen(
            address="http://127.0.0.1:8186",
            max_connections=7,
            idle_timeout=0.0,
            cert=f"{folder.path}/cert.pem",
            client_ca=f"{folder.path}/cert.pem",
            tokens=("t0ken", "other"),
            max_body=1_000_000,
            database_tag="db",
            bucket_tag="bucket",
        ),
    )
    [listen] = config.listen
    assert "t0ken" not in repr(listen) + str(dump(config)) + to_toml(config)
    assert dump(config)["listen"][0]["tokens"] == ["***", "***"]
    assert "precision" not in to_toml(config) and "max_body" in to_toml(config)


def test_a_changed_token_is_told_and_not_shown(folder: Folder) -> None:
    before, after = (
        folder.load(f'[[listen]]\naddress = "http://127.0.0.1:1"\ntokens = ["{token}"]\n{OUTPUT}')
        for token in ("s3cret", "t0ken")
    )
    [change] = diff(before, after)
    assert str(change) == "listen[http://127.0.0.1:1].tokens: ['***'] → ['***']"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('format = "line"', "format: is for udp://, tcp://, unixgram:// and unix:// only; remove it"),
        ('precision = "s"', "precision: is for udp://, tcp://, unixgram:// and unix:// only; remove it"),
        ('mode = "0660"', "mode: is for unixgram:// and unix:// only; remove it"),
        ('receive_buffer = "1MiB"', "receive_buffer: is for udp:// and unixgram:// only; remove it"),
        ('interval = "1s"', 'interval: is for format = "statsd" only; remove it'),
        ("max_connections = 0", "max_connections: got 0; wanted a whole number from 1 to 65536"),
        ('tokens = "s3cret"', "tokens: got a value that is no array; wanted an array of strings"),
        ('tokens = ["s3cret", ""]', "tokens: the string at 1: is empty; wanted a string"),
        ('tokens = ["s3cret\\n"]', "tokens: the string at 0: the value contains a control character"),
        (
            'tokens = ["${PENSTOCK_NOWHERE}"]',
            "tokens[0]: the environment variable PENSTOCK_NOWHERE is not set",
        ),
        ('max_body = "0B"', 'max_body: got "0B"; wanted a size from 1KiB to 1GiB'),
        (
            'database_tag = "time"',
            'database_tag: got "time"; wanted a name for a tag, '
            "without spaces, commas, equals signs and backslashes",
        ),
        ('cert = "/nowhere"', 'cert: "/nowhere" cannot be read: No such file or directory'),
        ('key = "/dev/null"', 'cert: is missing; "key" needs it'),
        ('client_ca = "/dev/null"', 'cert: is missing; "client_ca" needs it'),
    ],
)
def test_a_mistake(folder: Folder, text: str, problem: str) -> None:
    found = folder.problems(f'[[listen]]\naddress = "http://127.0.0.1:1"\n{text}\n{OUTPUT}')
    assert f"listen[0].{problem}" in found
    assert "s3cret" not in str(found)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://127.0.0.1", "a port from 0 to 65535 is missing at its end"),
        ("http://127.0.0.1:1/path", "a port from 0 to 65535 is missing at its end"),
        (
            "https://127.0.0.1:1",
            'TLS is a matter of the keys "cert" and "key"; the address begins with "http://"',
        ),
    ],
)
def test_a_mistake_in_the_address(folder: Folder, address: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        folder.load(f'[[listen]]\naddress = "{address}"\n{OUTPUT}')


def test_udp_does_not_have_what_is_for_http(folder: Folder) -> None:
    found = folder.problems(f'[[listen]]\naddress = "udp://127.0.0.1:1"\ntokens = []\n{OUTPUT}')
    assert found == ["listen[0].tokens: is for http:// only; remove it"]
