"""configs/: penstock.toml tells every key of the code with its true default, and what is shipped loads."""

import re
import tomllib
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import fields

from agent.config import (
    Agent,
    Cardinality,
    CardinalityLimit,
    Collisions,
    Config,
    FileOutput,
    FilterTable,
    Flush,
    Host,
    InfluxOutput,
    KafkaOutput,
    Listen,
    Log,
    Map,
    NatsOutput,
    RejectedTable,
    RemoteWriteOutput,
    Shape,
    ShapeTag,
    Slo,
    SpoolTable,
    Types,
    TypesField,
    load,
)
from agent.config_arrays import Named
from agent.config_kinds import Duration, Inner, Size
from agent.config_schema import OUTPUT_TYPES, Table, kinds
from agent.config_table import Array

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
REFERENCE = (CONFIGS / "penstock.toml").read_text()
BODY, *EXAMPLES = re.split(r"^# Example: ", REFERENCE, flags=re.MULTILINE)

# The body with every key that is commented out taken in.
WHOLE = tomllib.loads(re.sub(r"^#(?=\[|[a-z_]+ = )", "", BODY, flags=re.MULTILINE))

SHOWN: list[tuple[str, type[Struct], dict[str, object]]] = [
    ("agent", Agent, WHOLE["agent"]),
    ("log", Log, WHOLE["log"]),
    ("flush", Flush, WHOLE["flush"]),
    ("slo", Slo, WHOLE["slo"]),
    ("listen", Listen, WHOLE["listen"][0]),
    ("host", Host, WHOLE["host"]),
    ("map", Map, WHOLE["map"][0]),
    ("shape", Shape, WHOLE["shape"][0]),
    ("path", ShapeTag, WHOLE["shape"][0]["tags"]["path"]),
    ("cardinality", Cardinality, WHOLE["cardinality"]),
    ("types", Types, WHOLE["types"]),
    ("collisions", Collisions, WHOLE["collisions"]),
    ("field", TypesField, WHOLE["types"]["field"][0]),
    ("limit", CardinalityLimit, WHOLE["cardinality"]["limit"][0]),
    ("file", FileOutput, WHOLE["output"][0]),
    ("influxdb", InfluxOutput, WHOLE["output"][1]),
    ("spool", SpoolTable, WHOLE["output"][1]["spool"]),
    ("filter", FilterTable, WHOLE["output"][1]["filter"]),
    ("rejected", RejectedTable, WHOLE["output"][1]["rejected"]),
    ("remote_write", RemoteWriteOutput, WHOLE["output"][2]),
    ("nats", NatsOutput, WHOLE["output"][3]),
    ("kafka", KafkaOutput, WHOLE["output"][4]),
]


def test_the_reference_has_one_table_of_each_kind() -> None:
    guards = ["cardinality", "types", "collisions", "flush", "slo"]
    assert list(WHOLE) == ["agent", "log", "listen", "host", "map", "shape", *guards, "output"]
    assert len(WHOLE["listen"]) == 1
    assert [output["type"] for output in WHOLE["output"]] == [
        *("file", "influxdb", "remote_write", "nats", "kafka")
    ]
    # Types without keys of their own are told in words.
    for name, struct in OUTPUT_TYPES.items():
        assert name in BODY
        if name not in ("file", "influxdb", "remote_write", "nats", "kafka"):
            assert set(kinds(struct)) <= set(kinds(FileOutput))


@pytest.mark.parametrize(("name", "struct", "table"), SHOWN, ids=[one[0] for one in SHOWN])
def test_the_reference_has_the_keys_of_the_code(
    name: str, struct: type[Struct], table: dict[str, object]
) -> None:
    # The tables inside of an output are shown once.
    shown = {key for key, kind in kinds(struct).items() if name == "influxdb" or not isinstance(kind, Inner)}
    assert set(table) - ({"type"} - shown) == shown


