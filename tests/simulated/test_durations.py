"""How long bodies take in virtual time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

import sundog
from sundog.backends.simulated.costs.durations import Empirical, Exponential, LogNormal, Pareto, Uniform

Simulate = Callable[..., Any]


@sundog.remote
def work(x=0):
    return x


def took(*calls: Any) -> float:
    """Return how many virtual seconds it takes until all ``calls`` are ready."""
    began = time.monotonic()
    sundog.get(list(calls))
    return time.monotonic() - began


def test_bodies_take_no_time_unless_they_say_so(simulate: Simulate) -> None:
    simulate()
    assert took(*[work.remote(i) for i in range(10)]) < 0.001


def test_a_number_is_seconds_and_tasks_share_the_cpus(simulate: Simulate) -> None:
    simulate(num_cpus=2)
    slow = work.options(duration=10)
    assert 10 <= took(slow.remote()) < 10.001
    assert 30 <= took(*[slow.remote() for _ in range(6)]) < 30.001
    assert 20 <= took(slow.remote(slow.remote(1))) < 20.001


def test_a_function_is_given_the_arguments(simulate: Simulate) -> None:
    simulate()
    timed = work.options(duration=lambda x: x / 10)
    assert 3 <= took(timed.remote(30)) < 3.001
    assert 4 <= took(timed.remote(sundog.put(40))) < 4.001
    assert 5 <= took(timed.remote(x=50)) < 5.001


def test_children_of_a_task_have_their_declared_durations_too(simulate: Simulate) -> None:
    simulate()

    @sundog.remote
    def parent():
        children = [work.options(duration=lambda x: x).remote(3), work.options(duration=Uniform(1, 2)).remote()]
        return sundog.get(children)

    assert 3 <= took(parent.remote()) < 3.001


def test_a_distribution_is_drawn_from_by_the_tasks_id(simulate: Simulate) -> None:
    runs = []
    for seed, count in ((1, 5), (1, 5), (2, 5), (1, 3)):
        with simulate(seed=seed):
            state = random.getstate()
            runs.append([took(work.options(duration=Exponential(5)).remote()) for _ in range(count)])
            assert random.getstate() == state, "the driver's own stream is left alone"
    assert runs[0] == pytest.approx(runs[1], abs=1e-9)
    assert runs[0][:3] == pytest.approx(runs[3], abs=1e-9)
    assert runs[0] != pytest.approx(runs[2], abs=0.01)
    assert len({round(x, 3) for x in runs[0]}) == 5


def test_the_distributions_are_what_they_are_called() -> None:
    generator = random.Random(1)

    def mean(distribution: Any) -> float:
        return float(sum(distribution.draw(generator) for _ in range(20_000)) / 20_000)

    assert mean(Uniform(1, 3)) == pytest.approx(2, rel=0.03)
    assert mean(Exponential(4)) == pytest.approx(4, rel=0.05)
    assert mean(LogNormal(1, 0.5)) == pytest.approx(1.133, rel=0.05)
    assert mean(Pareto(1, 3)) == pytest.approx(1.5, rel=0.05)
    assert mean(Empirical([1, 2, 6])) == pytest.approx(3, rel=0.05)


def test_a_model_for_the_session_holds_for_what_declares_nothing(simulate: Simulate) -> None:
    with simulate(durations=2):
        assert 2 <= took(work.remote()) < 2.001
        assert took(work.options(duration=0).remote()) < 0.001
    with simulate(durations={"work": 3, "other": Uniform(7, 7)}):
        assert 3 <= took(work.remote()) < 3.001
        assert 7 <= took(work.options(name="other").remote()) < 7.001
        assert took(work.options(name="unknown").remote()) < 0.001
    with simulate(durations=lambda name, x=0: x if name == "work" else None):
        assert 4 <= took(work.remote(4)) < 4.001
        assert took(work.options(name="other").remote(4)) < 0.001


def test_time_slept_in_a_body_comes_on_top_and_is_learnt(simulate: Simulate) -> None:
    simulate(num_cpus=1)

    @sundog.remote
    def sleeps():
        time.sleep(1)

    assert 3 <= took(sleeps.options(duration=2).remote()) < 3.001


def test_nonsense_is_refused_and_says_where(simulate: Simulate) -> None:
    simulate()
    with pytest.raises(ValueError, match="duration"):
        work.options(duration=-1)
    with pytest.raises(TypeError, match="duration"):
        work.options(duration="long")
    for nonsense in (-1, float("nan"), float("inf"), "long"):
        with pytest.raises(ValueError, match=r"duration of 'work'"):
            sundog.get(work.options(duration=lambda x, nonsense=nonsense: nonsense).remote(1))
    sundog.shutdown()
    for model in ({"work": -1}, {"work": "x"}, -1, "x"):
        with pytest.raises((TypeError, ValueError), match="durations"):
            simulate(durations=model)
    assert not sundog.is_initialized()
    for wrong in (lambda: Uniform(2, 1), lambda: Exponential(0), lambda: Empirical([]), lambda: Pareto(-1, 1)):
        with pytest.raises(ValueError, match=r"give|takes"):
            wrong()


def test_real_backends_take_what_the_body_takes() -> None:
    with sundog.init(num_workers=1):
        for duration in (1000, lambda x: 1000, Exponential(1000)):
            assert sundog.get(work.options(duration=duration).remote(5), timeout=20) == 5
