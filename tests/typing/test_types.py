"""What type checkers see: this file is checked, by mypy with the rest of the tests; nothing in it runs but the last test.

``assert_type`` fails the check where a type is not the one expected; an ignored error that does not occur fails it too.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, assert_type

import sundog


@sundog.remote
def add(x: int, y: int = 0) -> int:
    return x + y


@sundog.remote(num_cpus=2, max_retries=1)
def name(x: int) -> str:
    return str(x)


@sundog.remote(num_returns=2)
def pair(x: int) -> tuple[int, str]:
    return x, str(x)


def checked() -> None:
    one = add.remote(1)
    assert_type(one, sundog.ObjectID[int])
    assert_type(sundog.get(one), int)
    assert_type(sundog.get(name.remote(1)), str)
    assert_type(sundog.get([one, one]), list[int])
    assert_type(sundog.get((one, name.remote(1))), tuple[int, str])
    assert_type(sundog.get({"a": one}), dict[str, int])
    assert_type(sundog.get(add.remote(one, y=one)), int)  # an ID may stand for an argument
    assert_type(pair.remote(1), list[sundog.ObjectID[Any]])
    assert_type(add.options(num_cpus=0.5).remote(1), sundog.ObjectID[int])
    assert_type(add.options(num_returns=2).remote(1), list[sundog.ObjectID[Any]])
    assert_type(sundog.put("text"), sundog.ObjectID[str])
    assert_type(sundog.wait([one]), tuple[list[sundog.ObjectID[int]], list[sundog.ObjectID[int]]])
    assert_type(one.future(), Future[int])
    assert_type(list(sundog.map(add, [1, 2])), list[int])
    assert_type(list(sundog.map(str, [1, 2])), list[str])
    assert_type(sundog.cancel(one), bool)
    assert_type(sundog.cancel([one]), list[bool])
    assert_type(next(sundog.as_completed([one])), sundog.ObjectID[int])
    sundog.get(5)  # type: ignore[call-overload]
    sundog.remote(num_cpus="two")  # type: ignore[call-overload]
    with sundog.init(num_workers=2):
        pass


async def awaited() -> None:
    assert_type(await add.remote(1), int)


if TYPE_CHECKING:
    asyncio.run(awaited())


def test_the_examples_above_are_remote_functions() -> None:
    assert isinstance(add, sundog.RemoteFunction)
    assert repr(name) == "<remote function name>"
