"""``sundog.simulate``: a workload without bodies on a model cluster, in virtual time, by the schedulers that run on real ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sundog.backends.simulated.cluster_model import NodeModel
    from sundog.backends.simulated.costs.profile import Profile
    from sundog.backends.simulated.experiment.report import Report
    from sundog.backends.simulated.faults.runner import Schedule
    from sundog.backends.simulated.network.model import NetworkModel
    from sundog.backends.simulated.workloads.workload import Workload
    from sundog.core.placement import PlacementPolicy


def simulate(
    workload: Workload,
    cluster: int | Mapping[str, Any] | NodeModel | Sequence[NodeModel | Mapping[str, Any]] = 1,
    *,
    policy: str | PlacementPolicy | type[PlacementPolicy] | Callable[..., Any] = "bottom_up",
    seed: int | str | bytes = 0,
    num_cpus: float = 1,
    profile: str | os.PathLike[str] | Profile = "default",
    network: NetworkModel | None = None,
    faults: str | Schedule | None = None,
    settings: Mapping[str, Any] | None = None,
    first: int = 0,
    digest: bool = False,
    trace: str | os.PathLike[str] | None = None,
    check_invariants: bool = False,
    progress: bool | None = None,
) -> Report:
    """Run ``workload`` to its end on a model of ``cluster`` and return what came of it.

    ``cluster``: a number of equal nodes, or a list with a dict for each kind, such as ``[{"num_cpus": 4, "count": 100}]`` (also
    ``num_gpus``, ``resources``, ``memory``, ``object_store_memory``, ``joins``, ``leaves``); the first node is the head. A head
    without CPUs (``{"num_cpus": 0}``) places whatever is submitted on it elsewhere, through the policy. ``num_cpus``: of nodes that
    do not say.

    ``policy`` places tasks that leave the node on which they were submitted: a name (``sundog.core.placement.POLICIES``), an object
    or class of the user's with the methods of ``PlacementPolicy``, or a plain function ``(spec, views, holders, rng) -> node``,
    which is shown all nodes for every task. ``seed``: the same one gives the same run.

    ``profile``: what it costs nodes and processes to do what they do: "default", "free" (only bodies and bytes take time, and
    bandwidth is as good as endless), the path of a profile that ``python -m sundog calibrate`` wrote, or a ``Profile``.
    ``network``: takes the place of the profile's. ``settings``: fields of ``sundog.core.config.Config`` by name.

    ``faults``: a text such as ``"kill node 2 at 1 s"``, ``"swarm"`` (drawn from the seed), or a ``Schedule``; times count from the
    beginning of the run.

    ``first``: the report's response and queueing times are of the tasks from this index on: those before it warm the system up, or
    make what the others take.

    ``digest``: compute the SHA-256 of the log of all decisions (slower). ``trace``: a file for a timeline of the run that
    https://ui.perfetto.dev opens, compressed if its name ends in ``.gz``. ``check_invariants``: after every step of a node; slow.
    ``progress``: a line on stderr now and then; default: if that is a terminal and the run takes long.

    Raises WorkloadError, naming the task, for a workload that could never run to its end; TypeError or ValueError for other
    arguments that make no sense; SimulationError when the run gets no further, saying who waits for what.
    """
    from sundog.backends.simulated.experiment import start

    return start.run(
        workload, cluster, policy=policy, seed=seed, num_cpus=num_cpus, profile=profile, network=network, faults=faults,
        settings=settings, first=first, digest=digest, trace=trace, check_invariants=check_invariants, progress=progress,
    )  # fmt: skip
