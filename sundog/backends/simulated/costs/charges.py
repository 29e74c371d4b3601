"""What a driver or worker is charged for its own work, where a profile says what that costs. See ``profile``.

The code that runs pays: its strand computes for that long on the node's cores. What nobody's code can pay now is paid with the
next charge. Values that arrive are read beside the code, as a driver's client thread does, one batch after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sundog.backends.serialization import PICKLE
from sundog.backends.simulated.costs.written_pages import WrittenPages
from sundog.backends.simulated.sim_loop import inline_size
from sundog.core.events import GetRequested, WaitRequested
from sundog.core.messages import ObjectPut, ObjectsReady, TaskSubmitted
from sundog.core.units import Nanos

if TYPE_CHECKING:
    from simpy.events import Event

    from sundog.backends.base import Arena
    from sundog.backends.simulated.costs.cores import Cores
    from sundog.backends.simulated.costs.profile import Profile
    from sundog.backends.simulated.programs.client_process import ClientProcess
    from sundog.backends.task_body import Outcome
    from sundog.core.ids import Address
    from sundog.core.machine import Fact
    from sundog.core.messages import RunTask
    from sundog.core.task import Value


#: What a body asks that waits for objects: its CPUs go to others meanwhile.
_BLOCKING = (GetRequested, WaitRequested)


class Charges:
    """The charges of one process; see the module."""

    def __init__(self, process: ClientProcess, profile: Profile, cores: Cores, *, worker: bool) -> None:
        self.profile = profile
        self._process = process
        self._cores = cores
        self._worker = worker
        #: Code of this process sleeps until something comes.
        self.asleep = False
        self._owed: Nanos = 0
        #: How long it has computed so far, in all, declared durations apart.
        self.spent: Nanos = 0
        #: Batches of messages that are being read, and what each takes.
        self._arriving: deque[tuple[Nanos, Callable[[], None]]] = deque()
        #: The submission that was charged last: a process may be kicked more than once for one.
        self._charged: Any = None
        self._written = WrittenPages()

    def charge(self, span: Nanos) -> None:
        """Let the code that runs compute for ``span``; if none of this process does, its next charge is that much more."""
        self.asleep = False
        span += self._owed
        self._owed = 0
        if not span:
            return
        self.spent += span
        strand = self._process.strand
        if strand is None or not self._process.may_wait():
            self._owed = span
            self.spent -= span
        else:
            self._cores.spend(strand, span)

    def submission(self, facts: Sequence[Any]) -> None:
        """``.remote()`` or ``put`` has written its fact."""
        fact = facts[-1] if facts else None
        if fact is self._charged or fact is None:
            return
        kind = type(fact)
        dependencies = 0
        if kind is TaskSubmitted:
            value = fact.spec.arguments
            dependencies = len(fact.spec.dependencies)
        elif kind is ObjectPut:
            value = fact.value
        else:
            return
        self._charged = fact
        profile = self.profile
        self.charge(profile.submit_time(dependencies) + self._serialized(value) + profile.message_time(inline_size(value)))

    def arrival(self, sender: Address, messages: list[Fact], deliver: Callable[[Address, list[Fact]], None]) -> bool:
        """Tell whether messages take time to be read; ``deliver`` is called with them then, in the order of their coming.

        A driver has a thread for that, which wakes for every batch; a worker reads while its code sleeps, or has nothing to do.
        """
        span = 0
        if not self._worker:
            span = self.profile.driver_turn
        elif self.asleep:
            span = self.profile.worker_wake
        for message in messages:
            if type(message) is ObjectsReady:
                for ready in message.objects:
                    span += self.profile.receive
                    if ready.value is not None:
                        span += self._arrived(ready.value)
        arriving = self._arriving
        if not span and not arriving:
            return False
        self.spent += span
        arriving.append((span, partial(deliver, sender, messages)))
        if len(arriving) == 1:
            self._cores.compute(span, self._on_arrived)
        return True

    def reads(self) -> bool:
        """Tell whether something that has come is still being read: what comes now is read after it."""
        return bool(self._arriving)

    def _on_arrived(self, _: Event) -> None:
        arriving = self._arriving
        arriving.popleft()[1]()
        if arriving:
            self._cores.compute(arriving[0][0], self._on_arrived)

    def woken(self, fact: Fact) -> None:
        """What code had slept for is there: the answer to ``fact``."""
        if self._worker:
            self.charge(self.profile.worker_block if type(fact) in _BLOCKING else 0)
        else:
            self.charge(self.profile.driver_wake)

    def wake(self) -> None:
        """A worker had nothing to do and has now."""
        self._owed += self.profile.worker_wake

    def reclaimed(self, count: int) -> None:
        """Tasks of the pipeline were taken back."""
        self._owed += count * self.profile.worker_reclaim

    def task_begins(self, run: RunTask, values: Sequence[Value]) -> None:
        """A task is about to be called with ``values``, those of its dependencies."""
        span = self.profile.task_time(len(values)) + self._arrived(run.spec.arguments)
        for value, sent in zip(values, run.values, strict=True):
            span += self._serialized(value) if sent is None else self._arrived(value)
        self.charge(span)

    def task_ends(self, outcome: Outcome) -> None:
        """A task has been called; what it returned is packed and sent."""
        span = 0
        for result in outcome.results:
            span += self._arrived(result.value)
        self.charge(span)

    def writes(self, offset: int, size: int, warm: bool) -> None:
        """``size`` bytes are about to be copied to ``offset`` of the store; ``warm``: somebody has written there before."""
        self.charge(self.profile.copy_time(size, not warm, self._written.write(offset, size, warm)))

    # -- bytes ------------------------------------------------------------------------------------------------------------------

    def _serialized(self, value: Value) -> Nanos:
        """Pickles are made and read; all else is copied when it is stored, if at all."""
        return self.profile.serialize_time(value.size) if value.format == PICKLE else 0

    def _arrived(self, value: Value) -> Nanos:
        return self._serialized(value) + self.profile.message_time(inline_size(value))


class ChargedArena:
    """``base.Arena`` whose writers are charged for what they are about to copy."""

    def __init__(self, arena: Arena, charges: Charges) -> None:
        self._arena = arena
        self._charges = charges

    def fill(self, offset: int, size: int, warm: bool, segments: Sequence[Any]) -> None:
        """See ``base.Arena``."""
        self._charges.writes(offset, size, warm)
        self._arena.fill(offset, size, warm, segments)

    def read(self, offset: int, size: int, grant: object) -> memoryview:
        """See ``base.Arena``."""
        return self._arena.read(offset, size, grant)
