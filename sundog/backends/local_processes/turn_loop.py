"""The node's loop: one thread, one epoll, one ``host.step`` a turn (protocols: P6).

A turn: wait; read pipes, then one packet of every ready link (several, if they had come before the wait), then the rest; step
with at most ``config.step_events_max`` events (more are carried over); perform the actions in order; write every touched outbox
once. Load itself makes the batches: what arrives while a turn runs is the next turn's batch.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Protocol

from sundog.backends.effects import HOST_ACTIONS, effect_table, performs
from sundog.backends.local_processes.arena import SharedArena
from sundog.backends.local_processes.poller import IDLE, READABLE, WRITABLE, Peer, Poller
from sundog.backends.local_processes.supervisor import Supervisor
from sundog.core.actions import Dispatch, KillWorker, ReclaimTasks, ReleasePages, Send, StartWorker, StopHost
from sundog.core.config import Config
from sundog.core.errors import ProtocolViolation
from sundog.core.events import ClientLost, TasksReclaimed
from sundog.core.ids import LOOP, Address, process_of
from sundog.core.machine import Action, Event, Fact
from sundog.core.messages import RunTasks, WarningRaised
from sundog.core.units import MICROSECOND, SECOND, Nanos

_clock = time.monotonic_ns
#: A wait that was shorter did not wait: what it found had come during the turn before.
HURRY: Nanos = 15 * MICROSECOND
#: Then so many more packets of each link are read, or those of so many messages: the step is most of a turn.
_PACKETS_MAX = 16
_MESSAGES_MAX = 1024
#: How long the last messages may take to leave when a session ends.
_LAST_FLUSH_NANOS = 5 * SECOND


class SteppedHost(Protocol):
    """What the loop needs of a host (or of a recorder round one)."""

    def step(self, now: Nanos, events: Sequence[Event], /) -> Sequence[Action]:
        """See :class:`sundog.core.machine.Machine`."""

    def next_deadline(self) -> Nanos | None:
        """See :class:`sundog.core.machine.Machine`."""


class TurnHook(Protocol):
    """Something that looks at the host once a turn, such as the writer of control state."""

    def turn(self, now: Nanos, host: Any, /) -> None:
        """Do what is due; never wait."""

    def next_deadline(self) -> Nanos | None:
        """Return when :meth:`turn` has something to do even if nothing happens, or None."""


class TurnLoop:
    """See the module. ``host`` decides; ``tables`` is the host itself, given to ``hook`` where there is one."""

    def __init__(self, host: SteppedHost, config: Config, poller: Poller, driver: Peer, arena: SharedArena) -> None:
        self._host_step = host.step
        self._next_deadline = host.next_deadline
        self._config = config
        self._events_max = config.step_events_max
        self._poller = poller
        self._driver = driver
        self._arena = arena
        self._effects = effect_table(self, HOST_ACTIONS)
        #: What happened and was not yet given to the host.
        self._events: list[Event] = []
        self._touched: list[Peer] = []
        self._peers = poller.peers
        self._now: Nanos = 0
        self._stopping = False
        #: Set by the node before :meth:`run`.
        self.supervisor: Supervisor
        self.hook: TurnHook | None = None
        self.hook_tables: object = None
        self.after_step: Callable[[], None] | None = None
        poller.add_peer(driver)

    def report(self, sender: Address, fact: Fact) -> None:
        """Take an event for the next step."""
        self._events.append((sender, fact))

    def warn(self, text: str) -> None:
        """Have the driver show ``text`` to a person."""
        self._driver.append(WarningRaised(text))
        self._touch(self._driver)

    def driver_died(self) -> None:
        """The driver's process is gone: say so to the host, then stop."""
        if self._driver.open:
            self._driver.open = False
            self._poller.remove_peer(self._driver)
            self.report(LOOP, ClientLost(process_of(self._driver.address)))
        self._stopping = True

    def run(self) -> None:
        """Turn until the session is over. Every exception of the host passes: it is a bug, and ends the node."""
        self._step()  # what the host wants before anything has happened: its first workers
        while not self._stopping:
            self._turn(self._timeout())
        self._flush_last()

    # -- one turn

    def _timeout(self) -> float:
        """Return how long the next wait may last, in seconds; -1 for ever."""
        if self._events or self._touched:
            return 0
        due = self._next_deadline()
        sample = self.supervisor.sample_due
        if sample is not None and (due is None or sample < due):
            due = sample
        if self.hook is not None:
            wanted = self.hook.next_deadline()
            if wanted is not None and (due is None or wanted < due):
                due = wanted
        if due is None:
            return -1
        left = due - _clock()
        return left / 1e9 if left > 0 else 0

    def _turn(self, timeout: float) -> None:
        poller = self._poller
        began = _clock()
        ready = poller.wait(timeout)
        hurried = _clock() - began < HURRY
        if len(self._events) < self._events_max:
            for peer, mask in ready:
                if mask & WRITABLE:
                    self._touch(peer)
                if mask & READABLE:
                    self._read(peer)
            if hurried and ready:
                self._read_on(ready)
        if poller.later:
            poller.read_others()
        self._step()
        supervisor = self.supervisor
        if supervisor.sample_due is not None:
            supervisor.sample(self._now)
        if self.hook is not None:
            self.hook.turn(self._now, self.hook_tables)

    def _read(self, peer: Peer) -> None:
        if not peer.open:
            return
        if self.supervisor.unfinished_lines:
            self.supervisor.flush_lines()
        try:
            messages = peer.channel.receive()
        except ProtocolViolation as violation:
            os.write(2, f"sundog: dropped the link to process {process_of(peer.address)}: {violation}\n".encode())
            messages = None
        if messages is None:
            if peer is self._driver:
                self.driver_died()
            else:
                self.supervisor.link_ended(peer)
            return
        self._events += zip(repeat(peer.address), messages)
        if peer.channel.wants_write:  # an acknowledgement did not fit
            self._touch(peer)

    def _read_on(self, ready: list[tuple[Peer, int]]) -> None:
        """Links had packets before the last turn ended: read what else they have, so that one step does for all of it.

        What was printed before it was sent comes before it, so the pipes are read once more, and their output goes in between.
        """
        first, self._events = self._events, []
        for peer, mask in ready:
            if mask & READABLE:
                for _ in range(_PACKETS_MAX):
                    before = len(self._events)
                    self._read(peer)
                    if len(self._events) == before or before > _MESSAGES_MAX or not peer.open:
                        break
        rest, self._events = self._events, first
        if rest:
            self._poller.read_pipes()
            if self.supervisor.unfinished_lines:
                self.supervisor.flush_lines()
            self._events += rest

    def _step(self) -> None:
        events = self._events
        limit = self._events_max
        if len(events) <= limit:
            self._events = []
        else:
            self._events = events[limit:]
            del events[limit:]
        self._now = now = _clock()
        effects = self._effects
        for action in self._host_step(now, events):
            effects[type(action)](action)
        if self.after_step is not None:
            self.after_step()
        touched = self._touched
        if touched:
            self._touched = []
            poller = self._poller
            for peer in touched:
                peer.touched = False
                if peer.open and not (peer.channel.flush() and peer.mask == IDLE):
                    poller.flushed(peer)
            congested = self._driver.channel.outbox_bytes > self._config.outbox_bytes_max
            if congested is not poller.pipes_paused:
                poller.pause_pipes(congested)

    def _touch(self, peer: Peer) -> None:
        if not peer.touched:
            peer.touched = True
            self._touched.append(peer)

    def _flush_last(self) -> None:
        """Let the driver have its last messages, as long as it takes them."""
        channel = self._driver.channel
        limit = _clock() + _LAST_FLUSH_NANOS
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLIN | select.POLLOUT)
        with contextlib.suppress(ProtocolViolation):
            while self._driver.open and not channel.flush() and _clock() < limit:
                for _, mask in poll.poll(100):
                    # Read on: an acknowledgement may be what opens the window.
                    if mask & (select.POLLIN | select.POLLHUP) and channel.receive() is None:
                        return

    # -- the effects

    @performs(Send)
    def _send(self, action: Send) -> None:
        peer = self._peers.get(action.to)
        if peer is None:
            return  # it has died; the host hears of it
        peer.append(action.message)
        if not peer.touched:
            peer.touched = True
            self._touched.append(peer)

    @performs(Dispatch)
    def _dispatch(self, action: Dispatch) -> None:
        worker = self.supervisor.workers.get(action.worker)
        if worker is None:
            return  # it has died; the host hears of it, and what it was given is given to another
        if action.tasks:
            os.eventfd_write(worker.tokens, len(action.tasks))
            self.supervisor.busy(worker, self._now)
        worker.peer.append(RunTasks(action.tasks, action.forget_through))
        self._touch(worker.peer)

    @performs(ReclaimTasks)
    def _reclaim(self, action: ReclaimTasks) -> None:
        worker = self.supervisor.workers.get(action.worker)
        count = 0
        if worker is not None:
            with contextlib.suppress(BlockingIOError):
                while count < action.count:
                    os.eventfd_read(worker.tokens)
                    count += 1
        self.report(LOOP, TasksReclaimed(action.worker, count))

    @performs(StartWorker)
    def _start_worker(self, action: StartWorker) -> None:
        self.supervisor.start(action.worker)

    @performs(KillWorker)
    def _kill_worker(self, action: KillWorker) -> None:
        self.supervisor.kill(action.worker)

    @performs(ReleasePages)
    def _release_pages(self, action: ReleasePages) -> None:
        self._arena.release_pages(action.offset, action.size)

    @performs(StopHost)
    def _stop_host(self, action: StopHost) -> None:
        self._stopping = True
