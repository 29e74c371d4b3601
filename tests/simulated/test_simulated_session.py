"""Starting, ending and breaking simulated sessions; their settings; their random streams."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sundog
from sundog.backends import current
from sundog.backends.simulated.network.model import NetworkModel
from sundog.backends.simulated.sim_loop import InstantNetwork
from sundog.core.actions import Dispatch
from tests.support.programs import ROOT, run

Simulate = Callable[..., Any]


@sundog.remote
def double(x):
    return 2 * x


# -- settings -----------------------------------------------------------------------------------------------------------------


def test_options_that_a_backend_does_not_know_are_refused_with_what_it_knows() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"node": 2}, "'nodes'"), ({"nods": 2}, "'nodes'"), ({"telescope": 1}, "durations"), ({"num_worker": 1}, "num_workers"),
    ]  # fmt: skip
    for options, part in wrong:
        with pytest.raises(TypeError, match=part):
            sundog.init(backend="simulated", **options)
    with pytest.raises(TypeError, match="simulated"):
        sundog.init(nodes=2)
    assert not sundog.is_initialized()


def test_settings_that_make_no_sense_are_refused(simulate: Simulate) -> None:
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"nodes": 0}, ValueError, "nodes=0"), ({"nodes": "2"}, TypeError, "nodes"), ({"nodes": []}, ValueError, "at least one"),
        ({"redis": True}, ValueError, "redis"), ({"costs": {"hop": -1}}, ValueError, "hop"),
        ({"costs": {"jump": 1}}, TypeError, "hop"), ({"costs": {"clock": 0}}, ValueError, "clock"),
        ({"costs": {"hop": "1"}}, TypeError, "hop"), ({"network": 5}, TypeError, "network"),
    ]  # fmt: skip
    before = time.sleep
    for settings, kind, part in wrong:
        with pytest.raises(kind, match=part):
            simulate(**settings)
        assert not sundog.is_initialized()
        assert time.sleep is before
        assert gc.isenabled()


NETWORKS = {
    "constant": None, "instant": InstantNetwork, "model": NetworkModel(local_latency=1000), "jitter": NetworkModel(jitter=5000),
}  # fmt: skip


@pytest.mark.parametrize("network", list(NETWORKS))
def test_any_network_will_do(simulate: Simulate, network: str) -> None:
    simulate(network=NETWORKS[network])

    @sundog.remote
    def parent(n):
        return n if n < 2 else sum(sundog.get([parent.remote(n - 1), parent.remote(n - 2)]))

    assert sundog.get(parent.remote(8)) == 21
    assert sundog.get([double.remote(double.remote(i)) for i in range(100)]) == [4 * i for i in range(100)]


def test_costs_are_what_things_cost(simulate: Simulate) -> None:
    simulate(costs={"hop": 1.0, "worker_start": 100.0, "call": 0.001})
    assert time.monotonic() >= 100
    began = time.monotonic()
    assert sundog.get(double.remote(1)) == 2
    assert 4 <= time.monotonic() - began < 4.2  # there, to the worker, back, and here


def test_ids_are_those_of_real_processes_with_the_same_seed(tmp_path: Path) -> None:
    program = """
        import sundog
        sundog.init(num_workers=2, seed=7, **{})

        @sundog.remote(num_returns=2)
        def parent(i):
            kept = sundog.put(i)
            return kept, child.remote(i)

        @sundog.remote
        def child(i):
            return sundog.put([i])

        for i in range(5):
            kept, made = parent.remote(i)
            print(kept.hex(), made.hex(), sundog.get(kept).hex(), sundog.get(made).hex(), sundog.get(sundog.get(made)).hex())
        """
    printed = {run(program.replace("**{}", f"backend={name!r}"), tmp_path).out for name in ("simulated", "local_processes")}
    assert len(printed) == 1
    assert len(printed.pop().split()) == 25


# -- ends ---------------------------------------------------------------------------------------------------------------------


def test_a_session_leaves_no_trace(simulate: Simulate) -> None:
    simulate()
    sundog.get([double.remote(i) for i in range(10)])
    sundog.shutdown()
    threads, state = threading.active_count(), random.getstate()
    for _ in range(5):
        with simulate():
            assert not gc.isenabled()
            sundog.get([double.remote(i) for i in range(10)])
    assert gc.isenabled()
    assert threading.active_count() == threads
    assert random.getstate() == state
    assert type(current) is type(sys)
    assert current.session is None


def test_a_session_that_was_not_shut_down_ends_with_the_program(tmp_path: Path) -> None:
    ended = run(
        """
        import atexit, time
        real = time.sleep

        @atexit.register
        def last():
            print("last", time.sleep is real)

        import sundog
        sundog.init(backend="simulated", num_cpus=2)

        @sundog.remote
        def forever():
            try:
                time.sleep(1e6)
            finally:
                print("unwound")

        kept = forever.remote()
        time.sleep(1)
        """,
        tmp_path,
    )
    assert (ended.code, ended.out) == (0, "unwound\nlast True\n"), ended.err


def test_a_failure_that_nobody_fetched_is_said_at_shutdown(simulate: Simulate, capsys: pytest.CaptureFixture[str]) -> None:
    simulate()

    @sundog.remote(max_retries=0)
    def fails():
        raise LookupError("nobody looks")

    kept = fails.remote()
    time.sleep(1)
    sundog.shutdown()
    assert "nobody looks" in capsys.readouterr().err
    del kept


def test_ctrl_c_ends_a_wait_and_the_session_goes_on(tmp_path: Path) -> None:
    ended = run(
        """
        import os, signal, threading, time
        import sundog

        @sundog.remote
        def spins(seconds):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                pass
            return "spun"

        with sundog.init(backend="simulated", num_cpus=2):
            timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            try:
                sundog.get(spins.remote(1e6))
                print("not reached")
            except (KeyboardInterrupt, sundog.TaskError) as error:
                print("interrupted", "KeyboardInterrupt" in repr(error) + str(error))
        print(time.time() > 1.7e9 + 3e7)
        """,
        tmp_path,
    )
    assert (ended.code, ended.out) == (0, "interrupted True\nTrue\n"), ended.err


def test_a_forked_child_has_real_time_and_no_session(simulate: Simulate, tmp_path: Path) -> None:
    simulate()
    path = tmp_path / "said"
    pid = os.fork()
    if pid == 0:
        try:
            path.write_text(f"{sundog.is_initialized()} {time.time() > 1.8e9 or time.time() > 1.75e9}")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert path.read_text() == "False True"
    assert sundog.get(double.remote(4)) == 8


# -- waiting in vain ----------------------------------------------------------------------------------------------------------


def test_a_deadlock_is_found_by_core_in_virtual_time(simulate: Simulate) -> None:
    simulate(num_gpus=1)

    @sundog.remote(num_gpus=1)
    def child():
        return 1

    @sundog.remote(num_gpus=1, max_retries=0)
    def parent():
        return sundog.get(child.remote())

    with pytest.raises(sundog.DeadlockError, match=r"parent.*child"):
        sundog.get(parent.remote())


def test_a_queue_that_runs_empty_raises_with_the_chain(simulate: Simulate) -> None:
    simulate(num_cpus=1)
    port: Any = current.session.port  # type: ignore[union-attr]
    pending = double.options(name="never run").remote(1)
    dependent = double.options(name="depends on it").remote(pending)
    time.sleep(0)
    port.node._effects[Dispatch] = lambda action: None  # planted: tasks get lost
    with pytest.raises(sundog.DeadlockError) as caught:
        sundog.get(dependent)
    for part in ("nothing is left to happen", "depends on it", "never run"):
        assert part in str(caught.value)


def test_a_bug_in_the_loop_ends_the_session_and_says_so(simulate: Simulate) -> None:
    simulate()
    port: Any = current.session.port  # type: ignore[union-attr]

    class Broken(type(port.node.host)):  # type: ignore[misc]
        def step(self, now: int, events: Any) -> Any:
            raise AssertionError("planted")

    port.node.host = Broken(port.node.config)
    with pytest.raises(AssertionError, match="planted"):
        sundog.get(double.remote(1))
    with pytest.raises(sundog.SessionClosedError, match=r"AssertionError.*planted"):
        sundog.get(double.remote(1))
    sundog.shutdown()
    with simulate():
        assert sundog.get(double.remote(1)) == 2


def test_a_blocking_call_in_a_futures_callback_is_refused(simulate: Simulate) -> None:
    simulate()
    said: list[str] = []

    def called(_: Any) -> None:
        try:
            sundog.get(double.remote(1))
        except RuntimeError as error:
            said.append(str(error))

    future = double.remote(1).future()
    future.add_done_callback(called)
    assert future.result() == 2
    assert len(said) == 1
    assert "callback" in said[0]


def test_nesting_goes_deeper_than_the_recursion_limit_of_one_stack(simulate: Simulate) -> None:
    simulate(num_cpus=1, check_invariants=False)

    @sundog.remote
    def level(n):
        return 0 if n == 0 else 1 + sundog.get(level.remote(n - 1))

    assert sundog.get(level.remote(300)) == 300


# -- random streams -----------------------------------------------------------------------------------------------------------


def test_every_task_draws_its_own_numbers_whoever_draws_between(simulate: Simulate) -> None:
    @sundog.remote
    def draws(others):
        first = random.random(), float(np.random.random()), random.randint(0, 10**9)
        time.sleep(random.random())
        sundog.get([double.remote(1) for _ in range(others)])
        return first, random.random(), float(np.random.normal())

    runs = []
    for cpus in (1, 4):
        with simulate(num_cpus=cpus):
            random.seed(5)
            np.random.seed(5)
            ids = [draws.remote(1) for _ in range(10)]
            mine = [random.random(), float(np.random.random())]
            values = sundog.get(ids)
            mine += [random.random(), float(np.random.random())]
            runs.append((values, mine))
    assert runs[0] == runs[1]
    random.seed(5)
    np.random.seed(5)
    expected = [random.random(), float(np.random.random()), random.random(), float(np.random.random())]
    assert runs[0][1] == expected
    assert len({first for first, _, _ in runs[0][0]}) == 10


def test_tasks_draw_what_they_draw_on_real_processes(simulate: Simulate) -> None:
    @sundog.remote
    def draws():
        return random.random(), float(np.random.random())

    with simulate():
        simulated = sundog.get([draws.remote() for _ in range(5)])
    with sundog.init(num_workers=2, seed=7):
        assert sundog.get([draws.remote() for _ in range(5)]) == simulated


def test_the_backend_is_not_imported_before_it_is_used() -> None:
    code = (
        "import sundog, sys; print(sorted({m.partition('.')[0] for m in sys.modules} & {'simpy', 'greenlet', 'asyncio', 'numpy'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout == "[]\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
