"""What may be remote, and how functions travel."""

from __future__ import annotations

import functools
import math
import operator
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sundog
from tests.support.files import Gate
from tests.support.inspection import table
from tests.support.programs import run

shared = pytest.mark.usefixtures("session")


class Counter:
    def __init__(self, step):
        self.step = step

    def after(self, x):
        return x + self.step

    @staticmethod
    def doubled(x):
        return 2 * x

    @classmethod
    def called(cls):
        return cls.__name__

    def __call__(self, x):
        return x * self.step


@shared
def test_lambdas_partials_methods_builtins_and_callables_can_be_remote():
    cases: list[tuple[Any, tuple[Any, ...], Any]] = [
        (lambda x: x + 1, (1,), 2),
        (functools.partial(divmod, 17), (5,), (3, 2)),
        (functools.partial(lambda a, b: a - b, b=1), (5,), 4),
        (Counter(3).after, (4,), 7),
        (Counter.doubled, (4,), 8),
        (Counter.called, (), "Counter"),
        (Counter(3), (4,), 12),
        (math.sqrt, (16,), 4.0),
        (len, ([1, 2],), 2),
        (operator.itemgetter(1), ([5, 6],), 6),
        ("a,b".split, (",",), ["a", "b"]),
    ]
    ids = [sundog.remote(function).remote(*args) for function, args, _ in cases]
    assert sundog.get(ids) == [expected for _, _, expected in cases]


@shared
def test_a_staticmethod_can_be_remote_in_its_class():
    class Holder:
        @staticmethod
        @sundog.remote
        def outside(x):
            return x + 1

        @sundog.remote
        @staticmethod
        def inside(x):
            return x + 2

    assert sundog.get([Holder.outside.remote(1), Holder.inside.remote(1)]) == [2, 3]


@pytest.mark.parametrize("kind", ["async def", "async generator", "generator", "class", "no function"])
def test_what_cannot_be_remote_says_at_decoration_what_to_do(kind: str):
    async def coroutine():
        return 1

    async def async_generator():
        yield 1

    def generator():
        yield 1

    class Actor:
        pass

    wrong: Any = {
        "async def": coroutine, "async generator": async_generator, "generator": generator, "class": Actor, "no function": 5,
    }[kind]  # fmt: skip
    with pytest.raises(TypeError) as caught:
        sundog.remote(wrong)
    text = str(caught.value)
    assert len(text) > 30
    assert {"async def": "asyncio.run", "async generator": "async", "generator": "list", "class": "function", "no function": "5"}[
        kind
    ] in text
    with pytest.raises(TypeError):
        sundog.remote(num_returns=2)(wrong)


def test_a_remote_function_called_directly_says_how_to_call_it():
    @sundog.remote
    def f(x):
        return x

    with pytest.raises(TypeError, match=r"f\.remote\("):
        f(1)


def test_a_remote_function_keeps_name_and_docstring():
    @sundog.remote
    def documented():
        """What it does."""

    assert documented.__doc__ == "What it does."
    assert documented.__name__ == "documented"
    assert "documented" in repr(documented)


@shared
def test_closures_travel_with_what_they_captured():
    factor, table_of = 3, {"a": [1, 2]}

    def helper(x):
        return factor * x

    @sundog.remote
    def f(x):
        return helper(x), table_of["a"]

    assert sundog.get(f.remote(5)) == (15, [1, 2])


@shared
def test_a_function_that_calls_itself():
    @sundog.remote
    def factorial(n):
        return 1 if n <= 1 else n * sundog.get(factorial.remote(n - 1))

    assert sundog.get(factorial.remote(8)) == 40320


@shared
def test_functions_that_call_each_other():
    @sundog.remote
    def is_even(n):
        return True if n == 0 else sundog.get(is_odd.remote(n - 1))

    @sundog.remote
    def is_odd(n):
        return False if n == 0 else sundog.get(is_even.remote(n - 1))

    assert sundog.get([is_even.remote(6), is_odd.remote(6), is_even.remote(7)]) == [True, False, False]


@shared
def test_a_function_may_name_what_is_defined_after_it():
    module = types.ModuleType("made_by_the_test")
    sys.modules["made_by_the_test"] = module
    try:
        exec(
            "import sundog\n@sundog.remote\ndef f(x):\n    return later(x)\ndef later(x):\n    return x + CONSTANT\nCONSTANT = 5\n",
            module.__dict__,
        )
        assert sundog.get(module.f.remote(1)) == 6
        module.__dict__["CONSTANT"] = 50
        assert sundog.get(module.f.remote(1)) == 51, "a global that was bound anew is seen by the next call"
    finally:
        del sys.modules["made_by_the_test"]


