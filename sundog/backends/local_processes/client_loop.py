"""The loop of a driver's client machine: one daemon thread owns the link and the machine; the user's threads append and wait.

A user's thread changes shared state by single atomic calls only, so Ctrl-C may strike anywhere. What it appends it hands over
by ringing the client thread. A thread that is busy submitting never waits for a lock or a socket of its own will, so it would
keep the interpreter to itself, five milliseconds at a time; therefore it waits, every ``SUBMITTED_TOGETHER`` tasks, until the
client thread has taken them (protocols: 3).
"""

from __future__ import annotations

import atexit
import itertools
import os
import select
import signal
import socket
import subprocess
import threading
import time
import weakref
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from typing import Any

from sundog.backends.driver_lanes import DriverLanes
from sundog.backends.driver_output import DriverOutput
from sundog.backends.exceptions import NodeDiedError, SessionClosedError
from sundog.backends.grants import Answer
from sundog.backends.local_processes import process
from sundog.backends.local_processes.pump import ClientPump
from sundog.backends.waiter import Waiter
from sundog.core.actions import RejectRequest
from sundog.core.config import Config
from sundog.core.ids import DRIVER, TaskID
from sundog.core.messages import SessionEnding
from sundog.core.task import Failure, FailureKind
from sundog.core.units import MICROSECOND, MILLISECOND, SECOND, Nanos

#: What travels together while a thread does nothing but submit: facts, bytes of arguments, or this much time (protocols: 3).
SUBMITTED_TOGETHER = 64
SUBMITTED_BYTES_TOGETHER = 32 << 10
SUBMITTED_FOR: Nanos = 100 * MICROSECOND
#: While a thread goes on submitting both are doubled, up to this many, and to less time than ALERT: later nobody would look.
SUBMITTED_TOGETHER_MAX = 256
#: Nothing was submitted for this long: the next submission is handed over at once, whatever the thread does then.
PAUSE: Nanos = 1 * MILLISECOND
#: What was submitted after a pause is asked for within this time, or not at once.
ASKED_AT_ONCE: Nanos = 200 * MICROSECOND
#: After a turn in which anything happened the client thread looks again after this long, although nobody rings.
ALERT: Nanos = 1 * MILLISECOND
#: A submitting thread waits at most this many seconds for the client thread to take what it appended.
HANDOVER_SECONDS = 0.02
#: Dead references ring nobody (``__del__`` may only append); the client thread looks for them this often.
IDLE_LOOK: Nanos = SECOND // 2
#: Seconds that the node is given to say its last words, and then to leave.
ENDING_SECONDS = 5.0

CLOSED = "the session has ended: call sundog.init() to start another"
FORKED = "this process was forked from a driver and has no session of its own: call sundog.init() in it"

_clock = time.monotonic_ns
_live: weakref.WeakSet[DriverPort] = weakref.WeakSet()


