"""The machine that places what a local scheduler could not run itself. One in a cluster, on the head.

It hears of nodes and their loads, and of tasks that were spilled. A task goes to the node that the policy chooses; where
none fits now it waits, in order, with those of its shape. One that no node could hold even when empty waits for
``config.infeasible_grace``, in case such a node is about to join, and then fails with a text that says what is missing.

Between two reports of a node its load is carried on by what was assigned to it and what of that is over, so that a burst
spreads.

It keeps the specs of what it has assigned until that is over. When the node is lost meanwhile it places the task again, as
often as the task may be retried; the result goes to the node that spilled it, through here, so that everything that was said
of the IDs inside is known here before.

Invariants: a task is either waiting here or assigned, or has been answered, exactly once, by TaskSettled or TaskInfeasible; a
waiting task that no known node could hold has a deadline.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.deadlines import Deadlines
from sundog.core.errors import InvariantViolation
from sundog.core.ids import HOST, Address, FunctionID, NodeID, ObjectID, TaskID, address, node_of
from sundog.core.machine import Action, Event, Fact, Rng
from sundog.core.placement import NodeView, PlacementPolicy, amount_of, fits
from sundog.core.resources import CPU, GPU, UNIT, Shape, describe
from sundog.core.task import FailureKind, Result, TaskSpec, failed
from sundog.core.units import Nanos

_NOBODY_HOLDS: Mapping[NodeID, int] = {}
#: Starts of a body that a lost node may have made: the next node counts from beyond them.
LOSS_SHIFT = 16
#: What goes with a message that is sent anyhow may be this many times less.
_GOES_ANYHOW = 8
_OPTION = {CPU: "num_cpus", GPU: "num_gpus"}


class Holdings(Protocol):
    """Who holds how much: the object directory of the same host, read only."""

    def bytes_held(self, object_ids: Iterable[ObjectID]) -> Mapping[NodeID, int]:
        """Return how many bytes of these objects each node holds; nodes that hold none are left out."""


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A task without a place."""

    spec: TaskSpec
    submitter: Address
    #: The host that spilled it, which is told if it cannot be placed.
    origin: Address
    starts: int = 0
    rebuild: bool = False
    #: Nodes that were lost while they had it.
    losses: int = 0


class Assigned(msgspec.Struct, gc=False):
    """A task with a node."""

    task: Waiting
    node: NodeID
    #: Lineage wants its results, although the node that waits for them is lost.
    wanted: bool = False


class _Ends(msgspec.Struct, gc=False):
    """Ends of tasks that the node which had them does not know to have been heard."""

    since: Nanos
    task_ids: dict[TaskID, None]


class _NoRng:
    """Stands where no randomness was given."""

    def randrange(self, stop: int, /) -> int:
        raise InvariantViolation("the placement policy draws, and its host was given no rng")


