"""What hot paths cost in operations of the interpreter: the same in every run, unlike seconds, so a decay cannot hide in noise.

An operation is one bytecode instruction of sundog's own code, counted by tracing; what C code does within one is not seen, so
this guards the engine's own logic and nothing else. Figures belong to a minor version of Python.

``python -m benchmarks.operations`` compares with ``operations.json`` and fails if a path costs more than the tolerance beyond what
is recorded there; ``--write`` records. ``--where PATH`` shows in which functions a path's operations are spent.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec

import sundog
from benchmarks import core, simulated_tasks

RECORDED = Path(__file__).with_name("operations.json")
_SIMULATED_NODES = 100
#: A path may cost this much more than recorded before the check fails.
TOLERANCE = 0.05
_DRIVER_RUNS = 12
#: Longer than any run: the interpreter then passes between threads only where one waits.
_NO_SWITCH_S = 60.0
_OURS = str(Path(sundog.__file__).parent)
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


class Operations:
    """Counts operations of sundog's code on this thread, by code object, within ``with operations.counted():``."""

    def __init__(self) -> None:
        self.by_code: Counter[CodeType] = Counter()
        self._ours: dict[CodeType, bool] = {}

    @property
    def total(self) -> int:
        """How many there were in all."""
        return sum(self.by_code.values())

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what happens within."""
        gc.collect()
        gc.disable()
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)
            gc.enable()

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        ours = self._ours.get(code)
        if ours is None:
            ours = self._ours[code] = code.co_filename.startswith(_OURS)
        if not ours:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        if event == "opcode":
            self.by_code[frame.f_code] += 1
        return self._step


class _EvenClock:
    """Stands for the module ``time``: a clock that goes on a microsecond at each reading."""

    def __init__(self) -> None:
        self._now = 0

    def monotonic_ns(self) -> int:
        """Return the time."""
        self._now += 1000
        return self._now


def _core(count: int, load: str) -> Operations:
    """The machines of one node alone, with a driver's and two workers'."""
    clock = vars(core)["time"]
    vars(core)["time"] = _EvenClock()
    try:
        engine = core.Engine(codec=False)
        run = core.LOADS[load](engine)
        run(count)
        operations = Operations()
        with operations.counted():
            run(count)
    finally:
        vars(core)["time"] = clock
    return operations


def _simulated(count: int) -> Operations:
    """Lives of tasks without bodies that are submitted at, and placed over, many nodes."""
    made = simulated_tasks.experiment(_SIMULATED_NODES, count)
    made.boot()
    operations = Operations()
    with operations.counted():
        made.run()
    return operations


@sundog.remote
def _nothing(value: object = None) -> object:
    return value


def _driver(count: int, work: Callable[[int], list[sundog.ObjectID[Any]]]) -> Operations:
    """The driver's own thread, in a session of real processes; the least of some runs, as what its other thread does plays in."""
    found = []
    interval = sys.getswitchinterval()
    with sundog.init(num_workers=1):
        sundog.get(work(count))
        sys.setswitchinterval(_NO_SWITCH_S)
        try:
            for _ in range(_DRIVER_RUNS):
                operations = Operations()
                with operations.counted():
                    made = work(count)
                found.append(operations)
                sundog.get(made)
        finally:
            sys.setswitchinterval(interval)
    return min(found, key=lambda operations: operations.total)


def _submit(count: int) -> list[sundog.ObjectID[Any]]:
    return [_nothing.remote() for _ in range(count)]


def _put(count: int) -> list[sundog.ObjectID[Any]]:
    return [sundog.put(b"small") for _ in range(count)]


#: Path -> (how many, what counts).
PATHS: dict[str, tuple[int, Callable[[int], Operations]]] = {
    "core: task of a burst": (1024, lambda count: _core(count, "burst")),
    "core: task among many": (1024, lambda count: _core(count, "paired")),
    "core: task on its own": (200, lambda count: _core(count, "singly")),
    "simulated: a task's life, 100 nodes": (2000, _simulated),
    "driver: remote()": (500, lambda count: _driver(count, _submit)),
    "driver: put() of a small value": (500, lambda count: _driver(count, _put)),
}


def measure(path: str) -> float:
    """Return the operations that ``path`` takes for one."""
    count, work = PATHS[path]
    return round(work(count).total / count, 1)


def _recorded() -> dict[str, dict[str, float]]:
    if not RECORDED.exists():
        return {}
    return msgspec.json.decode(RECORDED.read_bytes(), type=dict[str, dict[str, float]])


def _show_where(path: str) -> None:
    count, work = PATHS[path]
    for code, operations in work(count).by_code.most_common(40):
        where = Path(code.co_filename).relative_to(_OURS)
        print(f"{operations / count:9.1f}  {where}:{code.co_firstlineno} {code.co_qualname}")


def main(arguments: list[str]) -> int:
    """Compare, write, or show where. Returns 1 if a path has become dearer."""
    if arguments[:1] == ["--where"]:
        _show_where(arguments[1])
        return 0
    everything = _recorded()
    recorded = everything.get(_VERSION, {})
    measured = {path: measure(path) for path in PATHS}
    if arguments[:1] == ["--write"]:
        everything[_VERSION] = measured
        RECORDED.write_bytes(msgspec.json.format(msgspec.json.encode(everything), indent=2) + b"\n")
        recorded = measured
    elif not recorded:
        print(f"operations: nothing is recorded for Python {_VERSION}; nothing to compare with")
    failed = False
    for path, operations in measured.items():
        limit = recorded.get(path)
        change = "" if limit is None else f"{operations / limit - 1:+.1%}"
        print(f"{path:36} {operations:9.1f} operations  {change}")
        failed = failed or (limit is not None and operations > limit * (1 + TOLERANCE))
    if failed:
        print(
            f"a hot path costs over {TOLERANCE:.0%} more than recorded: see where with --where PATH;\n"
            "if it buys something that is worth it, record it with --write and say in the commit what it buys"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
