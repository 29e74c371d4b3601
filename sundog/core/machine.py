"""The door: the one interface by which everything that decides is driven.

A machine takes facts, a batch at a time, and answers with requests. It has no clock, no socket, no thread and no die: time is
the argument ``now``, randomness an argument of its constructor. Therefore: *for machines in the same state, the same input
gives the same output, whoever runs the loop*: a real process, a simulator, a recorded run being replayed, a test.

Rules of ``step``:

1. all facts are recorded first, then deadlines that have passed, and only then does the machine decide, once per batch, in a
   fixed order. That is where batches come from, and batches are where speed comes from;
2. actions are performed in list order; ``Send`` to one address arrive in order;
3. ``now`` never goes back. Waking early or late is legal;
4. after ``step(now, ...)`` the next deadline is None or later than ``now``, so a loop cannot spin;
5. a step takes at most ``config.step_events_max`` events; the loop brings the rest in the next one.

The answer to an effect names its attempt, and stale attempts are ignored, so no state is ever half cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from sundog.core.ids import Address
from sundog.core.units import Nanos


class Fact(msgspec.Struct, frozen=True, gc=False, tag=True, array_like=True):
    """Something that has happened. Named in the past tense; positional, so fields are only ever appended."""


class Action(msgspec.Struct, frozen=True, gc=False, tag=True, array_like=True):
    """A request to the loop that runs the machine. Named in the imperative."""


#: Who said it, and what: messages carry their sender's address, what the loop itself saw carries ``ids.LOOP``.
Event: TypeAlias = tuple[Address, Fact]

A_co = TypeVar("A_co", covariant=True, bound=Action)


class Machine(Protocol[A_co]):
    """What a loop may ask of anything that decides."""

    def step(self, now: Nanos, events: Iterable[Event]) -> Sequence[A_co]:
        """Record ``events``, expire what is due at ``now``, decide, and return what is to be done, in order."""

    def next_deadline(self) -> Nanos | None:
        """Return when this machine wants to be stepped even if nothing happens, or None. Level-triggered."""

    def check_invariants(self) -> None:
        """Raise :class:`~sundog.core.errors.InvariantViolation` if the state is impossible. For tests; slow."""


class Decider(Machine[A_co], Protocol[A_co]):
    """A machine whose ``step`` is two halves that its host may call apart: ``record`` as often as something is said, then
    ``decide``, once nothing more is."""

    def record(self, now: Nanos, events: Iterable[Event]) -> Sequence[A_co]:
        """Record ``events``; return what follows from them without any choice."""

    def decide(self, now: Nanos) -> Sequence[A_co]:
        """Expire what is due at ``now``, decide, and return what is to be done, in order."""


class Rng(Protocol):
    """The only randomness core may be given. ``random.Random`` fits it; core never imports it."""

    def randrange(self, stop: int, /) -> int:
        """Return an integer in ``range(stop)``."""


#: What handles facts, by their type: methods of one machine.
Handlers: TypeAlias = dict[type, Callable[[Address, Any], None]]

#: Of each class of machines: see ``handlers_of``.
_HANDLERS: dict[type, dict[type, Callable[..., None]]] = {}


def handlers_of(machine: Any) -> dict[type, Callable[..., None]]:
    """Return what handles facts, by their type: functions of the machine, the sender and the fact, after ``machine._table()``.

    One table for all machines of a class: among a thousand nodes it is the memory that a step touches that counts.
    """
    kind = type(machine)
    found = _HANDLERS.get(kind)
    if found is None:
        found = _HANDLERS[kind] = {fact: method.__func__ for fact, method in machine._table().items()}
    return found
