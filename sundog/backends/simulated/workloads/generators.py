"""Workloads drawn from a seed: the shapes that scheduling is studied on.

Wherever a ``duration`` is asked for, a number of seconds or a distribution of ``durations`` will do; wherever a ``size``, a
number of bytes or a distribution. The same arguments and seed give the same workload. ``nodes`` are those whose drivers submit,
taken in turn for tasks (or whole graphs) that share nothing, since drivers share no IDs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TypeAlias

from sundog.backends.simulated.costs.durations import Distribution
from sundog.backends.simulated.workloads.workload import (
    Compute,
    Get,
    Output,
    Submit,
    Workload,
    WorkloadError,
    WorkTask,
    nanos,
)
from sundog.core.resources import CPU, ONE_CPU, Shape, shape
from sundog.core.units import Nanos

Duration: TypeAlias = float | Distribution
Size: TypeAlias = int | Distribution
Resources: TypeAlias = Mapping[str, float] | Shape
#: Whose drivers submit: the numbers of nodes, or how many of the first ones.
Nodes: TypeAlias = int | Sequence[int]

_ONE_EMPTY = (0,)


class _Draw:
    """Draws for one workload, each kind from a stream of its own, so that sizes do not change with durations."""

    def __init__(self, duration: Duration, size: Size, resources: Resources, seed: int) -> None:
        self.duration = durations(duration, seed)
        self.size = sizes(size, seed)
        self.shape = shape(resources) if isinstance(resources, Mapping) else resources
        self._shared: tuple[int, ...] | None = None if isinstance(size, Distribution) else (self.size(),)

    def outputs(self) -> tuple[int, ...]:
        """Return the sizes of a task's one return; constants share a tuple."""
        return self._shared or (self.size(),)

    def task(self, function: str, inputs: tuple[Output, ...] = (), at: Nanos = 0, node: int = 0) -> WorkTask:
        return WorkTask("", self.duration(), inputs, self.outputs(), self.shape, at, node, function)


def durations(duration: Duration, seed: int = 0) -> Callable[[], Nanos]:
    """Return a function that gives the next duration in nanoseconds. Raises WorkloadError for a negative number."""
    if isinstance(duration, Distribution):
        random, draw = Random(f"durations {seed}"), duration.draw
        return lambda: nanos(draw(random), "a duration that was drawn")
    constant = nanos(duration, "the duration")
    return lambda: constant


def sizes(size: Size, seed: int = 0) -> Callable[[], int]:
    """Return a function that gives the next size in bytes. Raises WorkloadError for a negative number."""
    if isinstance(size, Distribution):
        random, draw = Random(f"sizes {seed}"), size.draw
        return lambda: round(draw(random))
    if type(size) is not int or size < 0:
        raise WorkloadError(f"size={size!r}: give a whole number of bytes, 0 or more, or a distribution")
    return lambda: size


def _positive(**counts: int) -> None:
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise WorkloadError(f"{name}={count!r}: give a whole number, 1 or more")


def _drivers(nodes: Nodes) -> tuple[int, ...]:
    """Return the numbers of the nodes whose drivers submit; a whole number stands for the first so many."""
    if isinstance(nodes, int):
        _positive(nodes=nodes)
        return tuple(range(nodes))
    if not nodes:
        raise WorkloadError("nodes is empty: name at least one node whose driver submits")
    return tuple(nodes)


# --- graphs ------------------------------------------------------------------------------------------------------------


def independent(
    count: int,
    duration: Duration = 0.0,
    *,
    size: Size = 0,
    resources: Resources = ONE_CPU,
    nodes: Nodes = (0,),
    seed: int = 0,
) -> Workload:
    """``count`` tasks that share nothing, all submitted at once."""
    _positive(count=count)
    draw, drivers = _Draw(duration, size, resources, seed), _drivers(nodes)
    return Workload([draw.task("independent", node=drivers[i % len(drivers)]) for i in range(count)], f"independent({count})")


def chain(
    length: int,
    duration: Duration = 0.0,
    *,
    chains: int = 1,
    size: Size = 0,
    resources: Resources = ONE_CPU,
    nodes: Nodes = (0,),
    seed: int = 0,
) -> Workload:
    """``chains`` chains side by side, each of ``length`` tasks that take the one before them."""
    _positive(length=length, chains=chains)
    draw, drivers = _Draw(duration, size, resources, seed), _drivers(nodes)
    tasks: list[WorkTask] = []
    for level in range(length):
        for one in range(chains):
            inputs = ((len(tasks) - chains, 0),) if level else ()
            tasks.append(draw.task("link", inputs, node=drivers[one % len(drivers)]))
    return Workload(tasks, f"chain({length} x {chains})")


