"""Measure how cost grows with size, on real processes: ``python -m benchmarks.growth``.

Two to eight minutes; ``--quick`` takes small sizes. Writes growth.json, growth.md and growth.svg beside this file (or into
``--to FOLDER``). ``--only CURVE ...`` measures some; ``--report`` writes the document anew from the JSON.
"""

from __future__ import annotations

import argparse
import datetime
import faulthandler
import os
import platform
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import msgspec

from benchmarks.growth.curves import CURVES, PLAN
from benchmarks.growth.point import Point
from benchmarks.growth.report import Growth, document, judge

HERE = Path(__file__).parent
#: No point may take longer, nor all of them together; in seconds.
POINT_MAX = 240.0
ALL_MAX = 900.0


def alone(name: str, size: int, limit: float) -> list[Point]:
    """Measure one point in a fresh process. Raises RuntimeError if it fails, or with what it stood at if it takes longer than
    ``limit`` seconds."""
    command = [sys.executable, "-m", "benchmarks.growth", "--point", name, str(size), "--limit", str(limit)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            out, _ = process.communicate(timeout=limit + 20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise RuntimeError(f"no end after {limit:.0f} s") from None
    if process.returncode:
        raise RuntimeError(f"ended with status {process.returncode}")
    return msgspec.json.decode(out.splitlines()[-1], type=list[Point])


def one_point(name: str, size: int, limit: float) -> None:
    """Be the process of :func:`alone`. Should it hang, it says where every thread is, and ends."""
    faulthandler.dump_traceback_later(limit, exit=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print("\n" + msgspec.json.encode(PLAN[name].measure(size)).decode())


def describe(point: Point) -> str:
    """Return a line for people."""
    weight = "" if point.bytes_each is None else f", {point.bytes_each:,.0f} bytes"
    return f"{point.curve} {point.size:,}: {point.cpu_each:.1f} us of computing, {point.wall_each:.1f} us by the clock{weight}"


def machine() -> str:
    """Return what this machine is."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{len(os.sched_getaffinity(0))} cores of {model}, Linux {platform.release().partition('-')[0]}"


def run(names: list[str], quick: bool, growth: Growth) -> None:
    """Measure all points of ``names``, small ones first, and show progress."""
    began = time.perf_counter()
    todo = [(name, size) for name in names for size in (PLAN[name].quick if quick else PLAN[name].sizes)]
    for number, (name, size) in enumerate(todo, 1):
        left = ALL_MAX - (time.perf_counter() - began)
        print(f"[{number}/{len(todo)}, {time.perf_counter() - began:.0f} s] {name} {size:,} ...", file=sys.stderr, flush=True)
        try:
            if left < 1:
                raise RuntimeError(f"the {ALL_MAX:.0f} s for all points were over")
            found = alone(name, size, min(POINT_MAX, left))
        except RuntimeError as error:
            growth.missing[f"{name} {size:,}"] = str(error)
            print(f"    failed: {error}", file=sys.stderr, flush=True)
            continue
        growth.points += found
        for point in found:
            print(f"    {describe(point)}", file=sys.stderr, flush=True)
    growth.seconds = time.perf_counter() - began


def write(growth: Growth, folder: Path) -> None:
    """Write the three files, or two where there is no matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "growth.json").write_bytes(msgspec.json.format(msgspec.json.encode(growth), indent=1) + b"\n")
    (folder / "growth.md").write_text(document(growth))
    try:
        from benchmarks.growth.plot import draw

        draw(growth, folder / "growth.svg")
    except ImportError:
        print("no picture: it needs matplotlib (pip install 'sundog[plots]'); then --report draws it", file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Return 0 if everything was measured and nothing grows worse than its ceiling."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: half a minute, and less to learn")
    parser.add_argument("--only", nargs="+", choices=list(PLAN), default=list(PLAN), metavar="CURVE", help=", ".join(PLAN))
    parser.add_argument("--to", type=Path, help="folder for what is written (default: beside this file; --quick: nothing)")
    parser.add_argument("--report", action="store_true", help="measure nothing: write document and picture from growth.json")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=POINT_MAX, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.point:
        one_point(given.point[0], int(given.point[1]), given.limit)
        return 0
    folder = given.to or HERE
    if given.report:
        growth = msgspec.json.decode((folder / "growth.json").read_bytes(), type=Growth)
    else:
        versions = {"Python": platform.python_version(), "sundog": version("sundog")}
        today = datetime.date.today().isoformat()
        growth = Growth(today, machine(), versions, 0.0, os.getloadavg()[0], [])
        run(given.only, given.quick, growth)
    whole = given.only == list(PLAN) and not given.quick
    if given.to or whole or given.report:
        write(growth, folder)
    verdicts = [verdict for verdict in (judge(growth, name) for name in CURVES) if verdict is not None]
    for verdict in verdicts:
        weight = "" if verdict.weight is None else f", bytes {verdict.weight:.2f}"
        found = "linear or better" if verdict.linear else "WORSE THAN LINEAR"
        print(f"{verdict.curve:16} exponent {verdict.whole:.2f}, upper end {verdict.upper:.2f}{weight}  {found}")
    return int(bool(growth.missing) or not all(verdict.linear for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
