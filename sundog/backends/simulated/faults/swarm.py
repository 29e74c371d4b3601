"""Faults drawn from a seed: not only when and where, but which kinds there are at all.

Drawing every kind in every run would hide what only shows when one is absent (with nodes dying all the time, no partition lasts).
So each seed first draws the mix: every kind is in it or not, and how often; any kind, and all, may be missing. The schedule
prints as what a person would write, so a run that fails can be repeated, and cut down, by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from random import Random

from sundog.backends.simulated.faults.occurrences import Occurrence
from sundog.backends.simulated.faults.runner import (
    LASTING,
    AnyEffect,
    At,
    Clog,
    Cut,
    Delay,
    DisturbFrames,
    Fault,
    FillStore,
    KillNode,
    KillService,
    KillWorker,
    LimitBandwidth,
    Partition,
    Pause,
    Schedule,
    Service,
    Skew,
    Slow,
    When,
)
from sundog.core.ids import NodeID
from sundog.core.units import MICROSECOND, SECOND, Nanos

#: Faults of one kind in one schedule, at most; every kind's number is drawn.
_FAULTS_MAX = 6
#: Spans and delays are drawn evenly over their orders of magnitude, from this up.
_SPAN_MIN: Nanos = 10 * MICROSECOND


def swarm(
    seed: int | str,
    cluster: Mapping[int, int],
    *,
    safety: Nanos = 2 * SECOND,
    tasks: int = 100,
    spared: Sequence[int] = (0,),
    core_min: int | None = None,
    frames: bool = False,
    services: bool = True,
) -> Schedule:
    """Return a schedule drawn from ``seed`` for a cluster given as {node: number of its workers}.

    ``safety``: how long anything may fail, in nanoseconds; then a core that was drawn is well. ``tasks``: about how many there
    will be, for faults that wait for the n-th. ``spared``: nodes that are never killed and always in the core (the driver's).
    ``core_min``: nodes in the core at least (default: more than half). ``frames``: the network has frames to disturb.
    ``services``: machines of the head may die by themselves.

    Raises ValueError for a cluster without nodes, or one that does not have the spared ones.
    """
    if not cluster:
        raise ValueError("a swarm of faults needs a cluster with nodes")
    missing = [node for node in spared if node not in cluster]
    if missing:
        raise ValueError(f"spared node {missing[0]} is not in the cluster, which has nodes {', '.join(map(str, sorted(cluster)))}")
    return _Swarm(Random(f"swarm {seed}"), cluster, safety, tasks, tuple(spared), frames, services).draw(core_min)


class _Swarm:
    def __init__(
        self,
        random: Random,
        cluster: Mapping[int, int],
        safety: Nanos,
        tasks: int,
        spared: tuple[int, ...],
        frames: bool,
        services: bool,
    ) -> None:
        self._services = services
        self._random = random
        self._cluster = cluster
        self._nodes = [NodeID(node) for node in sorted(cluster)]
        self._mortal = [node for node in self._nodes if node not in spared]
        self._spared = spared
        self._safety = safety
        self._tasks = max(1, tasks)
        self._frames = frames

    def draw(self, core_min: int | None) -> Schedule:
        random = self._random
        faults: list[Fault] = []
        for kind in self._kinds():
            # The mix: half of the kinds are not there, the others once or a few times.
            if random.random() < 0.5:
                faults += [self._fault(kind()) for _ in range(random.randint(1, _FAULTS_MAX))]
        random.shuffle(faults)
        least = len(self._nodes) // 2 + 1 if core_min is None else core_min
        count = random.randint(min(len(self._nodes), max(least, len(self._spared), 1)), len(self._nodes))
        others = random.sample(self._mortal, min(len(self._mortal), count - len(self._spared)))
        core = tuple(sorted([*(NodeID(node) for node in self._spared), *others]))
        return Schedule(tuple(faults), core, self._safety)

    def _kinds(self) -> list[Callable[[], AnyEffect]]:
        """What can happen in this cluster, in a fixed order."""
        kinds: list[Callable[[], AnyEffect]] = [self._slow, self._pause, self._skew, self._fill]
        if self._services:
            kinds.append(self._kill_service)
        if any(self._cluster.values()):
            kinds.append(self._kill_worker)
        if self._mortal:
            kinds.append(self._kill_node)
        if len(self._nodes) > 1:
            kinds += [self._partition, self._one_way, self._cut, self._delay, self._clog, self._limit]
            if self._frames:
                kinds.append(self._disturb)
        return kinds

    def _fault(self, effect: AnyEffect) -> Fault:
        random = self._random
        trigger: At | When = At(random.randrange(self._safety))
        if random.random() < 0.25:
            trigger = When(random.choice(list(Occurrence)), random.randint(1, self._tasks))
        span = None
        # One in eight is not taken back: outside the core it stays for good. But not what lets a node be heard that does not
        # hear: it would count as alive, and what is given to it would wait for ever.
        deaf = isinstance(effect, Partition) and effect.one_way
        if isinstance(effect, LASTING) and (random.random() >= 0.125 or deaf):
            span = self._span(self._safety)
        return Fault(effect, trigger, span)

    def _span(self, most: Nanos) -> Nanos:
        low = min(_SPAN_MIN, most)
        decades = self._random.randrange(max(1, (most // low).bit_length()))
        return min(most, self._random.randint(low << decades, low << decades + 1))

    def _node(self) -> NodeID:
        return self._random.choice(self._nodes)

    def _pair(self) -> tuple[NodeID, NodeID]:
        first, second = self._random.sample(self._nodes, 2)
        return first, second

    def _groups(self, count: int) -> tuple[tuple[NodeID, ...], ...]:
        shuffled = self._random.sample(self._nodes, len(self._nodes))
        cuts = sorted(self._random.sample(range(1, len(shuffled)), count - 1))
        edges = [0, *cuts, len(shuffled)]
        return tuple(tuple(sorted(shuffled[begin:end])) for begin, end in pairwise(edges))

    # -- kinds ------------------------------

    def _kill_node(self) -> AnyEffect:
        return KillNode(self._random.choice(self._mortal))

    def _kill_worker(self) -> AnyEffect:
        node = self._random.choice([node for node in self._nodes if self._cluster[node]])
        return KillWorker(node, self._random.randrange(self._cluster[node]))

    def _kill_service(self) -> AnyEffect:
        return KillService(self._random.choice(list(Service)))

    def _partition(self) -> AnyEffect:
        return Partition(self._groups(self._random.randint(2, min(3, len(self._nodes)))))

    def _one_way(self) -> AnyEffect:
        return Partition(self._groups(2), one_way=True)

    def _slow(self) -> AnyEffect:
        return Slow(self._node(), self._random.choice([1500, 2000, 5000, 10_000, 50_000]))

    def _pause(self) -> AnyEffect:
        return Pause(self._node())

    def _skew(self) -> AnyEffect:
        return Skew(self._node(), self._span(self._safety) * self._random.choice([-1, 1]))

    def _fill(self) -> AnyEffect:
        return FillStore(self._node(), self._random.choice([500, 900, 990, 1000]))

    def _cut(self) -> AnyEffect:
        return Cut(*self._pair())

    def _delay(self) -> AnyEffect:
        return Delay(*self._pair(), self._span(self._safety // 10))

    def _clog(self) -> AnyEffect:
        return Clog(self._node())

    def _limit(self) -> AnyEffect:
        return LimitBandwidth(self._node(), self._random.choice([1, 10, 100, 500]))

    def _disturb(self) -> AnyEffect:
        loss, duplication, reordering = (self._random.choice([0, 1, 10, 100, 300]) for _ in range(3))
        return DisturbFrames(loss or (0 if duplication or reordering else 1), duplication, reordering)
