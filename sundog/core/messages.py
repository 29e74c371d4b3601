"""The wire vocabulary: facts that travel between processes, as msgpack arrays ``[tag, field, ...]``.

An action ``Send(to, message)`` on one side is an event ``(sender, message)`` on the other. Tags are never reused and fields
only ever appended, with defaults: a reordered field would decode silently into nonsense, so a test compares this module with
the committed schema.

Who hears what is in ``host.ROUTES`` (the host's machines), ``client.Client`` (drivers and workers) and ``executor.Executor``
(workers). Directions below: C a client (driver or worker), W a worker, N a node's host, H the head's host.
"""

from __future__ import annotations

from sundog.core.host_messages import (
    EndsHeard as EndsHeard,
)
from sundog.core.host_messages import (
    FetchAnswered as FetchAnswered,
)
from sundog.core.host_messages import (
    FetchRequested as FetchRequested,
)
from sundog.core.host_messages import (
    LineageRecorded as LineageRecorded,
)
from sundog.core.host_messages import (
    LoadReported as LoadReported,
)
from sundog.core.host_messages import (
    LocationsAdded as LocationsAdded,
)
from sundog.core.host_messages import (
    LocationsChanged as LocationsChanged,
)
from sundog.core.host_messages import (
    LocationsRemoved as LocationsRemoved,
)
from sundog.core.host_messages import (
    LocationsUnwanted as LocationsUnwanted,
)
from sundog.core.host_messages import (
    LocationsWanted as LocationsWanted,
)
from sundog.core.host_messages import (
    NodeHolds as NodeHolds,
)
from sundog.core.host_messages import (
    NodeJoined as NodeJoined,
)
from sundog.core.host_messages import (
    NodeLost as NodeLost,
)
from sundog.core.host_messages import (
    NodeReleases as NodeReleases,
)
from sundog.core.host_messages import (
    NodeSilent as NodeSilent,
)
from sundog.core.host_messages import (
    ObjectLost as ObjectLost,
)
from sundog.core.host_messages import (
    ObjectsElsewhere as ObjectsElsewhere,
)
from sundog.core.host_messages import (
    ObjectsKnown as ObjectsKnown,
)
from sundog.core.host_messages import (
    ObjectsLocal as ObjectsLocal,
)
from sundog.core.host_messages import (
    ObjectsNeeded as ObjectsNeeded,
)
from sundog.core.host_messages import (
    ObjectsReleased as ObjectsReleased,
)
from sundog.core.host_messages import (
    ObjectUnrecoverable as ObjectUnrecoverable,
)
from sundog.core.host_messages import (
    PinsRevoked as PinsRevoked,
)
from sundog.core.host_messages import (
    PinsTaken as PinsTaken,
)
from sundog.core.host_messages import (
    RecipesRecorded as RecipesRecorded,
)
from sundog.core.host_messages import (
    RecipesReleased as RecipesReleased,
)
from sundog.core.host_messages import (
    ReferencesResent as ReferencesResent,
)
from sundog.core.host_messages import (
    ResultsRefused as ResultsRefused,
)
from sundog.core.host_messages import (
    ReturnsUnheld as ReturnsUnheld,
)
from sundog.core.host_messages import (
    ServiceRecovered as ServiceRecovered,
)
from sundog.core.host_messages import (
    ServiceRestarted as ServiceRestarted,
)
from sundog.core.host_messages import (
    TaskAssigned as TaskAssigned,
)
from sundog.core.host_messages import (
    TaskDeclared as TaskDeclared,
)
from sundog.core.host_messages import (
    TaskEnded as TaskEnded,
)
from sundog.core.host_messages import (
    TaskInfeasible as TaskInfeasible,
)
from sundog.core.host_messages import (
    TaskLeaving as TaskLeaving,
)
from sundog.core.host_messages import (
    TaskRetired as TaskRetired,
)
from sundog.core.host_messages import (
    TaskSettled as TaskSettled,
)
from sundog.core.host_messages import (
    TasksListed as TasksListed,
)
from sundog.core.host_messages import (
    TaskSpilled as TaskSpilled,
)
from sundog.core.host_messages import (
    TasksResent as TasksResent,
)
from sundog.core.host_messages import (
    TasksRetired as TasksRetired,
)
from sundog.core.host_messages import (
    TaskWaits as TaskWaits,
)
from sundog.core.host_messages import (
    TaskWithdrawn as TaskWithdrawn,
)
from sundog.core.host_messages import (
    ValuesReturned as ValuesReturned,
)
from sundog.core.ids import FunctionID, ObjectID, TaskID
from sundog.core.machine import Fact
from sundog.core.task import ReadyObject as ReadyObject
from sundog.core.task import Result as Result
from sundog.core.task import RunTask as RunTask
from sundog.core.task import TaskSpec, Value
from sundog.core.units import Nanos

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
    #: Who wants these waits for all of them: that some of them are ready can be told later.
    patient: bool = False


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
    #: It is a get: the values have to come to this node.
    deliver: bool = False


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


