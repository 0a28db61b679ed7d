"""Single values of a configuration: durations, sizes, addresses, compression."""

import pytest

from agent.config import (
    Agent,
    Flush,
    InfluxOutput,
    Listen,
    Log,
)
from agent.config_schema import OUTPUT_TYPES, Destination, kinds
from agent.config_values import (
    Address,
    format_duration,
    format_size,
    parse_duration,
    parse_host_port,
    parse_listen_address,
    parse_size,
)


@pytest.mark.parametrize(
    ("compression", "url", "gzip"),
    [
        ("auto", "http://127.0.0.1:8086", False),
        ("auto", "http://127.3.2.1", False),
        ("auto", "http://[::1]:8086", False),
        ("auto", "http://LocalHost", False),
        ("auto", "http://db.localhost", False),
        ("auto", "http://192.0.2.1", True),
        ("auto", "http://localhost.example.org", True),
        ("gzip", "http://127.0.0.1:8086", True),
        ("none", "http://192.0.2.1", False),
    ],
)
def test_bodies_are_compressed_where_a_network_lies_between(compression: str, url: str, gzip: bool) -> None:
    assert InfluxOutput(name="i", url=url, compression=compression).gzip is gzip


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0),
        ("1ns", 1e-9),
        ("250us", 0.00025),
        ("200ms", 0.2),
        ("1.5s", 1.5),
        ("1h30m", 5400.0),
        ("2d", 172800.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "s",
        "-1s",
        "+1s",
        "1 s",
        "1S",
        "1s ",
        " 1s",
        "1e3s",
        ".5s",
        "1.s",
        "1s1m",
        "1s1s",
        "1_0s",
        "\u0661s",
        "1µs",
    ],
)
def test_texts_that_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="wanted a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "200ms"),
        (30.0, "30s"),
        (90.0, "90s"),
        (3600.0, "1h"),
        (5400.0, "90m"),
        (1.5, "1500ms"),
        (0.0, "0s"),
        (1e-12, "0.000000000001s"),
    ],
)
def test_durations_are_shown_in_the_largest_unit_that_fits(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("1B", 1),
        ("64KiB", 65536),
        ("1.5MiB", 1572864),
        ("25MB", 25_000_000),
        ("2 GiB", 2 << 30),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "5", "MiB", "-1B", "1M", "1mb", "1  MiB", "1MiB ", "0.3B", "1e3B", "1KiB1B"]
)
def test_texts_that_are_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"wanted a size|whole number of bytes"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (1, "1B"), (1000, "1000B"), (65536, "64KiB"), (3 << 30, "3GiB")]
)
def test_sizes_are_shown_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("udp://127.0.0.1:8089", Address("udp", "127.0.0.1", 8089)),
        ("udp://[::]:0", Address("udp", "::", 0)),
        ("udp://[fe80::1%eth0]:1", Address("udp", "fe80::1%eth0", 1)),
        ("udp://metrics.example.org:8089", Address("udp", "metrics.example.org", 8089)),
        ("unixgram:///run/a b.sock", Address("unixgram", path="/run/a b.sock")),
    ],
)
def test_addresses_of_listeners(text: str, address: Address) -> None:
    assert parse_listen_address(text) == address


def test_a_socket_path_is_as_long_as_the_kernel_takes() -> None:
    assert len(parse_listen_address("unixgram:///" + "ü" * 53).path.encode()) == 107
    with pytest.raises(ValueError, match="107 bytes at most"):
        parse_listen_address("unixgram:///x" + "ü" * 53)


def test_host_and_port() -> None:
    assert parse_host_port("[::1]:8690") == ("::1", 8690)
    assert parse_host_port("localhost:0") == ("localhost", 0)


def test_every_key_has_a_kind() -> None:
    for struct in (Agent, Log, Listen, Flush, Destination, *OUTPUT_TYPES.values()):
        assert tuple(kinds(struct)) == struct.__struct_fields__
