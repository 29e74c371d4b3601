"""What a client knows to be ready, and some of the values: small ones, that it put itself or that were delivered lately.

The client machine alone decides what is in here and when it goes. Threads of its process look into :attr:`KnownObjects.values`
and answer themselves what needs no question; every such look is one atomic call. Nothing here outlives the last reference.

Invariants: only held IDs are known (K1); values that are remembered cost about ``config.known_bytes_max`` at most (K2).
"""

from __future__ import annotations

from collections.abc import Iterable

from sundog.core.config import Config
from sundog.core.errors import InvariantViolation
from sundog.core.ids import ObjectID
from sundog.core.task import Value

#: What a remembered value costs besides its bytes: an ID, the Value, places in two tables, what an allocator adds.
ENTRY_BYTES = 280


class KnownObjects:
    """See the module."""

    __slots__ = ("_half_max", "_old", "_value_bytes_max", "_young", "_young_bytes", "kept", "values")

    def __init__(self, config: Config) -> None:
        self._half_max = config.known_bytes_max // 2
        self._value_bytes_max = config.known_value_bytes_max
        #: Ready objects; the value where it is remembered. A thread that puts may enter its value before the machine does.
        self.values: dict[ObjectID, Value | None] = {}
        #: What the session keeps with an ID as long as that is referenced. Opaque here.
        self.kept: dict[ObjectID, object] = {}
        #: Whose values are remembered, in two generations: when the young cost half of what all may, the old are let go, at once.
        #: The size in bytes; its complement if somebody waits.
        self._young: dict[ObjectID, int] = {}
        self._old: dict[ObjectID, int] = {}
        self._young_bytes = 0

    def worth_remembering(self, value: Value) -> bool:
        """Tell whether ``value`` is of the kind that is remembered: a small one, and no error (that must be heard by the node)."""
        return value.offset == -1 and not value.error and value.size <= self._value_bytes_max

    def remember(self, object_id: ObjectID, value: Value, waited_for: bool = False) -> None:
        """``object_id`` is ready and has this value, which is remembered if it is worth that.

        ``waited_for``: somebody waits for objects of which this is one, so that it is ready stays known when its value is let go.
        Of what was only got nothing stays then: an entry for each finished task would be half of what its reference costs.
        """
        values = self.values
        size = value.size
        if value.offset != -1 or size > self._value_bytes_max or value.error:  # as in worth_remembering
            values.setdefault(object_id, None)
            return
        young = self._young
        if object_id not in young and object_id not in self._old:
            young[object_id] = ~size if waited_for or values.get(object_id, 0) is None else size
            self._young_bytes += size + ENTRY_BYTES
            if self._young_bytes > self._half_max:
                self._grow_old()
        values[object_id] = value

    def _grow_old(self) -> None:
        values = self.values
        for object_id, size in self._old.items():
            if size < 0:
                values[object_id] = None
            else:
                values.pop(object_id, None)
        self._old, self._young = self._young, {}
        self._young_bytes = 0

    def forget(self, object_ids: Iterable[ObjectID]) -> None:
        """The last references are gone."""
        values, kept, young = self.values, self.kept, self._young
        for object_id in object_ids:
            if kept:
                kept.pop(object_id, None)
            if object_id not in values:
                continue  # nor is its value remembered
            del values[object_id]
            if object_id in young:
                size = young.pop(object_id)
                self._young_bytes -= (size if size >= 0 else ~size) + ENTRY_BYTES
            elif self._old:
                self._old.pop(object_id, None)

    def clear(self) -> None:
        """The session is over: whoever asks is told that."""
        self.values.clear()
        self.kept.clear()
        self._old, self._young = {}, {}
        self._young_bytes = 0

    def check_invariants(self, references: dict[ObjectID, int]) -> None:
        """Raise InvariantViolation unless K1 and K2 hold."""
        for object_id in self.values:
            if object_id not in references:
                raise InvariantViolation(f"{object_id.hex()} is known, and nobody here holds it (K1)")
        costs = [sum(max(size, ~size) + ENTRY_BYTES for size in sizes.values()) for sizes in (self._young, self._old)]
        if (
            self._young_bytes != costs[0]
            or costs[0] > self._half_max
            or costs[1] > self._half_max + self._value_bytes_max + ENTRY_BYTES
        ):
            raise InvariantViolation(f"remembered values cost {costs} bytes; at most {self._half_max} each (K2)")
