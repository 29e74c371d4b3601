"""At the limits of processes and descriptors what cannot be done fails with the reason; nothing hangs, nothing is left."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sundog
from tests.support.programs import run

NESTED = """
    import sundog

    @sundog.remote
    def level(depth):
        return 1 + sundog.get(level.remote(depth - 1)) if depth > 1 else 1

    sundog.init(num_workers=1, object_store_memory=1 << 24)
    assert sundog.get(level.remote(2)) == 2
    try:
        sundog.get(level.remote(DEPTH), timeout=40)
    except sundog.DeadlockError as error:
        print("refused", str(error).replace("\\n", " "))
    assert sundog.get(level.remote(2), timeout=40) == 2
    print("went on")
    sundog.shutdown()
    """
#: Root is bound by no limit of processes, unless it bears another user's number and can never again have what lifts the limit
#: (CAP_SYS_ADMIN, CAP_SYS_RESOURCE). Whoever is not root shares the limit with all that the user runs.
FEW_PROCESSES = """
    import ctypes, os, resource
    from pathlib import Path

    def of_this_user():
        count = 0
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                lines = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines())
            except OSError:
                continue
            if int(lines["Uid"].split()[0]) == os.getuid():
                count += int(lines["Threads"])
        return count

    if os.geteuid() == 0:
        for capability in (21, 24):
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
        os.setresuid(1 << 20 | os.getpid(), 0, 0)
    limit = of_this_user() + MORE
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
    """
FEW_DESCRIPTORS = """
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
    """


def refused_after(preamble: str, depth: int, directory: Path) -> str:
    """Run NESTED after ``preamble``, check that it went on and left nothing, and return what it was refused with."""
    ended = run(textwrap.dedent(preamble) + textwrap.dedent(NESTED).replace("DEPTH", str(depth)), directory)
    assert ended.code == 0, ended.err
    # What the innermost task submitted is on its own now; it goes deeper, and may be refused in its turn.
    assert ended.err.count("a worker process did not come up") <= 2, "said when it begins, not at each attempt"
    refused, went_on = ended.out.splitlines()
    assert went_on == "went on"
    return refused


@pytest.mark.real_processes
@pytest.mark.parametrize("more", [12, 13])
def test_nesting_beyond_the_limit_of_processes(tmp_path: Path, more: int):
    """A worker has two threads: with one of the two limits the last worker has no room for the second."""
    preamble = FEW_PROCESSES.replace("MORE", str(more))
    refused = refused_after(preamble, 8, tmp_path)
    assert "level has no worker: all" in refused
    assert "the limit of processes" in refused
    assert "Nest less deeply, or raise that limit." in refused


@pytest.mark.real_processes
def test_nesting_beyond_the_limit_of_descriptors(tmp_path: Path):
    refused = refused_after(FEW_DESCRIPTORS, 14, tmp_path)
    assert "level has no worker: all" in refused
    assert "the limit of open descriptors (60, at most 60) is reached: raise it with `ulimit -n`" in refused


def test_nesting_beyond_the_workers_that_the_settings_allow(start: Callable[..., Any]):
    start(num_workers=1, config={"worker_processes_max": 5})

    @sundog.remote
    def level(depth):
        return 1 + sundog.get(level.remote(depth - 1)) if depth > 1 else 1

    with pytest.raises(sundog.DeadlockError, match=r"because all 5 that may exist are blocked\. Nest less deeply"):
        sundog.get(level.remote(8), timeout=20)
    assert sundog.get(level.remote(5), timeout=20) == 5


@pytest.mark.real_processes
def test_where_there_is_no_room_for_a_worker_tasks_fail_with_the_reason(tmp_path: Path):
    source = """
    import sundog
    sundog.init(num_workers=1, object_store_memory=1 << 24)
    try:
        sundog.get(sundog.remote(lambda: 1).remote(), timeout=40)
    except sundog.WorkerCrashedError as error:
        print("refused", str(error).replace("\\n", " "))
    sundog.shutdown()
    """
    ended = run(textwrap.dedent(FEW_PROCESSES.replace("MORE", "3")) + textwrap.dedent(source), tmp_path)
    assert ended.code == 0, ended.err
    assert ended.out.startswith("refused no worker process could be started: "), ended.out
    assert "the limit of processes" in ended.out
