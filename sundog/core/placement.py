"""On which node should a task run? Policies: objects that follow the nodes' changes and answer in less than linear time.

A policy is told of changes one node at a time (``node_changed``, ``node_lost``) and asked one task at a time (``choose``),
so that a choice among a thousand nodes costs a few microseconds: it never looks at them all. The same object runs in a
simulation and on a cluster. For an experiment a plain function over all views will do, in a :class:`FunctionPolicy`.

Nodes of one capacity form a *class*: a cluster has few, and whether a task could ever fit is decided once for each.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Protocol, TypeAlias

import msgspec

from sundog.core.ids import NodeID
from sundog.core.machine import Rng
from sundog.core.resources import CPU, UNIT, Shape
from sundog.core.task import TaskSpec
from sundog.core.units import MILLISECOND, SECOND, Nanos

#: What a task is taken to last before a node has measured any: only ratios between nodes count then.
MEAN_UNKNOWN: Nanos = 1 * MILLISECOND
#: Bytes per second between nodes, where nobody says otherwise: 10 Gbit/s.
BANDWIDTH = 1_250_000_000


class NodeView(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A node as placement sees it. ``queued`` tasks wait on it, ``mean`` is the mean duration of its tasks (0: unknown)."""

    node: NodeID
    capacity: Shape
    free: Shape
    queued: int = 0
    mean: Nanos = 0


def fits(wanted: Shape, room: Shape) -> bool:
    """Tell whether ``room`` holds ``wanted``."""
    for name, amount in wanted:  # noqa: SIM110 (twice as fast as all())
        if amount_of(name, room) < amount:
            return False
    return True


def amount_of(name: str, room: Shape) -> int:
    """Return how much of the resource ``name`` there is in ``room``. Shapes are short: faster than a dict."""
    for have, amount in room:
        if have == name:
            return amount
    return 0


def expected_wait(view: NodeView) -> Nanos:
    """Return how long one more task would probably wait on the node: nothing where a CPU is free and nobody queues."""
    if not view.queued:
        for name, amount in view.free:  # amount_of(CPU, view.free)
            if name == CPU:
                if amount > 0:
                    return 0
                break
    slots = amount_of(CPU, view.capacity) // UNIT or 1
    return (view.queued + 1) * (view.mean or MEAN_UNKNOWN) // slots


class PlacementPolicy(Protocol):
    """What the global scheduler asks. A choice may depend on nothing but the calls made so far and ``rng``."""

    def node_changed(self, view: NodeView) -> None:
        """Take notice of a node that is new or whose load changed."""

    def node_lost(self, node: NodeID) -> None:
        """Forget a node."""

    def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
        """Return the node for ``spec``, or None if it should wait for one; ``holders`` maps nodes to the bytes of the
        task's arguments that they hold."""


class _NodeClass:
    """The nodes of one capacity, in order of number, and a heap of them by what the policy ranks by."""

    __slots__ = ("capacity", "heap", "nodes", "rank")

    def __init__(self, capacity: Shape) -> None:
        self.capacity = capacity
        self.nodes: list[NodeID] = []
        #: (rank, node); stale where ``rank`` says otherwise.
        self.heap: list[tuple[int, NodeID]] = []
        self.rank: dict[NodeID, int] = {}

    def set(self, node: NodeID, rank: int) -> None:
        """The node is new here, or has another rank than before."""
        if node not in self.rank:
            insort(self.nodes, node)
        self.rank[node] = rank
        heappush(self.heap, (rank, node))
        if len(self.heap) > 4 * len(self.rank) + 16:
            self.heap = [(r, n) for n, r in self.rank.items()]
            heapify(self.heap)

    def remove(self, node: NodeID) -> None:
        del self.rank[node]
        self.nodes.remove(node)

    def best(self) -> tuple[int, NodeID] | None:
        """Return the lowest (rank, node), or None if the class is empty."""
        heap, rank = self.heap, self.rank
        while heap:
            if rank.get(heap[0][1]) == heap[0][0]:
                return heap[0]
            heappop(heap)
        return None