class DriverPort(DriverLanes):
    """``base.Port`` of a driver. Takes over ``link``, ``arena`` and ``node``, a child process that leads its own group.

    ``mark`` is the session mark in the environment of everything that the session starts; ``root`` names the driver's program.
    """

    def __init__(
        self, config: Config, link: socket.socket, arena: Any, node: subprocess.Popen[bytes], mark: str, root: TaskID
    ) -> None:
        self.config = config
        self.arena = arena
        #: Why calls are refused, or None while the session is open.
        self.closed: str | None = None
        self._node = node
        self._node_died = False
        self._mark = mark
        self._output = DriverOutput()
        self._pump = ClientPump(config, link, DRIVER, worker=False, route=None, show=self._output.show, closed=self._on_closed)
        self.facts, self.grants = self._pump.facts, self._pump.grants
        self.known = self._pump.client.known
        #: See ``base.Port``.
        self.next_request: Callable[[], int] = itertools.count(1).__next__
        super().__init__(root)
        self._rung_at: Nanos = 0
        self._submitted_at: Nanos = 0
        #: What travels together now.
        self._together, self._together_for = SUBMITTED_TOGETHER, SUBMITTED_FOR
        self._submitted_bytes = 0
        #: What was last submitted was asked for at once, so the next is expected to be, too.
        self._asks_at_once = False
        self._said_paused = False
        self._stopping = False
        self._finished = False
        self._closing = threading.RLock()
        self._over = allocate_lock()
        self._over.acquire()
        self._node_pidfd = os.pidfd_open(node.pid)
        self._pump.watch(self._node_pidfd)
        self._thread = threading.Thread(target=self._run, name="sundog-client", daemon=True)
        self._thread.start()
        #: Its number, without a call: ``Thread.ident`` is a property of Python code.
        self._thread_ident = self._thread.ident
        _live.add(self)
        atexit.register(self.close)

    # -- any thread -----------------------------------------------------------------------------------------------------------

    def submitted(self, size: int) -> None:
        """See ``base.Port``."""
        if self.closed is not None:
            self._refuse()
        pump = self._pump
        if pump.paused:
            self._wait_for_room()
        gathered = len(self.facts)
        if not gathered:
            return  # already taken
        self._submitted_bytes = size = self._submitted_bytes + size
        now = _clock()
        before, self._submitted_at = self._submitted_at, now
        if now - before > PAUSE:
            self._together, self._together_for = SUBMITTED_TOGETHER, SUBMITTED_FOR
            self._rung_at = now
            if not self._asks_at_once:
                self._hand_over()
            else:  # rung, the client thread comes when this one waits for the answer, and both travel in one packet
                self._asks_at_once = False
                pump.rouse()
        elif gathered >= self._together or size >= SUBMITTED_BYTES_TOGETHER:
            self._rung_at = now
            self._hand_over()
        elif pump.patient or now - self._rung_at > self._together_for < now - pump.turned_at:
            self._rung_at = now
            if self._together < SUBMITTED_TOGETHER_MAX:  # it goes on and on: what was submitted keeps the workers busy
                self._together *= 2
                self._together_for *= 2
            pump.rouse()
        # Else the client thread has just been at work: it looks again within ALERT, and most often is rung before that.

    def answered_here(self) -> None:
        """See ``base.Port``."""

    def kick(self) -> None:
        """See ``base.Port``."""
        self._rung_at = _clock()
        self._pump.rouse()

    def ask(self, fact: Any) -> Answer:
        """See ``base.Port``. Raises NodeDiedError, a SessionClosedError, if the node is gone."""
        if self.closed is not None:
            self._refuse()
        if get_ident() == self._thread_ident:
            raise RuntimeError(
                "a blocking sundog call in a callback of a future would wait for itself: hand it to a thread of your own"
            )
        pump = self._pump
        request: int = fact.request
        waiter = Waiter(fact)
        waiting = pump.waiters.by_request  # without calls: this is the path of a lone get
        self._asks_at_once = _clock() - self._submitted_at < ASKED_AT_ONCE
        self._together, self._together_for = SUBMITTED_TOGETHER, SUBMITTED_FOR
        try:
            waiting[request] = waiter
            self.facts.append(fact)
            pump.rouse()
            if self.closed is None:
                waiter.wait()
            waiting.pop(request, None)
        except BaseException:
            # Whatever had happened: the client thread takes the waiter out and returns what it was granted.
            pump.waiters.add(request, waiter)
            pump.abandoned.append(request)
            pump.rouse()
            raise
        answer = waiter.answer
        if answer is None or (type(answer) is RejectRequest and answer.failure.kind is FailureKind.SESSION_CLOSED):
            self._refuse()
        assert answer is not None
        return answer

    def begin(self, fact: Any, done: Callable[[Answer], None]) -> None:
        """See ``base.Port``. ``done`` runs on the client thread and must not block. Raises if the session is over already."""
        if self.closed is not None:
            self._refuse()
        waiter = Waiter(fact, done)
        try:
            self._pump.waiters.add(fact.request, waiter)
            self.facts.append(fact)
            self.kick()
        except BaseException:  # as in ask
            self._pump.waiters.add(fact.request, waiter)
            self._pump.abandoned.append(fact.request)
            self.kick()
            raise
        if self.closed is not None and self._pump.waiters.take(fact.request) is not None:
            waiter.resolve(RejectRequest(fact.request, Failure(FailureKind.SESSION_CLOSED, self.closed)))

    def current_task(self) -> TaskID | None:
        """See ``base.Port``. A driver holds no CPUs that it could release."""
        return None

    def close(self) -> None:
        """End the session: let the node say what nobody heard, then leave no process, thread or descriptor."""
        with self._closing:
            if self._finished:
                return
            try:
                if self.closed is None:
                    self.facts.append(SessionEnding())
                    self.kick()
                    self._over.acquire(True, ENDING_SECONDS)
            finally:
                self._finish()

    # -- the client thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        # Signals are for the main thread, which only notices them if it is the one that the system interrupts.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ASYNCHRONOUS)
        pump = self._pump
        try:
            while not self._stopping and self.closed is None:
                alert = not pump.patient and _clock() - pump.turned_at < 2 * ALERT
                pump.sleep(ALERT if alert else IDLE_LOOK, self._is_stopping)
                pump.turn()
                if pump.ended:
                    self._node_ended()
        except BaseException as error:  # a bug of ours: nobody may be left waiting for it
            self._output.show_error("sundog: the driver's client thread failed; the session is over", error)
            self._on_closed(f"the driver's client thread failed ({error!r}): call sundog.init() to start another session")
        finally:
            if self.closed is None:
                self.closed = CLOSED
            pump.waiters.reject_all(self.closed)
            pump.paused = False
            for waiting in (pump.handing_over, pump.resumed):
                while waiting:
                    waiting.popleft().release()
            self._over.release()

    def _is_stopping(self) -> bool:
        return self._stopping

    def _on_closed(self, reason: str) -> None:
        if self.closed is None:
            self.closed = reason

    def _node_ended(self) -> None:
        """The link ended without a SessionEnded."""
        status = self._node_exit(1.0)
        self._node_died = True
        how = "closed its link and still runs" if status is None else _exit_text(status)
        reason = f"the node process (pid {self._node.pid}) {how}; its objects are lost: call sundog.init() to start another session"
        self._on_closed(reason)
        self._pump.end(reason)

    # -- endings --------------------------------------------------------------------------------------------------------------

    def _refuse(self) -> None:
        """Raise the error that says why there is no session."""
        if self._node_died:
            raise NodeDiedError(self.closed or CLOSED)
        raise SessionClosedError(self.closed or CLOSED)

    def _hand_over(self) -> None:
        """Wait until the client thread has taken what was appended."""
        self._submitted_bytes = 0
        taken = allocate_lock()
        taken.acquire()
        self._pump.handing_over.append(taken)
        self._pump.rouse()
        if get_ident() != self._thread.ident:
            taken.acquire(True, HANDOVER_SECONDS)

    def _wait_for_room(self) -> None:
        pump = self._pump
        if get_ident() == self._thread.ident:
            return
        if not self._said_paused:
            self._said_paused = True
            self._output.show(
                "sundog: too many submitted tasks are unfinished (Config.submitted_unfinished_max, submitted_bytes_max);"
                " .remote() waits until there are fewer"
            )
        while pump.paused and self.closed is None:
            resumed = allocate_lock()
            resumed.acquire()
            pump.resumed.append(resumed)
            if pump.paused:
                self.kick()
                resumed.acquire(True, 1.0)
        if self.closed is not None:
            self._refuse()

    def _node_exit(self, patience: float) -> int | None:
        """Return the node's exit status, waiting up to ``patience`` seconds for it; None if it still runs."""
        if self._node.returncode is None and self._node_pidfd >= 0:
            poller = select.poll()
            poller.register(self._node_pidfd, select.POLLIN)
            poller.poll(patience * 1000)
        return self._node.poll()

    def _finish(self) -> None:
        """Close everything; kill what does not leave by itself."""
        patience = ENDING_SECONDS if self.closed is not None and not self._node_died else 0.0
        try:
            if self.closed is None:
                self.closed = CLOSED
            self._stopping = True
            self._pump.kick.ring()
            self._thread.join(ENDING_SECONDS)
            if not self._thread.is_alive():
                self._pump.channel.close()
            ended = self._node_exit(patience) == 0
        except BaseException:
            self._kill()
            raise
        else:
            if not ended:
                self._kill()
        finally:
            self._finished = True
            if not self._thread.is_alive():
                self._pump.close()
            os.close(self._node_pidfd)
            self._node_pidfd = -1
            self.arena.close()
            _live.discard(self)
            atexit.unregister(self.close)

    def _kill(self) -> None:
        """End the node and everything that bears the session's mark, and reap the node."""
        if self._node.poll() is None:
            process.kill_group(self._node.pid)
            self._node.wait()
        process.kill_session(self._mark, (os.getpid(),))

    def _forked(self) -> None:
        """In a forked child: the session is the parent's. Close this process's copies and touch nothing else."""
        self.closed = FORKED
        self._finished = True
        self._pump.waiters.reject_all(FORKED)
        self._pump.close()
        os.close(self._node_pidfd)
        self._node_pidfd = -1
        self._node.returncode = 0  # not ours to wait for
        atexit.unregister(self.close)


_ASYNCHRONOUS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1,
    signal.SIGUSR2, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT, signal.SIGVTALRM, signal.SIGPROF,
)  # fmt: skip


def _exit_text(status: int) -> str:
    """Return what happened to a process with ``status`` (an exit code, or minus a signal), for people."""
    if status >= 0:
        return f"exited with code {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _close_in_child() -> None:
    for port in list(_live):
        port._forked()
    _live.clear()


os.register_at_fork(after_in_child=_close_in_child)
