"""What the local scheduler knows of one unfinished task, and of one worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum

import msgspec
from msgspec.structs import force_setattr

from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address, FunctionID, ObjectID, ProcessID, TaskID
from sundog.core.resources import Shape
from sundog.core.task import TRANSITIONS, RunTask, TaskSpec, TaskState, Value
from sundog.core.units import Nanos


class Blocking(msgspec.Struct):
    """What a blocked task waits for: ``count`` more of ``missing``."""

    request: int
    missing: dict[ObjectID, None]
    count: int
    #: The values are needed here; else it is enough that they are somewhere.
    deliver: bool = False
    #: When it became resumable, for the overdraft.
    resumable_at: Nanos = 0
    #: Why the wait can never end, if it cannot.
    failure: Value | None = None


class WorkerState(Enum):
    """What a worker process is doing."""

    STARTING = "starting"
    IDLE = "idle"
    LEASED = "leased"  # it holds resources of its shape and runs its pipeline
    BLOCKED = "blocked"  # its running task waits; its CPUs are given back
    STOPPING = "stopping"  # it was asked to leave


class FunctionRecord(msgspec.Struct):
    """An exported function, and what the node has learnt of it."""

    name: str
    code: Value
    #: Smoothed duration of its body; None until it has run once here.
    mean: Nanos | None = None
    calls: int = 0
    #: A body of it has waited for something here.
    blocks: bool = False
    #: The last task of it that came.
    last: TaskSpec | None = None

    def keep_once(self, spec: TaskSpec) -> None:
        """Make what ``spec``, which has just been decoded, has in common with the last of its function the very same objects.

        They are a third of what a task in flight weighs here. No value changes, so this may be done to a frozen struct.
        """
        last = self.last
        self.last = spec
        if last is None:
            return
        force_setattr(spec, "function_id", last.function_id)
        if spec.name == last.name and spec.resources == last.resources:
            force_setattr(spec, "name", last.name)
            force_setattr(spec, "resources", last.resources)
        if spec.arguments == last.arguments:  # most often there are none
            force_setattr(spec, "arguments", last.arguments)

    def ran(self, durations: Iterable[Nanos], slack: Nanos, shift: int) -> None:
        """Bodies of it took ``durations``; the mean follows each by one part in two to the power of ``shift``."""
        mean, calls = self.mean, self.calls
        for duration in durations:
            calls += 1
            if mean is None:
                mean = duration
                continue
            # One preemption must not make a function of microseconds pass for one of milliseconds.
            bound = 4 * mean + slack
            mean += ((duration if duration < bound else bound) - mean) >> shift
        self.mean, self.calls = mean, calls


#: How a task's returns are awaited: not at all, by somebody who waits for many together, or by somebody else, too.
NOT_AWAITED, AWAITED_TOGETHER, AWAITED_NOW = 0, 1, 2

#: The values of a task's dependencies, in their order; of one alone, or none, they do not need a list of their own.
Values = list[Value | None] | tuple[Value | None, ...]
#: Dependencies without a value: with their places among the values, or alone, where there is one at most.
Missing = dict[ObjectID, int] | tuple[ObjectID, ...]
NOT_YET: Values = (None,)


def unready(dependencies: tuple[ObjectID, ...]) -> tuple[Values, Missing]:
    """Return the values of ``dependencies`` and what is missing of them, before any is ready."""
    if len(dependencies) == 1:
        return NOT_YET, dependencies
    return [None] * len(dependencies), {object_id: index for index, object_id in enumerate(dependencies)}


class TaskRecord(msgspec.Struct):
    """One unfinished task."""

    spec: TaskSpec
    submitter: Address
    #: Position among all tasks ever taken here: ready tasks of one priority go in this order.
    order: int
    #: That of the spec, looked up once.
    function: FunctionRecord
    #: Of spec.dependencies, as they become ready.
    values: Values = ()
    missing: Missing = ()
    state: TaskState = TaskState.WAITING
    #: Changes whenever results of an earlier dispatch must no longer count.
    attempt: int = 1
    #: How often the body has really started, and how many of those starts count against retries_max.
    starts: int = 0
    charges: int = 0
    #: Whether one of its values lies in the arena.
    extents: bool = False
    #: Tasks that were submitted while this one was unfinished and have a return of it as an argument.
    dependents: list[TaskRecord] | None = None
    worker: WorkerRecord | None = None
    #: Its position in everything ever dispatched to its worker, and the lowest position whose returns it needs there; 0 if none.
    sequence: int = 0
    oldest_needed: int = 0
    #: What its worker's pipeline was charged for it.
    estimate: Nanos = 0
    dispatched_at: Nanos = 0
    blocking: Blocking | None = None
    #: The request whose time was up before it was heard of as blocking.
    expired: int = 0
    #: The grants that went with its dispatch.
    pins: tuple[ObjectID, ...] = ()
    #: The ``order`` of the newest blocked task that waits for it; 0 if none does.
    urgent: int = 0
    #: It came from the global scheduler: it is not offered there again.
    assigned: bool = False
    #: How its returns are awaited, as far as is known.
    awaited: int = NOT_AWAITED
    #: It came in a lot: there is nothing to see to before it is dispatched.
    plain: bool = False


class WorkerRecord(msgspec.Struct):
    """One worker process."""

    worker: ProcessID
    where: Address
    state: WorkerState = WorkerState.STARTING
    pid: int = 0
    #: What it holds of the node's resources, for whatever its pipeline runs; meaningful while LEASED or BLOCKED.
    shape: Shape = ()
    #: Tasks in the order of their sequence; the head is running or about to.
    pipeline: deque[TaskRecord] = deque()
    #: Expected time of all that is in the pipeline; meaningless while that is empty.
    work: Nanos = 0
    sequence: int = 0
    #: Something in the pipeline needs returns of what is ahead of it (P5).
    followed: bool = False
    #: When the head is late, if anything is behind it.
    late_at: Nanos = 0
    #: Tasks that could follow those in the pipeline (P5), oldest first; checked again when there is room.
    followers: deque[TaskRecord] = deque()
    #: What this step dispatches to it.
    runs: list[RunTask] = []
    functions: dict[FunctionID, None] = {}
    calls: dict[FunctionID, int] = {}
    #: Tokens are being taken back; tasks were reclaimed and the worker has not yet said that it dropped them.
    reclaiming: bool = False
    forgetting: bool = False
    #: No token was left when some were last asked for: not before this again.
    asked_in_vain_until: Nanos = 0
    #: It gets nothing more, and leaves when it is empty.
    retiring: bool = False
    idle_since: Nanos = 0

    def takes(self) -> bool:
        """Tell whether anything may be dispatched to it now."""
        return not (self.reclaiming or self.forgetting or self.retiring)


def set_state(record: TaskRecord, state: TaskState) -> None:
    """Move a task along TRANSITIONS.

    Raises InvariantViolation for a move that is not in the table.
    """
    if state not in TRANSITIONS[record.state]:
        raise InvariantViolation(
            f"task {record.spec.name} {record.spec.task_id.hex()} cannot go from {record.state.value} to {state.value}"
        )
    record.state = state


def check_tasks(tasks: Mapping[TaskID, TaskRecord], workers: Iterable[WorkerRecord]) -> None:
    """Raise InvariantViolation unless L2 and L3 of ``local_scheduler`` hold."""
    placed: dict[TaskID, ProcessID] = {}
    for worker in workers:
        for record in worker.pipeline:
            placed[record.spec.task_id] = worker.worker
    for task_id, record in tasks.items():
        dispatched = record.state in (TaskState.DISPATCHED, TaskState.BLOCKED, TaskState.RESUMABLE)
        if dispatched != (task_id in placed):
            raise InvariantViolation(f"task {record.spec.name} is {record.state.value}; in a pipeline: {not dispatched} (L3)")
        if record.state is TaskState.READY and record.missing:
            raise InvariantViolation(f"ready task {record.spec.name} misses arguments (L2)")
        if record.state is TaskState.WAITING and not record.missing:
            raise InvariantViolation(f"waiting task {record.spec.name} misses nothing (L2)")
