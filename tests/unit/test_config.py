"""Loading a configuration: every key, its defaults, and files that are merged."""

from pathlib import Path

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
    RejectedTable,
    SpoolTable,
)
from agent.config_schema import METRIC_TYPES
from tests.unit.config_folder import LISTEN, OUTPUT, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_the_least_configuration_has_every_default(folder: Folder) -> None:
    assert folder.load(LISTEN + OUTPUT) == Config(
        agent=Agent(
            tags={},
            state_dir="/var/lib/penstock",
            runtime_dir="/run/penstock",
            lanes=1,
            admin="127.0.0.1:8690",
            drain_timeout=30.0,
        ),
        log=Log(level="info", format="auto"),
        listen=(
            Listen(
                address="udp://127.0.0.1:8089",
                name="udp://127.0.0.1:8089",
                format="line",
                precision="ns",
                receive_buffer=8 * 1024 * 1024,
                max_line=65536,
                max_datagram=65536,
                gro=True,
                mode="0660",
                owner="",
                interval=10.0,
                percentiles=(90.0,),
                relative_error=0.01,
                gauge_deltas=True,
                reset_gauges=False,
                expire=dict.fromkeys(METRIC_TYPES, 300.0),
                max_series=1_000_000,
                separator="_",
                dialect="auto",
            ),
        ),
        flush=Flush(batch_lines=5000, batch_bytes=1024 * 1024, interval=0.2),
        output=(NullOutput(name="void", ring_bytes=64 * 1024 * 1024),),
    )


def test_every_key_is_read(folder: Folder) -> None:
    config = folder.load(
        """
        [agent]
        tags = { dc = "eu1", "odd key" = "ü" }
        state_dir = "state"
        runtime_dir = "run"
        lanes = 4
        admin = ""
        drain_timeout = "1m30s"
        [log]
        level = "debug"
        format = "text"
        [[listen]]
        address = "unixgram:///run/p/line.sock"
        name = "local"
        precision = "ms"
        receive_buffer = "1MiB"
        max_line = "1KiB"
        max_datagram = "2KiB"
        mode = "0600"
        owner = "root:adm"
        [[listen]]
        address = "udp://[::1]:8089"
        gro = false
        [[listen]]
        address = "udp://[::1]:8125"
        format = "statsd"
        interval = "1s"
        percentiles = [50, 99.9]
        relative_error = 0.05
        gauge_deltas = false
        reset_gauges = true
        expire = { gauge = "1h", counter = "1m" }
        max_series = 10
        separator = "."
        dialect = "librato"
        [flush]
        batch_lines = 10
        batch_bytes = "4KB"
        interval = "1.5s"
        [[output]]
        name = "one"
        type = "influxdb"
        ring_bytes = "1MiB"
        url = "http://db.example.org:8086/influx"
        version = 1
        database = "d"
        retention_policy = "rp"
        consistency = "quorum"
        username = "u"
        password = "p"
        compression = "gzip"
        compression_level = 0
        max_concurrency = 1
        connect_timeout = "1s"
        tls_timeout = "3s"
        response_timeout = "2s"
        idle_timeout = "4s"
        batch_timeout = "5s"
        retries = 0
        retry_min = "1ms"
        retry_max = "1h"
        breaker_sensitivity = 2
        order = "oldest_first"
        [output.spool]
        max_bytes = "1TiB"
        max_age = "1h"
        min_free_space = "0B"
        sync = "never"
        spill_at = 0.5
        [output.rejected]
        max_bytes = "1MiB"
        max_age = "1d"
        [[output]]
        name = "memory"
        type = "influxdb"
        url = "http://db.example.org:8086"
        org = "o"
        bucket = "b"
        spool = false
        [[output]]
        name = "two"
        type = "file"
        path = "out"
        rotate_bytes = "1MB"
        rotate_interval = "1d"
        compression = "gzip"
        max_files = 0
        """
    )
    assert config.agent == Agent(
        tags={"dc": "eu1", "odd key": "ü"},
        state_dir="state",
        runtime_dir="run",
        lanes=4,
        admin="",
        drain_timeout=90.0,
    )
    assert config.log == Log(level="debug", format="text")
    assert config.listen == (
        Listen(
            address="unixgram:///run/p/line.sock",
            name="local",
            precision="ms",
            receive_buffer=1 << 20,
            max_line=1024,
            max_datagram=2048,
            mode="0600",
            owner="root:adm",
        ),
        Listen(address="udp://[::1]:8089", name="udp://[::1]:8089", gro=False),
        Listen(
            address="udp://[::1]:8125",
            format="statsd",
            interval=1.0,
            percentiles=(50.0, 99.9),
            relative_error=0.05,
            gauge_deltas=False,
            reset_gauges=True,
            expire=dict.fromkeys(METRIC_TYPES, 300.0) | {"gauge": 3600.0, "counter": 60.0},
            max_series=10,
            separator=".",
            dialect="librato",
        ),
    )
    assert config.flush == Flush(batch_lines=10, batch_bytes=4000, interval=1.5)
    assert config.output == (
        InfluxOutput(
            name="one",
            ring_bytes=1 << 20,
            url="http://db.example.org:8086/influx",
            version=1,
            database="d",
            retention_policy="rp",
            consistency="quorum",
            username="u",
            password="p",
            compression="gzip",
            compression_level=0,
            max_concurrency=1,
            connect_timeout=1.0,
            tls_timeout=3.0,
            response_timeout=2.0,
            idle_timeout=4.0,
            batch_timeout=5.0,
            retries=0,
            retry_min=0.001,
            retry_max=3600.0,
            breaker_sensitivity=2.0,
            order="oldest_first",
            spool=SpoolTable(max_bytes=1 << 40, max_age=3600.0, min_free_space=0, sync="never", spill_at=0.5),
            rejected=RejectedTable(max_bytes=1 << 20, max_age=86400.0),
        ),
        InfluxOutput(name="memory", url="http://db.example.org:8086", org="o", bucket="b", spool=None),
        FileOutput(
            name="two",
            path="out",
            rotate_bytes=1_000_000,
            rotate_interval=86400.0,
            compression="gzip",
            max_files=0,
        ),
    )


