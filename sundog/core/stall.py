"""Can these blocked tasks ever move again? If not: which of them should fail, and what should people be told?

A task that blocks in ``get`` or ``wait`` gives its CPUs back but keeps GPUs and custom resources. Tasks are *deadlocked*
when each waits for something that only one of them can bring about: the end of another blocked task, or resources that
blocked tasks hold. Everything else is given the benefit of the doubt: what runs will end, what is being put will be
there, what fits will be started, what no node can hold will fail with its own message.

The judgement is the banker's: as long as one task can move, let it move, finish, and give back what it holds. It is one pass
over who waits for what: each task counts what it still lacks, and whoever moves tells those that wait for it, once. What
lacks room waits under one resource that it lacks, the smallest wish first; room only grows, so it moves on at most once
for each resource that it wants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush

import msgspec

from sundog.core.ids import ObjectID, TaskID, producer_of
from sundog.core.resources import ResourceSet, Shape, describe

#: Steps of the chain that are told; longer ones are cut in the middle of nowhere interesting.
_CHAIN_MAX = 12
#: Stands among the names of resources for the workers that may still be blocked.
_WORKERS = "\0worker"


class BlockedTask(msgspec.Struct, frozen=True, gc=False):
    """A task whose body waits until ``count`` of ``waits_for`` are ready. Only those that are *not* ready are named."""

    task_id: TaskID
    name: str
    #: Higher is newer; the newest fails.
    order: int
    waits_for: tuple[ObjectID, ...]
    #: How many of ``waits_for`` must still become ready.
    count: int
    #: What it keeps while it waits.
    holds: Shape = ()


class PendingTask(msgspec.Struct, frozen=True, gc=False):
    """A task that has not started: its arguments that are not ready, and the resources it wants."""

    task_id: TaskID
    name: str
    needs: tuple[ObjectID, ...]
    wants: Shape


class Deadlock(msgspec.Struct, frozen=True, gc=False):
    """``task_id`` should fail with ``message``, which holds the chain."""

    task_id: TaskID
    message: str


def find_deadlock(
    blocked: Sequence[BlockedTask],
    stuck: Mapping[ObjectID, PendingTask],
    resources: ResourceSet,
    workers_max: int | None = None,
    refused: str = "",
) -> Deadlock | None:
    """Return the newest of the ``blocked`` tasks that can never move, with the chain; None if all can.

    ``stuck`` maps objects to the tasks that will return them and have not started; an object that neither it nor a
    blocked task returns is taken to be on its way. ``workers_max`` bounds the processes that may be blocked at a time;
    ``refused`` says why there can be no more, if it is not the setting that says so. Linear in what the tasks wait for,
    whatever their order (but for the heaps of those that lack room).
    """
    if not blocked:
        return None
    return _Inquiry(blocked, stuck, resources, workers_max, refused).verdict()


class _Inquiry:
    """One judgement."""

    def __init__(
        self,
        blocked: Sequence[BlockedTask],
        stuck: Mapping[ObjectID, PendingTask],
        resources: ResourceSet,
        workers_max: int | None,
        refused: str,
    ) -> None:
        self._stuck = stuck
        self._refused = refused
        self._capacity = resources.capacity
        self._workers_max = workers_max
        #: Tasks that cannot move, as far as is known; they only ever leave.
        self._blocked = {task.task_id: task for task in blocked}
        self._pending = self._reachable(blocked)
        self._room = self._free_room()
        #: How many of the things that it waits for a task lacks; and who waits for what a task makes, once for each mention.
        self._lacks: dict[TaskID, int] = {}
        self._waiters: dict[TaskID, list[TaskID]] = {}
        #: Tasks that lack room, by a resource of which there is too little: amount, number, task.
        self._unfit: dict[str, list[tuple[int, int, PendingTask]]] = {}
        self._unfit_count = 0

    def verdict(self) -> Deadlock | None:
        movable = [pending.task_id for pending in self._pending.values() if not self._enter(pending, pending.needs, 0)]
        blocked = self._blocked.values()
        movable += [t.task_id for t in blocked if self._enter(t, t.waits_for, len(t.waits_for) - t.count) <= 0]
        while movable:
            self._move(movable.pop(), movable)
        if not self._blocked:
            return None
        newest = max(blocked, key=lambda task: task.order)
        return Deadlock(newest.task_id, self._tell(newest))

    def _enter(self, task: BlockedTask | PendingTask, needs: tuple[ObjectID, ...], spare: int) -> int:
        """Note what a task that needs all but ``spare`` of its ``needs`` lacks; return how many that is."""
        lacks = -spare
        for need in needs:
            if not self._can_come(need):
                lacks += 1
                self._waiters.setdefault(producer_of(need), []).append(task.task_id)
        self._lacks[task.task_id] = lacks
        return lacks

    def _move(self, task_id: TaskID, movable: list[TaskID]) -> None:
        """Let a task that lacks nothing run to its end, if there is room; those that then lack nothing are ``movable``."""
        pending = self._pending.get(task_id)
        if pending is not None and not self._has_room(pending):
            return
        task = self._blocked.pop(task_id, None)
        if pending is not None:
            del self._pending[task_id]
        elif task is not None:
            self._give_back(task, movable)
        for waiter in self._waiters.pop(task_id, ()):
            self._lacks[waiter] -= 1
            if not self._lacks[waiter]:
                movable.append(waiter)

    def _give_back(self, task: BlockedTask, movable: list[TaskID]) -> None:
        """What ``task`` held is free, and its worker: those that found no room may look again."""
        for name, amount in (*task.holds, (_WORKERS, 1)):
            free = self._room[name] = self._room.get(name, 0) + amount
            unfit = self._unfit.get(name)
            while unfit and unfit[0][0] <= free:
                movable.append(heappop(unfit)[2].task_id)

    def _reachable(self, blocked: Sequence[BlockedTask]) -> dict[TaskID, PendingTask]:
        """Return the tasks not started that the blocked ones wait for, directly or through arguments."""
        found: dict[TaskID, PendingTask] = {}
        todo = [wanted for task in blocked for wanted in task.waits_for]
        while todo:
            wanted = todo.pop()
            if producer_of(wanted) in found:
                continue
            pending = self._stuck.get(wanted)
            if pending is not None and pending.task_id not in found:
                found[pending.task_id] = pending
                todo += pending.needs
        return found

    def _free_room(self) -> dict[str, int]:
        """Return what is free once everything but the blocked tasks has ended."""
        room = dict(self._capacity)
        room[_WORKERS] = (self._workers_max - len(self._blocked)) if self._workers_max is not None else 1
        for task in self._blocked.values():
            for name, amount in task.holds:
                room[name] = room.get(name, 0) - amount
        return room

    def _has_room(self, pending: PendingTask) -> bool:
        """Tell whether there is room for ``pending``; if not, it waits under the first resource of which there is too little."""
        room = self._room
        for name, amount in ((_WORKERS, 1), *pending.wants):
            # What exceeds the whole node is not stuck: it runs elsewhere, or fails as infeasible.
            if room.get(name, 0) < amount and (name == _WORKERS or self._capacity.get(name, 0) >= amount):
                self._unfit_count += 1
                heappush(self._unfit.setdefault(name, []), (amount, self._unfit_count, pending))
                return False
        return True

    def _can_come(self, object_id: ObjectID) -> bool:
        task_id = producer_of(object_id)
        return task_id not in self._blocked and task_id not in self._pending

    # -- the story

    def _tell(self, newest: BlockedTask) -> str:
        told: list[str] = []
        met: dict[TaskID, None] = {}
        at: BlockedTask | PendingTask | None = newest
        advice = "Let the tasks wait for each other in one direction only."
        while at is not None:
            if at.task_id in met:
                told.append(f"and there the circle closes at {at.name}")
                break
            if len(told) == _CHAIN_MAX:
                told.append("and so on")
                break
            met[at.task_id] = None
            if isinstance(at, BlockedTask):
                at = self._tell_blocked(at, told)
                continue
            missing = next((need for need in at.needs if not self._can_come(need)), None)
            if missing is None:
                advice = self._tell_unfit(at, told)
                break
            maker = self._maker(missing)
            told.append(f"{at.name} has not started, because it needs the result of {maker.name}")
            at = maker
        return f"deadlock: {'; '.join(told)}. {advice}"

    def _tell_blocked(self, task: BlockedTask, told: list[str]) -> BlockedTask | PendingTask:
        stuck = [wanted for wanted in task.waits_for if not self._can_come(wanted)]
        maker = self._maker(stuck[0])
        holding = f", holding {describe(task.holds)}," if task.holds else ""
        others = f" and {len(stuck) - 1} more" if len(stuck) > 1 else ""
        told.append(f"{task.name}{holding} waits for {maker.name}{others}")
        return maker

    def _tell_unfit(self, pending: PendingTask, told: list[str]) -> str:
        """Say why a task whose arguments can come has no room; return the advice."""
        room = self._room
        short = [pair for pair in pending.wants if room.get(pair[0], 0) < pair[1]]
        if not short and self._refused:
            told.append(f"{pending.name} has no worker: all {self._workers_max} are blocked, and {self._refused}")
            return "Nest less deeply, or raise that limit."
        if not short:
            told.append(f"{pending.name} has no worker, because all {self._workers_max} that may exist are blocked")
            return "Nest less deeply, or raise worker_processes_max."
        name = short[0][0]
        holders = [task for task in self._blocked.values() if name in dict(task.holds)]
        named = ", ".join(f"{task.name} ({describe(task.holds)})" for task in holders[:_CHAIN_MAX])
        more = f" and {len(holders) - _CHAIN_MAX} more" if len(holders) > _CHAIN_MAX else ""
        has = describe([(name, self._capacity.get(name, 0))])
        told.append(
            f"{pending.name} needs {describe(short)} of the {has} that there are, and blocked tasks hold them: {named}{more}"
        )
        return (
            f"A task keeps its {name} while it waits: wait for {pending.name} outside such a task, ask for less {name}, "
            "or give the node more."
        )

    def _maker(self, object_id: ObjectID) -> BlockedTask | PendingTask:
        task_id = producer_of(object_id)
        blocked = self._blocked.get(task_id)
        return blocked if blocked is not None else self._pending[task_id]
