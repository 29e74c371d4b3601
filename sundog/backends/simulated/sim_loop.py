"""The loop of the simulation: SimPy's queue, and the processes that its events wake.

One SimPy event for each batch that is delivered and for each timer, with a callback, in integer nanoseconds. A
:class:`Process` is a box round a machine: what arrives lies in its inbox until its turn, which is one ``step`` of the machine
with everything that arrived at that instant.

Who runs: the queue is worked off in *hub* greenlets, user code in its own. Switches go both ways: user code that has to wait
calls :meth:`Loop.enter`, which goes on with the queue; a callback that has news for user code calls :meth:`Loop.resume`,
as the last thing that it does. A body starts as a plain call on the hub that dispatches it, so it runs to its first block
without a switch; if it blocks, that hub is the body's from then on, and another one goes on with the queue.
"""

from __future__ import annotations

import gc
import itertools
import sys
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

import msgspec
from greenlet import GreenletExit, getcurrent, greenlet
from simpy.core import EmptySchedule, Environment
from simpy.events import Event

from sundog.backends.simulated.calls import call_in
from sundog.backends.simulated.programs import strand as strands
from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address, NodeID
from sundog.core.machine import Event as MachineEvent
from sundog.core.machine import Fact
from sundog.core.units import MICROSECOND, MILLISECOND, Nanos

#: The automatic garbage collector is off, since when it runs hangs on everything that this interpreter ever allocated; the loop
#: collects instead, every so many of its own steps (protocols: 19). Names, so that a test can show that without it runs differ.
COLLECT_EVERY_STEPS = 20_000
COLLECTS = True
#: Looks at the real world (threads, sockets) every so many steps.
LOOK_EVERY_STEPS = 64


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What things cost in virtual time. Integer nanoseconds."""

    #: A message's way between two processes of one node.
    hop: Nanos = 15 * MICROSECOND
    #: From StartWorker to a worker that can be given tasks.
    worker_start: Nanos = 5 * MILLISECOND
    #: Every call of the driver into sundog, so that polling loops get somewhere (protocols: 18).
    call: Nanos = 1 * MICROSECOND
    #: Every reading of a clock, by the driver or a body, for the same reason.
    clock: Nanos = 1 * MICROSECOND
    #: What a driver or body has submitted travels together for this long, unless it waits or ends before.
    flush: Nanos = 64 * MICROSECOND

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) < 0:
                raise ValueError(f"costs: {name}={getattr(self, name)} is negative")
        for name in ("call", "clock"):
            if getattr(self, name) < 1:
                raise ValueError(f"costs: {name}=0 would let a polling loop stand still for ever")


class Network(Protocol):
    """What carries messages between processes."""

    def send(self, source: Address, target: Address, size: int, deliver: Callable[[], None]) -> None:
        """Call ``deliver()`` when ``size`` bytes have come from ``source`` to ``target``: after all that was sent there before."""

    def forget(self, node: NodeID) -> None:
        """``node`` is dead: what is on its way to it is gone, and what it had not got out."""

    def busy(self) -> bool:
        """Tell whether something large, or slow, is on its way that will arrive."""


class ConstantNetwork:
    """Every message takes ``latency``, whatever its size."""

    def __init__(self, environment: Environment, latency: Nanos) -> None:
        self._environment = environment
        self._latency = latency

    def send(self, source: Address, target: Address, size: int, deliver: Callable[[], None]) -> None:
        """See :class:`Network`."""
        call_in(self._environment, self._latency, lambda _: deliver())

    def forget(self, node: NodeID) -> None:
        """See :class:`Network`. Messages are nowhere in particular here: what was sent arrives."""

    def busy(self) -> bool:
        """See :class:`Network`."""
        return False


class InstantNetwork(ConstantNetwork):
    """Messages arrive at the instant at which they are sent, after everything else that happens then already."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment, 0)


class VirtualClock(Environment):
    """A SimPy environment whose time can be moved on where nothing happens in between."""

    def permute(self, seed: int | str) -> None:
        """From now on let events of equal time happen in an order drawn from ``seed``."""
        draw = Random(f"ties {seed}").getrandbits
        self._eid = (draw(32) << 40 | number for number in itertools.count())  # type: ignore[assignment]  # what the queue sorts by

    def advance(self, to: Nanos) -> None:
        """Move time on to ``to``, before which nothing is scheduled."""
        self._now = to


