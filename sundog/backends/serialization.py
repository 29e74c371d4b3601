"""Values to bytes and back, with as few copies as there can be: none to read an array, one to write it.

What a :class:`~sundog.core.task.Value` holds is told by its ``format``:

* ``PICKLE``: a pickle, everything in band;
* ``BUFFERS``: ``<IIQ`` (count, 0, length of the pickle), then ``<QQ`` (offset, length) for each buffer, the pickle, and the
  buffers at multiples of 64 bytes. They are read as read-only views, and what pickle builds on them is read-only too, whether
  the value came inline or through the arena;
* ``BYTES``, ``BYTEARRAY``: the bytes themselves;
* ``ERROR``: an :class:`ErrorReport` in msgpack, so that it can be shown without running anybody's code;
* ``ARRAY``: one numpy array of numbers, without pickle: ``<I`` (length), then (dtype, shape, order) in msgpack, and at the next
  multiple of 64 the elements. Read as a read-only view.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
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
_LENGTH = Struct("<I")
_ENTRY = Struct("<QQ")
_ALIGNMENT = 64
_PADDING = bytes(_ALIGNMENT)
#: Containers up to this many elements are searched for something else than atoms before a pickler is made for them.
_PLAIN_MAX = 16
#: Bytes up to this many are as well copied.
_PLAIN_BYTES_MAX = 4 << 10

dumps = pickle.dumps
loads = pickle.loads


class Packed:
    """A value made ready: ``segments`` are bytes-like and not copied yet; ``size`` is their length together."""

    __slots__ = ("contained", "format", "segments", "size")

    def __init__(self, form: int, segments: Sequence[Any], size: int, contained: tuple[Any, ...] = ()) -> None:
        self.format = form
        self.segments = segments
        self.size = size
        #: IDs inside, each once.
        self.contained = contained

    def joined(self) -> bytes:
        """Return the whole as bytes."""
        segments = self.segments
        if len(segments) == 1 and type(segments[0]) is bytes:
            return segments[0]
        return b"".join(segments)

    def write(self, view: memoryview) -> None:
        """Copy everything into ``view``, once."""
        at = 0
        for segment in self.segments:
            end = at + len(segment)
            view[at:end] = segment
            at = end


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
    head = _LENGTH.pack(len(described)) + described
    head += _PADDING[: -len(head) % _ALIGNMENT]
    elements = pickle.PickleBuffer(array).raw()
    return Packed(ARRAY, (head, elements), len(head) + len(elements))


def _unpack_array(data: bytes | memoryview) -> Any:
    from numpy import frombuffer

    (length,) = _LENGTH.unpack_from(data)
    end = _LENGTH.size + length
    kind, shape, order = msgspec.msgpack.decode(data[_LENGTH.size : end])
    # Not numpy.ndarray(buffer=...): that looks for the bytes' owner behind the memoryview, and forgets the view that pins them.
    return frombuffer(data, kind, -1, -(-end // _ALIGNMENT) * _ALIGNMENT).reshape(shape, order=order)


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
    at = _HEADER.size + _ENTRY.size * len(views) + length
    entries = []
    for view in views:
        pad = -at % _ALIGNMENT
        if pad:
            segments.append(_PADDING[:pad])
        entries.append(_ENTRY.pack(at + pad, len(view)))
        segments.append(view)
        at += pad + len(view)
    head = b"".join((_HEADER.pack(len(views), 0, length), *entries))
    return Packed(BUFFERS, [head, *segments], at, inside)


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
