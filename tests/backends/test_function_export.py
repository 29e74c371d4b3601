"""Functions are exported once, again when they have changed, and know each other by name."""

from __future__ import annotations

import functools
import operator
import pickle
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

import sundog
from sundog.backends.fingerprint import Fingerprint
from tests.support.loopback import LoopbackPort, loopback

FACTOR = 2


def helper(x: int) -> int:
    return x * FACTOR


@sundog.remote
def scaled(x):
    return helper(x)


@sundog.remote
def is_even(n):
    return True if n == 0 else sundog.get(is_odd.remote(n - 1))


@sundog.remote
def is_odd(n):
    return False if n == 0 else sundog.get(is_even.remote(n - 1))


@pytest.fixture
def port() -> Iterator[LoopbackPort]:
    with loopback() as made:
        yield made


def exported(port: LoopbackPort) -> int:
    port.turn()
    return len(port.store.functions)


def test_a_function_is_exported_at_its_first_call_and_then_no_more(port: LoopbackPort):
    assert exported(port) == 0
    assert sundog.get([scaled.remote(n) for n in range(5)]) == [0, 2, 4, 6, 8]
    assert exported(port) == 1
    assert sundog.get(scaled.options(num_cpus=2, name="other").remote(1)) == 2
    assert exported(port) == 1


def test_functions_that_call_each_other_know_each_other(port: LoopbackPort):
    assert sundog.get(is_even.remote(6)) is True
    assert sundog.get(is_odd.remote(6)) is False
    assert exported(port) == 2


def test_a_changed_closure_cell_default_or_code_is_exported_again(port: LoopbackPort):
    n = 1

    def plain(x, y=0):
        return x + y + n

    function = sundog.remote(plain)
    assert sundog.get(function.remote(1)) == 2
    n = 10
    assert sundog.get(function.remote(1)) == 11
    plain.__defaults__ = (100,)
    assert sundog.get(function.remote(1)) == 111
    plain.__code__ = plain.__code__.replace(co_name="renamed")
    assert sundog.get(function.remote(1)) == 111
    assert exported(port) == 4


def test_globals_bind_late_and_are_followed_through_helpers(port: LoopbackPort):
    source = "import sundog\nfactor = 2\ndef inner(x): return x * factor\n@sundog.remote\ndef outer(x): return inner(x) + later()\n"
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)
    with pytest.raises(NameError, match="later"):
        sundog.get(namespace["outer"].remote(1))
    namespace["later"] = lambda: 1
    assert sundog.get(namespace["outer"].remote(1)) == 3
    namespace["factor"] = 5
    assert sundog.get(namespace["outer"].remote(1)) == 6
    exec("def inner(x): return -x", namespace)
    assert sundog.get(namespace["outer"].remote(1)) == 0


USES_OF_CLASSES = {
    "method": "class C:\n    def of(self): return factor\ndef use(): return C().of()",
    "inherited": "class B:\n    def of(self): return factor\nclass C(B): pass\ndef use(): return C().of()",
    "staticmethod": "class C:\n    @staticmethod\n    def of(): return factor\ndef use(): return C.of()",
    "classmethod": "class C:\n    @classmethod\n    def of(cls): return factor\ndef use(): return C.of()",
    "property": "class C:\n    @property\n    def of(self): return factor\ndef use(): return C().of",
    "partial method": (
        "import functools\nclass C:\n    def all(self, x): return factor * x\n    of = functools.partialmethod(all, 1)\n"
        "def use(): return C().of()"
    ),
    "inner class": "class C:\n    class D:\n        def of(self): return factor\ndef use(): return C.D().of()",
    "metaclass": "class M(type):\n    def of(cls): return factor\nclass C(metaclass=M): pass\ndef use(): return C.of()",
    "instance": "class C:\n    def of(self): return factor\nc = C()\ndef use(): return c.of()",
    "descriptor": "class D:\n    def __get__(self, *_): return factor\nclass C:\n    of = D()\ndef use(): return C().of",
    "helper of a method": "def helper(): return factor\nclass C:\n    def of(self): return helper()\ndef use(): return C().of()",
    "each other": (
        "class A:\n    def of(self, n): return B().of(n)\nclass B:\n    def of(self, n): return A().of(n - 1) if n else factor\n"
        "def use(): return A().of(3)"
    ),
    "called instance": "class C:\n    def __call__(self): return factor\nuse = C()",
    "bound method": "class C:\n    def other(self): return factor\n    def of(self): return self.other()\nuse = C().of",
}


