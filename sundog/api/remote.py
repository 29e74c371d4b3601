"""``@sundog.remote``: functions whose calls are tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, ParamSpec, Protocol, TypeVar, overload

from sundog.api import lifecycle
from sundog.api.options import parse_options
from sundog.backends import current
from sundog.backends.functions import CallOptions, Definition
from sundog.backends.object_ref import ObjectID
from sundog.backends.pickling import importable

if TYPE_CHECKING:
    from sundog.backends.session import Session

P = ParamSpec("P")
T = TypeVar("T")
RetryExceptions = bool | type[BaseException] | tuple[type[BaseException], ...] | list[type[BaseException]]

_COROUTINE = 0x80
_GENERATOR = 0x20
_ASYNC_GENERATOR = 0x200


class RemoteFunction(Generic[P, T]):
    """A function whose :meth:`remote` starts a task. Made by :func:`remote`; the function itself is ``__wrapped__``."""

    __name__: str
    __qualname__: str

    def __init__(self, definition: Definition, asked: Mapping[str, Any]) -> None:
        self._definition = definition
        self._asked = dict(asked)
        self._options: CallOptions = parse_options(definition.name, asked)
        function = definition.function
        self.__wrapped__ = function
        self.__name__ = getattr(function, "__name__", definition.name)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)
        self.__module__ = getattr(function, "__module__", None) or "sundog"
        self.__doc__ = getattr(function, "__doc__", None)

    if TYPE_CHECKING:

        @overload
        def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> ObjectID[T]: ...

        @overload
        def remote(self, /, *args: Any, **kwargs: Any) -> ObjectID[T]: ...  # an ObjectID may stand for any argument

        def remote(self, /, *args: Any, **kwargs: Any) -> ObjectID[T]:
            """Start a task that calls the function, and return at once the ID of what it will return.

            An ObjectID given as an argument stands for its value: the task starts when that is there. With
            ``num_returns=n`` a list of n IDs is returned, with 0 None. Raises TypeError if the function does not take these
            arguments, SerializationError (naming the part) if one does not pickle.
            """
            raise NotImplementedError

        @overload
        def options(self, *, num_returns: Literal[1] = ..., **options: Any) -> RemoteFunction[P, T]: ...

        @overload
        def options(self, *, num_returns: int, **options: Any) -> ManyReturns[P]: ...

        def options(self, **options: Any) -> Any:
            """Return the same function with other options, the ones of :func:`remote`, and ``duration``: how long its
            calls take in the simulator's virtual time, in seconds, as a function of the arguments or as a distribution.
            Raises TypeError or ValueError for what is no such option."""
            raise NotImplementedError

    else:

        def remote(self, /, *args: Any, **kwargs: Any) -> Any:
            session = current.session
            if session is None:
                session = lifecycle.session()
            return session.submit(self._definition, self._options, args, kwargs)

        def options(self, **options: Any) -> Any:
            asked = {**self._asked, **options}
            if "num_return_vals" in options and "num_returns" not in options:
                asked.pop("num_returns", None)
            elif "num_returns" in options and "num_return_vals" not in options:
                asked.pop("num_return_vals", None)
            definition = self._definition
            if "retry_exceptions" in options and options["retry_exceptions"] != self._asked.get("retry_exceptions"):
                if definition.function is None:
                    raise ValueError(
                        f"{definition.name} was defined in another process: retry_exceptions can be changed only there"
                    )
                definition = Definition(definition.function, definition.name, retry_types(options["retry_exceptions"]))
            return RemoteFunction(definition, asked)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        name = self._definition.name
        raise TypeError(
            f"remote function {name!r} cannot be called directly: {name}.remote(...) starts a task and returns its ObjectID "
            f"(and {name}.__wrapped__(...) calls the plain function here)"
        )

    def __repr__(self) -> str:
        return f"<remote function {self._definition.name}>"

    def __sundog_reduce__(self, session: Session | None) -> tuple[Any, ...]:
        """Pickle within sundog: the definition travels as the name of what the node knows."""
        return (_rebuild, (self._definition, self._asked))

    def __reduce__(self) -> tuple[Any, ...] | str:
        """Pickle for somebody else: by its own name if it has one, else by value."""
        found: Any = None
        if importable(self.__module__):
            import sys

            found = sys.modules[self.__module__]
            for part in self.__qualname__.split("."):
                found = getattr(found, part, None)
        return self.__qualname__ if found is self else (_rebuild, (self._definition, self._asked))


if TYPE_CHECKING:

    class ManyReturns(Generic[P]):
        """A RemoteFunction with ``num_returns`` other than 1, as type checkers see it."""

        def remote(self, /, *args: Any, **kwargs: Any) -> list[ObjectID[Any]]:
            """See RemoteFunction.remote."""
            raise NotImplementedError

        def options(self, **options: Any) -> ManyReturns[P]:
            """See RemoteFunction.options."""
            raise NotImplementedError

else:
    ManyReturns = RemoteFunction


def _rebuild(definition: Definition, asked: Mapping[str, Any]) -> RemoteFunction[Any, Any]:
    return RemoteFunction(definition, asked)


class Decorator(Protocol):
    """What ``remote(num_cpus=2)`` returns."""

    def __call__(self, function: Callable[P, T], /) -> RemoteFunction[P, T]:
        """Make ``function`` remote."""


class ManyDecorator(Protocol):
    """What ``remote(num_returns=2)`` returns."""

    def __call__(self, function: Callable[P, Any], /) -> ManyReturns[P]:
        """Make ``function`` remote."""


@overload
def remote(function: Callable[P, T], /) -> RemoteFunction[P, T]: ...


@overload
def remote(
    *,
    num_cpus: float = ...,
    num_gpus: float = ...,
    resources: Mapping[str, float] = ...,
    max_retries: int = ...,
    retry_exceptions: RetryExceptions = ...,
    max_calls: int = ...,
    name: str = ...,
    priority: int = ...,
) -> Decorator: ...


@overload
def remote(*, num_returns: Literal[1], **options: Any) -> Decorator: ...


@overload
def remote(*, num_returns: int, **options: Any) -> ManyDecorator: ...


@overload
def remote(*, num_return_vals: int, **options: Any) -> ManyDecorator: ...


def remote(function: Any = None, /, **options: Any) -> Any:
    """Make a function remote: ``@sundog.remote``, ``@sundog.remote(num_cpus=2)`` or ``sundog.remote(function)``.

    ``num_returns`` (also ``num_return_vals``): how many values the function returns, each with its own ID. ``num_cpus`` (1),
    ``num_gpus`` (0) and ``resources`` ({}): what a running call occupies, in whole units or fractions of 1/10,000.
    ``max_retries`` (3; -1 without end): how often a call may be started again when its worker dies, and after an exception
    of one of the types ``retry_exceptions`` (True: any). ``max_calls`` (0: no bound): a worker is replaced after so many calls.
    ``name``: for outputs, errors and tables. ``priority`` (0): among tasks that could start, higher goes first.

    Plain functions, lambdas, partials, bound methods, builtins and static methods may be remote. Raises TypeError for what
    may not, saying what to do; TypeError or ValueError for an option that makes no sense.
    """
    if function is None:
        parse_options("the function", options)
        return lambda function: _make(function, options)
    if options:
        raise TypeError("give the options first: sundog.remote(num_cpus=2)(function)")
    return _make(function, options)


def _make(function: Any, options: Mapping[str, Any]) -> RemoteFunction[Any, Any]:
    if isinstance(function, staticmethod):
        function = function.__func__
    _check(function)
    name = options.get("name") or _name_of(function)
    return RemoteFunction(Definition(function, name, retry_types(options.get("retry_exceptions", False))), options)


def _check(function: Any) -> None:
    if isinstance(function, RemoteFunction):
        raise TypeError(f"{function!r} is remote already; {function.__name__}.options(...) gives it other options")
    if isinstance(function, type):
        raise TypeError(
            f"class {function.__qualname__} cannot be remote: actors are not there yet. Make its methods functions, or have a "
            f"remote function that makes a {function.__qualname__} and uses it"
        )
    if isinstance(function, classmethod):
        raise TypeError(f"a classmethod gets its class only when it is called on it: use sundog.remote(Class.{function.__name__})")
    if not callable(function):
        raise TypeError(f"sundog.remote takes a function, not {function!r}")
    plain = function
    while isinstance(plain, (partial, MethodType)):
        plain = plain.func if isinstance(plain, partial) else plain.__func__
    if not isinstance(plain, FunctionType):
        plain = getattr(type(plain), "__call__", None)  # noqa: B004 (the function, to look at its code)
        if not isinstance(plain, FunctionType):
            return  # a builtin
    flags = plain.__code__.co_flags
    name = plain.__qualname__
    if flags & _COROUTINE:
        raise TypeError(
            f"async def {name} cannot be remote: workers run one task at a time, without an event loop. Make it a plain function "
            "that calls asyncio.run(...); at the caller, `await` works on the ObjectID that .remote() returns"
        )
    if flags & (_GENERATOR | _ASYNC_GENERATOR):
        raise TypeError(
            f"generator function {name} cannot be remote: a task returns once. Return a list, declare num_returns=n and return a "
            "tuple, or start one task for each item"
        )


def _name_of(function: Any) -> str:
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    if name is None:
        inner = getattr(function, "func", None)
        return f"partial({_name_of(inner)})" if inner is not None else type(function).__qualname__
    return str(name).rpartition("<locals>.")[2]


def retry_types(asked: Any) -> tuple[type[BaseException], ...]:
    """Return the types that ``retry_exceptions`` stands for. Raises TypeError if it is none."""
    if asked is True:
        return (Exception,)
    if not asked:
        return ()
    kinds = (asked,) if isinstance(asked, type) else tuple(asked) if isinstance(asked, (list, tuple)) else (asked,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"retry_exceptions takes True or exception types, not {kind!r}")
    return kinds
