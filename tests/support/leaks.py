"""What a session may leave behind: nothing. How tests look for processes, descriptors, mappings and threads.

Every process that a session starts inherits the driver's environment, so a mark of the test run's own finds them all, without
asking sundog which they are, and without mistaking those of other runs on the same machine for them.
"""

from __future__ import annotations

import gc
import os
import secrets
import threading
from pathlib import Path

from tests.support.waiting import wait_until

#: Set in ``os.environ`` by :func:`mark_this_run`.
MARK_VARIABLE = "SUNDOG_TEST_RUN"
#: What the engine sets for its own processes.
SESSION_VARIABLE = "SUNDOG_SESSION"
#: Descriptors of these kinds are counted; plain files belong to pytest and to the tests themselves.
_KINDS = ("socket:", "pipe:", "anon_inode:", "/memfd:")


def mark_this_run() -> str:
    """Put a fresh mark into this process's environment and return it as ``NAME=value``."""
    os.environ[MARK_VARIABLE] = f"{os.getpid()}-{secrets.token_hex(6)}"
    return mark_of_this_run()


def mark_of_this_run() -> str:
    """Return what :func:`mark_this_run` did."""
    return f"{MARK_VARIABLE}={os.environ[MARK_VARIABLE]}"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def is_alive(pid: int) -> bool:
    """Tell whether ``pid`` runs; a zombie does not."""
    stat = _read(f"/proc/{pid}/stat")
    return bool(stat) and stat.rpartition(b")")[2].split()[0] != b"Z"


def is_known(pid: int) -> bool:
    """Tell whether the system still knows ``pid``, be it as a zombie."""
    return os.path.exists(f"/proc/{pid}")


def processes_with(mark: str) -> dict[int, str]:
    """Return the processes, but this one, whose environment carries ``mark`` (``NAME=value``), with their command lines."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        if mark.encode() in _read(f"/proc/{name}/environ").split(b"\0"):
            found[int(name)] = _read(f"/proc/{name}/cmdline").replace(b"\0", b" ").decode(errors="replace")[:100]
    return found


def has_mark(pid: int, mark: str) -> bool:
    """Tell whether ``pid`` runs and carries ``mark``: asked before a test kills a process whose number it was told."""
    return is_alive(pid) and mark.encode() in _read(f"/proc/{pid}/environ").split(b"\0")


def session_of(pid: int) -> str:
    """Return the mark of the session that ``pid`` belongs to, or "" for none."""
    for entry in _read(f"/proc/{pid}/environ").split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name.decode(errors="replace") == SESSION_VARIABLE:
            return value.decode()
    return ""


def session_processes(mark: str) -> dict[int, str]:
    """Like :func:`processes_with`, only those that a session of sundog started."""
    return {pid: command for pid, command in processes_with(mark).items() if session_of(pid)}


def zombies() -> list[int]:
    """Return the children of this process that died and were not reaped."""
    found = []
    for task in os.listdir("/proc/self/task"):
        for child in _read(f"/proc/self/task/{task}/children").split():
            stat = _read(f"/proc/{int(child)}/stat")
            if stat and stat.rpartition(b")")[2].split()[0] == b"Z":
                found.append(int(child))
    return found


def descriptors() -> dict[int, str]:
    """Return this process's sockets, pipes, memfds and the like."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(_KINDS):
            found[int(name)] = target
    return found


def arena_descriptors(pids: list[int]) -> list[str]:
    """Return the sundog memfds that any of ``pids`` has open."""
    found = []
    for pid in pids:
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if target.startswith("/memfd:sundog"):
                    found.append(f"{pid}: {target}")
        except OSError:
            continue
    return found


def arena_mappings() -> list[tuple[int, int, str]]:
    """Return the mappings of sundog's memfds in this process: (start, end, permissions)."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/memfd:sundog" in line:
            addresses, permissions = line.split()[:2]
            start, _, end = addresses.partition("-")
            found.append((int(start, 16), int(end, 16), permissions))
    return found


def threads() -> set[int]:
    """Return the system's threads of this process."""
    return {int(name) for name in os.listdir("/proc/self/task")}


class Baseline:
    """What this process was like before a session."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.descriptors = descriptors()
        self.threads = threads()
        self.mappings = arena_mappings()

    def leaks(self) -> list[str]:
        """Return what there is now that was not there before; empty if nothing was left behind."""
        gc.collect()
        found = [f"process {pid}: {command}" for pid, command in session_processes(self.mark).items()]
        found += [f"zombie {pid}" for pid in zombies()]
        before = self.descriptors.items()
        found += [f"descriptor {fd}: {target}" for fd, target in descriptors().items() if (fd, target) not in before]
        # Counted, not compared: numerical libraries end theirs before a fork and start others after it.
        if len(threads()) > len(self.threads):
            found.append(f"threads: {sorted(threads())}, of Python {threading.enumerate()}")
        found += [
            f"mapping {start:x}-{end:x} {how}" for start, end, how in arena_mappings() if (start, end, how) not in self.mappings
        ]
        return found

    def check(self) -> None:
        """Fail unless everything goes away, in bounded time."""
        wait_until(
            lambda: not self.leaks(), timeout=10, what=lambda: f"a session leaves nothing behind, but there is {self.leaks()}"
        )
