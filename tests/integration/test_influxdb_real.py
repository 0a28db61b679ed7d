"""The verdicts on what real servers answer: InfluxDB 1 as version 1, VictoriaMetrics as versions 1 and 2."""

import threading
import time

import pytest

from agent._core import Ring, Waker
from agent.config import InfluxOutput
from agent.delivery.delivery import Delivery
from agent.outputs import make
from agent.outputs.base import Kind
from tests.conftest import wait_until
from tests.integration.servers import influxd, victoria_metrics


def deliver(server, database, body, **settings):
    """Deliver the lines of *body* (one each) to InfluxDB 1; the counters."""
    output = make(config(server, database, **settings))
    delivery = Delivery(output)
    ring = Ring(None, 8 << 20, Waker(), encoding="lp_signed")
    ring.put(body, body.count(b"\n"))
    delivery.deliver(delivery.live(ring.take(1 << 30, 1 << 30, True)))
    output.close()
    counters, stats = delivery.counters, ring.stats()
    assert stats["waiting"] == 0 and stats["written"] == counters.delivered + counters.rejected
    return counters


def config(server, database, **settings):
    defaults = {"version": 1, "retry_min": 0.001, "retry_max": 0.01}
    return InfluxOutput(name="influx", url=server.url, database=database, **{**defaults, **settings})


def post(output, body, metrics=1):
    """One attempt."""
    return output.post(output.encode(memoryview(body), metrics))


def stored(server, database):
    series = server.query("SELECT count(f) FROM m", database)
    return series[0]["values"][0][1] if series else 0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with influxd(tmp_path_factory.mktemp("influxd"), settings={"http": {"max-body-size": 20_000}}) as server:
        yield server


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_lines_arrive(server, compression):
    database = server.create_database()
    body = b"".join(b"m,t=v f=%di %d\n" % (n, n + 1) for n in range(700))
    counters = deliver(server, database, body, compression=compression)
    assert (counters.delivered, counters.requests) == (700, {"2xx": 1})
    assert stored(server, database) == 700


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_body_over_its_limit_is_halved(server, compression):
    """With gzip the limit is that of the compressed body."""
    database = server.create_database()
    body = b"".join(b'm,t=v f=1,s="%0200x" %d\n' % (hash((n, n)) ** 9, n + 1) for n in range(500))
    counters = deliver(server, database, body, compression=compression)
    assert counters.delivered == 500 and counters.splits > 0 and stored(server, database) == 500


def test_one_line_over_its_limit_is_rejected(server):
    database = server.create_database()
    body = b"m f=1 1\n" + b'm f=1,s="%s" 2\n' % (b"x" * 30_000) + b"m f=1 3\n"
    counters = deliver(server, database, body)
    assert (counters.delivered, counters.rejected) == (2, 1) and stored(server, database) == 2


def test_a_conflict_of_types_costs_the_lines_in_conflict_only(server):
    database = server.create_database()
    assert server.write(database, b"m f=1 1\n").status == 204
    lines = [b'm f="x" %d\n' % n if n % 10 == 0 else b"m f=2 %d\n" % n for n in range(2, 102)]
    counters = deliver(server, database, b"".join(lines))
    assert (counters.delivered, counters.rejected) == (90, 10)
    assert stored(server, database) == 91


def test_lines_that_it_cannot_parse_are_counted_from_its_answer(server):
    """We never write such lines; a later version may refuse more than this one."""
    database = server.create_database()
    lines = [b"m f=%s %d\n" % (b"1x" if n % 10 == 0 else b"2", n) for n in range(1, 101)]
    counters = deliver(server, database, b"".join(lines))
    assert (counters.delivered, counters.rejected, counters.attempts) == (90, 10, 1)
    assert stored(server, database) == 90


def test_a_body_of_which_it_can_parse_nothing_is_rejected(server):
    counters = deliver(server, server.create_database(), b"m f=1x 1\nm f=1y 2\n")
    assert (counters.delivered, counters.rejected, counters.attempts) == (0, 2, 1)


def test_points_older_than_the_retention_are_rejected(server):
    database = server.create_database()
    server.query(f'CREATE RETENTION POLICY "short" ON "{database}" DURATION 1h REPLICATION 1')
    now = time.time_ns()
    lines = [b"m f=1 %d\n" % (now - (10**13 if n < 3 else 0) + n) for n in range(10)]
    counters = deliver(server, database, b"".join(lines), retention_policy="short")
    assert (counters.delivered, counters.rejected) == (7, 3)


def test_a_database_that_is_not_there_is_waited_for(server):
    name = "made_later"
    output = make(config(server, name, retry_max=0.05))
    delivery = Delivery(output)
    ring = Ring(None, 1 << 20, Waker(), encoding="lp_signed")
    ring.put(b"m f=1 1\n", 1)
    thread = threading.Thread(target=delivery.deliver, args=(delivery.live(ring.take(1 << 20, 10, True)),))
    thread.start()
    wait_until(lambda: delivery.health.state == "holding")
    assert "database not found" in delivery.health.last_error
    server.query(f'CREATE DATABASE "{name}"')
    thread.join(10)
    assert delivery.counters.delivered == 1 and stored(server, name) == 1
    output.close()


def test_a_restart_of_the_server_costs_nothing_but_time(tmp_path):
    with influxd(tmp_path) as server:
        database = server.create_database()
        output = make(config(server, database, retry_max=0.05))
        delivery = Delivery(output)
        ring = Ring(None, 1 << 20, Waker(), encoding="lp_signed")

        def deliver_one(n):
            ring.put(b"m f=1 %d\n" % n, 1)
            delivery.deliver(delivery.live(ring.take(1 << 20, 10, True)))

        deliver_one(1)
        server.stop()
        thread = threading.Thread(target=deliver_one, args=(2,))
        thread.start()
        wait_until(lambda: delivery.health.state == "retrying")
        server.start()
        thread.join(20)
        deliver_one(3)
        assert delivery.counters.delivered == 3 and stored(server, database) == 3
        output.close()


def test_a_login_is_asked_for_and_given(tmp_path):
    with influxd(tmp_path, settings={"http": {"auth-enabled": True}}) as server:
        admin = "CREATE USER admin WITH PASSWORD 'pa:ss' WITH ALL PRIVILEGES"
        assert server.request("POST", f"/query?q={admin.replace(' ', '+')}").status == 200
        body = b"m f=1 1\n"
        assert post(make(config(server, "db")), body, 1).status == 401
        assert post(make(config(server, "db", username="admin", password="no")), body, 1).status == 401
        verdict = post(make(config(server, "db", username="admin", password="pa:ss")), body, 1)
        assert (verdict.kind, verdict.status) == (Kind.HOLD, 404)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize(
    "identity", [{"version": 1, "database": "d"}, {"version": 2, "org": "o", "bucket": "b"}]
)
def test_victoria_metrics_takes_both(tmp_path, identity, compression):
    with victoria_metrics(tmp_path) as server:
        output = make(InfluxOutput(name="vm", url=server.url, compression=compression, **identity))
        body = b"m,t=v f=1.5 1700000000001000000\nm,t=v f=2u 1700000000002000000\n"
        verdict = post(output, body, 2)
        assert (verdict.kind, verdict.status) == (Kind.DELIVERED, 204)
        found = server.export('{__name__="m_f"}')
        assert found[0]["values"] == [1.5, 2] and found[0]["timestamps"] == [1700000000001, 1700000000002]
        output.close()
