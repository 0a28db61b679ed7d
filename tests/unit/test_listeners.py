"""Sockets: bound, adopted from systemd, shared between lanes, handed over between addresses, closed."""

import contextlib
import errno
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.config import Listen
from agent.errors import ListenError
from agent.listeners import (
    BoundSocket,
    Pool,
    close_sockets,
    endpoint,
    fit_receive_buffer,
    open_sockets,
    set_file_access,
)
from agent.systemd import PassedSocket
from tests.conftest import missing

Opener = Callable[..., list[BoundSocket]]


@pytest.fixture
def opened() -> Iterator[Opener]:
    """`open_sockets`, which closes what it opened when the test ends."""
    everything: list[BoundSocket] = []

    def opener(
        listen: Listen | str, lanes: int = 1, pool: Pool | None = None, own: list[BoundSocket] | None = None
    ) -> list[BoundSocket]:
        listen = Listen(address=listen) if isinstance(listen, str) else listen
        sockets = open_sockets(listen, lanes, pool or Pool(), own or [])
        everything.extend(sockets)
        return sockets

    yield opener
    for one in everything:
        if one.fd >= 0:
            one.close()


def udp(port: int, host: str = "127.0.0.1", **settings: object) -> Listen:
    return Listen(address=f"udp://{host}:{port}", **settings)  # type: ignore[arg-type]


def port_of(one: BoundSocket) -> int:
    return int(one.sock.getsockname()[1])


def received(one: BoundSocket) -> list[bytes]:
    """All that waits in the socket's queue."""
    datagrams = []
    one.sock.setblocking(False)
    while True:
        try:
            datagrams.append(one.sock.recv(4096))
        except BlockingIOError:
            return datagrams


def send(port: int, *datagrams: bytes, host: str = "127.0.0.1") -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for datagram in datagrams:
        # A new socket each time: a new source port, so that a group spreads them.
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.sendto(datagram, (host, port))


def passed(
    family: int, bind: object, name: str, kind: int = socket.SOCK_DGRAM, **options: int
) -> PassedSocket:
    sock = socket.socket(family, kind)
    for option, value in options.items():
        level = socket.IPPROTO_IPV6 if option.startswith("IPV6") else socket.SOL_SOCKET
        sock.setsockopt(level, getattr(socket, option), value)
    sock.bind(bind)  # type: ignore[arg-type]
    return PassedSocket(sock.detach(), name)


# ---- UDP ----


def test_a_udp_socket_receives(opened: Opener) -> None:
    [one] = opened("udp://127.0.0.1:0")
    send(port_of(one), b"m v=1")
    assert received(one) == [b"m v=1"]
    assert one.bound == f"udp://127.0.0.1:{port_of(one)}"
    assert not one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    assert os.get_inheritable(one.fd) is False


def test_ipv6_takes_ipv6_only(opened: Opener) -> None:
    try:
        [one] = opened("udp://[::]:0")
    except ListenError:
        missing("no IPv6")
    [four] = opened(udp(port_of(one), "0.0.0.0"))
    send(port_of(one), b"six", host="::1")
    send(port_of(one), b"four")
    assert received(one) == [b"six"]
    assert received(four) == [b"four"]
    assert one.bound == f"udp://[::]:{port_of(one)}"


