"""The loop of a worker: its main thread runs bodies, and in between, or while a body waits, reads the link.

Whoever holds ``_pumping`` (a lock) may read the link, step the client machine and touch the pipeline. The main thread holds it
outside bodies and while the body on it blocks in ``ask``; during a body it is free, and the helper thread takes it

* to send what a long body submits, when it is a millisecond old;
* to send what was there when a body began that was thought to be short and is not, results of tasks before it above all;
* to wait on behalf of other threads of the task.

Otherwise the helper sleeps on a lock and costs nothing. While short tasks follow each other the main thread sends by itself, and
the helper, of which each look takes the interpreter from the bodies, looks seldom whether it still does.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import sys
import threading
import time
from _thread import allocate_lock, get_ident, start_new_thread
from collections.abc import Callable
from typing import Any, Protocol

from sundog.backends.exceptions import SessionClosedError
from sundog.backends.grants import Answer
from sundog.backends.local_processes.process import limit_reached
from sundog.backends.local_processes.progress import FINISHED, STARTED
from sundog.backends.local_processes.pump import ClientPump
from sundog.backends.local_processes.worker_output import WorkerOutput
from sundog.backends.local_processes.worker_random import RandomStreams
from sundog.backends.task_body import Outcome
from sundog.backends.waiter import Waiter
from sundog.core import messages as msg
from sundog.core.actions import RejectRequest
from sundog.core.config import Config
from sundog.core.executor import Executor
from sundog.core.ids import FunctionID, IdSequence, ProcessID, TaskID
from sundog.core.machine import Fact
from sundog.core.task import FailureKind, Value
from sundog.core.units import MICROSECOND, MILLISECOND, Nanos
from sundog.core.unsent import Unsent

#: What a body's submissions gather to before they are sent: facts, or this much time (protocols: 3).
SUBMITTED_TOGETHER = 64
SUBMITTED_FOR: Nanos = 200 * MICROSECOND
#: Nothing has been sent for this long: the next submission goes at once.
PAUSE: Nanos = 1 * MILLISECOND
#: Seconds after which the helper sends what a body had it see to and nobody else has sent.
HELP_AFTER = 0.001
#: Seconds between its looks whether the main thread still sends by itself what it leaves unsent when a body begins.
WATCH_EVERY = 0.004
#: The same while results are held that are awaited together: only a body that takes far longer than its mean keeps them, and
#: each look takes the interpreter from a body.
WATCH_PATIENTLY = 0.05
#: So many looks at which there was nothing to do send it to sleep, from which waking it costs a system call.
HELP_IDLE_MAX = 8

_clock = time.monotonic_ns
_claim = os.eventfd_read

#: The exit code of a worker whose state an exception left unknown.
BROKEN_STATUS = 70

FORKED = "this process was forked from a worker and has no session of its own: call sundog.init() in it"


class Body(Protocol):
    """Runs tasks: loads function and arguments, calls, packs what comes of it. Lets no exception out."""

    def __call__(self, run: msg.RunTask, function: msg.FunctionDelivered | None, values: tuple[Value, ...], /) -> Outcome:
        """Run ``run`` with the values of its dependencies; ``function`` is None if it was never delivered."""


class WorkerPort:
    """``base.Port`` of a worker, and the loop itself: see :meth:`run`."""

    def __init__(
        self,
        config: Config,
        link: socket.socket,
        worker: ProcessID,
        arena: Any,
        tokens_fd: int,
        progress: memoryview,
        by_task_seeds: bool,
    ) -> None:
        self.config = config
        self.arena = arena
        self.closed: str | None = None
        self._pump = ClientPump(config, link, worker, worker=True, route=self._route, show=self._show, closed=self._on_closed)
        self.facts, self.grants = self._pump.facts, self._pump.grants
        self.known = self._pump.client.known
        self._tokens_fd = tokens_fd
        self._progress = progress
        self._executor = Executor()
        #: Functions as they were delivered; the body loads each at its first run.
        self._functions: dict[FunctionID, msg.FunctionDelivered] = {}
        #: Whether what ``facts`` holds may wait for another body.
        self._unsent = Unsent(config)
        self.output = WorkerOutput(self._arm)
        self._random = RandomStreams(by_task_seeds)
        self._seeded = by_task_seeds
        self._requests = itertools.count(1)
        self._stopping = False
        #: The task that runs or ran last; its execution's names.
        self._run: msg.RunTask | None = None
        self._main_ids: IdSequence | None = None
        #: Lanes of this task that other threads took.
        self._lanes = 0
        self._lanes_lock = allocate_lock()
        self._local = threading.local()
        self._blocked: Nanos = 0
        #: When the first submission since the last turn was made.
        self._gathering_from: Nanos = 0
        self._main = get_ident()
        self._pumping = allocate_lock()
        #: The main thread pumps, or wants to: the helper keeps away.
        self._main_pumps = True
        #: The thread that is in a turn, or 0.
        self._stepping = 0
        self._gate = allocate_lock()
        self._gate.acquire()
        self._helper_asleep = False
        #: It waits for its next look of :data:`WATCH_EVERY`.
        self._helper_watches = False
        #: It is to look in :data:`HELP_AFTER`.
        self._urged = False
        os.register_at_fork(after_in_child=self._forked)

    # -- the loop -------------------------------------------------------------------------------------------------------------

    def run(self, body: Body) -> None:
        """Run tasks until the node says to stop; leaves the process when the link ends. For the main thread, once."""
        self._pumping.acquire()
        try:
            start_new_thread(self._help, ())
        except RuntimeError:  # the last process that a limit allows has no room for its second thread
            raise SystemExit(limit_reached(BlockingIOError(errno.EAGAIN, ""))) from None
        executor, unsent = self._executor, self._unsent
        while True:
            if executor.queue:
                self._execute(executor.queue.popleft(), body)
                continue
            if self._pump.pending() and not (unsent.patient and self._refill()):
                self._turn()
            if executor.queue:
                continue
            if self._stopping and not self._pump.pending():
                return
            self._pump.sleep()
            self._turn()

    def _refill(self) -> bool:
        """The pipeline is empty, and results that may wait are unsent: look whether more tasks have come, and take only those."""
        pump, unsent, count = self._pump, self._unsent, len(self.facts)
        pump.sleep(0)
        self._turn(hold=True)
        unsent.patient = len(self.facts) == count
        return unsent.patient and bool(self._executor.queue)

    def _execute(self, run: msg.RunTask, body: Body) -> None:
        """Run one task of the pipeline if it can still be claimed. The main thread holds ``_pumping``."""
        try:
            _claim(self._tokens_fd)
        except BlockingIOError:
            return  # reclaimed (P1)
        executor, spec, sequence = self._executor, run.spec, run.sequence
        values = executor.values(run) if run.values else ()
        if values is None:
            self._progress[STARTED] = self._progress[FINISHED] = sequence
            self.facts.append(executor.skip(run))
            self._unsent.patient = False
            return
        unsent, output, facts = self._unsent, self.output, self.facts
        began = _clock()
        if facts and not unsent.may_wait(spec.function_id, began, self._pump.turned_at, len(executor.queue)):
            self._turn()
            began = _clock()
        before = len(facts)
        self._run = run
        self._main_ids = None
        self._lanes = 0
        self._blocked = 0
        output.task = spec.name
        if self._seeded:
            self._random.begin(spec.task_id)
        self._progress[STARTED] = sequence
        self._release()
        try:
            outcome = body(run, self._functions.get(spec.function_id), values)
        finally:
            self._main_pumps = True  # as _take does, without the call
            if not self._pumping.acquire(False):
                self._take()
        if output.touched:
            output.end()
        output.task = ""
        ended = _clock()
        took = ended - began - self._blocked - outcome.loading
        self._progress[FINISHED] = sequence
        unsent.ended(run, ended, took, before, len(facts))
        facts.append(msg.TaskFinished(spec.task_id, run.attempt, outcome.results, took, outcome.retryable))
        if not outcome.failed:
            executor.finished(run, outcome.results)

    def _route(self, message: Fact) -> bool:
        """Take what is meant for the pipeline; False for what is the client machine's."""
        kind = type(message)
        if kind is msg.RunTasks:
            self._executor.accept(message)  # type: ignore[arg-type]  # checked by its type, which is final
        elif isinstance(message, msg.FunctionDelivered):
            self._functions[message.function_id] = message
        elif isinstance(message, msg.TasksForgotten):
            self.facts.append(self._executor.forget(message))
        elif kind is msg.StopRequested:
            self._stopping = True
        else:
            return False
        return True

    def _turn(self, *, hold: bool = False) -> None:
        """One turn of the pump. An exception in it (a bug of ours, or a signal handler of the user's that raises) leaves a
        state that nobody knows: the worker dies, and the node goes on without it."""
        self._stepping = get_ident()
        pump = self._pump
        try:
            pump.turn(hold=hold)
            if pump.answers:
                pump.give_answers()
        except BaseException:
            import traceback  # only when something went wrong

            os.write(2, b"sundog: the worker cannot go on:\n" + traceback.format_exc().encode("utf-8", "replace"))
            os._exit(BROKEN_STATUS)
        self._stepping = 0
        self._unsent.patient = False
        if pump.ended:
            os._exit(0)

    def _take(self) -> None:
        """Main thread: take the pump, from the helper if need be."""
        self._main_pumps = True
        if not self._pumping.acquire(False):
            self._pump.kick.ring()
            self._pumping.acquire()

    def _release(self) -> None:
        """Main thread: a body is about to run, or to go on."""
        self._pumping.release()
        self._main_pumps = False
        pump = self._pump
        if pump.waiters.by_request:
            self._wake_helper()
            return
        if self._helper_asleep and (self.facts or self.output.touched or pump.channel.wants_write) and self._helper_needed():
            self._wake_helper()

    # -- the helper thread ----------------------------------------------------------------------------------------------------

    def _help(self) -> None:
        gate = self._gate
        idle = 0
        while True:
            if self._helper_needed():
                idle = 0
            elif idle >= HELP_IDLE_MAX:
                self._helper_asleep = True
                if not self._helper_needed():
                    gate.acquire()
                self._helper_asleep = False
                idle = 0
            idle += 1
            if self._main_pumps or not self._pump.waiters.by_request:
                urged = self._wait_for_look()
                if not self._helper_needed():
                    continue
                if not urged and not self._pump.waiters.by_request and _clock() < self._unsent.goes_at(self._pump.turned_at):
                    continue
            self.output.flush()
            if self._pumping.acquire(True, HELP_AFTER):
                try:
                    self._pump_for_others()
                finally:
                    self._pumping.release()

    def _wait_for_look(self) -> bool:
        """Helper: wait until it is time to look, or somebody waits; return whether a body wants what is there to be sent."""
        if not self._urged:
            self._helper_watches = True
            if not self._urged:
                self._gate.acquire(True, WATCH_PATIENTLY if self._unsent.patient else WATCH_EVERY)
            self._helper_watches = False
        if not self._urged:
            return False
        self._urged = False
        if not self._pump.waiters.by_request:
            self._gate.acquire(True, HELP_AFTER)
        return True

    def _pump_for_others(self) -> None:
        """Send what is there; as long as other threads wait, or the socket is full, and the main thread does not, go on."""
        pump = self._pump
        if pump.pending():
            self._turn()
        while not self._main_pumps and (pump.waiters.by_request or pump.channel.wants_write):
            pump.sleep(None, self._main_wants)
            self._turn()

    def _main_wants(self) -> bool:
        return self._main_pumps

    def _helper_needed(self) -> bool:
        return not self._main_pumps and bool(self._pump.pending() or self._pump.waiters.by_request or self.output.waiting)

    def _wake_helper(self) -> None:
        try:
            self._gate.release()
        except RuntimeError:
            return  # it is awake, or has been told already

    def _arm(self) -> None:
        """Something waits to be sent: see that the helper looks in a millisecond, if nobody else has sent it by then."""
        if not self._main_pumps:
            self._urged = True  # before the look: the helper looks the other way round
            if self._helper_asleep or self._helper_watches:
                self._wake_helper()

    # -- base.Port: any thread ------------------------------------------------------------------------------------------------

    def submitted(self, size: int) -> None:
        """See ``base.Port``."""
        pump = self._pump
        if pump.paused:
            self._wait_for_room()
        now = _clock()
        since = now - pump.turned_at
        if since > PAUSE:
            full = True
        elif self._gathering_from < pump.turned_at:
            self._gathering_from, full = now, False
        else:
            full = now - self._gathering_from > SUBMITTED_FOR
        if (full or len(self.facts) >= SUBMITTED_TOGETHER) and self._pumping.acquire(False):
            try:
                self._turn()
            finally:
                self._pumping.release()
        else:
            self.kick()

    def answered_here(self) -> None:
        """See ``base.Port``."""

    def kick(self) -> None:
        """See ``base.Port``."""
        if not self._pump.rouse():
            self._arm()

    def next_request(self) -> int:
        """See ``base.Port``."""
        return next(self._requests)

    def ask(self, fact: Any) -> Answer:
        """See ``base.Port``. The main thread pumps until the answer is there; others wait while somebody pumps for them."""
        self._check_open()
        if self._stepping == get_ident():
            raise RuntimeError("a blocking sundog call in a finalizer or a future's callback would wait for itself")
        pump = self._pump
        request: int = fact.request
        waiter = Waiter(fact)
        try:
            pump.waiters.add(request, waiter)
            self.facts.append(fact)
            if get_ident() == self._main:
                self._pump_until_answered(waiter)
            else:
                self._urge()
                waiter.wait()
            pump.waiters.take(request)
        except BaseException:
            pump.waiters.add(request, waiter)
            pump.abandoned.append(request)
            self.kick()
            raise
        answer = waiter.answer
        assert answer is not None
        if type(answer) is RejectRequest and answer.failure.kind is FailureKind.SESSION_CLOSED:
            raise SessionClosedError(answer.failure.message)
        return answer

    def begin(self, fact: Any, done: Callable[[Answer], None]) -> None:
        """See ``base.Port``."""
        self._check_open()
        self._pump.waiters.add(fact.request, Waiter(fact, done))
        self.facts.append(fact)
        self._urge()

    def lane(self) -> IdSequence:
        """See ``base.Port``. Lane 0 is the task's own thread; others take the next one at their first call in this task."""
        run = self._run
        assert run is not None, "a worker names things only from its first task on"
        if get_ident() == self._main:
            if self._main_ids is None:
                self._main_ids = IdSequence(run.spec.task_id, run.start, 0)
            return self._main_ids
        local = self._local
        if getattr(local, "run", None) is not run:
            with self._lanes_lock:
                self._lanes = lane = self._lanes + 1
            local.run = run
            local.ids = IdSequence(run.spec.task_id, run.start, lane)
        ids: IdSequence = local.ids
        return ids

    def current_task(self) -> TaskID | None:
        """See ``base.Port``."""
        if self._run is None or get_ident() != self._main:
            return None
        return self._run.spec.task_id

    def close(self) -> None:
        """See ``base.Port``. A worker ends with its node."""

    def _pump_until_answered(self, waiter: Waiter) -> None:
        """Main thread: let others have the CPU while pumping."""
        since = time.monotonic_ns()
        self.output.flush()
        self._take()
        try:
            self._turn()
            while waiter.answer is None:
                self._pump.sleep()
                self._turn()
        finally:
            self._blocked += time.monotonic_ns() - since
            self._release()

    def _urge(self) -> None:
        """Another thread than the main one waits from now on: somebody has to pump, at once."""
        if not self._pump.rouse() and not self._main_pumps:
            self._wake_helper()

    def _wait_for_room(self) -> None:
        pump = self._pump
        while pump.paused and self.closed is None and self._stepping != get_ident():
            if get_ident() == self._main:
                self._take()
                try:
                    self._turn()
                    if pump.paused:
                        pump.sleep()
                        self._turn()
                finally:
                    self._release()
            else:
                resumed = allocate_lock()
                resumed.acquire()
                pump.resumed.append(resumed)
                if pump.paused:
                    self._urge()
                    resumed.acquire(True, 0.05)

    def _check_open(self) -> None:
        if self.closed is not None:
            raise SessionClosedError(self.closed)

    def _on_closed(self, reason: str) -> None:
        self.closed = reason

    def _show(self, what: Fact | str) -> None:
        """Say it on the worker's stderr, which the driver shows."""
        sys.stderr.write(f"sundog: {getattr(what, 'text', what)}\n")

    def _forked(self) -> None:
        """In a child that a task forked: the pipeline and the link are the parent's."""
        self.closed = FORKED
        self._pump.waiters.reject_all(FORKED)
        self._pump.asleep = 0
        self._pump.paused = False
