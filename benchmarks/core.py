"""The machines alone: submit to sealed result and back, in one process, with no loop around them.

A driver's client machine, a node's host, and two workers' executors and client machines, joined by links. References die when the
results have been fetched, and nothing is left.

Three kinds of load: ``run`` submits thousands at a time, so that machines are stepped with many facts, and half of the tasks
depend on another; in a ``burst`` none does, so that they travel in lots; ``run_singly`` submits, gets and lets go of one task at a
time, so that what a step costs shows.

``python -m benchmarks.core`` prints tasks a second; ``--profile`` where the time goes, ``--shares`` how much of it is whose, of a
burst, or ``--paired`` or ``--singly``.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from benchmarks.measure import Row, at_least, info, quiet_gc, show
from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import Dispatch, ReclaimTasks, ResolveGet, Send, StartWorker
from sundog.core.client import Client
from sundog.core.config import Config
from sundog.core.executor import Executor
from sundog.core.global_scheduler import GlobalScheduler
from sundog.core.host import Host
from sundog.core.ids import DRIVER, HOST, LOOP, Address, IdSequence, NodeID, ProcessID, address, return_ids, root_task_id
from sundog.core.lineage import Lineage
from sundog.core.link import Link
from sundog.core.local_scheduler import LocalScheduler
from sundog.core.machine import Action, Event, Fact
from sundog.core.object_directory import ObjectDirectory
from sundog.core.object_manager import ObjectManager
from sundog.core.task import TaskSpec, Value
from sundog.core.units import MICROSECOND

NODE = NodeID(0)
TO_HOST = address(NODE, HOST)
TO_DRIVER = address(NODE, DRIVER)
NOTHING = Value(size=8, data=b"\x80\x05N.\0\0\0\0")
BATCH = 256


class Joint:
    """A pair of links: what is wrapped on one side comes out on the other. With ``codec``, messages really become bytes."""

    def __init__(self, config: Config, codec: bool) -> None:
        self._sides = [Link(1, config.link_window_max, config.link_acknowledge_after) for _ in range(2)]
        self._encode = msgspec.msgpack.Encoder().encode if codec else None
        self._decode = msgspec.msgpack.Decoder(list[msg.Message]).decode

    def carry(self, side: int, facts: Sequence[Fact]) -> Sequence[Fact]:
        """Carry a batch from ``side`` to the other."""
        here, there = self._sides[side], self._sides[1 - side]
        payload = self._encode(facts) if self._encode is not None else b"batch"
        [frame] = there.accept(here.wrap(payload))
        acknowledgement = there.acknowledgement_due()
        if acknowledgement is not None:
            here.accept(acknowledgement)
        return self._decode(frame) if self._encode is not None else facts


class FakeWorker:
    """A worker's pipeline and client machine; its bodies take no time."""

    def __init__(self, config: Config, number: ProcessID, joint: Joint, node: NodeID = NODE) -> None:
        self.where = address(node, number)
        self.joint = joint
        self.client = Client(config, self.where, address(node, HOST), worker=True)
        self.executor = Executor()
        self.tokens = 0

    def run(self, now: int) -> list[Event]:
        """Run everything in the pipeline; return what the host hears."""
        executor = self.executor
        facts: list[Event] = []
        while self.tokens and (run := executor.next()) is not None:
            self.tokens -= 1
            if executor.values(run) is None:
                facts.append((LOOP, executor.skip(run)))
                continue
            results = (msg.Result(NOTHING),)
            executor.finished(run, results)
            facts.append((LOOP, msg.TaskFinished(run.spec.task_id, run.attempt, results, 2 * MICROSECOND)))
        if not facts:
            return []
        sent = [action.message for action in self.client.step(now, facts) if isinstance(action, Send)]
        return [(self.where, fact) for fact in self.joint.carry(1, sent)]


