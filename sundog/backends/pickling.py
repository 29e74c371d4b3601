"""The picklers: what goes by reference, what goes by value, and which ObjectIDs are inside.

Plain pickle is fast, and wrong where it matters: an instance of a class of ``__main__`` pickles without complaint and fails in
the worker, whose ``__main__`` is another. So the first pickler watches every function and class that would go by reference,
and gives up (:class:`NeedsValue`) at the first that a worker could not import; the second one, cloudpickle's, then takes
the whole value and sends such things by value. cloudpickle is imported only then.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from functools import _lru_cache_wrapper as LruCache
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NewType, ParamSpec, Protocol
from weakref import WeakSet

from sundog.backends.object_ref import ObjectID, reference

if TYPE_CHECKING:
    from sundog.backends.session import Session

PROTOCOL = 5
#: Types whose exact instances hold nothing that needs a look.
ATOMS = frozenset({int, float, bool, str, type(None), complex})
#: Classes that pickle names although no module has them under that name.
_NAMELESS = (type(None), type(...), type(NotImplemented))

_importable: dict[str, bool] = {}
#: Types of importable modules whose instances need no look: they pickle as they are.
_ordinary: set[type] = set()
_ORDINARY_MAX = 1000


#: Types whose instances pickle puts down by their names alone, so that a worker would have to find them.
_NAMED = frozenset({FunctionType, LruCache, NewType, ParamSpec})


#: Classes that this process has sent by value: those that were made here, and those that came from elsewhere.
_own_classes: WeakSet[type] = WeakSet()
_loaded_classes: WeakSet[type] = WeakSet()


class NeedsValue(Exception):
    """Something in the value has to go by value: plain pickle will not do."""


class Sink:
    """The file that a pickler writes to: ``write`` is the append of a list, so large bytes arrive without having been copied."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], object]) -> None:
        self.write = write


class Hooked(Protocol):
    """What knows how sundog pickles it (a remote function)."""

    def __sundog_reduce__(self, session: Session | None) -> tuple[Any, ...] | str:
        """Return what ``__reduce__`` would. ``session`` is None where the pickle is only a trial."""


def importable(name: str) -> bool:
    """Tell whether a worker, which has this process's ``sys.path``, can import module ``name``."""
    known = _importable.get(name)
    if known is None:
        known = _importable[name] = _find(name)
    return known


def _find(name: str) -> bool:
    if name == "__main__":
        return False
    if name in sys.builtin_module_names or name.partition(".")[0] in ("sundog", "builtins"):
        return True
    module = sys.modules.get(name)
    if module is None:
        return False
    parent = name.rpartition(".")[0]
    path = None
    if parent:
        if not importable(parent):
            return False
        path = getattr(sys.modules.get(parent), "__path__", None)
        if path is None:
            return True  # made by its parent's import (os.path and the like)
    for finder in sys.meta_path:
        try:
            found = finder.find_spec(name, path)
        except Exception:
            continue
        if found is not None:
            have = getattr(module, "__file__", None)
            return have is None or found.origin is None or not found.has_location or _same_file(found.origin, have)
    # Modules that their parent package makes up (six.moves and the like) come with it; others exist only here.
    return bool(parent) and getattr(module, "__spec__", None) is not None


def _same_file(one: str, other: str) -> bool:
    return one == other or one.removesuffix("c") == other.removesuffix("c")


def by_reference(thing: Any) -> bool:
    """Tell whether function or class ``thing`` can go as module and name."""
    name: str | None = getattr(thing, "__module__", None)
    module = sys.modules.get(name) if name is not None else None
    if module is None or name == "__main__":
        return thing in _NAMELESS if isinstance(thing, type) else False
    found: Any = module
    try:
        for part in thing.__qualname__.split("."):
            found = getattr(found, part)
    except AttributeError:
        return thing in _NAMELESS
    assert name is not None
    return found is thing and importable(name)


