"""A whole session in memory: one host, one driver, workers, FIFO channels between them, and virtual time.

Nothing here decides: machines are stepped, and their actions performed, the way a real loop does, with a semaphore's value as an
int. Bodies are functions of an :class:`Execution`: plain ones return a value, generators yield what they wait for
(:class:`Work`, :class:`Get`, :class:`Wait`, :class:`Room`). With an ``rng`` who moves next, and how much each reads, is drawn.

>>> fleet = Fleet(config(cpus=1), {"double": lambda e: inline(2 * e.contents[0])})
>>> fleet.get(fleet.driver.call("double", fleet.driver.put(21)))
[42]
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from sundog.core import actions as act
from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.config import Config
from sundog.core.host import Host
from sundog.core.ids import (
    DRIVER,
    LOOP,
    Address,
    FunctionID,
    IdSequence,
    ObjectID,
    ProcessID,
    TaskID,
    address,
    node_of,
    process_of,
    root_task_id,
)
from sundog.core.machine import Action, Event
from sundog.core.task import Value
from sundog.core.units import MICROSECOND, Nanos
from tests.support.builders import config, inline
from tests.support.fleet_processes import (
    Author,
    Body,
    Execution,
    Get,
    Process,
    Raised,
    Refused,
    Room,
    TaskFailed,
    Wait,
    Work,
    Worker,
    check_ready,
    pinned,
)

__all__ = ["Body", "Execution", "Fleet", "Get", "Raised", "Refused", "Room", "TaskFailed", "Wait", "Work", "config", "inline"]

#: What a round of turns takes.
ROUND: Nanos = 1 * MICROSECOND
#: Rounds without an end are a bug.
ROUNDS_MAX = 300_000


class Fleet:
    """See the module. ``bodies`` are found by their function's name; a task of another name returns None in no time."""

    def __init__(
        self,
        settings: Config | None = None,
        bodies: Mapping[str, Body] | None = None,
        rng: Random | None = None,
        host: Host | None = None,
    ) -> None:
        self.config = settings or config()
        self.host = host or Host(self.config)
        self.now: Nanos = 0
        self.rng = rng
        #: Look at every invariant after every step.
        self.checks = True
        self.bodies: dict[str, Body] = dict(bodies or {})
        self.workers: dict[ProcessID, Worker] = {}
        self.workers_most = 0
        self.process = Process(self, address(self.host.node, DRIVER), worker=False)
        self.driver = Author(self.process, IdSequence(root_task_id(b"fleet %d" % self.host.node), 1, 0))
        self.loop: deque[Event] = deque()
        #: Asked when a worker is to be started: why it does not come up, or None.
        self.start_fails: Callable[[ProcessID], str | None] = lambda number: None
        #: Called before every round.
        self.before_round: Callable[[Fleet], None] = lambda fleet: None
        #: (when, worker, name) of every start and end of a body, and how often each task's body began.
        self.starts: list[tuple[Nanos, ProcessID, str, TaskID]] = []
        self.ends: list[tuple[Nanos, ProcessID, str, TaskID]] = []
        self.executions: Counter[TaskID] = Counter()
        self.actions: Counter[type] = Counter()
        self.killed = 0
        self.stopped = False
        self._dying: dict[Address, Worker] = {}
        self._memory: dict[int, tuple[int, bytes]] = {}
        self._exported: dict[str, FunctionID] = {}
        self.run()

    # -- what tests do ------------------------------

    def function(self, name: str, process: Process) -> FunctionID:
        """Return the function called ``name``; each process exports it before its first mention."""
        known = self._exported.get(name)
        if known is None:
            known = self._exported[name] = self.driver.names.next_function()
            self.bodies.setdefault(name, lambda execution: inline(None))
        if name not in process.exported:
            process.exported[name] = None
            process.facts.append(msg.FunctionExported(known, name, inline(name)))
        return known

    def define(self, body: Body) -> Body:
        """Register a body under its own name; a decorator."""
        self.bodies[body.__name__] = body
        return body

    def ask(self, ask: Get | Wait | Room) -> Action:
        """The driver waits, and everything else goes on, until the answer is there."""
        number = self.process.ask_for(ask)
        self.run(lambda: number in self.process.answers)
        assert number in self.process.answers, f"nothing moves, and {ask} is not answered"
        answer = self.process.answers.pop(number)
        if isinstance(answer, act.RejectRequest):
            raise Refused(answer.failure)
        return answer

    def get_values(self, *object_ids: ObjectID, timeout: Nanos | None = None) -> tuple[Value, ...]:
        """Return the values of ``object_ids``. Raises Refused."""
        answer = self.ask(Get(object_ids, timeout))
        assert isinstance(answer, act.ResolveGet)
        self.driver.pins += pinned(object_ids, answer.values)
        return answer.values

    def get(self, *object_ids: ObjectID, timeout: Nanos | None = None) -> list[Any]:
        """Return the contents of ``object_ids``. Raises Refused, or TaskFailed for the first that is an error."""
        return [self.driver.read(value) for value in self.get_values(*object_ids, timeout=timeout)]

    def error(self, object_id: ObjectID) -> Value:
        """Return the error that ``object_id`` is."""
        [value] = self.get_values(object_id)
        assert value.error
        return value

    def wait(self, *object_ids: ObjectID, count: int = 1, timeout: Nanos | None = None) -> tuple[ObjectID, ...]:
        """Return which are ready."""
        ask = Wait(object_ids, count, timeout)
        answer = self.ask(ask)
        assert isinstance(answer, act.ResolveWait)
        check_ready(ask, answer.ready)
        return answer.ready

    def put_large(self, size: int, content: Any = None) -> ObjectID:
        """The driver puts something that lies in the arena. Raises Refused."""
        answer = self.ask(Room(size))
        assert isinstance(answer, act.ResolveQuestion)
        assert isinstance(answer.answer, msg.ExtentGranted)
        return self.driver.put(value=self.driver.write(answer.answer.offset, size, content))

    def kill(self, number: int, status: int = -9) -> None:
        """The worker dies now. What it has not said is lost; what it has said is heard first."""
        self.killed += 1
        self.lose(self.workers[ProcessID(number)], status)

    def lose(self, worker: Worker, status: int) -> None:
        """The worker's exit is reaped once its link is empty."""
        worker.facts.clear()
        worker.frozen = True
        lost = ev.WorkerLost(worker.number, worker.started, worker.finished, status)
        self._dying[worker.where] = worker
        worker.outbox.append((LOOP, lost))
        del self.workers[worker.number]

    @property
    def running(self) -> list[str]:
        """The names of the bodies that have begun and not ended."""
        return [worker.execution.run.spec.name for worker in self.workers.values() if worker.execution is not None]

    # -- the loop ------------------------------

    def run(self, until: Callable[[], bool] | None = None, deadline: Nanos | None = None) -> None:
        """Go on until ``until()``, or until nothing is left to happen (before ``deadline``)."""
        for _ in range(ROUNDS_MAX):
            if until is not None and until():
                return
            self.before_round(self)
            if self.rng is not None:
                moved = self.move(self.rng)
            else:
                moved = self.round()
            if moved:
                self.now += ROUND
                continue
            moment = self.next_moment()
            if moment is None or (deadline is not None and moment > deadline):
                if deadline is not None:
                    self.now = max(self.now, deadline)
                return
            self.now = max(self.now, moment)
        raise AssertionError(f"{ROUNDS_MAX} rounds without an end; running: {self.running}")

    def run_for(self, span: Nanos) -> None:
        """Let ``span`` pass."""
        self.run(deadline=self.now + span)

    def round(self) -> bool:
        """Everybody moves once; False if nobody could."""
        moved = self.process.turn()
        moved = self.host_turn() or moved
        for worker in list(self.workers.values()):
            moved = worker.turn() or moved
        return moved

    def move(self, rng: Random) -> bool:
        """One of them moves, drawn by ``rng``, and reads as much as is drawn; False if nobody can."""
        movers: list[Callable[[int], bool]] = [self.process.turn, self.host_turn, self.host_turn]
        movers += [worker.turn for worker in self.workers.values()]
        rng.shuffle(movers)
        return any(mover(rng.choice((1, 2, 3, 8, 100))) for mover in movers)

    def next_moment(self) -> Nanos | None:
        """Return when something happens by itself."""
        moments = [self.host.next_deadline(), self.process.client.next_deadline()]
        for worker in self.workers.values():
            if not worker.frozen:
                moments += [worker.until, worker.client.next_deadline()]
        return min([moment for moment in moments if moment is not None], default=None)

    def host_turn(self, limit: int | None = None) -> bool:
        """The host hears what has arrived; False if it has nothing to do."""
        events = self._arrived(min(limit or self.config.step_events_max, self.config.step_events_max))
        due = self.host.next_deadline()
        if not events and (due is None or due > self.now):
            return False
        for action in self.host.step(self.now, events):
            self._perform(action)
        due = self.host.next_deadline()
        assert due is None or due > self.now, "the host would spin"
        self.workers_most = max(self.workers_most, len(self.host.local_scheduler.pool.workers))
        if self.checks:
            self.host.check_invariants()
        return True

    def _arrived(self, limit: int) -> list[Event]:
        channels = [self.loop, self.process.outbox, *[w.outbox for w in self._dying.values()]]
        channels += [worker.outbox for worker in self.workers.values()]
        if self.rng is not None:
            self.rng.shuffle(channels)
        events: list[Event] = []
        for channel in channels:
            while channel and len(events) < limit:
                events.append(channel.popleft())
        for where in [where for where, worker in self._dying.items() if not worker.outbox]:
            del self._dying[where]
        return events

    def _perform(self, action: Action) -> None:
        self.actions[type(action)] += 1
        if isinstance(action, act.Send):
            if node_of(action.to) != self.host.node:
                self.send_away(action)
            elif action.to == self.process.where:
                self.process.inbox.append(action.message)
            elif (worker := self.workers.get(process_of(action.to))) is not None:
                worker.inbox.append(action.message)
        elif isinstance(action, act.Dispatch):
            if (worker := self.workers.get(action.worker)) is not None:
                worker.tokens += len(action.tasks)
                worker.inbox.append(msg.RunTasks(action.tasks, action.forget_through))
        elif isinstance(action, act.ReclaimTasks):
            if (worker := self.workers.get(action.worker)) is not None:
                taken = min(action.count, worker.tokens)
                worker.tokens -= taken
                self.loop.append((LOOP, ev.TasksReclaimed(action.worker, taken)))
        elif isinstance(action, act.StartWorker):
            self._start(action.worker)
        elif isinstance(action, act.ReleasePages):
            self.fill(action.offset, action.size, None)
        elif isinstance(action, act.KillWorker):
            self.kill(action.worker)
        else:
            assert isinstance(action, act.StopHost)
            self.stopped = True

    def send_away(self, action: act.Send) -> None:
        """A message for another node."""
        raise AssertionError(f"there is one node, and {action} is for another")

    def _start(self, number: ProcessID) -> None:
        reason = self.start_fails(number)
        if reason is not None:
            self.loop.append((LOOP, ev.WorkerStartFailed(number, reason)))
            return
        self.workers[number] = Worker(self, number)
        self.loop.append((LOOP, ev.WorkerStarted(number, 1000 + number)))

    # -- memory ------------------------------

    def fill(self, offset: int, size: int, data: bytes | None) -> None:
        """What lay in the stretch is gone; ``data`` lies there now."""
        for start, (length, _) in list(self._memory.items()):
            if start < offset + size and offset < start + length:
                del self._memory[start]
        if data is not None:
            self._memory[offset] = (size, data)

    def data(self, value: Value) -> bytes:
        """Return the bytes of a value."""
        if value.offset < 0:
            return value.data
        assert value.offset in self._memory, "an extent was freed or overwritten while somebody reads it (S6)"
        return self._memory[value.offset][1]

    # -- what tests look at ------------------------------

    def note_start(self, execution: Execution) -> None:
        spec = execution.run.spec
        self.executions[spec.task_id] += 1
        self.starts.append((self.now, execution.worker.number, spec.name, spec.task_id))

    def note_end(self, execution: Execution) -> None:
        spec = execution.run.spec
        self.ends.append((self.now, execution.worker.number, spec.name, spec.task_id))

    def check_agreement(self) -> None:
        """Nothing is on its way: what each process holds is what the host thinks it holds, and tokens are those of its queue."""
        held = dict(self.host.object_manager.references.held_by_processes())
        for process in (self.process, *self.workers.values()):
            assert held.pop(process.where, 0) == len(process.client.references), "R1: holds differ"
        assert not any(held.values()), f"dead processes hold objects: {held}"
        for worker in self.workers.values():
            assert worker.tokens == len(worker.executor.queue)

    def check_empty(self) -> None:
        """Nobody refers to anything any more: no table holds anything."""
        self.check_agreement()
        manager, scheduler = self.host.object_manager, self.host.local_scheduler
        assert manager.objects == {}
        assert scheduler.tasks == {}
        assert manager.ledger.extents() == []
        assert manager.ledger.used_bytes == 0
        assert scheduler.resources.free == scheduler.resources.capacity
        assert scheduler.resources.overdrawn == {}
        assert self.process.client.references == {}
