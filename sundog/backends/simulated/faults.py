"""Faults as data: what happens to whom, when, and for how long; and what brings them about.

A :class:`Schedule` is a list of faults and, optionally, a core of nodes that is well from some time on. It is written by people
(``fault_language``) or drawn from a seed (``swarm``), prints as what people write, and is carried out by a :class:`FaultRunner`:
on processes through a narrow :class:`FaultTarget` (the loop), on messages through the model network.

Two phases: in the *safety* phase anything may fail, and nothing wrong may come out. From ``Schedule.core_from`` on, the
*liveness* phase, the core's nodes and everything between them are well, no fault begins any more, and everything must come to its
end; nodes outside stay as the faults left them, which may be dead or unreachable for good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from typing import Protocol

import msgspec
from simpy.core import Environment

from sundog.backends.simulated.flows import Call
from sundog.backends.simulated.framing import FramedNetwork, FrameFaults
from sundog.backends.simulated.network import Network
from sundog.backends.simulated.occurrences import Occurrence
from sundog.core.ids import NodeID
from sundog.core.units import Nanos

_NORMAL = 1


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
    KillNode | RestartNode | KillWorker | KillService | RestartService | Partition | Heal | Slow | Skew | FillStore | Cut | Delay
    | Clog | LimitBandwidth | DisturbFrames
)  # fmt: skip
#: Effects over which time passes: they may have a span, after which they are taken back.
LASTING = (KillNode, KillService, Partition, Slow, Skew, FillStore, Delay, Clog, LimitBandwidth, DisturbFrames)


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
        from sundog.backends.simulated.fault_language import written

        return written(self)


class Schedule(msgspec.Struct, frozen=True):
    """Faults, and the core that is well from ``core_from`` on (None: there is no such time)."""

    faults: tuple[Fault, ...] = ()
    core: tuple[NodeID, ...] = ()
    core_from: Nanos | None = None

    def __str__(self) -> str:
        from sundog.backends.simulated.fault_language import written_schedule

        return written_schedule(self)


# --- doing it ------------------------------


class FaultRunner:
    """Carries out a schedule: call :meth:`start` once, and :meth:`occurred` for everything of its kind that happens.

    Raises ValueError if the schedule disturbs frames and the network has none.
    """

    def __init__(self, environment: Environment, schedule: Schedule, target: FaultTarget, network: Network) -> None:
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
        self._dead: dict[NodeID | Service, None] = {}
        #: Whether the liveness phase has begun: then nothing new fails.
        self.calm = False
        #: (when, what) of everything done so far, for logs and reports.
        self.log: list[tuple[Nanos, str]] = []

    def start(self) -> None:
        """Arm everything. Faults of one instant happen in the order of the schedule."""
        for fault in self._schedule.faults:
            if isinstance(fault.trigger, When):
                self._waiting.setdefault((fault.trigger.occurrence, fault.trigger.count), []).append(fault)
            else:
                self._later(fault.trigger.time - int(self._environment.now), partial(self._begin, fault))
        if self._schedule.core_from is not None:
            self._later(self._schedule.core_from - int(self._environment.now), self._calm_down)

    def occurred(self, occurrence: Occurrence) -> None:
        """Count one; what waits for it happens as the next event of this instant, so never within the caller's step."""
        self._counts[occurrence] = count = self._counts[occurrence] + 1
        if self._waiting:
            for fault in self._waiting.pop((occurrence, count), ()):
                self._later(0, partial(self._begin, fault))

    def _later(self, span: Nanos, call: Callable[[], None]) -> None:
        self._environment.schedule(Call(self._environment, lambda _: call()), _NORMAL, max(0, span))  # type: ignore[arg-type]

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

    def _apply(self, effect: AnyEffect) -> Callable[[], None] | None:
        """Do it; return what takes it back."""
        target = self._target
        match effect:
            case KillNode(node):
                self._dead[node] = None
                target.kill_node(node)
                return partial(self._revive, node)
            case KillService(service):
                self._dead[service] = None
                target.kill_service(service)
                return partial(self._revive, service)
            case RestartNode(node):
                self._revive(node)
            case RestartService(service):
                self._revive(service)
            case KillWorker(node, worker):
                target.kill_worker(node, worker)
            case Slow(node, permille):
                target.slow(node, permille)
                return partial(target.slow, node, 1000)
            case Skew(node, offset):
                target.skew(node, offset)
                return partial(target.skew, node, 0)
            case FillStore(node, permille):
                target.fill_store(node, permille)
                return partial(target.fill_store, node, 0)
            case _:
                return self._apply_to_messages(effect)
        return None

    def _apply_to_messages(self, effect: AnyEffect) -> Callable[[], None] | None:
        network = self._network
        match effect:
            case Partition(groups, one_way):
                return self._target.partition(groups, one_way)
            case Heal():
                self._target.heal(None)
            case Cut(first, second):
                network.cut(first, second)
            case Delay(source, target, extra):
                network.delay(source, target, extra)
                return partial(network.delay, source, target, 0)
            case Clog(node):
                return network.partition([[node], [other for other in network.nodes() if other != node]])
            case LimitBandwidth(node, permille):
                network.set_bandwidth(node, permille, 1000)
                return partial(network.set_bandwidth, node, 1, 1)
            case DisturbFrames(loss, duplication, reordering):
                assert isinstance(network, FramedNetwork)
                network.frame_faults = FrameFaults(loss, duplication, reordering)
                return self._frames_well
        return None

    def _frames_well(self) -> None:
        assert isinstance(self._network, FramedNetwork)
        self._network.frame_faults = None

    def _revive(self, what: NodeID | Service) -> None:
        self._dead.pop(what, None)
        if isinstance(what, Service):
            self._target.restart_service(what)
        else:
            self._target.restart_node(what)

    def _calm_down(self) -> None:
        """The liveness phase begins."""
        self.calm = True
        core = self._schedule.core
        self._note(f"well from here on: nodes {', '.join(map(str, core))}")
        if isinstance(self._network, FramedNetwork):
            self._frames_well()
        self._target.heal(core)
        for service in Service:
            if service in self._dead:
                self._revive(service)
        for node in core:
            self._target.slow(node, 1000)
            self._target.skew(node, 0)
            self._target.fill_store(node, 0)
            if node in self._dead:
                self._revive(node)
