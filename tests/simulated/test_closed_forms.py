"""The yardstick itself: the closed forms against values worked out elsewhere."""

from __future__ import annotations

import pytest

from tests.support import closed_forms as theory


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (theory.mmc_response(1, 0.9), 10.0),
        (theory.mmc_response(2, 0.9), 5.2632),
        (theory.mmc_response(8, 0.9), 1.8769),
        (theory.mmc_response(64, 0.9), 1.0485),
        (theory.mmc_response(16, 0.95), 1.9752),
        (theory.erlang_c(8, 0.9), 0.7015),
        (theory.md1_response(0.7), 2.1667),
        (theory.md1_response(0.95), 10.5),
        (theory.mg1_response(0.9, 2.0), 10.0),
        (theory.supermarket_response(1, 0.9), 10.0),
        (theory.supermarket_response(2, 0.9), 2.6141),
        (theory.supermarket_response(3, 0.9), 2.0279),
        (theory.supermarket_response(2, 0.99), 5.4320),
        (theory.bulk_synchronous(16, 3), 10.142),
        (theory.asynchronous(16, 3), 5.381),
        (theory.asynchronous(256, 3), 8.124),
        (theory.fork_join_two(0.8), 7.0),
        (theory.fork_join(16, 0.8), 13.22),
        (theory.ring_all_reduce(16, 100_000_000, 3.125e9, 0.0), 0.060),
    ],
)
def test_golden_values(found: float, expected: float) -> None:
    assert found == pytest.approx(expected, rel=5e-4)
