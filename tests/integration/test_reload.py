"""Reload: a new configuration under load costs no datagram, and a bad one changes nothing but says why."""

import re
import resource
import shutil
import signal
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.admin.client import Credentials, ask
from agent.errors import EXIT_FAILURE, EXIT_OK, ControlError
from tests.conftest import wait_until
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    load,
    open_files,
    output,
    send_udp,
    send_unixgram,
    udp_inodes,
)
from tests.integration.certificates import make_certificates
from tests.integration.test_ledger import dead_output, file_output
from tests.integration.test_stop import udp_listener


def total(status: dict[str, Any], what: str) -> int:
    """Over all listeners."""
    return sum(one[what] for one in status["listeners"])


def wait_more(agent: AgentProcess, more: int, name: str = "") -> None:
    """Wait until *more* metrics have been received than now, by one listener or by all."""

    def received(status: dict[str, Any]) -> int:
        return int(listener(status, name)["received"] if name else total(status, "received"))

    wanted = received(agent.status()) + more
    agent.wait_for(lambda status: received(status) >= wanted)


# ---- under load ----


@pytest.mark.parametrize("lanes", [1, 2])
def test_under_load_no_datagram_is_lost(tmp_path: Path, lanes: int) -> None:
    """Interval changed, a listener added, the output swapped, and all of it back again."""
    port, other = free_port(), free_port()
    agent_table = f'[agent]\nadmin = ""\nlanes = {lanes}\n'
    before = f"{agent_table}{udp_listener(port)}{file_output('before')}"
    after = (
        f"{agent_table}{udp_listener(port)}{udp_listener(other, 'added')}{file_output('after')}"
        '[flush]\ninterval = "20ms"\n'
    )
    with AgentProcess(tmp_path, before) as agent, load(port, 100_000, flows=8) as sender:
        kept = udp_inodes(port)
        assert len(kept) == lanes
        for round_, config in enumerate([after, before, after, before, after], 1):
            wait_more(agent, 20_000, "udp")
            agent.write_config(config)
            agent.signal(signal.SIGHUP)
            agent.wait_notified("READY", round_ + 1)
            assert udp_inodes(port) == kept <= set(open_files(agent.pid))
            if config is after:
                send_udp(other, b"added v=1 %d" % round_)
        wait_more(agent, 20_000, "udp")
        sent = sender.finish()
        status = agent.wait_for(
            lambda status: listener(status, "udp")["received"] == sent and at_rest(status),
            what=f"received = {sent}",
        )
        assert_balanced(status)
        assert listener(status, "udp")["kernel_drops"] == 0
        assert status["reload"]["applied"] == 5
        assert listener(status, "added")["received"] == 3
        assert total(status, "accepted") == sent + 3
        # Each metric is in exactly one of the two folders, and none is there twice.
        assert agent.stop() == EXIT_OK
        lines = [delivered_lines(tmp_path / name) for name in ("before", "after")]
        assert all(len(part) > 20_000 for part in lines)
        assert len(lines[0]) + len(lines[1]) == len({*lines[0], *lines[1]}) == sent + 3
        for name, part in zip(("before", "after"), lines, strict=True):
            assert output(status, name)["delivered"] == len(part)


def test_under_load_a_port_goes_over_to_a_wider_address_without_loss(tmp_path: Path) -> None:
    port = free_port()

    def config(host: str) -> str:
        return f'[[listen]]\naddress = "udp://{host}:{port}"\nname = "udp"\n{file_output("out")}'

    with AgentProcess(tmp_path, config("127.0.0.1")) as agent, load(port, 50_000, flows=8) as sender:
        for host in ("0.0.0.0", "127.0.0.1", "0.0.0.0"):
            wait_more(agent, 10_000)
            assert agent.reload(config(host))["applied"]
            assert len(udp_inodes(port)) == 1
        sent = sender.finish()
        status = agent.wait_for(
            lambda status: listener(status, "udp")["received"] == sent and at_rest(status),
            what=f"received = {sent}",
        )
        assert_balanced(status)


