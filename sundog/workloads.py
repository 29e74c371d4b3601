"""Workloads for :func:`sundog.simulate`: task graphs with durations and sizes, drawn, read from files, or measured."""

from sundog.backends.simulated.workloads import *  # noqa: F403
from sundog.backends.simulated.workloads import __all__ as __all__
