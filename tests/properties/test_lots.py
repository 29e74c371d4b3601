"""Lots change nothing: two hosts and two clients that hear the same, one of them in lots, say the same and know the same."""

from __future__ import annotations

from itertools import groupby
from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sundog.core import client as client_module
from sundog.core import events as ev
from sundog.core import lots as lots_module
from sundog.core import messages as msg
from sundog.core.actions import Dispatch, ReclaimTasks, Send, StartWorker
from sundog.core.client import Client
from sundog.core.host import Host
from sundog.core.ids import LOOP, Address, ObjectID, ProcessID, process_of
from sundog.core.lots import of_ends, of_submissions, singly
from sundog.core.machine import Action, Event
from sundog.core.task import RunTask
from sundog.core.units import MICROSECOND
from tests.support.builders import (
    AT_DRIVER,
    AT_HOST,
    CPUS_2,
    EXPORT,
    arena,
    config,
    error,
    inline,
    result,
    returned,
    submitted,
    task_id,
    worker_at,
)

#: Lots of a few tasks are enough to see what they do.
FEW = 4


def in_lots(events: list[Event]) -> list[Event]:
    """Return the events as clients that gather lots would have sent them."""
    found: list[Event] = []
    for (sender, kind), group in groupby(events, lambda event: (event[0], type(event[1]))):
        facts: Any = [fact for _, fact in group]
        if kind is msg.TaskSubmitted:
            facts = of_submissions(facts)
        elif kind is msg.TaskFinished:
            facts = of_ends(facts)
        with patch.object(lots_module, "LOT_MIN", FEW):
            found += [(sender, fact) for fact in facts]
    return found


def said(actions: list[Action]) -> list[Any]:
    """Return ``actions``; what they say of ready objects sorted, since a lot's are told together."""
    found: list[Any] = []
    ready: dict[Address, list[Any]] = {}
    for action in actions:
        if isinstance(action, Send) and isinstance(action.message, msg.ObjectsReady):
            ready.setdefault(action.to, []).extend(msgspec.to_builtins(action.message.objects))
        else:
            found.append(action)
    return [*found, {to: sorted(objects, key=repr) for to, objects in ready.items()}]


def known(host: Host) -> Any:
    """Return what a host knows of tasks and objects."""
    scheduler, objects = host.local_scheduler, host.object_manager
    tasks = {
        name: (
            r.spec, r.submitter, r.order, r.state, r.attempt, r.starts, r.awaited, r.sequence, r.estimate, r.dispatched_at,
            r.worker.worker if r.worker is not None else None,
        )
        for name, r in scheduler.tasks.items()
    }  # fmt: skip
    workers = {
        number: (
            w.state,
            w.sequence,
            w.work if w.pipeline else 0,
            w.late_at if w.pipeline else 0,
            [r.spec.task_id for r in w.pipeline],
        )
        for number, w in scheduler.pool.workers.items()
    }
    functions = {name: (f.mean, f.calls) for name, f in scheduler.pipelines.functions.items()}
    values = {
        name: (r.value, r.holders, r.wanting, r.watching, r.needed, r.name or (r.spec and r.spec.name))
        for name, r in objects.objects.items()
    }
    return tasks, workers, functions, values, scheduler.argument_bytes, list(scheduler.pipelines.deep)


class Pair:
    """Two hosts, and what lies with their workers."""

    def __init__(self, depth: int) -> None:
        settings = config(cpus=2, pipeline_depth_max=depth)
        self.hosts = Host(settings), Host(settings)
        for host in self.hosts:
            host.keep_journal()
        self.now = 0
        self.pipelines: dict[Address, list[RunTask]] = {}
        self.hear([])
        self.hear([(AT_DRIVER, EXPORT)])

    def hear(self, events: list[Event]) -> None:
        """Both hear it: one by one, and in lots."""
        self.now += 50 * MICROSECOND
        single, lotted = (host.step(self.now, heard) for host, heard in zip(self.hosts, (events, in_lots(events)), strict=True))
        assert said(single) == said(lotted)
        assert known(self.hosts[0]) == known(self.hosts[1])
        journals = [host.journal.take() for host in self.hosts if host.journal is not None]
        assert [sorted(entries) for entries in msgspec.to_builtins(journals[0]).values() if isinstance(entries, list)] == [
            sorted(entries) for entries in msgspec.to_builtins(journals[1]).values() if isinstance(entries, list)
        ]
        for host in self.hosts:
            host.check_invariants()
        answers: list[Event] = []
        for action in single:
            if isinstance(action, StartWorker):
                self.pipelines[worker_at(action.worker)] = []
                answers.append((LOOP, ev.WorkerStarted(action.worker, 1)))
            elif isinstance(action, Dispatch):
                self.pipelines[worker_at(action.worker)] += action.tasks
            elif isinstance(action, ReclaimTasks):
                answers.append((LOOP, ev.TasksReclaimed(action.worker, 0)))
        if answers:
            self.hear(answers)


KINDS: list[dict[str, Any]] = [
    {}, {}, {}, {"name": "g"}, {"priority": 1}, {"resources": CPUS_2}, {"resources": ()}, {"return_count": 2}, {"calls_max": 3},
    {"arguments": inline("x" * 2000)},
]  # fmt: skip