@pytest.mark.parametrize("use", USES_OF_CLASSES)
def test_a_global_that_only_a_class_of_main_names_is_watched(port: LoopbackPort, use: str):
    namespace: dict[str, Any] = {"__name__": "__main__", "factor": 2}
    exec(USES_OF_CLASSES[use], namespace)
    function = sundog.remote(namespace["use"])
    assert [sundog.get(function.remote()) for _ in range(2)] == [2, 2]
    assert exported(port) == 1
    namespace["factor"] = 3
    assert [sundog.get(function.remote()) for _ in range(2)] == [3, 3]
    assert exported(port) == 2


def test_a_method_put_in_place_of_another_is_seen(port: LoopbackPort):
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("class C:\n    def of(self): return 2\ndef use(): return C().of()", namespace)
    function = sundog.remote(namespace["use"])
    assert sundog.get(function.remote()) == 2
    namespace["C"].of = lambda self: 3
    assert sundog.get(function.remote()) == 3
    assert exported(port) == 2


def test_what_workers_import_is_not_watched():
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("import decimal\nfrom fractions import Fraction\ndef use(): return Fraction(1), decimal.Decimal(2)", namespace)
    fingerprint = Fingerprint(namespace["use"])
    assert [name for _, name, _ in fingerprint._globals] == ["Fraction"]
    assert len(fingerprint._functions) == 1


def test_what_is_registered_to_go_by_value_is_watched(port: LoopbackPort, monkeypatch: pytest.MonkeyPatch):
    from tests.support import by_value

    cloudpickle.register_pickle_by_value(by_value)
    try:
        function = sundog.remote(by_value.use)
        assert sundog.get(function.remote()) == 2
        monkeypatch.setattr(by_value, "factor", 3)
        assert sundog.get(function.remote()) == 3
    finally:
        cloudpickle.unregister_pickle_by_value(by_value)


def test_a_change_reaches_the_remote_functions_that_call_it(port: LoopbackPort):
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "import sundog\nn = 1\n@sundog.remote\ndef a(): return n\n@sundog.remote\ndef b(): return sundog.get(a.remote())", namespace
    )
    assert sundog.get(namespace["b"].remote()) == 1
    namespace["n"] = 2
    assert sundog.get(namespace["b"].remote()) == 2


def test_calls_in_flight_keep_their_version(port: LoopbackPort):
    port.frozen = True
    first: list[Any] = []
    for version in range(2):
        namespace: dict[str, Any] = {"__name__": "__main__", "version": version}
        exec("import sundog\n@sundog.remote\ndef f(): return version", namespace)
        first += [namespace["f"].remote() for _ in range(3)]
    port.frozen = False
    assert sundog.get(first) == [0, 0, 0, 1, 1, 1]


def test_remote_functions_travel_as_arguments_and_inside_functions(port: LoopbackPort):
    @sundog.remote
    def call(function, x):
        return sundog.get(function.remote(x)), sundog.get(function.options(num_returns=1, name="x").remote(x)), repr(function)

    assert sundog.get(call.remote(scaled, 3)) == (6, 6, "<remote function scaled>")
    assert sundog.get(call.remote(sundog.get(sundog.put(scaled)), 3))[0] == 6
    assert exported(port) == 2

    @sundog.remote
    def wrong():
        scaled.remote(1, 2, 3)

    with pytest.raises(TypeError, match="takes at most 1 positional argument, but 3 were given"):
        sundog.get(wrong.remote())


def test_functions_defined_in_tasks(port: LoopbackPort):
    @sundog.remote
    def outer(n):
        @sundog.remote
        def inner(x):
            return x + n

        return sundog.get([inner.remote(i) for i in range(3)])

    assert sundog.get(outer.remote(10)) == [10, 11, 12]
    assert exported(port) == 2


