"""A node in the simulation: a host, and what performs its actions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from simpy.events import Event

from sundog.backends.effects import HOST_ACTIONS, effect_table, perform, performs
from sundog.backends.simulated.arena import NodeArena
from sundog.backends.simulated.sim_loop import Process, wire_size
from sundog.backends.simulated.worker import Worker
from sundog.core.actions import Dispatch, KillWorker, ReclaimTasks, ReleasePages, Send, StartWorker, StopHost
from sundog.core.config import Config
from sundog.core.events import ClientLost, TasksReclaimed, WorkerLost, WorkerStarted
from sundog.core.ids import HOST, LOOP, Address, NodeID, ProcessID, address
from sundog.core.machine import Action, Fact
from sundog.core.machine import Event as MachineEvent
from sundog.core.messages import RunTasks
from sundog.core.units import Nanos

if TYPE_CHECKING:
    from sundog.backends.simulated.cluster import Cluster
    from sundog.backends.simulated.strand import Strand

#: How a worker that was killed ended: minus SIGKILL.
KILLED = -9


class SteppedHost(Protocol):
    """What a node needs of a host (or of a recorder round one)."""

    def step(self, now: Nanos, events: Sequence[MachineEvent], /) -> Sequence[Action]:
        """See :class:`sundog.core.machine.Machine`."""

    def next_deadline(self) -> Nanos | None:
        """See :class:`sundog.core.machine.Machine`."""

    def check_invariants(self) -> None:
        """See :class:`sundog.core.machine.Machine`."""


class Node(Process):
    """See the module. ``host`` decides; ``cluster`` is what the node is a part of."""

    def __init__(self, cluster: Cluster, number: NodeID, config: Config, host: SteppedHost) -> None:
        super().__init__(cluster.loop, address(number, HOST))
        self.number = number
        self.config = config
        self.host = host
        #: What the sessions of this node's processes share: their functions are the same Python objects.
        self.scope = object()
        self.arena = NodeArena(config.arena_bytes)
        self.durations = cluster.durations
        self.streams = cluster.streams
        self.log = cluster.log
        self.workers: dict[ProcessID, Worker] = {}
        #: Bodies of workers that were killed, suspended for ever.
        self.killed: list[Strand] = []
        #: Checked after every step, if a test wants it.
        self.checks = cluster.checks
        self._cluster = cluster
        self._starting: dict[ProcessID, None] = {}
        self._outboxes: dict[Address, list[Fact]] = {}
        self._effects = effect_table(self, HOST_ACTIONS)

    def wanted_at(self) -> Nanos | None:
        """See ``Process``."""
        return self.host.next_deadline()

    def turn(self) -> None:
        """See ``Process``: one ``host.step``, its actions, one batch to each process that they speak to."""
        room = self.config.step_events_max
        events, self.inbox = self.inbox[:room], self.inbox[room:]
        now = self.loop.now
        actions = self.host.step(now, events)
        self.log.host_turn(now, self.where, events, actions)
        perform(self._effects, actions)
        if self.checks:
            self.host.check_invariants()
        outboxes, self._outboxes = self._outboxes, {}
        for to, messages in outboxes.items():
            self.send(self.where, to, messages)
        if self.inbox:
            self.turn_soon()
        if not self.dead:
            self.rearm()

    def report(self, fact: Fact) -> None:
        """Take what the loop itself has seen, for the next step."""
        self.receive(LOOP, [fact])

    def send(self, source: Address, target: Address, messages: list[Fact]) -> None:
        """Put a batch on its way."""
        cluster = self._cluster
        cluster.network.send(source, target, wire_size(messages), partial(cluster.deliver, source, target, messages))

    # -- workers --------------------------------------------------------------------------------------------------------------

    def kill_worker(self, number: ProcessID, status: int = KILLED) -> None:
        """Kill a worker with what it runs; WorkerLost follows, after all that it had sent. Nothing happens to one that is gone."""
        if self._starting.pop(number, 0) is None:
            self.report(WorkerLost(number, 0, 0, status))
            return
        worker = self.workers.get(number)
        if worker is not None:
            self.worker_left(worker, status)

    def worker_left(self, worker: Worker, status: int) -> None:
        """A worker is gone: its host hears of it once everything that it had sent has arrived."""
        del self.workers[worker.number]
        self._cluster.processes.pop(worker.where, None)
        suspended = worker.die()
        if suspended is not None:
            self.killed.append(suspended)
        lost = WorkerLost(worker.number, worker.started, worker.finished, status)
        self._cluster.network.send(worker.where, self.where, 0, partial(self.report, lost))

    def client_lost(self, process: ProcessID) -> None:
        """A driver on this node has gone without a word."""
        self.report(ClientLost(process))

    def suspended(self) -> list[Strand]:
        """Return every body that is suspended, for the end: the session's workers are no more."""
        found = list(self.killed)
        self.killed.clear()
        for worker in self.workers.values():
            strand = worker.die()
            if strand is not None:
                found.append(strand)
        self.workers.clear()
        return found

    def _worker_started(self, number: ProcessID, _: Event) -> None:
        if self.dead or self._starting.pop(number, 0) is not None:
            return  # the node is gone, or the worker was killed before it was there
        worker = self.workers[number] = Worker(self, number)
        self._cluster.processes[worker.where] = worker
        self.report(WorkerStarted(number, worker.pid))

    # -- the effects ----------------------------------------------------------------------------------------------------------

    @performs(Send)
    def _send(self, action: Send) -> None:
        outbox = self._outboxes.get(action.to)
        if outbox is None:
            self._outboxes[action.to] = [action.message]
        else:
            outbox.append(action.message)

    @performs(Dispatch)
    def _dispatch(self, action: Dispatch) -> None:
        worker = self.workers.get(action.worker)
        if worker is not None:
            worker.tokens += len(action.tasks)
            self._send(Send(worker.where, RunTasks(action.tasks, action.forget_through)))

    @performs(ReclaimTasks)
    def _reclaim(self, action: ReclaimTasks) -> None:
        worker = self.workers.get(action.worker)
        count = 0
        if worker is not None:
            count = min(worker.tokens, action.count)
            worker.tokens -= count
        self.report(TasksReclaimed(action.worker, count))

    @performs(StartWorker)
    def _start_worker(self, action: StartWorker) -> None:
        self._starting[action.worker] = None
        self.loop.call_at(self.loop.now + self.loop.costs.worker_start, partial(self._worker_started, action.worker))

    @performs(KillWorker)
    def _kill_worker(self, action: KillWorker) -> None:
        self.kill_worker(action.worker)

    @performs(ReleasePages)
    def _release_pages(self, action: ReleasePages) -> None:
        self.arena.release_pages(action.offset, action.size)

    @performs(StopHost)
    def _stop_host(self, action: StopHost) -> None:
        self.dead = True
