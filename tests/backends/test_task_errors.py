"""What a task raises is raised again, as its own type and as a TaskError, wherever that can be."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import sundog
from sundog.backends.exceptions import Details, failure_error, task_error, task_error_type
from sundog.core.task import Failure, FailureKind
from tests.support.loopback import LoopbackPort, loopback


class Custom(Exception):
    def __init__(self, code: int, *, note: str) -> None:
        super().__init__(f"{code}: {note}")
        self.code = code
        self.message = note


class Slotted(ValueError):
    __slots__ = ("extra",)


@pytest.fixture
def port() -> Iterator[LoopbackPort]:
    with loopback() as made:
        yield made


ERRORS: list[BaseException] = [
    ValueError("x"), KeyError("k"), FileNotFoundError(2, "no such", "/f"), UnicodeDecodeError("utf8", b"\xff", 0, 1, "bad"),
    StopIteration(3), ImportError("no", name="n", path="p"), ExceptionGroup("several", [ValueError("a")]), MemoryError("m"),
    SyntaxError("bad", ("file", 1, 2, "text")), Slotted("s"), AssertionError(), RecursionError("deep"), sundog.DeadlockError("d"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_of_its_own_type_and_a_task_error(error: BaseException):
    made: Any = task_error(Details("task 'f' failed", "f", error, "Traceback ...", ("g", "h"), 7))
    for one in (made, pickle.loads(pickle.dumps(made))):
        assert isinstance(one, type(error))
        assert isinstance(one, sundog.TaskError)
        assert repr(one.args) == repr(error.args)
        assert one.function_name == "f"
        assert one.remote_traceback == "Traceback ..."
        assert one.trail == ("g", "h")
        assert type(one.cause) is type(error)
        assert one.__cause__ is one.cause
        assert str(one) == "g -> h -> f (each needed the value of the next)\ntask 'f' failed\nTraceback ..."
        for name in ("errno", "filename", "start", "value", "name", "exceptions", "lineno"):
            assert repr(getattr(one, name, None)) == repr(getattr(error, name, None))


def test_attributes_of_a_users_exception_go_before_ours(port: LoopbackPort):
    @sundog.remote
    def fails():
        error = ValueError("text")
        error.pid = "mine"  # type: ignore[attr-defined]
        raise error

    with pytest.raises(ValueError, match="fails") as caught:
        sundog.get(fails.remote())
    assert caught.value.pid == "mine"  # type: ignore[attr-defined]
    assert caught.value.args == ("text",)


def test_programs_end_only_where_they_want_to():
    for kind in (SystemExit, KeyboardInterrupt, GeneratorExit):
        assert task_error_type(kind) is sundog.TaskError
        assert isinstance(task_error(Details("m", "f", kind(3))).cause, kind)


@pytest.mark.parametrize("ending", [SystemExit(3), KeyboardInterrupt()])
def test_a_task_that_wants_to_end_its_process_fails(port: LoopbackPort, ending: BaseException):
    @sundog.remote
    def leaves():
        raise ending

    with pytest.raises(sundog.TaskError, match=type(ending).__name__):
        sundog.get(leaves.remote())


def test_an_exception_that_does_not_load_again_arrives_as_text(port: LoopbackPort):
    @sundog.remote
    def fails():
        raise Custom(4, note="four")

    with pytest.raises(sundog.TaskError, match="4: four") as caught:
        sundog.get(fails.remote())
    assert type(caught.value) is sundog.TaskError
    assert caught.value.cause is None


def test_causes_are_in_the_text_and_our_frames_are_not(port: LoopbackPort):
    @sundog.remote
    def fails():
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError as error:
            raise LookupError("found nothing") from error

    with pytest.raises(LookupError) as caught:
        sundog.get(fails.remote())
    text = str(caught.value)
    assert "ZeroDivisionError: division by zero" in text
    assert "direct cause" in text
    assert "task_body" not in text
    assert text.startswith("task 'fails' failed (worker pid ")


def test_an_error_that_a_task_met_in_get_keeps_its_root_type(port: LoopbackPort):
    @sundog.remote
    def inner():
        raise KeyError("root")

    @sundog.remote
    def outer():
        return sundog.get(inner.remote())

    with pytest.raises(KeyError) as caught:
        sundog.get(outer.remote())
    assert isinstance(caught.value, sundog.TaskError)
    assert caught.value.function_name == "outer"
    assert isinstance(caught.value.cause, sundog.TaskError)
    assert caught.value.cause.function_name == "inner"


def test_an_error_goes_through_arguments_with_its_path(port: LoopbackPort):
    @sundog.remote
    def first():
        raise ValueError("here")

    @sundog.remote
    def then(x):
        return x

    with pytest.raises(ValueError, match="then -> then -> first") as caught:
        sundog.get(then.remote(then.remote(first.remote())))
    assert isinstance(caught.value, sundog.TaskError)
    assert caught.value.trail == ("then", "then")


@pytest.mark.parametrize("kind", list(FailureKind))
def test_every_failure_has_its_exception(kind: FailureKind):
    alone = failure_error(Failure(kind, "what happened"))
    assert isinstance(alone, sundog.SundogError)
    assert type(alone) is not sundog.SundogError
    assert str(alone) == "what happened"
    spread = failure_error(Failure(kind, "what happened"), ("f", "g"))
    assert isinstance(spread, type(alone))
    assert isinstance(spread, sundog.TaskError)
    assert str(spread) == "f -> g (each needed the value of the next)\nwhat happened"
    for error in (alone, spread):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)


def test_wrong_numbers_of_returns_name_the_counts(port: LoopbackPort):
    function = sundog.remote(lambda value: value)
    for returned, count, text in (((1, 2), 3, "num_returns=3 but returned 2"), (5, 2, "one int")):
        references = function.options(num_returns=count, name="f").remote(returned)
        assert len(references) == count
        with pytest.raises((TypeError, ValueError), match=text):
            sundog.get(references)
    assert function.options(num_returns=0).remote(1) is None
