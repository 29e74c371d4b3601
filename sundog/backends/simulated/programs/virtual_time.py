"""Clocks and sleeps of user code, in virtual time (protocols: 17).

Virtual: ``time.time``, ``monotonic``, ``perf_counter`` and their ``_ns`` forms, ``sleep``, ``localtime``, ``gmtime`` and ``ctime``
without an argument; ``datetime.now``, ``utcnow`` and ``today``, ``date.today``; event loops of ``asyncio`` (see
``virtual_asyncio``). For calls made while a task body runs and calls of the driver's program, from modules that are not of
the standard library, pytest, hypothesis and the like, or sundog itself. Real for everybody else, so that a
``threading.Event().wait(0.01)`` takes its ten milliseconds. ``time.process_time`` and ``thread_time`` count real work.

How: the functions in ``time`` are replaced by ones that look at who calls. ``datetime``'s are of a type written in C, whose
attributes Python does not let be set; its dictionary does.
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import sys
import time
from _thread import get_ident
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from sundog.backends.simulated.programs import virtual_asyncio
from sundog.backends.simulated.programs.rebinding import Rebinding, is_user_module
from sundog.core.units import SECOND, Nanos

if TYPE_CHECKING:
    from sundog.backends.simulated.programs.strand import Strand
    from sundog.backends.simulated.sim_loop import Loop

#: What ``time.time()`` says when a session begins: 2024-01-01 00:00 UTC, the same in every run.
EPOCH = 1_704_067_200
_SLEEP_MAX: Nanos = 1 << 62

_real_sleep = time.sleep
#: The simulation of this process, if there is one.
_loop: Loop | None = None


def install(loop: Loop, rebinding: Rebinding) -> None:
    """Make time virtual from now on, until ``rebinding`` is restored."""
    global _loop
    for name, function in _REPLACEMENTS.items():
        rebinding.replace(time, name, function)
    for name, make in (("now", _make_now), ("utcnow", _make_utcnow)):
        _replace_in_type(rebinding, datetime.datetime, name, make)
    rebinding.after_import("asyncio.base_events", lambda module: virtual_asyncio.install(rebinding, module))
    rebinding.on_restore(_uninstall)
    _loop = loop


def _uninstall() -> None:
    global _loop
    _loop = None


def strand_of_thread() -> Strand | None:
    """Return the driver or body whose code this is, whichever module it is in; None if it is neither."""
    loop = _loop
    if loop is None or get_ident() != loop.home:
        return None
    strand = loop.running
    return strand if strand is not None and getcurrent() is strand.where else None


def _strand_of(frame: FrameType) -> Strand | None:
    """Return the driver or body whose code calls from ``frame``, if it is to see virtual time."""
    loop = _loop
    if loop is None or get_ident() != loop.home:
        return None
    strand = loop.running
    if strand is None or getcurrent() is not strand.where:
        return None
    names = frame.f_globals
    return strand if is_user_module(names.get("__name__"), names.get("__file__")) else None


def nanos(seconds: Any) -> Nanos:
    """Return ``seconds`` as ``time.sleep`` takes them. Raises TypeError or ValueError for what it would not take."""
    if isinstance(seconds, str) or not (hasattr(seconds, "__float__") or hasattr(seconds, "__index__")):
        raise TypeError(f"{type(seconds).__name__!r} object cannot be interpreted as an integer")
    if seconds != seconds:
        raise ValueError("Invalid value NaN (not a number)")
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    span: Nanos = round(seconds * SECOND)
    if span > _SLEEP_MAX:
        raise OverflowError("timestamp too large to convert to C PyTime_t")
    return span


# -- time ---------------------------------------------------------------------------------------------------------------------


def _sleep(seconds: Any, /) -> None:
    """Like time.sleep, in virtual time."""
    strand = _strand_of(sys._getframe(1))
    if strand is None:
        _real_sleep(seconds)
    else:
        strand.spend(nanos(seconds))


def _clock(name: str, read: Callable[[Nanos], Any]) -> Callable[[], Any]:
    real = getattr(time, name)

    def clock() -> Any:
        strand = _strand_of(sys._getframe(1))
        return real() if strand is None else read(strand.tick(strand.loop.costs.clock))

    return clock


def _calendar(name: str) -> Callable[..., Any]:
    real = getattr(time, name)

    def calendar(seconds: Any = None, /) -> Any:
        strand = _strand_of(sys._getframe(1)) if seconds is None else None
        return real(seconds) if strand is None else real(EPOCH + strand.tick(strand.loop.costs.clock) // SECOND)

    return calendar


def _named(name: str, function: Any) -> Any:
    """Let a replacement pickle as what it replaces: by name."""
    function.__module__, function.__name__, function.__qualname__ = "time", name, name
    function.__doc__ = getattr(time, name).__doc__
    return function


_REPLACEMENTS: dict[str, Any] = {
    name: _named(name, function)
    for name, function in {
        "sleep": _sleep,
        "time": _clock("time", lambda now: EPOCH + now / SECOND),
        "time_ns": _clock("time_ns", lambda now: EPOCH * SECOND + now),
        "monotonic": _clock("monotonic", lambda now: now / SECOND),
        "monotonic_ns": _clock("monotonic_ns", lambda now: now),
        "perf_counter": _clock("perf_counter", lambda now: now / SECOND),
        "perf_counter_ns": _clock("perf_counter_ns", lambda now: now),
        "localtime": _calendar("localtime"),
        "gmtime": _calendar("gmtime"),
        "ctime": _calendar("ctime"),
    }.items()
}


# -- datetime -----------------------------------------------------------------------------------------------------------------


def _make_now(real: Any) -> Any:
    def now(cls: Any, tz: Any = None) -> Any:
        strand = _strand_of(sys._getframe(1))
        return real.__get__(None, cls)(tz) if strand is None else _moment(cls, strand, tz)

    return classmethod(now)


def _make_utcnow(real: Any) -> Any:
    def utcnow(cls: Any) -> Any:
        strand = _strand_of(sys._getframe(1))
        return real.__get__(None, cls)() if strand is None else _moment(cls, strand, datetime.UTC).replace(tzinfo=None)

    return classmethod(utcnow)


def _moment(cls: Any, strand: Strand, tz: Any) -> Any:
    seconds, rest = divmod(strand.tick(strand.loop.costs.clock), SECOND)
    return cls.fromtimestamp(EPOCH + seconds, tz).replace(microsecond=rest // 1000)


def _replace_in_type(rebinding: Rebinding, kind: type, name: str, make: Callable[[Any], Any]) -> None:
    """Replace an attribute of a type that is written in C."""
    [attributes] = gc.get_referents(kind.__dict__)  # the dictionary behind the read-only view of it
    real = attributes[name]

    def put(value: Any) -> None:
        attributes[name] = value
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))

    put(make(real))
    rebinding.on_restore(lambda: put(real))