def test_under_load_every_kind_of_change_keeps_what_is_in_the_rings(tmp_path: Path) -> None:
    """Settings of the same output, its ring's size, and its encoding change while metrics wait in it."""
    port = free_port()

    def config(rotate: str, ring: str, interval: str, name: str) -> str:
        return f"""
            [flush]
            interval = "{interval}"
            {udp_listener(port, name)}
            {file_output("out")}
            rotate_bytes = "{rotate}"
            ring_bytes = "{ring}"
        """

    first = config("64MiB", "64MiB", "200ms", "udp")
    with AgentProcess(tmp_path, first) as agent, load(port, 50_000) as sender:
        for next_ in (
            config("128KiB", "64MiB", "200ms", "udp"),
            config("128KiB", "32MiB", "10ms", "udp"),
            config("128KiB", "32MiB", "1s", "renamed"),
            config("64MiB", "64MiB", "1s", "udp"),
        ):
            wait_more(agent, 11_000)
            assert agent.reload(next_)["applied"]
        sent = sender.finish()
        status = agent.wait_for(lambda status: total(status, "received") == sent and at_rest(status))
        assert_balanced(status)
        assert listener(status, "renamed")["received"] > 10_000
        assert output(status, "out")["delivered"] == sent
        assert agent.stop() == EXIT_OK
        lines = delivered_lines(tmp_path / "out")
        assert len(lines) == len(set(lines)) == sent


# ---- what is changed, and what is kept ----


def test_hup_tells_systemd_when_it_begins_and_when_it_is_done(tmp_path: Path) -> None:
    config = f"{udp_listener(free_port())}{file_output('out')}"
    with AgentProcess(tmp_path, config) as agent:
        agent.write_config(config.replace('"udp"', '"renamed"'))
        agent.signal(signal.SIGHUP)
        agent.wait_notified("READY", 2)
        kinds = [next(iter(message)) for message in agent.notifications]
        assert kinds == ["READY", "RELOADING", "READY"]
        assert int(agent.notifications[1]["MONOTONIC_USEC"]) > 0
        assert re.fullmatch(r"receiving.* on 1 listener; out ok", agent.notifications[2]["STATUS"])
        [record] = agent.log("reloaded")
        assert any("renamed" in change for change in record["changes"])


def test_what_waits_for_a_broken_destination_goes_to_the_one_that_replaces_it(tmp_path: Path) -> None:
    port = free_port()
    with AgentProcess(tmp_path, f"{udp_listener(port)}{dead_output('out')}") as agent:
        send_udp(port, b"m v=1 1", b"m v=2 2")
        agent.wait_for(lambda status: output(status, "out")["retries"] > 0)
        ring = tmp_path / "run" / "rings" / "out.0.ring"
        inode = ring.stat().st_ino
        flush = '[flush]\nbatch_bytes = "16KiB"\n'
        changed = f'{udp_listener(port)}{file_output("out")}ring_bytes = "64KiB"\n{flush}'
        assert agent.reload(changed)["applied"]
        status = agent.wait_for(lambda status: at_rest(status) and output(status, "out")["delivered"] == 2)
        assert_balanced(status)
        assert ring.stat().st_ino == inode
        [shown] = [one for one in status["outputs"] if one["name"] == "out"]
        assert (shown["type"], shown["state"]) == ("file", "ok")
        assert agent.stop() == EXIT_OK
        assert sorted(delivered_lines(tmp_path / "out")) == [b"m v=1 1", b"m v=2 2"]


def test_another_encoding_takes_new_rings_and_the_old_ones_go_where_they_were_meant_to(
    tmp_path: Path,
) -> None:
    """Version 1 has no unsigned integers, so what is encoded for a file cannot go to it."""
    port, server_port = free_port(), free_port(socket.SOCK_STREAM)
    file = f'{udp_listener(port)}{file_output("out")}\n[flush]\ninterval = "1h"\n'
    influx = f"""
        {udp_listener(port)}
        [[output]]
        name = "out"
        type = "influxdb"
        version = 1
        url = "http://127.0.0.1:{server_port}"
        database = "d"
        [flush]
        interval = "1h"
        [agent]
        admin = ""
        drain_timeout = "0s"
    """
    with AgentProcess(tmp_path, file.replace("[[listen]]", '[agent]\nadmin = ""\n[[listen]]')) as agent:
        send_udp(port, b"m v=1u 1")
        agent.wait_for(lambda status: output(status, "out")["waiting"] == 1)
        # The drain timeout of the config in which the output goes counts, and this one leaves no time.
        assert agent.reload(influx.replace('"0s"', '"20s"'))["applied"]
        wait_until(lambda: delivered_lines(tmp_path / "out") == [b"m v=1u 1"], 10, "the old ring is emptied")
        send_udp(port, b"m v=2u 2")
        status = agent.wait_for(
            lambda status: output(status, "out")["waiting"] == 1 and output(status, "out")["delivered"] == 1
        )
        assert_balanced(status)
        # The file of the old one goes a moment after its last metric is counted.
        rings = tmp_path / "run" / "rings"
        wait_until(lambda: [ring.name for ring in rings.iterdir()] == ["out.0~1.ring"], what="one ring")
        assert agent.reload(influx)["applied"]
        assert agent.stop() == EXIT_OK
        [final] = agent.log("stopped")
        assert final["balanced"] is True
        assert (final["outputs"]["out"]["spooled"], final["outputs"]["out"]["dropped"]) == (1, {})


