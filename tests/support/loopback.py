"""A Port without processes: objects in a dict, tasks run in the caller's thread when somebody asks for something.

What travels goes through msgpack, so that nothing passes that could not; grants and references are counted, so that a test can
say at its end that none is left.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from sundog.backends import current
from sundog.backends.grants import Answer, Grants
from sundog.backends.session import Session
from sundog.backends.task_body import TaskBody
from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import RejectRequest, ResolveGet, ResolveQuestion, ResolveWait
from sundog.core.config import Config
from sundog.core.ids import FunctionID, IdSequence, ObjectID, TaskID, return_ids, root_task_id
from sundog.core.known_objects import KnownObjects
from sundog.core.machine import Action, Fact
from sundog.core.task import Failure, FailureKind, TaskSpec, Value, arguments_id

ARENA_BYTES = 64 << 20


class LoopbackArena:
    """Memory of this process. Extents are never reused."""

    def __init__(self) -> None:
        self.bytes = np.zeros(ARENA_BYTES, np.uint8)
        self.readable = self.bytes.view()
        self.readable.flags.writeable = False
        self.end = 0
        self.returned: list[int] = []

    def allocate(self, size: int) -> int:
        offset = self.end
        self.end += -(-size // 64) * 64
        return offset

    def fill(self, offset: int, size: int, warm: bool, segments: Sequence[Any]) -> None:
        whole: Any = self.bytes
        memoryview(whole)[offset : offset + size] = b"".join(segments)

    def read(self, offset: int, size: int, grant: object) -> memoryview:
        class Exported(np.ndarray[Any, Any]):
            grant: object

        exported: Any = self.readable[offset : offset + size].view(Exported)
        exported.grant = grant
        return memoryview(exported)


class Store:
    """What the node would know."""

    def __init__(self) -> None:
        self.values: dict[bytes, Value] = {}
        self.contained: dict[bytes, tuple[bytes, ...]] = {}
        self.functions: dict[FunctionID, msg.FunctionDelivered] = {}
        self.arena = LoopbackArena()
        self.grants: Counter[bytes] = Counter()
        self.escaped: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.submitted: list[TaskSpec] = []
        self.starts: Counter[bytes] = Counter()

    def delivered(self, object_id: bytes) -> Value:
        value = self.values[object_id]
        if value.offset >= 0:
            self.grants[object_id] += 1
        return value


class LoopbackPort:
    """See the module. Satisfies ``base.Port``."""

    arena: Any

    def __init__(self, store: Store | None = None, root: TaskID | None = None, config: Config | None = None) -> None:
        self.config = config or Config()
        self.facts: deque[Any] = deque()
        self.grants = Grants(self.facts)
        self.known = KnownObjects(self.config)
        self.store = store or Store()
        self.arena = self.store.arena
        self.references: Counter[bytes] = Counter()
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.closed = False
        #: Tasks are kept and not run: nothing becomes ready.
        self.frozen = False
        self.kicks = 0
        self._waiting: deque[TaskSpec] = deque()
        self._requests = itertools.count(1)
        self._ids = IdSequence(root or root_task_id(b"loopback"), 1, 0)
        self._worker: Session | None = None

    def submitted(self, size: int) -> None:
        pass

    def answered_here(self) -> None:
        pass

    def kick(self) -> None:
        self.kicks += 1

    def next_request(self) -> int:
        return next(self._requests)

    def lane(self) -> IdSequence:
        return self._ids

    def current_task(self) -> TaskID | None:
        return None

    def close(self) -> None:
        self.closed = True

    def ask(self, fact: Any) -> Answer:
        self.turn()
        answer = self._answer(fact)
        return self.grants.of_answer(answer, fact.object_ids) if isinstance(answer, ResolveGet) else answer

    def begin(self, fact: Any, done: Callable[[Answer], None]) -> None:
        done(self.ask(fact))

    def turn(self) -> None:
        """Take all facts, then run what was submitted."""
        facts = self.facts
        while facts or (self._waiting and not self.frozen):
            while facts:
                self._take(facts.popleft())
            if self._waiting and not self.frozen:
                self._run(self._waiting.popleft())

    def live(self) -> dict[bytes, int]:
        """Return the references that live, by ID."""
        self.turn()
        return {object_id: count for object_id, count in self.references.items() if count}

    def _take(self, fact: Any) -> None:
        if type(fact) is bytes:
            self.references[fact] += 1
            return
        fact = msgspec.msgpack.decode(msgspec.msgpack.encode(fact), type=type(fact))
        if isinstance(fact, ev.ReferenceDropped):
            self.references[fact.object_id] -= 1
            assert self.references[fact.object_id] >= 0, "dropped before it was born"
            if not self.references[fact.object_id]:
                self.known.forget((fact.object_id,))
        elif isinstance(fact, ev.PinDropped):
            self.store.grants[fact.object_id] -= 1
            assert self.store.grants[fact.object_id] >= 0, "a grant was returned twice"
        elif isinstance(fact, msg.TaskSubmitted):
            for object_id in return_ids(fact.spec.task_id, fact.spec.return_count):
                self.references[object_id] += 1
            self.store.submitted.append(fact.spec)
            self._waiting.append(fact.spec)
        elif isinstance(fact, msg.ObjectPut):
            self.references[fact.object_id] += 1
            self.store.values[fact.object_id] = fact.value
            self.store.contained[fact.object_id] = fact.contained
        elif isinstance(fact, msg.FunctionExported):
            self.store.functions[fact.function_id] = msg.FunctionDelivered(fact.function_id, fact.name, fact.code)
        elif isinstance(fact, msg.IDsEscaped):
            self.store.escaped.extend(fact.object_ids)
        elif isinstance(fact, msg.ExtentReturned):
            self.arena.returned.append(fact.offset)
        elif not isinstance(fact, ev.RequestAbandoned):
            raise AssertionError(f"unexpected fact {fact}")

    def _answer(self, fact: Any) -> Action:
        store = self.store
        if isinstance(fact, ev.GetRequested):
            if any(object_id not in store.values for object_id in fact.object_ids):
                return RejectRequest(fact.request, Failure(FailureKind.TIMEOUT, "get timed out"))
            distinct = {object_id: store.delivered(object_id) for object_id in dict.fromkeys(fact.object_ids)}
            return ResolveGet(fact.request, tuple([distinct[object_id] for object_id in fact.object_ids]))
        if isinstance(fact, ev.WaitRequested):
            ready = [object_id for object_id in fact.object_ids if object_id in store.values]
            return ResolveWait(fact.request, tuple(ready[: fact.count]))
        assert isinstance(fact, ev.Asked)
        return ResolveQuestion(fact.request, self._reply(fact.question))

    def _reply(self, question: Fact) -> Fact:
        if isinstance(question, msg.ExtentWanted):
            return msg.ExtentGranted(question.request, self.arena.allocate(question.size), question.size, False)
        if isinstance(question, msg.CancelRequested):
            ready = self.store.values
            return msg.CancelAnswered(question.request, tuple([o for o in question.object_ids if o not in ready]))
        if isinstance(question, msg.TableRequested):
            return msg.TableGiven(question.request, msgspec.msgpack.encode(self.tables.get(question.table, [])))
        assert isinstance(question, msg.ExplanationRequested)
        return msg.ExplanationGiven(question.request, "because")

    def _run(self, spec: TaskSpec) -> None:
        store = self.store
        for object_id in spec.dependencies:
            value = store.values[object_id]
            if value.error:
                self._seal(spec, (msg.Result(msgspec.structs.replace(value, trail=(spec.name, *value.trail))),), True)
                return
        values = tuple([store.delivered(object_id) for object_id in spec.dependencies])
        if spec.arguments.offset >= 0:
            store.grants[arguments_id(spec.task_id)] += 1
        store.starts[spec.task_id] += 1
        run = msg.RunTask(spec, 1, store.starts[spec.task_id], 1, values)
        worker = self._worker
        if worker is None:
            worker = self._worker = Session(LoopbackPort(store, config=self.config), worker=True)
        port: Any = worker.port
        port._ids = IdSequence(spec.task_id, run.start, 0)
        before = current.get()
        current.set(worker)
        try:
            outcome = TaskBody(worker)(run, store.functions.get(spec.function_id), values)
        finally:
            current.set(before)
        port.turn()
        self._seal(spec, outcome.results, outcome.failed)

    def _seal(self, spec: TaskSpec, results: tuple[msg.Result, ...], failed: bool) -> None:
        results = msgspec.msgpack.decode(msgspec.msgpack.encode(results), type=tuple[msg.Result, ...])
        for index, object_id in enumerate(return_ids(spec.task_id, spec.return_count)):
            result = results[0 if failed else index]
            self.store.values[object_id] = result.value
            self.store.contained[object_id] = result.contained


@contextmanager
def loopback(config: Config | None = None) -> Iterator[LoopbackPort]:
    """A current session over a loopback, for the length of a block."""
    port = LoopbackPort(config=config)
    before = current.get()
    current.set(Session(port))
    try:
        yield port
    finally:
        current.set(before)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return once ``condition`` holds; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never held"


__all__ = ["LoopbackPort", "ObjectID", "Store", "loopback", "wait_until"]
