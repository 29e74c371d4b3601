"""A node in the simulation: a host, and what performs its actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from simpy.events import Event

from sundog.backends.effects import CLUSTER_ACTIONS, effect_table, performs
from sundog.backends.grants import Answer
from sundog.backends.simulated.costs.cores import Cores
from sundog.backends.simulated.faults.occurrences import Occurrence
from sundog.backends.simulated.sim_loop import Process, inline_bytes, wire_size
from sundog.core.actions import (
    ClosePeer,
    Dispatch,
    KillWorker,
    ReclaimTasks,
    ReleasePages,
    ResolveQuestion,
    Send,
    StartFetch,
    StartWorker,
    StopFetch,
    StopHost,
)
from sundog.core.config import Config
from sundog.core.events import Asked, FetchFailed, FetchFinished, TasksReclaimed, WorkerLost, WorkerStarted
from sundog.core.ids import HOST, LOOP, Address, NodeID, ProcessID, address
from sundog.core.machine import Action, Fact
from sundog.core.machine import Event as MachineEvent
from sundog.core.messages import FunctionExported, RunTasks, TaskAssigned, TaskBlocked, TaskFinished, TasksFinished, TasksSubmitted
from sundog.core.units import Nanos

if TYPE_CHECKING:
    from sundog.backends.simulated.cluster import Cluster
    from sundog.backends.simulated.programs.strand import Strand
    from sundog.backends.simulated.run_trace import RunTrace

#: The process of a node that sends stored bytes to others: they do not hold up what hosts say to each other.
OBJECT_SERVER = ProcessID((1 << 32) - 1)
#: How a worker that was killed ended: minus SIGKILL.
KILLED = -9


def decisions(actions: Sequence[Action]) -> tuple[int, int]:
    """Return how often ``actions`` say where a task runs, and how many dependencies the tasks that go to workers have."""
    count = dependencies = 0
    for action in actions:
        kind = type(action)
        if kind is Dispatch:
            tasks = action.tasks  # type: ignore[attr-defined]
            count += len(tasks)
            for run in tasks:
                if run.values:
                    dependencies += len(run.values)
        elif kind is Send and type(action.message) is TaskAssigned:  # type: ignore[attr-defined]
            count += 1
    return count, dependencies


def _carried(events: Sequence[MachineEvent], actions: Sequence[Action]) -> int:
    """Return how many bytes of inline values came with ``events`` and go with ``actions``."""
    size = inline_bytes([message for _, message in events])
    for action in actions:
        kind = type(action)
        if kind is Dispatch:
            size += inline_bytes([RunTasks(action.tasks, 0)])  # type: ignore[attr-defined]
        elif kind is Send:
            size += inline_bytes([action.message])  # type: ignore[attr-defined]
    return size


class SteppedHost(Protocol):
    """What a node needs of a host (or of a recorder round one)."""

    def step(self, now: Nanos, events: Sequence[MachineEvent], /) -> Sequence[Action]:
        """See :class:`sundog.core.machine.Machine`."""

    def next_deadline(self) -> Nanos | None:
        """See :class:`sundog.core.machine.Machine`."""

    def check_invariants(self) -> None:
        """See :class:`sundog.core.machine.Machine`."""


class Store(Protocol):
    """What holds the bytes of a node's objects, or stands for it where objects have sizes only."""

    def copy(self, offset: int, size: int, source: Any, source_offset: int) -> None:
        """Copy ``size`` bytes from another store to ``offset`` of this one."""

    def release_pages(self, offset: int, size: int) -> None:
        """See ``actions.ReleasePages``."""


class NodeWorker(Protocol):
    """What a node needs of its workers: a process that takes messages, with tokens and a progress record."""

    where: Address
    number: ProcessID
    pid: int
    tokens: int
    started: int
    finished: int

    def receive(self, sender: Address, messages: list[Fact]) -> None:
        """See ``sim_loop.Process``."""

    def die(self) -> Strand | None:
        """Never do anything again; return the suspended body, if there is one, to be unwound at the session's end."""


