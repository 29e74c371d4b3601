"""Functions on their way to workers: exported once for each session, again when they have changed, never for each call.

A :class:`Definition` is a function as sundog knows it. Where it was written it holds the function; where it was unpickled (in a
worker that got it inside another function, or as an argument) it holds only the FunctionID, and that is enough to call it.
So a function that calls itself, or two that call each other, need no more than their names: while one is being pickled,
its FunctionID is known already.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import msgspec

from sundog.backends import current
from sundog.backends.arity import Arity, arity_of
from sundog.backends.exceptions import FunctionMissingError, NotInitializedError, SerializationError
from sundog.backends.fingerprint import Fingerprint
from sundog.backends.serialization import inline, pack_any, unpack
from sundog.core.ids import FunctionID, ObjectID
from sundog.core.machine import Fact
from sundog.core.messages import FunctionDelivered, FunctionExported, IDsEscaped
from sundog.core.resources import ONE_CPU, Shape
from sundog.core.task import Value
from sundog.core.units import Nanos

if TYPE_CHECKING:
    from sundog.backends.session import Session

#: A function that takes more than this with it is pointed out: what it captured belongs into ``put``.
CAPTURED_BYTES_WARN = 10 << 20


class CallOptions(msgspec.Struct, frozen=True):
    """What a call asks for besides its arguments; ready to be copied into a TaskSpec."""

    name: str
    return_count: int = 1
    resources: Shape = ONE_CPU
    retries_max: int = 3
    calls_max: int = 0
    priority: int = 0
    duration: Nanos | None = None
    #: How long the body takes in virtual time, where that is declared as a function of the arguments or a distribution.
    duration_model: Any = None


class Export:
    """That a function is known to a node under ``function_id``, as long as ``fingerprint`` holds, within ``scope``."""

    __slots__ = ("fingerprint", "function_id", "scope")

    def __init__(self, scope: object, function_id: FunctionID, fingerprint: Fingerprint | None) -> None:
        self.scope = scope
        self.function_id = function_id
        self.fingerprint = fingerprint


class Definition:
    """See the module. ``retry_exceptions`` are the types of exceptions after which a task of it may run again."""

    __slots__ = ("__weakref__", "_arity", "export", "function", "name", "retry_exceptions")

    def __init__(self, function: Any, name: str, retry_exceptions: tuple[type[BaseException], ...] = ()) -> None:
        self.function = function
        self.name = name
        self.retry_exceptions = retry_exceptions
        #: The newest export; of whichever session.
        self.export: Export | None = None
        self._arity: Arity | None = None

    @property
    def arity(self) -> Arity:
        """What calls must look like."""
        if self._arity is None:
            self._arity = arity_of(self.function)
        return self._arity

    def __sundog_reduce__(self, session: Session | None) -> tuple[Any, ...]:
        """Pickle as a FunctionID, exporting the function first if need be."""
        if session is None:  # a trial: whether it can be exported is another question
            return (Definition, (None, self.name))
        return (_known, (session.functions.exported(self), self.name, self.arity))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle for somebody else than sundog: by value. The function comes as state, so that it may mention itself."""
        if self.function is None:
            raise SerializationError(f"remote function {self.name!r} came from another process and can only travel through sundog")
        return (Definition, (None, self.name), (None, {"function": self.function, "retry_exceptions": self.retry_exceptions}))


def _known(function_id: FunctionID, name: str, arity: Arity) -> Definition:
    """Return the definition of a function that the current session's node knows."""
    session = current.session
    if session is None:
        raise NotInitializedError(current.absent or "a remote function can be unpickled only in a session: call sundog.init()")
    definition = Definition(None, name)
    definition._arity = arity
    definition.export = Export(session.scope, function_id, None)
    return definition


class LoadedFunction(msgspec.Struct, frozen=True):
    """A function as a worker calls it."""

    call: Any
    retry_exceptions: tuple[type[BaseException], ...]


class Functions:
    """The functions of one session: those that it has exported, and in a worker those that it can run."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.RLock()
        #: Definitions being pickled now, by this thread, and the exports to be told once the outermost is done.
        self._pending: dict[Definition, FunctionID] = {}
        self._told: list[tuple[Definition, Export, Fact]] = []
        #: In a worker: those that it has run.
        self.loaded: dict[FunctionID, LoadedFunction] = {}

    # -- exporting ------------------------------

    def exported(self, definition: Definition) -> FunctionID:
        """Return the ID under which the node knows ``definition`` as it is now, exporting it if it must.

        Raises SerializationError, naming the culprit, if it cannot be pickled.
        """
        export = definition.export
        if export is not None and export.scope is self._session.scope:
            fingerprint = export.fingerprint
            if fingerprint is None or fingerprint.holds():
                return export.function_id
        with self._lock:
            pending = self._pending.get(definition)
            if pending is not None:
                return pending
            outermost = not self._pending
            try:
                function_id = self._pickle(definition)
                if outermost:
                    self._tell()
                return function_id
            finally:
                if outermost:
                    self._pending.clear()
                    self._told.clear()

    def _pickle(self, definition: Definition) -> FunctionID:
        session = self._session
        function = definition.function
        if function is None:
            raise FunctionMissingError(
                f"remote function {definition.name!r} belongs to another session, which has ended: define it again in this one"
            )
        function_id = session.port.lane().next_function()
        self._pending[definition] = function_id
        fingerprint = Fingerprint(function)
        try:
            packed = pack_any(session, (function, definition.retry_exceptions), by_value=True)
        except Exception as error:
            from sundog.backends.culprit import explain

            advice = ". A remote function takes along the closure variables and globals that it names: make such things inside it"
            if isinstance(error, SerializationError):
                raise
            raise explain(f"remote function {definition.name!r}", function, error, advice) from error
        if packed.size > CAPTURED_BYTES_WARN:
            session.warn(
                f"remote function {definition.name!r} takes {packed.size >> 20} MB of closure variables and globals with it; "
                "put them with sundog.put and pass the ID as an argument"
            )
        export = Export(session.scope, function_id, fingerprint)
        fact = FunctionExported(function_id, definition.name, inline(packed))
        self._told.append((definition, export, fact))
        if packed.contained:
            # The node keeps functions as long as the session, so what is inside lives as long.
            self._told.append((definition, export, IDsEscaped(tuple([ObjectID(raw) for raw in packed.contained]))))
        return function_id

    def _tell(self) -> None:
        facts = self._session.port.facts
        for definition, export, fact in self._told:
            facts.append(fact)
            definition.export = export

    # -- running ------------------------------

    def load(self, function_id: FunctionID, delivered: FunctionDelivered | None) -> LoadedFunction:
        """Return a function, unpickled once. Raises FunctionMissingError if it was not delivered or does not load."""
        found = self.loaded.get(function_id)
        if found is None:
            if delivered is None:
                raise FunctionMissingError(f"function {function_id.hex()} was never sent to this worker")
            found = self.loaded[function_id] = load_function(delivered.name, delivered.code)
        return found


def load_function(name: str, code: Value) -> LoadedFunction:
    """Return the function that ``code`` holds. Raises FunctionMissingError, naming what is missing, if it does not load."""
    try:
        call, retry_exceptions = unpack(code.format, code.data)
    except Exception as error:
        advice = ""
        if isinstance(error, ImportError):
            advice = ". Workers import with the sys.path and environment that the driver had when it called sundog.init()"
        raise FunctionMissingError(
            f"function {name!r} does not load in the worker: {type(error).__name__}: {error}{advice}"
        ) from error
    return LoadedFunction(call, retry_exceptions)
