"""Stops one thread of another process, as a debugger does, and lets all others of it run.

    python hold_thread.py TID

It says ``held`` when the thread stands still. It ends with the thread, or lets it go when its own input ends.
SIGSTOP would stop the whole process; ptrace(2) is what can stop a single thread.
"""

import ctypes
import os
import select
import sys

_PTRACE_DETACH = 17
_PTRACE_SEIZE = 0x4206
_PTRACE_INTERRUPT = 0x4207
_WALL = 0x40000000


def _ptrace(request: int, tid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if libc.ptrace(request, tid, None, None):
        raise OSError(ctypes.get_errno(), f"ptrace({request:#x}, {tid})")


def main() -> None:
    tid = int(sys.argv[1])
    _ptrace(_PTRACE_SEIZE, tid)
    _ptrace(_PTRACE_INTERRUPT, tid)
    os.waitpid(tid, _WALL)
    print("held", flush=True)
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        # Whoever traces a thread has to take note of its end, or its process stays a zombie.
        found, status = os.waitpid(tid, _WALL | os.WNOHANG)
        if found and (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
            return
    _ptrace(_PTRACE_DETACH, tid)


if __name__ == "__main__":
    main()
