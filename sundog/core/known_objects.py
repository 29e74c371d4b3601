"""What a client knows to be ready, and some of the values: small ones, that it put itself or that were delivered lately.

The client machine alone decides what is in here and when it goes. Threads of its process look into :attr:`KnownObjects.values`
and answer themselves what needs no question; every such look is one atomic call. Nothing here outlives the last reference.

Invariants: only held IDs are known (K1); values that are remembered cost about ``config.known_bytes_max`` at most (K2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sundog.core.config import Config
from sundog.core.errors import InvariantViolation
from sundog.core.ids import ObjectID
from sundog.core.task import Value

#: What a remembered value costs besides its bytes: an ID, the Value, its places in a table and a list, what an allocator adds.
ENTRY_BYTES = 240


class KnownObjects:
    """See the module."""

    __slots__ = ("_half_max", "_old", "_waited", "_young", "_young_bytes", "kept", "value_bytes_max", "values")

    def __init__(self, config: Config) -> None:
        self._half_max = config.known_bytes_max // 2
        self.value_bytes_max = config.known_value_bytes_max
        #: Ready objects; the value where it is remembered. A thread that puts may enter its value before the machine does.
        self.values: dict[ObjectID, Value | None] = {}
        #: What the session keeps with an ID as long as that is referenced. Opaque here.
        self.kept: dict[ObjectID, object] = {}
        #: Whose values are remembered, in two generations: when what was remembered lately cost half of what all may, the old are
        #: let go, at once. Those that were forgotten meanwhile still stand here.
        self._young: list[ObjectID] = []
        self._old: list[ObjectID] = []
        self._young_bytes = 0
        #: When their values are let go, somebody still wants to know that these are ready. Some may be forgotten.
        self._waited: dict[ObjectID, None] = {}

    def worth_remembering(self, value: Value) -> bool:
        """Tell whether ``value`` is of the kind that is remembered: a small one, and no error (that must be heard by the node)."""
        return value.offset == -1 and not value.error and value.size <= self.value_bytes_max

    def remember(self, object_id: ObjectID, value: Value, waited_for: bool = False, put: bool = False) -> None:
        """``object_id`` is ready and has this value, which is remembered if it is worth that.

        ``waited_for``: somebody waits for objects of which this is one, so that it is ready stays known when its value is let go.
        Of what was only got nothing stays then: an entry for each finished task would be half of what its reference costs.
        ``put``: this process put it, just now, and a thread may have entered the value already.
        """
        values = self.values
        size = value.size
        if value.offset != -1 or size > self.value_bytes_max or value.error:  # as in worth_remembering
            values.setdefault(object_id, None)
            return
        before = values.get(object_id, 0)
        values[object_id] = value
        if not before or put:
            if waited_for or before is None:
                self._waited[object_id] = None
            self._young.append(object_id)
            self._young_bytes = young_bytes = self._young_bytes + size + ENTRY_BYTES
            if young_bytes > self._half_max:
                self._grow_old()

    def remember_lot(self, object_ids: Sequence[ObjectID], values: Sequence[Value], size: int) -> None:
        """As :meth:`remember` for several, of ``size`` bytes together and each small: those of which nothing is known and for which
        nobody waits."""
        young_bytes = self._young_bytes + size + len(values) * ENTRY_BYTES
        if young_bytes > self._half_max:
            for object_id, value in zip(object_ids, values, strict=True):
                self.remember(object_id, value)
            return
        self.values.update(zip(object_ids, values, strict=True))
        self._young += object_ids
        self._young_bytes = young_bytes

    def _grow_old(self) -> None:
        """Let the values go of which the old remind, unless there is room for all, because many others have been forgotten."""
        values, waited = self.values, self._waited
        old, young = self._remembered(self._old), self._remembered(self._young)
        if self._cost(old) + self._cost(young) > self._half_max:
            for object_id in old:
                if object_id in waited:
                    values[object_id] = None
                else:
                    values.pop(object_id, None)
            old = []
        self._old, self._young = list(dict.fromkeys(old + young)), []
        self._young_bytes = 0
        self._waited = dict.fromkeys(self._remembered(waited))

    def _remembered(self, object_ids: Iterable[ObjectID]) -> list[ObjectID]:
        return [object_id for object_id in object_ids if self.values.get(object_id) is not None]

    def _cost(self, object_ids: Iterable[ObjectID]) -> int:
        known = map(self.values.get, object_ids)
        return sum([value.size + ENTRY_BYTES for value in known if value is not None])

    def forget(self, object_ids: Iterable[ObjectID]) -> None:
        """The last references are gone."""
        values, kept = self.values, self.kept
        for object_id in object_ids:
            if object_id in values:
                del values[object_id]
            if kept:
                kept.pop(object_id, None)

    def clear(self) -> None:
        """The session is over: whoever asks is told that."""
        self.values.clear()
        self.kept.clear()
        self._old, self._young, self._waited = [], [], {}
        self._young_bytes = 0

    def check_invariants(self, references: dict[ObjectID, int]) -> None:
        """Raise InvariantViolation unless K1 and K2 hold."""
        for object_id in self.values:
            if object_id not in references:
                raise InvariantViolation(f"{object_id.hex()} is known, and nobody here holds it (K1)")
        costs = self._cost(self._old), self._cost(self._young)
        if costs[0] > self._half_max + self.value_bytes_max + ENTRY_BYTES or not costs[1] <= self._young_bytes <= self._half_max:
            raise InvariantViolation(f"remembered values cost {costs} bytes; at most {self._half_max} each (K2)")
