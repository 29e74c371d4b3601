"""One node as a debugging mode: bodies run on the driver's thread, where breakpoints, tracing and profiles find them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sundog
from tests.support.programs import ROOT

Simulate = Callable[..., Any]


def test_bodies_run_on_the_drivers_thread_in_the_drivers_process(simulate: Simulate) -> None:
    simulate()

    @sundog.remote
    def where():
        return os.getpid(), threading.get_ident(), sundog.is_initialized()

    assert sundog.get(where.remote()) == (os.getpid(), threading.get_ident(), True)


def test_a_trace_function_sees_every_line_of_driver_and_bodies(simulate: Simulate) -> None:
    simulate()

    @sundog.remote
    def child(x):
        y = x + 1
        return y  # noqa: RET504 (a line more)

    @sundog.remote
    def parent():
        total = 0
        for i in range(3):
            total += sundog.get(child.remote(i))
        return total

    def driver():
        first = parent.remote()
        value = sundog.get(first)
        sundog.sleep(1)
        last = value + 1
        return last  # noqa: RET504

    lines: dict[str, list[int]] = {}

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != __file__:
            return None
        if event == "line":
            name = frame.f_code.co_name
            lines.setdefault(name, []).append(frame.f_lineno - frame.f_code.co_firstlineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        assert driver() == 7
    finally:
        sys.settrace(before)
    assert lines["child"] == [2, 3] * 3
    assert lines["parent"] == [2, 3, 4, 3, 4, 3, 4, 3, 5]
    assert lines["driver"] == [1, 2, 3, 4, 5]


PROGRAM = """
import sundog

@sundog.remote
def child(x):
    doubled = 2 * x
    return doubled

@sundog.remote
def parent(x):
    breakpoint()
    first = sundog.get(child.remote(x))
    second = sundog.get(child.remote(first))
    return first + second

with sundog.init(backend="simulated", nodes=1, num_cpus=2, seed=7):
    print("got", sundog.get(parent.remote(1)), sundog.get(child.remote(10)))
"""


def test_pdb_steps_through_a_body_that_blocks(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    commands = ["n", "n", "p 'both', first, second", "w", "b 6", "c", "p 'in the child', x", "c"]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], input="\n".join(commands) + "\n", capture_output=True, text=True,
        timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "('both', 2, 4)" in done.stdout
    assert "parent()" in done.stdout
    assert "('in the child', 10)" in done.stdout
    assert done.stdout.rstrip().endswith("got 6 20"), done.stdout


def test_a_profile_function_sees_the_calls_of_bodies(simulate: Simulate) -> None:
    simulate()

    @sundog.remote
    def child(x):
        return x

    @sundog.remote
    def parent(x):
        return sundog.get(child.remote(x))

    calls: list[str] = []

    def profile(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename == __file__:
            calls.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        sundog.get([parent.remote(i) for i in range(20)])
    finally:
        sys.setprofile(None)
    assert calls.count("parent") == calls.count("child") == 20
