"""An agent that publishes to NATS: the broker goes and comes back, and what a user sees of bad input."""

from pathlib import Path

import pytest

from agent.errors import EXIT_OK
from agent.relay.message import Message, parse
from tests.integration.agent_process import AgentProcess, assert_balanced, at_rest, output
from tests.integration.edge import HELD, REJECTED, assert_whole, decided, edge_config, lines, lines_of, send
from tests.integration.nats_server import NatsServer, nats_server

pytestmark = pytest.mark.needs("nats-server")

USERS = """
max_payload: 8KB
accounts {
  A: { jetstream: enabled, users: [
    { user: "test", password: "t" },
    { user: "reader", password: "r", permissions: { publish: { deny: ["metrics.>"] } } },
  ] }
}
"""

RIGHT = '{ user = "test", password = "t" }'


def config(server: NatsServer, subject: str = "metrics.{agent}", options: str = RIGHT, more: str = "") -> str:
    return edge_config(
        f'type = "nats"\nservers = ["{server.url}"]\nsubject = "{subject}"\noptions = {options}\n{more}\n'
    )


def found(server: NatsServer, stream: str = "metrics") -> list[Message]:
    return [parse(one.headers, one.data) for one in server.messages(stream)]


def test_a_broker_that_goes_and_comes_back(tmp_path: Path) -> None:
    """What is sent meanwhile is in the spool, and comes out of it; each batch is known by its place."""
    with nats_server(tmp_path) as server, AgentProcess(tmp_path, config(server, options="{}")) as agent:
        server.add_stream("metrics", "metrics.>")
        send(agent, lines(0, 100))
        agent.wait_for(lambda status: output(status, "stream")["delivered"] == 100)
        server.kill()
        send(agent, lines(100, 2000))
        agent.wait_for(lambda status: output(status, "stream")["spooled"] > 0)
        server.start()
        send(agent, lines(2100, 100))
        status = agent.wait_for(
            lambda status: output(status, "stream")["delivered"] == 2200 and at_rest(status)
        )
        assert_balanced(status)
        assert agent.stop() == EXIT_OK
        messages = found(server)
    assert sorted(lines_of(messages)) == sorted(lines(0, 2200))
    assert_whole(messages)


@pytest.mark.parametrize("how", ["gone", "frozen"])
def test_a_stop_while_the_broker_is_away_leaves_all_for_the_next_start(tmp_path: Path, how: str) -> None:
    with nats_server(tmp_path) as server:
        server.add_stream("metrics", "metrics.>")
        settings = config(server, options="{}").replace("[agent]", '[agent]\ndrain_timeout = "500ms"')
        with AgentProcess(tmp_path, settings) as agent:
            send(agent, lines(0, 100))
            agent.wait_for(lambda status: output(status, "stream")["delivered"] == 100)
            if how == "gone":
                server.kill()
            else:
                server.freeze()
            send(agent, lines(100, 200))
            agent.wait_for(lambda status: output(status, "stream")["written"] == 300)
            assert agent.stop() == EXIT_OK
            if how == "gone":
                server.start()
            else:
                server.thaw()
            agent.spawn()
            agent.wait_notified("READY", 2)
            status = agent.wait_for(
                lambda status: output(status, "stream")["delivered"] == 200 and at_rest(status)
            )
            assert_balanced(status)
        messages = found(server)
    # What was under way when it stopped is the same message once more.
    assert sorted(lines_of(messages)) == sorted(lines(0, 300))


def test_another_id_of_the_agent_is_in_the_messages_after_a_reload(tmp_path: Path) -> None:
    with nats_server(tmp_path) as server, AgentProcess(tmp_path, config(server, options="{}")) as agent:
        server.add_stream("metrics", "metrics.>")
        send(agent, lines(0, 10))
        agent.wait_for(lambda status: output(status, "stream")["delivered"] == 10)
        assert agent.reload(config(server, options="{}").replace("edge-1", "edge-2"))["applied"]
        send(agent, lines(10, 10))
        agent.wait_for(lambda status: output(status, "stream")["delivered"] == 20)
        messages = found(server)
    assert [(one.agent, one.payload.metrics) for one in messages] == [("edge-1", 10), ("edge-2", 10)]


# What is set, what the log and the status say, and where the lines are then: 10 that are good, and one that
# is larger than the broker takes where that is the point.
BAD = {
    "unknown subject": (
        {"subject": "nobody"},
        HELD,
        'no stream takes the subject "nobody": make one that does',
        {"spooled": 10},
    ),
    "another stream": (
        {"more": 'stream = "other"'},
        HELD,
        'another stream than "other" takes the subject "metrics.edge-1": expected stream does not match',
        {"spooled": 10},
    ),
    "no permission": (
        {"options": '{ user = "reader", password = "r" }'},
        HELD,
        'this user may not publish to "metrics.edge-1"',
        {"spooled": 10},
    ),
    "wrong credentials": (
        {"options": '{ user = "test", password = "wrong" }'},
        HELD,
        "the server refuses us: Authorization Violation",
        {"spooled": 10},
    ),
    "no credentials": (
        {"options": "{}"},
        HELD,
        "the server refuses us: Authorization Violation",
        {"spooled": 10},
    ),
    "message too large": (
        {},
        REJECTED,
        "bytes, and the server takes 8192",
        {"delivered": 10, "rejected": 1},
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_counted_and_kept(tmp_path: Path, case: str) -> None:
    settings, message, text, where = BAD[case]
    good = lines(0, 10)
    sent = [*good[:5], *lines(10, 1, 10_000), *good[5:]] if "rejected" in where else good
    with nats_server(tmp_path, USERS, user="test", password="t") as server:
        server.add_stream("metrics", "metrics.>")
        with AgentProcess(tmp_path, config(server, **settings)) as agent:
            send(agent, sent)
            status = agent.wait_for(
                lambda status: decided(agent, status, message, where),
                timeout=40,
                what=message,
            )
            assert_balanced(status)
            assert text in str(agent.log(message))
            ledger = output(status, "stream")
            assert not any(ledger[name] for name in {"delivered", "rejected", "spooled"} - set(where))
            assert not any(ledger["dropped"].values())
            if "rejected" in where:
                assert len(list((tmp_path / "state" / "rejected" / "stream").glob("*.lp*"))) == 1
            else:
                (state,) = status["outputs"]
                assert text in state["last_error"]
                # Mended, everything arrives.
                assert agent.reload(config(server))["applied"]
                status = agent.wait_for(lambda status: output(status, "stream")["delivered"] == 10)
                assert_balanced(status)
        assert sorted(lines_of(found(server))) == sorted(good)


def test_batches_larger_than_the_broker_takes_are_delivered_in_parts(tmp_path: Path) -> None:
    with nats_server(tmp_path, "max_payload: 8KB\n") as server:
        server.add_stream("metrics", "metrics.>")
        with AgentProcess(tmp_path, config(server, options="{}")) as agent:
            sent = lines(0, 500, 200)
            send(agent, sent)
            status = agent.wait_for(lambda status: output(status, "stream")["delivered"] == 500)
            assert_balanced(status)
        messages = found(server)
    assert sorted(lines_of(messages)) == sorted(sent)
    # Parts of one batch have its id, and an identity each.
    assert len({one.identity for one in messages}) == len(messages) > len({one.batch for one in messages})
    assert sum(one.payload.metrics for one in messages) == 500
