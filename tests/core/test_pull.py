"""Pulls: what becomes of requests that nobody answers."""

from __future__ import annotations

from sundog.core import messages as msg
from sundog.core.actions import Send, StopFetch
from sundog.core.config import Config
from sundog.core.ids import HOST, NodeID, ObjectID, address
from sundog.core.machine import Action
from sundog.core.pull import Pulls
from sundog.core.task import Value
from sundog.core.units import SECOND

OBJECT = ObjectID(b"o" * 20)
CONFIG = Config()
WAIT = CONFIG.fetch_answer_after
SIZE = 1_000_000


class Bench:
    """The pulls of node 2, and a clock."""

    def __init__(self, *holders: int) -> None:
        self.said: list[Action] = []
        self.pulls = Pulls(CONFIG, NodeID(2), self.said)
        self.now = 0
        assert self.pulls.want(OBJECT)
        self.pulls.located(OBJECT, SIZE, tuple(map(NodeID, holders)))

    def decide(self, later: int = 0) -> list[Action]:
        self.now += later
        self.pulls.decide(self.now)
        self.pulls.check_invariants()
        said, self.said[:] = list(self.said), []
        return said

    def answer(self, source: int, attempt: int) -> list[Action]:
        value = Value(SIZE, offset=0)
        assert self.pulls.answered(address(NodeID(source), HOST), msg.FetchAnswered(OBJECT, attempt, value)) is None
        return self.decide()


def request(source: int, attempt: int) -> Send:
    return Send(address(NodeID(source), HOST), msg.FetchRequested(OBJECT, attempt))


def returned(source: int) -> Send:
    return Send(address(NodeID(source), HOST), msg.PinsReturned((OBJECT,)))


def test_who_is_silent_is_passed_over_and_its_late_answer_undone() -> None:
    bench = Bench(1, 3)
    assert bench.decide() == [request(1, 1)]
    assert bench.pulls.next_deadline() == WAIT
    assert bench.decide(WAIT - 1) == []
    assert bench.decide(1) == []
    assert bench.decide(CONFIG.fetch_retry_after) == [request(3, 2)]
    assert bench.answer(1, 1) == [returned(1)]
    assert bench.pulls.unanswered == []


def test_the_only_holder_is_asked_ever_more_seldom_and_that_is_told_once() -> None:
    bench = Bench(1)
    gaps: list[int] = []
    told = 0
    asked_at = 0
    for attempt in range(1, 12):
        while (said := bench.decide()) == []:
            told += len(bench.pulls.unanswered)
            bench.pulls.unanswered.clear()
            deadline = bench.pulls.next_deadline()
            assert deadline is not None
            bench.now = deadline
        assert said == [request(1, attempt)]
        gaps.append(bench.now - asked_at)
        asked_at = bench.now
    assert told == 1
    assert gaps[1:] == sorted(gaps[1:])
    assert 64 * WAIT < gaps[-1] < 65 * WAIT


def test_bytes_that_do_not_come_are_given_up_once_nobody_writes_them() -> None:
    bench = Bench(1, 3)
    bench.decide()
    bench.answer(1, 1)
    bench.decide(3600 * SECOND)  # while there is no room here, nobody is late
    assert bench.pulls.granted(1, 64)
    bench.decide()
    assert bench.decide(WAIT) == []
    assert bench.decide(SIZE * 200) == [StopFetch(1)]
    assert bench.pulls.next_deadline() is None
    assert bench.pulls.failed(1) == 64
    assert bench.decide() == [returned(1)]
    assert bench.decide(CONFIG.fetch_retry_after) == [request(3, 2)]


def test_what_nobody_wants_any_more_is_over_when_its_source_stays_silent() -> None:
    bench = Bench(1)
    bench.decide()
    bench.pulls.forget(OBJECT)
    assert len(bench.pulls) == 1
    assert bench.decide(WAIT) == []
    assert len(bench.pulls) == 0
    assert bench.pulls.bytes == 0
    assert bench.answer(1, 1) == [returned(1)]


def test_a_node_that_answers_again_is_asked_again() -> None:
    bench = Bench(1, 3)
    bench.decide()
    bench.decide(WAIT)
    assert bench.decide(CONFIG.fetch_retry_after) == [request(3, 2)]
    bench.answer(1, 1)  # late
    bench.decide(2 * WAIT)
    assert bench.decide(2 * CONFIG.fetch_retry_after) == [request(1, 3)]
