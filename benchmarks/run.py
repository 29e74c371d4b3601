"""Print what things cost beside what they may cost.

``python -m benchmarks.run`` runs everything, each module in a process of its own; ``python -m benchmarks.run graphs waiting``
only these. Ratios in one run are what counts; absolute figures belong to the machine.
"""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
import time

import msgspec

from benchmarks.measure import Row, info, show

#: In the order of the table.
MODULES = (
    "throughput",
    "cpu",
    "round_trip",
    "graphs",
    "parallel",
    "objects",
    "waiting",
    "startup",
    "memory",
    "core",
)
#: Run only when named.
MORE = ("control_store", "prediction", "simulated_network", "simulated_tasks")
TIMEOUT = 300.0


def run_alone(name: str) -> list[Row]:
    """Return the rows of one module, measured in a fresh process; a failure is a row too."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.run", "--rows", name], stdout=subprocess.PIPE, timeout=TIMEOUT, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return [info(name, f"failed: {error}")]
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=list[Row])


def main(arguments: list[str]) -> int:
    """Run what is named, or everything. Returns 0 unless something could not be measured."""
    if arguments[:1] == ["--rows"]:
        rows = importlib.import_module(f"benchmarks.{arguments[1]}").measure()
        print("\n" + msgspec.json.encode(rows).decode())
        return 0
    unknown = [name for name in arguments if name not in MODULES + MORE]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(MODULES + MORE)}")
        return 2
    rows = []
    started = time.perf_counter()
    for name in arguments or MODULES:
        print(f"{name} ...", flush=True)
        for row in run_alone(name):
            rows.append(row)
            print(f"    {row.what}: {row.measured}  {row.verdict}", flush=True)
    cores = len(os.sched_getaffinity(0))
    title = f"Python {platform.python_version()}, {cores} cores, {time.perf_counter() - started:.0f} s"
    show(rows, title)
    return int(any(row.measured.startswith("failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
