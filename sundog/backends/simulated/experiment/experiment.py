"""A workload without bodies on the very machines of core, in virtual time: until the cluster is empty again."""

from __future__ import annotations

import gc
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop
from random import Random
from typing import TYPE_CHECKING, Any

from simpy.core import Environment

from sundog.backends.exceptions import SundogError
from sundog.backends.simulated.cluster import Cluster
from sundog.backends.simulated.cluster_model import NodeModel
from sundog.backends.simulated.costs.durations import Durations
from sundog.backends.simulated.costs.profile import Profile
from sundog.backends.simulated.experiment.bare_node import BareNode
from sundog.backends.simulated.experiment.bare_worker import BareWorker
from sundog.backends.simulated.experiment.diagnosis import leftovers, why_stuck
from sundog.backends.simulated.experiment.ledger import CountedLedger, SizedStore
from sundog.backends.simulated.experiment.measures import NEVER, Measures
from sundog.backends.simulated.experiment.plan import Plan
from sundog.backends.simulated.experiment.submitter import Submitter
from sundog.backends.simulated.faults.occurrences import Occurrence
from sundog.backends.simulated.faults.runner import FaultRunner, Schedule, When
from sundog.backends.simulated.faults.target import FaultyCluster, needs_frames
from sundog.backends.simulated.log import EventLog, NoLog
from sundog.backends.simulated.network.connections import Network
from sundog.backends.simulated.network.framing import FramedNetwork
from sundog.backends.simulated.sim_loop import Costs, Loop
from sundog.backends.simulated.workloads.workload import Workload
from sundog.core.cluster_host import ClusterHost
from sundog.core.config import Config
from sundog.core.errors import InvariantViolation
from sundog.core.host import Host
from sundog.core.ids import NodeID
from sundog.core.placement import PlacementPolicy
from sundog.core.units import MILLISECOND, SECOND, Nanos, seconds

if TYPE_CHECKING:
    from sundog.backends.simulated.run_trace import RunTrace

#: Nothing has begun or ended for this long, nothing computes and nothing is to be submitted: longer than any grace of core's.
_STUCK_AFTER: Nanos = 60 * SECOND
#: How long a cluster is given to come up, and to let go of everything after its last task.
_BOOT_MAX: Nanos = 60 * SECOND
_DRAIN_MAX: Nanos = 60 * SECOND
#: Events between two looks at how it goes.
_LOOK_EVERY = 8192
#: Looks in a row at which neither time nor any task has moved on: they would do so for ever.
_STILL_MAX = 256
#: Looks between two garbage collections: core makes hardly any cycles.
_COLLECT_EVERY = 256


class SimulationError(SundogError):
    """A simulated workload did not come to its end; the text says which task, and why."""