class Node(Process):
    """See the module. ``host`` decides; ``cluster`` is what the node is a part of.

    ``make_worker`` returns a new worker of a node with a number; ``store`` holds the bytes of its objects.
    """

    __slots__ = (
        "_acting", "_clock", "_cluster", "_effects", "_fetches", "_make_worker", "_outboxes", "_over_at", "_room", "_starting",
        "_to_send_again", "config", "cores", "durations", "host", "killed", "log", "number", "pauses", "plain", "profile",
        "scope", "skew", "slowness", "spent", "store", "streams", "taken_back", "workers",
    )  # fmt: skip

    def __init__(
        self,
        cluster: Cluster,
        number: NodeID,
        config: Config,
        host: SteppedHost,
        make_worker: Callable[[Any, ProcessID], NodeWorker],
        store: Store,
    ) -> None:
        super().__init__(cluster.loop, address(number, HOST))
        self.number = number
        self.config = config
        self.host = host
        #: What the sessions of this node's processes share: their functions are the same Python objects.
        self.scope = object()
        self.store = store
        self.durations = cluster.durations
        self.streams = cluster.streams
        self.log = cluster.log
        self.workers: dict[ProcessID, NodeWorker] = {}
        #: Bodies of workers that were killed, suspended for ever.
        self.killed: list[Strand] = []
        #: Faults: everything takes this many thousandths of its usual time; the clock is off by so much, and never goes back;
        #: nothing is done at all while there is any pause.
        self.slowness = 1000
        self.skew: Nanos = 0
        self.pauses = 0
        self._clock: Nanos = 0
        #: What turns cost; None: nothing.
        self.profile = cluster.profile
        #: What its processes compute on; None: nothing takes time.
        self.cores = None if self.profile is None else Cores(cluster.loop, self.profile.cores, self.profile.crowded_permille)
        #: How long it has computed so far, in all.
        self.spent: Nanos = 0
        #: When its last turn ended: one that begins later finds it asleep.
        self._over_at: Nanos = -1
        #: Tasks that came back from workers' pipelines, in all, and those that were not sent to another worker since.
        self.taken_back = 0
        self._to_send_again = 0
        #: What the turn under way will do at its end: a node does one thing at a time.
        self._acting: Sequence[Action] | None = None
        self._cluster = cluster
        self._make_worker = make_worker
        self._starting: dict[ProcessID, None] = {}
        self._outboxes: dict[Address, list[Fact]] = {}
        #: What is coming here, by attempt.
        self._fetches: dict[int, StartFetch] = {}
        self._effects = effect_table(self, CLUSTER_ACTIONS)
        self._room = config.step_events_max
        #: Its turns are steps of its host and nothing else: nothing looks on, takes time, or is wrong with it, nor ever was.
        self.plain = self.profile is None and not cluster.watched

    def wanted_at(self) -> Nanos | None:
        """See ``Process``."""
        deadline = self.host.next_deadline()
        return deadline if deadline is None or not self.skew else deadline - self.skew

    def turn(self) -> None:
        """See ``Process``: one ``host.step``, its actions, one batch to each process that they speak to.

        Where a profile says what it costs, the actions come that much later, and so does the next turn.
        """
        if self._acting is not None or self.pauses:
            return
        events, self.inbox = self.inbox, []
        if len(events) > self._room:
            events, self.inbox = events[: self._room], events[self._room :]
        now: Nanos = self.environment._now  # type: ignore[assignment]  # only whole numbers are ever scheduled
        clock = now + self.skew
        if clock < self._clock:
            clock = self._clock
        self._clock = clock
        actions = self.host.step(clock, events)
        if self._cluster.watched:
            self._show(now, events, actions)
        if self.profile is not None or self.slowness != 1000:
            span = self._takes(events, actions)
            if span:
                self._act_after(span, actions)
                return
        if actions:
            self._act(actions)
        elif self.inbox:
            self.turn_soon()
        if not self.dead:
            self.rearm()

    def _show(self, now: Nanos, events: Sequence[MachineEvent], actions: Sequence[Action]) -> None:
        """Tell of a turn whoever looks on."""
        cluster = self._cluster
        if self.log.wanted:
            self.log.host_turn(now, self.where, events, actions)
        if cluster.checks:
            self.host.check_invariants()
        if cluster.occurred is not None:
            self._tell_of_ends(events)
        if cluster.trace is not None:
            cluster.trace.turned(self, cluster.hosts.get(self.number))

    def _act_after(self, span: Nanos, actions: Sequence[Action]) -> None:
        """Do what a turn said once it has taken its time."""
        self.spent += span
        self._acting = actions
        if self.cores is not None:
            self.cores.compute(span, self._act_late)
        else:
            self.loop.call_at(self.loop.now + span, self._act_late)

    def _takes(self, events: Sequence[MachineEvent], actions: Sequence[Action]) -> Nanos:
        """Return how long this turn takes."""
        span = 0
        if self.profile is not None:
            profile = self.profile
            blocks, messages = 0, len(events)
            for _, fact in events:
                kind = type(fact)
                if kind is TasksSubmitted or kind is TasksFinished:  # measured, and so charged, by the task
                    messages += len(fact.task_ids) - 1  # type: ignore[attr-defined]
                elif kind is TaskBlocked:
                    blocks += 1
                elif kind is TasksReclaimed:
                    self.taken_back += fact.count  # type: ignore[attr-defined]
                    self._to_send_again += fact.count  # type: ignore[attr-defined]
            count, dependencies = decisions(actions)
            again = min(count, self._to_send_again)
            self._to_send_again -= again
            span = profile.node_time(messages, count, dependencies, again, blocks)
            span += profile.message_time(_carried(events, actions))
            if self.loop.now > self._over_at:
                span += profile.node_wake
        if self.slowness != 1000:
            span = self.slowed(span) + max(0, self.slowness - 1000) * self.loop.costs.hop // 1000
        return span

    def _tell_of_ends(self, events: Sequence[MachineEvent]) -> None:
        for _, fact in events:
            kind = type(fact)
            for _ in range(1 if kind is TaskFinished else len(fact.task_ids) if kind is TasksFinished else 0):  # type: ignore[attr-defined]
                self.occurred(Occurrence.SEALED)

    def turn_soon(self) -> None:
        """See ``Process``; not before the turn under way is over."""
        if self._acting is None and not self.pauses:
            super().turn_soon()

    def _act_late(self, _: Event) -> None:
        actions, self._acting = self._acting, None
        self._over_at = self.loop.now
        if self.dead or actions is None:
            return
        self._act(actions)
        due = self.wanted_at()
        if due is not None:
            self.turn_at(due)

    def _act(self, actions: Sequence[Action]) -> None:
        effects, outboxes = self._effects, self._outboxes
        for action in actions:
            kind = type(action)
            if kind is Send:  # as _send does, without the call: it is nearly every action
                to, message = action.to, action.message  # type: ignore[attr-defined]
                outbox = outboxes.get(to)
                if outbox is None:
                    outboxes[to] = [message]
                else:
                    outbox.append(message)
            else:
                effects[kind](action)
        if outboxes:
            self._outboxes = {}
            for to, messages in outboxes.items():
                self.send(self.where, to, messages)
        if self.dead and self.number:
            self.die()
        elif self.inbox:
            self.turn_soon()

    def slow(self, permille: int) -> None:
        """From now on take so many thousandths of the usual time for everything."""
        self.plain = False
        self.slowness = permille

    def set_clock(self, skew: Nanos) -> None:
        """From now on let the host's clock be off by ``skew``."""
        self.plain = False
        self._clock = max(self._clock, self.loop.now + self.skew)
        self.skew = skew
        self.turn_soon()  # its deadlines have moved

    def slowed(self, span: Nanos) -> Nanos:
        """Return how long takes here what usually takes ``span``."""
        return span * self.slowness // 1000

    def pause(self) -> None:
        """Do nothing, as a stopped process, until as many :meth:`go_on`. What arrives waits."""
        self.plain = False
        self.pauses += 1

    def go_on(self) -> None:
        """Take one :meth:`pause` back."""
        self.pauses -= 1
        if not self.pauses and not self.dead:
            self.turn_soon()

    @property
    def trace(self) -> RunTrace | None:
        """What is told to people, if they want a trace."""
        return self._cluster.trace

    def occurred(self, what: Occurrence) -> None:
        """Something happened that faults may wait for."""
        if self._cluster.occurred is not None:
            self._cluster.occurred(what)

    def answer_for_all(self, answer: Answer, fact: Fact) -> Answer:
        """Return the answer to a question of a client here; those about tables and tasks are answered for the whole cluster."""
        if type(answer) is ResolveQuestion and isinstance(fact, Asked) and len(self._cluster.hosts) > 1:
            told = self._cluster.answer(fact.question)
            return answer if told is None else ResolveQuestion(answer.request, told)
        return answer

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

    def worker_left(self, worker: NodeWorker, status: int) -> None:
        """A worker is gone: its host hears of it once everything that it had sent has arrived."""
        del self.workers[worker.number]
        self._cluster.processes.pop(worker.where, None)
        suspended = worker.die()
        if suspended is not None:
            self.killed.append(suspended)
        exports: list[Fact] = [fact for fact in getattr(worker, "facts", ()) if type(fact) is FunctionExported]
        if exports:  # functions are exported once for all workers here, so an export outlives its worker
            self.receive(worker.where, exports)
        lost = WorkerLost(worker.number, worker.started, worker.finished, status)
        self._cluster.network.send(worker.where, self.where, 0, partial(self.report, lost))

    def kill_nth_worker(self, index: int) -> None:
        """Kill the ``index``-th of the living workers, in the order of their start; nothing if there are fewer."""
        numbers = list(self.workers)
        if index < len(numbers):
            self.kill_worker(numbers[index])

    def die(self) -> None:
        """End all processes of this node at once, as when its power fails: nothing of it is heard any more."""
        self.dead = True
        self._cluster.forget(self)
        for worker in self.workers.values():
            self._cluster.processes.pop(worker.where, None)
            suspended = worker.die()
            if suspended is not None:
                self.killed.append(suspended)
        self.workers.clear()

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
        worker = self.workers[number] = self._make_worker(self, number)
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
            message = RunTasks(action.tasks, action.forget_through)
            outbox = self._outboxes.get(worker.where)
            if outbox is None:
                self._outboxes[worker.where] = [message]
            else:
                outbox.append(message)

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
        self.loop.call_at(self.loop.now + self.slowed(self.loop.costs.worker_start), partial(self._worker_started, action.worker))

    @performs(KillWorker)
    def _kill_worker(self, action: KillWorker) -> None:
        self.kill_worker(action.worker)

    @performs(ReleasePages)
    def _release_pages(self, action: ReleasePages) -> None:
        self.store.release_pages(action.offset, action.size)

    @performs(StartFetch)
    def _start_fetch(self, action: StartFetch) -> None:
        source = self._cluster.nodes.get(action.source)
        if source is None or source.dead:
            self.report(FetchFailed(action.object_id, action.attempt, f"node {action.source} is gone"))
            return
        self._fetches[action.attempt] = action
        if self._cluster.trace is not None:
            self._cluster.trace.asked(self.number, action)
        came = partial(self._fetched, source, action)
        self._cluster.network.send(address(action.source, OBJECT_SERVER), self.where, action.size, came)

    def _fetched(self, source: Node, action: StartFetch) -> None:
        if not self.dead and self._fetches.pop(action.attempt, None) is not None:
            if self._cluster.trace is not None:
                self._cluster.trace.fetched(self.number, action)
            self.store.copy(action.offset, action.size, source.store, action.source_offset)
            self.report(FetchFinished(action.object_id, action.attempt))

    @performs(StopFetch)
    def _stop_fetch(self, action: StopFetch) -> None:
        fetch = self._fetches.pop(action.attempt, None)
        if fetch is not None:
            self.report(FetchFailed(fetch.object_id, fetch.attempt, f"node {fetch.source} has not sent it in time"))

    def peer_died(self, node: NodeID) -> None:
        """Another node is gone: its connections break, and what was coming from it does not come."""
        for attempt, action in list(self._fetches.items()):
            if action.source == node:
                del self._fetches[attempt]
                self.report(FetchFailed(action.object_id, attempt, f"node {node} is gone"))

    @performs(ClosePeer)
    def _close_peer(self, action: ClosePeer) -> None:
        self.peer_died(action.node)

    @performs(StopHost)
    def _stop_host(self, action: StopHost) -> None:
        """The head says its last words; another node that stops is gone with its workers once it has acted."""
        self.dead = True
