"""Graphs on the machines of core against what is known of list scheduling, of rings, and of every greedy schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.validation import ring, simulate, wasted
from sundog.backends.simulated.costs.durations import Exponential, Uniform
from sundog.backends.simulated.network.model import NetworkModel
from sundog.backends.simulated.workloads.generators import graham_anomaly, layered_random
from sundog.backends.simulated.workloads.workload import Workload, task
from sundog.core.units import MICROSECOND, SECOND
from tests.support import closed_forms as theory

#: One task behind each that runs, however long it is.
PIPELINES = {"pipeline_long_body": 1000 * SECOND}
OTHER_LIST = (1, 2, 4, 5, 6, 3, 9, 7, 8)
#: Graham's instance, on how many cores, and its makespan.
ANOMALIES: dict[str, tuple[dict[str, Any], int, int]] = {
    "as it is": ({}, 3, 12),
    "a core more": ({}, 4, 15),
    "all shorter": ({"less": 1}, 3, 13),
    "less to wait for": ({"without": ((4, 5), (4, 6))}, 3, 16),
    "another list": ({"order": OTHER_LIST}, 3, 14),
}


@pytest.mark.parametrize("name", ANOMALIES)
def test_graham_anomalies_are_exact(name: str) -> None:
    """More cores, shorter tasks, fewer edges: every one of them makes it longer (Graham, 1966), and in the scheduler too."""
    change, cores, expected = ANOMALIES[name]
    measures = simulate(graham_anomaly(**change), 1, num_cpus=cores, seed=1)
    assert measures.makespan() == expected * SECOND
    assert wasted(measures, cores) == 0


@pytest.mark.parametrize("cores", [2, 3, 5])
def test_the_bound_of_list_scheduling_is_reached(cores: int) -> None:
    """m (m - 1) tasks of 1 s, then one of m s: 2 m - 1 seconds, where m would do with the long one first."""
    short, long = [task(1.0)] * (cores * (cores - 1)), [task(float(cores))]
    makespans = [
        simulate(Workload(tasks, "tight"), 1, num_cpus=cores, seed=1).makespan() / SECOND for tasks in (short + long, long + short)
    ]
    assert makespans == [2 * cores - 1, cores]


# --- every greedy schedule ---------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> Workload:
    """Any graph of a few tasks of whole seconds."""
    count = draw(st.integers(1, 14))
    tasks = []
    for index in range(count):
        inputs: Sequence[int] = draw(st.lists(st.integers(0, index - 1), max_size=3, unique=True)) if index else ()
        function = draw(st.sampled_from(("short", "long")))
        tasks.append(task(float(draw(st.integers(1, 9))), inputs=inputs, function=function))
    return Workload(tasks, "any graph")


def hold_to_brent(workload: Workload, cores: int, **options: Any) -> None:
    measures = simulate(workload, 1, num_cpus=cores, seed=1, **options)
    least, most = theory.brent_bounds(workload.work(), workload.critical_path(), cores)
    assert least <= measures.makespan() <= most, f"{workload}: {measures.makespan()} ns on {cores} cores"
    assert wasted(measures, cores) == 0


@settings(max_examples=40, deadline=None)
@given(graphs(), st.integers(1, 4))
def test_brent_bounds_hold_for_any_graph(workload: Workload, cores: int) -> None:
    hold_to_brent(workload, cores)


@settings(max_examples=20, deadline=None)
@given(graphs(), st.integers(1, 4))
def test_brent_bounds_hold_for_any_graph_with_pipelines(workload: Workload, cores: int) -> None:
    hold_to_brent(workload, cores, settings=PIPELINES)


@pytest.mark.soak
@settings(max_examples=5000, deadline=None)
@given(graphs(), st.integers(1, 4), st.sampled_from(({}, PIPELINES)))
def test_brent_bounds_hold_for_very_many_graphs(workload: Workload, cores: int, how: Any) -> None:
    hold_to_brent(workload, cores, settings=how)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cores", [1, 3, 8])
def test_brent_bounds_hold_for_layered_graphs(cores: int, seed: int) -> None:
    """With durations of one function that differ as much as exponential ones do."""
    hold_to_brent(layered_random(6, 12, Exponential(1.0), reach=3, seed=seed), cores)


def test_control_a_core_that_is_not_used_breaks_the_bounds() -> None:
    """A schedule on two cores is no greedy schedule on four."""
    workload = layered_random(6, 12, Uniform(0.5, 1.5), seed=1)
    measures = simulate(workload, 1, num_cpus=2, seed=1)
    _, most = theory.brent_bounds(workload.work(), workload.critical_path(), 4)
    assert measures.makespan() > most
    assert wasted(measures, 4) > 0


# --- rings -------------------------------------------------------------------------------------------------------------

RANKS, SIZE, BANDWIDTH = 16, 100_000_000, 3_125_000_000


def test_a_ring_all_reduce_runs_at_line_rate() -> None:
    """Without latency: 2 (n - 1) S / (n B) = 60 ms, for 100 MB at 25 Gb/s."""
    found = ring(RANKS, SIZE, NetworkModel(latency=0, local_latency=0, bandwidth=BANDWIDTH))
    assert found == pytest.approx(theory.ring_all_reduce(RANKS, SIZE, BANDWIDTH, 0.0), rel=0.01)
    for wrong in (
        theory.ring_all_reduce(RANKS, SIZE, BANDWIDTH / 2, 0.0),
        theory.ring_all_reduce(RANKS // 2, SIZE, BANDWIDTH, 0.0),
    ):
        assert found != pytest.approx(wrong, rel=0.01)


def test_each_round_of_a_ring_costs_a_few_latencies() -> None:
    """The formula's latency is what a round costs besides bytes. Here that is eight messages between nodes, by way of the head: a
    task is offered and assigned, values are announced and asked for. It grows with the latency alone, and not with bytes."""

    def latencies(size: int, latency: int) -> float:
        found = ring(RANKS, size, NetworkModel(latency=latency, local_latency=0, bandwidth=BANDWIDTH))
        besides = found - theory.ring_all_reduce(RANKS, size, BANDWIDTH, 0.0)
        return besides / (2 * (RANKS - 1)) / (latency / SECOND)

    rounds = latencies(SIZE, 50 * MICROSECOND)
    assert 1 <= rounds <= 8.1, rounds
    assert latencies(SIZE // 10, 200 * MICROSECOND) == pytest.approx(rounds, rel=0.01)