def tree_reduce(
    leaves: int,
    duration: Duration = 0.0,
    *,
    fan_in: int = 2,
    size: Size = 0,
    resources: Resources = ONE_CPU,
    node: int = 0,
    seed: int = 0,
) -> Workload:
    """``leaves`` tasks, whose outputs are combined ``fan_in`` at a time until one is left."""
    _positive(leaves=leaves)
    if fan_in < 2:
        raise WorkloadError(f"fan_in={fan_in!r}: a reduction takes 2 or more at a time")
    draw = _Draw(duration, size, resources, seed)
    tasks = [draw.task("leaf", node=node) for _ in range(leaves)]
    level = list(range(leaves))
    while len(level) > 1:
        above: list[int] = []
        for at in range(0, len(level), fan_in):
            group = level[at : at + fan_in]
            if len(group) == 1:
                above.append(group[0])
                continue
            above.append(len(tasks))
            tasks.append(draw.task("reduce", tuple([(i, 0) for i in group]), node=node))
        level = above
    return Workload(tasks, f"tree_reduce({leaves})")


def map_reduce(
    mappers: int,
    reducers: int,
    duration: Duration = 0.0,
    *,
    reduce_duration: Duration | None = None,
    partition: Size = 0,
    size: Size = 0,
    resources: Resources = ONE_CPU,
    node: int = 0,
    seed: int = 0,
) -> Workload:
    """``mappers`` tasks with one output (of ``partition`` bytes) for each of ``reducers`` tasks, which return ``size`` bytes."""
    _positive(mappers=mappers, reducers=reducers)
    draw = _Draw(duration, size, resources, seed)
    part = sizes(partition, seed + 1)
    reduce_time = draw.duration if reduce_duration is None else durations(reduce_duration, seed + 1)
    tasks = [
        WorkTask("", draw.duration(), (), tuple([part() for _ in range(reducers)]), draw.shape, 0, node, "map")
        for _ in range(mappers)
    ]
    for reducer in range(reducers):
        inputs = tuple([(mapper, reducer) for mapper in range(mappers)])
        tasks.append(WorkTask("", reduce_time(), inputs, draw.outputs(), draw.shape, 0, node, "reduce"))
    return Workload(tasks, f"map_reduce({mappers}, {reducers})")


def layered_random(
    layers: int,
    width: int,
    duration: Duration = 0.0,
    *,
    inputs_max: int = 3,
    reach: int = 1,
    size: Size = 0,
    resources: Resources = ONE_CPU,
    node: int = 0,
    seed: int = 0,
) -> Workload:
    """A random graph: ``layers`` layers of 1 to ``width`` tasks; each takes 1 to ``inputs_max`` outputs of the ``reach`` layers
    before its own, at least one of them of the last."""
    _positive(layers=layers, width=width, inputs_max=inputs_max, reach=reach)
    draw, random = _Draw(duration, size, resources, seed), Random(f"layered {seed}")
    tasks: list[WorkTask] = []
    #: The output of each task, shared by all who take it.
    outputs: list[Output] = []
    bounds = [0]
    for layer in range(layers):
        for _ in range(random.randint(1, width)):
            inputs: tuple[Output, ...] = ()
            if layer:
                taken = [random.randrange(bounds[-2], bounds[-1])]
                oldest = bounds[max(0, len(bounds) - 1 - reach)]
                taken += [random.randrange(oldest, bounds[-1]) for _ in range(random.randint(0, inputs_max - 1))]
                inputs = tuple([outputs[i] for i in dict.fromkeys(taken)])
            outputs.append((len(tasks), 0))
            tasks.append(draw.task("layered", inputs, node=node))
        bounds.append(len(tasks))
    return Workload(tasks, f"layered_random({layers}, {width}, seed={seed})")


def fork_join(
    width: int,
    duration: Duration = 0.0,
    *,
    rounds: int = 1,
    join_duration: Duration = 0.0,
    size: Size = 0,
    resources: Resources = ONE_CPU,
    node: int = 0,
    seed: int = 0,
) -> Workload:
    """``rounds`` times: a fork (no time), ``width`` tasks that take it, a join that takes them and is the next round's fork."""
    _positive(width=width, rounds=rounds)
    draw, join_time = _Draw(duration, size, resources, seed), durations(join_duration, seed + 1)
    tasks = [WorkTask("", 0, (), draw.outputs(), draw.shape, 0, node, "fork")]
    for _ in range(rounds):
        fork = ((len(tasks) - 1, 0),)
        first = len(tasks)
        tasks += [draw.task("branch", fork, node=node) for _ in range(width)]
        inputs = tuple([(i, 0) for i in range(first, first + width)])
        tasks.append(WorkTask("", join_time(), inputs, draw.outputs(), draw.shape, 0, node, "join"))
    return Workload(tasks, f"fork_join({width} x {rounds})")


