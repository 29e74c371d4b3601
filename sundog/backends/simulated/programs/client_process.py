"""A driver or worker in the simulation: its client machine, its facts, and those who wait. It is the ``base.Port`` of its session.

User code calls it on the one thread of the simulation, from its :class:`~sundog.backends.simulated.programs.strand.Strand`. A call
that needs no answer costs no switch; one that waits suspends its strand until the machine answers.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sundog.backends import current
from sundog.backends.exceptions import SessionClosedError
from sundog.backends.grants import Answer, Grants
from sundog.backends.simulated.costs.charges import ChargedArena, Charges
from sundog.backends.simulated.faults.occurrences import Occurrence
from sundog.backends.simulated.programs.virtual_time import strand_of_thread
from sundog.backends.simulated.sim_loop import Process
from sundog.backends.waiter import Waiter, Waiters
from sundog.core import actions as act
from sundog.core.client import Client
from sundog.core.events import PinDropped, ReferenceDropped, RequestAbandoned
from sundog.core.ids import HOST, LOOP, IdSequence, TaskID, address, node_of
from sundog.core.machine import Action, Event, Fact
from sundog.core.task import FailureKind
from sundog.core.units import Nanos

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sundog.backends.base import Arena
    from sundog.backends.simulated.node import Node
    from sundog.backends.simulated.programs.strand import Strand
    from sundog.core.ids import Address

#: Deaths of one instant come in whatever order Python let go of them (of a set: that of its hashes), so they enter a step sorted.
#: A name, so that a test can show that without it runs differ.
SORTS_RELEASES = True
_DEATHS = (ReferenceDropped, PinDropped)


class ClientProcess(Process):
    """See the module. ``node`` is where it lives."""

    def __init__(self, node: Node, where: Address, *, worker: bool) -> None:
        super().__init__(node.loop, where)
        self.node = node
        self.config = node.config
        self.node_number = int(node.number)
        self.arena: Arena = node.store  # type: ignore[assignment]  # where there is user code, it holds real bytes
        #: What its own work costs; None: nothing.
        self.charges: Charges | None = None
        if node.profile is not None and node.cores is not None:
            self.charges = Charges(self, node.profile, node.cores, worker=worker)
            self.arena = ChargedArena(self.arena, self.charges)
        self.host_address = address(node_of(where), HOST)
        self.client = Client(node.config, where, self.host_address, worker=worker)
        self.known = self.client.known
        self.facts: deque[Any] = deque()
        self.grants = Grants(self.facts)
        self.waiters = Waiters(self.grants)
        self.paused = False
        #: Why calls are refused, or None.
        self.closed: str | None = None
        #: Functions are exported once for all sessions of a node: their definitions are the same Python objects.
        self.scope = node.scope
        #: What user code sees as its worker's process.
        self.pid = 0
        self._requests = itertools.count(1)
        #: When submissions that wait to travel together travel.
        self._flush_at: Nanos | None = None
        self._waiting_for_room: list[Strand] = []
        self._outgoing: list[Fact] = []
        self._answers: list[Any] = []
        answer = self._answers.append
        self._performers: dict[type, Callable[[Any], None]] = {
            act.Send: lambda action: self._outgoing.append(action.message),
            act.ResolveGet: answer,
            act.ResolveWait: answer,
            act.ResolveQuestion: answer,
            act.RejectRequest: answer,
            act.ReportStuck: lambda action: None,  # nobody sits before the screen for those virtual seconds
            act.ShowOutput: lambda action: self.show(action.message),
            act.PauseSubmissions: self._pause,
            act.CloseClient: lambda action: self.close_calls(action.reason),
        }

    # -- what differs ---------------------------------------------------------------------------------------------------------

    @property
    def strand(self) -> Strand | None:
        """The user code that may wait here now."""
        raise NotImplementedError

    def route(self, message: Fact) -> bool:
        """Take what is not for the client machine; False for the rest."""
        return False

    def show(self, what: Fact | str) -> None:
        """Show a person a message or text."""
        raise NotImplementedError

    def lane(self) -> IdSequence:
        """See ``base.Port``."""
        raise NotImplementedError

    def current_task(self) -> TaskID | None:
        """See ``base.Port``."""
        return None

    # -- turns ----------------------------------------------------------------------------------------------------------------

    def receive(self, sender: Address, messages: list[Fact]) -> None:
        """See ``Process``; where that takes time, values are there once they have been read."""
        if self.charges is None or not self.charges.arrival(sender, messages, super().receive):
            super().receive(sender, messages)

    def wanted_at(self) -> Nanos | None:
        """See ``Process``."""
        deadline, flush = self.client.next_deadline(), self._flush_at
        if flush is None or deadline is None:
            return deadline if flush is None else flush
        return min(deadline, flush)

    def turn(self) -> None:
        """See ``Process``."""
        self._flush_at = None
        room = self.config.step_events_max
        inbox, self.inbox = self.inbox, []
        events: list[Event] = [event for event in inbox if not self.route(event[1])]
        while len(events) > room:
            self._step(events[:room])
            del events[:room]
        events += self._take_facts(room - len(events))
        self._step(events)
        if self.facts:
            self.turn_soon()
        self.rearm()

    def has_said(self) -> bool:
        """Tell whether there is something that the node is to be told before user code waits."""
        return bool(self.facts)

    def flush(self) -> None:
        """Tell the node what the user code has said so far."""
        if self.facts and not self.dead:
            self.turn()

    def _step(self, events: list[Event]) -> None:
        due = self.client.next_deadline()
        now = self.loop.now
        if events or (due is not None and due <= now):
            actions = self.client.step(now, events)
            self.node.log.client_turn(now, self.where, events, actions)
            self.perform(actions)
        if self._outgoing:
            outgoing, self._outgoing = self._outgoing, []
            self.node.send(self.where, self.host_address, outgoing)
        if self._answers:
            answers = self._answers[:]
            self._answers.clear()
            for answer in answers:
                self.waiters.resolve(answer.request, answer)

    def perform(self, actions: Sequence[Action]) -> None:
        """Perform what the machine asks; answers are given once all is sent."""
        performers = self._performers
        for action in actions:
            performers[type(action)](action)

    def _take_facts(self, count: int) -> list[Event]:
        facts = self.facts
        taken = [facts.popleft() for _ in range(min(count, len(facts)))]
        if self.waiters.callbacks:
            for fact in taken:
                if type(fact) is RequestAbandoned:
                    self.waiters.take(fact.request)
        return [(LOOP, fact) for fact in _in_order(taken)]

    def _pause(self, action: act.PauseSubmissions) -> None:
        self.paused = action.paused
        if not self.paused:
            waiting, self._waiting_for_room = self._waiting_for_room, []
            for strand in waiting:
                strand.wake()

    def close_calls(self, reason: str) -> None:
        """Refuse calls from now on."""
        if self.closed is None:
            self.closed = reason

    # -- base.Port ------------------------------------------------------------------------------------------------------------

    def now(self) -> Nanos:
        """The clock that deadlines are read from."""
        return self.loop.now

    def next_request(self) -> int:
        """See ``base.Port``."""
        return next(self._requests)

    def submitted(self, size: int) -> None:
        """See ``base.Port``."""
        self.check_open()
        self.node.occurred(Occurrence.SUBMITTED)
        if self.charges is not None:
            self.charges.submission(self.facts)
        if self.paused:
            self._wait_for_room()
        if self._flush_at is None:
            self._flush_at = self.loop.now + self.loop.costs.flush
            self.turn_at(self._flush_at)

    def kick(self) -> None:
        """See ``base.Port``."""
        if not self.dead:
            if self.charges is not None:
                self.charges.submission(self.facts)
            self.turn_soon()

    def answered_here(self) -> None:
        """See ``base.Port``."""

    def ask(self, fact: Any) -> Answer:
        """See ``base.Port``."""
        strand = self.waiting_strand()
        self.check_open()
        waiter = Waiter(fact, strand.wake)
        self.waiters.add(fact.request, waiter)
        try:
            self.facts.append(fact)
            self.turn()
            asleep = waiter.answer is None
            if asleep and self.charges is not None:
                self.charges.asleep = True
            while waiter.answer is None:
                strand.suspend()
            if asleep and self.charges is not None:
                self.charges.woken(fact)
            self.waiters.take(fact.request)
        except BaseException:
            self._abandon(fact.request, waiter)
            raise
        answer = self.node.answer_for_all(waiter.answer, fact)
        return self.checked(answer)

    def checked(self, answer: Answer) -> Answer:
        """Return an answer; raise SessionClosedError if it says that there is no session any more."""
        if type(answer) is act.RejectRequest and answer.failure.kind is FailureKind.SESSION_CLOSED:
            raise SessionClosedError(answer.failure.message)
        return answer

    def _abandon(self, request: int, waiter: Waiter) -> None:
        """The asker was interrupted: its request is over, and what came for it goes back."""
        self.waiters.take(request)
        self.facts.extend(waiter.unread() if waiter.answer is not None else [RequestAbandoned(request)])
        self.kick()

    def begin(self, fact: Any, done: Callable[[Answer], None]) -> None:
        """See ``base.Port``. ``done`` runs in the loop, in this session."""
        self.check_open()
        session = current.get()

        def answered(answer: Answer) -> None:
            loop = self.loop
            running, before = loop.running, current.get()
            loop.running = None
            current.switch(session)
            try:
                done(answer)
            finally:
                loop.running = running
                current.switch(before)
            strand = self.strand
            if strand is not None:
                strand.wake()  # it may wait for a future, or in an event loop

        self.waiters.add(fact.request, Waiter(fact, answered))
        self.facts.append(fact)
        self.kick()

    def close(self) -> None:
        """See ``base.Port``. A worker ends with its node."""

    def sleep(self, span: Nanos) -> None:
        """Let ``span`` of virtual time pass for the caller."""
        self.waiting_strand().spend(span)

    def declare_duration(self, task_id: TaskID, duration: Any) -> None:
        """A call says how long its body takes: a function of the arguments, or a distribution."""
        self.node.durations.declare(task_id, duration)

    def new_future(self) -> Future[Any]:
        """Return a future whose waiting lets the simulation go on."""
        from sundog.backends.simulated.programs.futures import DrivingFuture

        return DrivingFuture(self)

    # -- for those who wait ---------------------------------------------------------------------------------------------------

    def waiting_strand(self) -> Strand:
        """Return the strand that is about to wait. Raises RuntimeError if the caller is none."""
        strand = self.strand
        if strand is None:
            raise RuntimeError("a blocking sundog call outside of any task would wait for ever")
        strand.check()
        return strand

    def may_wait(self) -> bool:
        """Tell whether the caller is this process's user code, which waits in virtual time."""
        strand = self.strand
        return strand is not None and strand is strand_of_thread()

    def wait_until(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        """Let the simulation go on until ``done()``, or for ``timeout`` virtual seconds; return whether it is done."""
        strand = self.waiting_strand()
        until = None if timeout is None else self.loop.now + max(0, round(timeout * 1e9))
        while not done():
            if until is not None and self.loop.now >= until:
                return False
            strand.suspend(until)
        return True

    def _wait_for_room(self) -> None:
        strand = self.strand
        if strand is None or self.loop.running is not strand:
            return
        self.flush()
        while self.paused and self.closed is None:
            self._waiting_for_room.append(strand)
            strand.suspend()
        self.check_open()

    def check_open(self) -> None:
        """Raise SessionClosedError if calls are refused."""
        if self.closed is not None:
            raise SessionClosedError(self.closed)


def _in_order(facts: list[Any]) -> Iterator[Any]:
    """Return ``facts`` with each run of deaths, and each of births, in the order of their IDs."""
    if not SORTS_RELEASES:
        return iter(facts)
    return itertools.chain.from_iterable(
        sorted(run, key=_id_of) if kind else run for kind, run in itertools.groupby(facts, _kind_of)
    )


def _kind_of(fact: Any) -> int:
    kind = type(fact)
    return 1 if kind is bytes else 2 if kind in _DEATHS else 0


def _id_of(fact: Any) -> tuple[bytes, int]:
    return (fact, 0) if type(fact) is bytes else (fact.object_id, _DEATHS.index(type(fact)))
