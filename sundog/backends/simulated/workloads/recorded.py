"""The workload of a real run, from what ``sundog.init(record=path)`` wrote.

Durations are those that workers measured, sizes those of the values, dependencies those of the calls; a body's steps are put
together from when its submissions, puts and waits were heard of. What was measured stays measured: a task is submitted when the
driver's submission arrived at the node, also where the driver had waited for something before.

What is not exact: messages of workers travel in batches, so steps may be a millisecond late within a body (never more than its
duration); a ``wait`` for some of several objects becomes a get of those that were ready first; where an ID reached a task inside
another task's result, the task waits for that other task; further threads of a body are heard of only as far as they submit.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from sundog.backends import schema
from sundog.backends.recorder import Recording
from sundog.backends.simulated.workloads.workload import BY_DRIVER, PUT, Compute, Get, Output, Step, Submit, Workload, WorkTask
from sundog.core import actions as act
from sundog.core import messages as msg
from sundog.core.ids import (
    DRIVER,
    PREFIX_BYTES,
    NodeID,
    ObjectID,
    TaskID,
    execution_prefix,
    is_put,
    node_of,
    process_of,
    producer_of,
)
from sundog.core.lots import singly
from sundog.core.resources import Shape
from sundog.core.units import Nanos

#: Threads of one body whose submissions are recognized.
_LANES_MAX = 32

_SEND = schema.tag_of(act.Send)
_DISPATCH = schema.tag_of(act.Dispatch)
_RESUMED = (schema.tag_of(msg.TaskResumed), schema.tag_of(msg.RequestRefused))


class _Moment(msgspec.Struct):
    """Something that a body did: it submitted (or put) ``name``, or waited for ``count`` of ``wanted`` until ``until``."""

    at: Nanos
    name: bytes = b""
    wanted: tuple[ObjectID, ...] = ()
    count: int = 0
    until: Nanos = 0


class _Seen(msgspec.Struct):
    """A task or a put value, by what was said of it."""

    name: bytes
    at: Nanos
    function: str
    sizes: tuple[int, ...]
    resources: Shape = ()
    dependencies: tuple[ObjectID, ...] = ()
    #: None: a driver submitted it.
    parent: TaskID | None = None
    duration: Nanos = 0
    ended_at: Nanos | None = None
    #: The last start of its body, and what that did.
    start: int = 0
    moments: list[_Moment] = []


def read_recording(path: str | os.PathLike[str], *, name: str = "") -> Workload:
    """Return the workload that was recorded at ``path``. ``name``: what to call it; default: the file's name.

    Tasks that never ran (cancelled, or with a failed argument) take no time. Of a body that was started again, the last start
    counts. Raises OSError, or ``recorder.RecordingError`` if the file is no recording that this version reads.
    """
    recording = Recording(path)
    run = _Run(NodeID(recording.header.node))
    for turn in recording.turns():
        for raw in turn.events:
            sender, fact = recording.event(raw)
            if sender >= 0 and node_of(sender) == run.node:
                run.heard(turn.now, process_of(sender), fact)
        for raw in turn.actions:
            run.asked(turn.now, msgspec.msgpack.decode(raw))
    return Workload(_Graph(run).tasks(), name or os.path.basename(os.fspath(path)))


class _Run:
    """What the recording says, in the order in which it says it."""

    def __init__(self, node: NodeID) -> None:
        self.node = node
        #: Tasks by their TaskID, puts by their ObjectID.
        self.seen: dict[bytes, _Seen] = {}
        #: Whose body gives names with these first bytes, and in which start.
        self._bodies: dict[bytes, tuple[TaskID, int]] = {}
        self._given: dict[int, list[tuple[TaskID, int]]] = {}
        self._waiting: dict[tuple[int, int], _Moment] = {}

    def heard(self, now: Nanos, process: int, fact: Any) -> None:
        """An event of a process."""
        if isinstance(fact, (msg.TasksSubmitted, msg.TasksFinished)):
            for one in singly(fact):
                self.heard(now, process, one)
        elif isinstance(fact, msg.TaskSubmitted):
            spec = fact.spec
            sizes = (0,) * spec.return_count
            seen = _Seen(spec.task_id, now, spec.name, sizes, spec.resources, spec.dependencies)
            self._made(seen, process)
        elif isinstance(fact, msg.ObjectPut):
            self._made(_Seen(fact.object_id, now, PUT, (fact.value.size,)), process)
        elif isinstance(fact, msg.TaskFinished):
            found = self.seen.get(fact.task_id)
            if found is not None:
                found.duration, found.ended_at = fact.duration, now
                sizes = tuple([result.value.size for result in fact.results])
                found.sizes = sizes if len(sizes) == len(found.sizes) else sizes[:1] * len(found.sizes)
        elif isinstance(fact, msg.TaskBlocked):
            found = self.seen.get(fact.task_id)
            if found is not None:
                moment = _Moment(now, wanted=fact.object_ids, count=fact.count, until=now)
                found.moments.append(moment)
                self._waiting[process, fact.request] = moment

    def asked(self, now: Nanos, action: list[Any]) -> None:
        """An action, as a bare array: tasks were given to a worker, or a body may go on."""
        if action[0] == _DISPATCH:
            for run in action[2]:
                self._dispatched(action[1], TaskID(run[0][0]), run[2])
        elif action[0] == _SEND and action[2][0] in _RESUMED:
            moment = self._waiting.pop((process_of(action[1]), action[2][1]), None)
            if moment is not None:
                moment.until = now

    def _dispatched(self, worker: int, task_id: TaskID, start: int) -> None:
        self._given.setdefault(worker, []).append((task_id, start))
        self._bodies[execution_prefix(task_id, start, 0)] = (task_id, start)
        found = self.seen.get(task_id)
        if found is not None and found.start != start:
            found.start, found.moments = start, []

    def _made(self, seen: _Seen, process: int) -> None:
        if seen.name in self.seen:
            return
        self.seen[seen.name] = seen
        if process == DRIVER:
            return
        body = self._body(seen.name[:PREFIX_BYTES], process)
        if body is None:
            return
        parent = self.seen.get(body[0])
        seen.parent = body[0]
        if parent is not None and parent.start == body[1]:
            parent.moments.append(_Moment(seen.at, seen.name))

    def _body(self, prefix: bytes, worker: int) -> tuple[TaskID, int] | None:
        """Return whose body, in which start, gives names with this prefix."""
        found = self._bodies.get(prefix)
        if found is None:
            # A further thread of a body: of one that this worker was given, the newest first.
            for task_id, start in reversed(self._given.get(worker, ())):
                for lane in range(1, _LANES_MAX):
                    if execution_prefix(task_id, start, lane) == prefix:
                        found = self._bodies[prefix] = (task_id, start)
                        return found
        return found


class _Graph:
    """The tasks of a run, numbered in the order of their submission."""

    def __init__(self, run: _Run) -> None:
        self._node = int(run.node)
        self._seen: list[_Seen] = []
        self._number: dict[bytes, int] = {}
        self._parent: list[int] = []
        self._submitted = {moment.name: seen.name for seen in run.seen.values() for moment in seen.moments if moment.name}
        self._began = min([seen.at for seen in run.seen.values()], default=0)
        for seen in run.seen.values():
            parent = BY_DRIVER
            if seen.parent is not None:
                # What an earlier start of a body made, which then died, was made again.
                if self._submitted.get(seen.name) != seen.parent or seen.parent not in self._number:
                    continue
                parent = self._number[seen.parent]
            self._number[seen.name] = len(self._seen)
            self._seen.append(seen)
            self._parent.append(parent)

    def tasks(self) -> list[WorkTask]:
        """Return them."""
        return [self._task(index, seen) for index, seen in enumerate(self._seen)]

    def _task(self, index: int, seen: _Seen) -> WorkTask:
        taken: dict[Output, None] = {}
        for object_id in seen.dependencies:
            found = self._known(object_id, index, own=False)
            if found is not None:
                taken[found] = None
        parent = self._parent[index]
        steps = self._steps(index, seen)
        return WorkTask(
            duration=sum([step.span for step in steps if isinstance(step, Compute)]) if steps else seen.duration,
            inputs=tuple(taken),
            outputs=seen.sizes,
            resources=seen.resources,
            submitted_at=seen.at - self._began if parent == BY_DRIVER else 0,
            node=self._node,
            function=seen.function,
            parent=parent,
            steps=steps,
        )

    def _steps(self, index: int, seen: _Seen) -> tuple[Step, ...]:
        """Return what the body did; it computed in all for as long as its worker measured, where that got so far."""
        moments = [one for one in seen.moments if not one.name or one.name in self._number]
        if not moments:
            return ()
        waited = sum([one.until - one.at for one in moments if not one.name])
        ended = seen.ended_at
        began = moments[0].at if ended is None else ended - seen.duration - waited
        steps: list[Step] = []
        done = away = 0
        for one in moments:
            computed = one.at - began - away
            offset = max(done, computed) if ended is None else max(done, min(computed, seen.duration))
            if offset > done:
                steps.append(Compute(offset - done))
                done = offset
            if one.name:
                child = (self._number[one.name],)
                if steps and isinstance(steps[-1], Submit):
                    steps[-1] = Submit(steps[-1].tasks + child)
                else:
                    steps.append(Submit(child))
            else:
                away += one.until - one.at
                tasks = self._waited_for(index, one)
                if tasks:
                    steps.append(Get(tasks))
        if seen.duration > done:
            steps.append(Compute(seen.duration - done))
        return tuple(steps)

    def _waited_for(self, index: int, moment: _Moment) -> tuple[int, ...]:
        found = [output[0] for object_id in moment.wanted if (output := self._known(object_id, index, own=True)) is not None]
        distinct = list(dict.fromkeys(found))
        if moment.count < len(moment.wanted):
            # Those that the wait ended with: the first to be over. Puts always are.
            ends = {one: self._seen[one].ended_at for one in distinct}
            distinct.sort(key=lambda one: (ends[one] is None and self._seen[one].function != PUT, ends[one] or 0))
            del distinct[moment.count :]
        return tuple(sorted(distinct))

    def _known(self, object_id: ObjectID, index: int, own: bool) -> Output | None:
        """Return the output that a task (``own``: its body) takes for ``object_id``; None if there is none to wait for."""
        wanted = self._number.get(object_id if is_put(object_id) else producer_of(object_id))
        if wanted is None:
            return None
        output = 0 if is_put(object_id) else int.from_bytes(object_id[-4:], "big") - 1
        #: By whom it can know something -> the one of its line that they submitted; what came before that is known to it.
        heirs: dict[int, int] = {index: len(self._seen)} if own else {}
        heir = index
        while True:
            heirs[self._parent[heir]] = heir
            if self._parent[heir] == BY_DRIVER:
                break
            heir = self._parent[heir]
        while self._parent[wanted] not in heirs:
            wanted, output = self._parent[wanted], 0
        # To wait for oneself, or for who waits for oneself, was not what happened.
        return (wanted, output) if wanted < heirs[self._parent[wanted]] else None
