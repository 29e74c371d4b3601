"""A driver without a program: it submits what a workload says, when it says so, and lets go of what it mentions no more.

It learns of nothing but failures. Its client machine is that of any driver.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from simpy.events import Event as SimEvent

from sundog.backends.simulated.costs.written_pages import WrittenPages
from sundog.backends.simulated.faults.occurrences import Occurrence
from sundog.backends.simulated.workloads.workload import PUT, WorkTask
from sundog.core import actions as act
from sundog.core import messages as msg
from sundog.core.client import Client
from sundog.core.events import Asked, ReferenceDropped
from sundog.core.ids import DRIVER, LOOP, Address, IdSequence, ObjectID, address, return_ids, root_task_id
from sundog.core.machine import Event, Fact
from sundog.core.units import MICROSECOND, Nanos

if TYPE_CHECKING:
    from sundog.backends.simulated.experiment.bare_node import BareNode
    from sundog.backends.simulated.experiment.experiment import Experiment

#: Where submitting takes time, what is submitted within this time travels together, as what real drivers submit does.
SUBMITTED_FOR: Nanos = 100 * MICROSECOND
#: Tasks submitted in one go, so that a million at one time do not stand in one queue.
BATCH = 256


class Submitter:
    """See the module. ``order``: the tasks that it submits, in that order."""

    def __init__(self, experiment: Experiment, node: BareNode, order: array[int]) -> None:
        self.experiment = experiment
        self.node = node
        self.loop = node.loop
        self.where = address(node.number, DRIVER)
        self.order = order
        self.client = Client(node.config, self.where, node.where, worker=False)
        self._names = IdSequence(root_task_id(experiment.plan.seed + b" driver %d" % node.number), 1, 0)
        self._next = 0
        self._facts: list[Event] = []
        self._paused = False
        self._due = False
        #: What was submitted travels with the next turn.
        self._leaving = False
        self._plan = experiment.plan
        self._tasks = experiment.plan.tasks
        self._environment = self.loop.environment
        #: The extent that a put waits for: (task, where it lies once that is known).
        self._putting: tuple[int, int] | None = None
        self._pages = WrittenPages()
        self._performers: dict[type, Callable[[Any], None]] = {
            act.ResolveQuestion: self._granted,
            act.RejectRequest: lambda action: experiment.failed(f"a put: {action.failure.message}"),
            act.ShowOutput: self._shown,
            act.PauseSubmissions: self._pause,
            act.CloseClient: lambda action: experiment.failed(action.reason),
        }

    def waits_for_time(self) -> bool:
        """Tell whether it will go on by itself."""
        return self._due

    def start(self) -> None:
        """Begin to submit."""
        self._turn_at(self._next_due())

    def receive(self, sender: Address, messages: list[Fact]) -> None:
        """See ``sim_loop.Process``."""
        self._step([(sender, message) for message in messages])

    # --- submitting -----------------------------------------------------------------------------------------------------

    def _next_due(self) -> Nanos | None:
        if self._next >= len(self.order) or self._paused or self._putting is not None:
            return None
        return self.experiment.began + self._tasks[self.order[self._next]].submitted_at

    def _turn_at(self, when: Nanos | None) -> None:
        if when is not None and not self._due:
            self._due = True
            self.loop.call_at(max(when, self.loop.now), self._turn)

    def _turn(self, _: SimEvent) -> None:
        self._due = False
        now: Nanos = self._environment._now  # type: ignore[assignment]
        if self._leaving:
            self._leaving = False
            self._step([])
        due = self._next_due()
        if due is None or self.node.dead:
            return
        if due > now:
            self._turn_at(due)
            return
        busy = self._submit(now)
        if busy:
            self._leaving = True  # what is submitted one after the other travels together
            self._due = True
            self.loop.call_at(now + busy, self._turn)
        else:
            self._step([])
            self._turn_at(self._next_due())

    def _submit(self, now: Nanos) -> Nanos:
        """Submit what is due, and what becomes due meanwhile; return how long that takes."""
        experiment, order, tasks, plan = self.experiment, self.order, self._tasks, self._plan
        span = experiment.profile.submit
        each = experiment.profile.submit_dependency if plan.dependent else 0
        first = at = self._next
        last = min(at + (min(BATCH, -(-SUBMITTED_FOR // span)) if span else BATCH), len(order))
        began = now - experiment.began
        clock = began
        while at < last:
            index = order[at]
            one = tasks[index]
            if one.submitted_at > clock or (one.function == PUT and at > first and span):
                break
            at += 1
            experiment.measures.submitted(index, clock)
            clock += span
            if each:
                clock += each * plan.dependencies(index)
            if experiment.cluster.occurred is not None:
                experiment.cluster.occurred(Occurrence.SUBMITTED)
            if one.function != PUT:
                self._submit_task(index, one)
            else:
                self._put(index)
                if self._putting is not None:
                    break
        self._next = at
        experiment.to_submit -= at - first
        return clock - began

    def _submit_task(self, index: int, one: WorkTask) -> None:
        plan, facts = self._plan, self._facts
        if one.function not in self.node.exported:
            self.node.exported[one.function] = None
            facts.append((LOOP, plan.export(one.function)))
        fact = plan.submission(index, self._names)
        facts.append((LOOP, fact))
        if plan.dependent:
            gone: Iterable[ObjectID] = plan.let_go(index)
        else:
            gone = return_ids(fact.spec.task_id, fact.spec.return_count)
        for object_id in gone:
            facts.append((LOOP, ReferenceDropped(object_id)))

    def _put(self, index: int) -> None:
        experiment = self.experiment
        size = experiment.plan.tasks[index].outputs[0]
        experiment.measures.started(index, self.loop.now - experiment.began, self.node.number, DRIVER)
        if size > experiment.plan.inline_bytes_max:
            self._putting = (index, -1)
            self._facts.append((LOOP, Asked(index, msg.ExtentWanted(index, size))))
        else:
            self._is_put(index, -1)

    def _granted(self, action: act.ResolveQuestion) -> None:
        granted = action.answer
        assert isinstance(granted, msg.ExtentGranted)
        assert self._putting is not None
        index, _ = self._putting
        self._putting = (index, granted.offset)
        size = self.experiment.plan.tasks[index].outputs[0]
        self.experiment.busy += 1
        unmapped = self._pages.write(granted.offset, size, granted.warm)
        span = self.experiment.profile.copy_time(size, not granted.warm, unmapped)
        self.loop.call_at(self.loop.now + span, self._written)

    def _written(self, _: SimEvent) -> None:
        self.experiment.busy -= 1
        assert self._putting is not None
        (index, offset), self._putting = self._putting, None
        self._is_put(index, offset)
        self._step([])
        self._turn_at(self._next_due())

    def _is_put(self, index: int, offset: int) -> None:
        plan = self.experiment.plan
        fact = plan.put(index, self._names, offset)
        self._facts.append((LOOP, fact))
        gone = plan.let_go(index) if plan.dependent else [fact.object_id]
        self._facts += [(LOOP, ReferenceDropped(object_id)) for object_id in gone]
        self.experiment.finished(index)

    # --- the client machine ---------------------------------------------------------------------------------------------

    def _step(self, events: list[Event]) -> None:
        facts, self._facts = self._facts, []
        events += facts
        if not events:
            return
        now: Nanos = self._environment._now  # type: ignore[assignment]
        actions = self.client.step(now, events)
        if self.node.log.wanted:
            self.node.log.client_turn(now, self.where, events, actions)
        outgoing: list[Fact] = []
        for action in actions:
            if type(action) is act.Send:
                outgoing.append(action.message)
            else:
                self._performers[type(action)](action)
        if outgoing:
            self.node.send(self.where, self.node.where, outgoing)

    def _pause(self, action: act.PauseSubmissions) -> None:
        self._paused = action.paused
        self._turn_at(self._next_due())

    def _shown(self, action: act.ShowOutput) -> None:
        message = action.message
        if isinstance(message, msg.FailureUnheard):
            failure = message.value.failure
            trail = "".join([f", needed by {name}" for name in reversed(message.value.trail)])
            self.experiment.failed(f"{message.name}: {failure.message if failure is not None else 'it failed'}{trail}")
