"""The processes of a :class:`~tests.support.fleet.Fleet`: a driver and workers around their machines, and what bodies see."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from sundog.core import actions as act
from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.client import Client
from sundog.core.executor import Executor
from sundog.core.ids import LOOP, Address, FunctionID, IdSequence, ObjectID, ProcessID, TaskID, address, return_ids
from sundog.core.machine import Action, Event, Fact
from sundog.core.task import Failure, TaskSpec, Value, arguments_id
from sundog.core.units import Nanos
from tests.support.builders import error, inline, opened

if TYPE_CHECKING:
    from tests.support.fleet import Fleet


class Work(msgspec.Struct):
    """A body computes for ``span``."""

    span: Nanos


class Get(msgspec.Struct):
    """A body waits for values; it is sent a list of them."""

    object_ids: tuple[ObjectID, ...]
    timeout: Nanos | None = None


class Wait(msgspec.Struct):
    """A body waits until ``count`` are ready; it is sent those that are."""

    object_ids: tuple[ObjectID, ...]
    count: int
    timeout: Nanos | None = None


class Room(msgspec.Struct):
    """A body wants ``size`` bytes of the arena; it is sent their offset."""

    size: int


class Refused(Exception):
    """A request was rejected."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class TaskFailed(Exception):
    """A value that was asked for is an error."""

    def __init__(self, value: Value) -> None:
        super().__init__(value.failure.message if value.failure is not None else opened(value.data)[0])
        self.value = value


class Raised(Exception):
    """What a body raises."""

    def __init__(self, text: str = "boom", *, retryable: bool = False) -> None:
        super().__init__(text)
        self.retryable = retryable


Ask: TypeAlias = Work | Get | Wait | Room
Life: TypeAlias = Generator[Ask, Any, Any]
Body: TypeAlias = "Callable[[Execution], Any]"


class Process:
    """A driver or worker: its client machine, the facts it has not been given, and both directions of its link."""

    def __init__(self, fleet: Fleet, where: Address, *, worker: bool) -> None:
        self.fleet = fleet
        self.where = where
        self.client = Client(fleet.config, where, fleet.host.here, worker=worker)
        self.facts: deque[Any] = deque()
        self.inbox: deque[Fact] = deque()
        self.outbox: deque[Event] = deque()
        self.answers: dict[int, Action] = {}
        self.exported: dict[str, None] = {}
        #: Messages and texts that a person would read.
        self.shown: list[Any] = []
        self.paused = False
        self.closed: str | None = None
        self._request = 0

    def ask(self, make: Callable[[int], Fact]) -> int:
        """Append a request; return its number."""
        self._request += 1
        self.facts.append(make(self._request))
        return self._request

    def ask_for(self, ask: Get | Wait | Room, task: TaskID | None = None) -> int:
        """Put a body's or the driver's wish to the client machine."""
        timeout = None if isinstance(ask, Room) else ask.timeout
        deadline = None if timeout is None else self.fleet.now + timeout
        if isinstance(ask, Get):
            return self.ask(lambda n: ev.GetRequested(n, ask.object_ids, deadline, task))
        if isinstance(ask, Wait):
            return self.ask(lambda n: ev.WaitRequested(n, ask.object_ids, ask.count, deadline, task))
        return self.ask(lambda n: ev.Asked(n, msg.ExtentWanted(n, ask.size)))

    def route(self, message: Fact) -> bool:
        """Take what is not for the client machine."""
        return False

    def speak(self, limit: int | None = None) -> bool:
        """Step the client machine with what there is; False if there was nothing."""
        events: list[Event] = []
        while self.inbox and (limit is None or len(events) < limit):
            message = self.inbox.popleft()
            if not self.route(message):
                events.append((self.fleet.host.here, message))
        events += [(LOOP, fact) for fact in self.facts]
        self.facts.clear()
        due = self.client.next_deadline()
        if not events and (due is None or due > self.fleet.now):
            return False
        for action in self.client.step(self.fleet.now, events):
            self._perform(action)
        if self.fleet.checks:
            self.client.check_invariants()
        due = self.client.next_deadline()
        assert due is None or due > self.fleet.now, "a client would spin"
        return True

    def _perform(self, action: Action) -> None:
        if isinstance(action, act.Send):
            assert action.to == self.fleet.host.here
            self.outbox.append((self.where, action.message))
        elif isinstance(action, act.ShowOutput):
            self.shown.append(action.message)
        elif isinstance(action, act.ReportStuck):
            self.shown.append(action.text)
        elif isinstance(action, act.PauseSubmissions):
            self.paused = action.paused
        elif isinstance(action, act.CloseClient):
            self.closed = action.reason
        else:
            number = action.request  # type: ignore[attr-defined]
            assert number not in self.answers, "a request was answered twice (R3)"
            self.answers[number] = action

    def turn(self, limit: int | None = None) -> bool:
        """Do what can be done now; False if there was nothing."""
        return self.speak(limit)