class Engine:
    """Everything joined; ``run`` does one round of work."""

    def __init__(self, codec: bool) -> None:
        self.config = Config()
        self.host = Host(self.config)
        self.client = Client(self.config, TO_DRIVER, TO_HOST, worker=False)
        self.joint = Joint(self.config, codec)
        self.codec = codec
        self.workers: dict[Address, FakeWorker] = {}
        self.ids = IdSequence(root_task_id(b"benchmark"), 1, 0)
        self.function = self.ids.next_function()
        self._requests = 0
        self._values_got = 0
        self._inbox: list[Event] = []
        self._to_host([(LOOP, msg.FunctionExported(self.function, "nothing", NOTHING))])
        self._settle()

    def _spec(self, dependency: bytes | None) -> TaskSpec:
        dependencies = () if dependency is None else (dependency,)
        return TaskSpec(self.ids.next_task(), self.function, "nothing", NOTHING, dependencies)  # type: ignore[arg-type]

    def burst(self, count: int) -> None:
        """Submit ``count`` tasks without dependencies, get all results, and let go of them."""
        self.run(count, paired=False)

    def run(self, count: int, *, paired: bool = True) -> None:
        """Submit ``count`` tasks, half of them with a dependency if ``paired``, get all results, and let go of them."""
        returned: list[bytes] = []
        facts: list[Event] = []
        previous = None
        for number in range(count):
            spec = self._spec(previous if paired and number & 1 else None)
            [previous] = return_ids(spec.task_id, 1)
            returned.append(previous)
            facts.append((LOOP, msg.TaskSubmitted(spec)))
            if len(facts) >= BATCH:
                self._to_host(facts)
                facts = []
        self._requests += 1
        self._values_got = 0
        facts.append((LOOP, ev.GetRequested(self._requests, tuple(returned))))  # type: ignore[arg-type]
        self._to_host(facts)
        self._settle()
        assert self._values_got == count
        self._to_host([(LOOP, ev.ReferenceDropped(object_id)) for object_id in returned])  # type: ignore[arg-type]
        self._settle()

    def run_singly(self, count: int) -> None:
        """Submit, get and let go of one task after the other, ``count`` times."""
        for _ in range(count):
            spec = self._spec(None)
            [returned] = return_ids(spec.task_id, 1)
            self._requests += 1
            self._values_got = 0
            self._to_host([(LOOP, msg.TaskSubmitted(spec)), (LOOP, ev.GetRequested(self._requests, (returned,)))])
            self._settle()
            assert self._values_got == 1
            self._to_host([(LOOP, ev.ReferenceDropped(returned))])

    def check_empty(self) -> None:
        """Raise AssertionError if anything is left of what was run."""
        self._settle()
        self.host.check_invariants()
        assert not self.host.object_manager.objects
        assert not self.host.local_scheduler.tasks
        assert not self.client.references

    def _to_host(self, facts: Sequence[Event]) -> None:
        """One turn of the driver, one of the node, one of each worker."""
        self._perform_client(self.client.step(time.monotonic_ns(), facts))
        self._turn()

    def _perform_client(self, actions: Sequence[Action]) -> None:
        sent = [action.message for action in actions if type(action) is Send]
        for action in actions:
            if type(action) is ResolveGet:
                self._values_got = len(action.values)
        if sent:
            self._inbox += [(TO_DRIVER, fact) for fact in self.joint.carry(0, sent)]

    def _settle(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        inbox, self._inbox = self._inbox[: self.config.step_events_max], self._inbox[self.config.step_events_max :]
        actions = self.host.step(time.monotonic_ns(), inbox)
        to_driver: list[Fact] = []
        for action in actions:
            self._perform(action, to_driver)
        if to_driver:
            now = time.monotonic_ns()
            facts = self.joint.carry(1, to_driver)
            self._perform_client(self.client.step(now, [(TO_HOST, fact) for fact in facts]))
        for worker in self.workers.values():
            self._inbox += worker.run(time.monotonic_ns())
        return bool(self._inbox)

    def _perform(self, action: Action, to_driver: list[Fact]) -> None:
        kind = type(action)
        if kind is Dispatch:
            worker = self.workers[address(NODE, action.worker)]  # type: ignore[attr-defined]
            worker.tokens += len(action.tasks)  # type: ignore[attr-defined]
            batch = [msg.RunTasks(action.tasks, action.forget_through)]  # type: ignore[attr-defined]
            for fact in worker.joint.carry(0, batch):
                worker.executor.accept(fact)  # type: ignore[arg-type]
        elif kind is Send:
            if action.to == TO_DRIVER:  # type: ignore[attr-defined]
                to_driver.append(action.message)  # type: ignore[attr-defined]
        elif kind is StartWorker:
            number = action.worker  # type: ignore[attr-defined]
            made = FakeWorker(self.config, number, Joint(self.config, self.codec))
            self.workers[made.where] = made
            self._inbox.append((LOOP, ev.WorkerStarted(number, 1000 + number)))
        elif kind is ReclaimTasks:
            self._inbox.append((LOOP, ev.TasksReclaimed(action.worker, 0)))  # type: ignore[attr-defined]


#: The kinds of load, by name.
LOADS: dict[str, Callable[[Engine], Callable[[int], None]]] = {
    "burst": lambda engine: engine.burst,
    "paired": lambda engine: engine.run,
    "singly": lambda engine: engine.run_singly,
}


def tasks_per_second(load: str, count: int = 10_000, repeats: int = 7, codec: bool = False) -> float:
    """Return the median of ``repeats`` rounds of ``count`` tasks."""
    engine = Engine(codec)
    run = LOADS[load](engine)
    run(count)
    times = []
    for _ in range(repeats):
        with quiet_gc():
            started = time.process_time()  # one thread that never waits: what else runs on the machine does not count
            run(count)
            times.append(time.process_time() - started)
    engine.check_empty()
    return count / statistics.median(times)


def measure() -> list[Row]:
    """The rows of the table."""
    return [
        at_least("core alone: tasks through client, host, link, executor", 200_000, tasks_per_second("burst"), "/s"),
        at_least("core alone, half of them with a dependency", 200_000, tasks_per_second("paired"), "/s"),
        info("core alone, one task at a time", f"{tasks_per_second('singly', 2_000):,.0f} /s"),
        info("core alone, every message through msgpack", f"{tasks_per_second('burst', codec=True):,.0f} /s"),
        info("beside it: additions of a plain loop", f"{plain_additions_per_second() / 1e6:,.1f} million/s"),
    ]


def plain_additions_per_second(count: int = 1_000_000, repeats: int = 5) -> float:
    """Return how fast the machine is at present: ``x += i`` in a plain loop."""
    times = []
    for _ in range(repeats):
        total = 0
        started = time.process_time()
        for number in range(count):
            total += number
        times.append(time.process_time() - started)
    return count / statistics.median(times)


def profile(load: str, count: int = 20_000) -> None:
    """Print where the time goes."""
    import cProfile
    import pstats

    engine = Engine(codec=False)
    run = LOADS[load](engine)
    run(count)
    profiler = cProfile.Profile()
    profiler.runcall(run, count)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(35)


#: What is timed: the parts of a host's step, which are in that, too; and the others, of which a worker's client is in its run.
_WITHIN: tuple[tuple[type, str], ...] = (
    (ObjectManager, "step"), (ObjectManager, "settle"), (LocalScheduler, "record"), (LocalScheduler, "decide"),
    (GlobalScheduler, "record"), (GlobalScheduler, "decide"), (ObjectDirectory, "step"), (Lineage, "step"),
)  # fmt: skip
_OTHERS: tuple[tuple[type, str], ...] = ((Host, "step"), (Client, "step"), (FakeWorker, "run"))


def shares(load: str, count: int = 10_000) -> None:
    """Print how much of the time each machine has."""
    spent: dict[str, int] = {}

    def timed(owner: type, name: str) -> None:
        work, what = getattr(owner, name), owner.__name__

        def measured(*arguments: Any) -> Any:
            if owner is Client and arguments[0]._worker:
                return work(*arguments)  # a worker's: in the worker's time
            started = time.perf_counter_ns()
            result = work(*arguments)
            spent[what] = spent.get(what, 0) + time.perf_counter_ns() - started
            return result

        setattr(owner, name, measured)

    for owner, name in (*_WITHIN, *_OTHERS):
        timed(owner, name)
    engine = Engine(codec=False)
    run = LOADS[load](engine)
    run(count)
    spent.clear()
    with quiet_gc():
        started = time.perf_counter_ns()
        run(count)
        total = time.perf_counter_ns() - started
    spent["Host, routing"] = spent.pop("Host") - sum([spent.get(name, 0) for name in {owner.__name__ for owner, _ in _WITHIN}])
    spent["this benchmark"] = total - sum(spent.values())
    for what, time_spent in sorted(spent.items(), key=lambda entry: -entry[1]):
        print(f"{what:30} {time_spent / count / 1000:6.2f} us a task {100 * time_spent / total:5.1f} %")
    print(f"{'all':30} {total / count / 1000:6.2f} us a task")


if __name__ == "__main__":
    asked = next((name for name in LOADS if f"--{name}" in sys.argv), "burst")
    if "--profile" in sys.argv:
        profile(asked)
    elif "--shares" in sys.argv:
        shares(asked)
    else:
        show(measure(), "The machines alone")