class IndexedPolicy:
    """What the policies below share: views by node, and classes ranked by ``_rank`` (lowest first)."""

    def __init__(self) -> None:
        self.views: dict[NodeID, NodeView] = {}
        self._classes: dict[Shape, _NodeClass] = {}
        self._class_of: dict[NodeID, _NodeClass] = {}
        #: wanted -> the classes that could ever hold it; forgotten when a class comes or goes.
        self._feasible: dict[Shape, tuple[_NodeClass, ...]] = {}

    def node_changed(self, view: NodeView) -> None:
        """See :class:`PlacementPolicy`."""
        node = view.node
        known = self.views.get(node)
        if known is None or known.capacity is not view.capacity:
            self._classify(view, known)
        self.views[node] = view
        members, rank = self._class_of[node], self._rank(view)
        if rank != members.rank.get(node):
            members.set(node, rank)

    def _classify(self, view: NodeView, known: NodeView | None) -> None:
        """The node is new, or its capacity may be."""
        if known is not None and known.capacity != view.capacity:
            self.node_lost(view.node)
        members = self._classes.get(view.capacity)
        if members is None:
            members = self._classes[view.capacity] = _NodeClass(view.capacity)
            self._feasible.clear()
        self._class_of[view.node] = members

    def node_lost(self, node: NodeID) -> None:
        """See :class:`PlacementPolicy`."""
        view = self.views.pop(node, None)
        if view is None:
            return
        members = self._class_of.pop(node)
        members.remove(node)
        if not members.nodes:
            del self._classes[view.capacity]
            self._feasible.clear()

    def _rank(self, view: NodeView) -> int:
        return expected_wait(view)

    def _fitting(self, wanted: Shape) -> tuple[_NodeClass, ...]:
        found = self._feasible.get(wanted)
        if found is None:
            found = tuple([members for members in self._classes.values() if fits(wanted, members.capacity)])
            if len(self._feasible) > 1000:
                self._feasible.clear()
            self._feasible[wanted] = found
        return found

    def _best(self, wanted: Shape) -> tuple[int, NodeID] | None:
        """Return the lowest (rank, node) among all nodes that could hold ``wanted``."""
        best: tuple[int, NodeID] | None = None
        for members in self._fitting(wanted):
            candidate = members.best()
            if candidate is not None and (best is None or candidate < best):
                best = candidate
        return best

    def _nth(self, classes: Sequence[_NodeClass], position: int) -> NodeID:
        for members in classes:
            if position < len(members.nodes):
                return members.nodes[position]
            position -= len(members.nodes)
        raise IndexError(position)

    def _holders(self, wanted: Shape, holders: Mapping[NodeID, int]) -> Iterator[tuple[NodeView, int]]:
        """Yield the holders that are known and could hold ``wanted``, with their bytes."""
        for node, held in holders.items():
            view = self.views.get(node)
            if view is not None and fits(wanted, view.capacity):
                yield view, held


class Random(IndexedPolicy):
    """Any node that could hold the task, each as likely."""

    def _rank(self, view: NodeView) -> int:
        return 0

    def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
        """See :class:`PlacementPolicy`."""
        classes = self._fitting(spec.resources)
        count = sum([len(members.nodes) for members in classes])
        return self._nth(classes, rng.randrange(count)) if count else None


class RoundRobin(IndexedPolicy):
    """One node after the other, by number."""

    def __init__(self) -> None:
        super().__init__()
        self._last = NodeID(-1)

    def _rank(self, view: NodeView) -> int:
        return 0

    def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
        """See :class:`PlacementPolicy`."""
        after: list[NodeID] = []
        first: list[NodeID] = []
        for members in self._fitting(spec.resources):
            at = bisect_right(members.nodes, self._last)
            if at < len(members.nodes):
                after.append(members.nodes[at])
            first.append(members.nodes[0])
        chosen = min(after) if after else min(first, default=None)
        if chosen is not None:
            self._last = chosen
        return chosen


class LeastLoaded(IndexedPolicy):
    """The node where the task would wait the least."""

    def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
        """See :class:`PlacementPolicy`."""
        best = self._best(spec.resources)
        return best[1] if best else None


class PowerOfChoices(IndexedPolicy):
    """The best of ``choices`` nodes drawn at random, with repetition: with two, nearly as even as looking at all, and never a
    stampede to the best."""

    def __init__(self, choices: int = 2) -> None:
        super().__init__()
        if choices < 1:
            raise ValueError(f"choices={choices}: draw at least one")
        self._choices = choices

    def _rank(self, view: NodeView) -> int:
        return 0

    def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
        """See :class:`PlacementPolicy`."""
        classes = self._fitting(spec.resources)
        count = sum([len(members.nodes) for members in classes])
        if not count:
            return None
        drawn = [self._nth(classes, rng.randrange(count)) for _ in range(self._choices)]
        if len(drawn) == 1:
            return drawn[0]
        return min(drawn, key=lambda node: (expected_wait(self.views[node]), node))


class PowerOfTwo(PowerOfChoices):
    """The better of two nodes drawn at random."""