class Author:
    """Whoever submits and puts: the driver's program, or an execution of a task. It owns references."""

    def __init__(self, process: Process, names: IdSequence) -> None:
        self.process = process
        self.names = names
        self.references: Counter[ObjectID] = Counter()
        #: Grants that it has not given back.
        self.pins: list[ObjectID] = []

    def submit(
        self,
        name: str,
        *dependencies: ObjectID,
        content: Any = None,
        contained: tuple[ObjectID, ...] = (),
        arguments: Value | None = None,
        **fields: Any,
    ) -> tuple[ObjectID, ...]:
        """Submit a task; return the IDs of its returns, one reference each."""
        if arguments is None:
            arguments = inline(content, *contained)
        function = self.process.fleet.function(name, self.process)
        made = TaskSpec(self.names.next_task(), function, name, arguments, dependencies, contained, **fields)
        self.process.facts.append(msg.TaskSubmitted(made))
        returns = return_ids(made.task_id, made.return_count)
        self.references.update(returns)
        return returns

    def call(self, name: str, *dependencies: ObjectID, **fields: Any) -> ObjectID:
        """Submit a task with one return; return its ID."""
        [object_id] = self.submit(name, *dependencies, **fields)
        return object_id

    def put(self, content: Any = None, *contained: ObjectID, value: Value | None = None) -> ObjectID:
        """Put a value; return its ID, one reference."""
        object_id = self.names.next_put()
        self.process.facts.append(msg.ObjectPut(object_id, value or inline(content, *contained), contained))
        self.references[object_id] += 1
        return object_id

    def write(self, offset: int, size: int, content: Any, *contained: ObjectID) -> Value:
        """Fill an extent that was granted; return the value that lies there."""
        data = inline(content, *contained).data
        assert len(data) <= size
        self.process.fleet.fill(offset, size, data)
        return Value(size, offset=offset)

    def hold(self, object_id: ObjectID) -> ObjectID:
        """One reference more, found inside a value."""
        self.process.facts.append(object_id)
        self.references[object_id] += 1
        return object_id

    def drop(self, *object_ids: ObjectID) -> None:
        """One reference less to each."""
        for object_id in object_ids:
            self.references[object_id] -= 1
            assert self.references[object_id] >= 0
            self.process.facts.append(ev.ReferenceDropped(object_id))

    def return_pins(self) -> None:
        """No view of anything that was read is left."""
        self.process.facts.extend([ev.PinDropped(object_id) for object_id in self.pins])
        self.pins = []

    def drop_all(self) -> None:
        """Every reference goes, and every view."""
        self.return_pins()
        for object_id, count in list(self.references.items()):
            for _ in range(count):
                self.drop(object_id)
        self.references.clear()

    def open(self, value: Value) -> tuple[Any, list[ObjectID]]:
        """Return the content of a value and what is inside it, as references that are born here. Raises TaskFailed."""
        if value.error:
            raise TaskFailed(value)
        content, inside = opened(self.process.fleet.data(value))
        for object_id in inside:
            self.hold(object_id)
        return content, inside

    def read(self, value: Value) -> Any:
        """Return the content alone."""
        return self.open(value)[0]


