"""A clock on the wall that a test steps, for processes that are started with it."""

import os
import subprocess
from pathlib import Path

from tests.conftest import need

CLOCK_C = r"""
// Adds the seconds that stand in $CLOCK_STEP to the clock on the wall, and leaves the others alone.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long step(void)
{
    char text[32] = {0};
    const char *name = getenv("CLOCK_STEP");
    int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    return got > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += step();
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *where)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where)
        *where = now.tv_sec;
    return now.tv_sec;
}
"""


class SteppedClock:
    """What a process needs to see another time: :attr:`environment`."""

    def __init__(self, folder: Path) -> None:
        compiler = need("cc")
        source, library = folder / "clock.c", folder / "clock.so"
        self._step = folder / "clock.step"
        source.write_text(CLOCK_C)
        command = [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"]
        subprocess.run(command, check=True)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_STEP": str(self._step)}

    def step(self, seconds: int) -> None:
        """Set the clock this far from the true one."""
        new = self._step.with_suffix(".new")
        new.write_text(str(seconds))
        os.replace(new, self._step)
