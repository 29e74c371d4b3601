"""Workloads without bodies: task graphs with durations and sizes, drawn, read from files, or measured: ``sundog.workloads``.

>>> from sundog import workloads
>>> workloads.chain(3, duration=0.5).critical_path()
1500000000
"""

from sundog.backends.simulated.costs.durations import Empirical, Exponential, LogNormal, Pareto, Uniform
from sundog.backends.simulated.workloads.generators import (
    asynchronous,
    bulk_synchronous,
    chain,
    fork_join,
    graham_anomaly,
    independent,
    layered_random,
    map_reduce,
    nested,
    poisson,
    ring_all_reduce,
    tree_reduce,
)
from sundog.backends.simulated.workloads.recorded import read_recording
from sundog.backends.simulated.workloads.wfformat import read_wfformat, write_wfformat
from sundog.backends.simulated.workloads.workload import (
    Compute,
    Get,
    Submit,
    Workload,
    WorkloadError,
    WorkTask,
    compute,
    task,
    together,
)

__all__ = [
    "Compute",
    "Empirical",
    "Exponential",
    "Get",
    "LogNormal",
    "Pareto",
    "Submit",
    "Uniform",
    "WorkTask",
    "Workload",
    "WorkloadError",
    "asynchronous",
    "bulk_synchronous",
    "chain",
    "compute",
    "fork_join",
    "graham_anomaly",
    "independent",
    "layered_random",
    "map_reduce",
    "nested",
    "poisson",
    "read_recording",
    "read_wfformat",
    "ring_all_reduce",
    "task",
    "together",
    "tree_reduce",
    "write_wfformat",
]
