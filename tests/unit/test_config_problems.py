"""What every mistake in a configuration is told as, and that all are told at once."""

from pathlib import Path

import pytest

from agent.config import (
    InfluxOutput,
)
from agent.config_schema import kinds
from agent.config_values import LISTEN_ADDRESSES as ADDRESSES
from tests.unit.config_folder import INFLUX, LISTEN, OUTPUT, V2, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        # Values
        ("[agent]\nlanes = 0", "agent.lanes: got 0; wanted a whole number from 1 to 64, or \"auto\""),
        ("[agent]\nlanes = true", "agent.lanes: got true; wanted a whole number from 1 to 64, or \"auto\""),
        ('[agent]\nadmin = "host"', 'agent.admin: "host": a port from 0 to 65535 is missing at its end'),
        ('[agent]\nadmin = "::1:80"', 'agent.admin: "::1:80": an IPv6 address stands in brackets: [::1]:80'),
        ('[agent]\nadmin_cert = "/"', 'agent.admin_cert: "/" cannot be read: Is a directory'),
        (
            '[agent]\nadmin_key = "/dev/null"',
            'agent.admin_cert: is missing; "admin_key" needs it',
        ),
        (
            '[agent]\nadmin = ""\nadmin_token = "s3cret"',
            'agent.admin_token: is for the address of "admin", which is off; remove it',
        ),
        (
            '[agent]\nadmin = ""\nadmin_cert = "/dev/null"',
            'agent.admin_cert: is for the address of "admin", which is off; remove it',
        ),
        (
            "[agent]\ndrain_timeout = 30",
            'agent.drain_timeout: got 30; wanted a duration with its unit, such as "200ms" or "30s"',
        ),
        (
            '[agent]\ndrain_timeout = "2h"',
            'agent.drain_timeout: got "2h"; wanted a duration from 0s to 1h',
        ),
        (
            '[flush]\ninterval = "5 sec"',
            'flush.interval: got "5 sec"; wanted a duration with its unit, such as "200ms", "30s" or "1m30s"',
        ),
        (
            "[flush]\nbatch_bytes = 5000",
            'flush.batch_bytes: got 5000; wanted a size with its unit: "5000B" if bytes are meant',
        ),
        (
            '[flush]\nbatch_bytes = "1mib"',
            'flush.batch_bytes: got "1mib"; unknown unit "mib"; did you mean "MiB"?; '
            'wanted a size with its unit, such as "1MiB", "25MB" or "512B"',
        ),
        ('[flush]\nbatch_bytes = "1.5B"', 'flush.batch_bytes: got "1.5B"; not a whole number of bytes'),
        ('[flush]\nbatch_bytes = "1B"', 'flush.batch_bytes: got "1B"; wanted a size from 1KiB to 1GiB'),
        ('[log]\nlevel = "warn"', 'log.level: got "warn"; wanted one of "debug", "info", "warning", "error"; '
            'did you mean "warning"?'),
        ("[agent]\ntags = []", 'agent.tags: got an array; wanted a table of strings, such as { dc = "eu1" }'),
        ("[agent]\ntags = { rack = 4 }", 'agent.tags: tag "rack": got 4; wanted a string'),
        ('[agent]\ntags = { time = "x" }', 'agent.tags: tag "time": InfluxDB reserves this name'),
        (
            '[agent]\ntags = { a = "x\\n" }',
            'agent.tags: tag "a": its value must have 1 to 1024 characters, no control character, '
            "and no backslash at its end or before a comma, an equals sign or a space",
        ),
        (
            '[agent]\ntags = { "a\\\\" = "x" }',
            'agent.tags: tag "a\\\\": its name must have 1 to 1024 characters, no control character, '
            "and no backslash at its end or before a comma, an equals sign or a space",
        ),
        (
            "[agent]\ntags = { a = 'x\\,y' }",
            'agent.tags: tag "a": its value must have 1 to 1024 characters, no control character, '
            "and no backslash at its end or before a comma, an equals sign or a space",
        ),
        (
            "[agent.tags]\n" + "\n".join(f'k{i:02} = "{1000 * chr(32)}"' for i in range(17)),
            f"agent.tags: take {17 * 2005} bytes of every line; at most 32768 are allowed",
        ),
        ('[agent]\nstate_dir = ""', "agent.state_dir: is empty; wanted the path of a folder"),
        ('[agent]\nstate_dir = "a\\u0000b"', 'agent.state_dir: "a\\u0000b" contains a control character'),
        # Unknown keys and places
        ('[flush]\nintervall = "1s"', "flush.intervall: unknown key 'intervall'; did you mean 'interval'?"),
        ("[flush]\nlanes = 2", "flush.lanes: unknown key 'lanes'; it belongs in [agent]"),
        ("colour = 1", "colour: unknown key 'colour'; known are agent, log, listen, host, cardinality, "
            "types, collisions, map, shape, flush, slo, output"),
        ("[agnet]\nlanes = 2", "agnet: unknown key 'agnet'; did you mean 'agent'?"),
        ("agent = 3", "agent: got 3; wanted a table: [agent]"),
        # References
        (
            '[agent]\nstate_dir = "${PENSTOCK_TEST_UNSET}"',
            "agent.state_dir: the environment variable PENSTOCK_TEST_UNSET is not set",
        ),
        (
            '[agent]\nstate_dir = "a$b"',
            'agent.state_dir: a lone "$": write "$$" for a dollar sign, or a reference such as "${NAME}"',
        ),
        (
            '[agent]\nstate_dir = "${a b}"',
            'agent.state_dir: got "${a b}"; wanted "${NAME}" with the name of a variable, '
            '"${file:PATH}" or "${credential:NAME}"',
        ),
        (
            '[agent]\nstate_dir = "${vault:x}"',
            'agent.state_dir: unknown kind of reference "vault"; wanted "file" or "credential"',
        ),
        (
            '[agent]\nstate_dir = "${file:secret}"',
            'agent.state_dir: "${file:…}" wants an absolute path; got "secret"',
        ),
        (
            '[agent]\nstate_dir = "${file:/nonexistent/secret}"',
            'agent.state_dir: the file "/nonexistent/secret" cannot be read: No such file or directory',
        ),
        (
            '[agent]\nstate_dir = "${credential:../shadow}"',
            'agent.state_dir: "${credential:…}" wants the name of a credential; got "../shadow"',
        ),
        (
            '[agent]\nstate_dir = "${credential:token}"',
            'agent.state_dir: the credential "token" is not there: no credentials were passed '
            "(LoadCredential= in the unit passes them)",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_path_and_what_is_wanted(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    # A value by itself belongs to the top, before any table.
    assert folder.problems(f"{text}\n{LISTEN}{OUTPUT}") == [problem]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            'address = "udp://:1"',
            'address: "udp://:1": the host is missing; "0.0.0.0:1" means every IPv4 address of this machine',
        ),
        (
            'address = "udp://h:65536"',
            'address: "udp://h:65536": a port from 0 to 65535 is missing at its end',
        ),
        ('address = "udp://h"', 'address: "udp://h": a port from 0 to 65535 is missing at its end'),
        ('address = "udp://300.0.0.1:1"', 'address: "udp://300.0.0.1:1": "300.0.0.1" is not an IPv4 address'),
        ('address = "udp://[1.2.3.4]:1"', 'address: "udp://[1.2.3.4]:1": "[1.2.3.4]" is not an IPv6 address'),
        ('address = "udp://a b:1"', 'address: "udp://a b:1": "a b" is not a host name'),
        ('address = "127.0.0.1:1"', f'address: "127.0.0.1:1": wanted {ADDRESSES}'),
        (
            'address = "upd://h:1"',
            f'address: "upd://h:1": unknown scheme "upd"; did you mean "udp"?; wanted {ADDRESSES}',
        ),
        (
            'address = "https://h:1"',
            'address: "https://h:1": TLS is a matter of the keys "cert" and "key"; the address begins with "http://"',
        ),
        (
            'address = "tcp://h:1"\nidle_timeout = "31d"',
            'idle_timeout: got "31d"; wanted a duration from 0s to 1d',
        ),
        (
            'address = "udp://h:1"\nmax_connections = 1',
            "max_connections: is for tcp://, unix:// and http:// only; remove it",
        ),
        (
            'address = "unix:///a"\ncert = "/dev/null"',
            "cert: is for tcp://, http://, nats:// and kafka:// only; remove it",
        ),
        ('address = "tcp://h:1"\nkey = "/dev/null"', 'cert: is missing; "key" needs it'),
        (
            'address = "tcp://h:1"\ncert = "/nonexistent"',
            'cert: "/nonexistent" cannot be read: No such file or directory',
        ),
        ('address = "tcp://h:1"\ngro = true', "gro: is for udp:// only; remove it"),
        (
            'address = "unixgram://run/x"',
            'address: "unixgram://run/x": wanted the absolute path of a socket, '
            'such as "unixgram:///run/penstock/line.sock"',
        ),
        ("gro = true", f"address: is missing; wanted {ADDRESSES}"),
        (
            'address = "udp://h:1"\nformat = "msgpak"',
            'format: got "msgpak"; wanted one of "line", "statsd", "graphite", "json", "msgpack", '
            '"protobuf"; did you mean "msgpack"?',
        ),
        (
            'address = "udp://h:1"\nprecision = "min"',
            'precision: got "min"; wanted one of "ns", "us", "ms", "s"',
        ),
        ('address = "udp://h:1"\nmode = "0660"', "mode: is for unixgram:// and unix:// only; remove it"),
        ('address = "unixgram:///a"\ngro = false', "gro: is for udp:// only; remove it"),
        ('address = "unixgram:///a"\nmode = "888"', 'mode: got "888"; wanted an octal mode such as "0660"'),
        ('address = "unixgram:///a"\nmode = 660', 'mode: got 660; wanted an octal mode such as "0660"'),
        (
            'address = "unixgram:///a"\nowner = "a:b:c"',
            'owner: got "a:b:c"; wanted "user", "user:group" or ":group"',
        ),
        ('address = "udp://h:1"\nmax_line = "1MiB"', 'max_line: got "1MiB"; wanted a size from 64B to 64KiB'),
        ('address = "udp://h:1"\ngro = "yes"', 'gro: got "yes"; wanted true or false'),
    ],
)
def test_a_mistake_in_a_listener(folder: Folder, text: str, problem: str) -> None:
    assert folder.problems(f"[[listen]]\n{text}\n{OUTPUT}") == [f"listen[0].{problem}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", 'type: is missing; wanted one of "influxdb", "remote_write", "nats", "kafka", "file", "null"'),
        (
            'type = "influx"',
            'type: got "influx"; wanted one of "influxdb", "remote_write", "nats", "kafka", "file", "null"; '
            'did you mean "influxdb"?',
        ),
        (
            'type = "remote_write"\nurl = "http://h"\norg = "o"',
            "org: unknown key 'org'; it belongs in [[output]] of type \"influxdb\"",
        ),
        (
            'type = "remote_write"\nurl = "http://h"\nprotocol = 2',
            'protocol: got 2; wanted "1.0" or "2.0"',
        ),
        (
            'type = "remote_write"\nurl = "http://h"\ntoken = "t"\nusername = "u"',
            'token: a server is told one of "token" and "username"; remove one',
        ),
        (
            'type = "remote_write"\nurl = "http://h"\npassword = "p"',
            'username: is missing; "password" needs it',
        ),
        (
            'type = "remote_write"\nurl = "http://h"\nheaders = { Host = "x", "a b" = "y", X-Y = "\\n" }',
            'headers: header "Host" is set by penstock itself; "a b" is no name of a header; '
            'header "X-Y": wanted a string of 1 to 4096 printable ASCII characters',
        ),
        (
            'type = "remote_write"\nurl = "http://h"\nheaders = "x"',
            "headers: got a value that is no table; wanted a table of strings, such as "
            '{ X-Scope-OrgID = "tenant" }',
        ),
        (
            'type = "file"\npath = "p"\nformat = "json"',
            'format: got "json"; wanted "line" or "protobuf"',
        ),
        (
            "type = 3",
            'type: got 3; wanted one of "influxdb", "remote_write", "nats", "kafka", "file", "null"',
        ),
        ('type = "file"', "path: is missing; wanted the path of a folder"),
        (
            'type = "null"\nring_bytes = "1MiB"',
            "ring_bytes: 1MiB must be at least twice flush.batch_bytes (1MiB), "
            "so that one batch is on its way while the next is gathered",
        ),
        (
            'type = "null"\nurl = "http://h"',
            "url: unknown key 'url'; it belongs in [[output]] of type \"influxdb\" "
            'or [[output]] of type "remote_write"',
        ),
        ('type = "null"\nshard = "hash"', 'shard: got "hash"; wanted "series" or "measurement"'),
        ('type = "null"\nshard_group = "g"', 'shard: is missing; "shard_group" needs it'),
        (
            'type = "null"\nfilter.measurement = "cpu"',
            'filter.measurement: got "cpu"; wanted an array of strings, such as ["cpu*", "!cpu_debug"]',
        ),
        (
            'type = "null"\nfilter.measurement = ["a[b"]',
            'filter.measurement: "a[b" has a "[" that is never closed; "[[]" stands for the character itself',
        ),
        (
            'type = "null"\nfilter.tag.dc = ["!a[b"]',
            'filter.tag: dc: "!a[b" has a "[" that is never closed; "[[]" stands for the character itself',
        ),
        (
            'type = "null"\nfilter.tag = 3',
            'filter.tag: got 3; wanted a table of arrays of strings, such as { dc = ["eu*"] }',
        ),
    ],
)
def test_a_mistake_in_an_output(folder: Folder, text: str, problem: str) -> None:
    assert folder.problems(f'{LISTEN}[[output]]\nname = "o"\n{text}\n') == [f"output[0].{problem}"]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('url = "h:8086"', ['url: got "h:8086"; wanted "http://HOST:PORT" or "https://HOST:PORT"']),
        ('url = "http://"', ['url: got "http://"; wanted "http://HOST:PORT" or "https://HOST:PORT"']),
        (
            'url = "http://h:99999"',
            ['url: the address is malformed; wanted "http://HOST:PORT" or "https://HOST:PORT"'],
        ),
        (
            'url = "http://h/?u=me&p=hush"',
            [
                "url: the address must end with its path, without ?, # and spaces; "
                'wanted "http://HOST:PORT" or "https://HOST:PORT"'
            ],
        ),
        (
            'url = "http://me:hush@h"',
            [
                "url: no user or password may stand in the address; "
                'use the keys for them ("token", "username")'
            ],
        ),
        ('org = ""', ['org: is missing; version 2 wants "org" and "bucket"']),
        ('database = "d"', ['database: is for version 1 and 3; version 2 wants "org" and "bucket"']),
        ('username = "u"', ['username: is for version 1; version 2 wants "org" and "bucket"']),
        (
            "version = 1",
            [
                'org: is for version 2; version 1 wants "database"',
                'bucket: is for version 2; version 1 wants "database"',
                'database: is missing; version 1 wants "database"',
            ],
        ),
        (
            'version = 3\norg = ""\nbucket = ""\npassword = "hush"\ndatabase = "d"',
            [
                'password: is for version 1; version 3 wants "database"',
                'username: is missing; "password" needs it',
            ],
        ),
        ("version = 4", ["version: got 4; wanted a whole number from 1 to 3"]),
        ('ca = "/nonexistent"', ['ca: is for "https://" only, and the url begins with "http://"']),
        (
            "insecure_skip_verify = true",
            ['insecure_skip_verify: is for "https://" only, and the url begins with "http://"'],
        ),
        (
            'url = "https://h"\nca = "/nonexistent"',
            ['ca: "/nonexistent" cannot be read: No such file or directory'],
        ),
        ('url = "https://h"\nkey = "/dev/null"', ['cert: is missing; "key" needs it']),
        ('retry_min = "2s"\nretry_max = "1s"', ["retry_min: 2s is longer than retry_max (1s)"]),
        ("token = 12345678", ["token: got a value that is no string; wanted a string"]),
        ('token = "hush\\n"', ["token: the value contains a control character"]),
    ],
)
def test_a_mistake_in_an_influxdb_output(folder: Folder, text: str, problems: list[str]) -> None:
    lines = dict(line.split(" = ", 1) for line in V2.splitlines()[1:])
    lines |= dict(line.split(" = ", 1) for line in text.splitlines())
    table = "\n".join(f"{key} = {value}" for key, value in lines.items())
    found = folder.problems(f"{LISTEN}[[output]]\n{table}\n")
    assert found == [f"output[0].{problem}" for problem in problems]
    assert "hush" not in str(found) and "12345678" not in str(found)


