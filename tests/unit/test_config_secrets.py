"""References in a configuration, and that a secret is in no message, repr, dump or diff."""

from pathlib import Path
from typing import Any

import pytest

from agent.config import (
    Agent,
    Config,
    FileOutput,
    Flush,
    InfluxOutput,
    Listen,
    Log,
    NullOutput,
    diff,
    dump,
)
from agent.config_schema import OUTPUT_TYPES, kinds
from agent.errors import ConfigError
from tests.unit.config_folder import LISTEN, V2, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_references_are_replaced_everywhere(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TEST_HOST", "127.0.0.2")
    monkeypatch.setenv("PENSTOCK_TEST_LANES", "3")
    monkeypatch.setenv("PENSTOCK_TEST_GRO", "false")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder.path))
    folder.write("from ${NOWHERE} $x\n", "token")
    folder.write("s3cret\r\n", "password.txt")
    config = folder.load(
        f"""
        [agent]
        lanes = "${{PENSTOCK_TEST_LANES}}"
        tags = {{ host = "h-${{PENSTOCK_TEST_HOST}}-$$x" }}
        [[listen]]
        address = "udp://${{PENSTOCK_TEST_HOST}}:8089"
        gro = "${{PENSTOCK_TEST_GRO}}"
        [[output]]
        name = "a"
        type = "influxdb"
        url = "http://${{PENSTOCK_TEST_HOST}}:8086"
        org = "o"
        bucket = "b"
        token = "${{credential:token}}"
        [[output]]
        name = "b"
        type = "influxdb"
        url = "http://h"
        version = 1
        database = "d"
        username = "u"
        password = "${{file:{folder.path}/password.txt}}"
        """
    )
    assert config.agent.lanes == 3
    assert config.agent.tags == {"host": "h-127.0.0.2-$x"}
    assert config.listen[0].address == "udp://127.0.0.2:8089"
    assert config.listen[0].gro is False
    first, second = config.output
    assert isinstance(first, InfluxOutput) and isinstance(second, InfluxOutput)
    # What stands in a file is text, not a reference.
    assert first.token == "from ${NOWHERE} $x"
    assert second.password == "s3cret"
    assert type(first.token) is str and type(config.listen[0].address) is str