class Execution(Author):
    """One run of a body."""

    def __init__(self, worker: Worker, run: msg.RunTask) -> None:
        super().__init__(worker, IdSequence(run.spec.task_id, run.start, 0))
        self.worker = worker
        self.run = run
        self.values: list[Value] = []
        #: Extents written for returns; a body that fails after all gives them back.
        self.written: list[int] = []

    @property
    def contents(self) -> list[Any]:
        """The contents of the dependencies; what is inside them is held."""
        return [self.read(value) for value in self.values]

    @property
    def argument(self) -> Any:
        """The content of the arguments."""
        return opened(self.process.fleet.data(self.run.spec.arguments))[0]

    def large(self, size: int, content: Any, *contained: ObjectID) -> Generator[Ask, Any, Value]:
        """Write ``content`` into the arena; ``yield from`` it."""
        offset = yield Room(size)
        self.written.append(offset)
        return self.write(offset, size, content, *contained)


class Worker(Process):
    """A worker process: its pipeline, its tokens, its progress record, and the body that runs."""

    def __init__(self, fleet: Fleet, number: ProcessID) -> None:
        super().__init__(fleet, address(fleet.host.node, number), worker=True)
        self.number = number
        self.executor = Executor()
        self.tokens = 0
        self.started = 0
        self.finished = 0
        self.functions: dict[FunctionID, str] = {}
        #: Takes no turns.
        self.frozen = False
        #: Says nothing while a body runs or something is in the pipeline: finished tasks stay unreported.
        self.silent = False
        self.stopping = False
        self.execution: Execution | None = None
        self._life: Life | None = None
        self._until: Nanos | None = None
        self._waiting: int | None = None
        self._ask: Ask | None = None
        self._began: Nanos = 0
        self._began_waiting: Nanos = 0
        self._blocked: Nanos = 0

    def route(self, message: Fact) -> bool:
        if isinstance(message, msg.RunTasks):
            self.executor.accept(message)
        elif isinstance(message, msg.FunctionDelivered):
            self.functions[message.function_id] = message.name
        elif isinstance(message, msg.TasksForgotten):
            self.facts.append(self.executor.forget(message))
        elif isinstance(message, msg.StopRequested):
            self.stopping = True
        else:
            return False
        return True

    @property
    def until(self) -> Nanos | None:
        """When the body that computes is done, if one does."""
        return None if self.frozen else self._until

    def turn(self, limit: int | None = None) -> bool:
        if self.frozen:
            return False
        did = False
        if self.silent and not self._waiting and (self.execution or self.executor.queue):
            did = bool(self.inbox)
            while self.inbox and self.route(self.inbox[0]):
                self.inbox.popleft()
        else:
            did = self.speak(limit)
        if self._life is None:
            did = self._next() or did
        elif (self._until is not None and self._until <= self.fleet.now) or self._waiting in self.answers:
            self._go_on()
            did = True
        if self.stopping and self._life is None and not self.executor.queue and not self.facts and not did:
            self.fleet.lose(self, 0)
            return True
        return did

    def _next(self) -> bool:
        run = self.executor.next()
        if run is None:
            return False
        if not self.tokens:
            return True  # reclaimed
        self.tokens -= 1
        values = self.executor.values(run)
        if values is None:
            self.started = self.finished = run.sequence
            self.facts.append(self.executor.skip(run))
            return True
        assert run.spec.function_id in self.functions, "the function was not delivered before the task"
        self.started = run.sequence
        self._began, self._blocked = self.fleet.now, 0
        self.execution = Execution(self, run)
        self.fleet.note_start(self.execution)
        self._life = self._live(self.execution, values)
        self._go_on()
        return True

    def _live(self, execution: Execution, values: tuple[Value, ...]) -> Life:
        run, spec = execution.run, execution.run.spec
        for object_id, value, sent in zip(spec.dependencies, values, run.values, strict=True):
            if sent is None and value.offset >= 0:  # kept: it came without a grant
                execution.hold(object_id)
                [value] = yield Get((object_id,))
            elif value.offset >= 0:
                execution.pins.append(object_id)
            execution.values.append(value)
        if spec.arguments.offset >= 0:
            execution.pins.append(arguments_id(spec.task_id))
        for object_id in spec.contained:
            execution.hold(object_id)
        outcome = self.fleet.bodies[spec.name](execution)
        if isinstance(outcome, Generator):
            outcome = yield from outcome
        if spec.duration:
            yield Work(spec.duration)
        return outcome

    def _go_on(self) -> None:
        """Let the body run until it waits for something, or ends."""
        assert self._life is not None
        answer = self.answers.pop(self._waiting, None) if self._waiting is not None else None
        if self._waiting is not None:
            self._blocked += self.fleet.now - self._began_waiting
        self._until = self._waiting = None
        try:
            if isinstance(answer, act.RejectRequest):
                ask = self._life.throw(Refused(answer.failure))
            else:
                ask = self._life.send(self._opened(answer))
        except StopIteration as end:
            self._finish(_results(end.value), failed=False)
        except Raised as raised:
            self._finish((msg.Result(error(str(raised))),), failed=True, retryable=raised.retryable)
        except Refused as refused:
            self._finish((msg.Result(Value(0, error=True, failure=refused.failure)),), failed=True)
        except TaskFailed as failed:
            self._finish((msg.Result(failed.value),), failed=True)
        else:
            self._ask = ask
            if isinstance(ask, Work):
                self._until = self.fleet.now + ask.span
            else:
                self._began_waiting = self.fleet.now
                assert self.execution is not None
                self._waiting = self.ask_for(ask, None if isinstance(ask, Room) else self.execution.run.spec.task_id)

    def _opened(self, answer: Action | None) -> Any:
        """Return what a body is sent for an answer."""
        assert self.execution is not None
        if isinstance(answer, act.ResolveGet):
            assert isinstance(self._ask, Get)
            self.execution.pins += pinned(self._ask.object_ids, answer.values)
            return list(answer.values)
        if isinstance(answer, act.ResolveWait):
            assert isinstance(self._ask, Wait)
            check_ready(self._ask, answer.ready)
            return answer.ready
        if isinstance(answer, act.ResolveQuestion):
            granted = answer.answer
            assert isinstance(granted, msg.ExtentGranted)
            return granted.offset
        return None

    def _finish(self, results: tuple[msg.Result, ...], *, failed: bool, retryable: bool = False) -> None:
        execution = self.execution
        assert execution is not None
        run = execution.run
        took = self.fleet.now - self._began - self._blocked
        self.finished = run.sequence
        execution.return_pins()
        if failed:
            self.facts.extend([msg.ExtentReturned(offset) for offset in execution.written])
        self.facts.append(msg.TaskFinished(run.spec.task_id, run.attempt, results, took, retryable))
        if not failed:
            self.executor.finished(run, results)
        execution.drop_all()
        self.fleet.note_end(execution)
        self.execution = self._life = self._until = None


def pinned(object_ids: tuple[ObjectID, ...], values: tuple[Value, ...]) -> list[ObjectID]:
    """Return the grants that came with an answer: one for each distinct ID that lies in the arena."""
    return [o for o, v in dict(zip(object_ids, values, strict=True)).items() if v.offset >= 0]


def check_ready(ask: Wait, ready: tuple[ObjectID, ...]) -> None:
    """Raise unless ``ready`` is what a wait may return (S4): at most ``count``, of those asked for, in the order asked."""
    assert len(ready) <= ask.count
    positions = [ask.object_ids.index(object_id) for object_id in ready]
    assert positions == sorted(positions)
    assert len(ready) == ask.count or ask.timeout is not None


def _results(outcome: Any) -> tuple[msg.Result, ...]:
    """Return what a body returned as results: a Value, a Result, or a tuple of them."""
    if isinstance(outcome, tuple):
        return tuple([result for each in outcome for result in _results(each)])
    if isinstance(outcome, msg.Result):
        return (outcome,)
    assert isinstance(outcome, Value)
    return (msg.Result(outcome, tuple(opened(outcome.data)[1]) if outcome.offset < 0 else ()),)
