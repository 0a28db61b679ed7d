"""Disks that misbehave: small file systems of their own, and a C library whose calls fail on demand."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import missing, need

BROKEN_C = r"""
// Fails calls on files below $BROKEN_FOLDER, as long as the file $BROKEN_SWITCH is there. What stands in it
// says which: the names of calls, and the number of the error.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int fails(const char *call, const char *path)
{
    static int (*real_open)(const char *, int, ...);
    static ssize_t (*real_read)(int, void *, size_t);
    const char *folder = getenv("BROKEN_FOLDER"), *name = getenv("BROKEN_SWITCH");
    if (!folder || !name || strncmp(path, folder, strlen(folder)) != 0)
        return 0;
    if (!real_open) {
        real_open = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
        real_read = (ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
    }
    char text[256] = {0};
    int fd = real_open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t got = real_read(fd, text, sizeof text - 1);
    close(fd);
    char *wanted = got > 0 ? strstr(text, call) : NULL;
    if (!wanted)
        return 0;
    errno = atoi(text);
    return 1;
}

static int fails_at(const char *call, int fd)
{
    char link[64], path[4096] = {0};
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return readlink(link, path, sizeof path - 1) > 0 && fails(call, path);
}

ssize_t write(int fd, const void *data, size_t size)
{
    static ssize_t (*real)(int, const void *, size_t);
    if (!real)
        real = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    return fails_at("write", fd) ? -1 : real(fd, data, size);
}

ssize_t read(int fd, void *data, size_t size)
{
    static ssize_t (*real)(int, void *, size_t);
    if (!real)
        real = (ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
    return fails_at("read", fd) ? -1 : real(fd, data, size);
}

int fsync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return fails_at("fsync", fd) ? -1 : real(fd);
}

int rename(const char *from, const char *to)
{
    static int (*real)(const char *, const char *);
    if (!real)
        real = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    return fails("rename", from) ? -1 : real(from, to);
}

int unlink(const char *path)
{
    static int (*real)(const char *);
    if (!real)
        real = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    return fails("unlink", path) ? -1 : real(path);
}
"""


class Broken:
    """A disk below *folder* whose calls fail, for processes that are started with :attr:`environment`."""

    def __init__(self, library: Path, folder: Path, switch: Path) -> None:
        self._switch = switch
        self.environment = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "BROKEN_FOLDER": str(folder),
            "BROKEN_SWITCH": str(switch),
        }

    def fail(self, error: int, *calls: str) -> None:
        """From now on, these calls fail: ``write``, ``read``, ``fsync``, ``rename``, ``unlink``."""
        new = self._switch.with_suffix(".new")
        new.write_text(f"{error} {' '.join(calls)}")
        new.rename(self._switch)

    def mend(self) -> None:
        """From now on, nothing fails."""
        self._switch.unlink()


def broken(tmp_path: Path, folder: Path) -> Broken:
    """Build the library. Skips the test where that cannot be done."""
    compiler = need("cc")
    source, library = tmp_path / "broken.c", tmp_path / "broken.so"
    source.write_text(BROKEN_C)
    command = [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    return Broken(library, folder, tmp_path / "broken.switch")


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own at *folder*, with mount's *options*, such as ``size=1m,nr_inodes=20``."""
    need("root")
    mount, umount = need("mount"), need("umount")
    folder.mkdir(parents=True)
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", options, "penstock-test", folder], capture_output=True, text=True
    )
    if made.returncode:
        missing(f"needs root that may mount: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([umount, "-l", folder], check=True)


def remount(folder: Path, options: str) -> None:
    """Change a file system that is mounted: ``ro``, ``rw``, ``size=2m``."""
    subprocess.run([need("mount"), "-o", f"remount,{options}", folder], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Write a file that takes all space but about *leave* bytes; returns its path."""
    path = folder / "of-somebody-else"
    status = os.statvfs(folder)
    with open(path, "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, status.f_bavail * status.f_frsize - leave)
    return path
