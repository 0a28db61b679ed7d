"""Addresses by a deadline, whatever the lookup of a name does."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.outputs.resolve import Resolver
from tests.conftest import wait_until

REAL = socket.getaddrinfo
FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]


def soon(seconds=10.0):
    return time.monotonic() + seconds


@pytest.fixture
def names(monkeypatch):
    """Lookups of names wait until they are let go; the list of those that have begun, and the gate."""
    begun, gate = [], threading.Event()

    def look_up(host, port, **options):
        if options.get("flags"):
            return REAL(host, port, **options)
        begun.append(host)
        assert gate.wait(20)
        if host == "wrong":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if host == "odd":
            raise RuntimeError("oops")
        return FOUND

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield begun, gate
    gate.set()
    wait_until(lambda: not any(thread.name == "resolve" for thread in threading.enumerate()))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_is_not_looked_up(names, host):
    begun, _ = names
    [(_, kind, _, _, address)] = Resolver().resolve(host, 8086, soon())
    assert kind is socket.SOCK_STREAM and address[:2] == (host, 8086) and not begun


def test_a_lookup_that_hangs_takes_no_longer_than_there_is_time(names):
    begun, gate = names
    resolver = Resolver()
    started = time.monotonic()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            resolver.resolve("host", 1, soon(0.1))
    assert 0.3 <= time.monotonic() - started < 2
    # They share one thread, and when it comes back, the next one asks anew.
    assert begun == ["host"]
    gate.set()
    assert resolver.resolve("host", 1, soon()) == FOUND


def test_a_lookup_can_be_given_up(names):
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(Resolver().resolve, "host", 1, soon(), stopped.is_set)
        wait_until(lambda: names[0])
        stopped.set()
        with pytest.raises(TimeoutError):
            future.result(5)


@pytest.mark.parametrize(("host", "kind"), [("wrong", socket.gaierror), ("odd", OSError)])
def test_whoever_waits_is_told_what_went_wrong(names, host, kind):
    begun, gate = names
    resolver = Resolver()
    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(resolver.resolve, host, 1, soon()) for _ in range(2)]
        wait_until(lambda: begun)
        gate.set()
        errors = [future.exception(10) for future in futures]
    assert all(type(error) is kind for error in errors) and errors[0] is not errors[1]


def test_what_cannot_be_a_name_is_an_error():
    with pytest.raises((UnicodeError, OSError)):
        Resolver().resolve("a" * 70 + ".b", 1, soon())