def test_an_output_that_was_removed_still_gets_what_waits_and_stays_in_the_ledger(tmp_path: Path) -> None:
    port = free_port()
    flush = '[flush]\ninterval = "1h"\n'
    both = f"{udp_listener(port)}{file_output('one')}{file_output('two')}{flush}"
    with AgentProcess(tmp_path, both) as agent:
        send_udp(port, b"m v=1 1")
        agent.wait_for(lambda status: output(status, "two")["waiting"] == 1)
        assert agent.reload(f"{udp_listener(port)}{file_output('one')}{flush}")["applied"]
        status = agent.wait_for(lambda status: output(status, "two")["delivered"] == 1)
        assert_balanced(status)
        wait_until(
            lambda: [ring.name for ring in (tmp_path / "run" / "rings").iterdir()] == ["one.0.ring"], 10
        )
        wait_until(lambda: "two.0" not in Path(f"/proc/{agent.pid}/maps").read_text(), 10, "memory is freed")
        send_udp(port, b"m v=2 2")
        agent.wait_for(lambda status: output(status, "one")["waiting"] == 2)
        # It comes back under its name, with its counters.
        assert agent.reload(both)["applied"]
        send_udp(port, b"m v=3 3")
        status = agent.wait_for(lambda status: output(status, "two")["waiting"] == 1)
        assert output(status, "two")["delivered"] == 1
        assert_balanced(status)
        assert agent.stop() == EXIT_OK
        assert delivered_lines(tmp_path / "one") == [b"m v=1 1", b"m v=2 2", b"m v=3 3"]
        assert delivered_lines(tmp_path / "two") == [b"m v=1 1", b"m v=3 3"]


def test_a_new_interval_sends_what_waited_for_the_old_one(tmp_path: Path) -> None:
    port = free_port()
    config = f'{udp_listener(port)}{file_output("out")}[flush]\ninterval = "1h"\n'
    with AgentProcess(tmp_path, config) as agent:
        send_udp(port, b"m v=1 1")
        agent.wait_for(lambda status: output(status, "out")["waiting"] == 1)
        assert agent.reload(config.replace('"1h"', '"10ms"'))["applied"]
        agent.wait_for(lambda status: output(status, "out")["delivered"] == 1)


def test_tags_and_precision_change_for_what_comes_afterwards(tmp_path: Path) -> None:
    port = free_port()

    def config(tag: str, precision: str) -> str:
        return f"""
            [agent]
            admin = ""
            tags = {{ dc = "{tag}" }}
            {udp_listener(port)}
            precision = "{precision}"
            {file_output("out")}
        """

    with AgentProcess(tmp_path, config("eu1", "ns")) as agent:
        kept = udp_inodes(port)
        send_udp(port, b"m v=1 1")
        agent.wait_for(lambda status: listener(status, "udp")["accepted"] == 1)
        assert agent.reload(config("us2", "s"))["changes"] == [
            "agent.tags: {'dc': 'eu1'} → {'dc': 'us2'}",
            "listen[udp].precision: 'ns' → 's'",
        ]
        assert udp_inodes(port) == kept
        send_udp(port, b"m v=2 2")
        agent.wait_for(lambda status: listener(status, "udp")["accepted"] == 2)
        assert agent.stop() == EXIT_OK
        assert delivered_lines(tmp_path / "out") == [b"m,dc=eu1 v=1 1", b"m,dc=us2 v=2 2000000000"]


