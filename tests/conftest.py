"""Settings that all tests share: Hypothesis profiles, and a seed that a failing run prints and a next run can be given.

``HYPOTHESIS_PROFILE=ci`` runs twice as many examples, ``soak`` a hundred times as many; ``HYPOTHESIS_SEED=N`` (or
``--hypothesis-seed=N``) repeats a run.
"""

from __future__ import annotations

import os

import hypothesis
import pytest
from hypothesis import HealthCheck, settings

for _name, _examples in (("dev", 50), ("ci", 100), ("soak", 5000)):
    settings.register_profile(
        _name,
        max_examples=_examples,
        deadline=None,
        print_blob=True,
        suppress_health_check=(HealthCheck.too_slow,),
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))
    given = config.getoption("hypothesis_seed", None) or os.environ.get("HYPOTHESIS_SEED")
    seed = int(given) if given else int.from_bytes(os.urandom(4), "big")
    hypothesis.core.global_force_seed = seed  # type: ignore[assignment]
    config.stash[_SEED] = seed


def pytest_report_header(config: pytest.Config) -> str:
    return f"hypothesis seed: {config.stash[_SEED]} (repeat with HYPOTHESIS_SEED={config.stash[_SEED]})"


_SEED = pytest.StashKey[int]()
