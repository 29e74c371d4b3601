"""Measures what real processes cost on this machine, and makes of it the profile that the simulator charges.

``python -m sundog calibrate`` does it and stores the profile; it takes some seconds and wants the machine for itself. What is
counted is mostly computing time, which other work on the machine hardly changes; latencies are medians.

How the parts are told apart: by workloads (``workloads``) of which each costs somebody something that those before it do not.
Puts cost the node a message each and next to no turns, since many travel together; tasks by the thousand cost a decision more;
of tasks that sleep a little the results come one by one; tasks one after the other wake everybody; pairs have a dependency each;
parents of one child wait in ``get``, and many of them let their workers' pipelines go to others meanwhile. Each cost is what makes
the simulator charge for a workload what was measured for it (``fitting``), so nothing is charged twice. What a turn of the node
costs lies in these: the simulated node takes as many as the real one, or more. The way between two processes is what is left of the
time that tasks one after the other take.
"""

from __future__ import annotations

import os
import platform
import time

from sundog.backends.simulated.costs.profile import Profile
from sundog.calibrate.computing import Computed, computed
from sundog.calibrate.fitting import charged, fit, round_trip
from sundog.calibrate.measurements import Measurements, measure, medians

__all__ = ["Computed", "Measurements", "calibrate", "charged", "computed", "fit", "machine", "measure", "medians", "round_trip"]


def calibrate(repeats: int = 7) -> Profile:
    """Return the profile of this machine. See :func:`measure` for errors."""
    return fit(measure(repeats), machine(), cores=len(os.sched_getaffinity(0)))


def machine() -> str:
    """Return the name of a profile that is measured here and now."""
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