def _reduced_by_value(thing: Any) -> tuple[Any, ...]:
    """Return the reduction of what cloudpickle, too, would put down by its name."""
    if isinstance(thing, LruCache):
        parameters = thing.cache_parameters()
        return (_cached, (thing.__wrapped__, parameters["maxsize"], parameters["typed"]))
    if isinstance(thing, NewType):
        return (NewType, (thing.__name__, thing.__supertype__))
    return (ParamSpec, (thing.__name__,))


def _cached(function: Any, maxsize: int | None, typed: bool) -> Any:
    return lru_cache(maxsize=maxsize, typed=typed)(function)


class PlainPickler(pickle.Pickler):
    """Plain pickle, with counted ObjectIDs; raises NeedsValue at what a worker could not import."""

    def __init__(self, session: Session | None, segments: list[Any], buffers: list[pickle.PickleBuffer]) -> None:
        super().__init__(Sink(segments.append), PROTOCOL, buffer_callback=buffers.append)
        self.session = session
        #: IDs inside the value, each once, in the order of their mention.
        self.contained: dict[bytes, None] = {}

    def reducer_override(self, thing: Any) -> Any:
        """See ``pickle.Pickler``: called for everything but exact built-in values and containers."""
        kind = type(thing)
        if kind in _ordinary:
            return NotImplemented
        if kind in _NAMED or isinstance(thing, type):
            if by_reference(thing):
                return NotImplemented
            raise NeedsValue
        if isinstance(thing, ObjectID):
            raw = thing[:]
            self.contained[raw] = None
            return (reference, (raw,))
        if hasattr(kind, "__sundog_reduce__"):
            return thing.__sundog_reduce__(self.session)
        if len(_ordinary) < _ORDINARY_MAX and by_reference(kind):
            _ordinary.add(kind)
        return NotImplemented


def _fill_class(loaded: type, state: Any) -> type:
    """Give a class that came by value what is in it, unless it is this process's own that has come home.

    cloudpickle takes a class that it has pickled before for the same one, and would put copies in place of its methods, which see
    copies of their globals: those of the moment when they left.
    """
    if loaded not in _own_classes:
        from cloudpickle.cloudpickle import _class_setstate

        _loaded_classes.add(loaded)
        _class_setstate(loaded, state)
    return loaded


class ValuePickler(Protocol):
    """What :func:`value_pickler` returns."""

    contained: dict[bytes, None]

    def dump(self, value: Any) -> None:
        """Pickle ``value``."""


_value_pickler: Any = None


def value_pickler(session: Session | None, segments: list[Any], buffers: list[pickle.PickleBuffer]) -> ValuePickler:
    """Return a cloudpickle pickler with the same extras as PlainPickler."""
    global _value_pickler
    if _value_pickler is None:
        _value_pickler = _make_value_pickler()
    pickler: ValuePickler = _value_pickler(session, segments, buffers)
    return pickler


def _make_value_pickler() -> Any:
    import cloudpickle

    class CloudPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
        def __init__(self, session: Session | None, segments: list[Any], buffers: list[pickle.PickleBuffer]) -> None:
            super().__init__(Sink(segments.append), PROTOCOL, buffer_callback=buffers.append)
            self.session = session
            self.contained: dict[bytes, None] = {}

        def reducer_override(self, thing: Any) -> Any:
            kind = type(thing)
            if kind is FunctionType or isinstance(thing, type):
                _by_value_if_unimportable(getattr(thing, "__module__", None))
            elif isinstance(thing, ObjectID):
                raw = thing[:]
                self.contained[raw] = None
                return (reference, (raw,))
            elif hasattr(kind, "__sundog_reduce__"):
                return thing.__sundog_reduce__(self.session)
            elif kind is ModuleType:
                _by_value_if_unimportable(thing.__name__)
            elif kind in _NAMED and not by_reference(thing):
                return _reduced_by_value(thing)
            reduced = super().reducer_override(thing)
            if isinstance(thing, type) and type(reduced) is tuple and len(reduced) == 6:
                if thing not in _loaded_classes:
                    _own_classes.add(thing)
                return (*reduced[:5], _fill_class)
            return reduced

    def _by_value_if_unimportable(name: Any) -> None:
        known = not name or name == "__main__" or name not in sys.modules or importable(name)
        if not known and name not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(sys.modules[name])

    return CloudPickler
