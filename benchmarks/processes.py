"""The processes of a session as the system sees them: who they are, what they weigh, how long they have computed."""

from __future__ import annotations

import os
from pathlib import Path


def family() -> dict[int, str]:
    """Return {pid: name} of this process and all its descendants."""
    parents: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(rest.split()[1]), []).append(int(entry.name))
        names[int(entry.name)] = name.removeprefix("sundog:")
    found = {}
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        found[pid] = names[pid] if pid != os.getpid() else "driver"
        waiting += parents.get(pid, [])
    return found


def pss(pid: int) -> int:
    """Return the bytes that ``pid`` weighs: what it has alone, and its part of what it shares."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return 0


def weights() -> dict[str, int]:
    """Return the bytes that this process and its descendants weigh, by name."""
    found: dict[str, int] = {}
    for pid, name in family().items():
        try:
            found[name] = found.get(name, 0) + pss(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def computed(pid: int) -> int:
    """Return the nanoseconds that all threads of ``pid`` have been on a core."""
    total = 0
    for entry in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((entry / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def computed_by_process() -> dict[tuple[str, int], int]:
    """Return {(name, pid): nanoseconds} of this process and its descendants."""
    total = {}
    for pid, name in family().items():
        try:
            total[name, pid] = computed(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total
