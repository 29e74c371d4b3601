"""What cannot be pickled, and calls that make no sense: refused where they are made, naming the culprit."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import sundog

shared = pytest.mark.usefixtures("session")


@sundog.remote(max_retries=0)
def divide(a, b):
    return a / b


@sundog.remote
def add(a, b):
    return a + b


# -- what does not pickle -----------------------------------------------------------------------------------------------------


class Model:
    def __init__(self) -> None:
        self.layers = [1, {"lock": threading.Lock()}]


@shared
def test_an_argument_that_does_not_pickle_is_named_with_its_path():
    with pytest.raises(TypeError) as caught:
        divide.remote(1, {"model": Model()})
    assert isinstance(caught.value, sundog.SerializationError)
    for part in ("divide", "'b'", "['model'].layers[1]['lock']", "lock"):
        assert part in str(caught.value), str(caught.value)


@shared
def test_a_put_value_that_does_not_pickle_is_named_with_its_path():
    with pytest.raises(sundog.SerializationError, match=r"\[2\]\.layers\[1\]\['lock'\]"):
        sundog.put([0, 1, Model()])


@shared
def test_a_return_value_that_does_not_pickle_is_named_with_its_path():
    @sundog.remote(max_retries=0)
    def returns_a_lock():
        return {"ok": 1, "bad": [threading.Lock()]}

    @sundog.remote(num_returns=2, max_retries=0)
    def second_is_bad():
        return 1, threading.Lock()

    with pytest.raises(sundog.SerializationError, match=r"\['bad'\]\[0\]") as caught:
        sundog.get(returns_a_lock.remote())
    assert isinstance(caught.value, sundog.TaskError)
    with pytest.raises(sundog.SerializationError, match="return value 1"):
        sundog.get(second_is_bad.remote())


@shared
def test_a_function_that_does_not_pickle_is_named_with_what_it_captured():
    lock = threading.Lock()

    @sundog.remote
    def guarded():
        with lock:
            return 1

    with pytest.raises(sundog.SerializationError, match="'lock'") as caught:
        guarded.remote()
    assert "guarded" in str(caught.value)


@shared
def test_a_function_that_does_not_load_in_the_worker_says_what_is_missing(tmp_path: Path):
    (tmp_path / "only_here_for_a_moment.py").write_text("def f():\n    return 1\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import only_here_for_a_moment  # type: ignore[import-not-found]

        wrapped = sundog.remote(only_here_for_a_moment.f)
        failing = wrapped.options(max_retries=0).remote()
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["only_here_for_a_moment"]
    with pytest.raises(sundog.FunctionMissingError, match="only_here_for_a_moment") as caught:
        sundog.get(failing)
    assert "sys.path" in str(caught.value)


# -- wrong calls --------------------------------------------------------------------------------------------------------------


@shared
def test_arguments_that_do_not_fit_are_refused_at_the_call():
    @sundog.remote
    def f(a, b, *, c=1):
        return a, b, c

    for args, kwargs, part in [
        ((1,), {}, "'b'"),
        ((1, 2, 3), {}, "2"),
        ((1, 2), {"d": 4}, "'d'"),
        ((1, 2), {"a": 4}, "'a'"),
    ]:
        with pytest.raises(TypeError, match=part) as caught:
            f.remote(*args, **kwargs)
        assert "f" in str(caught.value)


@shared
def test_the_wrong_number_of_returns_says_how_many_there_were():
    @sundog.remote(num_returns=3, max_retries=0)
    def two():
        return 1, 2

    @sundog.remote(num_returns=2, max_retries=0)
    def one():
        return 5

    for object_id in two.remote():
        with pytest.raises(ValueError, match=r"3.*2") as caught:
            sundog.get(object_id)
    assert isinstance(caught.value, sundog.TaskError)
    with pytest.raises(TypeError, match="2"):
        sundog.get(one.remote())


@shared
@pytest.mark.parametrize("wrong", [1, "text", None, [1], [None], {"a": 1}, ("a",)])
def test_get_of_what_is_no_id_says_so(wrong: Any):
    with pytest.raises(TypeError, match="ObjectID"):
        sundog.get(wrong)


@shared
def test_get_of_a_remote_function_or_of_nested_lists_says_what_to_do():
    with pytest.raises(TypeError, match=r"\.remote"):
        sundog.get(divide)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="ObjectID"):
        sundog.get([[sundog.put(1)]])  # type: ignore[arg-type]


@shared
def test_an_id_cannot_be_unpacked_and_the_error_says_what_to_do():
    with pytest.raises(TypeError, match="num_returns"):
        _a, _b = add.remote(1, 2)


@shared
def test_a_negative_timeout_is_refused():
    with pytest.raises(ValueError, match="timeout"):
        sundog.get(sundog.put(1), timeout=-1)