@shared
def test_redefinition_leaves_calls_in_flight_what_they_were(gate: Gate):
    def defined(text):
        @sundog.remote
        def f():
            gate.wait()
            return text

        return f

    f = defined("old")
    old = [f.remote() for _ in range(3)]
    f = defined("new")
    new = [f.remote() for _ in range(3)]
    gate.open()
    assert sundog.get(old) == ["old"] * 3
    assert sundog.get(new) == ["new"] * 3


@shared
def test_functions_defined_in_tasks_run_in_other_tasks_and_come_back():
    @sundog.remote
    def outer(n):
        @sundog.remote
        def inner(x):
            return x * n

        def plain(x):
            return x - n

        return sundog.get([inner.remote(i) for i in range(3)]), inner, plain

    values, inner, plain = sundog.get(outer.remote(10))
    assert values == [0, 10, 20]
    assert plain(11) == 1
    assert sundog.get(inner.remote(7)) == 70


@shared
def test_a_remote_function_may_be_an_argument():
    @sundog.remote
    def triple(x):
        return 3 * x

    @sundog.remote
    def apply(f, x):
        return sundog.get(f.remote(x))

    assert sundog.get(apply.remote(triple, 5)) == 15


def test_a_function_is_exported_once_however_often_it_is_called(start: Callable[..., Any]):
    start(num_workers=2)

    @sundog.remote
    def f(x):
        return x

    @sundog.remote
    def caller(x):
        return sundog.get([f.remote(i) for i in range(x)])

    sundog.get([f.remote(i) for i in range(100)])
    assert [row["name"] for row in table("functions")] == [table("functions")[0]["name"]]
    sundog.get([caller.remote(5) for _ in range(10)])
    assert len(table("functions")) == 2


@shared
def test_a_function_whose_closure_changed_is_exported_again():
    value = "first"

    @sundog.remote
    def f():
        return value

    assert sundog.get(f.remote()) == "first"
    value = "second"
    assert sundog.get(f.remote()) == "second"


@pytest.mark.real_processes
def test_functions_and_classes_of_main_work(tmp_path: Path):
    ended = run(
        """
        from dataclasses import dataclass
        import sundog

        @dataclass
        class Point:
            x: int

            def moved(self):
                return Point(self.x + 1)

        STEP = 1

        @sundog.remote
        def move(point):
            return helper(point)

        def helper(point):
            assert isinstance(point, Point)
            return Point(point.moved().x - 1 + STEP)

        @sundog.remote
        def fib(n):
            return n if n < 2 else sum(sundog.get([fib.remote(n - 1), fib.remote(n - 2)]))

        class Refused(Exception):
            pass

        @sundog.remote(max_retries=0)
        def refuses():
            raise Refused("no")

        if __name__ == "__main__":
            with sundog.init(num_workers=2):
                print(sundog.get(move.remote(Point(1))) == Point(2), sundog.get(move.remote(sundog.put(Point(2)))))
                STEP = 10
                print(sundog.get(move.remote(Point(1))), sundog.get(fib.remote(7)))
                try:
                    sundog.get(refuses.remote())
                except Refused as error:
                    print("refused", isinstance(error, sundog.TaskError))
        """,
        tmp_path,
    )
    assert ended.out.splitlines() == ["True Point(x=3)", "Point(x=11) 13", "refused True"], ended.err


@pytest.mark.parametrize("of", ["local_processes", "simulated"])
def test_a_global_that_methods_of_main_use_changes_here_and_in_workers(tmp_path: Path, of: str):
    """Also here: what a worker returns must not put copies in place of the methods of this process's class."""
    ended = run(
        f"""
        import sundog

        factor = 2

        class Scaled:
            def value(self):
                return factor

        @sundog.remote
        def made():
            return Scaled()

        @sundog.remote
        def value():
            return Scaled().value()

        if __name__ == "__main__":
            with sundog.init(num_workers=1, backend={of!r}):
                scaled = sundog.get(made.remote())
                print(type(scaled) is Scaled, scaled.value(), sundog.get(value.remote()))
                factor = 3
                print(scaled.value(), Scaled().value(), sundog.get(value.remote()), sundog.get(made.remote()).value())
        """,
        tmp_path,
    )
    assert ended.out.splitlines() == ["True 2 2", "3 3 3 3"], ended.err


@pytest.mark.real_processes
def test_a_program_from_standard_input_or_a_string_works(tmp_path: Path):
    ended = run(
        """
        import subprocess, sys
        program = (
            "import sundog\\n"
            "@sundog.remote\\n"
            "def f(x):\\n    return x + 1\\n\\n"
            "sundog.init(num_workers=1)\\n"
            "print(sundog.get(f.remote(1)))\\n"
        )
        print(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout, end="")
        print(subprocess.run([sys.executable], input=program, capture_output=True, text=True, check=True).stdout, end="")
        """,
        tmp_path,
    )
    assert ended.out == "2\n2\n", ended.err
