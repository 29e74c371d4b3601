"""What Linux offers for processes that must not outlive each other: parent-death signals, sub-reapers, groups, marks.

ctypes is imported here, at first need, because Python has no ``prctl``; only the node and the zygote pay for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterable

#: In the environment of every process of a session but the driver; what ends a session looks for it.
SESSION_VARIABLE = "SUNDOG_SESSION"

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _prctl(option: int, argument: object) -> None:
    import ctypes  # 4 ms, and only here

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _unsigned(value: int) -> object:
    import ctypes

    return ctypes.c_ulong(value)


def die_with_parent(parent: int, signum: int) -> bool:
    """Have the kernel send ``signum`` when the thread that forked this process ends; False if ``parent`` is gone already."""
    _prctl(_PR_SET_PDEATHSIG, _unsigned(signum))
    return os.getppid() == parent


def become_subreaper() -> None:
    """Become the parent of every orphan among one's descendants, so that none escapes to init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, _unsigned(1))


def set_process_name(name: str) -> None:
    """Name this process in ``ps`` and ``top`` (15 bytes)."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def kill_group(leader: int) -> None:
    """Kill the process group that ``leader``, not reaped yet, leads, and ``leader`` itself. Fine if there is none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(leader, signal.SIGKILL)


def exit_status(wait_status: int) -> int:
    """Return an exit code, or minus the signal that ended the process."""
    return os.waitstatus_to_exitcode(wait_status)


def resident_bytes(pid: int) -> int:
    """Return how much memory the process occupies, shared pages included, or 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def session_processes(mark: str) -> list[int]:
    """Return the processes whose environment carries the session ``mark``, those of other users excepted."""
    wanted = f"{SESSION_VARIABLE}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(name))
    return found


def kill_session(mark: str, spare: Collection[int]) -> None:
    """Kill every process of the session but those in ``spare``: also those that left their group."""
    for pid in session_processes(mark):
        if pid not in spare:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def children() -> list[int]:
    """Return the children of this process, dead ones included until they are reaped."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children", "rb") as file:
                found += [int(pid) for pid in file.read().split()]
    return found


def close_descriptors(keep: Iterable[int]) -> None:
    """Close every descriptor of this process from 3 on but those in ``keep``."""
    kept = set(keep)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in kept:
            with contextlib.suppress(OSError):
                os.close(fd)


def descriptor_limits() -> tuple[int, int]:
    """Return how many descriptors this process may open, and up to what it may raise that."""
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)


def raise_descriptor_limit() -> None:
    """Let this process open as many descriptors as it may: a node needs four a worker."""
    import resource  # only the node and the zygote

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def set_descriptor_limit(limits: tuple[int, int]) -> None:
    """Undo :func:`raise_descriptor_limit`: a worker has the limits that its user chose."""
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def limit_reached(error: OSError) -> str:
    """Return, for people, which limit made starting a process fail, and what to do."""
    import errno
    import resource

    if error.errno in (errno.EMFILE, errno.ENFILE):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"the limit of open descriptors ({soft}, at most {hard}) is reached: raise it with `ulimit -n`"
    if error.errno == errno.EAGAIN:
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        return (
            f"the limit of processes ({soft if soft >= 0 else 'unlimited'} by `ulimit -u`, or that of the container) is"
            " reached: raise it, or use fewer workers"
        )
    if error.errno == errno.ENOMEM:
        return "there is not enough memory for another process: use fewer workers"
    return f"the system refused: {error}"
