"""Sessions for tests of the simulated backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sundog


@pytest.fixture
def simulate() -> Iterator[Callable[..., Any]]:
    """A function that starts a simulated session; it is shut down at the end, whatever the test did."""
    sundog.shutdown()

    def begin(**settings: Any) -> Any:
        return sundog.init(backend="simulated", **{"num_cpus": 4, "seed": 7, "check_invariants": True, **settings})

    yield begin
    sundog.shutdown()
