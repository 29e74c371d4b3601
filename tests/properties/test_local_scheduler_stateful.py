"""The local scheduler in a session whose every turn is chosen: who reads how much, who runs, who dies, when time passes.

Checked after every step: the machines' own invariants, S3 (resources) and S9 among them. Here: S2 (a body starts only with its
values), S4, S7 (no faults: every body runs once), S11 (in the end everything that was asked is answered, and nothing is left).
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sundog.core import actions as act
from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.ids import ObjectID, producer_of
from sundog.core.resources import ONE_CPU, Shape
from sundog.core.task import FailureKind, TaskState
from sundog.core.units import MICROSECOND, MILLISECOND
from tests.support.builders import CPUS_2, GPU_1
from tests.support.fleet import Execution, Fleet, Get, Raised, Wait, config, inline

limits = st.sampled_from((1, 2, 5, 100))
places = st.lists(st.integers(0, 9), max_size=3)
durations = st.sampled_from((0, 20 * MICROSECOND, 3 * MILLISECOND))
shapes = st.sampled_from((ONE_CPU, ONE_CPU, ONE_CPU, (), CPUS_2, GPU_1))
ONE_KIND = frozenset({FailureKind.CANCELLED, FailureKind.WORKER_CRASHED})


def leaf(execution: Execution) -> Any:
    """Return how many dependencies there were."""
    return inline(len(execution.values))


def failing(execution: Execution) -> Any:
    """Raise."""
    raise Raised("boom", retryable=bool(execution.argument))


def parent(execution: Execution) -> Any:
    """Wait for children, first for one of them."""
    children = tuple([execution.call("leaf", duration=execution.argument) for _ in range(3)])
    yield Wait(children, 1)
    values = yield Get(children)
    return inline(len(values))


class Scheduling(RuleBasedStateMachine):
    """See the module."""

    @initialize(cpus=st.integers(2, 3), depth=st.sampled_from((2, 128)))
    def begin(self, cpus: int, depth: int) -> None:
        settings = config(cpus=cpus, gpus=1, pipeline_depth_max=depth, stall_after=5 * MILLISECOND)
        self.fleet = Fleet(settings, {"leaf": leaf, "failing": failing, "parent": parent})
        self.waits: list[int] = []
        self.cancels: list[int] = []
        self.retryable = False
        #: What the driver holds, the newest last.
        self.made: list[ObjectID] = [self.fleet.driver.put(0)]

    def _at(self, places: list[int]) -> list[ObjectID]:
        """Return some of what the driver holds, each once, counted from the newest."""
        return list(dict.fromkeys([self.made[-1 - place % len(self.made)] for place in places])) if self.made else []

    # -- what programs do

    @rule(
        name=st.sampled_from(("leaf", "leaf", "leaf", "failing", "parent")),
        dependencies=places,
        duration=durations,
        shape=shapes,
        priority=st.sampled_from((0, 0, 0, 1)),
        calls_max=st.sampled_from((0, 0, 0, 3)),
    )
    def submit(self, name: str, dependencies: list[int], duration: int, shape: Shape, priority: int, calls_max: int) -> None:
        self.retryable = self.retryable or (name == "failing" and duration > 0)
        self.made += self.fleet.driver.submit(
            name,
            *self._at(dependencies),
            content=duration,
            duration=duration,
            resources=ONE_CPU if name == "parent" else shape,
            return_count=2 if name == "failing" else 1,
            priority=priority,
            calls_max=calls_max,
        )

    @precondition(lambda self: not self.waits)
    @rule(place=st.integers(0, 9))
    def let_go(self, place: int) -> None:
        for object_id in self._at([place]):
            self.made.remove(object_id)
            self.fleet.driver.drop(object_id)

    @rule(places=places, count=st.integers(1, 4), timeout=st.sampled_from((None, 0, 100)))
    def wait(self, places: list[int], count: int, timeout: int | None) -> None:
        held = tuple(self._at(places))
        if held:
            self.waits.append(self.fleet.process.ask_for(Wait(held, min(count, len(held)), timeout)))
            self.waits.append(self.fleet.process.ask_for(Get(held, timeout)))

    @rule(places=places)
    def cancel(self, places: list[int]) -> None:
        object_ids = tuple(self._at(places))
        self.cancels.append(self.fleet.process.ask(lambda n: ev.Asked(n, msg.CancelRequested(n, object_ids))))

    # -- whose turn it is

    @rule(limit=limits)
    def driver_moves(self, limit: int) -> None:
        self._moved(self.fleet.process.turn(limit))

    @rule(limit=limits)
    def host_moves(self, limit: int) -> None:
        self._moved(self.fleet.host_turn(limit))

    @rule(limit=limits, which=st.integers(0, 100))
    def worker_moves(self, limit: int, which: int) -> None:
        workers = list(self.fleet.workers.values())
        if workers:
            self._moved(workers[which % len(workers)].turn(limit))

    @rule(rounds=st.integers(1, 10))
    def everybody_moves(self, rounds: int) -> None:
        for _ in range(rounds):
            self._moved(self.fleet.round())

    @rule()
    def time_passes(self) -> None:
        moment = self.fleet.next_moment()
        if moment is not None:
            self.fleet.now = max(self.fleet.now, moment)

    @precondition(lambda self: self.fleet.killed < 4)
    @rule(which=st.integers(0, 100), status=st.sampled_from((-9, -11, 1)))
    def worker_dies(self, which: int, status: int) -> None:
        workers = list(self.fleet.workers)
        if workers:
            self.fleet.kill(workers[which % len(workers)], status)

    def _moved(self, moved: bool) -> None:
        self.fleet.now += MICROSECOND if moved else 0

    # -- what holds at any time

    @invariant()
    def every_body_ran_once_unless_there_was_a_fault(self) -> None:
        if not self.fleet.killed and not self.retryable:
            assert set(self.fleet.executions.values()) <= {1}, "S7"

    @invariant()
    def what_runs_is_dispatched(self) -> None:
        tasks = self.fleet.host.local_scheduler.tasks
        for worker in self.fleet.workers.values():
            if worker.execution is not None:
                record = tasks[worker.execution.run.spec.task_id]
                assert record.state in (TaskState.DISPATCHED, TaskState.BLOCKED, TaskState.RESUMABLE)
                assert record.worker is not None
                assert record.worker.where == worker.where

    @invariant()
    def overdraft_is_what_resumed_without_a_free_cpu(self) -> None:
        resources = self.fleet.host.local_scheduler.resources
        for name, free in resources.free.items():
            assert free + resources.overdrawn.get(name, 0) >= 0, "S3"
            assert resources.overdrawn.get(name, 0) == max(0, -free)

    def teardown(self) -> None:
        if not hasattr(self, "fleet"):
            return
        fleet = self.fleet
        fleet.run()
        assert not fleet.host.local_scheduler.tasks, "S11: something never ended"
        for number in self.waits:
            answer = fleet.process.answers.pop(number)
            if isinstance(answer, act.ResolveGet):
                for value in answer.values:
                    assert value.failure is None or value.failure.kind in ONE_KIND
        for number in self.cancels:
            answered = fleet.process.answers.pop(number)
            assert isinstance(answered, act.ResolveQuestion)
            assert isinstance(answered.answer, msg.CancelAnswered)
            if not fleet.killed:
                assert not any(fleet.executions[producer_of(each)] for each in answered.answer.object_ids)
        fleet.driver.drop_all()
        fleet.run()
        fleet.check_empty()


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(stateful_step_count=40)
