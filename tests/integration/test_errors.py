"""What goes wrong is said at the call that is to blame: what it was, where, and what to do."""

from __future__ import annotations

import builtins
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sundog
from tests.support.files import Gate, Notes
from tests.support.inspection import table
from tests.support.programs import run, running
from tests.support.waiting import wait_until

shared = pytest.mark.usefixtures("session")


@sundog.remote(max_retries=0)
def divide(a, b):
    return a / b


@sundog.remote(max_retries=0)
def fails_at_length(size):
    raise LookupError("x" * size)


@shared
def test_a_large_error_passes_through_what_needs_it() -> None:
    failed = fails_at_length.remote(300_000)
    for one in (failed, add.remote(failed, 1), add.remote(add.remote(1, failed), 2)):
        with pytest.raises(LookupError) as caught:
            sundog.get(one)
        assert len(caught.value.args[0]) == 300_000
    with pytest.raises(sundog.TaskError, match="LookupError"):
        sundog.get(add.remote(fails_at_length.remote(3_000_000), 1))


@sundog.remote
def add(a, b):
    return a + b


class Awkward(Exception):
    """Pickles, and does not load again: its ``__init__`` wants more than ``args`` holds."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


class WithDetails(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


# -- a task's own errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["raises", "crashes"])
def test_a_task_without_returns_that_fails_says_so_and_ends_nobodys_session(ends: str, tmp_path: Path) -> None:
    done = run(
        f"""
        import os, sundog

        @sundog.remote(num_returns=0, max_retries=0)
        def fails():
            {"raise ValueError('told by nobody else')" if ends == "raises" else "os._exit(3)"}

        @sundog.remote
        def one():
            return 1

        with sundog.init(num_workers=1):
            assert fails.remote() is None
            assert sundog.get(one.remote()) == 1
    """,
        tmp_path,
    )
    assert done.code == 0, done.err
    assert "'fails' failed" in done.err
    assert ("told by nobody else" if ends == "raises" else "died with exit code 3") in done.err


@shared
def test_an_error_keeps_its_type_and_is_a_task_error_too():
    failed = divide.remote(1, 0)
    with pytest.raises(ZeroDivisionError) as caught:
        sundog.get(failed)
    error = caught.value
    assert isinstance(error, sundog.TaskError)
    assert isinstance(error.cause, ZeroDivisionError)
    assert error.__cause__ is error.cause
    assert "divide" in error.function_name
    with pytest.raises(sundog.TaskError):
        sundog.get(failed)


@shared
def test_an_error_carries_the_remote_traceback():
    @sundog.remote(max_retries=0)
    def outer_body():
        def inner_function():
            raise LookupError("the text")

        inner_function()

    with pytest.raises(LookupError) as caught:
        sundog.get(outer_body.remote())
    text = str(caught.value)
    for part in ("outer_body", "inner_function", "the text", "test_errors.py", 'raise LookupError("the text")', "worker"):
        assert part in text, f"{part!r} in:\n{text}"
    assert "task_body.py" not in text, "the engine's own frames are of no interest"


@shared
def test_an_error_with_attributes_of_its_own_keeps_them():
    @sundog.remote(max_retries=0)
    def fails():
        raise WithDetails(42)

    @sundog.remote(max_retries=0)
    def missing():
        open("/no/such/file")  # noqa: SIM115

    with pytest.raises(WithDetails) as caught:
        sundog.get(fails.remote())
    assert caught.value.code == 42
    with pytest.raises(FileNotFoundError) as missed:
        sundog.get(missing.remote())
    assert missed.value.filename == "/no/such/file"


@shared
def test_an_exception_raised_from_another_shows_both():
    @sundog.remote(max_retries=0)
    def fails():
        try:
            dict[str, int]()["the key"]
        except KeyError as error:
            raise LookupError("the reason") from error

    with pytest.raises(LookupError) as caught:
        sundog.get(fails.remote())
    assert "the key" in str(caught.value)
    assert "direct cause" in str(caught.value)


@shared
def test_a_task_that_gets_a_failed_argument_fails_with_the_same_cause_naming_the_path():
    failed = divide.options(name="the first").remote(1, 0)
    second = add.options(name="the second").remote(failed, 1)
    third = add.options(name="the third").remote(1, second)
    with pytest.raises(ZeroDivisionError) as caught:
        sundog.get(third)
    assert isinstance(caught.value, sundog.TaskError)
    assert "the third -> the second -> the first" in str(caught.value)
    assert caught.value.trail == ("the third", "the second")
    with pytest.raises(ZeroDivisionError):
        sundog.get([sundog.put(1), second, failed])


@shared
def test_an_error_that_a_parent_met_in_its_child_names_both():
    @sundog.remote(max_retries=0)
    def parent():
        return sundog.get(divide.options(name="the child").remote(1, 0))

    with pytest.raises(ZeroDivisionError) as caught:
        sundog.get(parent.options(name="the parent").remote())
    assert "the child" in str(caught.value)
    assert "the parent" in str(caught.value)


@shared
def test_all_returns_of_a_failed_task_fail():
    @sundog.remote(num_returns=2, max_retries=0)
    def fails():
        raise LookupError("both")

    for object_id in fails.remote():
        with pytest.raises(LookupError, match="both"):
            sundog.get(object_id)


@shared
@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_what_ends_programs_arrives_as_a_task_error_and_the_worker_lives_on(kind: str):
    @sundog.remote(max_retries=0)
    def fails():
        raise getattr(builtins, kind)("ends")

    @sundog.remote
    def who():
        return os.getpid()

    before = set(sundog.get([who.remote() for _ in range(20)]))
    with pytest.raises(sundog.TaskError, match=kind) as caught:
        sundog.get(fails.remote())
    assert isinstance(caught.value, Exception)
    assert not isinstance(caught.value, (SystemExit, KeyboardInterrupt))
    assert set(sundog.get([who.remote() for _ in range(20)])) <= before


@shared
def test_sys_exit_in_a_task_does_not_end_the_driver():
    @sundog.remote(max_retries=0)
    def fails():
        sys.exit(3)

    with pytest.raises(sundog.TaskError, match=r"SystemExit.*3"):
        sundog.get(fails.remote())


@shared
def test_an_exception_that_does_not_load_again_arrives_as_a_task_error_with_its_text():
    @sundog.remote(max_retries=0)
    def fails():
        raise Awkward("the first", "the second")

    with pytest.raises(sundog.TaskError, match="the first") as caught:
        sundog.get(fails.remote())
    assert "Awkward" in str(caught.value)


@shared
def test_an_exception_that_does_not_pickle_arrives_as_a_task_error_with_its_text():
    @sundog.remote(max_retries=0)
    def fails():
        error = LookupError("has a lock")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    with pytest.raises(sundog.TaskError, match="has a lock"):
        sundog.get(fails.remote())


@shared
def test_an_exception_group_and_a_text_that_raises_arrive():
    class Nasty(Exception):
        def __str__(self):
            raise RuntimeError("no text for you")

    @sundog.remote(max_retries=0)
    def group():
        raise ExceptionGroup("several", [ValueError("one"), LookupError("two")])

    @sundog.remote(max_retries=0)
    def nasty():
        raise Nasty

    with pytest.raises(ExceptionGroup) as caught:
        sundog.get(group.remote())
    assert [type(error) for error in caught.value.exceptions] == [ValueError, LookupError]
    with pytest.raises(sundog.TaskError, match="Nasty"):
        sundog.get(nasty.remote())


# -- waiting in vain ----------------------------------------------------------------------------------------------------------


@shared
def test_a_timeout_says_what_was_waited_for_and_why(gate: Gate):
    @sundog.remote(name="slow one")
    def when_told():
        gate.wait()

    pending = when_told.remote()
    dependent = add.options(name="dependent one").remote(pending, 1)
    wait_until(lambda: any(row["state"] == "dispatched" for row in table("tasks")))
    with pytest.raises(sundog.GetTimeoutError) as caught:
        sundog.get([sundog.put(1), dependent], timeout=0.05)
    text = str(caught.value)
    for part in ("0.05", dependent.hex(), "dependent one", "slow one", "running"):
        assert part in text, text
    del caught
    gate.open()
    sundog.wait([dependent])
    with pytest.raises(TypeError):
        sundog.get(dependent)


@pytest.mark.real_processes
def test_a_get_that_is_stuck_says_for_what_and_why(start: Callable[..., Any], gate: Gate, capfd: pytest.CaptureFixture[str]):
    start(num_workers=1, config={"stuck_after": 100_000_000})

    @sundog.remote(name="slow one")
    def when_told():
        gate.wait()
        return 1

    pending = when_told.remote()
    wait_until(lambda: any(row["running"] == "slow one" for row in table("workers")))
    values: list[int] = []
    getter = threading.Thread(target=lambda: values.append(sundog.get(pending)))
    getter.start()
    seen: list[str] = []

    def said() -> bool:
        seen.append(capfd.readouterr().err)
        return "slow one" in "".join(seen)

    try:
        wait_until(said)
        assert "running" in "".join(seen)
    finally:
        gate.open()
        getter.join(20)
    assert values == [1]


def test_a_task_that_asks_for_what_no_node_has_fails_after_a_grace_naming_it(start: Callable[..., Any]):
    start(num_workers=2, config={"infeasible_grace": 200_000_000})
    wanted: list[dict[str, Any]] = [{"num_gpus": 1}, {"num_cpus": 64}, {"resources": {"telescope": 2}}]
    parts = "1 GPU", "CPU", "telescope"
    for options, part in zip(wanted, parts, strict=True):
        with pytest.raises(sundog.InfeasibleError, match=part):
            sundog.get(divide.options(**options).remote(1, 2), timeout=20)
    dependent = add.remote(divide.options(num_gpus=1).remote(1, 2), 1)
    with pytest.raises(sundog.InfeasibleError, match="GPU"):
        sundog.get(dependent)
    assert sundog.get(divide.remote(1, 2)) == 0.5


def test_a_parent_that_holds_the_gpu_its_child_needs_is_a_deadlock_with_its_chain(start: Callable[..., Any]):
    start(num_workers=2, num_gpus=1)

    @sundog.remote(num_gpus=1, name="the child")
    def child():
        return 1

    @sundog.remote(num_gpus=1, name="the parent", max_retries=0)
    def parent():
        return sundog.get(child.remote())

    with pytest.raises(sundog.DeadlockError) as caught:
        sundog.get(parent.remote(), timeout=20)
    for part in ("the parent", "the child", "GPU"):
        assert part in str(caught.value)
    assert sundog.get(child.remote(), timeout=20) == 1, "the session goes on"


def test_a_parent_may_catch_the_deadlock_and_go_on(start: Callable[..., Any]):
    start(num_workers=2, num_gpus=1)

    @sundog.remote(num_gpus=1)
    def child():
        return "child"

    @sundog.remote(num_gpus=1)
    def parent():
        try:
            return sundog.get(child.remote())
        except sundog.DeadlockError:
            return "went on"

    assert sundog.get(parent.remote(), timeout=20) == "went on"


# -- nobody looked ------------------------------------------------------------------------------------------------------------


@pytest.mark.real_processes
def test_a_failure_that_nobody_fetched_is_printed_once_at_the_latest_at_shutdown(tmp_path: Path, backend: str):
    ended = run(
        f"""
        import sundog

        @sundog.remote(max_retries=0)
        def unheard(i):
            raise LookupError(f"nobody looks at {{i}}")

        @sundog.remote(max_retries=0)
        def heard():
            raise LookupError("somebody looks")

        sundog.init(num_workers=1, backend={backend!r})
        unheard.remote(1)
        kept = unheard.remote(2)
        looked_at = heard.remote()
        try:
            sundog.get(looked_at)
        except LookupError:
            pass
        sundog.wait([kept])
        sundog.shutdown()
        """,
        tmp_path,
    )
    assert ended.code == 0
    assert ended.err.count("LookupError: nobody looks at 1") == 1, ended.err
    assert ended.err.count("LookupError: nobody looks at 2") == 1, ended.err
    assert "somebody looks" not in ended.err


@pytest.mark.real_processes
def test_a_failure_that_nobody_fetched_is_printed_as_soon_as_its_id_is_gone(tmp_path: Path, backend: str):
    source = f"""
        import sys, sundog

        @sundog.remote(max_retries=0)
        def unheard():
            raise LookupError("nobody looks")

        sundog.init(num_workers=1, backend={backend!r})
        unheard.remote()
        print("ready", flush=True)
        sys.stdin.readline()
        """
    with running(source, tmp_path) as program:
        program.said("ready")
        wait_until(lambda: "nobody looks" in program.err())
        program.stdin.close()
        ended = program.ended()
    assert ended.err.count("LookupError: nobody looks") == 1


# -- retries ------------------------------------------------------------------------------------------------------------------


@shared
def test_a_task_that_raised_is_not_run_again_unless_it_asks_for_it(notes: Notes):
    @sundog.remote(max_retries=5)
    def fails():
        notes.write("ran")
        raise LookupError("once")

    with pytest.raises(LookupError):
        sundog.get(fails.remote())
    assert len(notes.lines()) == 1


@shared
@pytest.mark.parametrize(("retry", "runs"), [(True, 3), ((LookupError,), 3), ([KeyError], 3), ((ValueError,), 1), (False, 1)])
def test_a_task_is_run_again_after_the_exceptions_that_it_declares(notes: Notes, retry: Any, runs: int):
    @sundog.remote(max_retries=2, retry_exceptions=retry)
    def fails():
        notes.write("ran")
        raise KeyError("always")

    with pytest.raises(KeyError):
        sundog.get(fails.remote())
    assert len(notes.lines()) == runs


@shared
def test_a_retry_that_succeeds_gives_its_value(notes: Notes):
    @sundog.remote(max_retries=3, retry_exceptions=True)
    def third_time():
        notes.write("ran")
        if len(notes.lines()) < 3:
            raise LookupError("not yet")
        return "at last"

    assert sundog.get(third_time.remote()) == "at last"
    assert len(notes.lines()) == 3