def bulk_synchronous(
    cores: int,
    rounds: int,
    duration: Duration = 0.0,
    *,
    size: Size = 0,
    resources: Resources = ONE_CPU,
    node: int = 0,
    seed: int = 0,
) -> Workload:
    """``rounds`` rounds of ``cores`` tasks; a barrier (no time, no CPU) stands between them. With Exp(1) tasks on as many cores it
    takes rounds x H_cores on average, H_n the n-th harmonic number."""
    _positive(cores=cores, rounds=rounds)
    draw = _Draw(duration, size, resources, seed)
    tasks: list[WorkTask] = []
    barrier: tuple[Output, ...] = ()
    for number in range(rounds):
        first = len(tasks)
        tasks += [draw.task("step", barrier, node=node) for _ in range(cores)]
        if number < rounds - 1:
            inputs = tuple([(i, 0) for i in range(first, first + cores)])
            barrier = ((len(tasks), 0),)
            tasks.append(WorkTask("", 0, inputs, _ONE_EMPTY, (), 0, node, "barrier"))
    return Workload(tasks, f"bulk_synchronous({cores} x {rounds})")


def asynchronous(
    cores: int,
    rounds: int,
    duration: Duration = 0.0,
    *,
    size: Size = 0,
    resources: Resources = ONE_CPU,
    node: int = 0,
    seed: int = 0,
) -> Workload:
    """The tasks of :func:`bulk_synchronous`, with the same durations, without the barriers. With Exp(1) tasks on ``cores`` cores it
    takes (rounds - 1) + H_cores on average, exactly."""
    _positive(cores=cores, rounds=rounds)
    found = independent(cores * rounds, duration, size=size, resources=resources, nodes=(node,), seed=seed)
    return Workload(found.tasks, f"asynchronous({cores} x {rounds})")


# --- arrivals ----------------------------------------------------------------------------------------------------------


def poisson(
    rate: float,
    count: int,
    duration: Duration,
    *,
    size: Size = 0,
    resources: Resources = ONE_CPU,
    nodes: Nodes = (0,),
    seed: int = 0,
) -> Workload:
    """``count`` tasks that share nothing, submitted at ``rate`` a second over all ``nodes`` together; each by one drawn at random,
    so that every node sees Poisson arrivals of its own. With durations Exponential(s) on c cores it is M/M/c at a load of
    rate x s / c; with constants, M/D/c."""
    _positive(count=count)
    if not rate > 0:
        raise WorkloadError(f"rate={rate!r}: give tasks a second, above 0")
    draw, random, drivers = _Draw(duration, size, resources, seed), Random(f"arrivals {seed}"), _drivers(nodes)
    tasks, at = [], 0.0
    for _ in range(count):
        at += random.expovariate(rate)
        node = drivers[0] if len(drivers) == 1 else random.choice(drivers)
        tasks.append(draw.task("arrival", at=nanos(at), node=node))
    return Workload(tasks, f"poisson({rate:g}/s, {count}, seed={seed})")


# --- bodies that submit ------------------------------------------------------------------------------------------------


def nested(
    parents: int,
    children: int,
    duration: Duration = 0.0,
    *,
    depth: int = 1,
    before: float = 0.0,
    after: float = 0.0,
    size: Size = 0,
    resources: Resources = ONE_CPU,
    nodes: Nodes = (0,),
    seed: int = 0,
) -> Workload:
    """``parents`` tasks, whose bodies compute ``before`` seconds, submit ``children`` tasks, get them and compute ``after``. With
    ``depth`` 2 the children do the same, and so on; those at the bottom take ``duration``."""
    _positive(parents=parents, children=children, depth=depth)
    draw, drivers = _Draw(duration, size, resources, seed), _drivers(nodes)
    first, last = Compute(nanos(before, "before")), Compute(nanos(after, "after"))
    tasks: list[WorkTask] = []
    level = [(-1, drivers[i % len(drivers)]) for i in range(parents)]
    for remaining in range(depth, -1, -1):
        base = len(tasks) + len(level)
        below: list[tuple[int, int]] = []
        for parent, node in level:
            if remaining:
                mine = tuple(range(base + len(below), base + len(below) + children))
                steps = (first, Submit(mine), Get(mine), last)
                span = first.span + last.span
                below += [(len(tasks), 0)] * children
                tasks.append(WorkTask("", span, (), draw.outputs(), draw.shape, 0, node, "parent", parent, steps))
            else:
                tasks.append(WorkTask("", draw.duration(), (), draw.outputs(), draw.shape, 0, node, "child", parent))
        level = below
    return Workload(tasks, f"nested({parents} x {children}, depth={depth})")