def test_lanes_auto_is_a_number(folder: Folder) -> None:
    config = folder.load('[agent]\nlanes = "auto"\n' + LISTEN + OUTPUT)
    assert 1 <= config.agent.lanes <= 64


def test_structs_cannot_be_changed(folder: Folder) -> None:
    config = folder.load(LISTEN + OUTPUT)
    with pytest.raises(AttributeError):
        config.flush.interval = 1.0  # type: ignore[misc]


def test_a_listener_built_in_code_is_named_after_its_address_too() -> None:
    assert Listen(address="udp://h:1").name == "udp://h:1"
    assert Listen(address="udp://h:1", name="n").name == "n"


def test_a_missing_file_is_the_only_problem(folder: Folder) -> None:
    assert folder.problems() == [f"{folder.file}: cannot be read: No such file or directory"]


def test_conf_d_is_merged_in_the_order_of_names(folder: Folder) -> None:
    folder.write(LISTEN + '[agent]\nlanes = 2\ntags = { a = "1" }\n')
    folder.write(OUTPUT + '[agent.tags]\nb = "2"\n[flush]\nbatch_lines = 7\n', "conf.d/20-more.toml")
    folder.write('[[output]]\nname = "first"\ntype = "null"\n', "conf.d/10-some.toml")
    folder.write("no TOML at all", "conf.d/readme.txt")
    config = folder.load()
    assert config.agent.lanes == 2
    assert config.agent.tags == {"a": "1", "b": "2"}
    assert config.flush.batch_lines == 7
    assert [output.name for output in config.output] == ["first", "void"]


def test_a_key_set_twice_names_both_files(folder: Folder) -> None:
    folder.write(LISTEN + OUTPUT + '[flush]\nbatch_lines = 1\n[agent]\ntags = { a = "1" }\n')
    folder.write('[flush]\nbatch_lines = 1\n[agent.tags]\na = "2"\n', "conf.d/a.toml")
    folder.write("[flush]\nbatch_lines = 3\n", "conf.d/b.toml")
    main, a, b = folder.file, folder.path / "conf.d/a.toml", folder.path / "conf.d/b.toml"
    assert folder.problems() == [
        f"flush.batch_lines: set twice, in {main} and in {a}; remove one of them",
        f"agent.tags.a: set twice, in {main} and in {a}; remove one of them",
        f"flush.batch_lines: set twice, in {main} and in {b}; remove one of them",
    ]


def test_with_several_files_a_problem_names_its_own(folder: Folder) -> None:
    folder.write(LISTEN + OUTPUT + "[flush]\nbatch_lines = 0\n")
    folder.write('[[output]]\nname = "b"\ntype = "null"\nring_bytes = "1KiB"\n', "conf.d/a.toml")
    first, second = folder.problems()
    assert first.startswith("flush.batch_lines: got 0") and first.endswith(f"(in {folder.file})")
    assert second.startswith("output[1].ring_bytes: ") and second.endswith(
        f"(in {folder.path}/conf.d/a.toml)"
    )


def test_the_syntax_errors_of_all_files_come_with_the_problems_of_the_others(folder: Folder) -> None:
    folder.write("[agent\n")
    folder.write("x = \n", "conf.d/a.toml")
    folder.write("[flush]\nbatch_lines = 0\n", "conf.d/b.toml")
    (folder.path / "conf.d/c.toml").write_bytes(b"a = '\xff'")
    problems = folder.problems()
    assert [problem.split(": ")[0] for problem in problems] == [
        str(folder.file),
        str(folder.path / "conf.d/a.toml"),
        str(folder.path / "conf.d/c.toml"),
        "flush.batch_lines",
    ]
    assert "is not TOML: " in problems[0] and "at line 1" in problems[0]
    assert "is not TOML: " in problems[1] and "at line 1" in problems[1]
    assert problems[2].endswith("is not UTF-8 (byte 5)")


def test_a_conf_d_that_is_a_file_is_told(folder: Folder) -> None:
    folder.write(LISTEN + OUTPUT)
    folder.write("", "conf.d")
    assert folder.problems() == [f"{folder.path}/conf.d: cannot be read: Not a directory"]
