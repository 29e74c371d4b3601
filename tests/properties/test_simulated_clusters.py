"""Programs on simulated clusters come to the values of plain Python, whatever the order of equal times and whatever fails.

Invariants hold after every step of every host, and at the end no table of any node holds anything. More seeds:
``python -m tests.support.simulated_clusters FIRST LAST``.
"""

from __future__ import annotations

import pytest

from tests.support.simulated_clusters import explore

#: Seeds that have found bugs of services that begin anew.
SERVICES = [5, 18, 271, 291]


@pytest.mark.parametrize("seed", range(100, 104))
def test_without_faults(seed: int) -> None:
    found = explore(seed, faults=False, most_nodes=4)
    assert found.failed == 0


@pytest.mark.parametrize("seed", range(200, 203))
def test_whatever_the_order_of_equal_times(seed: int) -> None:
    permuted, plain = (explore(seed, faults=False, ties=ties, most_nodes=4) for ties in (True, False))
    assert permuted.failed == plain.failed == 0
    assert permuted.digest != plain.digest


@pytest.mark.parametrize("seed", [1, 3, 4, 5, 20, 28, 90])
def test_with_a_swarm_of_faults(seed: int) -> None:
    """Safety: a right value or a legitimate error. Liveness: an end. Seeds that have found bugs."""
    assert explore(seed, checks=seed in (3, 28)).faults > 0


@pytest.mark.parametrize("seed", SERVICES)
def test_with_a_swarm_that_kills_the_heads_services_too(seed: int) -> None:
    assert explore(seed, services=True, checks=seed == SERVICES[0]).faults > 0


def test_the_same_faults_give_the_same_log() -> None:
    first, second = (explore(4, checks=False) for _ in range(2))
    assert first == second