class Loop:
    """See the module. ``costs`` are the session's, ``ties`` permutes what happens at one time.

    Whoever makes it is the user's thread and greenlet.
    """

    def __init__(self, costs: Costs, *, ties: int | str | None = None) -> None:
        self.costs = costs
        self.environment = VirtualClock()
        if ties is not None:
            self.environment.permute(ties)
        #: The one thread of the simulation, and the greenlet of the user's program on it.
        self.home = get_ident()
        self.main = getcurrent()
        #: Whose code runs: the driver's, a body's, or None while the loop itself does.
        self.running: strands.Strand | None = None
        self.stopped = False
        self.steps = 0
        #: Sleeps and durations of user code that are not over.
        self.timers = 0
        #: When something happened that was no heartbeat.
        self.active_at: Nanos = 0
        #: Hubs that wait to be needed again.
        self._parked: list[greenlet] = []
        self._spawner = greenlet(self._spawn, self.main)
        #: What other threads want done by the loop.
        self.calls: deque[Callable[[], None]] = deque()
        #: Looked at now and then: true once something has happened outside of the simulation.
        self.outside: dict[strands.Strand, Callable[[], bool]] = {}
        #: Called with nothing left to happen; returns the error for the waiting driver, or None if it has found something.
        self.on_empty: Callable[[], BaseException | None] = lambda: None
        #: Called now and then; returns the error for the driver if it waits for what will never come.
        self.on_look: Callable[[], BaseException | None] = lambda: None
        #: Called with an error of ours, which ends the session.
        self.on_failure: Callable[[BaseException], None] = lambda _: None

    @property
    def now(self) -> Nanos:
        """The virtual time, from 0."""
        return self.environment._now  # type: ignore[return-value]  # only whole numbers are ever scheduled

    def call_at(self, when: Nanos, callback: Callable[[Event], None]) -> None:
        """Call ``callback(event)`` at ``when``, not before now."""
        environment = self.environment
        call_in(environment, when - environment._now, callback)  # type: ignore[arg-type]  # only whole numbers are ever scheduled

    def next_event(self) -> Nanos | float:
        """Return when something happens next; infinity if nothing does."""
        return self.environment.peek()

    # -- hubs -----------------------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """From user code: go on with the queue. Returns when somebody resumes the caller, or raises what was thrown into it."""
        parked = self._parked
        hub = parked.pop() if parked else self._spawner
        hub.switch()
        _go_on_tracing()

    def _spawn(self) -> None:
        """Start hubs, from here: a greenlet begins at the recursion depth of whoever starts it, and bodies nest deeply."""
        while True:
            greenlet(self._run, self.main).switch()

    def resume(self, waiting: greenlet) -> None:
        """From a callback, as its last act: let user code go on."""
        self._parked.append(getcurrent())
        waiting.switch()
        _go_on_tracing()

    def _run(self) -> None:
        _go_on_tracing()
        step = self.environment.step
        while not self.stopped:
            try:
                self.steps += 1
                if self.steps % LOOK_EVERY_STEPS == 0:
                    self._look()
                if self.calls:
                    self.calls.popleft()()
                else:
                    step()
            except EmptySchedule:
                self._nothing_left()
            except GreenletExit:
                raise
            except BaseException as error:
                self.on_failure(error)
                self._throw(error)

    def _look(self) -> None:
        if COLLECTS and self.steps % COLLECT_EVERY_STEPS < LOOK_EVERY_STEPS:
            gc.collect()
        for waiting, happened in list(self.outside.items()):
            if happened():
                waiting.wake()
        error = self.on_look()
        if error is not None:
            self._throw(error)

    def _nothing_left(self) -> None:
        error = self.on_empty()
        if error is not None:
            self._throw(error)

    def _throw(self, error: BaseException) -> None:
        """Raise ``error`` in the user's program, which waits."""
        self._parked.append(getcurrent())
        self.main.throw(error)

    def unwind(self) -> None:
        """Let every hub end. For the end of the session, once no body is suspended."""
        self.stopped = True
        parked, self._parked = self._parked, []
        for hub in (*parked, self._spawner):
            hub.throw(GreenletExit)


def _go_on_tracing() -> None:
    """After a switch: whoever traces or profiles (a debugger, say) does so in every greenlet.

    Until Python 3.12 whether there is anything to call is kept with each greenlet's stack; setting it again sets it here.
    """
    if _TRACED_BY_STACK:
        tracing = sys.gettrace()
        if tracing is not None or sys.getprofile() is not None:
            sys.settrace(tracing)


_TRACED_BY_STACK = sys.version_info < (3, 12)