# --- known instances ---------------------------------------------------------------------------------------------------


def ring_all_reduce(ranks: int, size: int, *, reduce_seconds: float = 0.0, pin: bool = True, node: int = 0) -> Workload:
    """All-reduce of ``size`` bytes on each of ``ranks``: 2 (ranks - 1) rounds in which each rank hands a chunk of size / ranks
    bytes to the next, and takes ``reduce_seconds`` to add it in the first half. On links of bandwidth B and latency a it takes
    2 (n - 1) (a + S / (n B)).

    ``pin``: each task of rank r asks for 1/10,000 of a custom resource ``rank-r`` beside its CPU; give each node one of them.
    """
    if ranks < 2:
        raise WorkloadError(f"ranks={ranks!r}: a ring takes 2 or more")
    sizes(size)
    chunk = -(-size // ranks)
    span = nanos(reduce_seconds, "reduce_seconds")
    shapes = [shape({CPU: 1, f"rank-{rank}": 0.0001} if pin else {CPU: 1}) for rank in range(ranks)]
    tasks = [WorkTask("", 0, (), (chunk,) * ranks, shapes[rank], 0, node, "gradient") for rank in range(ranks)]
    #: Of each rank: where the chunk lies that it hands on next; in the first round rank r hands on its chunk r.
    hands: list[Output] = [(rank, rank) for rank in range(ranks)]
    for number in range(2 * (ranks - 1)):
        adds = number < ranks - 1
        coming: list[Output] = []
        for rank in range(ranks):
            inputs: tuple[Output, ...] = (hands[rank - 1],)
            if adds:
                inputs += ((rank, (rank - 1 - number) % ranks),)
            coming.append((len(tasks), 0))
            function = "reduce_scatter" if adds else "all_gather"
            tasks.append(WorkTask("", span if adds else 0, inputs, (chunk,), shapes[rank], 0, node, function))
        hands = coming
    return Workload(tasks, f"ring_all_reduce({ranks}, {size} B)")


#: Graham's nine tasks: how long each takes, and which of them it waits for (counted from 1).
_GRAHAM_TIMES = (3, 2, 2, 2, 4, 4, 4, 4, 9)
_GRAHAM_WAITS = {9: (1,), 5: (4,), 6: (4,), 7: (4,), 8: (4,)}


def graham_anomaly(
    *,
    less: int = 0,
    without: Sequence[tuple[int, int]] = (),
    order: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8, 9),
    unit: float = 1.0,
    node: int = 0,
) -> Workload:
    """Graham's instance (1966, 1969): nine tasks that, taken in the order of the list as cores come free, show every anomaly.

    Makespan in ``unit`` seconds: 12 on 3 cores; 15 on 4; 13 with all times less 1; 16 ``without=((4, 5), (4, 6))``; 14 in the
    ``order`` 1 2 4 5 6 3 9 7 8. Raises WorkloadError for an order that is not of these nine, or less than nothing.
    """
    if sorted(order) != list(range(1, 10)):
        raise WorkloadError(f"order={tuple(order)}: name each of 1 to 9 once")
    gone = {(before, after) for before, after in without}
    unknown = sorted(gone - {(before, after) for after, waits in _GRAHAM_WAITS.items() for before in waits})
    if unknown:
        raise WorkloadError(f"without={unknown}: there is no such edge; there are 1-9, 4-5, 4-6, 4-7, 4-8")
    place = {number: index for index, number in enumerate(order)}
    tasks = []
    for number in order:
        inputs = tuple([(place[one], 0) for one in _GRAHAM_WAITS.get(number, ()) if (one, number) not in gone])
        span = nanos((_GRAHAM_TIMES[number - 1] - less) * unit, f"the time of task {number}")
        tasks.append(WorkTask(f"T{number}", span, inputs, _ONE_EMPTY, ONE_CPU, 0, node, "graham"))
    return Workload(tasks, "graham_anomaly")