def test_mode_of_a_unix_socket_changes_in_place(tmp_path: Path) -> None:
    def config(mode: str) -> str:
        return f'[[listen]]\naddress = "unixgram://{{folder}}/sock"\nmode = "{mode}"\n{file_output("out")}'

    path = tmp_path / "sock"
    with AgentProcess(tmp_path, config("0600")) as agent:
        inode = path.stat().st_ino
        assert agent.reload(config("0622"))["applied"]
        assert (path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)) == (inode, 0o622)
        # A reload that fails elsewhere takes the mode back.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            bad = config("0666") + udp_listener(taken.getsockname()[1])
            assert not agent.reload(bad)["applied"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o622
        send_unixgram(path, b"m v=1")
        agent.wait_for(lambda status: total(status, "received") == 1)


def test_a_removed_listener_is_read_empty_and_closed(tmp_path: Path) -> None:
    port, gone = free_port(), free_port()
    config = f"{udp_listener(port)}{udp_listener(gone, 'gone')}{file_output('out')}"
    with AgentProcess(tmp_path, config) as agent:
        agent.write_config(f"{udp_listener(port)}{file_output('out')}")
        # While it stands still, the queue fills and the order to reload is given.
        agent.signal(signal.SIGSTOP)
        send_udp(gone, *[b"m v=1 %d" % at for at in range(1, 201)])
        agent.signal(signal.SIGHUP)
        agent.signal(signal.SIGCONT)
        agent.wait_notified("READY", 2)
        status = agent.wait_for(at_rest)
        assert listener(status, "gone")["received"] == 200
        assert listener(status, "gone")["sockets"] == 0
        assert udp_inodes(gone) == set()
        assert_balanced(status)
        # The port is free for another name.
        assert agent.reload(config.replace('"gone"', '"new"'))["applied"]
        send_udp(gone, b"m v=1")
        agent.wait_for(lambda status: listener(status, "new")["received"] == 1)


def test_the_admin_address_moves(tmp_path: Path) -> None:
    first, second = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)

    def config(admin: str) -> str:
        return f'[agent]\nadmin = "{admin}"\n{udp_listener(free_port())}{file_output("out")}'

    def answers(port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                return connection.recv(4096).startswith(b"HTTP/1.0 200")
        except ConnectionRefusedError:
            return False

    with AgentProcess(tmp_path, config(f"127.0.0.1:{first}")) as agent:
        assert answers(first)
        assert agent.reload(config(f"127.0.0.1:{second}"))["applied"]
        assert (answers(first), answers(second)) == (False, True)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            result = agent.reload(config(f"127.0.0.1:{taken.getsockname()[1]}"))
            assert "agent.admin: cannot listen" in result["problems"][0]
        assert answers(second)
        # The same port at another host.
        for host in ("0.0.0.0", "127.0.0.1"):
            assert agent.reload(config(f"{host}:{second}"))["applied"]
            assert answers(second)
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", second))
        assert agent.reload(config(""))["applied"]
        assert not answers(second)


def test_who_is_answered_at_the_admin_address_changes_with_a_reload(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    listening = f"{udp_listener(free_port())}{file_output('out')}"
    warning = "the admin address can be reached from other machines, and asks for no token"

    def config(keys: str, host: str = "127.0.0.1") -> str:
        return f'[agent]\nadmin = "{host}:0"\n{keys}\n{listening}'

    def tls(name: str) -> str:
        return (
            f'admin_token = "s3cret"\nadmin_cert = "{tmp_path / "our.pem"}"\nadmin_key = "{tmp_path / name}"'
        )

    with AgentProcess(tmp_path, config("", "0.0.0.0")) as agent:
        port = int(agent.log("ready")[0]["admin"].rpartition(":")[2])
        shown, known = (
            Credentials("s3cret", str(tmp_path / "ca.pem")),
            Credentials("", str(tmp_path / "ca.pem")),
        )
        assert len(agent.log(warning)) == 1
        assert agent.reload(config('admin_token = "s3cret"', "0.0.0.0"))["applied"]
        # The port is the same, though the kernel chose it.
        url = f"http://127.0.0.1:{port}"
        assert ask(url, "GET", "/api/status", 10.0)[0] == 401
        assert ask(url, "GET", "/api/status", 10.0, shown)[0] == 200
        assert len(agent.log(warning)) == 1

        # TLS from the next reload on, and another certificate from the one after it.
        url = f"https://127.0.0.1:{port}"
        shutil.copy(tmp_path / "elsewhere.pem", tmp_path / "our.pem")
        assert agent.reload(config(tls("elsewhere.key"), "0.0.0.0"))["applied"]
        with pytest.raises(ControlError, match=r"not trusted.*IP address mismatch"):
            ask(url, "GET", "/api/status", 10.0, shown)
        shutil.copy(tmp_path / "server.pem", tmp_path / "our.pem")
        result = agent.reload()
        assert "agent.admin_cert: cannot be used" in result["problems"][0]
        assert agent.reload(config(tls("server.key"), "0.0.0.0"))["applied"]
        assert ask(url, "GET", "/api/status", 10.0, shown)[0] == 200
        assert ask(url, "GET", "/api/status", 10.0, known)[0] == 401
        assert "s3cret" not in agent.log_text()


def test_a_passed_socket_whose_listener_goes_and_comes_back_is_the_same(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as passed:
        passed.bind(("127.0.0.1", 0))
        port, other = passed.getsockname()[1], free_port()
        both = f"{udp_listener(port)}{udp_listener(other, 'other')}{file_output('out')}"
        with AgentProcess(tmp_path, both, pass_fds={"penstock.socket": passed}) as agent:
            assert agent.reload(f"{udp_listener(other, 'other')}{file_output('out')}")["applied"]
            assert agent.log("no listener wants a socket passed by systemd; it stays open unread")
            send_udp(port, b"m v=1")
            assert agent.reload(both)["applied"]
            send_udp(port, b"m v=2")
            status = agent.wait_for(lambda status: at_rest(status) and total(status, "received") == 2)
            assert_balanced(status)


def test_reloads_run_one_after_the_other_and_those_that_wait_are_one(tmp_path: Path) -> None:
    config = f"{udp_listener(free_port())}{file_output('out')}"
    with AgentProcess(tmp_path, config) as agent:
        results: list[dict[str, Any]] = []
        threads = [threading.Thread(target=lambda: results.append(agent.reload())) for _ in range(20)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            agent.signal(signal.SIGHUP)
        for thread in threads:
            thread.join()
        assert len(results) == 20
        assert all(result["applied"] for result in results)
        assert 1 < agent.status()["reload"]["applied"] < 41
        # Those that the signals asked for may still be under way, but not beyond the end.
        assert agent.stop() == EXIT_OK
        agent.wait_notified("STOPPING")
        *kinds, last = (next(iter(message)) for message in agent.notifications)
        assert last == "STOPPING"
        assert kinds == ["READY", *["RELOADING", "READY"] * (len(kinds) // 2)]


# ---- bad configurations ----


def _syntax(config: str, port: int) -> str:
    return config + "\n[flush\n"


def _unknown_key(config: str, port: int) -> str:
    return config + "\n[flush]\nintervall = 1\n"


def _port_taken(config: str, port: int) -> str:
    return config + udp_listener(port, "other")


def _secret(config: str, port: int) -> str:
    return config.replace('path = "{folder}', 'path = "${file:{folder}/none}')


def _lanes(config: str, port: int) -> str:
    return f'[agent]\nadmin = ""\nlanes = 3\n{config}'


def _folder(config: str, port: int) -> str:
    return config.replace("{folder}/out", "/proc/none")


@pytest.mark.parametrize(
    ("spoil", "path", "reason"),
    [
        (_syntax, "penstock.toml", ""),
        (_unknown_key, "flush.intervall", "did you mean 'interval'?"),
        (_port_taken, "listen[1].address", "another process has it"),
        (_secret, "output[0].path", "none"),
        (_lanes, "agent.lanes", "takes a restart"),
        (_folder, "output[0]", "/proc/none"),
    ],
    ids=["syntax", "unknown-key", "port-taken", "secret", "lanes", "folder"],
)
def test_a_bad_config_changes_nothing_and_says_why(
    tmp_path: Path, spoil: Callable[[str, int], str], path: str, reason: str
) -> None:
    port = free_port()
    config = f"{udp_listener(port)}{file_output('out')}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken, AgentProcess(tmp_path, config) as agent:
        taken.bind(("127.0.0.1", 0))
        kept = udp_inodes(port)
        agent.write_config(spoil(config, taken.getsockname()[1]))
        command = agent.command("reload", "--wait")
        assert (command.returncode, command.stdout) == (EXIT_FAILURE, "")
        assert agent.status()["reload"]["refused"] == 1
        result = agent.reload()
        assert result["applied"] is False
        [problem] = result["problems"]
        assert path in problem
        assert reason in problem
        assert problem in command.stderr
        # Wherever somebody may look, the reason stands.
        last = agent.status()["reload"]
        assert (last["refused"], last["last"]["applied"], last["last"]["problems"]) == (2, False, [problem])
        assert agent.log("reload refused, the old configuration runs on")[0]["problem"] == problem
        wait_until(lambda: any(problem in told.get("STATUS", "") for told in agent.notifications))
        assert 'penstock_reloads_total{result="refused"} 2.0' in agent.metrics()
        # And the agent runs on.
        assert agent.status()["state"] == "running"
        assert agent.request("GET", "/readyz")[0] == 200
        assert udp_inodes(port) == kept
        assert [ring.name for ring in (tmp_path / "run" / "rings").iterdir()] == ["out.0.ring"]
        send_udp(port, b"m v=1 1")
        agent.wait_for(lambda status: output(status, "out")["delivered"] == 1)
        # A good config is taken afterwards.
        agent.write_config(config.replace('"udp"', '"renamed"'))
        command = agent.command("reload", "--wait")
        assert (command.returncode, command.stderr) == (EXIT_OK, "")
        assert "renamed" in command.stdout
        send_udp(port, b"m v=2 2")
        status = agent.wait_for(
            lambda status: at_rest(status) and listener(status, "renamed")["received"] == 1
        )
        assert_balanced(status)
        assert agent.stop() == EXIT_OK
        assert delivered_lines(tmp_path / "out") == [b"m v=1 1", b"m v=2 2"]


def test_a_limit_of_descriptors_refuses_a_reload_and_leaves_none_open(tmp_path: Path) -> None:
    port = free_port()
    config = f"{udp_listener(port)}{file_output('out')}"
    more = "".join(udp_listener(free_port(), f"more-{number}") for number in range(8))
    with AgentProcess(tmp_path, config) as agent:
        assert agent.reload()["applied"]
        before = len(open_files(agent.pid))
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (before + 4, before + 4))
        problems = agent.reload(config + more)["problems"]
        assert "listen[8]: cannot be opened: Too many open files" in problems
        wait_until(lambda: len(open_files(agent.pid)) <= before)
        send_udp(port, b"m v=1")
        assert_balanced(agent.wait_for(lambda status: output(status, "out")["delivered"] == 1))


def test_under_load_a_refused_reload_costs_nothing(tmp_path: Path) -> None:
    port = free_port()
    config = f"{udp_listener(port)}{file_output('out')}"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken,
        AgentProcess(tmp_path, config) as agent,
        load(port, 50_000) as sender,
    ):
        taken.bind(("127.0.0.1", 0))
        # Everything before the taken port is prepared, and has to be undone.
        bad = (
            f'{udp_listener(port, "renamed")}precision = "s"\n{udp_listener(free_port(), "new")}'
            f"{udp_listener(taken.getsockname()[1], 'bad')}{file_output('other')}"
        )
        wait_more(agent, 5_000)
        before = len(open_files(agent.pid))
        for _ in range(5):
            wait_more(agent, 5_000)
            assert not agent.reload(bad)["applied"]
        # Connections that were asked on may take a moment to go; what a reload leaves open would stay.
        wait_until(lambda: len(open_files(agent.pid)) <= before, what="nothing stays open")
        sent = sender.finish()
        status = agent.wait_for(
            lambda status: listener(status, "udp")["received"] == sent and at_rest(status)
        )
        assert_balanced(status)
        assert [one["name"] for one in status["listeners"]] == ["udp"]
        assert [one["name"] for one in status["outputs"]] == ["out"]
        assert output(status, "out")["delivered"] == sent


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    config = f"{udp_listener(free_port())}{file_output('out')}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken, AgentProcess(tmp_path, config) as agent:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        bad = (
            f'{udp_listener(port, "a")}[[listen]]\naddress = "unixgram:///proc/none/sock"\n'
            f"{file_output('out').replace('{folder}', '/proc')}"
        )
        problems = agent.reload(bad)["problems"]
        assert [problem.split(":")[0] for problem in problems] == [
            "listen[0].address",
            "listen[1].address",
            "output[0]",
        ]
