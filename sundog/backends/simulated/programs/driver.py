"""The driver in the simulation: the user's own program, on its main greenlet. ``ask`` lets the simulation go on until answered.

Other threads of the driver may call, too: the simulation goes on for them while the main one waits for anything (see
``driver_threads``). What they do is as reproducible as threads are.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import time
from _thread import get_ident
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from sundog.backends import current
from sundog.backends.driver_lanes import DriverLanes
from sundog.backends.driver_output import DriverOutput
from sundog.backends.exceptions import DeadlockError
from sundog.backends.grants import Answer
from sundog.backends.simulated.programs import driver_threads, virtual_time
from sundog.backends.simulated.programs.client_process import ClientProcess
from sundog.backends.simulated.programs.rebinding import Rebinding
from sundog.backends.simulated.programs.strand import Strand, WorkerKilled
from sundog.backends.waiter import Waiter
from sundog.core.events import Asked, GetRequested, WaitRequested
from sundog.core.ids import DRIVER, TaskID, address
from sundog.core.machine import Fact
from sundog.core.messages import SessionEnding
from sundog.core.units import SECOND, Nanos, seconds

if TYPE_CHECKING:
    from sundog.backends.session import Session
    from sundog.backends.simulated.cluster import Cluster
    from sundog.backends.simulated.faults.runner import FaultRunner
    from sundog.backends.simulated.node import Node

CLOSED = "the session has ended: call sundog.init() to start another"
FORKED = "this process was forked from a driver and has no session of its own: call sundog.init() in it"
#: Virtual seconds that the nodes are given to say their last words.
_ENDING_SECONDS = 5.0

#: Times a worker's usual start that the session waits for the first ones.
_STARTS_PATIENCE = 1000

_live: Driver | None = None


class Driver(DriverLanes, ClientProcess):
    """See the module. ``root`` names the user's program. Makes time virtual; :meth:`close` puts everything back."""

    def __init__(self, cluster: Cluster, node: Node, root: TaskID, close_files: Callable[[], None]) -> None:
        ClientProcess.__init__(self, node, address(node.number, DRIVER), worker=False)
        self.pid = os.getpid()
        self.cluster = cluster
        #: Requests of other threads of the driver, which wait for their answers.
        self._asked_by_threads: dict[int, None] = {}
        DriverLanes.__init__(self, root)
        self._output = DriverOutput()
        self._close_files = close_files
        self._main = Strand(self.loop, self, self.loop.main)
        self.loop.running = self._main
        self._finished = False
        #: What carries out faults, with the log of what it did.
        self.faults: FaultRunner | None = None
        self._rebinding = Rebinding()
        cluster.processes[self.where] = self
        self.loop.on_empty = self._nothing_left
        self.loop.on_look = self._nothing_but_heartbeats
        cluster.watch.heed(node.config)
        self.loop.on_failure = self._failed

    def begin_session(self) -> None:
        """Wait until the workers are up; then time is virtual, randomness and garbage are in order, until :meth:`close`."""
        global _live
        try:
            self._await_workers()
            virtual_time.install(self.loop, self._rebinding)
            self.cluster.streams.install(self._rebinding)
            driver_threads.install(self, self._rebinding)
            self._rebinding.rebind_names()
            if gc.isenabled():
                gc.disable()
                self._rebinding.on_restore(gc.enable)
            current.choose_by(self._session_of_caller)
            self._rebinding.on_restore(lambda: current.choose_by(None))
            atexit.register(self.close)
            _live = self
        except BaseException:
            self._finish()
            raise

    def _await_workers(self) -> None:
        """Wait for the first workers of the nodes that are there, as long as they live: for a second of virtual time, or ten
        times what they usually take."""
        waited = {node.number: node for node in self.cluster.nodes.values()}
        loop, seen = self.loop, -2
        until = loop.now + max(SECOND, _STARTS_PATIENCE * loop.costs.worker_start)
        while waited and loop.now < until:
            for node in list(waited.values()):
                if not node.dead and len(node.workers) < node.config.worker_count:
                    break
                del waited[node.number]
            else:
                return
            following, steps = loop.next_event(), loop.steps
            if following > until:
                return
            # What comes last at an instant (flows settle) would never come before a strand that goes on at the same one.
            alone = following <= loop.now and steps <= seen + 2
            seen = steps
            self._main.suspend(loop.now + 1 if alone else int(following))

    # -- what differs ---------------------------------------------------------------------------------------------------------

    @property
    def strand(self) -> Strand:
        """See ``ClientProcess``."""
        return self._main

    def close_calls(self, reason: str) -> None:
        """See ``ClientProcess``."""
        super().close_calls(reason)
        self._main.wake()

    def show(self, what: Fact | str) -> None:
        """See ``ClientProcess``."""
        self._output.show(what)

    # -- base.Port ------------------------------------------------------------------------------------------------------------

    def submitted(self, size: int) -> None:
        """See ``base.Port``."""
        if get_ident() != self.loop.home:
            self._submitted_by_thread()
            return
        super().submitted(size)
        if self.charges is None or not self.charges.profile.submit:
            self._main.tick(self.loop.costs.call)

    def answered_here(self) -> None:
        """See ``base.Port``."""
        if get_ident() == self.loop.home:
            self._main.check()
            self._main.tick(self.loop.costs.call)

    def kick(self) -> None:
        """See ``base.Port``."""
        if get_ident() != self.loop.home:
            self.loop.calls.append(self.kick)
        else:
            super().kick()

    def ask(self, fact: Any) -> Answer:
        """See ``base.Port``."""
        if get_ident() != self.loop.home:
            return self._ask_from_thread(fact)
        self._main.check()
        self._main.tick(self.loop.costs.call)
        return super().ask(fact)

    def begin(self, fact: Any, done: Callable[[Answer], None]) -> None:
        """See ``base.Port``."""
        if get_ident() != self.loop.home:
            self._asked_by_threads[fact.request] = None

            def answered(answer: Answer) -> None:
                self._asked_by_threads.pop(fact.request, None)
                done(answer)

            super().begin(fact, answered)
            return
        super().begin(fact, done)
        self._main.tick(self.loop.costs.call)

    def sleep(self, span: Nanos) -> None:
        """See ``ClientProcess``."""
        if get_ident() != self.loop.home:
            time.sleep(span / SECOND)
        else:
            super().sleep(span)

    # -- other threads --------------------------------------------------------------------------------------------------------

    @property
    def threads_waiting(self) -> int:
        """How many other threads of the driver wait for an answer."""
        return len(self._asked_by_threads)

    def _ask_from_thread(self, fact: Any) -> Answer:
        self.check_open()
        waiter = Waiter(fact)
        self.waiters.add(fact.request, waiter)
        self.facts.append(fact)
        self._asked_by_threads[fact.request] = None
        self.loop.calls.append(self.kick)
        try:
            waiter.wait()
        finally:
            self._asked_by_threads.pop(fact.request, None)
            self.waiters.take(fact.request)
        answer = waiter.answer
        assert answer is not None
        return self.checked(answer)

    def _submitted_by_thread(self) -> None:
        self.check_open()
        self.loop.calls.append(self.kick)
        while self.paused and self.closed is None:
            time.sleep(0.001)

    def _session_of_caller(self, session: Session | None) -> Session | None:
        """Whose session a caller is in: on the simulation's thread, that of the code that runs; else the driver's."""
        if get_ident() == self.loop.home:
            return session
        driver_threads.refuse_threads_of_bodies()
        return session if self.loop.running is self._main else self._main.session

    # -- endings --------------------------------------------------------------------------------------------------------------

    def _nothing_left(self) -> BaseException | None:
        """The queue is empty. Core finds deadlocks itself; this is the proof that it missed none."""
        if self._main in self.loop.outside or self.loop.calls:
            for strand in list(self.loop.outside):
                strand.wake()
            return None
        return self._deadlock("nothing is left to happen")

    def _nothing_but_heartbeats(self) -> BaseException | None:
        """Of a cluster the queue is never empty: hosts go on to say that they live."""
        main = self._main
        if not main.suspended or self.loop.calls or self.loop.outside or self.threads_waiting or not self.waiters.unanswered():
            return None
        if not self.cluster.is_stuck():
            return None
        self.loop.active_at = self.loop.now
        return self._deadlock(f"nothing but heartbeats has happened for {seconds(self.cluster.watch.quiet):g} s")

    def _deadlock(self, what: str) -> DeadlockError:
        waited = [o for waiter in self.waiters.unanswered() for o in _asked_for(waiter.fact)]
        text = f"{what} after {seconds(self.loop.now):g} s of virtual time, and the driver still waits. "
        return DeadlockError(text + self.cluster.explain(waited))

    def _failed(self, error: BaseException) -> None:
        """The loop itself failed, by a bug of ours or by Ctrl-C in the middle of a step: its machines are not to be trusted."""
        reason = f"the simulation was stopped by {type(error).__name__}: {error}; call sundog.init() to start another session"
        self.close_calls(reason)
        self.waiters.reject_all(reason)

    def close(self) -> None:
        """See ``base.Port``. What has not run is dropped; suspended bodies are unwound."""
        if self._finished:
            return
        mine = get_ident() == self.loop.home and getcurrent() is self.loop.main and self.loop.running is self._main
        try:
            if self.closed is None and mine:
                self.cluster.ending = True
                self.facts.append(SessionEnding())
                self.turn()
                self.wait_until(self._all_ended, _ENDING_SECONDS)
        finally:
            self._finish(unwind=mine)

    def _all_ended(self) -> bool:
        return self.closed is not None and all(node.dead or not node.number for node in self.cluster.nodes.values())

    def _finish(self, *, unwind: bool = True) -> None:
        global _live
        self._finished = True
        _live = None
        self.close_calls(CLOSED)
        self.dead = True
        loop = self.loop
        loop.stopped = True
        try:
            if unwind:
                for node in self.cluster.all_nodes():
                    node.dead = True
                    for strand in node.suspended():
                        with contextlib.suppress(WorkerKilled):  # a body that could not even be packed
                            strand.throw(WorkerKilled("the session has ended"))
                loop.unwind()
        finally:
            loop.running = self._main
            current.switch(None)
            try:
                self.cluster.streams.restore()
            finally:
                self._rebinding.restore()
                self.waiters.reject_all(self.closed or CLOSED)
                self._close_files()
                atexit.unregister(self.close)

    def forked(self) -> None:
        """In a forked child: the session is the parent's, time is real again."""
        self._finished = True
        self.closed = FORKED
        self.dead = self.loop.stopped = True
        self._rebinding.restore()
        self.waiters.reject_all(FORKED)
        atexit.unregister(self.close)


def _asked_for(fact: Fact) -> tuple[Any, ...]:
    if isinstance(fact, (GetRequested, WaitRequested)):
        return fact.object_ids
    question = fact.question if isinstance(fact, Asked) else None
    return getattr(question, "object_ids", ())


def _after_fork_in_child() -> None:
    global _live
    if _live is not None:
        _live.forked()
        _live = None


os.register_at_fork(after_in_child=_after_fork_in_child)
