"""What is written down while a workload runs: compactly by task and node, a store or two for each thing that happens.

Sums over time are kept without a clock: a level that goes up by x at time t adds ``-x * t``, and ``x * t`` when it comes down
again, so that what remains at the end is the integral of the level. They are kept apart from what is stored by task, and
:meth:`Measures.check` compares the two: to the nanosecond, since all are integers.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from sundog.backends.simulated.workloads.workload import Get, Workload
from sundog.core.errors import InvariantViolation
from sundog.core.resources import CPU, Shape
from sundog.core.units import Nanos

#: In place of a time that has not come.
NEVER = -1


class Measures:
    """The record of one run of ``workload`` on nodes that have ``shapes``. Times are virtual nanoseconds from the run's start.

    The engine calls the methods, in any order between tasks but with the times of one task in order: ``submitted``, then
    ``started``, any number of ``blocked`` and ``resumed``, then ``finished``; after ``lost`` it is started again. It adds to the
    counters itself: ``measures.steps += 1``, ``measures.spilled_out[node] += 1``.
    """

    __slots__ = (
        "attempts", "blocked_for", "busy", "bytes_dropped", "bytes_in_flight", "bytes_local", "bytes_received", "bytes_remote",
        "bytes_sent", "capacity", "decisions", "ended_at", "events", "evicted_bytes", "evictions", "fetches", "finished_at",
        "finished_count", "freed", "in_system", "messages_local", "messages_remote", "node", "resident", "seconds", "shapes",
        "share", "spilled_in", "spilled_out", "started_at", "steps", "store_peak", "stored", "submitted_at", "submitted_count",
        "wasted", "worker", "workload",
    )  # fmt: skip

    def __init__(self, workload: Workload, shapes: Sequence[Shape]) -> None:
        count, nodes = len(workload), len(shapes)
        self.workload = workload
        self.shapes = tuple(shapes)
        # By task.
        self.submitted_at = array("q", [NEVER]) * count
        #: The body of the last attempt began.
        self.started_at = array("q", [NEVER]) * count
        #: The body returned whose result counts.
        self.finished_at = array("q", [NEVER]) * count
        #: How long the last attempt waited in get.
        self.blocked_for = array("q", [0]) * count
        self.node = array("i", [NEVER]) * count
        self.worker = array("i", [NEVER]) * count
        #: How often its body began.
        self.attempts = array("I", [0]) * count
        #: The CPU shares that it holds while it computes.
        by_shape: dict[Shape, int] = {one: dict(one).get(CPU, 0) for one in {task.resources for task in workload}}
        self.share = array("q", [by_shape[task.resources] for task in workload])
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
        #: Messages within a node and between nodes, and their bytes on the wire.
        self.messages_local = self.messages_remote = 0
        self.bytes_local = self.bytes_remote = 0
        #: Steps of schedulers, tasks they placed, values fetched from another node, events of the simulation.
        self.steps = self.decisions = self.fetches = self.events = 0
        #: When the run was over, and how many real seconds it took.
        self.ended_at: Nanos = 0
        self.seconds = 0.0

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
        self.attempts[index] += 1
        self.busy[node] -= self.share[index] * now

    def blocked(self, index: int, now: Nanos) -> None:
        """Its body waits in get and has given its CPUs back."""
        self.blocked_for[index] -= now
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
        if blocked:
            self.blocked_for[index] += now
        else:
            self.busy[node] += share * now
        self.wasted[node] += share * (now - self.started_at[index] - self.blocked_for[index])
        self.blocked_for[index] = 0
        self.started_at[index] = NEVER

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

    # --- what follows from it -----------------------------------------------------------------------------------------

    def ready_at(self) -> array[int]:
        """Return, by task, when it could have begun: it was submitted and its last input's task had finished; NEVER if that
        did not come. Where that input was, and how long it travels, is no matter: to wait for it is queueing."""
        finished = self.finished_at
        found = array("q", self.submitted_at)
        for index, task in enumerate(self.workload.tasks):
            if task.inputs and found[index] != NEVER:
                times = [finished[producer] for producer, _ in task.inputs]
                found[index] = NEVER if min(times) == NEVER else max(found[index], *times)
        return found

    def makespan(self) -> Nanos:
        """Return the time of the last finish, counted from the first submission."""
        if not self.finished_count:
            return 0
        return max(self.finished_at) - min([at for at in self.submitted_at if at != NEVER], default=0)

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
        ready = self.ready_at()
        for index, end in enumerate(self.finished_at):
            if end == NEVER:
                continue
            start = self.started_at[index]
            took = end - start - self.blocked_for[index]
            duration = self.workload.tasks[index].duration
            if not 0 <= self.submitted_at[index] <= ready[index] <= start <= end or end > self.ended_at or took < duration:
                raise InvariantViolation(
                    f"{self.workload.name_of(index)}: submitted {self.submitted_at[index]}, ready {ready[index]}, started {start}, "
                    f"finished {end}, blocked for {self.blocked_for[index]} ns of them, run over at {self.ended_at}; its duration "
                    f"is {duration} ns: these are no order of a life"
                )

    def _check_little(self) -> None:
        begun = [index for index, at in enumerate(self.submitted_at) if at != NEVER]
        if len(begun) != self.submitted_count:
            raise InvariantViolation(f"{self.submitted_count} submissions of {len(begun)} tasks: one was submitted twice")
        done = [index for index in begun if self.finished_at[index] != NEVER]
        if len(done) != self.finished_count:
            raise InvariantViolation(f"{self.finished_count} ends of {len(done)} tasks: one ended twice, or was never submitted")
        responses = sum([self.finished_at[index] - self.submitted_at[index] for index in done])
        # Those that are still in the system have been there until now.
        present = sum([self.submitted_at[index] for index in begun if self.finished_at[index] == NEVER])
        if responses != self.in_system + present:
            raise InvariantViolation(
                f"Little's law: response times come to {responses} ns, the number in the system to {self.in_system + present} ns"
            )

    def _check_busy(self) -> None:
        computed = list(self.wasted)
        open_ended = [0] * len(computed)
        for index, start in enumerate(self.started_at):
            if start == NEVER:
                continue
            node, share, end = self.node[index], self.share[index], self.finished_at[index]
            if end == NEVER:
                open_ended[node] += 1
            else:
                computed[node] += share * (end - start - self.blocked_for[index])
        waits = any(isinstance(step, Get) for task in self.workload.tasks for step in task.steps)
        for node, busy in enumerate(self.busy):
            if open_ended[node]:
                continue
            if busy != computed[node]:
                raise InvariantViolation(
                    f"node {node}: tasks computed {computed[node]} CPU share ns on it, it was busy for {busy}; differ by "
                    f"{busy - computed[node]}"
                )
            # A task that resumes may take more CPUs than there are, for a while; no other may.
            if not waits and busy > self.capacity[node] * self.ended_at:
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
