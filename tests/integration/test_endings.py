"""However a driver ends, nothing of its session is left; and Ctrl-C ends only what it is meant to."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support import leaks
from tests.support.programs import run, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real_processes

BUSY = """
    import os, sys, time
    import numpy as np
    import sundog

    sundog.init(num_workers=3)

    @sundog.remote
    def busy():
        import subprocess
        kept = [sundog.put(np.ones(100_000)), subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])]
        print("a worker is busy", flush=True)
        time.sleep(60)
        return kept

    @sundog.remote
    def parent():
        return sundog.get(busy.remote())

    kept = [sundog.put(np.zeros(1_000_000)), busy.remote(), parent.remote()]
    while True:
        ready, _ = sundog.wait(kept, num_returns=3, timeout=0.05)
        if sundog.available_resources()["CPU"] <= 1:
            break
    print("ready", flush=True)
    """


@pytest.mark.parametrize("ending", ["SIGKILL", "SIGTERM", "SIGINT", "exit", "os._exit", "exception", "exec"])
def test_a_busy_driver_that_ends_leaves_no_process_and_no_memory(tmp_path: Path, ending: str):
    ways = {
        "exit": "sys.exit(3)", "os._exit": "os._exit(3)", "exception": "raise LookupError",
        "exec": "os.execv(sys.executable, [sys.executable, '-c', 'raise SystemExit(3)'])",
    }  # fmt: skip
    last = ways.get(ending, "time.sleep(60)")
    with running(BUSY + f"sys.stdin.readline()\n    {last}\n", tmp_path) as program:
        program.said("ready")
        wait_until(lambda: len(leaks.session_processes(program.mark)) >= 5)  # one worker may run before the other is there
        assert program.left_behind()
        if ending.startswith("SIG"):
            program.signal(signal.Signals[ending])
        else:
            program.stdin.write(b"\n")
            program.stdin.flush()
        ended = program.ended(20)
        program.leaves_nothing()
    if ending == "exception":
        assert "LookupError" in ended.err
    elif not ending.startswith("SIG"):
        assert ended.code == 3
    elif ending != "SIGINT":
        assert ended.code == -signal.Signals[ending]


def test_a_driver_killed_while_it_starts_leaves_nothing(tmp_path: Path):
    with running(
        "import sundog\nprint('now', flush=True)\nsundog.init(num_workers=8)\nimport time; time.sleep(60)", tmp_path
    ) as program:
        program.said("now")
        for _ in range(1):
            program.signal(signal.SIGKILL)
        program.ended(20)
        program.leaves_nothing()


def test_a_thread_that_still_submits_does_not_keep_a_driver_from_ending(tmp_path: Path):
    ended = run(
        """
        import threading, time
        import sundog

        sundog.init(num_workers=2)

        @sundog.remote
        def f(x):
            return x

        def submit():
            while True:
                try:
                    sundog.get(f.remote(1))
                except RuntimeError:
                    return

        for _ in range(3):
            threading.Thread(target=submit, daemon=True).start()
        print(sundog.get([f.remote(i) for i in range(200)])[-1])
        """,
        tmp_path,
    )
    assert (ended.code, ended.out) == (0, "199\n"), ended.err
    assert "Fatal" not in ended.err


def test_ids_and_views_that_live_to_the_very_end_disturb_nobody(tmp_path: Path):
    ended = run(
        """
        import atexit, sys
        import numpy as np
        import sundog

        sundog.init(num_workers=1)
        kept = [sundog.put(i) for i in range(100)]
        view = sundog.get(sundog.put(np.arange(100_000)))
        ring = [kept]; ring.append(ring)
        sys.kept_by_a_module = (kept, view, ring)
        atexit.register(lambda: print("sum", int(view.sum())))
        """,
        tmp_path,
    )
    assert (ended.code, ended.out, ended.err) == (0, "sum 4999950000\n", "")


def test_a_driver_without_standard_streams_works(tmp_path: Path):
    ended = run(
        """
        import os
        for fd in (0, 1, 2):
            os.close(fd)
        import sundog

        @sundog.remote
        def f(x):
            print("nobody hears this")
            return x + 1

        sundog.init(num_workers=1)
        with open("result", "w") as file:
            print(sundog.get(f.remote(1)), file=file)
        """,
        tmp_path,
    )
    assert ended.code == 0
    assert (tmp_path / "result").read_text() == "2\n"


# -- forks --------------------------------------------------------------------------------------------------------------------


def test_a_forked_child_is_told_to_init_its_own_session_and_the_parent_goes_on(tmp_path: Path):
    ended = run(
        """
        import os, sys
        import numpy as np
        import sundog

        @sundog.remote
        def f(x):
            return x + 1

        sundog.init(num_workers=2)
        x = sundog.put(1)
        view = sundog.get(sundog.put(np.arange(100_000)))
        pending = [f.remote(i) for i in range(100)]
        pid = os.fork()
        if pid == 0:
            told = []
            calls = (
                lambda: sundog.get(x), lambda: sundog.put(1), lambda: f.remote(1), lambda: sundog.wait([x]), lambda: x.future(),
            )
            for call in calls:
                try:
                    call()
                except Exception as error:
                    told.append("init" in str(error))
            total = int(view.sum())
            del x, pending
            with sundog.init(num_workers=1):
                own = sundog.get(f.remote(10))
            print("child", told, total, own, flush=True)
            sys.exit(0)
        print("status", os.waitpid(pid, 0)[1])
        print("parent", sundog.get(pending) == list(range(1, 101)), sundog.get(x), sundog.get(f.remote(x)))
        """,
        tmp_path,
    )
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == [f"child {[True] * 5} 4999950000 11", "status 0", "parent True 1 2"], ended.err
    assert ended.err == ""


def test_a_forked_child_that_lives_longer_than_the_driver_keeps_nothing_alive(tmp_path: Path):
    source = """
        import os, sys, time
        import sundog

        sundog.init(num_workers=2)
        kept = sundog.put(b"x" * 1_000_000)
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        print("ready", flush=True)
        os._exit(0)
        """
    with running(source, tmp_path) as program:
        program.said("ready")
        program.ended(20)
        wait_until(lambda: not leaks.session_processes(program.mark), 10)
        [child] = leaks.processes_with(program.mark)
        assert leaks.is_alive(child)


def test_multiprocessing_beside_a_session_works(tmp_path: Path):
    ended = run(
        """
        import multiprocessing
        import sundog

        def square(x):
            return x * x

        @sundog.remote
        def f(x):
            return x + 1

        if __name__ == "__main__":
            sundog.init(num_workers=2)
            for method in ("fork", "spawn"):
                with multiprocessing.get_context(method).Pool(2) as pool:
                    print(pool.map(square, range(4)), sundog.get(f.remote(1)))
        """,
        tmp_path,
    )
    assert ended.out == "[0, 1, 4, 9] 2\n" * 2, ended.err


# -- Ctrl-C -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["get(pending)", "wait([pending])", "get([pending] * 3, timeout=60)", "get(in_another_session())"])
def test_ctrl_c_interrupts_a_blocked_call_at_once_and_the_session_is_usable(tmp_path: Path, call: str):
    call = call.replace("get(in_another_session())", "get(parent.remote())")
    source = f"""
        import sys, time
        import sundog

        @sundog.remote
        def slow():
            time.sleep(1.5)
            return "slow"

        @sundog.remote
        def parent():
            return sundog.get(slow.remote())

        @sundog.remote
        def quick(x):
            return x

        sundog.init(num_workers=2)
        sundog.get(quick.remote(1))
        pending = slow.remote()
        print("ready", flush=True)
        try:
            sundog.{call}
        except KeyboardInterrupt:
            print("interrupted", time.monotonic(), flush=True)
        print("goes on", sundog.get([quick.remote(i) for i in range(5)]), sundog.get(pending))
        """
    with running(source, tmp_path) as program:
        program.said("ready")
        state = f"/proc/{program.process.pid}/status"
        wait_until(lambda: "S (sleeping)" in Path(state).read_text())
        sent = time.monotonic()
        program.signal(signal.SIGINT)
        took = float(program.said("interrupted")) - sent
        ended = program.ended()
        program.leaves_nothing()
    assert took < 1.0, took  # the budget is 100 ms; the bound allows for a loaded machine
    assert ended.code == 0, ended.err
    assert "goes on [0, 1, 2, 3, 4] slow" in ended.out


def test_ctrl_c_at_a_terminal_reaches_the_driver_and_not_its_workers(tmp_path: Path):
    source = """
        import os, signal, time
        import sundog

        @sundog.remote(max_retries=0)
        def slow():
            time.sleep(0.5)
            return os.getpid()

        sundog.init(num_workers=2)
        pids = [slow.remote(), slow.remote()]
        print("ready", flush=True)
        for _ in range(3):
            try:
                values = sundog.get(pids)
                break
            except KeyboardInterrupt:
                print("interrupted", flush=True)
        print("values", len(set(values)))
        """
    with running(source, tmp_path) as program:
        program.said("ready")
        # A terminal signals its foreground process group: everything that is in the driver's.
        group = os.getpgid(program.process.pid)
        members = [pid for pid in leaks.processes_with(program.mark) if os.getpgid(pid) == group]
        for pid in members:
            os.kill(pid, signal.SIGINT)
        program.said("interrupted")
        ended = program.ended()
        program.leaves_nothing()
    assert "values 2" in ended.out, ended.err


INTERRUPTED = """
    import gc, os, random, signal, sys, threading, time
    import sundog

    COUNT, SEED = 2000, 1234567
    rng = random.Random(SEED)

    @sundog.remote
    def f(x):
        return x + 1

    @sundog.remote(num_returns=2)
    def two(x):
        return x, [x]

    sundog.init(num_workers=2)
    sundog.get([f.remote(1), *two.remote(1)])
    driver = os.getpid()
    stop = threading.Event()
    sent = 0

    def interrupts():
        global sent
        while sent < COUNT:
            time.sleep(rng.uniform(0.0, 0.003))
            sent += 1
            os.kill(driver, signal.SIGINT)
        stop.set()

    def loop():
        while not stop.is_set():
            ids = [f.remote(i) for i in range(5)]
            ids += two.remote(sundog.put(7))
            more = [f.remote(x) for x in ids[:3]]
            sundog.wait(ids, num_returns=2)
            assert sundog.get(more) == [2, 3, 4]
            assert sundog.get(ids[-1]) == [7]
            del ids, more

    thread = threading.Thread(target=interrupts)
    interrupted = wrong = 0
    started = False
    while True:
        try:
            if not started:
                started = True
                thread.start()
            loop()
            if stop.is_set():
                thread.join()
                break
        except KeyboardInterrupt as error:
            interrupted += 1
            error.__traceback__ = None
    print("interrupted", interrupted, "times of", sent, flush=True)
    assert sundog.get([f.remote(i) for i in range(100)]) == list(range(1, 101))
    end = time.monotonic() + 10
    gc.collect()
    while (sundog.table("objects") or sundog.table("tasks")) and time.monotonic() < end:
        time.sleep(0.02)
    print("left", sundog.table("objects")[:5], sundog.table("tasks")[:5], flush=True)
    sundog.shutdown()
    """


def test_two_thousand_interrupts_at_random_moments_lose_no_reference(tmp_path: Path):
    with running(INTERRUPTED, tmp_path) as program:
        ended = program.ended(60)
        program.leaves_nothing()
    assert ended.code == 0, ended.err[-3000:]
    assert "left [] []" in ended.out, ended.out
    words = ended.out.split()
    assert int(words[words.index("interrupted") + 1]) > 1000
    assert "Exception ignored" not in ended.err, ended.err[-3000:]
