"""sundog beside ``concurrent.futures``, joblib/loky, Dask and Ray: the same works, one process tree at a time, in rotating blocks.

``make compare`` installs them into an environment of their own and runs this; where they are installed already,
``python -m benchmarks.compare --minutes 10``. A peer that is missing is left out, and the table says so. After each block the
table, its numbers and the picture are written, so that a run which is interrupted keeps what it has; ``--render`` writes them again
from the numbers. Runs on Linux alone: it adopts what engines leave behind, and ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.compare import rows as compare_rows
from benchmarks.compare.engines import ENGINES
from benchmarks.compare.peer import adopt_orphans
from benchmarks.compare.plot import draw
from benchmarks.compare.rows import ROWS, Found
from benchmarks.compare.table import Run, markdown
from benchmarks.processes import family

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SIZE = {
    **{
        "trips": 1000,
        "tasks": 10_000,
        "references": 3000,
        "chain": 1000,
        "leaves": 100,
        "parents": 200,
        "small": 1000,
        "waits": 1000,
        "busy": 2000,
    },
    **{"array": 100_000_000, "readers": 200, "large": 1_000_000_000},
}
#: For a trial of the machinery, not for figures.
QUICK = {
    **{
        "trips": 100,
        "tasks": 300,
        "references": 200,
        "chain": 100,
        "leaves": 20,
        "parents": 10,
        "small": 50,
        "waits": 100,
        "busy": 200,
    },
    **{"array": 10_000_000, "readers": 20, "large": 64_000_000},
}
#: Free memory and free shared memory, in bytes, below which the large array is 256 MB: the array, the store's and a peer's copies.
ROOM = 8_000_000_000
#: Seconds that a peer gets to leave by itself before what is left of it is killed.
GRACE = 5.0
#: Seconds that a peer gets in any case, even if those before it used up the minutes of the run.
LEAST = 30.0
#: Nobody is told about the run, and nothing beside the work is started.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "DASK_DISTRIBUTED__DIAGNOSTICS__NVML": "false",
    "DASK_DISTRIBUTED__VERSION_CHECK": "false",
    "PYTHONWARNINGS": "ignore",
}


def children() -> list[int]:
    """Return the processes below this one."""
    return [pid for pid in family() if pid != os.getpid()]


def sweep() -> int:
    """End what a peer has left; return how many had to be killed."""
    deadline = time.monotonic() + GRACE
    killed: set[int] = set()
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = children()
        if not left:
            return len(killed)
        if time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
        time.sleep(0.02)


def lines(process: subprocess.Popen[bytes], limit: float) -> Iterator[dict[str, Any]]:
    """Yield what a peer says, until it has said all, ended, or ``limit`` seconds are over."""
    assert process.stdout is not None
    deadline = time.monotonic() + limit
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(min(left, 1.0)):
                if process.poll() is not None:  # a child of its own may hold the pipe open
                    return
                continue
            part = os.read(process.stdout.fileno(), 65536)
            if not part:
                return
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                yield json.loads(line)
                if b'"end"' in line:
                    return
    yield {"late": True}


def measure(peer: str, size: dict[str, int], limit: float) -> tuple[Found, str]:
    """Run one peer once. Return what it found, and a remark: what went wrong, or why it is missing, or nothing."""
    found: Found = {}
    remark, why = "", "failed: its process ended"
    folder = tempfile.mkdtemp(prefix="cmp-", dir="/tmp")  # short: names of sockets lie below it
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT), "TMPDIR": folder}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # imports are timed as users have them
    command = [sys.executable, "-m", "benchmarks.compare.peer", peer, json.dumps(size)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            for line in lines(process, limit):
                if "value" in line:
                    found[line["row"]] = line["value"]
                elif "reason" in line:
                    found |= {key: line["reason"] for key in compare_rows.rows_of(line["work"]) if key not in found}
                    remark = remark or (line["reason"] if line["reason"].startswith("failed") else "")
                elif "missing" in line:
                    return {}, line["missing"]
                elif "late" in line:
                    why = remark = f"not within {limit:.0f} s"
                else:
                    why = "failed: no number came"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
            killed = sweep()
            shutil.rmtree(folder, ignore_errors=True)
        if why == "failed: its process ended":
            errors.seek(0)
            remark = f"ended early: {errors.read()[-500:].decode(errors='replace').strip()}"
    for row in ROWS:
        found.setdefault(row.key, why)
    return found, remark or (f"{killed} of its processes had to be killed" if killed else "")


def machine() -> dict[str, str]:
    """Describe this machine."""
    information = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in information.splitlines() if line.startswith("model name")]
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "CPU": f"{models[0] if models else platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{int(total.split()[1]) * 1024 / 1e9:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def versions() -> tuple[dict[str, str], dict[str, str]]:
    """Return the peers' versions, and why others are missing."""
    there, missing = {}, {}
    for peer, engine in ENGINES.items():
        try:
            there[peer] = f"of Python {platform.python_version()}" if peer == "futures" else version(engine.package)
            if peer == "joblib":
                there[peer] += f" / {version('loky')}"
        except PackageNotFoundError as error:
            missing[peer] = f"{error.name} is not installed"
            there.pop(peer, None)
    if "sundog" in there:
        git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
        there["sundog"] += f" ({git.stdout.strip()})" if git.returncode == 0 else ""
    return there, missing


