"""Values become bytes and come back; what cannot says which part of it is to blame."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import enum
import gc
import importlib.util
import pickle
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sundog
from sundog.backends import culprit, serialization
from sundog.backends.pickling import by_reference, importable
from sundog.backends.serialization import ARRAY, BUFFERS, BYTEARRAY, BYTES, PICKLE, inline, is_plain, pack, shift, unpack
from sundog.core.config import Config
from tests.support.loopback import LoopbackArena, LoopbackPort, loopback


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None


Pair = collections.namedtuple("Pair", "left right")


@pytest.fixture
def port() -> Iterator[LoopbackPort]:
    with loopback() as made:
        yield made


def there_and_back(value: Any) -> Any:
    packed = pack(None, value)
    stored = inline(packed)
    assert stored.size == len(stored.data) == packed.size
    assert b"".join(packed.segments) == stored.data
    return unpack(stored.format, stored.data)


nested = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
)


@given(nested)
def test_plain_values_come_back_equal(value: Any):
    assert there_and_back(value) == value


@given(nested)
def test_what_is_taken_for_plain_holds_nothing_else(value: Any):
    if is_plain(value):
        assert pickle.loads(pickle.dumps(value)) == value
    assert not is_plain([object()])
    assert not is_plain((1, [2]))
    assert not is_plain({1: []})


@pytest.mark.parametrize(
    "value",
    [
        {1, 2}, frozenset("ab"), range(3), slice(1, 2), Colour.RED, Point(1, [2]), Pair(1, "b"), decimal.Decimal("1.5"),
        collections.OrderedDict(a=1), collections.defaultdict(list, a=[1]), collections.Counter("aab"), bytearray(b"abc"), ...,
        NotImplemented, int, Point, len, Path("/tmp"), types.SimpleNamespace(a=1), 1 << 200, [Point(1), Point(2)],
    ],
)  # fmt: skip
def test_common_objects_come_back_equal(value: Any):
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(10), np.arange(12.0).reshape(3, 4), np.asfortranarray(np.arange(12.0).reshape(3, 4)), np.arange(20)[::2],
        np.zeros(0), np.zeros((3, 0)), np.array(5), np.array([True, False]), np.array([1 + 2j]), np.array(["a", "bc"]),
        np.array([1, "a", None], dtype=object), np.arange(3, dtype=">i4"), np.array(["2020-01-01"], dtype="M8[D]"),
        np.zeros(3, dtype=[("a", "i4"), ("b", "f8")]), np.float64(3), np.arange(6).reshape(1, 2, 3).T,
    ],
)  # fmt: skip
def test_arrays_come_back_equal(array: Any):
    for value, take in ((array, lambda back: back), ([array, {"a": array}], lambda back: back[1]["a"])):
        back = take(there_and_back(value))
        assert np.array_equal(back, array)
        assert back.dtype == array.dtype
        assert back.shape == array.shape


def test_formats():
    assert pack(None, b"x" * 10).format == BYTES
    assert pack(None, bytearray(100)).format == BYTEARRAY
    assert pack(None, np.zeros(3)).format == ARRAY
    assert pack(None, [np.zeros(3)]).format == BUFFERS
    assert pack(None, [1, Point(1)]).format == PICKLE


def test_arrays_are_read_only_views_inline_too():
    for value in (np.arange(10), [np.arange(10)]):
        packed = inline(pack(None, value))
        back = unpack(packed.format, packed.data)
        back = back[0] if isinstance(back, list) else back
        assert not back.flags.writeable
        assert not back.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            back[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            back.flags.writeable = True


def test_buffers_are_aligned_and_large_bytes_are_not_copied():
    arrays = [np.arange(n, dtype=np.uint8) for n in (1, 65, 3, 1000)]
    data = inline(pack(None, arrays)).data
    for array, back in zip(arrays, unpack(BUFFERS, data), strict=True):
        assert (back.ctypes.data - np.frombuffer(data, np.uint8).ctypes.data) % 64 == 0
        assert np.array_equal(array, back)
    blob = b"x" * 1_000_000
    assert any(segment is blob for segment in pack(None, [blob, {"b": 1}]).segments)
    assert pack(None, blob).joined() is blob


def test_large_values_go_through_the_arena_once_and_pin_it_while_they_are_viewed(port: LoopbackPort):
    array = np.arange(100_000.0)
    values: list[Any] = [array, [array], {"a": array, "b": 1}]
    for value in values:
        reference = sundog.put(value)
        back = sundog.get([reference, reference])
        taken = [next(iter(one.values())) if isinstance(one, dict) else one[0] if isinstance(one, list) else one for one in back]
        piece = taken[0][10:20][::2]
        assert np.array_equal(taken[1], array)
        del back, taken
        gc.collect()
        port.turn()
        assert port.store.grants[reference.binary()] == 1
        assert piece.tolist() == [10.0, 12.0, 14.0, 16.0, 18.0]
        raw = reference.binary()
        del piece, reference  # as long as it is referenced, the process keeps the view that it has
        port.turn()
        assert port.store.grants[raw] == 0


@pytest.mark.parametrize("value", [b"x" * 200_000, bytearray(200_000), ["y"] * 300_000, "z" * 200_000, list(range(100_000))])
def test_large_values_that_leave_no_view_return_their_grant_at_once(port: LoopbackPort, value: Any):
    reference = sundog.put(value)
    assert sundog.get(reference) == value
    port.turn()
    assert port.store.values[reference.binary()].offset >= 0
    assert not +port.store.grants


def test_an_error_among_several_returns_all_grants(port: LoopbackPort):
    @sundog.remote
    def fails():
        raise KeyError("no")

    large = sundog.put(np.zeros(100_000))
    with pytest.raises(KeyError):
        sundog.get([large, fails.remote(), large])
    port.turn()
    assert not +port.store.grants


def test_large_arguments_and_returns(port: LoopbackPort):
    @sundog.remote
    def total(array, *, scale):
        return array * scale

    result = sundog.get(total.remote(np.ones(100_000), scale=2))
    assert result.sum() == 200_000
    del result
    gc.collect()
    port.turn()
    assert port.store.submitted[0].arguments.offset >= 0
    assert not +port.store.grants
    assert not port.arena.returned


def test_what_main_defines_goes_by_value(monkeypatch: pytest.MonkeyPatch):
    made = type("Local", (), {"__module__": "__main__", "value": 3})
    monkeypatch.setattr(sys.modules["__main__"], "Local", made, raising=False)
    assert pickle.dumps(made()) == pickle.dumps(made())  # plain pickle sees nothing wrong
    data = inline(pack(None, [made()])).data
    assert b"cloudpickle" in data
    monkeypatch.delattr(sys.modules["__main__"], "Local")
    assert unpack(PICKLE, data)[0].value == 3


def test_modules_that_workers_cannot_import_go_by_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "only_here_module.py"
    path.write_text(
        "class Thing:\n    def __init__(self, n): self.n = n\ndef twice(x): return helper(x)\ndef helper(x): return 2 * x\n"
    )
    spec = importlib.util.spec_from_file_location("only_here_module", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "only_here_module", module)
    spec.loader.exec_module(module)
    assert not importable("only_here_module")
    assert importable("json.decoder")
    assert importable("os.path")
    assert by_reference(pickle.Pickler)
    data = inline(pack(None, [module.Thing(3), module.twice])).data
    monkeypatch.delitem(sys.modules, "only_here_module")
    thing, twice = unpack(PICKLE, data)
    assert thing.n == 3
    assert twice(4) == 8


def test_lambdas_closures_and_local_classes():
    n = 3

    class Local:
        def get(self):
            return n

    add, local, kind = there_and_back([lambda x: x + n, Local(), Local])
    assert add(1) == 4
    assert local.get() == 3
    assert kind is not None


class Model:
    def __init__(self):
        self.layers = [{"size": 1}, Point(1, threading.Lock())]


def test_culprits_are_named(port: LoopbackPort):
    @sundog.remote
    def train(model, *, extra=None):
        return None

    with pytest.raises(
        sundog.SerializationError, match=r"argument 'model'\.layers\[1\]\.y: cannot pickle '_thread.lock' object"
    ) as caught:
        train.remote(Model())
    assert isinstance(caught.value, TypeError)
    with pytest.raises(TypeError, match=r"argument 'extra'\['a'\]\[2\]"):
        train.remote(1, extra={"a": (1, 2, sys._getframe())})
    with pytest.raises(TypeError, match=r"the value\[0\]: cannot pickle"):
        sundog.put([threading.Lock()])
    lock = threading.Lock()

    def helper():
        return lock

    @sundog.remote
    def uses():
        return helper()

    with pytest.raises(TypeError, match=r"remote function 'uses' closure variable 'helper' closure variable 'lock': cannot"):
        uses.remote()

    @sundog.remote
    def returns():
        return {"it": threading.Lock()}

    with pytest.raises(TypeError, match=r"returns: the return value\['it'\]: cannot pickle"):
        sundog.get(returns.remote())


def test_a_value_whose_own_code_raises_is_the_culprit():
    class Angry:
        def __reduce__(self):
            raise RuntimeError("not me")

    error = culprit.explain("it", [1, Angry()], RuntimeError("not me"))
    assert (
        str(error)
        == "it[1]: cannot pickle a test_a_value_whose_own_code_raises_is_the_culprit.<locals>.Angry: RuntimeError: not me"
    )


def test_values_nested_too_deeply_say_so(port: LoopbackPort):
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(sundog.SerializationError, match="nested too deeply"):
        sundog.put(deep)


def test_a_value_that_does_not_load_says_which(port: LoopbackPort):
    class Broken:
        def __reduce__(self):
            return (int, ("not a number",))

    reference = sundog.put(Broken())
    with pytest.raises(sundog.SerializationError, match=f"{reference.hex()}.*does not load here: ValueError"):
        sundog.get(reference)


def test_a_failed_write_gives_its_extent_back(monkeypatch: pytest.MonkeyPatch):
    with loopback(Config(inline_bytes_max=10)) as port:

        def full(self: LoopbackArena, offset: int, size: int, warm: bool, segments: Sequence[Any]) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(LoopbackArena, "fill", full)
        with pytest.raises(sundog.ObjectStoreFullError, match="No space left"):
            sundog.put(b"x" * 100)
        monkeypatch.undo()
        port.turn()
        assert port.arena.returned == [0]

        @sundog.remote(num_returns=2)
        def half():
            return b"x" * 100, threading.Lock()

        with pytest.raises(TypeError, match="return value 1"):
            sundog.get(half.remote())
        port.turn()
        assert len(port.arena.returned) == 2


@pytest.mark.parametrize("wrap", [lambda array: array, lambda array: {"name": array, "small": np.arange(3)}])
def test_a_very_large_buffer_keeps_clear_of_its_source_in_the_page(wrap: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serialization, "_MOVED_BYTES_MIN", 10_000)
    array = np.arange(5000, dtype=np.int32)
    source = array.data.cast("B")
    address = array.__array_interface__["data"][0]
    packed = pack(None, wrap(array))
    moves = set()
    for offset in range(0, 8192, 64):
        segments = packed.placed(offset)
        data = b"".join(segments)
        assert len(data) == packed.size
        start = data.index(source.tobytes())
        assert start % 64 == 0
        behind = (offset + start - address) % 4096
        assert behind == 0 or behind >= 1024
        moves.add(shift(offset + start, source))
        back = unpack(packed.format, data)
        assert np.array_equal(back if wrap(0) == 0 else back["name"], array)
    assert moves == {0}, "and stays where it is put"
