"""Finds the part of a value that does not pickle, so that the error can name it: ``argument 'model'.layers[3].lock``.

Runs only when pickling has failed. It tries parts, part by part, and goes down into the first that fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

from sundog.backends.exceptions import SerializationError
from sundog.backends.serialization import pack

_DEPTH_MAX = 24
#: Children tried in one container; in a list of a million, the culprit may stay unnamed.
_CHILDREN_MAX = 10_000


def explain(label: str, value: Any, error: BaseException, advice: str = "") -> SerializationError:
    """Return the error that names the culprit within ``value``, which is called ``label`` and failed to pickle with ``error``."""
    path, reason = label, error
    seen: set[int] = set()
    for _ in range(_DEPTH_MAX):
        seen.add(id(value))
        for suffix, child in _children(value):
            if id(child) in seen:
                continue
            failure = _failure(child)
            if failure is not None:
                path, value, reason = path + suffix, child, failure
                break
        else:
            break
    text = str(reason) or type(reason).__name__
    if not isinstance(reason, (TypeError, SerializationError)):
        text = f"{type(reason).__name__}: {text}"
    if "pickle" not in text:
        text = f"cannot pickle a {type(value).__qualname__}: {text}"
    made = SerializationError(f"{path}: {text}{advice}")
    made.__cause__ = error
    return made


def _failure(value: Any) -> Exception | None:
    try:
        pack(None, value)
    except Exception as error:
        return error
    return None


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of ``value`` with what has to be written behind its name to reach them."""
    kind = type(value)
    if isinstance(value, dict):
        for number, (key, item) in enumerate(value.items()):
            if number >= _CHILDREN_MAX:
                return
            yield f"[{_short(key)}]", item
            yield f".keys()[{number}]", key
    elif isinstance(value, (list, tuple)):
        names = getattr(kind, "_fields", None)
        for number, item in enumerate(value[:_CHILDREN_MAX]):
            yield f".{names[number]}" if names else f"[{number}]", item
    elif isinstance(value, (set, frozenset)):
        for number, item in enumerate(value):
            if number >= _CHILDREN_MAX:
                return
            yield f" element {_short(item)}", item
    elif kind is FunctionType:
        yield from _function_children(value)
    elif kind is MethodType:
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif hasattr(value, "__wrapped__") and hasattr(kind, "__sundog_reduce__"):
        yield "", value.__wrapped__
    if hasattr(value, "func") and hasattr(value, "keywords"):  # functools.partial
        yield ".func", value.func
        yield ".args", value.args
        yield ".keywords", value.keywords
    if not isinstance(value, type) and kind is not FunctionType:
        for name, item in getattr(value, "__dict__", {}).items():
            yield f".{name}", item
        for base in kind.__mro__:
            slots = vars(base).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                    yield f".{name}", getattr(value, name)


def _function_children(function: FunctionType) -> Iterator[tuple[str, Any]]:
    from sundog.backends.fingerprint import referenced_globals

    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f" closure variable {name!r}", cell.cell_contents
        except ValueError:
            pass  # not filled yet
    namespace = function.__globals__
    for name in referenced_globals(function.__code__):
        if name in namespace:
            yield f" global {name!r}", namespace[name]
    for number, item in enumerate(function.__defaults__ or ()):
        yield f" default {number}", item
    for name, item in (function.__kwdefaults__ or {}).items():
        yield f" default of {name!r}", item


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 40 else text[:37] + "..."
