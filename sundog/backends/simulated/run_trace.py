"""What a run tells its trace while it goes on: joins and ends of nodes, transfers, stores, tasks, faults.

Both engines have one where a trace is wanted, those of programs (``sundog.init(backend="simulated", trace=...)``) and of workloads
(``sundog.simulate(..., trace=...)``). Nothing hangs on it: it only looks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sundog.backends.simulated.experiment.trace import Trace
from sundog.core.actions import StartFetch
from sundog.core.ids import NodeID, ProcessID, TaskID, producer_of
from sundog.core.messages import RunTask
from sundog.core.units import MICROSECOND, Nanos

if TYPE_CHECKING:
    from sundog.backends.simulated.faults.runner import FaultRunner
    from sundog.backends.simulated.node import Node
    from sundog.backends.simulated.sim_loop import Loop


class RunTrace:
    """See the module. ``path``: the file to write; ``nodes``: how many there are to begin with.

    Raises OSError if the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], nodes: int, title: str, loop: Loop) -> None:
        self.trace = Trace(path, [_name(NodeID(number)) for number in range(nodes)], title)
        #: The virtual time that is 0 in the trace.
        self.began: Nanos = 0
        self._loop = loop
        self._nodes = nodes
        #: When what is on its way to a node was asked for, by node and attempt.
        self._asked: dict[tuple[NodeID, int], Nanos] = {}
        #: Where bodies of a program ran, and the last nanosecond of each.
        self._ran: dict[TaskID, tuple[NodeID, ProcessID, Nanos]] = {}

    @property
    def now(self) -> Nanos:
        """The time in the trace: what happens before its beginning happens at 0."""
        return max(0, self._loop.now - self.began)

    def joined(self, node: NodeID) -> None:
        """A node is there."""
        if node >= self._nodes:
            self._nodes = node + 1
            self.trace.add_node(node, _name(node))
        self.trace.instant(node, "joins", self.now)

    def died(self, node: NodeID) -> None:
        """A node is gone."""
        self.trace.instant(node, "is gone", self.now)
        self.trace.counter(node, "tasks", self.now, 0)
        self.trace.counter(node, "store bytes", self.now, 0)

    def turned(self, node: Node, host: Any) -> None:
        """A host has taken a turn: it may know more or fewer tasks, and its store may hold more or less."""
        now = self.now
        self.trace.counter(node.number, "tasks", now, len(host.local_scheduler.tasks))
        self.trace.counter(node.number, "store bytes", now, host.object_manager.ledger.used_bytes)

    def asked(self, node: NodeID, action: StartFetch) -> None:
        """A value is to come to ``node``."""
        self._asked[node, action.attempt] = self.now

    def fetched(self, node: NodeID, action: StartFetch) -> None:
        """It has come."""
        began = self._asked.pop((node, action.attempt), None)
        if began is not None:
            self.trace.transfer(action.source, node, action.object_id.hex()[-8:], began, self.now, action.size)

    def ran(self, node: NodeID, worker: ProcessID, run: RunTask, began: Nanos, waited: Nanos, how: str = "task") -> None:
        """The body of a program's task, which began at ``began`` of the loop's time, has ended. ``how``: "failed", "lost"."""
        began, ended = max(0, began - self.began), self.now
        spec = run.spec
        args: dict[str, Any] = {"task": spec.task_id.hex(), "attempt": run.attempt}
        if waited:
            args["waited_us"] = waited / MICROSECOND
        if how != "task":
            args["outcome"] = how
        self.trace.slice(node, worker, spec.name, began, ended, args, how)
        for producer in dict.fromkeys([producer_of(object_id) for object_id in spec.dependencies]):
            source = self._ran.get(producer)
            if source is not None and source[2] <= began:
                self.trace.arrow(source, (node, worker, began))
        if how == "task":
            self._ran[spec.task_id] = (node, worker, max(began, ended - 1))

    def close(self, faults: FaultRunner | None) -> None:
        """Add what faults did and write the end. Idempotent."""
        if faults is not None and not self.trace.closed:
            for at, text in faults.log:
                self.trace.instant(None, text, max(0, at - self.began))
        self.trace.close()


def _name(node: NodeID) -> str:
    return "node 0 (head)" if node == 0 else f"node {node}"
