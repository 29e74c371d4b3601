"""What a task raises is raised again, as its own type and as a TaskError, wherever that can be."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

import sundog
from sundog.backends import current
from sundog.backends.exceptions import Details, failure_error, task_error, task_error_type
from sundog.core import ids
from sundog.core.actions import ResolveGet
from sundog.core.events import GetRequested
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


@sundog.remote
def nested(depth: int, through: Any = None) -> Any:
    if not depth:
        raise ValueError("at the bottom")
    if through is None:
        return sundog.get(nested.remote(depth - 1))
    try:
        return sundog.get(nested.remote(depth - 1, through))
    except ValueError as error:
        raise through(f"level {depth}") from error


def error_bytes(depth: int, through: Any = None) -> tuple[int, ValueError]:
    """Return how many bytes the error of a chain of ``depth`` tasks takes that wait for each other, and the error."""
    session = current.get()
    assert session is not None
    reference = nested.remote(depth, through)
    with pytest.raises(ValueError, match="nested") as caught:
        sundog.get(reference)
    answer = session.port.ask(GetRequested(session.port.next_request(), (ids.ObjectID(reference[:]),)))
    assert isinstance(answer, ResolveGet)
    return answer.values[0].size, caught.value


@pytest.mark.parametrize("through", [None, ValueError])
def test_the_error_of_nested_tasks_grows_by_a_few_lines_for_each(port: LoopbackPort, through: Any):
    ten, _ = error_bytes(10, through)
    forty, error = error_bytes(40, through)
    assert forty < 4 * ten
    assert forty - ten < 30 * (500 if through is None else 2000)
    text = str(error)
    assert text.count('raise ValueError("at the bottom")') == 1
    assert pickle.loads(pickle.dumps(error)).args == error.args
    shown = "".join(traceback.format_exception(error))
    assert shown.count('raise ValueError("at the bottom")') == 1
    assert len(shown) < 50_000


def test_the_error_of_nested_tasks_tells_its_root_in_full_and_the_way_that_it_came(port: LoopbackPort):
    @sundog.remote(name="the inner")
    def inner():
        raise KeyError("the text")

    @sundog.remote(name="the middle")
    def middle():
        def asks():
            return sundog.get(inner.remote())

        return asks()

    @sundog.remote
    def passes(x):
        return x

    @sundog.remote(name="the outer")
    def outer():
        try:
            return sundog.get(passes.remote(middle.remote()))
        except KeyError as error:
            error.add_note("while it was tested")
            raise

    with pytest.raises(KeyError, match="the text") as caught:
        sundog.get(outer.remote())
    error: Any = caught.value
    lines = str(error).splitlines()
    assert lines[0].startswith("task 'the outer' failed (worker pid ")
    assert lines[0].endswith("): KeyError: 'the text'")
    assert lines[1] == "Traceback (most recent call last):"
    end = lines.index("KeyError: 'the text'")
    assert any('raise KeyError("the text")' in line for line in lines[1:end])
    first, at_first, second, at_second, note = lines[end + 1 :]
    assert first.startswith("This failed task 'the inner' (worker pid ")
    assert first.endswith("), and so task 'the middle':")
    assert at_first.startswith(f'  File "{__file__}", line ')
    assert at_first.endswith("in asks: return sundog.get(inner.remote())")
    way = "passes -> the middle (each needed the value of the next)"
    assert second == f"This failed {way}, and so task 'the outer':"
    assert at_second.endswith("in outer: return sundog.get(passes.remote(middle.remote()))")
    assert note == "while it was tested"
    assert error.remote_traceback.splitlines() == lines[1:]
    assert error.cause.remote_traceback.splitlines() == lines[1 : end + 3], "each cause has its part of it"
    assert str(error.cause).splitlines()[1:] == [str(error.cause).splitlines()[-1]]
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert str(again.cause) == str(error.cause)
    assert type(again.cause.cause.cause) is KeyError


def test_what_a_task_makes_of_an_error_of_another_holds_both(port: LoopbackPort):
    @sundog.remote
    def inner():
        raise KeyError("the text")

    @sundog.remote
    def outer():
        try:
            sundog.get(inner.remote())
        except KeyError as error:
            raise ExceptionGroup("both", [error, LookupError("mine")]) from error

    @sundog.remote
    def again():
        try:
            sundog.get(inner.remote())
        except KeyError as error:
            raise error from LookupError("another reason")

    with pytest.raises(ExceptionGroup) as caught:
        sundog.get(outer.remote())
    assert 'raise KeyError("the text")' in str(caught.value)
    assert "LookupError: mine" in str(caught.value)
    assert "KeyError: 'the text'\nThis failed task 'inner' (worker pid " in str(caught.value)
    with pytest.raises(KeyError) as other:
        sundog.get(again.remote())
    assert 'raise KeyError("the text")' in str(other.value)
    assert "another reason" in str(other.value)


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