def test_an_empty_secret_is_a_problem(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TEST_EMPTY", "")
    assert folder.problems(LISTEN + V2 + 'token = "${PENSTOCK_TEST_EMPTY}"') == [
        'output[0].token: "${PENSTOCK_TEST_EMPTY}" stands for an empty text'
    ]


def test_a_reference_is_limited_in_size(folder: Folder) -> None:
    folder.write("x" * 65537, "big")
    assert folder.problems(f'{LISTEN}{V2}token = "${{file:{folder.path}/big}}"') == [
        f'output[0].token: the file "{folder.path}/big" cannot be read: longer than 65536 bytes'
    ]


def test_every_missing_reference_of_a_value_is_told(folder: Folder) -> None:
    assert folder.problems(LISTEN + V2 + 'token = "${PENSTOCK_NO_A}-${PENSTOCK_NO_B}-$"') == [
        "output[0].token: the environment variable PENSTOCK_NO_A is not set; "
        "the environment variable PENSTOCK_NO_B is not set; "
        'a lone "$": write "$$" for a dollar sign, or a reference such as "${NAME}"'
    ]


def _keys() -> list[tuple[str, str]]:
    tables = {"[agent]": Agent, "[log]": Log, "[[listen]]": Listen, "[flush]": Flush}
    found = [(header, key) for header, struct in tables.items() for key in kinds(struct)]
    return found + [(name, key) for name, struct in OUTPUT_TYPES.items() for key in (*kinds(struct), "type")]


@pytest.mark.parametrize(("header", "key"), _keys())
@pytest.mark.parametrize(
    "value",
    [
        "hushhush",
        "hush hush",
        "hushhush\n",
        "9hushhush",
        "hushhush://h:1",
        "udp://[hushhush]:1",
        "udp://hush hush:1",
        "unixgram://hushhush",
        "http://hushhush@h",
        "http://h?hushhush",
        "hush hush:80",
    ],
)
def test_what_a_reference_stands_for_is_in_no_message(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, header: str, key: str, value: str
) -> None:
    """A secret put into the wrong key by mistake must not come out by way of the complaint about it."""
    monkeypatch.setenv("PENSTOCK_TEST_SECRET", value)
    line = f'{key} = "${{PENSTOCK_TEST_SECRET}}"\n'
    if header in OUTPUT_TYPES:
        line = f"[[output]]\n{line}" + (f'type = "{header}"\n' if key != "type" else "")
    else:
        line = f"{header}\n{line}"
    # Twice, so that the complaints about duplicates come up too.
    text = line * 2 if line.startswith("[[") else line
    with pytest.raises(ConfigError) as raised:
        folder.load(text)
    assert raised.value.problems
    assert "hush" not in f"{raised.value}{raised.value!r}{raised.value.problems!r}"


SECRETS = InfluxOutput(
    name="i",
    url="http://h",
    version=2,
    org="o",
    bucket="b",
    token="hush-hush",
    username="u",
    password="quiet",
)


def test_secrets_are_in_no_repr() -> None:
    config = Config(listen=(Listen(address="udp://h:1"),), output=(SECRETS,))
    for shown in (repr(SECRETS), str(SECRETS), f"{SECRETS}", repr(config), str(config), repr([SECRETS])):
        assert "hush" not in shown and "quiet" not in shown
        assert "token='***', " in shown and "password='***'" in shown
    assert "token=''" in repr(InfluxOutput(name="i", url="http://h"))
    rich = SECRETS.__rich_repr__()
    assert ("token", "***") in rich and ("password", "***") in rich and ("username", "u") in rich


def test_dump_is_what_a_file_would_hold_without_its_secrets() -> None:
    config = Config(
        agent=Agent(tags={"a": "b"}, drain_timeout=90.0),
        listen=(Listen(address="udp://h:1"),),
        output=(SECRETS, FileOutput(name="f", path="out", rotate_bytes=1_000_000)),
    )
    shown = dump(config)
    assert list(shown) == ["agent", "log", "listen", "flush", "slo", "output"]
    assert shown["agent"]["tags"] == {"a": "b"}
    assert shown["agent"]["drain_timeout"] == "90s"
    assert shown["flush"] == {"batch_lines": 5000, "batch_bytes": "1MiB", "interval": "200ms"}
    assert shown["listen"][0]["receive_buffer"] == "8MiB"
    influx, file = shown["output"]
    assert list(influx)[:2] == ["name", "type"]
    assert (influx["type"], influx["token"], influx["password"]) == ("influxdb", "***", "***")
    assert influx["database"] == ""
    assert file == {
        "name": "f",
        "type": "file",
        "ring_bytes": "64MiB",
        "shard": "",
        "shard_group": "",
        "filter": {"measurement": [], "tag": {}},
        "path": "out",
        "format": "line",
        "rotate_bytes": "1000000B",
        "rotate_interval": "1h",
        "compression": "none",
        "max_files": 100,
    }


def _config(**changes: Any) -> Config:
    parts: dict[str, Any] = {
        "listen": (Listen(address="udp://h:1"), Listen(address="udp://h:2", name="two")),
        "output": (NullOutput(name="void"), SECRETS),
    }
    return Config(**(parts | changes))


def test_diff_of_equal_configurations_is_empty() -> None:
    assert diff(_config(), _config()) == []


def test_diff_tells_what_changes_in_the_words_of_the_file() -> None:
    changes = diff(
        _config(),
        _config(
            agent=Agent(tags={"dc": "eu1"}),
            flush=Flush(interval=1.0, batch_bytes=2 << 20),
            listen=(Listen(address="udp://h:3", name="two"), Listen(address="udp://h:1")),
        ),
    )
    assert [str(change) for change in changes] == [
        "agent.tags: {} → {'dc': 'eu1'}",
        "flush.batch_bytes: '1MiB' → '2MiB'",
        "flush.interval: '200ms' → '1s'",
        "listen[two].address: 'udp://h:2' → 'udp://h:3'",
    ]


def test_diff_tells_that_a_secret_changed_and_not_to_what() -> None:
    other = InfluxOutput(name="i", url="http://h", org="o", bucket="b", token="other", username="u")
    changes = diff(_config(), _config(output=(NullOutput(name="void"), other)))
    assert [(change.path, change.old, change.new) for change in changes] == [
        ("output[i].token", "***", "***"),
        ("output[i].password", "***", ""),
    ]


def test_diff_tells_what_comes_and_goes_and_a_change_of_type() -> None:
    file = FileOutput(name="void", path="out")
    changes = diff(_config(), _config(output=(file, NullOutput(name="new"))))
    assert [(one.path, one.old and one.old["type"], one.new and one.new["type"]) for one in changes] == [
        ("output[void]", "null", "file"),
        ("output[i]", "influxdb", None),
        ("output[new]", None, "null"),
    ]
    assert "hush" not in str(changes)
