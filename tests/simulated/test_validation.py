"""Queues on the machines of core against the theory of queues: confidence intervals over seeds, and controls that must fail."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from random import Random
from typing import Any

import pytest

import sundog
from benchmarks import validation
from benchmarks.validation import MODELS, Model, ShortestOf, agrees, first_in_first_out, join_the_shortest
from sundog.backends.simulated.costs.durations import Exponential
from sundog.backends.simulated.experiment.measures import Measures
from sundog.backends.simulated.experiment.report import estimate
from sundog.backends.simulated.experiment.start import prepare
from sundog.backends.simulated.workloads.generators import poisson
from sundog.core.ids import NodeID
from sundog.core.machine import Rng
from sundog.core.task import TaskSpec
from sundog.core.units import MICROSECOND, SECOND, Nanos
from tests.support import closed_forms as theory


def hold(model: Model, tasks: int) -> None:
    samples = model.samples(tasks)
    found = estimate(samples)
    said = f"{model.name}: {found.mean:.4f} ± {found.half_width:.4f}, theory {model.theory:.4f}; seeds 1 to {model.seeds}"
    assert agrees(samples, model.theory, model.tolerance), said
    what, value = model.control
    assert not agrees(samples, value, model.tolerance), f"{said}: {what} ({value}) would fit as well: this sees nothing"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_meets_its_closed_form(model: Model) -> None:
    hold(model, model.quick)


@pytest.mark.soak
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_meets_its_closed_form_closely(model: Model) -> None:
    hold(model, model.long)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_every_start_is_that_of_first_in_first_out(workers: int) -> None:
    """Not only on average: each task begins when a queue with so many servers would begin it, to the nanosecond, by default."""
    measures = validation.queue(workers, 0.9, seed=1, tasks=500)
    expected = first_in_first_out(measures.workload, workers)
    assert list(measures.started_at) == expected
    assert list(measures.started_at) != first_in_first_out(measures.workload, workers + 1)


@pytest.mark.parametrize("workers", [2, 8])
def test_pipelines_change_the_order_and_leave_no_worker_idle(workers: int) -> None:
    """Where one task lies behind each that runs, some start out of order; but nobody idles while any is ready."""
    measures = validation.queue(workers, 0.9, seed=1, tasks=500, pipeline_long_body=1000 * SECOND)
    assert list(measures.started_at) != first_in_first_out(measures.workload, workers)
    assert validation.wasted(measures, workers) == 0
    assert validation.wasted(measures, workers + 1) > 0


def test_the_global_scheduler_knows_every_queue_exactly() -> None:
    """What the supermarket model presupposes: at each choice a policy sees how many tasks each node has."""
    seen: list[tuple[int, int]] = []

    class Compares(ShortestOf):
        def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
            for node in experiment.nodes[1:]:
                host: Any = node.host
                seen.append((self.lengths[node.number], len(host.local_scheduler.tasks)))
            return super().choose(spec, holders, rng)

    workload = poisson(0.8 * 10, 300, Exponential(1.0), seed=3)
    cluster = [{"num_cpus": 0}, {"num_cpus": 1, "count": 10}]
    experiment = prepare(workload, cluster, policy=Compares(2), seed=3, profile="free", settings=validation.QUIET)
    experiment.run()
    assert len(seen) == 300 * 10
    assert [pair for pair in seen if pair[0] != pair[1]] == []
    assert max(length for length, _ in seen) > 1, "no node ever had two: nothing was compared"


def apart(measures: Measures, starts: list[Nanos]) -> Nanos:
    """Return by how much any start differs. Messages between nodes take a nanosecond each in a free network, too."""
    return max([abs(start - expected) for start, expected in zip(measures.started_at, starts, strict=True)])


@pytest.mark.parametrize("probes", [1, 2, 3])
def test_every_start_is_that_of_the_supermarket_model(probes: int) -> None:
    """With the same arrivals, durations and draws each task begins, behind the global scheduler, when the bare model says."""
    measures = validation.nodes_behind_a_head(20, 0.9, 4, 400, ShortestOf(probes, Random(7)))
    assert apart(measures, join_the_shortest(measures.workload, 20, probes, Random(7))) < MICROSECOND
    assert apart(measures, join_the_shortest(measures.workload, 20, probes % 3 + 1, Random(7))) > SECOND


def test_every_start_behind_the_central_queue_is_that_of_one_queue() -> None:
    measures = validation.nodes_behind_a_head(10, 0.9, 4, 400, "central")
    assert apart(measures, first_in_first_out(measures.workload, 10)) < MICROSECOND
    assert apart(measures, first_in_first_out(measures.workload, 11)) > SECOND / 10


@pytest.mark.parametrize(("workers", "load"), [(1, 0.6), (8, 0.8)])
def test_the_bare_queue_meets_the_closed_form(workers: int, load: float) -> None:
    """Starts are those of the bare queue, which is fast: so it is what is run for long."""
    samples = []
    for seed in range(1, 11):
        workload = poisson(load * workers, 5000, Exponential(1.0), seed=seed)
        samples.append(validation.bare_response(workload, first_in_first_out(workload, workers)))
    assert agrees(samples, theory.mmc_response(workers, load)), samples
    assert not agrees(samples, theory.mmc_response(2 * workers, load)), samples


@pytest.mark.parametrize("probes", [2, 3])
def test_the_bare_supermarket_meets_the_closed_form(probes: int) -> None:
    samples = []
    for seed in range(1, 11):
        workload = poisson(0.7 * 50, 5000, Exponential(1.0), seed=seed)
        samples.append(validation.bare_response(workload, join_the_shortest(workload, 50, probes, Random(seed))))
    assert agrees(samples, theory.supermarket_response(probes, 0.7), 0.025), samples
    assert not agrees(samples, theory.supermarket_response(5 - probes, 0.7), 0.025), samples


def test_more_probes_are_better_and_one_queue_is_best() -> None:
    """Where all place the same tasks; so is what is known of all nodes better than what is known of three."""
    policies: list[Any] = [ShortestOf(1), ShortestOf(2), ShortestOf(3), "central"]
    times = [validation.response(validation.nodes_behind_a_head(20, 0.8, 5, 600, policy)) for policy in policies]
    assert all(worse > better for worse, better in pairwise(times)), times


def test_tasks_before_the_first_that_counts_are_left_out_of_times() -> None:
    workload = poisson(0.5, 40, Exponential(1.0), seed=1)
    whole, part = (sundog.simulate(workload, profile="free", first=first) for first in (0, 10))
    assert (whole.response.count, part.response.count, part.tasks) == (40, 30, 40)
    with pytest.raises(ValueError, match="first=-1: give the index of a task"):
        sundog.simulate(workload, first=-1)
