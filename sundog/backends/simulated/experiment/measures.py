"""What is written down while a workload runs: compactly by task and node, some stores for each thing that happens.

Sums over time are kept without a clock: a level that goes up by x at time t adds ``-x * t``, and ``x * t`` when it comes down
again, so that what remains at the end is the integral of the level. They are kept apart from what is stored by task, and
:meth:`Measures.check` compares the two: to the nanosecond, since all are integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sundog.backends.simulated.workloads.workload import Get, Workload
from sundog.core.errors import InvariantViolation
from sundog.core.resources import CPU, Shape
from sundog.core.units import Nanos

#: In place of a time that has not come.
NEVER = -1


class Measures:
    """The record of one run of ``workload`` on nodes that have ``shapes``. Times are virtual nanoseconds from the run's start.

    The engine calls the methods, in any order between tasks but with the times of one task in order: ``submitted``, then
    ``started``, any number of ``blocked`` and ``resumed``, then ``finished``; after ``lost`` it is started again. A value that is
    put is submitted, started and finished at the same time. To the counters the engine adds itself: ``measures.steps += 1``,
    ``measures.spilled_out[node] += 1``.
    """

    __slots__ = (
        "_ready", "blocked_for", "busy", "bytes_dropped", "bytes_in_flight", "bytes_received", "bytes_remote",
        "bytes_sent", "capacity", "decisions", "ended_at", "events", "evicted_bytes", "evictions", "fetches", "finished_at",
        "finished_count", "freed", "in_system", "messages_local", "messages_remote", "node", "resident", "retries", "seconds",
        "shapes", "share", "spilled_in", "spilled_out", "started_at", "steps", "store_peak", "stored", "submitted_at",
        "submitted_count", "wasted", "worker", "workload",
    )  # fmt: skip

    def __init__(self, workload: Workload, shapes: Sequence[Shape]) -> None:
        count, nodes = len(workload), len(shapes)
        self.workload = workload
        self.shapes = tuple(shapes)
        # By task. Lists, since a store into one takes a fifth of that into an array.
        self.submitted_at = [NEVER] * count
        #: The body of the last attempt began.
        self.started_at = [NEVER] * count
        #: The body returned whose result counts.
        self.finished_at = [NEVER] * count
        self.node = [NEVER] * count
        self.worker = [NEVER] * count
        #: How long the last attempt waited in get, by those that did.
        self.blocked_for: dict[int, Nanos] = {}
        #: How many of its attempts were lost, by those that lost any.
        self.retries: dict[int, int] = {}
        #: The CPU shares that it holds while it computes.
        by_shape: dict[Shape, int] = {one: dict(one).get(CPU, 0) for one in {task.resources for task in workload}}
        self.share = [by_shape[task.resources] for task in workload]
        # By node.
        self.capacity = [dict(one).get(CPU, 0) for one in shapes]
        #: CPU shares times nanoseconds, while tasks compute. With a task under way, no number that means anything.
        self.busy = [0] * nodes
        #: The part of it that was for nothing: attempts that were lost.
        self.wasted = [0] * nodes
        #: Tasks that it gave to the global scheduler, and was given by it.
        self.spilled_out = [0] * nodes
        self.spilled_in = [0] * nodes
        self.evictions = [0] * nodes
        self.evicted_bytes = [0] * nodes
        self.store_peak = [0] * nodes
        #: Bytes that came into its store (sealed or fetched), left it, and are in it at the end (the engine's word).
        self.stored = [0] * nodes
        self.freed = [0] * nodes
        self.resident = [0] * nodes
        #: Bytes of values from other nodes' stores: as the sender and as the receiver counts them.
        self.bytes_sent = [0] * nodes
        self.bytes_received = [0] * nodes
        # Of the run.
        self.bytes_dropped = 0
        self.bytes_in_flight = 0
        #: The integral of the number of tasks in the system: submitted, not finished.
        self.in_system = 0
        self.submitted_count = 0
        self.finished_count = 0
        #: Messages within a node and between nodes, and the bytes of these on the wire.
        self.messages_local = self.messages_remote = 0
        self.bytes_remote = 0
        #: Steps of schedulers, tasks they placed, values fetched from another node, events of the simulation.
        self.steps = self.decisions = self.fetches = self.events = 0
        #: When the run was over, and how many real seconds it took.
        self.ended_at: Nanos = 0
        self.seconds = 0.0
        self._ready: list[Nanos] | None = None

    def add_node(self, shape: Shape) -> None:
        """One more node has joined: one that was lost is started again, under the next number."""
        self.shapes = (*self.shapes, shape)
        self.capacity.append(dict(shape).get(CPU, 0))
        for of_nodes in (
            self.busy, self.wasted, self.spilled_out, self.spilled_in, self.evictions, self.evicted_bytes, self.store_peak,
            self.stored, self.freed, self.resident, self.bytes_sent, self.bytes_received,
        ):  # fmt: skip
            of_nodes.append(0)

    # --- what the engine calls for tasks ------------------------------------------------------------------------------

    def submitted(self, index: int, now: Nanos) -> None:
        """A driver or a body submits the task."""
        self.submitted_at[index] = now
        self.submitted_count += 1
        self.in_system -= now

    def started(self, index: int, now: Nanos, node: int, worker: int) -> None:
        """Its body begins."""
        self.started_at[index] = now
        self.node[index] = node
        self.worker[index] = worker
        self.busy[node] -= self.share[index] * now

    def blocked(self, index: int, now: Nanos) -> None:
        """Its body waits in get and has given its CPUs back."""
        self.blocked_for[index] = self.blocked_for.get(index, 0) - now
        self.busy[self.node[index]] += self.share[index] * now

    def resumed(self, index: int, now: Nanos) -> None:
        """Its body goes on, with its CPUs."""
        self.blocked_for[index] += now
        self.busy[self.node[index]] -= self.share[index] * now

    def finished(self, index: int, now: Nanos) -> None:
        """Its body returned, and its result counts."""
        self.finished_at[index] = now
        self.finished_count += 1
        self.in_system += now
        self.busy[self.node[index]] += self.share[index] * now

    def lost(self, index: int, now: Nanos, blocked: bool = False) -> None:
        """The attempt is over and its result does not count: the worker or its node died. ``blocked``: it waited in get then."""
        node, share = self.node[index], self.share[index]
        waited = self.blocked_for.pop(index, 0)
        if blocked:
            waited += now
        else:
            self.busy[node] += share * now
        self.wasted[node] += share * (now - self.started_at[index] - waited)
        self.started_at[index] = NEVER
        self.retries[index] = self.retries.get(index, 0) + 1

    # --- for stores and fetches ---------------------------------------------------------------------------------------

    def sent(self, node: int, size: int) -> None:
        """A value of ``size`` bytes leaves the store of ``node`` for another; also for each part that is sent again."""
        self.bytes_sent[node] += size

    def received(self, node: int, size: int) -> None:
        """All of a value of ``size`` bytes has come to ``node`` from another."""
        self.bytes_received[node] += size
        self.fetches += 1

    def store_used(self, node: int, used: int) -> None:
        """The store of ``node`` holds ``used`` bytes now."""
        if used > self.store_peak[node]:
            self.store_peak[node] = used

    def evicted(self, node: int, size: int) -> None:
        """The store of ``node`` gave up a copy of ``size`` bytes to have room."""
        self.evictions[node] += 1
        self.evicted_bytes[node] += size

    def close(self, now: Nanos, seconds: float) -> None:
        """The run is over at ``now``, after so many real seconds."""
        self.ended_at = now
        self.seconds = seconds
        self._ready = None

    # --- what follows from it -----------------------------------------------------------------------------------------

    def ready_at(self) -> list[Nanos]:
        """Return, by task, when it could have begun: it was submitted, and its last input's task had finished; NEVER if that did
        not come. Where the input was and how long it travels is no matter: to wait for it is queueing. To be called after
        ``close``."""
        if self._ready is not None:
            return self._ready
        finished = self.finished_at
        found = list(self.submitted_at)
        for index, task in enumerate(self.workload.tasks):
            if task.inputs and found[index] != NEVER:
                times = [finished[producer] for producer, _ in task.inputs]
                found[index] = NEVER if min(times) == NEVER else max(found[index], *times)
        self._ready = found
        return found

    def makespan(self) -> Nanos:
        """Return the time of the last finish, counted from the first submission."""
        if not self.finished_count:
            return 0
        return max(self.finished_at) - min([at for at in self.submitted_at if at != NEVER], default=0)

    def busy_at_end(self) -> list[int]:
        """Return, by node, CPU shares times nanoseconds that tasks computed, with those that were still at it at the end."""
        found = list(self.busy)
        if self.finished_count < self.submitted_count:
            for index in self.unfinished():
                # One that waits has its last wait taken away and not yet given back.
                if self.started_at[index] != NEVER and self.blocked_for.get(index, 0) >= 0:
                    found[self.node[index]] += self.share[index] * self.ended_at
        return found

    def waits(self) -> bool:
        """Tell whether any body waits in get: when it goes on, it may for a while use CPUs that nobody has."""
        return any(isinstance(step, Get) for task in self.workload.tasks for step in task.steps)

    def unfinished(self) -> list[int]:
        """Return the tasks that have not finished."""
        return [index for index, at in enumerate(self.finished_at) if at == NEVER]

    # --- conservation -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise InvariantViolation, with the numbers, unless the books agree (to be called once nothing runs any more).

        Every finished task lived in order: submitted, inputs finished, started, finished. Little's law: the sum of all response
        times is the integral of the number of tasks in the system. Utilisation: what nodes computed is what tasks computed on
        them, with what was lost; no more than they have. Bytes: what was sent has arrived, was dropped, or is under way; what
        came into a store has left it or is in it.
        """
        self._check_lives()
        self._check_little()
        self._check_busy()
        self._check_bytes()

    def _check_lives(self) -> None:
        import numpy as np

        submitted, started, finished = whole(self.submitted_at), whole(self.started_at), whole(self.finished_at)
        ready = whole(self.ready_at())
        took = finished - started - self._waited()
        durations = np.fromiter([task.duration for task in self.workload.tasks], np.int64, len(finished))
        ordered = (submitted >= 0) & (submitted <= ready) & (ready <= started) & (started <= finished)
        wrong = (finished != NEVER) & ~(ordered & (finished <= self.ended_at) & (took >= durations))
        if wrong.any():
            index = int(wrong.argmax())
            raise InvariantViolation(
                f"{self.workload.name_of(index)}: submitted {submitted[index]}, ready {ready[index]}, started {started[index]}, "
                f"finished {finished[index]}, waited for {self.blocked_for.get(index, 0)} ns of them; the run was over at "
                f"{self.ended_at}, its duration is {durations[index]} ns: these are no order of a life"
            )

    def _waited(self) -> Any:
        import numpy as np

        found = np.zeros(len(self.node), np.int64)
        for index, span in self.blocked_for.items():
            found[index] = span
        return found

    def _check_little(self) -> None:
        submitted, finished = whole(self.submitted_at), whole(self.finished_at)
        begun, done = submitted != NEVER, (submitted != NEVER) & (finished != NEVER)
        if int(begun.sum()) != self.submitted_count:
            raise InvariantViolation(f"{self.submitted_count} submissions of {begun.sum()} tasks: one was submitted twice")
        if int(done.sum()) != self.finished_count or int((finished != NEVER).sum()) != self.finished_count:
            raise InvariantViolation(f"{self.finished_count} ends of {done.sum()} tasks: one ended twice, or was never submitted")
        responses = exact_sum(finished[done] - submitted[done])
        # Those that are still in the system were never counted out of it.
        number = self.in_system + exact_sum(submitted[begun & ~done])
        if responses != number:
            raise InvariantViolation(
                f"Little's law: response times come to {responses} ns, the number in the system over time to {number} ns"
            )

    def _check_busy(self) -> None:
        import numpy as np

        nodes = whole(self.node)
        started, finished, shares = whole(self.started_at), whole(self.finished_at), whole(self.share)
        spans = finished - started - self._waited()
        done = (started != NEVER) & (finished != NEVER) & (shares > 0)
        order = np.flatnonzero(done)
        order = order[np.argsort(nodes[order], kind="stable")]
        bounds = np.searchsorted(nodes[order], np.arange(len(self.busy) + 1))
        running = set(nodes[(started != NEVER) & (finished == NEVER)].tolist())
        overdraws = self.waits()
        for node, busy in enumerate(self.busy):
            if node in running:
                continue
            mine = order[bounds[node] : bounds[node + 1]]
            computed = self.wasted[node]
            for share in np.unique(shares[mine]).tolist():
                computed += share * exact_sum(spans[mine[shares[mine] == share]])
            if busy != computed:
                raise InvariantViolation(
                    f"node {node}: tasks computed {computed} CPU share ns on it, it was busy for {busy}; they differ by "
                    f"{busy - computed}"
                )
            if not overdraws and busy > self.capacity[node] * self.ended_at:
                raise InvariantViolation(
                    f"node {node}: busy for {busy} CPU share ns, and all its CPUs for the {self.ended_at} ns of the run are "
                    f"{self.capacity[node] * self.ended_at}"
                )

    def _check_bytes(self) -> None:
        sent, received = sum(self.bytes_sent), sum(self.bytes_received)
        if sent != received + self.bytes_dropped + self.bytes_in_flight:
            raise InvariantViolation(
                f"bytes: {sent} sent, {received} received, {self.bytes_dropped} dropped, {self.bytes_in_flight} under way: "
                f"{sent - received - self.bytes_dropped - self.bytes_in_flight} are nowhere"
            )
        for node, stored in enumerate(self.stored):
            if stored - self.freed[node] != self.resident[node]:
                raise InvariantViolation(
                    f"node {node}: {stored} bytes came into its store, {self.freed[node]} left it, {self.resident[node]} are in it"
                )


def whole(numbers: Sequence[int]) -> Any:
    """Return ``numbers`` as a numpy array."""
    import numpy as np

    return np.array(numbers, np.int64)


def exact_sum(numbers: Any) -> int:
    """Return the sum of a numpy array of whole numbers, however large it is."""
    return (int((numbers >> 32).sum()) << 32) + int((numbers & 0xFFFFFFFF).sum())