@pytest.mark.parametrize(("name", "struct", "table"), SHOWN, ids=[one[0] for one in SHOWN])
def test_the_reference_shows_the_defaults_of_the_code(
    name: str, struct: type[Struct], table: dict[str, object]
) -> None:
    for field in fields(struct):
        if not field.required:
            default = field.default_factory() if callable(field.default_factory) else field.default
            if isinstance(default, Table):
                # A table in the table, which has a line of its own in SHOWN.
                continue
            if isinstance(kinds(struct)[field.name], Array | Named):
                continue
            assert kinds(struct)[field.name].read(table[field.name]) == default, field.name


def is_table(value: object) -> bool:
    """Whether it is a table with keys, or an array of them."""
    one = value[0] if isinstance(value, list) and value else value
    return isinstance(one, dict) and bool(one)


def test_the_reference_explains_every_key_and_its_unit() -> None:
    units = {
        name: kind
        for struct in (
            Agent,
            Log,
            Flush,
            Listen,
            Host,
            FilterTable,
            Cardinality,
            SpoolTable,
            RejectedTable,
            *OUTPUT_TYPES.values(),
        )
        for name, kind in kinds(struct).items()
    }
    keys = re.findall(r"^#?([a-z_]+) = (?:\".*?\"|\{.*?\}|\S+)(.*)$", BODY, flags=re.MULTILINE)
    assert len(keys) == sum(not is_table(value) for _, _, table in SHOWN for value in table.values())
    for name, explanation in keys:
        assert re.fullmatch(r" +# \w.{5,}", explanation), name
        if isinstance(units.get(name), Duration):
            assert "duration" in explanation, name
        if isinstance(units.get(name), Size):
            assert "size" in explanation, name


def test_what_is_required_is_told_so() -> None:
    for _, struct, table in SHOWN:
        for field in fields(struct):
            if field.required:
                (line,) = re.findall(
                    rf"^#?{field.name} = {re.escape(repr(table[field.name])).replace(chr(39), chr(34))} .*$",
                    BODY,
                    flags=re.MULTILINE,
                )
                assert "# required" in line


def test_the_reference_loads_to_exactly_the_defaults() -> None:
    assert load(CONFIGS / "penstock.toml") == Config(
        agent=Agent(),
        log=Log(),
        listen=(Listen(address="udp://127.0.0.1:8089"),),
        flush=Flush(),
        slo=Slo(),
        output=(FileOutput(name="files", path="/var/lib/penstock/out"),),
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.split("\n")[0][:30] for example in EXAMPLES])
def test_the_examples_load(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    (tmp_path / "password").write_text("passw0rd\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("INFLUX_TOKEN", "t0ken")
    lines = [line[4:] for line in example.split("\n")[1:] if line.startswith("#   ")]
    assert lines and lines[0].startswith("[[")
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "example.toml").write_text("\n".join(lines).replace("/etc/penstock", str(tmp_path)))
    (tmp_path / "penstock.toml").write_text(REFERENCE)
    config = load(tmp_path / "penstock.toml")
    assert len(config.listen) + len(config.output) == 3


def test_the_statsd_example_differs_from_the_defaults_in_its_percentiles_only() -> None:
    config = load(CONFIGS / "statsd.toml")
    assert config.listen == (
        Listen(address="udp://127.0.0.1:8125", format="statsd", percentiles=(50.0, 90.0, 99.0)),
    )
    assert config.output == (FileOutput(name="files", path="./penstock-data/out"),)


def test_the_host_example_gathers_everything_and_disks_more_seldom() -> None:
    config = load(CONFIGS / "host.toml")
    assert config.host == Host(intervals={"disk": 60.0})
    assert config.listen == ()
    assert config.output == (FileOutput(name="files", path="./penstock-data/out"),)


def test_the_demo_needs_nothing_but_a_folder() -> None:
    config = load(CONFIGS / "demo.toml")
    assert config.agent == Agent(state_dir="./penstock-data/state", runtime_dir="./penstock-data/run")
    assert config.listen == (Listen(address="udp://127.0.0.1:8089"),)
    assert config.output == (FileOutput(name="files", path="./penstock-data/out"),)