@given(st.data(), st.sampled_from((2, 6, 512)))
def test_a_host_that_hears_lots_does_what_one_does_that_hears_each(data: st.DataObject, depth: int) -> None:
    pair = Pair(depth)
    number = 0
    for _ in range(data.draw(st.integers(2, 10), "rounds")):
        events: list[Event] = []
        for _ in range(data.draw(st.integers(0, 3), "bursts")):
            kind = data.draw(st.sampled_from(KINDS), "kind")
            depends = number and data.draw(st.booleans(), "depends") and data.draw(st.booleans(), "depends")
            wanted = []
            for _ in range(data.draw(st.integers(1, 9), "count")):
                number += 1
                dependency = (returned(data.draw(st.integers(1, number - 1), "on")),) if depends and number > 1 else ()
                events.append((AT_DRIVER, submitted(number, *dependency, **({"name": "f"} | kind))))
                wanted.append(returned(number))
            how = data.draw(st.sampled_from(("get", "many", "wait", "none")), "asked")
            if how != "none":
                events.append((AT_DRIVER, msg.ObjectsWanted(tuple(wanted), how != "wait", how == "many")))
        for where, pipeline in pair.pipelines.items():
            count = data.draw(st.integers(0, len(pipeline)), "ends")
            for run in pipeline[:count]:
                odd = data.draw(st.integers(0, 12), "odd")
                results = tuple([result(1) for _ in range(run.spec.return_count)])
                if odd == 0:
                    results = (msg.Result(error()),)
                attempt = run.attempt + (odd == 1)
                took = data.draw(st.integers(1, 50), "took") * MICROSECOND
                events.append((where, msg.TaskFinished(run.spec.task_id, attempt, results, took, odd == 2)))
            del pipeline[:count]
        if data.draw(st.integers(0, 8), "death") == 0 and pair.pipelines:
            where = data.draw(st.sampled_from(sorted(pair.pipelines)), "who")
            del pair.pipelines[where]
            events.append((LOOP, ev.WorkerLost(ProcessID(process_of(where)), 0, 0, -9)))
        if number and data.draw(st.booleans(), "release"):
            events.append((AT_DRIVER, msg.HoldsReleased((returned(data.draw(st.integers(1, number), "of")),))))
        pair.hear(events)


def state(client: Client) -> Any:
    """Return what a client knows."""
    requests = {n: (list(r.missing), sorted(r.values.items()), r.blocked) for n, r in client.requests.items()}
    return dict(sorted(client.known.values.items())), dict(sorted(client.references.items())), requests


def apart(actions: list[Action]) -> list[Any]:
    """Return what ``actions`` say, lots taken apart."""
    found: list[Any] = []
    for action in actions:
        found += [(action.to, one) for one in singly(action.message)] if isinstance(action, Send) else [action]
    return found


VALUES = [inline(1), inline(2), inline("x" * 9000), error(), arena(64)]


@given(st.data())
def test_a_client_that_takes_values_together_does_what_one_does_that_takes_each(data: st.DataObject) -> None:
    one_by_one, together = (Client(config(), AT_DRIVER, AT_HOST, worker=False) for _ in range(2))
    pending: list[ObjectID] = []
    now = number = request = 0

    def hear(events: list[Event]) -> None:
        with patch.object(client_module, "LOT_MIN", 1 << 60):
            alone = one_by_one.step(now, events)
        with patch.object(client_module, "LOT_MIN", FEW), patch.object(lots_module, "LOT_MIN", FEW):
            lotted = together.step(now, events)
        assert apart(alone) == apart(lotted)
        assert state(one_by_one) == state(together)
        for client in (one_by_one, together):
            client.check_invariants()

    for _ in range(data.draw(st.integers(1, 8), "rounds")):
        now += 1
        made = []
        for _ in range(data.draw(st.integers(0, 12), "count")):
            number += 1
            made.append(returned(number))
        events: list[Event] = [(LOOP, submitted(int.from_bytes(o[:16], "big"), name="f")) for o in made]
        if made:
            request += 1
            asked = tuple(made[: data.draw(st.integers(1, len(made)), "asked")])
            if data.draw(st.booleans(), "get"):
                events.append((LOOP, ev.GetRequested(request, asked)))
            else:
                events.append((LOOP, ev.WaitRequested(request, asked, 1)))
            pending += asked
        hear(events)
        count = data.draw(st.integers(0, len(pending)), "ready")
        few = data.draw(st.booleans(), "alike")
        values = [VALUES[0] if few else data.draw(st.sampled_from(VALUES), "value") for _ in range(count)]
        ready = [msg.ReadyObject(o, value) for o, value in zip(pending[:count], values, strict=True)]
        if data.draw(st.booleans(), "dropped") and made:
            hear([(LOOP, ev.ReferenceDropped(o)) for o in made[: data.draw(st.integers(1, len(made)), "drops")]])
        del pending[:count]
        if ready:
            hear([(AT_HOST, msg.ObjectsReady(tuple(ready)))])


def test_the_pair_is_not_blind() -> None:
    pair = Pair(512)
    burst: list[Event] = [(AT_DRIVER, submitted(n, name="f")) for n in range(1, FEW + 5)]
    assert len(in_lots(burst)) == 1
    pair.hear(burst)
    before = known(pair.hosts[0])
    pair.hosts[0].local_scheduler.tasks[task_id(FEW + 4)].order += 1
    assert known(pair.hosts[0]) != before == known(pair.hosts[1])
