"""A workload without bodies: which tasks there are, what they need, how long they take, what they return.

Nothing is run to know it: durations and sizes stand for bodies and values. Times are integer nanoseconds and sizes integer
bytes; people write seconds, with :func:`task` and :func:`compute`.

Who knows what: an output is known to whoever submitted its task (a driver, or a task's body), and to the bodies of tasks that it
submits afterwards. Only what is known may be an input or be waited for; ``validate`` holds a workload to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import msgspec

from sundog.backends.simulated.workloads import precedence
from sundog.core.resources import CPU, ONE_CPU, Shape, shape
from sundog.core.units import SECOND, Nanos

#: ``parent`` of a task that a driver submits.
BY_DRIVER = -1
#: ``function`` of what stands for a value that is put: no body, no resources, one output.
PUT = "put"

#: An output: (index of the task that returns it, index among its outputs).
Output: TypeAlias = tuple[int, int]

_NO_INPUTS: tuple[Output, ...] = ()
_ONE_EMPTY: tuple[int, ...] = (0,)


class WorkloadError(ValueError):
    """The workload could not run as it is; the text names the task."""


class Compute(msgspec.Struct, frozen=True, gc=False, tag="compute"):
    """The body computes for ``span`` nanoseconds."""

    span: Nanos


class Submit(msgspec.Struct, frozen=True, gc=False, tag="submit"):
    """The body submits these tasks, in this order, without waiting. They are indices; each names the body's task as ``parent``."""

    tasks: tuple[int, ...]


class Get(msgspec.Struct, frozen=True, gc=False, tag="get"):
    """The body waits until it has every output of these tasks (indices). It gives its CPUs back meanwhile."""

    tasks: tuple[int, ...]


#: What a body does, in order.
Step: TypeAlias = Compute | Submit | Get


class WorkTask(msgspec.Struct, frozen=True, gc=False):
    """One task. Its index in the workload is its identity; defaults are shared, so a plain task takes some 150 bytes."""

    #: For people; empty: made of ``function`` and the index (:meth:`Workload.name_of`).
    name: str = ""
    #: What its body computes in all; the sum of its Compute steps if it has steps.
    duration: Nanos = 0
    inputs: tuple[Output, ...] = _NO_INPUTS
    #: The size of each return, in bytes.
    outputs: tuple[int, ...] = _ONE_EMPTY
    resources: Shape = ONE_CPU
    #: When its driver submits it; 0 for one that a body submits.
    submitted_at: Nanos = 0
    #: The node whose driver submits it. That of a task that a body submits is wherever the body runs.
    node: int = 0
    function: str = "task"
    #: The index of the task whose body submits it; BY_DRIVER if none does.
    parent: int = BY_DRIVER
    #: What the body does, in order; empty: it computes for ``duration`` and returns.
    steps: tuple[Step, ...] = ()


def nanos(seconds: float, what: str = "a time") -> Nanos:
    """Return ``seconds`` as integer nanoseconds.

    Raises WorkloadError, naming ``what``, for a number that is negative or not finite.
    """
    if not 0 <= seconds < math.inf:
        raise WorkloadError(f"{what} is {seconds!r} s; give seconds, 0 or more")
    return round(seconds * SECOND)


def compute(seconds: float) -> Compute:
    """Return the step of computing for so many seconds. Raises WorkloadError for a negative number."""
    return Compute(nanos(seconds, "a span of computing"))


def task(
    duration: float = 0.0,
    *,
    inputs: Iterable[int | Output] = (),
    outputs: Sequence[int] = _ONE_EMPTY,
    resources: Mapping[str, float] | Shape = ONE_CPU,
    at: float = 0.0,
    node: int = 0,
    name: str = "",
    function: str = "task",
    parent: int = BY_DRIVER,
    steps: Sequence[Step] = (),
) -> WorkTask:
    """Return a task as people write it.

    ``duration`` and ``at`` (when it is submitted) are seconds; ``inputs`` are indices of tasks, for their first output, or
    (task, output) pairs; ``outputs`` are bytes; ``resources`` are whole units (``{"CPU": 2}``) or a shape. With ``steps``, the
    duration is theirs. Raises WorkloadError for a negative time, ValueError for a wrong resource.
    """
    label = name or function
    computed = sum([step.span for step in steps if isinstance(step, Compute)])
    return WorkTask(
        name=name,
        duration=computed if steps else nanos(duration, f"the duration of {label!r}"),
        inputs=tuple([(item, 0) if isinstance(item, int) else (item[0], item[1]) for item in inputs]),
        outputs=tuple(outputs),
        resources=shape(resources) if isinstance(resources, Mapping) else resources,
        submitted_at=nanos(at, f"the time at which {label!r} is submitted"),
        node=node,
        function=function,
        parent=parent,
        steps=tuple(steps),
    )


