"""Whether what a worker has not sent may wait for the end of one more body, and when it goes."""

from __future__ import annotations

from sundog.core.config import Config
from sundog.core.messages import RunTask
from sundog.core.unsent import OVERDUE_AFTER, Unsent
from tests.support.builders import spec

CONFIG = Config(flush_before_body=100, flush_after=200, flush_patient_after=8000, flush_patient_ahead=500)
FUNCTION = spec(1).function_id


def run(*, patient: bool = False) -> RunTask:
    return RunTask(spec(1), 1, 1, 1, (), patient)


def after(*bodies: int, patient: bool = False) -> Unsent:
    """Bodies of such durations have ended, the last one at 0, and its end alone is unsent."""
    unsent = Unsent(CONFIG)
    for took in bodies:
        unsent.ended(run(patient=patient), 0, took, 0, 0)
    return unsent


def test_nothing_waits_for_a_body_of_unknown_length() -> None:
    assert not Unsent(CONFIG).may_wait(FUNCTION, 0, 0, 100)
    unsent = Unsent(CONFIG)
    unsent.patient = True
    assert not unsent.may_wait(FUNCTION, 0, 0, 100)


def test_results_wait_for_short_bodies_while_the_node_was_told_something_just_now() -> None:
    assert after(100).may_wait(FUNCTION, 200, 0, 0)
    assert not after(100).may_wait(FUNCTION, 201, 0, 100), "the node has heard nothing for too long"
    assert not after(101).may_wait(FUNCTION, 0, 0, 100), "the body is not short"
    assert after(100).goes_at(1000) == 1000 + OVERDUE_AFTER


def test_results_awaited_together_wait_while_what_is_behind_keeps_the_worker_busy() -> None:
    unsent = after(2000, patient=True)
    assert not unsent.may_wait(FUNCTION, 0, 0, 0), "nothing is behind"
    assert unsent.may_wait(FUNCTION, 6000, -(10**9), 1)
    assert not unsent.may_wait(FUNCTION, 6001, 6001, 1), "they would be too old"
    assert after(250, patient=True).may_wait(FUNCTION, 0, 0, 2)
    assert not after(249, patient=True).may_wait(FUNCTION, 252, 0, 2), "what is behind is over before more has come"
    assert after(249, patient=True).may_wait(FUNCTION, 251, 0, 0), "the node was told just now, and is about to send more"
    assert not after(2000).may_wait(FUNCTION, 0, 0, 1), "somebody waits for it alone"
    assert unsent.goes_at(-(10**9)) == 8000


def test_all_that_is_unsent_has_to_be_awaited_together() -> None:
    unsent = after(2000, patient=True)
    seen = [unsent.patient]
    for place, patient in enumerate((True, False, True), 1):
        unsent.ended(run(patient=patient), 2000 * place, 2000, place, place)
        seen.append(unsent.patient)
        assert not unsent.may_wait(FUNCTION, 6001, 2000, 9), "the first is the oldest"
    assert seen == [True, True, False, False]
    unsent.ended(run(patient=True), 8000, 2000, 0, 0)
    assert unsent.patient, "all was sent"
    unsent.ended(run(patient=True), 9000, 2000, 1, 2)
    assert not unsent.may_wait(FUNCTION, 9000, 2000, 9), "the body has said something else"


def test_a_mean_goes_down_at_once_and_up_slowly() -> None:
    assert after(5000, 100).may_wait(FUNCTION, 0, 0, 0)
    # What one body took longer counts as the mean again at most, and a quarter of that.
    assert after(79, 10**9).may_wait(FUNCTION, 0, 0, 0)
    assert not after(80, 10**9).may_wait(FUNCTION, 0, 0, 0)
    assert not after(50, *[10**9] * 4).may_wait(FUNCTION, 0, 0, 0)


def test_bodies_that_take_no_time() -> None:
    unsent = after(0, 0, 0, patient=True)
    assert unsent.may_wait(FUNCTION, 200, 0, 0)
    assert not unsent.may_wait(FUNCTION, 501, 0, 10**6), "whatever is behind is over at once"
