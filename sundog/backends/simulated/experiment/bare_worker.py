"""A worker without bodies: core's executor, tokens, a progress record, and tasks that take their time.

What a real worker says, this one says: results of the right sizes, extents for large ones, grants that go back, submissions of
tasks with steps, a blocking get. Its client machine is made when the first task needs one. Results of short tasks, one after the
other, travel together as those of real workers do (``core.unsent``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from simpy.events import Event as SimEvent

from sundog.backends.simulated.claim import claim
from sundog.backends.simulated.costs.written_pages import WrittenPages
from sundog.backends.simulated.workloads.workload import PUT, Compute, Submit, WorkTask
from sundog.core import actions as act
from sundog.core import messages as msg
from sundog.core.client import Client
from sundog.core.events import Asked, GetRequested, PinDropped, ReferenceDropped
from sundog.core.executor import Executor
from sundog.core.ids import LOOP, Address, IdSequence, ObjectID, ProcessID, address
from sundog.core.machine import Event, Fact
from sundog.core.task import Result, Value
from sundog.core.units import Nanos
from sundog.core.unsent import Unsent

if TYPE_CHECKING:
    from sundog.backends.simulated.experiment.bare_node import BareNode
    from sundog.backends.simulated.experiment.experiment import Experiment
    from sundog.backends.simulated.programs.strand import Strand

#: Numbers that stand for process IDs: the same in every run.
_PIDS_A_NODE = 100_000


class BareWorker:
    """See the module. One task at a time: ``_then`` is what comes after the time that it takes now."""

    __slots__ = (
        "_at", "_client", "_computed", "_extents", "_facts", "_held", "_looking", "_names", "_outbox", "_owed", "_requests",
        "_stopping", "_then", "_timing", "_told_at", "_unsent", "_waiting", "_wanted", "_written", "blocked", "counted", "dead",
        "executor", "experiment", "finished", "index", "loop", "node", "number", "pid", "run", "started", "tokens", "where",
    )  # fmt: skip

    def __init__(self, experiment: Experiment, node: BareNode, number: ProcessID) -> None:
        self.experiment = experiment
        self.node = node
        self.loop = node.loop
        self.number = number
        self.where = address(node.number, number)
        self.pid = node.number * _PIDS_A_NODE + number
        self.tokens = self.started = self.finished = 0
        self.executor = Executor()
        #: What runs, and which task of the workload it is.
        self.run: msg.RunTask | None = None
        self.index = -1
        #: Its attempt is the one that is measured.
        self.counted = True
        #: It waits in get.
        self.blocked = False
        self.dead = False
        self._stopping = False
        self._outbox: list[Fact] = []
        self._client: Client | None = None
        self._facts: list[Event] = []
        #: Whether what is unsent may wait for another body; how much of it does, and when the node was last told something.
        self._unsent = Unsent(node.config)
        self._waiting = 0
        self._told_at: Nanos = 0
        #: It will be looked at whether that waits for too long.
        self._looking = False
        self._requests = 0
        #: A timer is set, and what comes after it.
        self._timing = False
        self._then: Callable[[], None] = self._end
        #: Where the body is in its steps, what it has computed, and its names and references.
        self._at = 0
        self._computed: Nanos = 0
        self._names: IdSequence | None = None
        self._held: list[ObjectID] = []
        self._extents: list[Result] = []
        self._wanted: tuple[ObjectID, ...] = ()
        self._written: WrittenPages | None = None
        #: What giving tasks back has cost, to be paid with what is next.
        self._owed: Nanos = 0

    # --- messages -------------------------------------------------------------------------------------------------------

    def receive(self, sender: Address, messages: list[Fact]) -> None:
        """See ``sim_loop.Process``."""
        if self.dead:
            return
        executor = self.executor
        events: list[Event] = []
        for message in messages:
            kind = type(message)
            if kind is msg.RunTasks:
                executor.accept(message)  # type: ignore[arg-type]
            elif kind is msg.FunctionDelivered:
                pass
            elif kind is msg.TasksForgotten:
                waiting = len(executor.queue)
                self._say(executor.forget(message))  # type: ignore[arg-type]
                self._owed += (waiting - len(executor.queue)) * self.experiment.profile.worker_reclaim
            elif kind is msg.StopRequested:
                self._stopping = True
            else:
                events.append((sender, message))
        if events:
            self._step(events)
        if self.run is None:
            self._work(self.experiment.profile.worker_wake)
        elif self._facts or self._outbox:
            self._flush_news()

    def die(self) -> Strand | None:
        """See ``node.NodeWorker``."""
        self.dead = True
        if self._timing:
            self.experiment.busy -= 1
        if self.run is not None:
            self.experiment.lost(self)
        return None

    def _say(self, fact: Fact) -> None:
        """Tell the node; by way of the client machine, if there is one, which knows what goes first."""
        if self._client is None:
            self._outbox.append(fact)
        else:
            self._facts.append((LOOP, fact))

    def _step(self, events: list[Event]) -> None:
        """Step the client machine with ``events`` and all facts, until it has nothing to answer."""
        client = self._client
        if client is None:
            client = self._client = Client(self.node.config, self.where, self.node.where, worker=True)
        facts, self._facts = self._facts, []
        events += facts
        now = self.loop.now
        actions = client.step(now, events)
        if self.node.log.wanted:
            self.node.log.client_turn(now, self.where, events, actions)
        answers = []
        for action in actions:
            if type(action) is act.Send:
                self._outbox.append(action.message)
            elif type(action) is not act.ReportStuck and type(action) is not act.PauseSubmissions:
                answers.append(action)
        for answer in answers:
            self._answered(answer)

    def _flush(self) -> None:
        self._waiting = 0
        if self._facts:
            self._step([])
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            node = self.node
            self._told_at = node.environment._now  # type: ignore[assignment]  # only whole numbers are ever scheduled
            node.send(self.where, node.where, outbox)

    def _flush_news(self) -> bool:
        """A body runs: send everything and return True, unless all that there is waits for its end."""
        if len(self._facts) + len(self._outbox) == self._waiting:
            return False
        self._flush()
        return True

    def _may_wait(self, run: msg.RunTask) -> bool:
        """Tell whether what is unsent may wait until ``run``, which is about to begin, is over."""
        self._waiting = len(self._facts) + len(self._outbox)
        return self._unsent.may_wait(run.spec.function_id, self.loop.now, self._told_at, len(self.executor.queue))

    def _look(self, _: SimEvent | None = None) -> None:
        """See that nothing waits for too long; there is one look to come for all that waits."""
        self._looking = False
        if self.dead or not self._waiting:
            return
        due = self._unsent.goes_at(self._told_at)
        if due <= self.loop.now:
            self._flush()
        else:
            self._looking = True
            self.loop.call_at(due, self._look)

    # --- the pipeline ---------------------------------------------------------------------------------------------------

    def _work(self, wake: Nanos = 0) -> None:
        """Run what lies in the pipeline, until something takes time. ``wake``: what it costs that the worker slept."""
        executor = self.executor
        waits = False
        while executor.queue and self.run is None and not self.dead:
            claimed = claim(self, executor, self._say)
            if claimed is None:
                break
            if self._outbox or self._facts:
                waits = self._may_wait(claimed[0])
            self._begin(*claimed, wake)
            wake = 0
        if self._facts or self._outbox:
            if not waits or self.run is None:
                self._flush()
            elif not self._flush_news() and not self._looking:
                self._look()
        if self._stopping and self.run is None and not self.dead and not executor.queue:
            self.node.worker_left(self, 0)

    def _begin(self, run: msg.RunTask, values: tuple[Value | None, ...], wake: Nanos) -> None:
        self.run = run
        self.started = run.sequence
        experiment = self.experiment
        self.index = run.spec.arguments.format
        experiment.started(self)
        sent = run.values
        overhead = experiment.profile.task_time(len(sent)) if sent else experiment.profile.worker_task
        if overhead:
            overhead += self._inline_time(values)
        if sent and None in sent:
            self._pause(wake, partial(self._ask_for_kept, run, values, overhead))
        else:
            self._begun(overhead, wake)

    def _inline_time(self, values: tuple[Value | None, ...]) -> Nanos:
        """Return what it costs to take in and to give out the values that travel in messages."""
        plan = self.experiment.plan
        sizes = [value.size for value in values if value is not None and value.offset < 0]
        sizes += [size for size in plan.tasks[self.index].outputs if size <= plan.inline_bytes_max]
        return self.experiment.profile.message_time(sum(sizes))

    def _pause(self, span: Nanos, then: Callable[[], None]) -> None:
        """Do ``then`` after ``span``."""
        if not span:
            then()
            return
        node = self.node
        if node.slowness != 1000:
            span = node.slowed(span)
        self._then = then
        self._timing = True
        self.experiment.busy += 1
        node.wake_at(node.environment._now + span, self)  # type: ignore[arg-type]  # only whole numbers are ever scheduled

    def on_time(self) -> None:
        """What took time is over."""
        if self.dead:
            return
        self._timing = False
        self.experiment.busy -= 1
        self._then()
        if self.run is None:
            self._work()
        elif self._facts or self._outbox:
            self._flush_news()

    def _ask_for_kept(self, run: msg.RunTask, values: tuple[Value | None, ...], overhead: Nanos) -> None:
        """What a task before this one in the pipeline returned came without a grant: ask for it if it is large."""
        given = zip(run.spec.dependencies, run.values, values, strict=True)
        missing = [o for o, sent, value in given if sent is None and value is not None and value.offset >= 0]
        if missing:
            self._get(tuple(missing), partial(self._begun, overhead))
        else:
            self._begun(overhead)

    def _begun(self, overhead: Nanos, wake: Nanos = 0) -> None:
        """All arguments are there. ``wake``: what it costs that the worker slept, which is not computing."""
        one = self.experiment.plan.tasks[self.index]
        if one.steps:
            self._begin_steps(overhead + wake)
        else:
            self._computed = span = one.duration + overhead
            self._pause(span + wake, self._end)

    # --- bodies with steps ----------------------------------------------------------------------------------------------

    def _begin_steps(self, overhead: Nanos) -> None:
        run = self.run
        assert run is not None
        self._at = self._computed = 0
        self._names = IdSequence(run.spec.task_id, run.start, 0)
        for object_id in run.spec.contained:
            self._facts.append((LOOP, object_id))  # type: ignore[arg-type]  # a reference is born
            self._held.append(object_id)
        self._pause(overhead, self._go_on)

    def _go_on(self) -> None:
        """Do the next steps, until one takes time."""
        plan = self.experiment.plan
        steps = plan.tasks[self.index].steps
        while self._at < len(steps):
            step = steps[self._at]
            self._at += 1
            if isinstance(step, Compute):
                self._computed += step.span
                if step.span:
                    self._pause(step.span, self._go_on)
                    return
            elif isinstance(step, Submit):
                if self._submit(step.tasks):
                    return
            else:
                wanted = [object_id for other in step.tasks for object_id in plan.object_ids[other]]
                if wanted:
                    self._get(tuple(wanted), self._go_on)
                    return
        self._end()

    def _submit(self, children: tuple[int, ...], at: int = 0) -> bool:
        """Submit ``children`` from the ``at``-th on; True if it takes time."""
        experiment = self.experiment
        plan, tasks, names = experiment.plan, experiment.plan.tasks, self._names
        assert names is not None
        for place in range(at, len(children)):
            child = children[place]
            one = tasks[child]
            experiment.submitted(child)
            if one.function == PUT:
                if self._put(child, one, children, place):
                    return True
                continue
            if one.function not in self.node.exported:
                self.node.exported[one.function] = None
                self._facts.append((LOOP, plan.export(one.function)))
            self._facts.append((LOOP, plan.submission(child, names)))
            self._held += plan.object_ids[child]
        profile = experiment.profile
        span = profile.submit * (len(children) - at)
        if profile.submit_dependency:
            span += profile.submit_dependency * sum([plan.dependencies(child) for child in children[at:]])
        if span:
            self._pause(span, self._go_on)
        return bool(span)

    def _put(self, child: int, one: WorkTask, children: tuple[int, ...], place: int) -> bool:
        """Put a value; True if its bytes take time, and then the rest of ``children`` is submitted after it."""
        experiment = self.experiment
        experiment.put_started(child, self)
        size = one.outputs[0]
        if size <= experiment.plan.inline_bytes_max:
            self._is_put(child, -1)
            return False

        def written() -> None:
            result = self._extents.pop()
            self._is_put(child, result.value.offset)
            if not self._submit(children, place + 1):
                self._go_on()

        self._write(size, written)
        return True

    def _is_put(self, child: int, offset: int) -> None:
        assert self._names is not None
        fact = self.experiment.plan.put(child, self._names, offset)
        self._facts.append((LOOP, fact))
        self._held.append(fact.object_id)
        self.experiment.finished(child)

    def _get(self, wanted: tuple[ObjectID, ...], then: Callable[[], None]) -> None:
        """Wait for the values of ``wanted``, without CPUs, then do ``then``."""
        run = self.run
        assert run is not None
        self._requests += 1
        self._wanted = wanted
        self._facts.append((LOOP, GetRequested(self._requests, wanted, None, run.spec.task_id)))
        self.blocked = True
        self.experiment.blocked(self)
        self._then = then

    def _answered(self, action: Any) -> None:
        """The client machine has an answer for the body."""
        run = self.run
        if run is None or action.request != self._requests:
            return
        if type(action) is act.ResolveQuestion:
            granted: Any = action.answer
            self._extents.append(Result(Value(granted.size, 0, b"", granted.offset)))
            if self._written is None:
                self._written = WrittenPages()
            unmapped = self._written.write(granted.offset, granted.size, granted.warm)
            self._pause(self.experiment.profile.copy_time(granted.size, not granted.warm, unmapped), self._then)
            return
        if self.blocked:
            self.blocked = False
            self.experiment.resumed(self)
        if type(action) is act.RejectRequest:
            self._fail(Value(0, error=True, failure=action.failure))
        elif type(action) is act.ResolveGet:
            distinct = dict(zip(self._wanted, action.values, strict=True))
            self._facts += [(LOOP, PinDropped(object_id)) for object_id, value in distinct.items() if value.offset >= 0]
            failed = next((value for value in action.values if value.error), None)
            if failed is not None:
                self._fail(failed)
            else:
                profile = self.experiment.profile
                inline = sum([value.size for value in distinct.values() if value.offset < 0])
                span = profile.worker_wake + profile.receive * len(distinct) + profile.message_time(inline)
                if self.experiment.plan.tasks[self.index].steps:
                    span += profile.worker_block + self._owed
                    self._owed = 0
                self._pause(span, self._then)

    # --- results --------------------------------------------------------------------------------------------------------

    def _write(self, size: int, then: Callable[[], None]) -> None:
        """Ask for an extent and write ``size`` bytes into it, then do ``then``."""
        self._requests += 1
        self._facts.append((LOOP, Asked(self._requests, msg.ExtentWanted(self._requests, size))))
        self._then = then

    def _end(self) -> None:
        """The body returns."""
        results = self.experiment.plan.results(self.experiment.plan.tasks[self.index].outputs)
        if results is None:
            self._extents = []
            self._pack()
        else:
            self._report(results)

    def _pack(self) -> None:
        """Write large results into extents, one after the other."""
        plan = self.experiment.plan
        outputs = plan.tasks[self.index].outputs
        extents = self._extents
        if extents and extents[-1].value.offset >= 0:  # the size granted is rounded up
            value = extents[-1].value
            extents[-1] = Result(Value(outputs[len(extents) - 1], 0, b"", value.offset))
        while len(extents) < len(outputs):
            size = outputs[len(extents)]
            if size > plan.inline_bytes_max:
                self._write(size, self._pack)
                return
            extents.append(Result(Value(size)))
        self._extents = []
        self._report(tuple(extents))

    def _fail(self, value: Value) -> None:
        """The body ends with an error."""
        run = self.run
        assert run is not None
        for result in self._extents:
            if result.value.offset >= 0:
                self._facts.append((LOOP, msg.ExtentReturned(result.value.offset)))
        self._extents = []
        self._report((Result(value),))

    def _report(self, results: tuple[Result, ...]) -> None:
        run, experiment = self.run, self.experiment
        assert run is not None
        spec = run.spec
        self.finished = run.sequence
        if self.executor.queue:  # otherwise all is sent at once, whatever it is
            unsent = len(self._facts) + len(self._outbox)
            self._unsent.ended(run, self.loop.now, self._computed, self._waiting, unsent)
        plan = experiment.plan
        if self._client is None and not self._facts:
            outbox = self._outbox
            outbox.append(msg.TaskFinished(spec.task_id, run.attempt, results, self._computed))
            if run.values:
                pins = _granted(run)
                if pins:
                    outbox.append(msg.PinsReturned(pins))
        else:
            facts = self._facts
            facts.append((LOOP, msg.TaskFinished(spec.task_id, run.attempt, results, self._computed)))
            facts += [(LOOP, PinDropped(object_id)) for object_id in _granted(run)]
            facts += [(LOOP, ReferenceDropped(object_id)) for object_id in self._held]
            self._held = []
        if not (results and results[0].value.error):
            if plan.taken and plan.taken[self.index]:
                self.executor.finished(run, results)
            if self.counted:
                experiment.finished(self.index)
        self.run = None


def _granted(run: msg.RunTask) -> tuple[ObjectID, ...]:
    """Return what came with a grant, which goes back when the body is over."""
    return tuple([o for o, value in zip(run.spec.dependencies, run.values, strict=True) if value is not None and value.offset >= 0])
