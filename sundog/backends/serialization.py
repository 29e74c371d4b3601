"""Values to bytes and back, with as few copies as there can be: none to read an array, one to write it.

What a :class:`~sundog.core.task.Value` holds is told by its ``format``:

* ``PICKLE``: a pickle, everything in band;
* ``BUFFERS``: ``<IIQ`` (count, 0, length of the pickle), then ``<QQ`` (offset, length) for each buffer, the pickle, and the
  buffers at those offsets, multiples of 64 bytes. They are read as read-only views, and what pickle builds on them is
  read-only too, whether the value came inline or through the arena;
* ``BYTES``, ``BYTEARRAY``: the bytes themselves;
* ``ERROR``: an :class:`ErrorReport` in msgpack, so that it can be shown without running anybody's code;
* ``ARRAY``: one numpy array of numbers, without pickle: ``<II`` (length, start), then (dtype, shape, order) in msgpack, and at
  ``start``, a multiple of 64, the elements. Read as a read-only view.

Where a very large buffer begins is settled only when its place in memory is known, see :func:`shift`.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any

import msgspec

from sundog.backends.exceptions import SerializationError
from sundog.backends.pickling import ATOMS, PROTOCOL, NeedsValue, PlainPickler, value_pickler
from sundog.core.task import Value

if TYPE_CHECKING:
    from sundog.backends.session import Session

PICKLE = 0
BUFFERS = 1
BYTES = 2
BYTEARRAY = 3
ERROR = 4
ARRAY = 5

_HEADER = Struct("<IIQ")
_ARRAY_HEADER = Struct("<II")
_ENTRY = Struct("<QQ")
_ALIGNMENT = 64
_PAGE = 4096
#: Where in its page a copy should not go: less than this behind where in its page it comes from. A load then waits for the store
#: that precedes it in the low bits of the address (4K aliasing), and the C library gives up its path for large copies.
_ALIASING = 1024
#: Room for moving a buffer out of there.
_SLACK = _ALIASING
_PADDING = bytes(_SLACK + _ALIGNMENT)
#: Buffers from this size on, in bytes, are moved: below it the time is the same.
_MOVED_BYTES_MIN = 64 << 20
#: Containers up to this many elements are searched for something else than atoms before a pickler is made for them.
_PLAIN_MAX = 16
#: Bytes up to this many are as well copied.
_PLAIN_BYTES_MAX = 4 << 10

dumps = pickle.dumps
loads = pickle.loads


class Packed:
    """A value made ready: ``segments`` are bytes-like and not copied yet; ``size`` is their length together."""

    __slots__ = ("_lay_out", "contained", "format", "segments", "size")

    def __init__(
        self,
        form: int,
        segments: Sequence[Any],
        size: int,
        contained: tuple[Any, ...] = (),
        lay_out: Callable[[int], Sequence[Any]] | None = None,
    ) -> None:
        self.format = form
        self.segments = segments
        self.size = size
        #: IDs inside, each once.
        self.contained = contained
        self._lay_out = lay_out

    def joined(self) -> bytes:
        """Return the whole as bytes."""
        segments = self.segments
        if len(segments) == 1 and type(segments[0]) is bytes:
            return segments[0]
        return b"".join(segments)

    def placed(self, offset: int) -> Sequence[Any]:
        """Return the segments as they should be written at ``offset`` of a mapping; their length together is ``size``."""
        return self.segments if self._lay_out is None else self._lay_out(offset)


def shift(target: int, source: memoryview) -> int:
    """Return by how many bytes a copy of ``source`` should go behind the offset ``target`` of a mapping, to be fast.

    A multiple of 64 up to 1024. Measured with 600 MB: 1.7 GB/s a few hundred bytes behind, 5 to 6 elsewhere, 3.7 in pieces.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return 0
    address = numpy.frombuffer(source, numpy.uint8).__array_interface__["data"][0]
    behind = (target - address) % _PAGE
    return -(-(_ALIASING - behind) // _ALIGNMENT) * _ALIGNMENT if 0 < behind < _ALIASING else 0


class ErrorReport(msgspec.Struct, array_like=True):
    """An exception on its way. ``exception`` is its pickle, or None if it does not pickle, or does not load again."""

    function_name: str
    #: The last line of a traceback: type and text.
    summary: str
    traceback: str
    pid: int
    exception: bytes | None = None
    #: Of a cluster: where it ran.
    node: int = 0

    def place(self) -> str:
        """Return where the task ran, for people."""
        return f"node {self.node}, worker pid {self.pid}" if self.node else f"worker pid {self.pid}"


_report_decoder = msgspec.msgpack.Decoder(ErrorReport)


def is_plain(value: Any) -> bool:
    """Tell, quickly, whether ``value`` surely holds only atoms, so that ``pickle.dumps`` does. False means: perhaps not."""
    kind = type(value)
    if kind in ATOMS:
        return True
    if kind is bytes:
        return len(value) < _PLAIN_BYTES_MAX
    if kind is tuple or kind is list:
        if len(value) > _PLAIN_MAX:
            return False
        for item in value:  # noqa: SIM110 (twice as fast as all())
            if type(item) not in ATOMS:
                return False
        return True
    if kind is dict:
        if len(value) > _PLAIN_MAX:
            return False
        for key, item in value.items():  # noqa: SIM110
            if type(item) not in ATOMS or type(key) not in ATOMS:
                return False
        return True
    return False


def pack(session: Session | None, value: Any) -> Packed:
    """Serialize ``value``. Nothing large is copied: what it refers to must not change before it is written.

    ``session`` exports the remote functions inside; None for a trial that leaves no trace. Raises whatever pickling raises:
    ``culprit.explain`` makes a SerializationError of it.
    """
    kind = type(value)
    if kind is bytes:
        return Packed(BYTES, (value,), len(value))
    if kind is bytearray:
        return Packed(BYTEARRAY, (bytes(value) if len(value) < _ALIGNMENT else memoryview(value),), len(value))
    if is_plain(value):
        data = dumps(value, PROTOCOL)
        return Packed(PICKLE, (data,), len(data))
    if kind.__name__ == "ndarray" and kind.__module__ == "numpy":
        packed = _pack_array(value)
        if packed is not None:
            return packed
    return pack_any(session, value)


def _pack_array(array: Any) -> Packed | None:
    """Return a numpy array of numbers in format ARRAY; None for what pickle had better do."""
    flags = array.flags
    if array.dtype.kind not in "fiubc" or not array.size or not (flags.c_contiguous or flags.f_contiguous):
        return None
    described = msgspec.msgpack.encode((array.dtype.str, array.shape, "C" if flags.c_contiguous else "F"))
    first = _aligned(_ARRAY_HEADER.size + len(described))
    elements = pickle.PickleBuffer(array).raw()

    def lay_out(offset: int) -> Sequence[Any]:
        moved = shift(offset + first, elements)
        start = first + moved
        head = _ARRAY_HEADER.pack(len(described), start) + described
        return (head, _PADDING[: start - len(head)], elements, _PADDING[: _SLACK - moved])

    if len(elements) >= _MOVED_BYTES_MIN:
        return Packed(ARRAY, lay_out(0), first + len(elements) + _SLACK, (), lay_out)
    head = _ARRAY_HEADER.pack(len(described), first) + described
    head += _PADDING[: first - len(head)]
    return Packed(ARRAY, (head, elements), first + len(elements))


def _aligned(at: int) -> int:
    return -(-at // _ALIGNMENT) * _ALIGNMENT


def _unpack_array(data: bytes | memoryview) -> Any:
    from math import prod

    from numpy import frombuffer

    length, start = _ARRAY_HEADER.unpack_from(data)
    end = _ARRAY_HEADER.size + length
    kind, shape, order = msgspec.msgpack.decode(data[_ARRAY_HEADER.size : end])
    # Not numpy.ndarray(buffer=...): that looks for the bytes' owner behind the memoryview, and forgets the view that pins them.
    return frombuffer(data, kind, prod(shape), start).reshape(shape, order=order)


def pack_any(session: Session | None, value: Any, *, by_value: bool = False) -> Packed:
    """Serialize with a pickler of our own; ``by_value`` starts with cloudpickle's."""
    segments: list[Any] = []
    buffers: list[pickle.PickleBuffer] = []
    if not by_value:
        pickler = PlainPickler(session, segments, buffers)
        try:
            pickler.dump(value)
        except (NeedsValue, pickle.PicklingError, TypeError, AttributeError, NotImplementedError):
            by_value = True
        except RecursionError as error:
            raise _too_deep() from error
        else:
            return _packed(segments, buffers, pickler.contained)
    segments.clear()
    buffers.clear()
    cloud = value_pickler(session, segments, buffers)
    try:
        cloud.dump(value)
    except RecursionError as error:
        raise _too_deep() from error
    return _packed(segments, buffers, cloud.contained)


def _too_deep() -> SerializationError:
    return SerializationError("nested too deeply to be pickled (Python's recursion limit)")


def _packed(segments: list[Any], buffers: list[pickle.PickleBuffer], contained: dict[bytes, None]) -> Packed:
    length = sum(map(len, segments))
    inside = tuple(sorted(contained))  # found in the order of pickling, which for those in a set is that of its hashes
    if not buffers:
        return Packed(PICKLE, segments, length, inside)
    views = [buffer.raw() for buffer in buffers]
    first = _HEADER.size + _ENTRY.size * len(views) + length

    def lay_out(offset: int) -> Sequence[Any]:
        at = first
        entries: list[bytes] = []
        laid = list(segments)
        for view in views:
            large = len(view) >= _MOVED_BYTES_MIN
            start = _aligned(at)
            moved = shift(offset + start, view) if large else 0
            laid += (_PADDING[: start + moved - at], view)
            entries.append(_ENTRY.pack(start + moved, len(view)))
            at = start + moved + len(view)
            if large:
                laid.append(_PADDING[: _SLACK - moved])
                at += _SLACK - moved
        return [b"".join((_HEADER.pack(len(views), 0, length), *entries)), *laid]

    laid = lay_out(0)
    moves = any(len(view) >= _MOVED_BYTES_MIN for view in views)
    return Packed(BUFFERS, laid, sum(map(len, laid)), inside, lay_out if moves else None)


def inline(packed: Packed) -> Value:
    """Return a Value that holds its bytes itself."""
    return Value(packed.size, packed.format, packed.joined())


def unpack(form: int, data: bytes | memoryview) -> Any:
    """Return the value that ``data`` holds. Views of ``data`` live on in it only where ``form`` is BUFFERS."""
    if form == PICKLE:
        return loads(data)
    if form == ARRAY:
        return _unpack_array(data)
    if form == BYTES:
        return data if type(data) is bytes else bytes(data)
    if form == BYTEARRAY:
        return bytearray(data)
    if form == BUFFERS:
        view = memoryview(data)
        count, _, length = _HEADER.unpack_from(view)
        start = _HEADER.size + _ENTRY.size * count
        buffers = []
        for index in range(count):
            at, size = _ENTRY.unpack_from(view, _HEADER.size + _ENTRY.size * index)
            buffers.append(view[at : at + size])
        return loads(view[start : start + length], buffers=buffers)
    raise SerializationError(f"a value of unknown format {form}: are all processes of one sundog version?")


def read_report(data: bytes | memoryview) -> ErrorReport:
    """Return the report that a value of format ERROR holds."""
    return _report_decoder.decode(data)


def describe_error(value: Value) -> str:
    """Return, for people, the error that ``value`` holds; nobody's code runs for it."""
    if value.failure is not None:
        return value.failure.message
    if value.offset >= 0 or value.format != ERROR:
        return f"an error of {value.size} bytes: sundog.get shows it"
    report = read_report(value.data)
    path = f"{' -> '.join((*value.trail, report.function_name))} (each needed the value of the next)\n" if value.trail else ""
    return f"{path}task {report.function_name!r} failed: {report.summary}\n{report.traceback}".rstrip("\n")
