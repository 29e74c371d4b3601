"""The turn of a client process (driver or worker): facts in, the client machine's step, its actions out.

Whoever drives a :class:`ClientPump` calls :meth:`sleep` and :meth:`turn`, one thread at a time. Everybody else appends to
``facts`` and calls :meth:`rouse`.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

from sundog.backends.grants import Grants
from sundog.backends.local_processes.channel import Channel
from sundog.backends.local_processes.patience import Patience
from sundog.backends.waiter import Waiters
from sundog.core import actions as act
from sundog.core.client import Client
from sundog.core.config import Config
from sundog.core.events import RequestAbandoned
from sundog.core.ids import HOST, LOOP, Address, NodeID, ProcessID, address
from sundog.core.machine import Action, Event, Fact
from sundog.core.units import Nanos

NODE = NodeID(0)
_clock = time.monotonic_ns
_READABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR


class Kick:
    """An eventfd that ends a poll: watched for edges, so nobody has to read it.

    It closes when nobody refers to it, so a late :meth:`ring` never hits another's file.
    """

    __slots__ = ("fd",)

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        """Wake the poll that watches it, or the next one."""
        os.eventfd_write(self.fd, 1)

    def __del__(self) -> None:
        os.close(self.fd)


class ClientPump:
    """See the module.

    ``route`` is given every message first and returns whether it took it, so that the machine need not see it;
    ``closed`` is called once, with the reason, when the machine says that the session is over.
    """

    def __init__(
        self,
        config: Config,
        link: socket.socket,
        process: ProcessID,
        *,
        worker: bool,
        route: Callable[[Fact], bool] | None,
        show: Callable[[Fact | str], None],
        closed: Callable[[str], None],
    ) -> None:
        self._events_max = config.step_events_max
        self._host: Address = address(NODE, HOST)
        self.client = Client(config, address(NODE, process), self._host, worker=worker)
        self._next_deadline = self.client.next_deadline
        self.channel = Channel(link, config)
        self.facts: deque[Any] = deque()
        #: Requests whose threads were interrupted.
        self.abandoned: deque[int] = deque()
        self.grants = Grants(self.facts)
        self.waiters = Waiters(self.grants)
        self.kick = Kick()
        #: The number of the :meth:`sleep` that somebody is in or about to be in, to be ended by :attr:`kick`; 0 if nobody is.
        self.asleep = 0
        self._sleeps = 0
        #: Somebody wants a turn, and it has not begun.
        self._wanted = False
        #: The last one that was ended so: once is enough.
        self._roused = 0
        self.paused = False
        #: The link has ended: no message will come any more.
        self.ended = False
        #: When the last turn ended in which anything had happened.
        self.turned_at: Nanos = 0
        #: Locks of threads that hand over what they appended: released once it has been taken.
        self.handing_over: deque[Any] = deque()
        self.resumed: deque[Any] = deque()
        self._route = route
        self._show = show
        self._closed = closed
        self._poller = select.epoll()
        self._link_fd = self.channel.fileno()
        self._poller.register(self._link_fd, select.EPOLLIN)
        self._poller.register(self.kick.fd, select.EPOLLIN | select.EPOLLET)
        #: The link is left unread for a while: a :meth:`sleep` may be long.
        self.patient = False
        #: A driver may be patient; then it watches everything but the link.
        self._patience = None if worker else Patience()
        self._unlinked = self._poller if worker else select.epoll()
        if not worker:
            self._unlinked.register(self.kick.fd, select.EPOLLIN | select.EPOLLET)
        self._watched_fd = -1
        self._writing = False
        self._link_readable = False
        #: It was left unread: there are several packets.
        self._link_full = False
        self._peer_dead = False
        #: Answers to requests, given once everything else that a turn brought is done.
        self.answers: deque[Any] = deque()
        answer = self.answers.append
        self._performers: dict[type, Callable[[Any], None]] = {
            act.ResolveGet: answer,
            act.ResolveWait: answer,
            act.ResolveQuestion: answer,
            act.RejectRequest: answer,
            act.ReportStuck: lambda action: self._show(action.text),
            act.ShowOutput: lambda action: self._show(action.message),
            act.PauseSubmissions: self._pause,
            act.CloseClient: lambda action: self._closed(action.reason),
        }

    def watch(self, pidfd: int) -> None:
        """Take the death of the process behind ``pidfd`` for the end of the link, once the link is empty."""
        self._watched_fd = pidfd
        self._poller.register(pidfd, select.EPOLLIN)
        if self._unlinked is not self._poller:
            self._unlinked.register(pidfd, select.EPOLLIN)

    def pending(self) -> bool:
        """Tell whether there are facts that no turn has taken, or bytes that the socket has not."""
        return bool(self.facts or self.abandoned or self.channel.wants_write)

    def rouse(self) -> bool:
        """End the :meth:`sleep` of whoever is in it; False if nobody is."""
        self._wanted = True  # before the look: who is about to sleep looks the other way round
        sleep = self.asleep
        if sleep:
            if sleep != self._roused:
                self.kick.ring()
                self._roused = sleep
            return True
        return False

    def sleep(self, longest: Nanos | None = None, woken: Callable[[], bool] | None = None) -> None:
        """Wait for a packet, a kick, the machine's deadline, or ``longest``; not at all if facts are there or ``woken()``.

        Answers that a turn has left are given first: whoever wakes up then finds the interpreter free at once.
        """
        deadline = self._next_deadline()
        if deadline is not None:
            left = deadline - _clock()
            if left < 0:
                left = 0
            if longest is None or left < longest:
                longest = left
        if self._writing is not self.channel.wants_write:
            self._writing = not self._writing
            self._poller.modify(self._link_fd, select.EPOLLIN | (select.EPOLLOUT if self._writing else 0))
        poller = self._poller
        patience = self._patience
        if patience is not None and patience.read_at and not self._writing:
            left = patience.read_at - _clock()
            if left > 0:
                poller = self._unlinked
                longest = left if longest is None else min(left, longest)
        self._sleeps = self.asleep = self._sleeps + 1
        try:
            # A driver's facts that nobody wants to leave gather further: its thread looks again soon.
            wanted = self._wanted or self.abandoned or self.handing_over or (self.facts and patience is None)
            if wanted or (woken is not None and woken()):
                longest = 0
            if self.answers:
                self.give_answers()
            ready = poller.poll(None if longest is None else longest / 1_000_000_000)
        finally:
            self.asleep = 0
        for fd, events in ready:
            if fd == self._link_fd:
                self._link_readable = bool(events & _READABLE)
            elif fd == self._watched_fd:
                self._peer_dead = True
        if poller is not self._poller and patience is not None and (self._peer_dead or _clock() >= patience.read_at):
            self._link_readable = self._link_full = True

    def turn(self, *, hold: bool = False) -> bool:
        """Read one packet if there is one, step the machine with everything that has happened, and perform what it asks.

        Return whether anything happened. Answers to requests are kept for :meth:`give_answers` or :meth:`sleep`. ``hold``: the
        facts that are there may wait, if what was read is nothing for the machine.
        """
        self._wanted = False
        was_read = self._link_readable
        events: list[Event] = self._read() if was_read else []
        if self._peer_dead and not was_read:
            self.ended = True
        room = self._events_max
        now = _clock()
        abandoned = list(self.abandoned) if self.abandoned else []
        if len(events) > room:
            for start in range(0, len(events) - room, room):
                self._perform(self.client.step(now, events[start : start + room]))
            events = events[-(len(events) % room or room) :]
        facts = self.facts
        taken = waiting = 0 if hold and not events else len(facts)
        if waiting:
            if waiting > room - len(events):
                taken = room - len(events)
            events += zip(repeat(LOOP, taken), iter(facts.popleft, None), strict=False)
        if self.waiters.callbacks:
            for _, fact in events:
                if type(fact) is RequestAbandoned:
                    self.waiters.take(fact.request)
        handing_over = self.handing_over
        while handing_over:
            handing_over.popleft().release()
        if taken < waiting:
            self._wanted = True
        if taken == waiting:  # what the interrupted threads had asked before is among the events
            events += [(LOOP, RequestAbandoned(request)) for request in abandoned]
        else:
            abandoned = []
        if events or self._due(now):
            self._perform(self.client.step(now, events))
        self.channel.flush()
        if events:
            self.turned_at = _clock()
            if self._patience is not None:
                self._patience.consider(now, self.client.requests.values(), len(self.waiters.by_request), was_read=was_read)
                self.patient = self._patience.read_at > 0
        if abandoned:
            self.give_answers()
            self._drop(abandoned)
        return bool(events)

    def _read(self) -> list[Event]:
        """Read one packet, or where several were left in the socket, those that make a turn; return what they brought."""
        host, route = self._host, self._route
        receive = self.channel.receive
        full = self._link_full
        self._link_readable = self._link_full = False
        events: list[Event] = []
        while True:
            messages = receive()
            if messages is None:
                self.ended = True
                return events
            if route is None:
                events += zip(repeat(host), messages)
            else:
                events += [(host, message) for message in messages if not route(message)]
            if not full or not messages or len(events) >= self._events_max >> 1:
                return events

    def give_answers(self) -> None:
        """Wake those whose requests the last turns answered."""
        resolve = self.waiters.resolve
        answers = self.answers
        while answers:
            answer = answers.popleft()
            resolve(answer.request, answer)

    def end(self, reason: str) -> None:
        """The node is gone: reject all that wait."""
        self._perform(self.client.close(_clock(), reason))
        self.give_answers()

    def close(self) -> None:
        """Close the descriptors. Nobody may be in :meth:`sleep` or :meth:`turn`, now or later."""
        self.asleep = 0
        self._poller.close()
        self._unlinked.close()
        self.channel.close()
        del self.kick

    def _perform(self, asked: Sequence[Action]) -> None:
        send = self.channel.append
        performers = self._performers
        for action in asked:
            if type(action) is act.Send:
                send(action.message)
            else:
                performers[type(action)](action)

    def _due(self, now: Nanos) -> bool:
        deadline = self._next_deadline()
        return deadline is not None and deadline <= now

    def _drop(self, abandoned: Sequence[int]) -> None:
        """Forget the requests of interrupted threads; return what had been granted for them."""
        for request in abandoned:
            self.abandoned.popleft()
            waiter = self.waiters.take(request)
            if waiter is not None:
                self.facts.extend(waiter.unread())

    def _pause(self, action: act.PauseSubmissions) -> None:
        self.paused = action.paused
        while not self.paused and self.resumed:
            self.resumed.popleft().release()