class Experiment:
    """One run of ``workload``. ``models``: the nodes; ``policy``: where tasks go that leave their node.

    ``settings`` are the session's, of which each node's model says what differs. ``digest``: keep the event log's SHA-256.
    ``trace``: a file for a timeline; OSError is raised if it cannot be written.
    """

    def __init__(
        self,
        workload: Workload,
        models: Sequence[NodeModel],
        policy: PlacementPolicy,
        *,
        seed: bytes,
        settings: Config,
        profile: Profile,
        faults: Schedule | None = None,
        digest: bool = False,
        trace: str | os.PathLike[str] | None = None,
        checks: bool = False,
    ) -> None:
        self.models = models
        configs = [model.config(settings) for model in models]
        self.measures = Measures(workload, [config.capacity for config in configs])
        self.plan = Plan(workload, seed, settings.inline_bytes_max)
        self.profile = profile
        self.log: Any = EventLog() if digest else NoLog()
        self.loop = Loop(Costs(hop=profile.network.local_latency, worker_start=profile.worker_start))
        framed = faults is not None and needs_frames(faults)
        self.network = (FramedNetwork if framed else Network)(self.loop.environment, profile.network, seed=seed.hex())
        self.cluster = Cluster(self.loop, self.network, self.log, Durations(), checks=checks)
        self._trace: RunTrace | None = None
        if trace is not None:
            from sundog.backends.simulated.run_trace import RunTrace

            self._trace = RunTrace(trace, len(models), workload.name, self.loop)
        self.cluster.profile = None if profile.charges_nothing() else profile
        #: The virtual time that is 0 for the workload: everything is up.
        self.began: Nanos = 0
        #: What takes its time now and will be over by itself; tasks that drivers have yet to submit.
        self.busy = 0
        self.to_submit = 0
        #: Why it cannot come to its end.
        self.failure: str | None = None
        self.over = False
        self._turns: deque[BareNode] = deque()
        self._policy = policy
        self._seed = seed
        self._settings = settings
        self._faults = faults
        #: What carries out the faults, once it runs; its ``log`` says what was done.
        self.fault_runner: FaultRunner | None = None
        self._moved_at: Nanos = 0
        self._environment = self.loop.environment
        self._total = len(workload)
        self._draining = False
        #: By task: another has begun with what it returned. Only where nodes may be lost.
        self._used = bytearray(len(workload) if faults is not None or any(model.leaves is not None for model in models) else 0)
        self._workload = workload
        self.submitters: list[Submitter] = []
        self.nodes = [self._make(NodeID(number), config) for number, config in enumerate(configs)]
        for node, model in zip(self.nodes, models, strict=True):
            if not model.joins_at():
                # Not all at once: else all would say how they are doing at the same instants for ever.
                self.cluster.add(node, node.host, node.number * node.config.heartbeat_every // len(models))

    def _make(self, number: NodeID, config: Config) -> BareNode:
        kind = ClusterHost if len(self.models) > 1 else Host
        rng = Random(f"host {number} {self._seed.hex()}")
        host = kind(config, number, rng=rng, policy=None if number else self._policy)
        CountedLedger.count(host.object_manager.ledger, number, self.measures)
        return BareNode(self.cluster, number, config, host, partial(BareWorker, self), SizedStore(), self.measures, self._turns)

    def _restart(self, number: NodeID, model: int) -> None:
        """A node that was lost is started again, under a new number."""
        config = self.models[model].config(self._settings)
        self.measures.add_node(config.capacity)
        node = self._make(number, config)
        self.nodes.append(node)
        self.cluster.add(node, node.host)

    # --- what happens to tasks ------------------------------------------------------------------------------------------

    def submitted(self, index: int) -> None:
        """A body submits a task; once more, if it runs again."""
        measures = self.measures
        if measures.submitted_at[index] == NEVER:
            measures.submitted(index, self.loop.now - self.began)
        if self.cluster.occurred is not None:
            self.cluster.occurred(Occurrence.SUBMITTED)

    def started(self, worker: BareWorker) -> None:
        """A body begins."""
        if self.cluster.occurred is not None:
            self.cluster.occurred(Occurrence.STARTED)
        measures, index = self.measures, worker.index
        now: Nanos = self._environment._now  # type: ignore[assignment]  # only whole numbers are ever scheduled
        self._moved_at = now
        if measures.started_at[index] != NEVER:
            # Another attempt is under way, and will be in vain; or it is made again for those who have lost what it returned.
            worker.counted = measures.finished_at[index] != NEVER and not (self._used and self._used[index])
            if not worker.counted:
                return
            self._unfinish(index)
        worker.counted = True
        if self._used:
            for producer, _ in self.plan.tasks[index].inputs:
                self._used[producer] = 1
        measures.started(index, now - self.began, worker.node.number, worker.number)

    def put_started(self, index: int, worker: BareWorker) -> None:
        """A body puts a value."""
        if self.measures.finished_at[index] != NEVER:
            self._unfinish(index)
        self.measures.started(index, self.loop.now - self.began, worker.node.number, worker.number)

    def blocked(self, worker: BareWorker) -> None:
        """A body waits in get."""
        if worker.counted:
            self.measures.blocked(worker.index, self.loop.now - self.began)

    def resumed(self, worker: BareWorker) -> None:
        """It goes on."""
        if worker.counted:
            self.measures.resumed(worker.index, self.loop.now - self.began)

    def finished(self, index: int) -> None:
        """A task is over."""
        measures = self.measures
        now: Nanos = self._environment._now  # type: ignore[assignment]  # only whole numbers are ever scheduled
        self._moved_at = now
        measures.finished(index, now - self.began)
        if measures.finished_count == self._total and not self._draining:
            self.over = True

    def lost(self, worker: BareWorker) -> None:
        """A worker died with a body."""
        if worker.counted:
            self._trace_attempt(worker.index, self.loop.now - self.began, "lost")
            self.measures.lost(worker.index, self.loop.now - self.began, worker.blocked)

    def _unfinish(self, index: int) -> None:
        """What it returned is lost, or never arrived: it runs again, and that end is the one that counts."""
        measures = self.measures
        end, node = measures.finished_at[index], measures.node[index]
        self._trace_attempt(index, end, "its result was lost")
        computed = end - measures.started_at[index] - measures.blocked_for.pop(index, 0)
        measures.wasted[node] += measures.share[index] * computed
        measures.in_system -= end
        measures.finished_count -= 1
        measures.finished_at[index] = NEVER
        measures.retries[index] = measures.retries.get(index, 0) + 1

    def _trace_attempt(self, index: int, end: Nanos, outcome: str) -> None:
        """An attempt that counts no more is shown, too."""
        trace, measures = self._trace, self.measures
        if trace is not None:
            name = self.plan.name_of(index)
            start, node, worker = measures.started_at[index], measures.node[index], measures.worker[index]
            trace.trace.slice(node, worker, name, start, end, {"outcome": outcome}, "lost")

    def failed(self, reason: str) -> None:
        """A task, or a driver, can get no further."""
        if self.failure is None:
            self.failure = reason
        self.over = True

    # --- the run --------------------------------------------------------------------------------------------------------

    def run(self, watch: Callable[[Experiment], None] | None = None) -> Measures:
        """Run to the end and check that nothing is left. ``watch`` is called now and then.

        Raises SimulationError if the workload does not come to its end, InvariantViolation for a bug of ours.
        """
        started = time.perf_counter()
        collecting = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            self.boot()
            self._begin()
            if not self.over:
                self._go(watch)
            if self.failure is not None:
                raise SimulationError(f"{self._workload.name}: {self.failure}")
            ended = self.loop.now - self.began
            self._drain()
            self.measures.close(ended, time.perf_counter() - started)
        finally:
            gc.unfreeze()
            if collecting:
                gc.enable()
            self.log.close()
            self._close_trace()
        self._settle_accounts()
        return self.measures

    def _close_trace(self) -> None:
        """Also of a run that failed: what it shows up to there tells why."""
        trace = self._trace
        if trace is not None:
            trace.trace.tasks(self.measures)
            trace.close(self.fault_runner)

    def boot(self) -> None:
        """Go on until all nodes that are there from the beginning are known to the head, and have their workers."""
        first = [node for node in self.nodes if not self.models[node.number].joins_at()]
        while not self._is_up(first):
            self._steps(len(first))
            if self.loop.now > _BOOT_MAX:
                raise InvariantViolation(f"after {seconds(self.loop.now):g} s the simulated cluster is not up")

    def _is_up(self, first: Sequence[BareNode]) -> bool:
        known = self.cluster.hosts[NodeID(0)].global_scheduler.nodes if self.cluster.hosts else ()
        return len(known) == len(first) and all(len(node.workers) >= node.config.worker_count for node in first)

    def _begin(self) -> None:
        self.began = self._moved_at = self.loop.now
        if self._trace is not None:
            self._trace.began = self.began
            self.cluster.watch_turns(trace=self._trace)
            for number in self.cluster.nodes:
                self._trace.joined(number)
        for node, model in zip(self.nodes, self.models, strict=True):
            leaves = model.leaves_at()
            if model.joins_at():
                self.cluster.add(node, node.host, self.began + model.joins_at())
            if leaves is not None:
                self.cluster.watch.call_at(self.began + leaves, node.die)
        if self._faults is not None:
            self._begin_faults(self._faults)
        for node, order in zip(self.nodes, self.plan.by_driver(len(self.nodes)), strict=True):
            if order:
                submitter = Submitter(self, node, order)
                self.submitters.append(submitter)
                self.cluster.processes[submitter.where] = submitter
                self.to_submit += len(order)
                submitter.start()
        self.over = not len(self.plan.tasks)

    def _begin_faults(self, schedule: Schedule) -> None:
        target = FaultyCluster(self.cluster, self.network, len(self.models), self._restart)
        self.fault_runner = FaultRunner(
            self.loop.environment, schedule, target, self.network, number=target.number, call_at=self.cluster.watch.call_at
        )
        if any(isinstance(fault.trigger, When) for fault in schedule.faults):
            self.cluster.watch_turns(occurred=self.fault_runner.occurred)
        self.fault_runner.start(self.began)

    def _go(self, watch: Callable[[Experiment], None] | None) -> None:
        looks = still = 0
        before: tuple[int, ...] = ()
        while not self.over:
            self._steps(_LOOK_EVERY)
            looks += 1
            state = (self.loop.now, self.measures.submitted_count, self.measures.finished_count)
            still = still + 1 if state == before else 0
            before = state
            if still >= _STILL_MAX:
                raise InvariantViolation(
                    f"{self._workload.name}: time stands still at {seconds(self.loop.now)} s: {why_stuck(self)}"
                )
            if looks % _COLLECT_EVERY == 0:
                gc.collect()
            if watch is not None:
                watch(self)
            silence = self.loop.now - self._moved_at
            nothing = not self.loop.environment._queue and not self._turns
            if nothing or (silence > _STUCK_AFTER and not self._goes_on()):
                self._is_stuck()

    def _is_stuck(self) -> None:
        if not self.over:
            self.failed(why_stuck(self))

    def _goes_on(self) -> bool:
        """Tell whether something computes, is on its way, or is to come by itself."""
        submits = self.to_submit and any(submitter.waits_for_time() for submitter in self.submitters)
        return bool(self.busy or submits or self.cluster.watch.coming or self.network.busy())

    def _steps(self, count: int) -> None:
        """Let up to ``count`` events and turns happen; fewer if it is over, or nothing is left to happen.

        Turns of nodes come after all events of an instant, so that a node hears at once what arrives at one time.
        """
        environment: Environment = self.loop.environment
        queue, turns = environment._queue, self._turns
        events = steps = 0
        now = environment._now
        for _ in range(count):
            if turns and (not queue or queue[0][0] > now):
                steps += 1
                turns.popleft().take_turn()
            elif queue and not self.over:
                events += 1
                environment._now, _, _, event = heappop(queue)
                now = environment._now
                for callback in event.callbacks:  # which SimPy would take away: nobody waits for an event here
                    callback(event)
            else:
                break
        self.measures.events += events
        self.measures.steps += steps

    def _drain(self) -> None:
        """Everything has finished: what is left to say is said, until no host knows of any task or object."""
        self.over, self._draining = False, True
        began = self.loop.now
        last = 0
        while self.failure is None:
            last = 2 * last + MILLISECOND
            while not self.over and (self._turns or self.loop.next_event() <= began + last):
                self._steps(1)
            if not leftovers(self):
                return
            if last > _DRAIN_MAX or not self.loop.environment._queue:
                raise InvariantViolation(
                    f"{self._workload.name}: all has finished {seconds(self.loop.now - began):g} s ago; left: {leftovers(self)}"
                )
        raise SimulationError(f"{self._workload.name}: {self.failure}")

    def _settle_accounts(self) -> None:
        measures = self.measures
        for node in self.nodes:
            host: Any = node.host
            measures.resident[node.number] = host.object_manager.ledger.used_bytes
        head = self.cluster.hosts[NodeID(0)].global_scheduler
        for number in range(len(self.nodes)):
            measures.spilled_out[number] = head.spilled.get(NodeID(number), 0)
            measures.spilled_in[number] = head.placed.get(NodeID(number), 0)
        measures.decisions += sum(measures.spilled_in)
        measures.bytes_in_flight = sum([node.bytes_coming() for node in self.nodes])
