"""Faults as data: what happens to whom, when, and for how long; and what brings them about.

A :class:`Schedule` is a list of faults and, optionally, a core of nodes that is well from some time on. It is written by people
(``language``) or drawn from a seed (``swarm``), prints as what people write, and is carried out by a :class:`FaultRunner`:
on processes through a narrow :class:`FaultTarget` (the loop), on messages through the model network.

Two phases: in the *safety* phase anything may fail, and nothing wrong may come out. From ``Schedule.core_from`` on, the
*liveness* phase, the core's nodes and everything between them are well, no fault begins any more, and everything must come to its
end; nodes outside stay as the faults left them, which may be dead or unreachable for good.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from typing import Any, Protocol

import msgspec
from simpy.core import Environment

from sundog.backends.simulated.calls import call_in
from sundog.backends.simulated.faults.occurrences import Occurrence
from sundog.backends.simulated.network.connections import Network
from sundog.backends.simulated.network.framing import FramedNetwork, FrameFaults
from sundog.core.ids import NodeID
from sundog.core.units import Nanos


class Service(StrEnum):
    """Machines of the head that can be killed by themselves."""

    GLOBAL_SCHEDULER = "global scheduler"
    DIRECTORY = "directory"


class FaultTarget(Protocol):
    """What the loop does for faults. Nodes are numbered as in the cluster; a call for one that is not there does nothing."""

    def kill_node(self, node: NodeID) -> None:
        """End all processes of ``node`` now, with its store, and call ``network.forget(node)``."""

    def restart_node(self, node: NodeID) -> None:
        """Start a dead node again, empty; it joins as a new one would. Nothing if it lives."""

    def kill_worker(self, node: NodeID, index: int) -> None:
        """End the ``index``-th of the node's living workers, from 0 in the order of their start."""

    def kill_service(self, service: Service) -> None:
        """End one machine of the head, with what it knew."""

    def restart_service(self, service: Service) -> None:
        """Start it again with what the control store holds. Nothing if it lives."""

    def partition(self, groups: Sequence[Sequence[NodeID]], one_way: bool) -> Callable[[], None]:
        """Stop messages between nodes of different groups; return what takes that back. See ``Network.partition``."""

    def heal(self, nodes: Sequence[NodeID] | None) -> None:
        """Take back all that hurts messages between these nodes (None: between any). See ``Network.heal``."""

    def slow(self, node: NodeID, permille: int) -> None:
        """From now on everything that takes the node's time takes ``permille`` thousandths of it; 1000 is usual."""

    def skew(self, node: NodeID, offset: Nanos) -> None:
        """From now on the node's clock shows ``offset`` more (or less) than virtual time; it still never goes back."""

    def fill_store(self, node: NodeID, permille: int) -> None:
        """Occupy that share of the node's store with bytes that nobody lets go of; 0 gives them back."""

    def pause(self, node: NodeID, paused: bool) -> None:
        """Stop the node's host as SIGSTOP does, or let it go on."""


# --- what is done ------------------------------


class Effect(msgspec.Struct, frozen=True, tag=True):
    """One thing that a fault does."""


class KillNode(Effect, frozen=True):
    """A node dies; at the end of its span it is started again."""

    node: NodeID


class RestartNode(Effect, frozen=True):
    """A node that was killed is started again."""

    node: NodeID


class KillWorker(Effect, frozen=True):
    """A worker dies. Its node replaces it."""

    node: NodeID
    worker: int


class KillService(Effect, frozen=True):
    """A machine of the head dies; at the end of its span it is started again."""

    service: Service


class RestartService(Effect, frozen=True):
    """A machine of the head that was killed is started again."""

    service: Service


class Partition(Effect, frozen=True):
    """Nothing passes between groups; ``one_way``: nothing from the first to the second."""

    groups: tuple[tuple[NodeID, ...], ...]
    one_way: bool = False


class Heal(Effect, frozen=True):
    """Everything that hurts messages is taken back."""


class Slow(Effect, frozen=True):
    """A node takes ``permille`` thousandths of its usual time."""

    node: NodeID
    permille: int


class Pause(Effect, frozen=True):
    """A node's host is stopped, as by SIGSTOP: it hears and says nothing."""

    node: NodeID


class Skew(Effect, frozen=True):
    """A node's clock is off by ``offset``."""

    node: NodeID
    offset: Nanos


class FillStore(Effect, frozen=True):
    """``permille`` thousandths of a node's store are occupied."""

    node: NodeID
    permille: int


class Cut(Effect, frozen=True):
    """The connections between two nodes break; what was on them is lost, and sent again."""

    first: NodeID
    second: NodeID


class Delay(Effect, frozen=True):
    """Messages from one node to another take ``extra`` longer."""

    source: NodeID
    target: NodeID
    extra: Nanos


