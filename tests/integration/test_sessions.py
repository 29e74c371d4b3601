"""Sessions begin and end, follow each other, and are what their settings say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sundog
from tests.support.inspection import workers
from tests.support.programs import run
from tests.support.waiting import wait_until


@sundog.remote
def add(a, b):
    return a + b


def test_a_session_begins_and_ends(start: Callable[..., Any]):
    assert not sundog.is_initialized()
    start(num_workers=1)
    assert sundog.is_initialized()
    with pytest.raises(RuntimeError, match="shutdown"):
        sundog.init(num_workers=1)
    assert sundog.get(add.remote(1, 2)) == 3
    sundog.shutdown()
    sundog.shutdown()
    assert not sundog.is_initialized()


def test_a_session_is_a_context_manager(start: Callable[..., Any]):
    with start(num_workers=1):
        assert sundog.get(add.remote(1, 2)) == 3
    assert not sundog.is_initialized()
    with pytest.raises(LookupError, match="mine"), start(num_workers=1):
        raise LookupError("mine")
    assert not sundog.is_initialized()


def test_sessions_follow_each_other_and_functions_work_in_each(start: Callable[..., Any]):
    for i in range(3):
        with start(num_workers=1):
            assert sundog.get(add.remote(i, 1)) == i + 1


def test_num_cpus_and_num_workers_are_two_names_of_one_number(start: Callable[..., Any]):
    with pytest.raises(ValueError, match="num_cpus"):
        start(num_workers=2, num_cpus=3)
    start(num_cpus=3, num_workers=3)
    assert sundog.cluster_resources()["CPU"] == 3.0


@pytest.mark.real_processes
def test_as_many_workers_as_asked_for_are_there(start: Callable[..., Any]):
    start(num_workers=4)
    wait_until(lambda: len(workers()) == 4)


def test_an_id_of_a_session_that_has_ended_is_refused(start: Callable[..., Any]):
    with start(num_workers=1):
        old = sundog.put(1)
    with start(num_workers=1), pytest.raises((ValueError, RuntimeError, KeyError), match="session"):
        sundog.get(old)


@pytest.mark.real_processes
def test_a_call_before_init_starts_a_session_and_says_so_once(tmp_path: Path):
    ended = run(
        """
        import sundog

        @sundog.remote
        def f(x):
            return x + 1

        print(sundog.get([f.remote(1), f.remote(2)]), sundog.get(sundog.put(3)))
        """,
        tmp_path,
    )
    assert (ended.code, ended.out) == (0, "[2, 3] 3\n"), ended.err
    assert ended.err.startswith("sundog: ")
    assert ended.err.count("\n") == 1
    assert "init" in ended.err


@pytest.mark.real_processes
def test_a_seed_makes_ids_the_same_from_run_to_run_and_without_one_they_differ(tmp_path: Path):
    program = """
        import sys, sundog
        seed = eval(sys.stdin.read())
        sundog.init(num_workers=2, **({} if seed is None else {"seed": seed}))

        @sundog.remote(num_returns=2)
        def f():
            return sundog.put(1), sundog.put(2)

        ids = [*f.remote(), sundog.put(0), *f.remote()]
        print(*[x.hex() for x in ids], *[sundog.get(ids[i]).hex() for i in (0, 1, 3, 4)])
        """
    runs = {}
    for number, seed in enumerate(["7", "7", "8", "None", "None"]):
        source = program.replace("sys.stdin.read()", repr(seed))
        runs[number] = run(source, tmp_path, {"PYTHONHASHSEED": str(number)}).out
    assert len(runs[0].split()) == 9
    assert runs[0] == runs[1]
    assert len({runs[0], runs[2], runs[3], runs[4]}) == 4


@pytest.mark.real_processes
def test_init_while_a_worker_imports_a_module_is_an_error_that_says_so(tmp_path: Path):
    (tmp_path / "starts_at_import.py").write_text("import sundog\nsundog.init(num_workers=1)\ndef f():\n    return 1\n")
    ended = run(
        """
        import sundog

        @sundog.remote
        def f():
            import starts_at_import
            return starts_at_import.f()

        with sundog.init(num_workers=1):
            try:
                sundog.get(f.remote())
            except RuntimeError as error:
                print("refused", "worker" in str(error))
        """,
        tmp_path,
    )
    assert ended.out == "refused True\n", ended.err