class Locality(IndexedPolicy):
    """The node that holds most bytes of the task's arguments; where nobody holds any, the least loaded."""

    def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
        """See :class:`PlacementPolicy`."""
        best: tuple[int, int, NodeID] | None = None
        for view, held in self._holders(spec.resources, holders):
            candidate = (-held, expected_wait(view), view.node)
            if held and (best is None or candidate < best):
                best = candidate
        if best is not None:
            return best[2]
        least = self._best(spec.resources)
        return least[1] if least else None


class BottomUp(IndexedPolicy):
    """The node where the task would start first: expected wait plus the time to bring the bytes that it lacks.

    What all lack weighs nothing in a comparison, so a holder's bytes count as time saved, and only the holders and the
    least loaded of all need to be compared. ``bandwidth`` is in bytes per second.
    """

    def __init__(self, bandwidth: int = BANDWIDTH) -> None:
        super().__init__()
        self._bandwidth = bandwidth

    def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
        """See :class:`PlacementPolicy`."""
        best = self._best(spec.resources)
        if holders:
            for view, held in self._holders(spec.resources, holders):
                candidate = (expected_wait(view) - held * SECOND // self._bandwidth, view.node)
                if best is None or candidate < best:
                    best = candidate
        return best[1] if best else None


class Central(IndexedPolicy):
    """One queue for the cluster: a task is placed only where its resources are free now, else it waits at the scheduler."""

    def _rank(self, view: NodeView) -> int:
        return -dict(view.free).get(CPU, 0)

    def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
        """See :class:`PlacementPolicy`."""
        wanted = spec.resources
        cpus = dict(wanted).get(CPU, 0)
        for view, held in self._holders(wanted, holders):
            if held and fits(wanted, view.free):
                return view.node
        for members in self._fitting(wanted):
            best = members.best()
            if best is None or -best[0] < cpus:
                continue  # where the most CPUs are free there are too few
            if fits(wanted, self.views[best[1]].free):
                return best[1]
            # Rare: CPUs are free there, but not all the rest.
            for node in members.nodes:
                if fits(wanted, self.views[node].free):
                    return node
        return None


#: A policy as a plain function: all views in order of node number, then as in ``choose``.
PlacementFunction = Callable[[TaskSpec, Sequence[NodeView], Mapping[NodeID, int], Rng], NodeID | None]


class FunctionPolicy:
    """Adapter for a plain function. O(n) in the number of nodes for each task: for experiments, not for a thousand nodes."""

    def __init__(self, function: PlacementFunction) -> None:
        self._function = function
        self._views: dict[NodeID, NodeView] = {}

    def node_changed(self, view: NodeView) -> None:
        """See :class:`PlacementPolicy`."""
        self._views[view.node] = view

    def node_lost(self, node: NodeID) -> None:
        """See :class:`PlacementPolicy`."""
        self._views.pop(node, None)

    def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
        """See :class:`PlacementPolicy`."""
        views = [self._views[node] for node in sorted(self._views)]
        return self._function(spec, views, holders, rng)


#: Name -> what makes the policy.
POLICIES: dict[str, Callable[[], PlacementPolicy]] = {
    "bottom_up": BottomUp,
    "central": Central,
    "least_loaded": LeastLoaded,
    "locality": Locality,
    "power_of_two": PowerOfTwo,
    "random": Random,
    "round_robin": RoundRobin,
}


def policy(name: str) -> PlacementPolicy:
    """Return a new policy by its name. Raises ValueError that lists the names there are."""
    make = POLICIES.get(name)
    if make is None:
        raise ValueError(f"no placement policy {name!r}; there are {', '.join(POLICIES)}")
    return make()


#: What users give where a policy is wanted: a name, a policy, its class, or a plain function.
Policy: TypeAlias = str | PlacementPolicy | Callable[..., Any]
_METHODS = ("node_changed", "node_lost", "choose")


def as_policy(given: Policy) -> PlacementPolicy:
    """Return the policy that ``given`` stands for.

    A class is called without arguments. Raises ValueError for an unknown name, TypeError for what is no policy.
    """
    if isinstance(given, str):
        return policy(given)
    found: Any = given() if isinstance(given, type) else given
    missing = [name for name in _METHODS if not callable(getattr(found, name, None))]
    if not missing:
        return found  # type: ignore[no-any-return]  # it has what a policy has
    if len(missing) == len(_METHODS) and callable(found) and not isinstance(given, type):
        return FunctionPolicy(found)
    raise TypeError(
        f"{given!r} is no placement policy: it has no {', '.join(missing)}; give one of {', '.join(POLICIES)}, an object with "
        f"{', '.join(_METHODS)}, or a function (spec, views, holders, rng) -> node"
    )


def policy_name(given: Policy) -> str:
    """Return what people call it."""
    if isinstance(given, str):
        return given
    return str(getattr(given, "__name__", type(given).__name__))
