"""A real systemd as PID 1 of a throw-away machine, for tests of the units: booted, asked, rebooted, gone.

    with SystemdContainer(folder) as machine:
        machine.boot()
        machine.systemctl("start", "penstock.socket")
        with machine.network():
            send_udp(8089, b"m v=1")

The machine's root is an overlay on this machine's "/", kept in memory, so whatever is installed here is
installed there, and nothing that happens there is seen here. It has a loopback of its own and no other
network. The units that are enabled here are not there: what starts at its boot is what the test enables.

What holds it together is one process, the *holder*: the mounts are in a mount namespace of its own, and when
this process ends, by whatever, it ends the machine and itself. Commands are run inside with nsenter, files
are reached through /proc, and sockets of the test itself are made in the machine's network by
:meth:`SystemdContainer.network`.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import pytest

from tests.conftest import missing, need, wait_until

ROOT_BYTES = "2G"
"""What the machine may write, at most; it is memory only as far as it is used."""

BOOT_SECONDS_MAX = 30.0
COMMAND_SECONDS_MAX = 60.0

_HOLD = """
mount -t tmpfs -o mode=0755,size={size} penstock-test "{folder}" &&
mkdir "{folder}/upper" "{folder}/work" "{folder}/root" &&
mount -t overlay -o "lowerdir=/,upperdir={folder}/upper,workdir={folder}/work" overlay "{folder}/root" &&
echo mounted &&
while read -r line; do cgroups=$line; done
[ -z "$cgroups" ] || while find $cgroups -name cgroup.procs -exec cat {{}} + 2>/dev/null | grep -q .; do
    find $cgroups -name cgroup.procs -exec cat {{}} + | xargs -r kill -KILL