@pytest.mark.parametrize(
    "text",
    [
        'version = 1\ndatabase = "d"',
        'version = 1\ndatabase = "d"\nusername = "u"',
        'version = 2\norg = "-"\nbucket = "d/rp"',
        'version = 2\norg = "o"\nbucket = "b"\ntoken = "t"\ndatabase = ""',
        'version = 3\ndatabase = "d"',
        'version = 3\ndatabase = "d"\ntoken = "t"',
    ],
)
def test_each_version_is_content_with_its_own_keys(folder: Folder, text: str) -> None:
    (output,) = folder.load(f"{LISTEN}{INFLUX}{text}\n").output
    assert isinstance(output, InfluxOutput)


def test_every_problem_is_reported_at_once(folder: Folder) -> None:
    assert folder.problems(
        """
        [flush]
        interval = 5
        [[listen]]
        address = "udp://"
        precision = "h"
        [[listen]]
        adress = "udp://h:1"
        [[output]]
        type = "influxdb"
        url = 3
        token = "${PENSTOCK_TEST_UNSET}"
        [[output]]
        type = "influxdb"
        name = "a/b"
        colour = "red"
        """
    ) == [
        "output[0].token: the environment variable PENSTOCK_TEST_UNSET is not set",
        'flush.interval: got 5; wanted a duration with its unit, such as "200ms" or "30s"',
        'listen[0].address: "udp://": a port from 0 to 65535 is missing at its end',
        'listen[0].precision: got "h"; wanted one of "ns", "us", "ms", "s"',
        "listen[1].adress: unknown key 'adress'; did you mean 'address'?",
        f"listen[1].address: is missing; wanted {ADDRESSES}",
        "output[0].name: is missing; wanted letters, digits, and any of _.-",
        'output[0].url: got 3; wanted "http://HOST:PORT" or "https://HOST:PORT"',
        "output[1].colour: unknown key 'colour'; known are " + ", ".join([*kinds(InfluxOutput), "type"]),
        'output[1].name: got "a/b"; wanted letters, digits, and any of _.-',
        'output[1].url: is missing; wanted "http://HOST:PORT" or "https://HOST:PORT"',
        'output[0].org: is missing; version 2 wants "org" and "bucket"',
        'output[0].bucket: is missing; version 2 wants "org" and "bucket"',
        'output[1].org: is missing; version 2 wants "org" and "bucket"',
        'output[1].bucket: is missing; version 2 wants "org" and "bucket"',
    ]


