"""A global scheduler that begins anew where another has died, and what it has to find out first.

Nodes tell (``TasksResent``) which tasks they have given away and not got back, which of others they have, and which of these are
over, as far as no scheduler has said that it heard of it. A task is placed again if nobody has it. Messages that the dead one
sent have arrived before its successor's question, and what it had not heard is told again, so nothing runs twice, unless a node
was lost while no scheduler was whole: then a task that nobody has may have been there. It counts as lost with that node once, as
if the scheduler had seen it: one that may not run again fails.

How many nodes a waiting task has been lost with before is not known any more: that count begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.global_scheduler import LOSS_SHIFT, Assigned, GlobalScheduler, Holdings, Waiting
from sundog.core.ids import HOST, Address, NodeID, TaskID, address, node_of
from sundog.core.machine import Action, Event, Rng
from sundog.core.placement import PlacementPolicy
from sundog.core.recovery import Recovery, Service, first_start
from sundog.core.task import FailureKind, Result, failed
from sundog.core.units import Nanos

_LOSSES = 256


class RestartedScheduler(GlobalScheduler):
    """See the module. ``node_was_lost``: since a scheduler was last whole."""

    HEARS = (*GlobalScheduler.HEARS, msg.TasksResent)

    def __init__(
        self,
        config: Config,
        here: Address,
        policy: PlacementPolicy,
        rng: Rng | None,
        holdings: Holdings | None,
        recovery: Recovery,
        *,
        node_was_lost: bool,
    ) -> None:
        super().__init__(config, here, policy, rng, holdings)
        self._recovery = recovery
        self._node_was_lost = node_was_lost
        self._recovering = True
        #: Of this recovery: tasks that were settled, and those that are known from nothing but a node's answer.
        self._settled: dict[TaskID, None] = {}
        self._resent: dict[TaskID, None] = {}
        self._handlers |= {msg.TasksResent: self._on_tasks_resent}

    # -- the door

    def record(self, now: Nanos, events: Iterable[Event]) -> list[Action]:
        """See ``machine.Decider``. That a task is over means nothing before it is known whose it was; its node tells again."""
        if self._recovering:
            awaits = self._recovery.awaits
            # One by one: its answer and what follows may come together.
            events = (event for event in events if type(event[1]) is not msg.TaskEnded or not awaits(node_of(event[0])))
        return super().record(now, events)

    def decide(self, now: Nanos) -> list[Action]:
        """See ``machine.Decider``: nothing, before everything is known."""
        if self._recovery:
            return [Send(self.here, msg.NodeSilent(node)) for node in self._recovery.silent(now)]
        if not self._recovering:
            return super().decide(now)
        self._recovering = False
        self._recover()
        actions, self._actions = self._actions, []
        return actions + super().decide(now)

    @property
    def recovering(self) -> bool:
        """See ``GlobalScheduler``."""
        return self._recovering

    def next_deadline(self) -> Nanos | None:
        """See ``machine.Machine``."""
        return self._recovery.next_deadline() if self._recovering else super().next_deadline()

    def check_invariants(self) -> None:
        """See ``machine.Machine``: what waits has no deadlines before everything is known."""
        if not self._recovering:
            super().check_invariants()

    # -- facts

    def _on_tasks_resent(self, sender: Address, fact: msg.TasksResent) -> None:
        if not self._recovery.heard(fact.node, fact.incarnation):
            return
        ended = {end.task_id: end for end in fact.ended}
        for assigned in fact.assigned:
            self._on_assigned_there(fact.node, assigned, ended.get(assigned.spec.task_id))
        for spilled in fact.spilled:
            task_id = spilled.spec.task_id
            if task_id not in self._settled and task_id not in self._shapes and task_id not in self.assigned:
                # Earlier placements may have begun it: their starts are not known here.
                starts = spilled.starts + first_start(self._recovery.incarnation)
                self._on_task_spilled(sender, msgspec.structs.replace(spilled, starts=starts))
                self._resent[task_id] = None

    def _on_assigned_there(self, node: NodeID, there: msg.TaskAssigned, ended: msg.TaskEnded | None) -> None:
        """The node has the task, or had it and it is over."""
        spec = there.spec
        task_id = spec.task_id
        rebuild: Waiting | None = None
        if task_id in self._shapes:
            self._resent.pop(task_id, None)
            waiting = self._remove(task_id)
            rebuild = waiting if waiting.rebuild else None
        origin = self.here if there.rebuild else address(node_of(there.submitter), HOST)
        losses = (there.starts >> LOSS_SHIFT) % _LOSSES
        task = Waiting(spec, there.submitter, origin, there.starts, there.rebuild, losses)
        self.assigned[task_id] = Assigned(task, node, rebuild is not None and not there.rebuild)
        self._with[node] = self._with.get(node, 0) + 1
        if ended is None:
            return
        self.assigned[task_id].wanted = False
        self._on_task_ended(address(node, HOST), ended)
        if rebuild is not None and not (there.rebuild and len(ended.kept) == spec.return_count):
            self._wait(rebuild)

    def _on_task_ended(self, sender: Address, fact: msg.TaskEnded) -> None:
        if self._recovering:
            self._settled[fact.task_id] = None
        super()._on_task_ended(sender, fact)

    def _on_node_lost(self, sender: Address, fact: msg.NodeLost) -> None:
        if self._recovery.lost(fact.node):
            self._node_was_lost = True  # for good or ill, it had not told what it has
        there = [task_id for task_id, assigned in self.assigned.items() if assigned.node == fact.node] if self._recovering else []
        super()._on_node_lost(sender, fact)
        for task_id in there:
            if task_id not in self._shapes:
                self._settled[task_id] = None

    # -- decisions

    def _recover(self) -> None:
        """Everybody has told: go on as a scheduler that was never gone."""
        resent, self._resent, self._settled = self._resent, {}, {}
        if self._node_was_lost:
            for task_id in resent:
                if task_id in self._shapes:
                    self._may_have_run(self._remove(task_id))
        self._nodes_changed = True
        self._actions.append(Send(self.here, msg.ServiceRecovered(Service.GLOBAL_SCHEDULER)))

    def _may_have_run(self, task: Waiting) -> None:
        """Nobody has it, and a node was lost that perhaps had."""
        spec = task.spec
        if spec.retries_max:
            self._again(task)
            return
        text = (
            f"a node was lost while the global scheduler was down, and {spec.name} may have run there; "
            f"it may not run again (max_retries=0)"
        )
        self._actions.append(Send(task.origin, msg.TaskSettled(spec.task_id, (Result(failed(FailureKind.WORKER_CRASHED, text)),))))