done 2>/dev/null
[ -z "$cgroups" ] || find $cgroups -depth -type d -exec rmdir {{}} + 2>/dev/null
"""

# The machine has a cgroup of its own in each of the trees in which systemd keeps one.
_CGROUP_TREES = ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup")

_CLONE_NEWNET = 0x40000000

# What a boot of Debian starts that a machine without a screen, a user and a network has no use for.
_MASKED = ("getty.target", "systemd-logind.service", "systemd-networkd.service", "systemd-resolved.service")


class SystemdContainer:
    """One machine, which may be booted and shut down again and again; its disk lasts until the end."""

    def __init__(self, folder: Path) -> None:
        for name in ("root", "systemd-nspawn", "nsenter", "unshare", "mount"):
            need(name)
        self._folder = folder / "machine"
        self._console = folder / "console.log"
        self._name = f"penstock-test-{os.getpid()}-{id(self):x}"
        self._holder: subprocess.Popen[str] | None = None
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._cgroups: list[Path] = []

    # ---- life ----

    def __enter__(self) -> "SystemdContainer":
        try:
            self._hold()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.running:
            print(f"---- journal\n{self.journal()[-20_000:]}")
        self.close()

    def _hold(self) -> None:
        self._folder.mkdir()
        script = _HOLD.format(size=ROOT_BYTES, folder=self._folder)
        self._holder = subprocess.Popen(
            [need("unshare"), "--mount", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline().strip()
        if said != "mounted":
            missing(f"needs an overlay on /, which cannot be mounted here: {said}")
        system = self.path("/etc/systemd/system")
        shutil.rmtree(system)
        system.mkdir()
        for unit in _MASKED:
            (system / unit).symlink_to("/dev/null")
        # What keeps packages from starting services here must not do so there.
        self.path("/usr/sbin/policy-rc.d").unlink(missing_ok=True)
        self.path("/etc/machine-id").unlink(missing_ok=True)
        self.path("/etc/machine-id").write_text(f"{os.urandom(16).hex()}\n")

    @property
    def running(self) -> bool:
        return self._nspawn is not None and self._nspawn.poll() is None and self._leader != 0

    def boot(self, target: str = "multi-user.target") -> None:
        """Start systemd, and wait until *target* is reached."""
        assert self._holder is not None and self._nspawn is None
        self._cgroups = [
            Path(tree, self._name) for tree in _CGROUP_TREES if Path(tree, "cgroup.procs").exists()
        ]
        for cgroup in self._cgroups:
            cgroup.mkdir(exist_ok=True)
        self._tell_holder(" ".join(map(str, self._cgroups)))
        enter = " && ".join(f'echo $$ >"{cgroup}/cgroup.procs"' for cgroup in self._cgroups)
        command = [
            *(need("systemd-nspawn"), "--quiet", "--register=no", "--keep-unit", "--private-network"),
            *("--system-call-filter=bpf", "--link-journal=no", "--console=pipe", f"--machine={self._name}"),
            *(f"--directory={self._folder}/root", "--boot", f"systemd.unit={target}"),
            "systemd.journald.forward_to_console=0",
        ]
        mounts = f"--mount=/proc/{self._holder.pid}/ns/mnt"
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["sh", "-c", f'{enter or ":"}; exec "$@"', "sh", need("nsenter"), mounts, *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        wait_until(lambda: self._ended() or self._find_leader(), BOOT_SECONDS_MAX, "PID 1 runs")
        wait_until(
            lambda: self._ended() or self.systemctl("is-active", target, check=False).strip() == "active",
            BOOT_SECONDS_MAX,
            f"{target} is reached",
        )
        if self._ended():
            pytest.fail(f"the machine did not boot:\n{self._console.read_text()}")

    def _ended(self) -> bool:
        return self._nspawn is None or self._nspawn.poll() is not None

    def _find_leader(self) -> bool:
        """The machine's PID 1 is the child of nspawn that is called systemd, once it is that."""
        assert self._nspawn is not None
        for task in Path(f"/proc/{self._nspawn.pid}/task").glob("*/children"):
            for child in task.read_text().split():
                with suppress(OSError):
                    if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                        self._leader = int(child)
                        return True
        return False

    def _tell_holder(self, cgroups: str) -> None:
        """What it ends with itself, from before the machine's first process is there; empty for nothing."""
        assert self._holder is not None and self._holder.stdin is not None
        self._holder.stdin.write(f"{cgroups}\n")
        self._holder.stdin.flush()

    def power_off(self, timeout: float = 60.0) -> None:
        """Shut the machine down in order, as ``systemctl poweroff`` does, and wait for that."""
        assert self._nspawn is not None
        os.kill(self._leader, signal.SIGRTMIN + 4)
        self._nspawn.wait(timeout)
        self._forget()

    def power_cut(self) -> None:
        """End the machine at once. Its disk keeps what was written to it, synchronised or not."""
        assert self._nspawn is not None
        # With PID 1 the kernel ends all of the machine's processes, and nspawn waits for it.
        os.kill(self._leader or self._nspawn.pid, signal.SIGKILL)
        self._nspawn.wait(10)
        self._forget()

    def _forget(self) -> None:
        self._leader = 0
        self._nspawn = None
        for cgroup in self._cgroups:
            # From the leaves up; the last process may take a moment to be gone.
            def removed(cgroup: Path = cgroup) -> bool:
                for folder in sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True):
                    with suppress(OSError):
                        folder.rmdir()
                with suppress(OSError):
                    cgroup.rmdir()
                return not cgroup.exists()

            wait_until(removed, 10, f"{cgroup} is empty")
        self._cgroups = []
        self._tell_holder("")

    def close(self) -> None:
        """Leave nothing behind."""
        if self._nspawn is not None:
            self.power_cut()
        if self._holder is not None:
            self._holder.communicate()  # closes its input, upon which it ends, and its mounts with it
            self._holder = None

    # ---- what is in it ----

    def path(self, inside: str) -> Path:
        """Where this process finds the file *inside* of the machine's disk; it need not run."""
        assert self._holder is not None and inside.startswith("/")
        return Path(f"/proc/{self._holder.pid}/root{self._folder}/root{inside}")

    def live(self, inside: str) -> Path:
        """The same for a running machine, what it has mounted (/run, /tmp, /proc) included."""
        assert self._leader
        return Path(f"/proc/{self._leader}/root{inside}")

    def unpack(self, deb: Path) -> None:
        """Put the files of a package over those of the disk, which is not in use; no script of it runs."""
        files = subprocess.Popen([need("dpkg-deb"), "--fsys-tarfile", deb], stdout=subprocess.PIPE)
        # /lib is a link, and stays one.
        command = ["tar", "--extract", "--keep-directory-symlink", "--directory", self.path("/")]
        subprocess.run(command, stdin=files.stdout, check=True)
        assert files.stdout is not None
        files.stdout.close()
        assert files.wait() == 0

    def run(
        self, *command: str, check: bool = True, timeout: float = COMMAND_SECONDS_MAX
    ) -> "subprocess.CompletedProcess[str]":
        """Run *command* inside as root, and return what became of it; fails the test if it fails."""
        done = subprocess.run(self.inside(command), capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            pytest.fail(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line that runs *command* inside."""
        assert self._leader, "the machine does not run"
        environment = [
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL=C.UTF-8",
            "SYSTEMD_COLORS=0",
        ]
        return [
            need("nsenter"),
            "--all",
            f"--target={self._leader}",
            *environment,
            "SYSTEMD_COLORS=0",
            *command,
        ]

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = COMMAND_SECONDS_MAX) -> str:
        """What ``systemctl`` prints."""
        done = self.run("systemctl", "--no-pager", *arguments, check=check, timeout=timeout)
        return done.stdout + done.stderr

    def show(self, unit: str, name: str) -> str:
        """A property of *unit*."""
        return self.systemctl("show", "--value", f"--property={name}", unit).strip()

    def journal(self, *arguments: str) -> str:
        """What the journal has of this boot."""
        arguments = ("--no-pager", "--boot", "--output=short-monotonic", *arguments)
        return self.run("journalctl", *arguments, check=False).stdout

    @contextmanager
    def network(self) -> Iterator[None]:
        """Sockets that this thread makes, and processes that it starts, are in the machine's network."""
        with Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net").open() as ours:
            with Path(f"/proc/{self._leader}/ns/net").open() as theirs:
                _setns(theirs.fileno())
            try:
                yield
            finally:
                _setns(ours.fileno())


def _setns(fd: int) -> None:
    """setns(2) for the network of the calling thread; Python has it from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