def test_at_least_one_listener_and_one_output(folder: Folder) -> None:
    wanted = [
        'listen: nothing would be received; wanted at least one [[listen]] with an "address"',
        "output: nothing would be delivered; wanted at least one [[output]]",
    ]
    assert folder.problems("") == wanted
    assert folder.problems("listen = []\noutput = []") == wanted


def test_single_brackets_are_told_and_their_table_is_still_judged(folder: Folder) -> None:
    assert folder.problems(f'[listen]\naddress = "x"\n{OUTPUT}') == [
        "listen: got a table; wanted an array of tables: write [[listen]], with double brackets",
        f'listen[0].address: "x": wanted {ADDRESSES}',
    ]


def test_too_many_of_a_kind(folder: Folder) -> None:
    listen = "".join(f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\n' for port in range(1, 66))
    output = "".join(f'[[output]]\nname = "o{index}"\ntype = "null"\n' for index in range(17))
    assert folder.problems(listen + output) == [
        "listen: 65 listeners; at most 64 are allowed",
        "output: 17 outputs; at most 16 are allowed",
    ]


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ("udp://127.0.0.1:1", "udp://127.0.0.1:1", '"udp://127.0.0.1:1"'),
        ("udp://[::1]:1", "udp://[0:0::1]:1", '"udp://[0:0::1]:1"'),
        ("udp://Host:1", "udp://host:1", '"udp://host:1"'),
        ("unixgram:///a/b", "unixgram:///a//b", '"unixgram:///a//b"'),
        ("unixgram:///a/b", "unix:///a/b", '"unix:///a/b"'),
        ("tcp://[::1]:1", "tcp://[0::1]:1", '"tcp://[0::1]:1"'),
    ],
)
def test_an_address_is_bound_once(folder: Folder, first: str, second: str, problem: str) -> None:
    text = f'[[listen]]\naddress = "{first}"\n[[listen]]\naddress = "{second}"\n{OUTPUT}'
    assert folder.problems(text) == [f"listen[1].address: {problem} is taken by listen[0]; wanted another"]


def test_any_free_port_may_be_asked_for_twice_under_two_names(folder: Folder) -> None:
    text = '[[listen]]\naddress = "udp://127.0.0.1:0"\n'
    assert folder.problems(text + text + OUTPUT) == [
        'listen[1].name: "udp://127.0.0.1:0" is taken by listen[0]; wanted another'
    ]
    assert len(folder.load(text + 'name = "a"\n' + text + 'name = "b"\n' + OUTPUT).listen) == 2


def test_names_and_folders_are_unique(folder: Folder) -> None:
    text = (
        '[[listen]]\naddress = "udp://h:1"\nname = "n"\n'
        '[[listen]]\naddress = "udp://h:2"\nname = "n"\n'
        '[[output]]\nname = "f"\ntype = "file"\npath = "out"\n'
        '[[output]]\nname = "f"\ntype = "file"\npath = "./out/"\n'
    )
    assert folder.problems(text) == [
        'listen[1].name: "n" is taken by listen[0]; wanted another',
        'output[1].name: "f" is taken by output[0]; wanted another',
        'output[1].path: "./out/" is taken by output[0]; wanted another',
    ]
