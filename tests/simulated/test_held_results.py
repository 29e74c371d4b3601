"""Simulated workers hold results and send them together, as real ones do (``core.unsent``)."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import sundog
from sundog import workloads
from sundog.backends import current
from sundog.backends.simulated.experiment.start import prepare
from sundog.backends.simulated.node import Node
from sundog.backends.simulated.workloads.workload import Workload, task
from sundog.core.config import Config
from sundog.core.ids import DRIVER, address
from sundog.core.lots import singly
from sundog.core.messages import TaskFinished
from sundog.core.units import MILLISECOND, Nanos
from sundog.core.unsent import OVERDUE_AFTER

COUNT = 400


@sundog.remote
def work(value: object = None) -> object:
    return value


@sundog.remote
def sleeps(span: float) -> None:
    time.sleep(span)


class Traffic:
    """What workers send to the node: how many packets, when how many ends of tasks, by the loop's clock; and the node's turns."""

    def __init__(self) -> None:
        self.packets = self.turns = 0
        self.ends: list[tuple[Nanos, int]] = []


@contextmanager
def session(**options: Any) -> Iterator[Traffic]:
    """A session of one node with one worker; count what its processes send."""
    traffic = Traffic()
    send, turn = Node.send, Node.turn

    def counted(self: Any, source: Any, target: Any, messages: list[Any]) -> None:
        if target == self.where and source != address(self.number, DRIVER):
            traffic.packets += 1
            ends = sum([type(one) is TaskFinished for message in messages for one in singly(message)])
            if ends:
                traffic.ends.append((self.loop.now, ends))
        send(self, source, target, messages)

    def turned(self: Any) -> None:
        traffic.turns += 1
        turn(self)

    with pytest.MonkeyPatch.context() as patch, sundog.init(backend="simulated", **{"num_cpus": 1, "seed": 1, **options}):
        patch.setattr(Node, "send", counted)
        patch.setattr(Node, "turn", turned)
        yield traffic


@pytest.mark.parametrize(("duration", "packets_max", "turns_max"), [(0.0, 0.1, 0.15), (0.0001, 0.5, 0.55), (0.002, 0.4, 0.45)])
@pytest.mark.parametrize("profile", [None, "default"])
def test_what_is_awaited_together_is_sent_together(
    duration: float, packets_max: float, turns_max: float, profile: str | None
) -> None:
    with session(profile=profile) as traffic:
        made = work.options(duration=duration)
        sundog.get(made.remote())
        traffic.packets = traffic.turns = 0
        began = time.monotonic()
        assert sundog.get([made.remote(i) for i in range(COUNT)]) == list(range(COUNT))
        took = time.monotonic() - began
        assert traffic.packets < packets_max * COUNT
        assert traffic.turns < turns_max * COUNT
        engine = 0.001 if profile is None else COUNT * 60e-6
        assert duration * COUNT <= took < duration * COUNT * 1.01 + engine


@pytest.mark.parametrize("duration", [0.0, 0.002])
def test_what_somebody_waits_for_alone_is_sent_at_once(duration: float) -> None:
    with session() as traffic:
        made = work.options(duration=duration)
        sundog.get(made.remote())
        began = time.monotonic()
        references = [made.remote(i) for i in range(20)]
        for place, reference in enumerate(references):
            assert sundog.get(reference) == place
            assert time.monotonic() - began < duration * (place + 1) + 0.001
        assert not duration or len(traffic.ends) == 21


def test_empty_tasks_do_not_wait_for_anything() -> None:
    with session() as traffic:
        sundog.get([work.remote() for _ in range(64)])
        traffic.ends.clear()
        began = time.monotonic()
        sundog.get([work.remote() for _ in range(64)])
        assert time.monotonic() - began < 0.0005
        sundog.sleep(1.0)
        assert sum([ends for _, ends in traffic.ends]) == 64
        assert traffic.ends[-1][0] - traffic.ends[0][0] < MILLISECOND


def test_what_is_held_goes_when_a_body_takes_longer_than_expected() -> None:
    """Three short bodies, then one of the same function of a second: what ended before it is not known a second later."""
    with session() as traffic:
        sundog.get([sleeps.remote(0.00001) for _ in range(4)])
        traffic.ends.clear()
        began = current.session.port.loop.now  # type: ignore[union-attr]
        sundog.get([sleeps.remote(span) for span in (0.00001, 0.00001, 0.00001, 1.0, 0.00001)])
        early = [when for when, _ in traffic.ends if when < began + 500 * MILLISECOND]
        assert sum([ends for when, ends in traffic.ends if when in early]) == 3
        assert early[-1] <= began + MILLISECOND + OVERDUE_AFTER


def test_what_is_held_of_many_goes_in_time() -> None:
    with session() as traffic:
        sundog.get([sleeps.remote(0.001) for _ in range(4)])
        traffic.ends.clear()
        began = current.session.port.loop.now  # type: ignore[union-attr]
        sundog.get([sleeps.remote(span) for span in [0.001] * 3 + [1.0] + [0.001] * 60])
        early = [(when, ends) for when, ends in traffic.ends if when < began + 500 * MILLISECOND]
        assert sum([ends for _, ends in early]) == 3
        assert early[-1][0] <= began + Config().flush_patient_after + 4 * MILLISECOND, "the first three bodies took three of them"


def test_a_body_that_waits_takes_along_what_is_held() -> None:
    @sundog.remote
    def waits() -> Any:
        return sundog.get(work.options(duration=1.0).remote(1))

    with session(num_cpus=2) as traffic:
        sundog.get([work.options(duration=0.00005).remote() for _ in range(8)])
        traffic.ends.clear()
        references = [work.options(duration=0.00005).remote() for _ in range(40)] + [waits.remote()]
        before = time.monotonic()
        sundog.wait(references, num_returns=40)
        assert time.monotonic() - before < 0.01
        assert sundog.get(references[-1]) == 1


def test_holding_is_deterministic() -> None:
    script = (
        "import sundog\n"
        "@sundog.remote\n"
        "def f(x): return x\n"
        "with sundog.init(backend='simulated', nodes=2, num_cpus=2, seed=3, profile='default') as session:\n"
        "    for duration in (0.0, 0.00005, 0.0005, 0.002):\n"
        "        sundog.get([f.options(duration=duration).remote(i) for i in range(150)])\n"
        "    from sundog.backends import current\n"
        "    log = current.session.port.node.log\n"
        "print(log.digest())\n"
    )
    digests = set()
    for seed in ("0", "1", "7"):
        environment = dict(os.environ, PYTHONHASHSEED=seed)
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1, digests


# -- without bodies -------------------------------------------------------------------------------------------------------------


def ends_sent(workload: Workload, **options: Any) -> list[tuple[Nanos, int]]:
    """Run on one node; return when its workers sent how many ends of tasks."""
    made = prepare(workload, 1, **{"num_cpus": 1, "profile": "free", "seed": 1, **options})
    node, found = made.nodes[0], []
    send = type(node).send

    def counted(self: Any, source: Any, target: Any, messages: list[Any]) -> None:
        ends = sum([type(message) is TaskFinished for message in messages])
        if ends:
            found.append((made.loop.now - made.began, ends))
        send(self, source, target, messages)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(node), "send", counted)
        made.run()
    assert sum([ends for _, ends in found]) == len(workload)
    return found


@pytest.mark.parametrize("profile", ["free", "default"])
def test_ends_of_short_tasks_without_bodies_travel_together(profile: str) -> None:
    short = ends_sent(workloads.independent(COUNT, 0.00002), profile=profile)
    assert len(short) < COUNT / 4
    assert max([late - early for (early, _), (late, _) in itertools.pairwise(short)]) < MILLISECOND
    assert len(ends_sent(workloads.independent(COUNT, 0.0002), profile=profile)) == COUNT


def test_what_a_long_task_without_a_body_holds_up_goes_in_time() -> None:
    tasks = [task(0.00002) for _ in range(50)] + [task(1.0)] + [task(0.00002) for _ in range(3)]
    sent = ends_sent(Workload(tasks, "a long one among short ones"))
    early = [(when, ends) for when, ends in sent if when < 500 * MILLISECOND]
    assert sum([ends for _, ends in early]) == 50
    assert early[-1][0] < 2 * MILLISECOND + OVERDUE_AFTER
