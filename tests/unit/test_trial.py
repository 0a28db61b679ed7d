"""``penstock test`` and ``penstock check --explain``: the real core, without a socket."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import cli

CONFIG = """
[agent]
tags = { dc = "eu1" }
[[listen]]
address = "udp://127.0.0.1:8089"
[[listen]]
name = "stats"
address = "udp://127.0.0.1:8125"
format = "statsd"
[[listen]]
address = "udp://127.0.0.1:2003"
format = "graphite"
[[map]]
match = "web.*.requests.*"
measurement = "requests"
tags = { host = "$1", code = "$2" }
[[map]]
match = "debug.*"
action = "drop"
[[shape]]
measurement = ["http*"]
drop_tags = ["request_id"]
[shape.tags.path]
templates = ["/user/:id"]
[[shape]]
measurement = ["secret"]
drop = true
[types]
[[types.field]]
measurement = "requests"
field = "bytes"
type = "integer"
[[types.field]]
measurement = "flag"
field = "value"
type = "boolean"
[[output]]
name = "all"
type = "null"
[[output]]
name = "requests"
type = "null"
[output.filter]
measurement = ["requests"]
"""

CASES = """
[[case]]
name = "lines"
input = '''
http,path=/user/7,request_id=x ms=3 17
secret v=1
mem free=1i
'''
drops = { denied = 1 }
[case.outputs]
all = ["http,dc=eu1,path=/user/:id ms=3 17", "mem,dc=eu1 free=1i"]
requests = []

[[case]]
name = "samples"
listener = "stats"
input = "web.a.requests.200:1|c\\nweb.a.requests.200:2|c\\ndebug.x:1|c\\n"
points = ["requests,code=200,dc=eu1,host=a,metric_type=counter value=3"]
drops = { denied = 1 }

[[case]]
format = "graphite"
input = "web.a.requests.200 5 17"
points = ["requests,code=200,dc=eu1,host=a value=5 17000000000"]

[[case]]
name = "types"
input = "requests bytes=1.0 1\\nrequests bytes=1.5 2\\n"
points = ["requests,dc=eu1 bytes=1i 1"]
drops = { type_conflict = 1 }

[[case]]
name = "types at the tick"
listener = "stats"
input = "flag:1|c\\n"
points = []
drops = { type_conflict = 1 }
"""


def run(folder: Path, *arguments: str) -> Result:
    (folder / "penstock.toml").write_text(CONFIG)
    return CliRunner().invoke(cli, [arguments[0], "-c", str(folder / "penstock.toml"), *arguments[1:]])


def test_a_file_of_cases_that_come_out_as_they_should(tmp_path: Path) -> None:
    (tmp_path / "cases.toml").write_text(CASES)
    result = run(tmp_path, "test", str(tmp_path / "cases.toml"))
    assert (result.output, result.exit_code) == ("5 cases, 0 failed\n", 0)


def test_what_comes_out_otherwise_is_told(tmp_path: Path) -> None:
    wrong = (
        CASES.replace("/user/:id ms", "/user/7 ms")
        .replace("value=3", "value=4")
        .replace("denied = 1 }\n[", "}\n[")
    )
    file = tmp_path / "cases.toml"
    file.write_text(wrong)
    result = run(tmp_path, "test", str(file))
    assert result.exit_code == 1
    series = "requests,code=200,dc=eu1,host=a,metric_type=counter"
    assert result.output.splitlines() == [
        f"{file}: lines: dropped 1 denied; expected nothing",
        f"{file}: lines: all: missing:    http,dc=eu1,path=/user/7 ms=3 17",
        f"{file}: lines: all: unexpected: http,dc=eu1,path=/user/:id ms=3 17",
        f"{file}: samples: all: missing:    {series} value=4",
        f"{file}: samples: all: unexpected: {series} value=3",
        f"{file}: samples: requests: missing:    {series} value=4",
        f"{file}: samples: requests: unexpected: {series} value=3",
        "5 cases, 2 failed",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[case]]\n", "missing required field `input`"),
        ('[[case]]\ninput = ""\npoint = []\n', "unknown field `point`"),
        ("[case", "Expected ']' at the end of a table declaration"),
        ('[[case]]\ninput = ""\nlistener = "x"\n', 'no listener is named "x"'),
        ('[[case]]\ninput = ""\nformat = "json"\n', 'format "json" cannot be tried'),
        ('[[case]]\ninput = ""\n[case.outputs]\nx = []\n', 'no output is named "x"'),
    ],
)
def test_a_file_that_is_wrong_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cases.toml").write_text(text)
    result = run(tmp_path, "test", str(tmp_path / "cases.toml"))
    assert result.exit_code == 1 and message in result.output


def explained(folder: Path, *arguments: str) -> list[str]:
    result = run(folder, "check", "--explain", *arguments)
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.output.splitlines()]


def test_what_each_rule_does_is_explained(tmp_path: Path) -> None:
    assert explained(tmp_path, "http,path=/user/7,request_id=x ms=3 17") == [
        "http,path=/user/7,request_id=x",
        "shape[0] http,path=/user/:id,dc=eu1",
        "all http,dc=eu1,path=/user/:id ms=3 17",
        "requests nothing",
    ]
    assert explained(tmp_path, "secret v=1 1")[1:3] == ["shape[1] dropped, denied", "dropped denied"]
    assert explained(tmp_path, "broken") == ["not a metric that can be read: field"]


def test_names_are_explained_for_their_listener(tmp_path: Path) -> None:
    series = "requests,code=200,dc=eu1,host=a,metric_type=counter"
    assert explained(tmp_path, "web.a.requests.200:3|c", "--listener", "stats") == [
        "web_a_requests_200,metric_type=counter",
        "map[0] requests,metric_type=counter,host=a,code=200",
        f"all {series} value=3",
        f"requests {series} value=3",
    ]
    # Without a name it is for the first one that understands it.
    assert explained(tmp_path, "web.a.requests.200:3|c")[2] == f"all {series} value=3"
    found = explained(tmp_path, "debug.x 1 1")
    assert found == explained(tmp_path, "debug.x 1 1", "--listener", "udp://127.0.0.1:2003")
    assert found[1:3] == ["map[1] dropped, denied", "dropped denied"]
