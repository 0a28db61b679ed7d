"""The keys of rates and sources: read, told, written again."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.config import Listen, diff
from agent.config_networks import networks
from agent.config_toml import to_toml
from agent.door import Door, sources_for
from tests.unit.config_folder import OUTPUT, Folder

UDP = '[[listen]]\naddress = "udp://127.0.0.1:8089"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_every_key_is_read_and_written_again(folder: Folder) -> None:
    keys = 'rate = 1000\nsource_rate = 10\nburst = "2s"\nmax_sources = 64\nsources = ["10.0.0.0/8", "::1"]\n'
    config = folder.load(UDP + keys + OUTPUT)
    assert config.listen == (
        Listen(
            address="udp://127.0.0.1:8089",
            rate=1000,
            source_rate=10,
            burst=2.0,
            max_sources=64,
            sources=("10.0.0.0/8", "::1"),
        ),
    )
    for defaults in (True, False):
        assert folder.load(to_toml(config, defaults)) == config
    changed = folder.load(UDP + keys.replace('"::1"', '"::2"') + OUTPUT)
    (change,) = diff(config, changed)
    assert str(change).endswith("sources: ['10.0.0.0/8', '::1'] → ['10.0.0.0/8', '::2']")


@pytest.mark.parametrize("scheme", ["unix", "unixgram"])
def test_unix_sockets_have_rates_and_no_networks(folder: Folder, scheme: str) -> None:
    listen = f'[[listen]]\naddress = "{scheme}:///run/a.sock"\nrate = 1\nsource_rate = 1\n'
    assert folder.load(listen + OUTPUT).listen[0].source_rate == 1
    (problem,) = folder.problems(listen + 'sources = ["10.0.0.0/8"]\n' + OUTPUT)
    assert "listen[0].sources: is for udp://, tcp:// and http:// only" in problem
    assert 'has no address; say who may open it with "mode" and "owner"' in problem
    config = folder.load(listen + OUTPUT)
    assert folder.load(to_toml(config)) == config


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('sources = "10.0.0.0/8"', 'got "10.0.0.0/8"; wanted an array of networks'),
        ("sources = [10]", "wanted an array of networks"),
        ('sources = ["10.0.0.0/33"]', '"10.0.0.0/33" is no network; wanted one such as "10.0.0.0/8"'),
        ('sources = ["localhost"]', '"localhost" is no network'),
        ('sources = ["10.1.0.0/8"]', '"10.1.0.0/8" is an address within a network; wanted "10.0.0.0/8"'),
        ("rate = -1", "listen[0].rate: got -1; wanted a whole number from 0 to 1000000000"),
        ('burst = "1ms"', 'got "1ms"; wanted a duration from 10ms to 1h'),
        ("max_sources = 1", "wanted a whole number from 16"),
    ],
)
def test_a_mistake_is_told_with_what_is_wanted(folder: Folder, text: str, problem: str) -> None:
    (told,) = folder.problems(UDP + text + "\n" + OUTPUT)
    assert told.startswith("listen[0].") or "listen[0]." in told
    assert problem in told


def test_networks_are_without_overlap_and_mapped_ones_are_of_version_4() -> None:
    texts = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "192.0.2.1",
        "::ffff:172.16.0.0/108",
        "2001:db8::/33",
        "2001:db8:8000::/33",
    ]
    assert networks(texts) == tuple(
        ip_network(one) for one in ("10.0.0.0/8", "172.16.0.0/12", "192.0.2.1/32", "2001:db8::/32")
    )


LISTEN = Listen(address="udp://127.0.0.1:8089", name="udp")


def door(listen: Listen, former: Door | None = None) -> Door:
    return Door(listen, 0, (), sources=sources_for(listen, (former,) if former is not None else ()))


def test_without_the_keys_nobody_is_asked() -> None:
    assert door(LISTEN).sources is None
    assert door(replace(LISTEN, burst=3.0, max_sources=16)).sources is None
    for key, value in (("rate", 1), ("source_rate", 1), ("sources", ("::1",))):
        assert door(replace(LISTEN, **{key: value})).sources is not None


def test_what_is_asked_stays_as_long_as_its_keys_do() -> None:
    first = door(replace(LISTEN, source_rate=2, burst=1.0))
    assert first.sources is not None
    assert door(replace(first.config, max_line=64), first).sources is first.sources
    assert door(replace(first.config, address="udp://127.0.0.1:1"), first).sources is first.sources
    second = door(replace(first.config, sources=("10.0.0.0/8",)), first)
    assert second.sources is not None and second.sources is not first.sources
    assert first.reading != second.reading


def test_buckets_outlive_other_networks_but_not_another_name_or_rate() -> None:
    first = door(replace(LISTEN, source_rate=2))
    assert first.sources is not None
    first.sources.charge("10.0.0.1", 100)
    for listen, owes in (
        (replace(first.config, sources=("10.0.0.0/8",)), True),
        (replace(first.config, max_line=64), True),
        (replace(first.config, source_rate=1), False),
        (replace(first.config, name="other"), False),
        (replace(first.config, max_sources=64), False),
        (replace(first.config, source_rate=0, rate=5), False),
    ):
        later = door(listen, first).sources
        assert later is not None
        assert (later.wait("10.0.0.1") > 0) == owes, listen
        assert later.wait("10.0.0.2") == 0


def test_addresses_as_python_has_them() -> None:
    sources = door(
        replace(LISTEN, source_rate=1, sources=("10.0.0.0/8", "fe80::/10", "2001:db8::/32"))
    ).sources
    assert sources is not None
    allowed = ["10.1.2.3", "::ffff:10.1.2.3", "fe80::1%eth0", "2001:db8::1"]
    assert [one for one in (*allowed, "11.0.0.0", "::1", "", "/run/a.sock") if sources.allows(one)] == allowed
    sources.charge("2001:db8::1", 5)
    assert sources.wait("2001:db8::ffff") > 3.9 and sources.wait("2001:db8:0:1::1") == 0