class Process:
    """A box round a machine. ``where`` is its address; subclasses have a ``turn``."""

    __slots__ = (
        "_timer", "_turn_due", "dead", "environment", "inbox", "loop", "where",
    )  # fmt: skip

    def __init__(self, loop: Loop, where: Address) -> None:
        self.loop = loop
        self.environment = loop.environment
        self.where = where
        self.inbox: list[MachineEvent] = []
        #: Never takes a turn again.
        self.dead = False
        self._turn_due = False
        #: When the earliest timer fires. SimPy cannot cancel: one that fires early is set again.
        self._timer: Nanos | None = None

    def receive(self, sender: Address, messages: list[Fact]) -> None:
        """Take what has arrived; the turn comes after everything else that happens at this instant already."""
        if self.dead:
            return
        if len(messages) == 1:
            self.inbox.append((sender, messages[0]))
        else:
            self.inbox += [(sender, message) for message in messages]
        if not self._turn_due:
            self.turn_soon()

    def turn_soon(self) -> None:
        """Take a turn at this instant."""
        if not self._turn_due:
            self._turn_due = True
            self.loop.call_at(self.loop.now, self._on_turn)

    def turn_at(self, when: Nanos) -> None:
        """Take a turn at ``when``, or before."""
        now = self.loop.now
        if when <= now:
            self.turn_soon()
        elif self._timer is None or when < self._timer:
            self._timer = when
            self.loop.call_at(when, self._on_timer)

    def _on_turn(self, _: Event) -> None:
        self._turn_due = False
        if not self.dead:
            self.turn()

    def _on_timer(self, _: Event) -> None:
        now = self.loop.now
        if self.dead or self._timer is None or self._timer > now:
            return
        self._timer = None
        due = self.wanted_at()
        if due is None:
            return
        if due <= now:
            self.turn()
        else:
            self.turn_at(due)

    def wanted_at(self) -> Nanos | None:
        """Return when this process wants a turn even if nothing happens, or None."""
        raise NotImplementedError

    def turn(self) -> None:
        """Step the machine with what there is, and perform what it asks."""
        raise NotImplementedError

    def rearm(self) -> None:
        """After a turn: see that the next one comes."""
        due = self.wanted_at()
        if due is None:
            return
        timer = self._timer
        if timer is not None and timer <= due and timer > self.environment._now:
            return
        if due <= self.environment._now and not self.inbox:
            raise InvariantViolation(f"the machine of process {self.where} would spin")
        self.turn_at(due)


def wire_size(messages: list[Any]) -> int:
    """Return about how many bytes ``messages`` are on a wire: values count, code does not (its length varies)."""
    size = _FRAME_BYTES * len(messages)
    measures = _MEASURES
    for message in messages:
        kind = type(message)
        if kind in measures:
            size += measures[kind](message)
    return size


def inline_bytes(messages: list[Any]) -> int:
    """Return how many bytes of inline values travel with ``messages``."""
    size = 0
    for message in messages:
        measure = _VALUES.get(type(message))
        if measure is not None:
            size += measure(message)
    return size


_FRAME_BYTES = 64


def inline_size(value: Any) -> int:
    """Return how many bytes a Value, or None, carries itself."""
    return 0 if value is None or value.offset != -1 else int(value.size)


def _values() -> dict[type, Callable[[Any], int]]:
    from sundog.core import messages as msg

    inline = inline_size

    def runs(message: msg.RunTasks) -> int:
        size = 0
        for run in message.tasks:
            arguments = run.spec.arguments
            if arguments.size:
                size += inline(arguments)
            for value in run.values:
                size += inline(value)
        return size

    def finished(message: msg.TaskFinished) -> int:
        size = 0
        for result in message.results:
            value = result.value
            if value.offset == -1:
                size += value.size
        return size

    return {
        msg.TaskSubmitted: lambda m: m.spec.arguments.size if m.spec.arguments.offset == -1 else 0,
        msg.TasksSubmitted: lambda m: sum([v.size for v in m.arguments]) or len(m.task_ids) * m.spec.arguments.size,
        msg.TasksFinished: lambda m: sum([v.size for v in m.values]),
        msg.ObjectPut: lambda m: inline(m.value),
        msg.TaskFinished: finished,
        msg.RunTasks: runs,
        msg.ObjectsReady: lambda m: sum([inline(ready.value) for ready in m.objects]),
    }


_VALUES = _values()


def _measures() -> dict[type, Callable[[Any], int]]:
    from sundog.core import messages as msg

    runs, ready = _VALUES[msg.RunTasks], _VALUES[msg.ObjectsReady]
    return {
        **_VALUES,
        msg.RunTasks: lambda m: runs(m) + 64 * len(m.tasks),
        msg.ObjectsReady: lambda m: ready(m) + 32 * len(m.objects),
        msg.ObjectsWanted: lambda m: 20 * len(m.object_ids),
        msg.HoldsTaken: lambda m: 20 * len(m.object_ids),
        msg.HoldsReleased: lambda m: 20 * len(m.object_ids),
        msg.TableGiven: lambda m: len(m.rows),
    }


_MEASURES = _measures()