class Workload:
    """Tasks, by index. A driver submits its own in the order of (``submitted_at``, index).

    ``tasks`` are kept as they are given; nothing is checked before :meth:`validate`.
    """

    __slots__ = ("name", "tasks")

    def __init__(self, tasks: Iterable[WorkTask], name: str = "workload") -> None:
        self.tasks: Sequence[WorkTask] = tasks if isinstance(tasks, list | tuple) else list(tasks)
        self.name = name

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[WorkTask]:
        return iter(self.tasks)

    def __getitem__(self, index: int) -> WorkTask:
        return self.tasks[index]

    def __repr__(self) -> str:
        return f"Workload({self.name!r}: {len(self.tasks)} tasks, {self.edge_count()} edges, work {self.work() / SECOND:g} s)"

    def name_of(self, index: int) -> str:
        """Return what to call a task: its name, or ``function-index``."""
        found = self.tasks[index]
        return found.name or f"{found.function}-{index}"

    def validate(self, shapes: Iterable[Shape] = (), *, drivers: int | None = None) -> None:
        """Raise WorkloadError, naming the task, unless everything could run to its end.

        ``shapes``: what each node has; without any, nobody asks whether tasks fit. ``drivers``: how many nodes there are that
        have a driver; default: ``len(shapes)``, or any number.
        """
        # Imported here, because it names the classes above.
        from sundog.backends.simulated.workloads.validation import validate

        validate(self, tuple(shapes), drivers)

    # --- what bounds the makespan ---------------------------------------------------------------------------------------

    def work(self) -> Nanos:
        """Return T1: how long one worker would compute, in nanoseconds."""
        return sum([one.duration for one in self.tasks])

    def cpu_work(self) -> int:
        """Return the work in CPU shares times nanoseconds: ``resources.UNIT`` of it is one CPU for a nanosecond."""
        return sum([one.duration * dict(one.resources).get(CPU, 0) for one in self.tasks])

    def critical_path(self, *, releases: bool = False) -> Nanos:
        """Return Tinf in nanoseconds: how long it takes with as many workers as there are tasks, where nothing else costs time.

        With the work T1 and P workers, a greedy schedule takes at least max(T1 / P, Tinf) and at most (T1 - Tinf) / P + Tinf
        (Graham 1966, Brent 1974). ``releases``: count also when drivers submit. Raises WorkloadError for a cycle.
        """
        return self._order().longest(releases)[0]

    def critical_tasks(self, *, releases: bool = False) -> tuple[int, ...]:
        """Return the tasks on one longest path, in order. Raises WorkloadError for a cycle."""
        return self._order().longest(releases)[1]

    def edge_count(self) -> int:
        """Return how many inputs all tasks have together."""
        return sum([len(one.inputs) for one in self.tasks])

    def bytes_returned(self) -> int:
        """Return the size of all outputs together."""
        return sum([sum(one.outputs) for one in self.tasks])

    def bytes_taken(self) -> int:
        """Return the size of all inputs together: what would move if no task ran where its inputs are."""
        tasks = self.tasks
        return sum([tasks[producer].outputs[output] for one in tasks for producer, output in one.inputs])

    def ends_at(self) -> Nanos:
        """Return when the last task of a driver is submitted."""
        return max([one.submitted_at for one in self.tasks], default=0)

    def _order(self) -> precedence.Precedence:
        order = precedence.Precedence(self.tasks)
        cycle = order.cycle()
        if cycle:
            raise WorkloadError(self.describe_cycle(cycle))
        return order

    def describe_cycle(self, cycle: Sequence[int]) -> str:
        """Return a sentence for tasks that wait for each other in a circle, each for the next."""
        names = [self.name_of(index) for index in cycle]
        chain = "".join([f", which waits for {name}" for name in [*names[2:], names[0]]]) if len(names) > 1 else ""
        first = names[1] if len(names) > 1 else "itself"
        return f"{self.name}: the graph is cyclic: {names[0]} waits for {first}{chain}; take one of these edges out"


def together(workloads: Iterable[Workload], name: str = "together") -> Workload:
    """Return one workload of several that share nothing; their tasks are renumbered in the order given."""
    tasks: list[WorkTask] = []
    for workload in workloads:
        base = len(tasks)
        tasks += [_moved(one, base) for one in workload] if base else list(workload)
    return Workload(tasks, name)


def _moved(one: WorkTask, base: int) -> WorkTask:
    def step(old: Step) -> Step:
        return old if isinstance(old, Compute) else type(old)(tuple([index + base for index in old.tasks]))

    return msgspec.structs.replace(
        one,
        inputs=tuple([(producer + base, output) for producer, output in one.inputs]),
        parent=one.parent if one.parent == BY_DRIVER else one.parent + base,
        steps=tuple([step(old) for old in one.steps]),
    )
