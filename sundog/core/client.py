"""The machine of a driver or worker: it counts references, and waits for objects on behalf of threads.

Owns, in its process: how many Python references there are to each ID, what was asked of the node and not yet answered, and
which requests of threads hang on that. It decides what to tell the node and when a request is over.

Invariants:

* R1. an ID is in ``references`` exactly while the node counts this process among its holders (as far as told: FIFO);
* R2. every ID in ``_deliveries.first`` or ``_watching`` has an unanswered ObjectsWanted of that kind;
* R3. a request is in ``requests`` until it is resolved, rejected or abandoned, exactly once.

What it does not do: serialize, know tasks, print. Messages for a worker's pipeline go to ``executor``, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import filterfalse, groupby, islice
from operator import is_not
from typing import Any

from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.actions import (
    CloseClient,
    PauseSubmissions,
    RejectRequest,
    ReportStuck,
    ResolveGet,
    ResolveQuestion,
    ResolveWait,
    Send,
    ShowOutput,
)
from sundog.core.arrivals import take_lot
from sundog.core.config import Config
from sundog.core.deadlines import NEVER
from sundog.core.deliveries import NOBODY, Deliveries
from sundog.core.errors import InvariantViolation
from sundog.core.ids import FIRST_RETURN, Address, ObjectID, first_returns, return_ids
from sundog.core.known_objects import KnownObjects
from sundog.core.lots import LOT_MIN, of_ends, of_submissions
from sundog.core.machine import Action, Event, Fact
from sundog.core.readahead import AHEAD_MIN, Readahead
from sundog.core.reference_counts import ReferenceCounts
from sundog.core.request import PATIENT_MIN, Request
from sundog.core.request_times import RequestTimes
from sundog.core.task import Failure, FailureKind, Value
from sundog.core.units import Nanos
from sundog.core.waits import Waits

#: Facts that go to the node as they are.
_FORWARDED = (
    msg.FunctionExported, msg.IDsEscaped, msg.ExtentReturned, msg.TaskFinished, msg.TaskSkipped, msg.TasksDropped,
    msg.SessionEnding,
)  # fmt: skip
#: Answers that name their request.
_ANSWERS = (msg.ExtentGranted, msg.CancelAnswered, msg.TableGiven)
#: What a driver shows to people.
_SHOWN = (msg.OutputWritten, msg.FailureUnheard, msg.WarningRaised)
#: At most so many IDs are named when asking why a request is stuck.
_EXPLAINED_MAX = 3


class Client:
    """See the module. ``here`` and ``host`` are the addresses of this process and of its node's host."""

    def __init__(self, config: Config, here: Address, host: Address, *, worker: bool) -> None:
        self._config = config
        self.here = here
        self._host = host
        self._worker = worker
        self._counts = ReferenceCounts()
        #: R1. ID -> live Python references in this process.
        self.references = self._counts.counts
        #: Held IDs that are known to be ready, and some of their values. Threads look into it.
        self.known = KnownObjects(config)
        #: R2. Which requests wait for which values.
        self._deliveries = Deliveries()
        #: R2. IDs of which the node will tell when they are ready; and the requests that wait for such news.
        self._watching: dict[ObjectID, None] = {}
        self._waits = Waits()
        self._readahead = Readahead()
        self.requests: dict[int, Request] = {}  # R3; a loop may look how much each still misses
        self._questions: dict[int, None] = {}
        self._times = RequestTimes(self.requests, config.stuck_after)
        self._polls: dict[int, int] = {}
        self._now: Nanos = 0
        self._closed: str | None = None
        self._pins: list[ObjectID] = []
        self._wanted: list[ObjectID] = []
        self._watched: list[ObjectID] = []
        self._actions: list[Action] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            bytes: self._counts.born,
            ev.ReferenceDropped: self._counts.dropped,
            ev.PinDropped: self._on_pin_dropped,
            ev.GetRequested: self._on_get_requested,
            ev.WaitRequested: self._on_wait_requested,
            ev.RequestAbandoned: self._on_request_abandoned,
            ev.Asked: self._on_asked,
            msg.TaskSubmitted: self._on_task_submitted,
            msg.ObjectPut: self._on_object_put,
            msg.ObjectsReady: self._on_objects_ready,
            msg.ObjectsPolledReady: self._on_polled,
            msg.TaskResumed: self._on_task_resumed,
            msg.RequestRefused: self._on_request_refused,
            msg.ExtentRefused: self._on_extent_refused,
            msg.ExplanationGiven: self._on_explanation_given,
            msg.SubmissionsPaused: self._on_submissions_paused,
            msg.SessionEnded: self._on_session_ended,
            **dict.fromkeys(_FORWARDED, self._forward),
            **dict.fromkeys(_ANSWERS, self._on_answer),
            **dict.fromkeys(_SHOWN, self._on_shown),
        }
        self._runs: dict[type, Callable[[Any], None]] = {
            ev.ReferenceDropped: self._counts.dropped_run,
            msg.TaskSubmitted: self._on_run_submitted,
            msg.TaskFinished: self._forward_run,
        }

    # -- the door ------------------------------

    def step(self, now: Nanos, events: Iterable[Event]) -> list[Action]:
        """See ``machine.Machine``. Facts of this process come from ``ids.LOOP``; a plain ``bytes`` is a born reference."""
        self._now = now
        if isinstance(events, list) and len(events) >= LOT_MIN:
            self._hear(events)
        else:
            handlers = self._handlers
            for _, fact in events:
                handlers[type(fact)](fact)
        if now >= self._times.due:
            self._on_due(now)
        return self._speak()

    def _hear(self, events: Sequence[Event]) -> None:
        """Handle many facts: those of one type that come one after the other together, unless they mostly change."""
        handlers, runs = self._handlers, self._runs
        facts = [fact for _, fact in events]
        kinds = list(map(type, facts))
        if LOT_MIN * sum(map(is_not, kinds, kinds[1:])) >= len(kinds):
            for fact, kind in zip(facts, kinds, strict=True):
                handlers[kind](fact)
            return
        for kind, group in groupby(facts, type):
            if kind in runs:
                runs[kind](list(group))
            else:
                for fact in group:
                    handlers[kind](fact)

    def next_deadline(self) -> Nanos | None:
        """See ``machine.Machine``."""
        return self._times.due if self.requests and self._times.due < NEVER else None

    def close(self, now: Nanos, reason: str) -> list[Action]:
        """The node is gone: reject everything that waits, now and later. Called by the loop when the link ends."""
        self._now = now
        self._end(reason)
        return self._speak()

    def _speak(self) -> list[Action]:
        """Turn what this step gathered into actions, in the order that P4 needs: holds, messages, pins, releases."""
        actions = self._actions
        counts = self._counts
        if counts.taken:
            actions.insert(0, Send(self._host, msg.HoldsTaken(counts.take_taken())))
        if self._wanted:
            actions.append(Send(self._host, msg.ObjectsWanted(tuple(self._wanted), deliver=True)))
            self._wanted = []
        if self._watched:
            actions.append(Send(self._host, msg.ObjectsWanted(tuple(self._watched), deliver=False)))
            self._watched = []
        if self._pins:
            actions.append(Send(self._host, msg.PinsReturned(tuple(self._pins))))
            self._pins = []
        if counts.unreferenced and (released := counts.take_released()):
            if self.known.values or self.known.kept:
                self.known.forget(released)
            actions.append(Send(self._host, msg.HoldsReleased(tuple(released))))
        if self._closed is not None:
            actions = [action for action in actions if type(action) is not Send]
        self._actions = []
        return actions

    # -- references ------------------------------

    def _on_task_submitted(self, fact: msg.TaskSubmitted) -> None:
        references, spec = self.references, fact.spec
        if spec.return_count == 1:
            object_id: ObjectID = spec.task_id + FIRST_RETURN  # type: ignore[assignment]  # a NewType's call is one of Python code
            references[object_id] = references.get(object_id, 0) + 1
        else:
            self._counts.born_run(return_ids(spec.task_id, spec.return_count))
        self._actions.append(Send(self._host, fact))

    def _on_run_submitted(self, facts: list[msg.TaskSubmitted]) -> None:
        for fact in of_submissions(facts):
            if isinstance(fact, msg.TaskSubmitted):
                self._on_task_submitted(fact)
                continue
            self._counts.born_run(first_returns(fact.task_ids))
            self._actions.append(Send(self._host, fact))

    def _on_object_put(self, fact: msg.ObjectPut) -> None:
        self.references[fact.object_id] = self.references.get(fact.object_id, 0) + 1
        self.known.remember(fact.object_id, fact.value, put=True)
        self._actions.append(Send(self._host, fact))

    def _on_pin_dropped(self, fact: ev.PinDropped) -> None:
        self._pins.append(fact.object_id)

    def _forward(self, fact: Fact) -> None:
        self._actions.append(Send(self._host, fact))

    def _forward_run(self, facts: list[msg.TaskFinished]) -> None:
        self._actions += [Send(self._host, fact) for fact in of_ends(facts)]

    # -- requests ------------------------------

    def _on_get_requested(self, fact: ev.GetRequested) -> None:
        if self._closed is not None and self._refuse(fact.request):
            return
        missing = dict.fromkeys(fact.object_ids)
        known = self.known.values
        values = {o: value for o in missing if (value := known.get(o)) is not None} if known else {}
        for object_id in values:
            del missing[object_id]
        request = Request(
            object_ids=fact.object_ids, missing=missing, missing_allowed=0, deadline=fact.deadline,
            task=fact.task, deliver=True, asked_at=self._now, values=values,
        )  # fmt: skip
        self.requests[number := fact.request] = request
        deliveries = self._deliveries
        first = deliveries.first
        wanted: list[ObjectID] = []
        for object_id in missing:
            if object_id in first:
                deliveries.join(object_id, number)
            else:
                first[object_id] = number
                wanted.append(object_id)
        if len(wanted) >= PATIENT_MIN and fact.task is None and fact.deadline is None:
            self._actions.append(Send(self._host, msg.ObjectsWanted(tuple(wanted), deliver=True, patient=True)))
        else:
            self._wanted += wanted
        if len(missing) == 1 and len(self.references) > AHEAD_MIN and len(fact.object_ids) == 1 and object_id not in self._watching:
            self._watch([o for o in self._readahead.after(object_id, self.references) if known.get(o) is None])
        self._begin_waiting(fact.request, request)

    def _on_wait_requested(self, fact: ev.WaitRequested) -> None:
        if self._refuse(fact.request):
            return
        missing = dict.fromkeys(filterfalse(self.known.values.__contains__, fact.object_ids))
        request = Request(
            object_ids=fact.object_ids, missing=missing, missing_allowed=len(fact.object_ids) - fact.count,
            deadline=fact.deadline, task=fact.task, deliver=False, asked_at=self._now, values={},
        )  # fmt: skip
        self.requests[fact.request] = request
        if request.over():
            self._finish(fact.request, request)
            return
        if fact.deadline is not None and fact.deadline <= self._now:
            self._polls[fact.request] = fact.request
            self._actions.append(Send(self._host, msg.ObjectsPolled(fact.request, tuple(missing))))
            return
        self._watch(missing)
        self._waits.add(fact.request, request)
        self._begin_waiting(fact.request, request)

    def _watch(self, object_ids: Iterable[ObjectID]) -> None:
        """Ask the node for news of those of ``object_ids`` of which it is not going to tell already (R2)."""
        asking = list(filterfalse(self._watching.__contains__, object_ids))
        self._watching.update(dict.fromkeys(asking))
        self._watched += asking

    def _begin_waiting(self, number: int, request: Request) -> None:
        if not request.missing:
            self._finish(number, request)
            return
        self._times.begin(number, request.deadline, self._now)
        if request.task is not None:
            request.blocked = True
            missing, count = tuple(request.missing), len(request.missing) - request.missing_allowed
            self._actions.append(Send(self._host, msg.TaskBlocked(request.task, number, missing, count, request.deliver)))

    def _on_request_abandoned(self, fact: ev.RequestAbandoned) -> None:
        request = self.requests.get(fact.request)
        if request is not None:
            self._forget(fact.request)
            self._pins += request.unread()
            if request.blocked and request.task is not None:
                self._actions.append(Send(self._host, msg.ResumeRequested(request.task, fact.request)))  # the task goes on
        self._questions.pop(fact.request, None)

    def _on_asked(self, fact: ev.Asked) -> None:
        if not self._refuse(fact.request):
            self._questions[fact.request] = None
            self._actions.append(Send(self._host, fact.question))

    def _refuse(self, number: int) -> bool:
        """Reject at once if the session is over."""
        if self._closed is None:
            return False
        self._actions.append(RejectRequest(number, Failure(FailureKind.SESSION_CLOSED, self._closed)))
        return True

    # -- what the node says ------------------------------

    def _on_objects_ready(self, fact: msg.ObjectsReady) -> None:
        references, known, watching = self.references, self.known, self._watching
        if len(fact.objects) >= LOT_MIN:
            asked = take_lot(fact.objects, self._deliveries, self.requests, references, watching, known)
            if asked is not None:
                if self.requests[asked].over():
                    self._finish(asked, self.requests[asked])
                return
        for ready in fact.objects:
            object_id, value = ready.object_id, ready.value
            if value is None:
                if object_id in references:
                    known.values.setdefault(object_id, None)
                self._tell_waits(object_id)
                continue
            watched = object_id in watching
            if object_id in references:
                known.remember(object_id, value, watched)
            if watched:
                self._tell_waits(object_id)
            if value.offset >= 0:
                self._deliver(object_id, value)
                continue
            first = self._deliveries.first.pop(object_id, NOBODY)
            if first:
                self._arrived(first, object_id, value)
                if self._deliveries.behind:
                    for number in self._deliveries.take_behind(object_id):
                        self._arrived(number, object_id, value)

    def _tell_waits(self, object_id: ObjectID) -> None:
        """``object_id`` is ready."""
        self._watching.pop(object_id, None)
        for number in self._waits.take(object_id):
            self._arrived(number, object_id, None)

    def _deliver(self, object_id: ObjectID, value: Value) -> None:
        """Hand one value that lies in the arena to the first who waits for it, with its one grant; the rest ask again."""
        number = self._deliveries.take(object_id)
        if number == NOBODY:
            self._pins.append(object_id)
            return
        if object_id in self._deliveries.first:
            self._wanted.append(object_id)
        self._arrived(number, object_id, value)

    def _arrived(self, number: int, object_id: ObjectID, value: Value | None) -> None:
        request = self.requests.get(number)
        if request is None or request.missing.pop(object_id, 0) is not None:
            return
        if value is not None:
            request.values[object_id] = value
        if request.over():
            self._finish(number, request)

    def _on_polled(self, fact: msg.ObjectsPolledReady) -> None:
        for object_id in fact.object_ids:
            if object_id in self.references:
                self.known.values.setdefault(object_id, None)
        request = self.requests.get(fact.request)
        if request is not None and self._polls.pop(fact.request, None) is not None:
            for object_id in fact.object_ids:
                request.missing.pop(object_id, None)
            self._finish(fact.request, request)

    def _on_task_resumed(self, fact: msg.TaskResumed) -> None:
        request = self.requests.get(fact.request)
        if request is None:
            return
        request.blocked = False
        if request.over() or request.expired:
            self._finish(fact.request, request)

    def _on_request_refused(self, fact: msg.RequestRefused) -> None:
        request = self.requests.get(fact.request)
        if request is not None:
            self._fail(fact.request, request, fact.value.failure or Failure(FailureKind.DEADLOCK, "the wait can never end"))

    def _on_answer(self, fact: Any) -> None:
        if self._questions.pop(fact.request, 0) is None:
            self._actions.append(ResolveQuestion(fact.request, fact))
        elif type(fact) is msg.ExtentGranted:
            self._actions.append(Send(self._host, msg.ExtentReturned(fact.offset)))  # the asking thread was interrupted

    def _on_extent_refused(self, fact: msg.ExtentRefused) -> None:
        if self._questions.pop(fact.request, 0) is None:
            failure = fact.value.failure or Failure(FailureKind.STORE_FULL, "the object store is full")
            self._actions.append(RejectRequest(fact.request, failure))

    def _on_explanation_given(self, fact: msg.ExplanationGiven) -> None:
        if self._questions.pop(fact.request, 0) is None:
            self._actions.append(ResolveQuestion(fact.request, fact))
            return
        request = self.requests.get(fact.request)
        if request is None or not request.explaining:
            return
        request.explaining = False
        text = request.story(self._now, fact.text)
        if request.expired:
            self._fail(fact.request, request, Failure(FailureKind.TIMEOUT, text))
        elif not (self._worker and fact.blocked):  # else the innermost task says it, and the driver that waits for all of them
            self._actions.append(ReportStuck(fact.request, text))

    def _on_shown(self, fact: Fact) -> None:
        self._actions.append(ShowOutput(fact))

    def _on_submissions_paused(self, fact: msg.SubmissionsPaused) -> None:
        self._actions.append(PauseSubmissions(fact.paused))

    def _on_session_ended(self, fact: msg.SessionEnded) -> None:
        self._end("the session has ended: call sundog.init() to start another")

    # -- time and endings ------------------------------

    def _on_due(self, now: Nanos) -> None:
        expired, stuck = self._times.pop_due(now)
        for number in stuck:
            self._explain(number, self.requests[number])
        for number in expired:
            request = self.requests[number]
            request.expired = True
            if request.blocked and request.task is not None:
                self._actions.append(Send(self._host, msg.ResumeRequested(request.task, number)))
            else:
                self._finish(number, request)

    def _explain(self, number: int, request: Request) -> None:
        if not request.explaining:
            request.explaining = True
            missing = [o for o, _ in zip(request.missing, range(_EXPLAINED_MAX), strict=False)]
            self._actions.append(Send(self._host, msg.ExplanationRequested(number, tuple(missing))))

    def _finish(self, number: int, request: Request) -> None:
        """The request's waiting is over: by readiness, or because its time is up."""
        if request.deliver and request.missing:
            if request.expired:
                self._explain(number, request)  # rejected when the explanation comes
            return
        self._forget(number)
        if request.deliver:
            self._actions.append(ResolveGet(number, tuple(map(request.values.__getitem__, request.object_ids))))
        else:
            wanted = len(request.object_ids) - request.missing_allowed
            ready = filterfalse(request.missing.__contains__, request.object_ids)
            self._actions.append(ResolveWait(number, tuple(islice(ready, wanted))))

    def _fail(self, number: int, request: Request, failure: Failure) -> None:
        self._forget(number)
        self._pins += request.unread()
        self._actions.append(RejectRequest(number, failure))

    def _forget(self, number: int) -> None:
        request = self.requests.pop(number)
        if not request.deliver:
            self._polls.pop(number, None)
            self._waits.remove(number)
        elif request.missing:  # it is given up
            self._deliveries.give_up(number, request.missing)
        if request.deadline is not None:
            self._times.end(number)

    def _end(self, reason: str) -> None:
        if self._closed is not None:
            return
        self._closed = reason
        failure = Failure(FailureKind.SESSION_CLOSED, reason)
        for number in [*self.requests, *self._questions]:
            self._actions.append(RejectRequest(number, failure))
        for number in list(self.requests):
            self._forget(number)
        self._questions.clear()
        self.known.clear()
        self._actions.append(CloseClient(reason))

    def check_invariants(self) -> None:
        """See ``machine.Machine``."""
        for number, request in self.requests.items():
            if request.blocked and request.task is None:
                raise InvariantViolation(f"request {number} is blocked without a task")
            for object_id in request.missing:
                told = self._deliveries.waits(number, object_id) if request.deliver else object_id in self._watching
                if not told and number not in self._polls:
                    raise InvariantViolation(f"request {number} waits for {object_id.hex()} unheard (R2)")
        for object_id, count in self.references.items():
            if count < 0:
                raise InvariantViolation(f"{object_id.hex()} has {count} references (R1)")
        self._deliveries.check_invariants()
        self._waits.check_invariants()
        self.known.check_invariants(self.references)