class TasksSubmitted(Fact, frozen=True, tag=18):
    """C -> N. A lot (``lots``): as TaskSubmitted for each of ``task_ids``. They are like the first, ``spec``, in all but their
    names and arguments; they have one return each, no dependencies, and their arguments are inline."""

    spec: TaskSpec
    task_ids: tuple[TaskID, ...]
    #: Those of each; none if they all have those of the first.
    arguments: tuple[Value, ...] = ()


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


class TasksFinished(Fact, frozen=True, tag=23):
    """W -> N. A lot (``lots``): as TaskFinished for each of ``task_ids``, which have each given one inline value without IDs."""

    task_ids: tuple[TaskID, ...]
    attempts: tuple[int, ...]
    values: tuple[Value, ...]
    durations: tuple[Nanos, ...]


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
    #: It all comes down to tasks that are themselves blocked, whose own waits explain more.
    blocked: bool = False


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


#: Everything that may stand in a frame between processes, in tag order.
Message = (
    TaskSubmitted | ObjectPut | FunctionExported | HoldsTaken | HoldsReleased | PinsReturned | IDsEscaped | ObjectsWanted
    | ObjectsPolled | TaskBlocked | ResumeRequested | ExtentWanted | ExtentReturned | CancelRequested
    | ExplanationRequested | TableRequested | SessionEnding | TasksSubmitted
    | TaskFinished | TaskSkipped | TasksDropped | TasksFinished
    | ObjectsReady | ObjectsPolledReady | TaskResumed | ExtentGranted | ExtentRefused | CancelAnswered | ExplanationGiven
    | TableGiven | OutputWritten | FailureUnheard | WarningRaised | SessionEnded | SubmissionsPaused
    | RequestRefused
    | RunTasks | FunctionDelivered | TasksForgotten | StopRequested
    | TaskSpilled | TaskAssigned | TaskInfeasible | LoadReported | NodeJoined | NodeLost
    | LocationsAdded | LocationsRemoved | LocationsWanted | LocationsUnwanted | LocationsChanged | ObjectLost
    | LineageRecorded | RecipesRecorded | ObjectUnrecoverable | RecipesReleased
    | TaskDeclared | TaskRetired | ResultsRefused | ObjectsNeeded | ObjectsLocal | PinsTaken | ReturnsUnheld | PinsRevoked
    | TaskWaits | TaskWithdrawn
    | NodeHolds | NodeReleases | ObjectsReleased | TaskEnded | TaskSettled | TaskLeaving | ObjectsElsewhere
    | FetchRequested | FetchAnswered | TasksRetired | ValuesReturned
    | ServiceRestarted | TasksListed | TasksResent | ReferencesResent | EndsHeard | ServiceRecovered | ObjectsKnown | NodeSilent
)  # fmt: skip
