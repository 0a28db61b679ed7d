"""Templates of Graphite paths: how they are written, which one a path goes by, what mistakes are told as."""

import pytest

from agent._core import Graphite, read_format
from agent.templates import Template, compile_templates, parse, problems


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("measurement*", Template((), ("measurement*",), ())),
        ("host.measurement.field*", Template((), ("host", "measurement", "field*"), ())),
        ("servers.* .host.measurement", Template(("servers", "*"), ("", "host", "measurement"), ())),
        ("measurement* dc=eu,env=prod", Template((), ("measurement*",), (("dc", "eu"), ("env", "prod")))),
        (
            "  a.*.c   measurement.host\tdc=eu ",
            Template(("a", "*", "c"), ("measurement", "host"), (("dc", "eu"),)),
        ),
    ],
)
def test_a_template_has_a_filter_parts_and_tags(text: str, template: Template) -> None:
    assert parse(text) == template


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has 0 words before its tags"),
        ("a b c", "has 3 words before its tags"),
        ("/ a/b measurement a=b", "has 3 words before its tags"),
        ("host.region", "has no part named measurement or measurement*"),
        ("a*.b measurement", 'has "a*" in its filter; * stands for a whole node'),
        ("a..b measurement", "has an empty node in its filter; * stands for any node"),
        ("measurement*.host", 'has parts behind "measurement*", which takes all nodes from there on'),
        ("field*.measurement*", 'has parts behind "field*", which takes all nodes from there on'),
        ("measurement.host*", 'has "host*"; only measurement* and field* take several nodes'),
        ("measurement a=b,c", 'has "c" among its tags; wanted tag=value'),
        ("measurement a=b=c", 'has "a=b=c" among its tags; wanted tag=value'),
        ("measurement a=b,a=c", 'has the tag "a" twice'),
        (
            "measurement a=" + "x" * 1025,
            "has a name or value of more than 1024 bytes, or with control characters",
        ),
        (".".join(["x"] * 64) + ".measurement", "has 65 parts; at most 64 are allowed"),
        (".".join(["x"] * 65) + " measurement", "has a filter of 65 nodes; at most 64 are allowed"),
    ],
)
def test_mistakes_are_told(text: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert str(caught.value).startswith(problem)


def test_two_templates_of_one_filter_are_a_mistake() -> None:
    assert problems(["measurement*", "a.* measurement", "host.measurement", "a.* measurement.host", "x"]) == [
        (2, '"host.measurement": templates[0] has no filter either; one of them would never be used'),
        (3, '"a.* measurement.host": templates[1] has its filter too; one of them would never be used'),
        (4, '"x" has no part named measurement or measurement*'),
    ]


def read(path: str, *templates: str, join: str = "_") -> str:
    """Series and fields that *path* becomes."""
    result = read_format(f"{path} 1 1\n".encode(), "graphite", graphite=compile_templates(templates, join))
    assert result["accepted"] == 1, result
    return result["body"].decode().removesuffix(" 1000000000\n")


def test_without_a_template_the_path_is_the_measurement() -> None:
    assert read("servers.web1.cpu") == "servers.web1.cpu value=1"


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("measurement*", "a.b.c", "a_b_c value=1"),
        (".host.measurement*", "servers.web1.cpu.load", "cpu_load,host=web1 value=1"),
        ("host.measurement.field*", "web1.cpu.load.short", "cpu,host=web1 load_short=1"),
        ("measurement.measurement.region.region", "cpu.load.us.west", "cpu_load,region=us_west value=1"),
        ("measurement", "cpu.what.is.left", "cpu value=1"),
        ("measurement.host.dc", "cpu", "cpu value=1"),
        ("host.measurement", "web1", "web1,host=web1 value=1"),
        ("measurement.host dc=eu", "cpu.web1;dc=us;az=a", "cpu,host=web1,dc=us,az=a value=1"),
        ("measurement.host host=x", "cpu.web1", "cpu,host=x_web1 value=1"),
        ("measurement.field", "cpu.time", "cpu time_=1"),
        ("measurement.time.field", "cpu.1.x=y", "cpu,time_=1 x\\=y=1"),
        ("host.measurement*", "a..b", "_b,host=a value=1"),
    ],
)
def test_nodes_become_what_the_template_says(template: str, path: str, expected: str) -> None:
    assert read(path, template) == expected


def test_the_most_special_filter_wins() -> None:
    templates = [
        "measurement* which=default",
        "servers measurement* which=short",
        "servers.* measurement* which=any",
        "servers.web1 measurement* which=named",
        "servers.*.cpu measurement* which=deep",
        "*.web1.cpu measurement* which=star",
    ]
    chosen = {
        path: read(path, *templates, join=".").split("which=")[1].split()[0]
        for path in (
            "x",
            "servers",
            "servers.a",
            "servers.web1",
            "servers.web1.cpu",
            "servers.a.cpu.b",
            "x.web1.cpu",
            "x.y",
        )
    }
    assert chosen == {
        "x": "default",
        "servers": "short",
        "servers.a": "any",
        "servers.web1": "named",
        "servers.web1.cpu": "named",
        "servers.a.cpu.b": "deep",
        "x.web1.cpu": "star",
        "x.y": "default",
    }


def test_the_core_refuses_what_it_has_no_room_for() -> None:
    with pytest.raises(ValueError, match="8 bytes at most"):
        Graphite(join=b"123456789")
    with pytest.raises(ValueError, match="at most 64 parts"):
        Graphite([((), (b"x",) * 65, ())])
    with pytest.raises(ValueError, match="the last one"):
        Graphite([((), (b"measurement*", b"host"), ())])
    with pytest.raises(ValueError, match="more than 4096 bytes"):
        Graphite([((), (b"measurement", b"x" * 5000), ())])
