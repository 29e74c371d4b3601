"""What the object manager of a node in a cluster tells once more, to a service of the head that has begun anew (``recovery``).

For a directory all is in the tables: what is shared, held, here, wanted. For a global scheduler the local scheduler lists its
tasks; what is added here are ends of tasks that no scheduler may have heard of: they are kept until one says so (``EndsHeard``).
"""

from __future__ import annotations

import msgspec

from sundog.core import messages as msg
from sundog.core.config import Config
from sundog.core.ids import Address, NodeID, ObjectID, TaskID
from sundog.core.lent_objects import LendingObjectManager
from sundog.core.machine import Handlers
from sundog.core.recovery import Service
from sundog.core.task import REMOTE


class RetellingObjectManager(LendingObjectManager):
    """See the module."""

    HEARS = (*LendingObjectManager.HEARS, msg.ServiceRestarted, msg.TasksListed, msg.EndsHeard)

    def __init__(self, config: Config, node: NodeID, here: Address, driver: Address, head: Address) -> None:
        super().__init__(config, node, here, driver, head)
        #: Ends of tasks of other nodes that perhaps nobody has heard of.
        self.ended: dict[TaskID, tuple[msg.TaskDeclared, msg.TaskEnded]] = {}

    def _table(self) -> Handlers:
        return super()._table() | {
            msg.ServiceRestarted: self._on_service_restarted,
            msg.TasksListed: self._on_tasks_listed,
            msg.EndsHeard: self._on_ends_heard,
        }

    def _end_foreign(self, declared: msg.TaskDeclared) -> msg.TaskEnded:
        ended = super()._end_foreign(declared)
        self.ended[ended.task_id] = (declared, ended)
        return ended

    def _on_ends_heard(self, sender: Address, fact: msg.EndsHeard) -> None:
        for task_id in fact.task_ids:
            self.ended.pop(task_id, None)

    def _on_service_restarted(self, sender: Address, fact: msg.ServiceRestarted) -> None:
        if fact.service != Service.DIRECTORY:
            return  # the local scheduler lists its tasks first
        held: list[ObjectID] = []
        made_here: list[ObjectID] = []
        copies: list[tuple[ObjectID, int]] = []
        wanted: list[ObjectID] = []
        for object_id, shared in self.shared.items():
            value = self.objects[object_id].value
            if shared.hold:
                held.append(object_id)
            if shared.asked:
                wanted.append(object_id)
            if not shared.keeps:
                continue
            if value is not None:
                if value.offset != REMOTE:
                    copies.append((object_id, value.size))
            elif not shared.foreign:
                made_here.append(object_id)
        resent = msg.ReferencesResent(
            self._node, fact.incarnation, tuple(held), tuple(made_here), tuple(copies), tuple(wanted)
        )  # fmt: skip
        self._announce.say(resent)

    def _on_tasks_listed(self, sender: Address, fact: msg.TasksListed) -> None:
        assigned = list(fact.assigned)
        ended: list[msg.TaskEnded] = []
        for declared, end in self.ended.values():
            spec = declared.spec
            if spec.task_id in self.foreign:
                continue  # it is here again, so that it was over is known
            kept = tuple([(o, size) for o, size in end.kept if o in self.shared and self.shared[o].keeps])
            assigned.append(msg.TaskAssigned(spec, declared.submitter, 0, declared.rebuild))
            ended.append(msgspec.structs.replace(end, kept=kept))
        self._announce.say(msg.TasksResent(self._node, fact.incarnation, fact.spilled, tuple(assigned), tuple(ended)))
