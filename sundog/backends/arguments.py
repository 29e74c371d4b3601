"""The arguments of a task: ``(args, kwargs)`` in one pickle, with the ObjectIDs at their top level taken out.

Such an ID is a dependency: the task starts when its value is there, and gets the value. In the pickle None stands in its place,
and a third element lists the places: ``(position or keyword, index into dependencies)``. IDs deeper inside travel as IDs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sundog.backends import culprit
from sundog.backends.object_ref import ObjectID
from sundog.backends.pickling import PROTOCOL
from sundog.backends.serialization import PICKLE, Packed, dumps, is_plain, pack_any, unpack
from sundog.core import ids

if TYPE_CHECKING:
    from sundog.backends.functions import Definition
    from sundog.backends.session import Session

#: What :func:`pack_arguments` makes of none.
NO_ARGUMENTS = dumps(((), {}), PROTOCOL)

Places = tuple[tuple[int | str, int], ...]


def pack_arguments(
    session: Session, definition: Definition, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Packed, tuple[ids.ObjectID, ...]]:
    """Return the packed arguments, and the dependencies, each once, in the order of first mention.

    Raises SerializationError naming the argument, and the part of it, that does not pickle.
    """
    dependencies: dict[bytes, int] = {}
    places: list[tuple[int | str, int]] = []
    plain = True
    for position, argument in enumerate(args):
        if isinstance(argument, ObjectID):
            _own(session, argument)
            places.append((position, dependencies.setdefault(argument[:], len(dependencies))))
        elif plain and not is_plain(argument):
            plain = False
    for key, argument in kwargs.items():
        if isinstance(argument, ObjectID):
            _own(session, argument)
            places.append((key, dependencies.setdefault(argument[:], len(dependencies))))
        elif plain and not is_plain(argument):
            plain = False
    whole: tuple[Any, ...] = (args, kwargs)
    if places:
        args = tuple([None if isinstance(argument, ObjectID) else argument for argument in args])
        kwargs = {key: None if isinstance(argument, ObjectID) else argument for key, argument in kwargs.items()}
        whole = (args, kwargs, tuple(places))
    if plain:
        data = dumps(whole, PROTOCOL)
        return Packed(PICKLE, (data,), len(data)), tuple(dependencies)  # type: ignore[arg-type]
    try:
        packed = pack_any(session, whole)
    except Exception as error:
        raise _explain(session, definition, name, args, kwargs, error) from error
    return packed, tuple(dependencies)  # type: ignore[arg-type]


def pack_simple(id_class: type[ObjectID[Any]], args: tuple[Any, ...]) -> tuple[bytes, tuple[ids.ObjectID, ...]]:
    """The same, quickly, for positional arguments that are all IDs of class ``id_class`` or atoms."""
    dependencies: dict[Any, int] = {}
    places: list[tuple[int, int]] = []
    filled = list(args)

    for position, argument in enumerate(args):
        if type(argument) is id_class:
            places.append((position, dependencies.setdefault(argument[:], len(dependencies))))
            filled[position] = None
    return dumps((tuple(filled), {}, tuple(places)), PROTOCOL), tuple(dependencies)


def unpack_arguments(form: int, data: bytes | memoryview, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return ``(args, kwargs)``, with ``values[i]`` in the places of dependency i."""
    whole = unpack(form, data)
    args, kwargs = whole[0], whole[1]
    if len(whole) == 2:
        return args, kwargs
    filled = list(args)
    for place, index in whole[2]:
        if type(place) is int:
            filled[place] = values[index]
        else:
            kwargs[place] = values[index]
    return tuple(filled), kwargs


def _own(session: Session, argument: ObjectID[Any]) -> None:
    if type(argument) is not session.id_class:
        raise ValueError(f"{argument!r} belongs to a session that has ended: objects do not outlive their session")


def _explain(
    session: Session, definition: Definition, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
) -> Exception:
    names = definition.arity.names
    labelled = [(repr(names[i]) if i < len(names) else str(i + 1), argument) for i, argument in enumerate(args)]
    labelled += [(repr(key), argument) for key, argument in kwargs.items()]
    for label, argument in labelled:
        try:
            pack_any(None, argument)
        except Exception as failure:
            return culprit.explain(f"{name}.remote(): argument {label}", argument, failure)
    return culprit.explain(f"{name}.remote(): the arguments", (args, kwargs), error)
