"""The other half of the wire vocabulary: what hosts tell each other, and what machines of one host tell each other.

N is a node's host, H the head's. ``messages`` gathers these with the rest; the rules there hold here.
"""

from __future__ import annotations

from sundog.core.ids import Address, NodeID, ObjectID, TaskID
from sundog.core.machine import Fact
from sundog.core.resources import Shape
from sundog.core.task import ReadyObject, Result, TaskSpec, Value
from sundog.core.units import Nanos


class TaskSpilled(Fact, frozen=True, tag=60):
    """N -> H. The local scheduler cannot run it: place it. ``submitter`` is the process that submitted it."""

    spec: TaskSpec
    submitter: Address
    #: Starts of its body so far: what a further one creates is named after a higher number.
    starts: int = 0
    #: Lineage asks: it has been over once, and what it returned was lost. Nobody waits for it to be settled.
    rebuild: bool = False


class TaskAssigned(Fact, frozen=True, tag=61):
    """H -> N. Run it here."""

    spec: TaskSpec
    submitter: Address
    starts: int = 0
    rebuild: bool = False


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
    """N -> H, and to the node's own machines: ``node`` has ``capacity`` and may be given tasks."""

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
    #: The returns that leave the node now; None: all returns of ``specs``. The rest is only needed to make these.
    leaving: tuple[ObjectID, ...] | None = None


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
    rebuild: bool = False


class TaskRetired(Fact, frozen=True, tag=81):
    """Local scheduler -> object manager. The task is over: seal its returns, then let its arguments go."""

    spec: TaskSpec
    results: tuple[Result, ...]
    #: Who wrote the extents among the results.
    writer: Address


class TasksRetired(Fact, frozen=True, tag=99):
    """Local scheduler -> object manager. Several tasks that one step retired, in order."""

    tasks: tuple[TaskRetired, ...]


class ValuesReturned(Fact, frozen=True, tag=128):
    """Local scheduler -> object manager. A lot (``lots``) of tasks that are over, each with one inline value without IDs."""

    task_ids: tuple[TaskID, ...]
    values: tuple[Value, ...]
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
    #: The values are needed here; else it is enough that they are somewhere.
    deliver: bool = False


class TaskWithdrawn(Fact, frozen=True, tag=89):
    """N -> H. A task that was spilled is over (cancelled): do not place it. H -> N: do not start it."""

    task_id: TaskID


class NodeHolds(Fact, frozen=True, tag=90):
    """N -> H. References to these IDs, which have been on several nodes, exist on ``node``. Those ``made_here`` are not sealed
    yet, and will be by that node."""

    node: NodeID
    object_ids: tuple[ObjectID, ...]
    made_here: tuple[ObjectID, ...] = ()


class NodeReleases(Fact, frozen=True, tag=91):
    """N -> H. No reference to these is left on ``node``, except those that the directory itself has (see ObjectsReleased)."""

    node: NodeID
    object_ids: tuple[ObjectID, ...]


class ObjectsReleased(Fact, frozen=True, tag=92):
    """H -> N. No node has references to these any more: their copies may go."""

    object_ids: tuple[ObjectID, ...]


class TaskEnded(Fact, frozen=True, tag=93):
    """N -> H. A task that was assigned to ``node`` is over there. Empty ``results``: its submitter is on that node.

    Small results travel along. Those ``kept``, with sizes in bytes, have a copy on ``node``.
    """

    task_id: TaskID
    node: NodeID
    results: tuple[Result, ...] = ()
    kept: tuple[tuple[ObjectID, int], ...] = ()


class TaskSettled(Fact, frozen=True, tag=94):
    """H -> N (the one that spilled it). The task is over elsewhere; the directory counts the receiver among the holders of
    those ``kept`` there. Large results are REMOTE."""

    task_id: TaskID
    results: tuple[Result, ...]
    kept: tuple[ObjectID, ...] = ()


class TaskLeaving(Fact, frozen=True, tag=95):
    """Local scheduler -> object manager. Tell the head what it must know of the task's IDs, then spill the task."""

    spec: TaskSpec
    submitter: Address
    starts: int = 0


class ObjectsElsewhere(Fact, frozen=True, tag=96):
    """Object manager -> local scheduler. These are ready on other nodes, with sizes in bytes; ObjectsNeeded brings them."""

    objects: tuple[tuple[ObjectID, int], ...]


class FetchRequested(Fact, frozen=True, tag=97):
    """N -> N. The sender wants a copy. Answered by FetchAnswered, with a grant if it lies in the arena: PinsReturned ends it."""

    object_id: ObjectID
    attempt: int


class FetchAnswered(Fact, frozen=True, tag=98):
    """N -> N. The value: inline, or where in the *sender's* arena it lies; None if it is not there."""

    object_id: ObjectID
    attempt: int
    value: Value | None = None
    contained: tuple[ObjectID, ...] = ()


class ServiceRestarted(Fact, frozen=True, tag=120):
    """H -> N. A service of the head (``recovery.Service``) has begun anew and knows nothing: tell it what it must know.

    It decides nothing before every live node has told it. What a node said before is void.
    """

    service: int
    #: Counts the lives of the service, from 0; told back with the answer.
    incarnation: int


class TasksListed(Fact, frozen=True, tag=121):
    """Local scheduler -> object manager, for TasksResent: all that has been spilled here and is not settled, and all tasks of
    other nodes that are here."""

    incarnation: int
    spilled: tuple[TaskSpilled, ...]
    assigned: tuple[TaskAssigned, ...]


class TasksResent(Fact, frozen=True, tag=122):
    """N -> H (to a global scheduler that has begun anew). What ``node`` has given away and not got back, what it has been
    assigned, and of that what is over there as far as nobody has said that it was heard."""

    node: NodeID
    incarnation: int
    spilled: tuple[TaskSpilled, ...]
    assigned: tuple[TaskAssigned, ...]
    ended: tuple[TaskEnded, ...]


class ReferencesResent(Fact, frozen=True, tag=123):
    """N -> H (to a directory that has begun anew). What ``node`` has said of shared objects, as it is now: what it holds, what
    it is to seal, its copies with sizes in bytes, and whose whereabouts it wants to know."""

    node: NodeID
    incarnation: int
    held: tuple[ObjectID, ...]
    made_here: tuple[ObjectID, ...]
    copies: tuple[tuple[ObjectID, int], ...]
    wanted: tuple[ObjectID, ...]


class EndsHeard(Fact, frozen=True, tag=124):
    """H -> N. The TaskEnded of these have been heard: they need not be sent again."""

    task_ids: tuple[TaskID, ...]


class ServiceRecovered(Fact, frozen=True, tag=125):
    """H -> H. A service that had begun anew knows everything again."""

    service: int


class ObjectsKnown(Fact, frozen=True, tag=126):
    """H -> H (directory to lineage). These are all that anybody holds: the recipes of others may go."""

    object_ids: tuple[ObjectID, ...]


class NodeSilent(Fact, frozen=True, tag=127):
    """H -> H (to membership). ``node`` beats, but does not answer a service that has begun anew: without it nothing goes on."""

    node: NodeID