def test_what_may_be_remote(port: LoopbackPort):
    class Adder:
        n = 4

        def add(self, x):
            return x + self.n

        @staticmethod
        def fixed(x):
            return x + 1

        @classmethod
        def of_class(cls, x):
            return x + cls.n

        def __call__(self, x):
            return x - 1

    for function, expected in (
        (lambda x: x * 3, 9), (functools.partial(operator.add, 5), 8), (Adder().add, 7), (Adder.fixed, 4), (Adder.of_class, 7),
        (vars(Adder)["fixed"], 4), (operator.neg, -3), (Adder(), 2), (functools.lru_cache(helper), 6),
    ):  # fmt: skip
        assert sundog.get(sundog.remote(function).remote(3)) == expected
    assert sundog.get(sundog.remote(len).remote([1, 2])) == 2
    assert sundog.get(sundog.remote(functools.partial(int, base=2)).remote("101")) == 5


def test_cached_functions_and_new_types_of_main(port: LoopbackPort):
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(
        """
import functools, typing, sundog
UserID = typing.NewType("UserID", int)
P = typing.ParamSpec("P")
@functools.lru_cache(maxsize=7)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
@sundog.remote
def big(n: UserID, p: P = None): return fib(UserID(n)), fib.cache_parameters()["maxsize"], fib
""",
        namespace,
    )
    value, maxsize, again = sundog.get(namespace["big"].remote(30))
    assert (value, maxsize, again(10)) == (832040, 7, 55)


def test_what_may_not_be_remote_says_what_to_do():
    async def asynchronous():
        pass

    def generator():
        yield 1

    async def both():
        yield 1

    class Thing:
        def __call__(self):
            yield 1

    class Holder:
        @classmethod
        def method(cls):
            pass

    cases: list[tuple[Any, str]] = [
        (asynchronous, "asyncio.run"), (generator, "Return a list"), (both, "Return a list"), (Thing, "actors"),
        (3, "takes a function"),
        (scaled, "remote already"), (functools.partial(generator), "Return a list"), (Thing(), "Return a list"),
        (vars(Holder)["method"], "classmethod"),
    ]  # fmt: skip
    for wrong, text in cases:
        with pytest.raises(TypeError, match=text):
            sundog.remote(wrong)
    with pytest.raises(TypeError, match=r"scaled\.remote"):
        scaled(1)


def test_retry_exceptions_travel_with_the_function(port: LoopbackPort):
    def fails():
        raise KeyError

    patient = sundog.remote(retry_exceptions=[KeyError])(fails)
    for function in (patient, patient.options(retry_exceptions=False), sundog.remote(retry_exceptions=True)(fails)):
        with pytest.raises(KeyError):
            sundog.get(function.remote())
    assert exported(port) == 3
    with pytest.raises(TypeError, match="exception types"):
        sundog.remote(retry_exceptions=["KeyError"])(fails)  # type: ignore[list-item]


def test_pickled_by_others_a_remote_function_goes_by_name_or_by_value(port: LoopbackPort):
    assert pickle.loads(pickle.dumps(scaled)) is scaled
    k = 5
    local = cloudpickle.loads(cloudpickle.dumps(sundog.remote(lambda x: x + k)))
    assert sundog.get(local.remote(1)) == 6


def test_ids_in_closures_live_as_long_as_the_session(port: LoopbackPort):
    kept = sundog.put("kept")
    raw = kept.binary()

    @sundog.remote
    def read():
        return sundog.get(kept)

    assert sundog.get(read.remote()) == "kept"
    port.turn()
    assert port.store.escaped == [raw]


def test_a_new_session_exports_anew(port: LoopbackPort):
    assert sundog.get(scaled.remote(1)) == 2
    with loopback() as other:
        assert sundog.get(scaled.remote(1)) == 2
        assert exported(other) == 1
    assert sundog.get(scaled.remote(1)) == 2


def test_a_failed_export_leaves_nothing_half_told(port: LoopbackPort):
    import threading

    lock = threading.Lock()
    holder = [lock]

    @sundog.remote
    def f():
        return scaled, holder

    with pytest.raises(sundog.SerializationError, match="closure variable 'holder'"):
        f.remote()
    assert exported(port) == 0
    holder.clear()
    assert sundog.get(f.remote())[1] == []


def test_large_captures_are_pointed_out(port: LoopbackPort, capsys: pytest.CaptureFixture[str]):
    big = bytes(11 << 20)
    sundog.get(sundog.remote(lambda: len(big)).remote())
    assert "takes 11 MB of closure variables" in capsys.readouterr().err
