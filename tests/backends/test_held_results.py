"""A worker holds results that are awaited together, while what is behind them keeps it busy; others go at once."""

from __future__ import annotations

import time

from sundog.core import messages as msg
from sundog.core.units import MILLISECOND, SECOND
from tests.backends.test_worker_loop import BODIES, Worker

CALLS = [0]


def slow_once() -> bytes:
    """Short but at its fifth call."""
    CALLS[0] += 1
    if CALLS[0] == 5:
        time.sleep(1)
    return b"slow"


BODIES["slow_once"] = slow_once


def test_results_awaited_together_are_held_while_enough_is_behind() -> None:
    worker = Worker(flush_before_body=0, flush_after=0, flush_patient_after=100 * SECOND, flush_patient_ahead=1)
    worker.dispatch(worker.task("quick"))
    worker.hear(msg.TaskFinished)
    worker.packets = 0
    worker.dispatch(*[worker.task("quick", patient=True) for _ in range(50)])
    worker.hear(msg.TaskFinished, 51)
    assert worker.packets <= 3, "before the last body, and after it"
    worker.close()


def test_a_result_that_is_awaited_alone_takes_along_those_that_are_held() -> None:
    worker = Worker(flush_before_body=0, flush_after=0, flush_patient_after=100 * SECOND, flush_patient_ahead=1)
    worker.dispatch(worker.task("quick"))
    worker.hear(msg.TaskFinished)
    worker.packets = 0
    runs = [worker.task("quick", patient=n not in (10, 20, 21)) for n in range(30)]
    worker.dispatch(*runs)
    sizes = []
    for _ in range(5):
        before, packets = len(worker.heard), worker.packets
        worker.hear(msg.TaskFinished, before + 1)
        if worker.packets > packets:
            sizes.append(len(worker.heard) - before)
        if len(worker.heard) == 31:
            break
    assert sizes == [11, 10, 1, 7, 1]
    worker.close()


def test_what_is_held_is_sent_by_the_helper_when_a_body_takes_longer_than_expected() -> None:
    worker = Worker(flush_before_body=0, flush_after=0, flush_patient_after=8 * MILLISECOND, flush_patient_ahead=0)
    for _ in range(3):
        worker.dispatch(worker.task("slow_once"))
    worker.hear(msg.TaskFinished, 3)
    began = time.monotonic()
    worker.dispatch(
        worker.task("slow_once", patient=True), worker.task("slow_once", patient=True), worker.task("quick", patient=True)
    )
    worker.hear(msg.TaskFinished, 4)
    assert time.monotonic() - began < 0.5
    worker.hear(msg.TaskFinished, 6)
    worker.close()
