"""The wire vocabulary: facts that travel between processes, as msgpack arrays ``[tag, field, ...]``.

An action ``Send(to, message)`` on one side is an event ``(sender, message)`` on the other. Tags are never reused and fields
only ever appended, with defaults: a reordered field would decode silently into nonsense, so a test compares this module with
the committed schema.

Who hears what is in ``host.ROUTES`` (the host's machines), ``client.Client`` (drivers and workers) and ``executor.Executor``
(workers). Directions below: C a client (driver or worker), W a worker, N a node's host, H the head's host.
"""

from __future__ import annotations

import msgspec

from sundog.core.ids import Address, FunctionID, NodeID, ObjectID, TaskID
from sundog.core.machine import Fact
from sundog.core.resources import Shape
from sundog.core.task import TaskSpec, Value
from sundog.core.units import Nanos


class Result(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One return of a task: its value and the IDs inside it, which it keeps alive."""

    value: Value
    contained: tuple[ObjectID, ...] = ()


class ReadyObject(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An object that is ready. ``value`` is None where only the news was asked for.

    A value with an extent comes with one *grant*: the receiver returns it (:class:`PinsReturned`) once nothing reads it.
    """

    object_id: ObjectID
    value: Value | None = None


class RunTask(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A task for a worker's pipeline. ``values[i]`` is that of ``spec.dependencies[i]``, or None if a task ahead of this one
    in the same pipeline returns it."""

    spec: TaskSpec
    #: Counts dispatches that were charged; a result counts only for the current attempt.
    attempt: int
    #: Counts starts of the body from 1; part of the names of what the body creates.
    start: int
    #: Position in everything ever dispatched to this worker, from 1; the worker's progress record speaks of it.
    sequence: int
    values: tuple[Value | None, ...] = ()


# --- C -> N: tasks and objects ------------------------------


class TaskSubmitted(Fact, frozen=True, tag=1):
    """C -> N. The submitter holds every return from here on; no HoldsTaken is sent for them."""

    spec: TaskSpec


class ObjectPut(Fact, frozen=True, tag=2):
    """C -> N. A value was put (and, if ``value.offset`` >= 0, written and complete). The sender holds the ID."""

    object_id: ObjectID
    value: Value
    contained: tuple[ObjectID, ...] = ()


class FunctionExported(Fact, frozen=True, tag=3):
    """C -> N. ``code`` is what the serializer made of the function; sent before the first task that names it."""

    function_id: FunctionID
    name: str
    code: Value


class HoldsTaken(Fact, frozen=True, tag=4):
    """C -> N. The first reference to each of these IDs came into being in this process."""

    object_ids: tuple[ObjectID, ...]


class HoldsReleased(Fact, frozen=True, tag=5):
    """C -> N. The last reference in this process is gone."""

    object_ids: tuple[ObjectID, ...]


class PinsReturned(Fact, frozen=True, tag=6):
    """C -> N. One grant for each mention: no view of it is left in this process."""

    object_ids: tuple[ObjectID, ...]


class IDsEscaped(Fact, frozen=True, tag=7):
    """C -> N. These IDs were pickled outside the serializer, where they cannot be counted: held until the session ends."""

    object_ids: tuple[ObjectID, ...]


class ObjectsWanted(Fact, frozen=True, tag=8):
    """C -> N. Answer each, once, by ObjectsReady when it is ready; with its value if ``deliver``.

    An ID that nobody holds is answered at once by a failure (OBJECT_LOST).
    """

    object_ids: tuple[ObjectID, ...]
    deliver: bool


class ObjectsPolled(Fact, frozen=True, tag=9):
    """C -> N. Answer at once by ObjectsPolledReady with those that are ready now."""

    request: int
    object_ids: tuple[ObjectID, ...]


class TaskBlocked(Fact, frozen=True, tag=10):
    """W -> N. The task's own thread waits until ``count`` of ``object_ids`` are ready: its CPUs are free for others.

    Answered by TaskResumed(request), which is the grant of the CPUs to go on.
    """

    task_id: TaskID
    request: int
    object_ids: tuple[ObjectID, ...]
    count: int


class ResumeRequested(Fact, frozen=True, tag=11):
    """W -> N. The wait of ``request`` ran out of time: grant the CPUs although not everything is ready."""

    task_id: TaskID
    request: int


class ExtentWanted(Fact, frozen=True, tag=12):
    """C -> N. Room for ``size`` bytes is wanted. Answered by ExtentGranted or ExtentRefused."""

    request: int
    size: int


class ExtentReturned(Fact, frozen=True, tag=13):
    """C -> N. The writer gives the extent at ``offset`` back unsealed (it failed, or was interrupted)."""

    offset: int


class CancelRequested(Fact, frozen=True, tag=14):
    """C -> N. Cancel what has not started of the tasks that return these. Answered by CancelAnswered."""

    request: int
    object_ids: tuple[ObjectID, ...]


class ExplanationRequested(Fact, frozen=True, tag=15):
    """C -> N. Why are these not ready? Answered by ExplanationGiven, a text for people."""

    request: int
    object_ids: tuple[ObjectID, ...]


class TableRequested(Fact, frozen=True, tag=16):
    """C -> N. One of ``tables.TABLES``. Answered by TableGiven."""

    request: int
    table: str


class SessionEnding(Fact, frozen=True, tag=17):
    """C -> N. The driver shuts down: say what failed unheard, then SessionEnded, then stop."""


# --- W -> N: execution ------------------------------


class TaskFinished(Fact, frozen=True, tag=20):
    """W -> N. All returns in one message. On an exception ``results`` holds one error, that of every return.

    Sent after HoldsTaken for IDs that the worker keeps, so nothing is freed between the two.
    """

    task_id: TaskID
    attempt: int
    results: tuple[Result, ...]
    #: How long the body ran, not counting time blocked.
    duration: Nanos
    #: The exception is one that the task declared retryable.
    retryable: bool = False


class TaskSkipped(Fact, frozen=True, tag=21):
    """W -> N. Not run: a task ahead of it in the pipeline, whose return it needs, gave no value."""

    task_id: TaskID
    attempt: int


class TasksDropped(Fact, frozen=True, tag=22):
    """W -> N. Everything up to ``sequence`` that was reclaimed has left the pipeline; new tasks may be dispatched."""

    sequence: int


# --- N -> C ------------------------------


class ObjectsReady(Fact, frozen=True, tag=30):
    """N -> C. In answer to ObjectsWanted."""

    objects: tuple[ReadyObject, ...]


class ObjectsPolledReady(Fact, frozen=True, tag=31):
    """N -> C. In answer to ObjectsPolled: those that are ready."""

    request: int
    object_ids: tuple[ObjectID, ...]


class TaskResumed(Fact, frozen=True, tag=32):
    """N -> W. The blocked task has its CPUs again and may go on."""

    request: int


class ExtentGranted(Fact, frozen=True, tag=33):
    """N -> C. ``size`` bytes at ``offset`` are the receiver's to write. ``warm``: their pages exist already."""

    request: int
    offset: int
    size: int
    warm: bool


class ExtentRefused(Fact, frozen=True, tag=34):
    """N -> C. There is no room and none will come; ``value`` holds the failure."""

    request: int
    value: Value


class CancelAnswered(Fact, frozen=True, tag=35):
    """N -> C. These are cancelled; the rest had started or were over."""

    request: int
    object_ids: tuple[ObjectID, ...]


class ExplanationGiven(Fact, frozen=True, tag=36):
    """N -> C. In answer to ExplanationRequested."""

    request: int
    text: str


class TableGiven(Fact, frozen=True, tag=37):
    """N -> C. ``rows`` is a msgpack list of maps."""

    request: int
    rows: bytes


class OutputWritten(Fact, frozen=True, tag=38):
    """N -> driver. What a worker printed while ``name`` ran; ``dropped`` bytes before it were lost to the flood bound."""

    pid: int
    name: str
    #: 1 stdout, 2 stderr.
    stream: int
    text: str
    dropped: int = 0


class FailureUnheard(Fact, frozen=True, tag=39):
    """N -> driver. A task failed and its object was let go without anybody having looked."""

    name: str
    object_id: ObjectID
    value: Value


class WarningRaised(Fact, frozen=True, tag=40):
    """N -> driver. Something that a person should read, once."""

    text: str


class SessionEnded(Fact, frozen=True, tag=41):
    """N -> driver. The last message of a session."""


class SubmissionsPaused(Fact, frozen=True, tag=42):
    """N -> C. ``paused``: too much is unfinished, so ``.remote()`` waits until the same message says otherwise."""

    paused: bool


class RequestRefused(Fact, frozen=True, tag=43):
    """N -> W. In place of TaskResumed: the CPUs are granted, but the wait can never end; ``value`` holds the failure."""

    request: int
    value: Value


# --- N -> W ------------------------------


class RunTasks(Fact, frozen=True, tag=50):
    """N -> W. Tasks for the end of the pipeline. Returns of tasks up to ``forget_through`` need not be kept any longer."""

    tasks: tuple[RunTask, ...]
    forget_through: int = 0


class FunctionDelivered(Fact, frozen=True, tag=51):
    """N -> W. Sent before the first RunTasks that names it."""

    function_id: FunctionID
    name: str
    code: Value


class TasksForgotten(Fact, frozen=True, tag=52):
    """N -> W. Tasks with ``after`` < their sequence <= ``sequence`` were reclaimed: drop them, answer TasksDropped(sequence)."""

    after: int
    sequence: int


class StopRequested(Fact, frozen=True, tag=53):
    """N -> W. Leave after the pipeline is empty."""


# --- between machines of one host, or between N and H ------------------------------


class TaskSpilled(Fact, frozen=True, tag=60):
    """N -> H. The local scheduler cannot run it: place it. ``submitter`` is the process that submitted it."""

    spec: TaskSpec
    submitter: Address


class TaskAssigned(Fact, frozen=True, tag=61):
    """H -> N. Run it here."""

    spec: TaskSpec
    submitter: Address


class TaskInfeasible(Fact, frozen=True, tag=62):
    """H -> N (the one that spilled it). No node can ever run it; ``message`` names what is missing."""

    task_id: TaskID
    message: str


class LoadReported(Fact, frozen=True, tag=63):
    """N -> H. Also the heartbeat. ``queued`` tasks wait on the node; ``mean`` is the mean duration of its tasks."""

    node: NodeID
    free: Shape
    queued: int
    mean: Nanos = 0


class NodeJoined(Fact, frozen=True, tag=64):
    """To H's machines, then to all nodes: ``node`` has ``capacity`` and may be given tasks."""

    node: NodeID
    capacity: Shape
    name: str = ""


class NodeLost(Fact, frozen=True, tag=65):
    """To all: ``node`` is dead, with all that it held."""

    node: NodeID


class LocationsAdded(Fact, frozen=True, tag=66):
    """N -> H. ``node`` holds copies of these, with sizes in bytes."""

    node: NodeID
    objects: tuple[tuple[ObjectID, int], ...]


class LocationsRemoved(Fact, frozen=True, tag=67):
    """N -> H. ``node`` holds these no longer."""

    node: NodeID
    object_ids: tuple[ObjectID, ...]


class LocationsWanted(Fact, frozen=True, tag=68):
    """N -> H. Answer now, and again at every change until LocationsUnwanted: who holds these?"""

    object_ids: tuple[ObjectID, ...]


class LocationsUnwanted(Fact, frozen=True, tag=69):
    """N -> H."""

    object_ids: tuple[ObjectID, ...]


class LocationsChanged(Fact, frozen=True, tag=70):
    """H -> N. The nodes that hold ``object_id`` now, in the order in which they said so."""

    object_id: ObjectID
    size: int
    nodes: tuple[NodeID, ...]


class ObjectLost(Fact, frozen=True, tag=71):
    """H -> H (directory to lineage). No live node holds a copy of what was sealed once, and ``wanted_by`` wait for it."""

    object_id: ObjectID
    wanted_by: tuple[Address, ...] = ()


class LineageRecorded(Fact, frozen=True, tag=72):
    """H -> N. Everything up to ``sequence`` of the sender's RecipesRecorded survives its death."""

    sequence: int


class RecipesRecorded(Fact, frozen=True, tag=73):
    """N -> H. Recipes of objects that are about to leave the node."""

    sequence: int
    specs: tuple[TaskSpec, ...]


class ObjectUnrecoverable(Fact, frozen=True, tag=74):
    """H -> N. No copy and no recipe: ``message`` says why."""

    object_id: ObjectID
    message: str


class RecipesReleased(Fact, frozen=True, tag=75):
    """N -> H. Nobody holds these any more: their recipes may go."""

    object_ids: tuple[ObjectID, ...]


class TaskDeclared(Fact, frozen=True, tag=80):
    """Local scheduler -> object manager, same host. The task's returns may now be asked for, its arguments are held."""

    spec: TaskSpec
    #: The process that submitted it and holds its returns.
    submitter: Address


class TaskRetired(Fact, frozen=True, tag=81):
    """Local scheduler -> object manager. The task is over: seal its returns, then let its arguments go."""

    spec: TaskSpec
    results: tuple[Result, ...]
    #: Who wrote the extents among the results.
    writer: Address


class ResultsRefused(Fact, frozen=True, tag=82):
    """Local scheduler -> object manager. A stale attempt's results: free the extents in them."""

    writer: Address
    results: tuple[Result, ...]


class ObjectsNeeded(Fact, frozen=True, tag=83):
    """Local scheduler -> object manager. Say ObjectsLocal for each, once, when it is ready here."""

    object_ids: tuple[ObjectID, ...]


class ObjectsLocal(Fact, frozen=True, tag=84):
    """Object manager -> local scheduler. Ready on this node, with their values."""

    objects: tuple[ReadyObject, ...]


class PinsTaken(Fact, frozen=True, tag=85):
    """Local scheduler -> object manager. A task with these arguments goes to ``worker``: grant it one pin for each mention."""

    worker: Address
    object_ids: tuple[ObjectID, ...]


class ReturnsUnheld(Fact, frozen=True, tag=86):
    """Object manager -> local scheduler. A dead process's unfinished children: nobody is left who could ask for them."""

    task_ids: tuple[TaskID, ...]


class PinsRevoked(Fact, frozen=True, tag=87):
    """Local scheduler -> object manager. Tasks with these arguments will not run on ``worker`` after all."""

    worker: Address
    object_ids: tuple[ObjectID, ...]


class TaskWaits(Fact, frozen=True, tag=88):
    """Object manager -> local scheduler. TaskBlocked, without what is ready: ``count`` more of ``object_ids`` are needed.

    The scheduler hears of each by ObjectsLocal. A count of 0 or less: the task need not wait at all.
    """

    task_id: TaskID
    request: int
    object_ids: tuple[ObjectID, ...]
    count: int


class TaskWithdrawn(Fact, frozen=True, tag=89):
    """N -> H. A task that was spilled and not yet placed is over (cancelled): do not place it."""

    task_id: TaskID


#: Everything that may stand in a frame between processes, in tag order.
Message = (
    TaskSubmitted | ObjectPut | FunctionExported | HoldsTaken | HoldsReleased | PinsReturned | IDsEscaped | ObjectsWanted
    | ObjectsPolled | TaskBlocked | ResumeRequested | ExtentWanted | ExtentReturned | CancelRequested
    | ExplanationRequested | TableRequested | SessionEnding
    | TaskFinished | TaskSkipped | TasksDropped
    | ObjectsReady | ObjectsPolledReady | TaskResumed | ExtentGranted | ExtentRefused | CancelAnswered | ExplanationGiven
    | TableGiven | OutputWritten | FailureUnheard | WarningRaised | SessionEnded | SubmissionsPaused
    | RequestRefused
    | RunTasks | FunctionDelivered | TasksForgotten | StopRequested
    | TaskSpilled | TaskAssigned | TaskInfeasible | LoadReported | NodeJoined | NodeLost
    | LocationsAdded | LocationsRemoved | LocationsWanted | LocationsUnwanted | LocationsChanged | ObjectLost
    | LineageRecorded | RecipesRecorded | ObjectUnrecoverable | RecipesReleased
    | TaskDeclared | TaskRetired | ResultsRefused | ObjectsNeeded | ObjectsLocal | PinsTaken | ReturnsUnheld | PinsRevoked
    | TaskWaits | TaskWithdrawn
)  # fmt: skip
