"""Resources: what tasks ask for and nodes have, in fixed point so that nothing drifts.

Amounts are integers of ``UNIT`` = 1/10,000, so 0.1 CPU taken ten times and given back ten times is exactly nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from sundog.core.errors import InvariantViolation

#: One whole CPU, GPU or custom resource.
UNIT = 10_000
CPU = "CPU"
GPU = "GPU"

#: What a task asks for: (name, amount) pairs sorted by name, amounts over 0. Hashable, so tasks of one shape are counted together.
Shape: TypeAlias = tuple[tuple[str, int], ...]
ONE_CPU: Shape = ((CPU, UNIT),)


def shape(amounts: Mapping[str, float]) -> Shape:
    """Return the shape for ``amounts`` in whole units (``{"CPU": 0.5}``).

    Raises ValueError, naming the resource, for a negative amount or one that is finer than 1/10,000.
    """
    pairs = []
    for name in sorted(amounts):
        amount = amounts[name]
        fixed = round(amount * UNIT)
        if amount < 0:
            raise ValueError(f"resource {name!r}: {amount} is negative; ask for 0 or more")
        if fixed == 0 and amount > 0:
            raise ValueError(f"resource {name!r}: {amount} is finer than 1/{UNIT}, the smallest share there is")
        if fixed:
            pairs.append((name, fixed))
    return tuple(pairs)


def describe(wanted: Iterable[tuple[str, int]]) -> str:
    """Return ``wanted`` as people read it: ``2 CPU, 0.5 GPU``; ``nothing`` when empty."""
    return ", ".join(f"{amount / UNIT:g} {name}" for name, amount in wanted) or "nothing"


def without_cpu(wanted: Shape) -> Shape:
    """Return what a blocked task keeps: everything but its CPUs."""
    return tuple([pair for pair in wanted if pair[0] != CPU])


def only_cpu(wanted: Shape) -> Shape:
    """Return what a blocked task gives back: its CPUs."""
    if len(wanted) == 1 and wanted[0][0] == CPU:
        return wanted
    return tuple([pair for pair in wanted if pair[0] == CPU])


class ResourceSet:
    """A node's resources: capacity, and what is free of it.

    Invariant: free = capacity - taken + overdraft for every name. ``free`` may be below zero only by what was taken with
    ``overdraw`` (a task that resumes without a free CPU, counted apart).
    """

    __slots__ = ("capacity", "free", "overdrawn")

    def __init__(self, capacity: Shape) -> None:
        self.capacity: dict[str, int] = dict(capacity)
        self.free: dict[str, int] = dict(capacity)
        #: What is held beyond capacity, by name; only ever CPUs.
        self.overdrawn: dict[str, int] = {}

    def fits(self, wanted: Shape) -> bool:
        """Tell whether ``wanted`` is free now."""
        free = self.free
        for name, amount in wanted:  # noqa: SIM110 (a loop is twice as fast as all() on the hot path)
            if free.get(name, 0) < amount:
                return False
        return True

    def busy_beyond_cpus(self, wanted: Shape) -> bool:
        """Tell whether something other than CPUs that ``wanted`` needs is taken: another node may have it free."""
        if len(wanted) == 1 and wanted[0][0] == CPU:
            return False
        free = self.free
        return any(free.get(name, 0) < amount for name, amount in wanted if name != CPU)

    def could_fit(self, wanted: Shape) -> bool:
        """Tell whether ``wanted`` would fit if everything were free."""
        return not self.missing(wanted)

    def missing(self, wanted: Shape) -> Shape:
        """Return what ``wanted`` asks beyond capacity; empty if it could fit."""
        capacity = self.capacity
        return tuple([(n, amount - capacity.get(n, 0)) for n, amount in wanted if capacity.get(n, 0) < amount])

    def take(self, wanted: Shape) -> None:
        """Take ``wanted``, which must fit."""
        free = self.free
        for name, amount in wanted:
            left = free.get(name, 0) - amount
            if left < 0:
                raise InvariantViolation(f"took {describe(wanted)} of {self}: {name} does not fit")
            free[name] = left

    def take_if_free(self, wanted: Shape) -> bool:
        """Take ``wanted`` if it fits, all of it or nothing; return whether it did."""
        free = self.free
        for name, amount in wanted:
            left = free.get(name, 0) - amount
            if left < 0:
                self._put_back(wanted, name)
                return False
            free[name] = left
        return True

    def _put_back(self, wanted: Shape, until: str) -> None:
        for name, amount in wanted:
            if name == until:
                return
            self.free[name] += amount

    def overdraw(self, wanted: Shape) -> None:
        """Take ``wanted`` although it does not fit; the excess is counted in ``overdrawn``."""
        for name, amount in wanted:
            left = self.free.get(name, 0) - amount
            short = max(0, -left) - max(0, -self.free.get(name, 0))
            if short > 0:
                self.overdrawn[name] = self.overdrawn.get(name, 0) + short
            self.free[name] = left

    def give(self, wanted: Shape) -> None:
        """Give back ``wanted``."""
        free, capacity = self.free, self.capacity
        for name, amount in wanted:
            free[name] = left = free[name] + amount
            if left > capacity[name]:
                raise InvariantViolation(f"gave back {describe(wanted)} to {self}: {name} exceeds capacity")
        if self.overdrawn:
            self._pay_back(wanted)

    def _pay_back(self, wanted: Shape) -> None:
        for name, _ in wanted:
            if name in self.overdrawn:
                self.overdrawn[name] = max(0, -self.free[name])
                if not self.overdrawn[name]:
                    del self.overdrawn[name]

    def check_invariants(self) -> None:
        """Raise InvariantViolation unless 0 - overdraft <= free <= capacity for every name (S3)."""
        for name, left in self.free.items():
            if left > self.capacity.get(name, 0) or left < -self.overdrawn.get(name, 0):
                raise InvariantViolation(f"{name}: free {left} outside bounds in {self}")

    def __repr__(self) -> str:
        return f"ResourceSet(free: {describe(self.free.items())}; of: {describe(self.capacity.items())})"