class Clog(Effect, frozen=True):
    """Nothing goes to a node or comes from it."""

    node: NodeID


class LimitBandwidth(Effect, frozen=True):
    """A node's links have ``permille`` thousandths of their bandwidth."""

    node: NodeID
    permille: int


class DisturbFrames(Effect, frozen=True):
    """Frames are lost, come twice, or late, in thousandths. Needs a ``FramedNetwork``."""

    loss: int = 0
    duplication: int = 0
    reordering: int = 0


AnyEffect = (
    KillNode | RestartNode | KillWorker | KillService | RestartService | Partition | Heal | Slow | Pause | Skew | FillStore | Cut
    | Delay | Clog | LimitBandwidth | DisturbFrames
)  # fmt: skip
#: Effects over which time passes: they may have a span, after which they are taken back.
LASTING = (KillNode, KillService, Partition, Slow, Pause, Skew, FillStore, Delay, Clog, LimitBandwidth, DisturbFrames)


class At(msgspec.Struct, frozen=True, tag=True):
    """At a time."""

    time: Nanos = 0


class When(msgspec.Struct, frozen=True, tag=True):
    """When something happens for the ``count``-th time, from 1."""

    occurrence: Occurrence
    count: int


class Fault(msgspec.Struct, frozen=True):
    """An effect, when it begins, and how long it lasts (None: it is not taken back)."""

    effect: AnyEffect
    trigger: At | When = At()
    span: Nanos | None = None

    def __str__(self) -> str:
        from sundog.backends.simulated.faults.language import written

        return written(self)


class Schedule(msgspec.Struct, frozen=True):
    """Faults, and the core that is well from ``core_from`` on (None: there is no such time)."""

    faults: tuple[Fault, ...] = ()
    core: tuple[NodeID, ...] = ()
    core_from: Nanos | None = None

    def __str__(self) -> str:
        from sundog.backends.simulated.faults.language import written_schedule

        return written_schedule(self)


# --- doing it ------------------------------


