"""Values that arrive many at a time for one get, as those of a burst do: taken by what C does for all, instead of one by one.

A part of the client. It takes a lot only if nothing is to be seen to for any of its objects, and then leaves behind exactly what
one after the other would have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Mapping, Sequence
from itertools import repeat
from operator import attrgetter

from sundog.core.deliveries import Deliveries
from sundog.core.ids import ObjectID
from sundog.core.known_objects import KnownObjects
from sundog.core.request import Request
from sundog.core.task import ReadyObject, Value

_id_of, _value_of, _size_of = attrgetter("object_id"), attrgetter("value"), attrgetter("size")
_kind_of = attrgetter("offset", "error")
#: The kind of values that travel inline and are no errors.
_INLINE = {(-1, False)}


def take_lot(
    objects: Sequence[ReadyObject],
    deliveries: Deliveries,
    requests: Mapping[int, Request],
    references: Container[ObjectID],
    watching: Mapping[ObjectID, None],
    known: KnownObjects,
) -> int | None:
    """Take ``objects`` if they are small values for which one request waits and nobody else; return its number.

    Return None, and nothing has happened, if they are anything else: of nobody here, watched, large, errors, news.
    """
    ids: list[ObjectID] = list(map(_id_of, objects))
    values: list[Value] = list(map(_value_of, objects))
    first = deliveries.first
    if None in values or deliveries.behind or set(map(_kind_of, values)) != _INLINE:
        return None
    [number, *others] = set(map(first.get, ids))
    request = requests.get(number) if number and not others else None
    sizes: list[int] = list(map(_size_of, values))
    if number is None or request is None or max(sizes) > known.value_bytes_max:
        return None
    if not all(map(references.__contains__, ids)):
        return None
    if (watching and not watching.keys().isdisjoint(ids)) or not known.values.keys().isdisjoint(ids):
        return None
    deque(map(first.pop, ids, repeat(0)), 0)
    deque(map(request.missing.pop, ids, repeat(None)), 0)
    request.values.update(zip(ids, values, strict=True))
    known.remember_lot(ids, values, sum(sizes))
    return number