class GlobalScheduler:
    """See the module. ``here`` is the host that runs it.

    ``rng`` is for policies that draw; ``holdings`` may be left out where placement need not know about objects.
    """

    HEARS: tuple[type[Fact], ...] = (
        msg.TaskSpilled, msg.TaskWithdrawn, msg.TaskEnded, msg.LoadReported, msg.FunctionExported, msg.NodeJoined, msg.NodeLost,
    )  # fmt: skip

    def __init__(
        self, config: Config, here: Address, policy: PlacementPolicy, rng: Rng | None, holdings: Holdings | None = None
    ) -> None:
        self._config = config
        self.here = here
        self._policy = policy
        self._rng: Rng = rng if rng is not None else _NoRng()
        #: Another one once the directory has died and begun anew.
        self.holdings = holdings
        self.nodes: dict[NodeID, NodeView] = {}
        #: What waits for a place, by shape, each in order of arrival. Never an empty dict inside.
        self.waiting: dict[Shape, OrderedDict[TaskID, Waiting]] = {}
        self._shapes: dict[TaskID, Shape] = {}
        #: What is with a node, until it is over; and how much each has.
        self.assigned: dict[TaskID, Assigned] = {}
        self._with: dict[NodeID, int] = {}
        #: How many tasks each node has handed up, and been given, since it is known.
        self.spilled: dict[NodeID, int] = {}
        self.placed: dict[NodeID, int] = {}
        #: Functions, and which node has been given which.
        self._functions: dict[FunctionID, msg.FunctionExported] = {}
        self._told: dict[NodeID, dict[FunctionID, None]] = {}
        #: Functions in the order in which they were exported, and how many of them each node has been told of.
        self._exports: list[msg.FunctionExported] = []
        self._introduced: dict[NodeID, int] = {}
        #: Ends of which the nodes do not know yet that they were heard: see ``_acknowledge_ends``.
        self._heard: dict[NodeID, _Ends] = {}
        self._lost: dict[NodeID, None] = {}
        #: Nodes that have not measured how long tasks last, and about the longest mean of those that have; 0: none has.
        self._unmeasured: dict[NodeID, None] = {}
        self._mean: Nanos = 0
        self._actions: list[Action] = []
        self._now: Nanos = 0
        #: When a task that no node could hold fails.
        self._graces: Deadlines[TaskID] = Deadlines()
        #: Shapes to try in this step, with what arrived in it; all of them once a node has changed.
        self._arrived: dict[Shape, list[TaskID]] = {}
        self._nodes_changed = False
        #: Whether a known node could hold a shape; forgotten when nodes come or go. And shapes whose waiting tasks have deadlines.
        self._could_fit: dict[Shape, bool] = {}
        self._hopeless: dict[Shape, None] = {}
        self._handlers: dict[type, Callable[[Address, Any], None]] = {
            msg.TaskSpilled: self._on_task_spilled,
            msg.TaskWithdrawn: self._on_task_withdrawn,
            msg.TaskEnded: self._on_task_ended,
            msg.LoadReported: self._on_load_reported,
            msg.FunctionExported: self._on_function_exported,
            msg.NodeJoined: self._on_node_joined,
            msg.NodeLost: self._on_node_lost,
        }

    # -- the door

    def step(self, now: Nanos, events: Iterable[Event]) -> list[Action]:
        """See ``machine.Machine``."""
        return self.record(now, events) + self.decide(now)

    def record(self, now: Nanos, events: Iterable[Event]) -> list[Action]:
        """See ``machine.Decider``."""
        self._now = now
        handlers = self._handlers
        for sender, fact in events:
            handlers[type(fact)](sender, fact)
        actions = self._actions
        if actions:
            self._actions = []
        return actions

    def decide(self, now: Nanos) -> list[Action]:
        """See ``machine.Decider``."""
        actions: list[Action] = []
        if self.waiting:
            for shape in list(self.waiting if self._nodes_changed else self._arrived):
                self._place(shape, now, actions)
        if self._arrived:
            self._arrived = {}
        self._nodes_changed = False
        if self._hopeless:
            for task_id in self._graces.pop_due(now):
                task = self._remove(task_id)
                message = infeasible_message(task.spec, self.nodes.values())
                actions.append(Send(task.origin, msg.TaskInfeasible(task_id, message)))
        return actions

    @property
    def recovering(self) -> bool:
        """Whether it has begun anew, and does not know everything yet."""
        return False

    def next_deadline(self) -> Nanos | None:
        """See ``machine.Machine``."""
        return self._graces.next() if self._hopeless else None

    def check_invariants(self) -> None:
        """See ``machine.Machine``."""
        for shape, tasks in self.waiting.items():
            if not tasks:
                raise InvariantViolation(f"an empty queue for {describe(shape)}")
            feasible = self._feasible(shape)
            for task_id in tasks:
                if task_id in self._graces and shape not in self._hopeless:
                    raise InvariantViolation(f"task {task_id.hex()} has a deadline, and its shape is not hopeless")
                if feasible == (task_id in self._graces):
                    raise InvariantViolation(f"task {task_id.hex()}: feasible {feasible}, and has a deadline or not")
        if sum(len(tasks) for tasks in self.waiting.values()) != len(self._shapes):
            raise InvariantViolation("the index of waiting tasks is not that of the queues")

    # -- facts

    def _on_task_spilled(self, sender: Address, fact: msg.TaskSpilled) -> None:
        spec = fact.spec
        if spec.task_id in self._shapes:
            return  # spilled again by one that did not know: it waits already
        assigned = self.assigned.get(spec.task_id)
        if assigned is not None:
            assigned.wanted = assigned.wanted or fact.rebuild
            return
        node = node_of(sender)
        self.spilled[node] = self.spilled.get(node, 0) + 1
        self._wait(Waiting(spec, fact.submitter, sender, fact.starts, fact.rebuild))

    def _wait(self, task: Waiting) -> None:
        spec = task.spec
        task_id, shape = spec.task_id, spec.resources
        tasks = self.waiting.get(shape)
        if tasks is None:
            tasks = self.waiting[shape] = OrderedDict()
        tasks[task_id] = task
        self._shapes[task_id] = shape
        arrived = self._arrived.get(shape)
        if arrived is None:
            self._arrived[shape] = [task_id]
        else:
            arrived.append(task_id)

    def _on_task_withdrawn(self, sender: Address, fact: msg.TaskWithdrawn) -> None:
        assigned = self.assigned.get(fact.task_id)
        if fact.task_id in self._shapes:
            self._remove(fact.task_id)
        elif assigned is not None and assigned.node not in (node_of(assigned.task.origin), node_of(self.here)):
            self._actions.append(Send(address(assigned.node, HOST), fact))

    def _on_task_ended(self, sender: Address, fact: msg.TaskEnded) -> None:
        """Free what is counted for it, tell the directory of what stays there, and the one that waits of the rest."""
        node, task_id = fact.node, fact.task_id
        assigned = self.assigned.get(task_id)
        if assigned is None or assigned.task.rebuild or node_of(assigned.task.origin) != node:  # a node keeps no ends of its own
            ends = self._heard.get(node)
            if ends is None:
                ends = self._heard[node] = _Ends(self._now, {})
            ends.task_ids[task_id] = None
        if assigned is None or assigned.node != node:
            self._announce(fact)  # nobody waits: the copies that nobody holds go
            return
        task = self.assigned.pop(task_id).task
        self._unassign(node, task.spec.resources)
        origin = node_of(task.origin)
        if task.rebuild:
            self._announce(fact)
        elif origin == node:
            return
        elif origin not in self._lost:
            kept: tuple[ObjectID, ...] = ()
            if fact.kept:
                kept = tuple([object_id for object_id, _ in fact.kept])
                self._actions.append(Send(self.here, msg.RecipesRecorded(0, (task.spec,), kept)))
                self._actions.append(Send(self.here, msg.NodeHolds(origin, kept)))
                self._announce(fact)
            self._actions.append(Send(task.origin, msg.TaskSettled(task_id, fact.results, kept)))
        else:
            self._announce(fact)
            if assigned.wanted and len(fact.kept) < task.spec.return_count:
                self._again(msgspec.structs.replace(task, rebuild=True))

    def _announce(self, fact: msg.TaskEnded) -> None:
        if fact.kept:
            self._actions.append(Send(self.here, msg.LocationsAdded(fact.node, fact.kept)))

    def _acknowledge_ends(self, node: NodeID, actions: list[Action]) -> None:
        """The node need not keep them any longer. Not at once: each would be a message and a turn of the node's for itself."""
        actions.append(Send(address(node, HOST), msg.EndsHeard(tuple(self._heard.pop(node).task_ids))))

    def _on_function_exported(self, sender: Address, fact: msg.FunctionExported) -> None:
        if fact.function_id not in self._functions:
            self._functions[fact.function_id] = fact
            self._exports.append(fact)
        self._told.setdefault(node_of(sender), {})[fact.function_id] = None

    def _on_load_reported(self, sender: Address, fact: msg.LoadReported) -> None:
        node, queued, mean = fact.node, fact.queued, fact.mean
        known = self.nodes.get(node)
        if known is not None:
            given = self._with.get(node, 0)
            if given > queued:  # what is on its way to the node is not in its report
                queued = max(queued, given - amount_of(CPU, known.capacity) // UNIT)
            if not mean:
                mean = self._mean
            elif self._unmeasured or mean >= 2 * self._mean:
                self._learn(node, mean)
            if queued != known.queued or mean != known.mean or fact.free != known.free:
                self._set_node(NodeView(node, known.capacity, fact.free, queued, mean))
            else:
                self._nodes_changed = True  # for a policy that draws
        if node in self._heard:
            ends, config = self._heard[node], self._config
            if self._now - ends.since >= config.ends_heard_after or len(ends.task_ids) >= config.ends_heard_max:
                self._acknowledge_ends(node, self._actions)

    def _learn(self, measured: NodeID, mean: Nanos) -> None:
        """Nodes that have measured nothing pass for the slowest that has: else they would seem quicker, and get everything at once.

        Only upwards, so that there are few such changes; what has a free CPU is given a task anyhow, and measures it.
        """
        self._unmeasured.pop(measured, None)
        if mean < 2 * self._mean:
            return
        self._mean = mean
        for node in self._unmeasured:
            view = self.nodes[node]
            self._set_node(NodeView(node, view.capacity, view.free, view.queued, mean))

    def _on_node_joined(self, sender: Address, fact: msg.NodeJoined) -> None:
        self._could_fit = {}
        self._unmeasured[fact.node] = None
        self._set_node(NodeView(fact.node, fact.capacity, fact.capacity, 0, self._mean))

    def _on_node_lost(self, sender: Address, fact: msg.NodeLost) -> None:
        if self.nodes.pop(fact.node, None) is not None:
            self._policy.node_lost(fact.node)
            self._could_fit = {}
            self._nodes_changed = True
        self._with.pop(fact.node, None)
        self._told.pop(fact.node, None)
        self._unmeasured.pop(fact.node, None)
        self._introduced.pop(fact.node, None)
        self._heard.pop(fact.node, None)
        self._lost[fact.node] = None
        for task_id in [t for t, shape in self._shapes.items() if self._is_orphan(self.waiting[shape][t])]:
            self._remove(task_id)
        for assigned in [each for each in self.assigned.values() if each.node == fact.node]:
            del self.assigned[assigned.task.spec.task_id]
            if assigned.wanted or not self._is_orphan(assigned.task):
                self._place_again(assigned, fact.node)

    def _is_orphan(self, task: Waiting) -> bool:
        """Tell whether nobody waits for the task any more."""
        return node_of(task.origin) in self._lost and not task.rebuild

    def _place_again(self, assigned: Assigned, node: NodeID) -> None:
        """The node that had the task is gone: place it again, if it may run again."""
        task, spec = assigned.task, assigned.task.spec
        if task.losses < spec.retries_max:
            rebuild = task.rebuild or node_of(task.origin) in self._lost
            self._again(msgspec.structs.replace(task, rebuild=rebuild))
            return
        text = f"node {node}, which had {spec.name}, was lost (max_retries={spec.retries_max}, lost {task.losses + 1} times)"
        if task.rebuild:
            self._actions.append(Send(task.origin, msg.TaskInfeasible(spec.task_id, text)))
        else:
            result = Result(failed(FailureKind.WORKER_CRASHED, text))
            self._actions.append(Send(task.origin, msg.TaskSettled(spec.task_id, (result,))))

    def _again(self, task: Waiting) -> None:
        starts = task.starts + (1 << LOSS_SHIFT)
        self._wait(msgspec.structs.replace(task, starts=starts, losses=task.losses + 1))

    def _set_node(self, view: NodeView) -> None:
        self.nodes[view.node] = view
        self._policy.node_changed(view)
        self._nodes_changed = True

    # -- decisions

    def _place(self, shape: Shape, now: Nanos, actions: list[Action]) -> None:
        """Place what waits with ``shape``, oldest first, until one finds no node; see to the deadlines of the rest."""
        tasks = self.waiting.get(shape)
        while tasks:
            task_id = next(iter(tasks))
            task = tasks[task_id]
            spec = task.spec
            holders = _NOBODY_HOLDS
            if self.holdings is not None and spec.dependencies:
                holders = self.holdings.bytes_held(spec.dependencies)
            node = self._policy.choose(spec, holders, self._rng)
            if node is None:
                break
            self._remove(task_id)
            self._assign(node, shape)
            self.assigned[task_id] = Assigned(task, node)
            self._introduce(node, actions)
            if node in self._heard:
                ends = self._heard[node].task_ids
                if task.starts:
                    ends.pop(task_id, None)  # it will end there once more, and that has not been heard
                if len(ends) >= self._config.ends_heard_max // _GOES_ANYHOW:
                    self._acknowledge_ends(node, actions)
            actions.append(Send(address(node, HOST), msg.TaskAssigned(spec, task.submitter, task.starts, task.rebuild)))
        if tasks:
            self._see_to_graces(shape, tasks, now)

    def _see_to_graces(self, shape: Shape, tasks: Iterable[TaskID], now: Nanos) -> None:
        """These find no node. They have deadlines exactly while no known node could hold them; looks only at what is new."""
        feasible = self._could_fit.get(shape)
        if feasible is None:
            feasible = self._could_fit[shape] = self._feasible(shape)
        if feasible:
            if shape in self._hopeless:
                del self._hopeless[shape]
                for task_id in tasks:
                    self._graces.cancel(task_id)
            return
        if shape in self._hopeless:
            tasks = [task_id for task_id in self._arrived.get(shape, ()) if task_id in self._shapes]
        self._hopeless[shape] = None
        for task_id in tasks:
            if task_id not in self._graces:
                self._graces.set(task_id, now + self._config.infeasible_grace)

    def _introduce(self, node: NodeID, actions: list[Action]) -> None:
        """See that the node has every function so far: that of a task may call others, which it names and does not bring."""
        known = self._introduced.get(node, 0)
        if known == len(self._exports):
            return
        self._introduced[node] = len(self._exports)
        told = self._told.setdefault(node, {})
        for function in self._exports[known:]:
            if function.function_id not in told:
                told[function.function_id] = None
                actions.append(Send(address(node, HOST), function))

    def _assign(self, node: NodeID, shape: Shape) -> None:
        """Carry the node's load on by one task."""
        self._with[node] = self._with.get(node, 0) + 1
        self.placed[node] = self.placed.get(node, 0) + 1
        known = self.nodes[node]
        if fits(shape, known.free):
            free = tuple([(name, amount - amount_of(name, shape)) for name, amount in known.free])
            view = NodeView(node, known.capacity, free, known.queued, known.mean)
        else:
            view = NodeView(node, known.capacity, known.free, known.queued + 1, known.mean)
        self.nodes[node] = view
        self._policy.node_changed(view)

    def _unassign(self, node: NodeID, shape: Shape) -> None:
        """One task of the node is over."""
        self._with[node] -= 1
        known = self.nodes[node]
        if known.queued:
            view = NodeView(node, known.capacity, known.free, known.queued - 1, known.mean)
        else:
            free = tuple([(n, min(amount_of(n, known.capacity), have + amount_of(n, shape))) for n, have in known.free])
            view = NodeView(node, known.capacity, free, 0, known.mean)
        self._set_node(view)

    def _remove(self, task_id: TaskID) -> Waiting:
        shape = self._shapes.pop(task_id)
        tasks = self.waiting[shape]
        task = tasks.pop(task_id)
        if self._hopeless:
            self._graces.cancel(task_id)
        if not tasks:
            del self.waiting[shape]
            self._hopeless.pop(shape, None)
        return task

    def _feasible(self, shape: Shape) -> bool:
        return any(fits(shape, view.capacity) for view in self.nodes.values())


def infeasible_message(spec: TaskSpec, nodes: Iterable[NodeView]) -> str:
    """Return why none of ``nodes`` can ever run the task: what it needs, the nearest node, and what to do."""
    needs = f"task {spec.name} needs {describe(spec.resources)}"
    nearest: tuple[int, int, NodeView] | None = None
    for view in nodes:
        missing = _missing(spec.resources, view.capacity)
        candidate = (len(missing), view.node, view)
        if nearest is None or candidate[:2] < nearest[:2]:
            nearest = candidate
    if nearest is None:
        return f"{needs}, and no node has joined the session yet. Start a node."
    view = nearest[2]
    capacity = dict(view.capacity)
    missing = _missing(spec.resources, view.capacity)
    has = ", ".join(f"{capacity.get(name, 0) / UNIT:g} of {amount / UNIT:g} {name}" for name, amount in missing)
    more = ", ".join(_as_option(name, amount) for name, amount in missing)
    less = ", ".join(_as_option(name, capacity.get(name, 0)) for name, _ in missing)
    return (
        f"{needs}; no node has it: the nearest, node {view.node}, has {has} (all it has: {describe(view.capacity)}). "
        f"Start a node with more, as by sundog.init({more}), or ask for less, as by .options({less})."
    )


def _missing(wanted: Shape, capacity: Shape) -> Shape:
    """Return the part of ``wanted`` that ``capacity`` cannot hold."""
    amounts = dict(capacity)
    return tuple([pair for pair in wanted if amounts.get(pair[0], 0) < pair[1]])


def _as_option(name: str, amount: int) -> str:
    option = _OPTION.get(name)
    value = f"{amount / UNIT:g}"
    return f"{option}={value}" if option else f'resources={{"{name}": {value}}}'