class FaultRunner:
    """Carries out a schedule: call :meth:`start` once, and :meth:`occurred` for everything of its kind that happens.

    Faults of one kind on the same node add up while they last: the slowest, fullest, narrowest counts, delays and clocks are
    summed, and a node is dead or paused until all that made it so are over. ``number`` tells which node a number means now.
    ``call_at`` is what timed faults are given to.

    Raises ValueError if the schedule disturbs frames and the network has none.
    """

    def __init__(
        self,
        environment: Environment,
        schedule: Schedule,
        target: FaultTarget,
        network: Network,
        *,
        number: Callable[[NodeID], NodeID] = lambda node: node,
        call_at: Callable[[Nanos, Callable[[], None]], None] | None = None,
    ) -> None:
        if not isinstance(network, FramedNetwork):
            for fault in schedule.faults:
                if isinstance(fault.effect, DisturbFrames):
                    raise ValueError(f"'{fault}' needs a network with frames: simulate with network frames on")
        self._environment = environment
        self._schedule = schedule
        self._target = target
        self._network = network
        self._counts = dict.fromkeys(Occurrence, 0)
        self._waiting: dict[tuple[Occurrence, int], list[Fault]] = {}
        self._number = number
        self._call_at = call_at
        #: What is in force: (kind, whom) -> values by the number of their fault.
        self._in_force: dict[tuple[Any, ...], dict[int, Any]] = {}
        self._begun = itertools.count()
        #: Whether the liveness phase has begun: then nothing new fails.
        self.calm = False
        #: (when, what) of everything done so far, for logs and reports.
        self.log: list[tuple[Nanos, str]] = []

    def start(self, began: Nanos = 0) -> None:
        """Arm everything, with times counted from ``began``. Faults of one instant happen in the order of the schedule."""
        for fault in self._schedule.faults:
            if isinstance(fault.trigger, When):
                self._waiting.setdefault((fault.trigger.occurrence, fault.trigger.count), []).append(fault)
            else:
                self._later(began + fault.trigger.time - int(self._environment.now), partial(self._begin, fault))
        if self._schedule.core_from is not None:
            self._later(began + self._schedule.core_from - int(self._environment.now), self._calm_down)

    def occurred(self, occurrence: Occurrence) -> None:
        """Count one; what waits for it happens as the next event of this instant, so never within the caller's step."""
        self._counts[occurrence] = count = self._counts[occurrence] + 1
        if self._waiting:
            for fault in self._waiting.pop((occurrence, count), ()):
                self._later(0, partial(self._begin, fault))

    def _later(self, span: Nanos, call: Callable[[], None]) -> None:
        if self._call_at is not None:
            self._call_at(int(self._environment.now) + max(0, span), call)
            return
        call_in(self._environment, max(0, span), lambda _: call())

    def _note(self, text: str) -> None:
        self.log.append((int(self._environment.now), text))

    def _begin(self, fault: Fault) -> None:
        if self.calm:
            return
        self._note(str(fault))
        undo = self._apply(fault.effect)
        if undo is not None and fault.span is not None:
            self._later(fault.span, partial(self._end, fault, undo))

    def _end(self, fault: Fault, undo: Callable[[], None]) -> None:
        self._note(f"over: {fault}")
        undo()

    def _add(self, key: tuple[Any, ...], value: Any, show: Callable[[list[Any]], None]) -> Callable[[], None]:
        """Put ``value`` in force beside others of ``key``, as ``show(values)`` does; return what takes it back."""
        number = next(self._begun)
        self._in_force.setdefault(key, {})[number] = value
        show(list(self._in_force[key].values()))

        def undo() -> None:
            values = self._in_force.get(key, {})
            if values.pop(number, None) is not None:
                show(list(values.values()))

        return undo

    def _apply(self, effect: AnyEffect) -> Callable[[], None] | None:
        """Do it; return what takes it back."""
        target = self._target
        match effect:
            case KillNode(node):
                return self._add(("dead", node), True, lambda v: target.kill_node(node) if v else target.restart_node(node))
            case KillService(service):
                return self._add(
                    ("dead", service), True, lambda v: target.kill_service(service) if v else target.restart_service(service)
                )
            case RestartNode(node):
                self._revive(node)
            case RestartService(service):
                self._revive(service)
            case KillWorker(node, worker):
                target.kill_worker(node, worker)
            case Slow(node, permille):
                return self._add(("slow", node), permille, lambda v: target.slow(node, max(v, default=1000)))
            case Pause(node):
                return self._add(("pause", node), True, lambda v: target.pause(node, bool(v)))
            case Skew(node, offset):
                return self._add(("skew", node), offset, lambda v: target.skew(node, sum(v)))
            case FillStore(node, permille):
                return self._add(("fill", node), permille, lambda v: target.fill_store(node, max(v, default=0)))
            case _:
                return self._apply_to_messages(effect)
        return None

    def _apply_to_messages(self, effect: AnyEffect) -> Callable[[], None] | None:
        network, number = self._network, self._number
        match effect:
            case Partition(groups, one_way):
                return self._target.partition(groups, one_way)
            case Heal():
                self._heal(None)
            case Cut(first, second):
                network.cut(number(first), number(second))
            case Delay(source, target, extra):
                ends = number(source), number(target)
                return self._add(("delay", *ends), extra, lambda v: network.delay(*ends, sum(v)))
            case Clog(node):
                here = number(node)
                return network.partition([[here], [other for other in network.nodes() if other != here]])
            case LimitBandwidth(node, permille):
                here = number(node)
                return self._add(("limit", here), permille, lambda v: network.set_bandwidth(here, min(v, default=1000), 1000))
            case DisturbFrames(loss, duplication, reordering):
                return self._add(("frames",), (loss, duplication, reordering), self._disturb)
        return None

    def _disturb(self, shares: list[tuple[int, int, int]]) -> None:
        assert isinstance(self._network, FramedNetwork)
        self._network.frame_faults = FrameFaults(*map(max, *shares, (0, 0, 0))) if shares else None

    def _heal(self, nodes: tuple[NodeID, ...] | None) -> None:
        """Take back all that hurts messages between these nodes; None: any."""
        chosen = None if nodes is None else frozenset(map(self._number, nodes))
        for key in list(self._in_force):
            if key[0] in ("delay", "limit") and (chosen is None or chosen.issuperset(key[1:])):
                del self._in_force[key]
        self._target.heal(nodes)

    def _revive(self, what: NodeID | Service) -> None:
        self._in_force.pop(("dead", what), None)
        if isinstance(what, Service):
            self._target.restart_service(what)
        else:
            self._target.restart_node(what)

    def _calm_down(self) -> None:
        """The liveness phase begins."""
        self.calm = True
        core, target = self._schedule.core, self._target
        self._note(f"well from here on: nodes {', '.join(map(str, core))}")
        if self._in_force.pop(("frames",), None) is not None:
            self._disturb([])
        self._heal(core)
        for service in Service:
            if ("dead", service) in self._in_force:
                self._revive(service)
        for node in core:
            target.slow(node, 1000)
            target.skew(node, 0)
            target.fill_store(node, 0)
            if self._in_force.pop(("pause", node), None):
                target.pause(node, False)
            for kind in ("slow", "skew", "fill"):
                self._in_force.pop((kind, node), None)
            if self._in_force.get(("dead", node)):
                self._revive(node)
