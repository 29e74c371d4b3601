"""A worker in the simulation: the executor's pipeline, the client machine, and one body at a time.

A body is called right from the loop, on the driver's thread; what it computes takes no virtual time, and its declared duration
passes between its end and its report. Its tokens and its progress record are ints here (protocol P1).

As on real processes, results may wait for the ends of bodies behind them (``core.unsent``), and further tasks lie unread until
those that the worker has are done. What a long body holds up is sent by a timer, one for all that is held until it fires.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent
from simpy.events import Event

from sundog.backends.grants import Answer
from sundog.backends.session import Session
from sundog.backends.simulated.claim import claim
from sundog.backends.simulated.faults.occurrences import Occurrence
from sundog.backends.simulated.programs.client_process import ClientProcess
from sundog.backends.simulated.programs.strand import Strand, WorkerKilled
from sundog.backends.task_body import Outcome, TaskBody
from sundog.core import messages as msg
from sundog.core.errors import InvariantViolation
from sundog.core.executor import Executor
from sundog.core.ids import Address, FunctionID, IdSequence, ProcessID, TaskID, address
from sundog.core.machine import Event as SteppedEvent
from sundog.core.machine import Fact
from sundog.core.task import TaskSpec, Value
from sundog.core.units import Nanos
from sundog.core.unsent import Unsent

if TYPE_CHECKING:
    from sundog.backends.simulated.node import Node

#: What a worker reads when it has nothing left to run.
_FOR_THE_PIPELINE = (msg.RunTasks, msg.FunctionDelivered)

#: Numbers that stand for process IDs in tables and errors: the same in every run.
_PIDS_A_NODE = 100_000


class Worker(ClientProcess):
    """See the module."""

    def __init__(self, node: Node, number: ProcessID) -> None:
        super().__init__(node, address(node.number, number), worker=True)
        self.number = number
        self.pid = node.number * _PIDS_A_NODE + number
        #: The semaphore of protocol P1.
        self.tokens = 0
        #: The progress record: sequence numbers of the tasks last started and last finished.
        self.started = 0
        self.finished = 0
        self._executor = Executor()
        self._functions: dict[FunctionID, msg.FunctionDelivered] = {}
        #: What has come for the pipeline while a body runs.
        self._unread: list[SteppedEvent] = []
        #: Whether what ``facts`` holds may wait for another body, how many facts did when the last one began, and until when.
        self._unsent = Unsent(node.config)
        self._held = 0
        self._held_until: Nanos | None = None
        self._told_at: Nanos = 0
        #: Made when the first task comes.
        self._session: Session | None = None
        self._body: TaskBody | None = None
        #: The task whose body runs, is suspended, or has ended and is not reported yet.
        self.run: msg.RunTask | None = None
        self._strand: Strand | None = None
        self._ids: IdSequence | None = None
        self._blocked: Nanos = 0
        #: What the running task takes beyond what its body waits for.
        self._duration: Nanos = 0
        self._computing = False
        #: When the last body began.
        self._began: Nanos = 0
        #: How the body ended, while its duration passes.
        self._outcome: Outcome | None = None
        self._work_due = False
        self._stopping = False
        #: The declared duration that passes on the node's cores, for ``Cores.stop``.
        self._computation: int | None = None

    @property
    def strand(self) -> Strand | None:
        """See ``ClientProcess``."""
        return self._strand

    # -- messages and turns ---------------------------------------------------------------------------------------------------

    def route(self, message: Fact) -> bool:
        """See ``ClientProcess``: what is meant for the pipeline."""
        if isinstance(message, msg.RunTasks):
            self._executor.accept(message)
        elif isinstance(message, msg.FunctionDelivered):
            self._functions[message.function_id] = message
        elif isinstance(message, msg.TasksForgotten):
            waiting = len(self._executor.queue)
            self.facts.append(self._executor.forget(message))
            if self.charges is not None:
                self.charges.reclaimed(waiting - len(self._executor.queue))
        elif isinstance(message, msg.StopRequested):
            self._stopping = True
        else:
            return False
        return True

    def receive(self, sender: Address, messages: list[Fact]) -> None:
        """See ``Process``."""
        if self.run is not None and self._may_lie(messages):
            self._unread += [(sender, message) for message in messages]
        else:
            super().receive(sender, messages)

    def _may_lie(self, messages: list[Fact]) -> bool:
        """Tell whether nobody reads ``messages`` before the body that runs ends."""
        if self.waiters.by_request or self.dead or (self.charges is not None and self.charges.reads()):
            return False
        return not any(type(message) not in _FOR_THE_PIPELINE for message in messages)

    def wanted_at(self) -> Nanos | None:
        """See ``Process``."""
        due, held = super().wanted_at(), self._held_until
        return due if held is None or (due is not None and due < held) else held

    def turn(self) -> None:
        """See ``Process``."""
        if self._unread and (self.inbox or self.run is None or self.waiters.by_request):
            self._read()
        super().turn()
        if self.run is None and not self._work_due and (self._executor.queue or self._stopping):
            self._work_due = True
            self.loop.call_at(self.loop.now, self._work)

    def _step(self, events: list[SteppedEvent]) -> None:
        if events:
            self._told_at = self.loop.now
            self._unsent.patient = False
            self._held, self._held_until = 0, None
        super()._step(events)

    def _read(self) -> None:
        """Take what has come for the pipeline."""
        unread, self._unread = self._unread, []
        for _, message in unread:
            self.route(message)

    def _tell(self) -> None:
        """Tell the node everything, without a look at what has come for the pipeline; what else has come is run by the caller."""
        if self.inbox:
            self._read()  # it came before
        super().turn()

    def has_said(self) -> bool:
        """See ``ClientProcess``: what waits for a body's end does so while it sleeps, too."""
        return len(self.facts) != self._held

    def show(self, what: Fact | str) -> None:
        """See ``ClientProcess``: on stderr, as a real worker would."""
        if sys.stderr is not None:
            sys.stderr.write(f"sundog: {getattr(what, 'text', what)}\n")

    # -- the pipeline ---------------------------------------------------------------------------------------------------------

    def _work(self, event: Event | None = None) -> None:
        """Run what lies in the pipeline, until a body blocks for longer than this call, or takes time."""
        self._work_due = False
        executor, charges = self._executor, self.charges
        if charges is not None and executor.queue and self.run is None and event is not None:
            charges.wake()
        while self.run is None and not self.dead:
            claimed = claim(self, executor, self._skip)
            if claimed is None:
                if self._refill():
                    continue
                break
            run, values = claimed
            behind = len(executor.queue)
            if self.facts and not self._unsent.may_wait(run.spec.function_id, self.loop.now, self._told_at, behind):
                self._tell()
            self._execute(run, values)
        if self.facts and not self.dead:
            if self.run is None:
                self.turn()
            elif self.has_said():
                self._tell()
        if self._stopping and self.run is None and not self.dead and not executor.queue and not self.facts:
            self.node.worker_left(self, 0)

    def _refill(self) -> bool:
        """The pipeline is empty: look whether tasks have come. What is awaited together goes on waiting if so; all else is sent."""
        if self.facts and not self._unsent.patient:
            self._tell()
        self._read()
        return bool(self._executor.queue)

    def _skip(self, fact: Fact) -> None:
        self.facts.append(fact)
        self._unsent.patient = False

    def _execute(self, run: msg.RunTask, values: tuple[Value, ...]) -> None:
        """Call a body. It may be suspended in here for any virtual time, while other frames of this worker take its turns."""
        self.run = run
        self.started = run.sequence
        self.node.occurred(Occurrence.STARTED)
        self._ids, self._blocked, self._duration = None, 0, 0
        self._held = len(self.facts)
        if self._held:
            self._held_until = self._unsent.goes_at(self._told_at)
            self.turn_at(self._held_until)
        if self._session is None or self._body is None:
            self._session = Session(self, worker=True)
            self._body = TaskBody(self._session, self._on_call)
        loop = self.loop
        began = self._began = loop.now
        strand = self._strand = Strand(loop, self, getcurrent())
        strand.begins(self._session)
        outcome = self._charged(run, values) if self.charges is not None else self._call(run, values)
        strand.ends()
        self._strand = None
        self.node.streams.forget(strand)
        if self.dead or outcome is None:
            return  # killed: nobody hears of it
        duration = self.node.slowed(self._duration)
        if not duration:
            self._report(run, outcome, began)
            return
        self._outcome = outcome
        self._computes(True)
        if self.node.cores is None:
            loop.call_at(loop.now + duration, lambda _: self._report_late(run, began))
        else:
            self._computation = self.node.cores.compute(duration, lambda _: self._report_late(run, began))

    def _computes(self, whether: bool) -> None:
        """A duration passes, or does so no more."""
        if self._computing is not whether:
            self._computing = whether
            self.loop.timers += 1 if whether else -1
            self.loop.active_at = self.loop.now

    def _call(self, run: msg.RunTask, values: tuple[Value, ...]) -> Outcome | None:
        """Call a body. None if the worker was killed meanwhile, and what the body did of that could not even be packed."""
        assert self._body is not None
        try:
            return self._body(run, self._functions.get(run.spec.function_id), values)
        except WorkerKilled:
            return None

    def _charged(self, run: msg.RunTask, values: tuple[Value, ...]) -> Outcome | None:
        """Call a body; what comes before and after it takes time, too. None if the worker was killed meanwhile."""
        charges = self.charges
        assert charges is not None
        began = self.loop.now
        try:
            charges.charge(0)  # what is owed for waking is no part of the task
            self._blocked += self.loop.now - began
            charges.task_begins(run, values)
            outcome = self._call(run, values)
            if outcome is not None and not self.dead:
                charges.task_ends(outcome)
        except WorkerKilled:
            return None
        return outcome

    def _report_late(self, run: msg.RunTask, began: Nanos) -> None:
        self._computation = None
        self._computes(False)
        outcome, self._outcome = self._outcome, None
        if not self.dead and self.run is run and outcome is not None:
            self._report(run, outcome, began)
            del outcome  # what dies with it is told with what follows
            self._work()

    def _report(self, run: msg.RunTask, outcome: Outcome, began: Nanos) -> None:
        took = self.loop.now - began - self._blocked
        if self.node.trace is not None:
            how = "failed" if outcome.failed else "task"
            self.node.trace.ran(self.node.number, self.number, run, began, self._blocked, how)
        self.finished = run.sequence
        self._unsent.ended(run, self.loop.now, took, self._held, len(self.facts))
        self.facts.append(msg.TaskFinished(run.spec.task_id, run.attempt, outcome.results, took, outcome.retryable))
        if not outcome.failed:
            self._executor.finished(run, outcome.results)
        self.run = None

    def _on_call(self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The body is about to be called: find out how long it will take."""
        self._duration = self.node.durations.of(spec, args, kwargs)

    # -- base.Port ------------------------------------------------------------------------------------------------------------

    def ask(self, fact: Any) -> Answer:
        """See ``base.Port``."""
        began = self.loop.now
        try:
            return super().ask(fact)
        finally:
            self._blocked += self.loop.now - began

    def begin(self, fact: Any, done: Callable[[Answer], None]) -> None:
        """See ``base.Port``."""
        self._check_alive()
        super().begin(fact, done)

    def submitted(self, size: int) -> None:
        """See ``base.Port``."""
        self._check_alive()
        super().submitted(size)

    def answered_here(self) -> None:
        """See ``base.Port``."""
        self._check_alive()

    def lane(self) -> IdSequence:
        """See ``base.Port``. Bodies have one thread here."""
        run = self.run
        if run is None:
            raise InvariantViolation("a worker names things only while a task runs")
        if self._ids is None:
            self._ids = IdSequence(run.spec.task_id, run.start, 0)
        return self._ids

    def current_task(self) -> TaskID | None:
        """See ``base.Port``."""
        return self.run.spec.task_id if self.run is not None else None

    def _check_alive(self) -> None:
        if self._strand is not None and self._strand.doomed:
            self._strand.check()

    # -- ends -----------------------------------------------------------------------------------------------------------------

    def die(self) -> Strand | None:
        """Never do anything again; return the suspended body, if there is one, to be unwound at the session's end."""
        self.dead = True
        if self.run is not None and self.node.trace is not None:
            self.node.trace.ran(self.node.number, self.number, self.run, self._began, self._blocked, "lost")
        if self._computation is not None and self.node.cores is not None:
            self.node.cores.stop(self._computation)
        strand = self._strand
        if strand is not None:
            strand.doomed = True
            strand.sleeps_no_more()
        self._computes(False)
        return strand