def test_lanes_share_the_senders_of_a_port(opened: Opener) -> None:
    sockets = opened("udp://127.0.0.1:0", lanes=3)
    assert len({port_of(one) for one in sockets}) == 1
    send(port_of(sockets[0]), *[b"x"] * 200)
    counts = [len(received(one)) for one in sockets]
    assert sum(counts) == 200
    assert min(counts) > 0


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("reuse", [False, True])
def test_a_port_that_another_socket_has_is_an_error(opened: Opener, lanes: int, reuse: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        # Two agents of one user, both with several lanes, must not split the datagrams between them either.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(ListenError, match=rf"udp://127\.0\.0\.1:{port}: .*another process has it"):
            opened(udp(port), lanes=lanes)


def test_an_address_of_no_interface_is_an_error(opened: Opener) -> None:
    with pytest.raises(ListenError, match="no interface of this machine"):
        opened("udp://192.0.2.199:0")


def test_a_host_that_cannot_be_resolved_is_an_error() -> None:
    with pytest.raises(ListenError, match="cannot resolve"):
        endpoint("udp://no-such-host.invalid:8089")


def test_a_failed_open_leaves_nothing_open(opened: Opener) -> None:
    [one] = opened("udp://127.0.0.1:0")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ListenError):
        opened(udp(port_of(one)), lanes=4)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("old", "new"), [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1")])
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_port_is_handed_over_to_a_wider_or_narrower_address(
    opened: Opener, old: str, new: str, lanes: int
) -> None:
    before = opened(f"udp://{old}:0", lanes)
    port = port_of(before[0])
    send(port, *[b"early"] * 20)
    after = opened(udp(port, new), lanes, own=before)
    send(port, *[b"between"] * 20)
    for one in before:
        one.cut_off()
    send(port, *[b"late"] * 20)
    # Whichever of the two got what came between: nothing is lost, and nothing new comes to the old one.
    left = [datagram for one in before for datagram in received(one)]
    right = [datagram for one in after for datagram in received(one)]
    assert left.count(b"early") == 20
    assert left.count(b"late") == 0
    assert right.count(b"late") == 20
    assert left.count(b"between") + right.count(b"between") == 20
    # Nobody else can join in once it is over.
    close_sockets(before, Pool())
    with pytest.raises(ListenError):
        opened(udp(port, new), lanes)


def test_a_socket_that_is_cut_off_can_still_be_read(opened: Opener, tmp_path: Path) -> None:
    [inet] = opened("udp://0.0.0.0:0")
    port = port_of(inet)
    send(port, b"a")
    inet.cut_off()
    send(port, b"b")
    assert received(inet) == [b"a"]
    [unix] = opened(f"unixgram://{tmp_path}/s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(f"{tmp_path}/s")
        sender.send(b"a")
        unix.cut_off()
        with pytest.raises(BrokenPipeError):
            sender.send(b"b")
    assert received(unix) == [b"a"]


# ---- receive buffer ----


def test_the_receive_buffer_is_set(opened: Opener) -> None:
    [one] = opened(udp(0, receive_buffer=128 << 10))
    assert one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 256 << 10
    fit_receive_buffer(udp(0, receive_buffer=64 << 10), [one])
    assert one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 128 << 10


def test_a_smaller_buffer_than_wanted_is_told(
    opened: Opener, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As for a user without CAP_NET_ADMIN.
    monkeypatch.setattr("agent.listeners._SO_RCVBUFFORCE", socket.SO_RCVBUF)
    with open("/proc/sys/net/core/rmem_max") as file:
        limit = int(file.read())
    with caplog.at_level(logging.WARNING, "agent.listeners"):
        opened(udp(0, receive_buffer=limit * 2, name="mine"))
    [record] = caplog.records
    assert vars(record)["listener"] == "mine"
    assert vars(record)["wanted_bytes"] == limit * 2
    assert vars(record)["got_bytes"] == limit
    assert f"net.core.rmem_max={limit * 2}" in vars(record)["remedy"]


# ---- unixgram ----


def test_a_unix_socket_has_the_configured_mode_whatever_the_umask(opened: Opener, tmp_path: Path) -> None:
    for umask, mode in ((0o000, "0600"), (0o077, "0666"), (0o022, "660")):
        path = tmp_path / mode
        former = os.umask(umask)
        try:
            [one] = opened(Listen(address=f"unixgram://{path}", mode=mode))
        finally:
            os.umask(former)
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
        one.close()
        assert not path.exists()


def test_a_unix_socket_is_never_more_open_than_configured(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    chmod = os.chmod

    def look(path: str, mode: int) -> None:
        seen.append(stat.S_IMODE(os.stat(path).st_mode))
        chmod(path, mode)

    monkeypatch.setattr(os, "chmod", look)
    former = os.umask(0)
    try:
        opened(Listen(address=f"unixgram://{tmp_path}/s", mode="0640"))
    finally:
        os.umask(former)
    assert seen == [0o600]


@pytest.mark.needs("root")
def test_a_unix_socket_has_the_configured_owner(opened: Opener, tmp_path: Path) -> None:
    path = tmp_path / "s"
    listen = Listen(address=f"unixgram://{path}", owner="1234:daemon")
    [one] = opened(listen)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1)
    set_file_access(Listen(address=f"unixgram://{path}", owner=":0", mode="0622"), [one])
    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (1234, 0, 0o622)


def test_an_unknown_owner_is_an_error_and_leaves_no_file(opened: Opener, tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="no-such-user"):
        opened(Listen(address=f"unixgram://{tmp_path}/s", owner="no-such-user:"))
    assert list(tmp_path.iterdir()) == []


def test_a_stale_socket_file_is_replaced(opened: Opener, tmp_path: Path) -> None:
    path = tmp_path / "s"
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as dead:
            dead.bind(str(path))
        assert path.exists()
        [one] = opened(f"unixgram://{path}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"m v=1", str(path))
        assert received(one) == [b"m v=1"]
        one.close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_live_socket_file_is_an_error_and_stays(opened: Opener, tmp_path: Path, kind: int) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, kind) as live:
        live.bind(str(path))
        if kind != socket.SOCK_DGRAM:
            live.listen()
        inode = path.stat().st_ino
        with pytest.raises(ListenError, match="another process listens there"):
            opened(f"unixgram://{path}")
        assert path.stat().st_ino == inode


def test_a_file_that_is_no_socket_is_an_error_and_stays(opened: Opener, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ListenError, match="no socket is there"):
        opened(f"unixgram://{path}")
    assert path.read_text() == "precious"


def test_a_missing_folder_is_an_error(opened: Opener, tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="the folder must exist"):
        opened(f"unixgram://{tmp_path}/none/s")


def test_close_does_not_remove_the_file_of_a_successor(opened: Opener, tmp_path: Path) -> None:
    path = tmp_path / "s"
    [one] = opened(f"unixgram://{path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as successor:
        successor.bind(str(path))
        one.close()
        assert path.exists()


# ---- sockets passed by systemd ----


def test_a_passed_socket_is_matched_by_address(opened: Opener, tmp_path: Path) -> None:
    inet = passed(socket.AF_INET, ("127.0.0.1", 0), "penstock.socket")
    unix = passed(socket.AF_UNIX, f"{tmp_path}/s", "penstock.socket")
    pool = Pool.adopt([inet, unix])
    port = port_of(pool.sockets[0])
    [one] = opened(udp(port), pool=pool)
    assert one.fd == inet.fd
    [two] = opened(f"unixgram://{tmp_path}/s", pool=pool)
    assert two.fd == unix.fd
    assert pool.sockets == []
    # The file is systemd's.
    two.close()
    assert (tmp_path / "s").exists()


def test_a_passed_socket_is_matched_by_name(opened: Opener) -> None:
    one, other = (passed(socket.AF_INET, ("127.0.0.1", 0), name) for name in ("one", "other"))
    pool = Pool.adopt([one, other])
    [found] = opened(udp(9, name="other"), pool=pool)
    assert found.fd == other.fd
    pool.close()


def test_a_passed_socket_of_the_right_name_and_the_wrong_kind_is_an_error(opened: Opener) -> None:
    stream = passed(socket.AF_INET, ("127.0.0.1", 0), "metrics", socket.SOCK_STREAM)
    pool = Pool.adopt([stream])
    with pytest.raises(ListenError, match="ListenDatagram="):
        opened(udp(0, name="metrics"), pool=pool)
    assert len(pool.sockets) == 1
    pool.close()


def test_the_sockets_of_a_unit_have_one_name_and_each_listener_takes_those_of_its_kind(
    opened: Opener, tmp_path: Path
) -> None:
    unix = passed(socket.AF_UNIX, f"{tmp_path}/s", "line")
    inet = passed(socket.AF_INET, ("127.0.0.1", 0), "line")
    pool = Pool.adopt([unix, inet])
    [one] = opened(udp(9, name="line"), pool=pool)
    assert one.fd == inet.fd
    [two] = opened(f"unixgram://{tmp_path}/s", pool=pool)
    assert two.fd == unix.fd


def test_several_passed_sockets_of_one_address_serve_one_listener(opened: Opener) -> None:
    first = passed(socket.AF_INET, ("127.0.0.1", 0), "penstock.socket", SO_REUSEPORT=1)
    with socket.socket(fileno=os.dup(first.fd)) as known:
        address = known.getsockname()
    rest = [passed(socket.AF_INET, address, "penstock.socket", SO_REUSEPORT=1) for _ in range(3)]
    pool = Pool.adopt([first, *rest])
    sockets = opened(udp(address[1]), lanes=2, pool=pool)
    assert [one.fd for one in sockets] == [first.fd, *(one.fd for one in rest)]


def test_a_passed_wildcard_that_takes_both_families_serves_an_ipv4_listener(opened: Opener) -> None:
    if not socket.has_dualstack_ipv6():
        missing("no IPv6")
    both = passed(socket.AF_INET6, ("::", 0), "penstock.socket", IPV6_V6ONLY=0)
    pool = Pool.adopt([both])
    [one] = opened(udp(port_of(pool.sockets[0]), "0.0.0.0"), pool=pool)
    assert one.fd == both.fd


def test_a_passed_buffer_is_never_made_smaller(opened: Opener) -> None:
    pool = Pool.adopt([passed(socket.AF_INET, ("127.0.0.1", 0), "metrics", SO_RCVBUF=200 << 10)])
    [one] = opened(udp(0, name="metrics", receive_buffer=100 << 10), pool=pool)
    assert one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 400 << 10


def test_a_passed_socket_comes_back_when_its_listener_goes(opened: Opener) -> None:
    pool = Pool.adopt([passed(socket.AF_INET, ("127.0.0.1", 0), "metrics")])
    sockets = opened(udp(0, name="metrics"), pool=pool)
    sockets[0].cut_off()
    close_sockets(sockets, pool)
    assert opened(udp(0, name="metrics"), pool=pool) == sockets
    # Cutting it off would have cut off the agent that systemd starts next, too.
    send(port_of(sockets[0]), b"x")
    assert received(sockets[0]) == [b"x"]


def test_an_unwanted_socket_is_told_and_stays_open(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool.adopt([passed(socket.AF_INET, ("127.0.0.1", 0), "spare")])
    with caplog.at_level(logging.WARNING, "agent.listeners"):
        pool.warn()
    [record] = caplog.records
    assert vars(record)["fd_name"] == "spare"
    [one] = pool.sockets
    send(port_of(one), b"x")
    assert received(one) == [b"x"]
    pool.close()
    assert one.fd == -1


def test_what_is_passed_and_no_socket_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    assert Pool.adopt([PassedSocket(fd, "folder")]).sockets == []
    with pytest.raises(OSError) as caught:
        os.fstat(fd)
    assert caught.value.errno == errno.EBADF
    assert "no socket" in caplog.text


def test_two_agents_that_start_at_once_do_not_both_get_a_path(tmp_path: Path) -> None:
    outcomes: list[object] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        try:
            outcomes.extend(open_sockets(Listen(address=f"unixgram://{tmp_path}/s"), 1, Pool()))
        except ListenError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [one for one in outcomes if isinstance(one, BoundSocket)]
    assert len(winners) == 1
    winners[0].close()


# ---- streams ----


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), 5)


def test_a_tcp_socket_listens(opened: Opener) -> None:
    [one] = opened("tcp://127.0.0.1:0")
    assert one.bound == f"tcp://127.0.0.1:{port_of(one)}"
    assert one.stream and not one.sock.getblocking()
    with connect(port_of(one)), one.sock.accept()[0] as accepted:
        # A peer that vanishes is noticed, whatever the listener's idle_timeout is.
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_lanes_share_the_connections_of_a_port(opened: Opener) -> None:
    sockets = opened("tcp://127.0.0.1:0", lanes=2)
    clients = [connect(port_of(sockets[0])) for _ in range(50)]
    counts = []
    for one in sockets:
        counts.append(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                one.sock.accept()[0].close()
                counts[-1] += 1
    for client in clients:
        client.close()
    assert sum(counts) == 50 and min(counts) > 0


def test_tcp_and_udp_may_have_one_port(opened: Opener) -> None:
    [one] = opened("tcp://127.0.0.1:0")
    opened(udp(port_of(one)))
    with pytest.raises(ListenError, match="another process has it"):
        opened(f"tcp://127.0.0.1:{port_of(one)}")


def test_a_port_with_lingering_connections_is_bound_again(opened: Opener) -> None:
    [one] = opened("tcp://127.0.0.1:0")
    port = port_of(one)
    with connect(port) as client:
        accepted, _ = one.sock.accept()
        accepted.close()  # first, so that the port's side is the one that lingers
        assert client.recv(1) == b""
    one.close()
    opened(f"tcp://127.0.0.1:{port}")


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_a_stream_that_is_cut_off_gives_what_waits_and_takes_nobody(
    opened: Opener, tmp_path: Path, scheme: str
) -> None:
    [one] = opened("tcp://127.0.0.1:0" if scheme == "tcp" else f"unix://{tmp_path}/s")
    where = one.sock.getsockname()
    family = one.sock.family
    with socket.socket(family) as early, socket.socket(family) as late:
        early.connect(where)
        early.sendall(b"m v=1\n")
        one.cut_off()
        late.settimeout(0.3)
        with pytest.raises(OSError):  # a timeout, or refused
            late.connect(where)
        accepted, _ = one.sock.accept()
        with accepted:
            assert accepted.recv(100) == b"m v=1\n"
        with pytest.raises(OSError):
            one.sock.accept()


def test_a_unix_stream_has_the_configured_mode_and_replaces_what_is_stale(
    opened: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as dead:
            dead.bind(str(path))
        [one] = opened(Listen(address=f"unix://{path}", mode="0640"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert one.bound == f"unix://{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        with pytest.raises(ListenError, match="another process listens there"):
            opened(f"unix://{path}")
        one.close()
        assert not path.exists()


def test_passed_streams_are_matched_by_their_kind(opened: Opener, tmp_path: Path) -> None:
    stream = passed(socket.AF_INET, ("127.0.0.1", 0), "line", socket.SOCK_STREAM)
    datagram = passed(socket.AF_INET, ("127.0.0.1", 0), "line")
    pool = Pool.adopt([stream, datagram])
    port = port_of(pool.sockets[0])
    [one] = opened(Listen(address=f"tcp://127.0.0.1:{port}", name="line"), pool=pool)
    assert one.fd == stream.fd
    with pytest.raises(ListenError, match=r"ListenStream= in the \.socket unit"):
        opened(Listen(address=f"unix://{tmp_path}/s", name="line"), pool=pool)
    pool.close()