def roomy(size: dict[str, int]) -> dict[str, int]:
    """Return ``size`` with a smaller large array where memory is short."""
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    shared = os.statvfs("/dev/shm")
    room = min(int(available.split()[1]) * 1024, 2 * shared.f_bavail * shared.f_frsize)
    return size if room >= ROOM else {**size, "large": min(size["large"], 256_000_000)}


def write(run: Run, output: Path) -> None:
    """Write numbers, picture and table; ``output``: the table's path."""
    output.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    plot = output.with_suffix(".svg")
    output.write_text(markdown(run, plot.name if draw(run, plot) else ""))


def block(run: Run, peers: list[str], number: int, chosen: argparse.Namespace, started: float) -> None:
    """Run every peer once."""
    found: dict[str, Found] = {}
    run.loads.append(os.getloadavg()[0])
    for peer in compare_rows.order(peers, number):
        before = time.monotonic()
        left = 60 * chosen.minutes - (before - started)
        found[peer], remark = measure(peer, run.size, min(chosen.limit, max(LEAST, left)))
        if not found[peer]:
            run.missing[peer] = remark
            run.versions.pop(peer)
            peers.remove(peer)
        count = sum(not isinstance(value, str) for value in found[peer].values())
        took, since = time.monotonic() - before, before - started
        print(f"[{since:5.0f} s] block {number + 1} {peer:8} {count:2} numbers in {took:3.0f} s {remark}", flush=True)
    run.blocks.append(found)


def options(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description="Compare sundog with its peers.")
    parser.add_argument("--minutes", type=float, default=10.0, help="start no block that would end later (10); one runs at least")
    parser.add_argument("--blocks", type=int, default=100, help="at most so many blocks")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for one peer in one block (180); then it is killed")
    parser.add_argument("--peers", default=",".join(ENGINES), help="only these, with commas between them")
    parser.add_argument("--output", type=Path, default=HERE / "compare.md", help="the table; numbers and picture lie beside it")
    parser.add_argument("--quick", action="store_true", help="small counts: does it work, not how fast")
    parser.add_argument("--render", action="store_true", help="write table and picture again from the numbers, measure nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Measure, and write after each block."""
    chosen = options(arguments)
    if chosen.render:
        write(msgspec.json.decode(chosen.output.with_suffix(".json").read_bytes(), type=Run), chosen.output)
        return 0
    unknown = set(chosen.peers.split(",")) - set(ENGINES)
    if unknown:
        print(f"--peers: {', '.join(sorted(unknown))} is none of {', '.join(ENGINES)}")
        return 2
    there, missing = versions()
    peers = [peer for peer in there if peer in chosen.peers.split(",")]
    run = Run(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=machine(),
        versions={peer: there[peer] for peer in peers},
        titles={peer: engine.title for peer, engine in ENGINES.items()},
        missing=missing,
        size=QUICK if chosen.quick else roomy(SIZE),
        blocks=[],
        loads=[],
    )
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended, too
    started = time.monotonic()
    took: list[float] = []
    while len(took) < chosen.blocks and compare_rows.another(took, time.monotonic() - started, 60 * chosen.minutes):
        before = time.monotonic()
        block(run, peers, len(took), chosen, started)
        took.append(time.monotonic() - before)
        write(run, chosen.output)
    print(f"wrote {chosen.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
