"""From what users say to an experiment, and from its measures to a report."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sundog.backends.seeds import session_seed
from sundog.backends.simulated.cluster_model import NodeModel, node_models
from sundog.backends.simulated.costs.profile import FREE, Profile, load_profile
from sundog.backends.simulated.experiment.experiment import Experiment
from sundog.backends.simulated.experiment.progress import Progress
from sundog.backends.simulated.experiment.report import Report
from sundog.backends.simulated.faults.target import schedule_of
from sundog.backends.simulated.network.model import NetworkModel
from sundog.backends.simulated.workloads.workload import Workload
from sundog.core.config import Config
from sundog.core.placement import as_policy, policy_name
from sundog.core.resources import shape


def run(
    workload: Workload,
    cluster: Any,
    *,
    policy: Any,
    seed: int | str | bytes,
    num_cpus: float,
    profile: str | os.PathLike[str] | Profile,
    network: NetworkModel | None,
    faults: Any,
    settings: Mapping[str, Any] | None,
    first: Any,
    digest: bool,
    trace: str | os.PathLike[str] | None,
    check_invariants: bool,
    progress: bool | None,
) -> Report:
    """See ``api.simulate``."""
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise ValueError(f"first={first!r}: give the index of a task, 0 or more")
    experiment = prepare(
        workload, cluster, policy=policy, seed=seed, num_cpus=num_cpus, profile=profile, network=network, faults=faults,
        settings=settings, digest=digest, trace=trace, check_invariants=check_invariants,
    )  # fmt: skip
    with Progress(len(workload), progress) as shown:
        measures = experiment.run(shown)
    named = seed if isinstance(seed, int | str) else seed.hex()
    return Report.of(
        measures,
        cluster=describe(experiment.models, num_cpus),
        policy=policy_name(policy),
        seed=named,
        digest=experiment.log.digest(),
        first=first,
    )


def prepare(
    workload: Workload,
    cluster: Any = 1,
    *,
    policy: Any = "bottom_up",
    seed: int | str | bytes = 0,
    num_cpus: float = 1,
    profile: str | os.PathLike[str] | Profile = "default",
    network: NetworkModel | None = None,
    faults: Any = None,
    settings: Mapping[str, Any] | None = None,
    digest: bool = False,
    trace: str | os.PathLike[str] | None = None,
    check_invariants: bool = False,
) -> Experiment:
    """Return the experiment, ready to run. See ``api.simulate`` for the arguments and what is raised."""
    if not isinstance(workload, Workload):
        raise TypeError(f"simulate runs a Workload (see sundog.workloads), not {type(workload).__name__}")
    if trace is not None and not isinstance(trace, str | os.PathLike):
        raise TypeError(f"trace takes the path of a file, not {trace!r}")
    models = node_models([cluster] if isinstance(cluster, Mapping | NodeModel) else cluster)
    costs = _profile(profile, network)
    base = _settings(num_cpus, settings)
    shapes = [model.config(base).capacity for model in models]
    workload.validate(dict.fromkeys(shapes), drivers=len(models))
    name = session_seed(seed)
    workers = {number: model.config(base).worker_count for number, model in enumerate(models)}
    return Experiment(
        workload, models, as_policy(policy), seed=name, settings=base, profile=costs,
        faults=schedule_of(faults, workers, name.hex()), digest=digest, trace=trace, checks=check_invariants,
    )  # fmt: skip


def _settings(num_cpus: float, settings: Mapping[str, Any] | None) -> Config:
    if isinstance(num_cpus, bool) or not isinstance(num_cpus, int | float):
        raise TypeError(f"num_cpus takes a number, not {num_cpus!r}")
    if not 0 <= num_cpus < math.inf:
        raise ValueError(f"num_cpus={num_cpus}: a node has 0 CPUs or more")
    base = Config(capacity=shape({"CPU": num_cpus}), worker_count=math.ceil(num_cpus))
    given = dict(settings or {})
    for name in given:
        if name not in base.__struct_fields__:
            raise TypeError(f"settings: there is no {name!r}; there are {', '.join(base.__struct_fields__)}")
    return msgspec.convert({**msgspec.structs.asdict(base), **given}, Config)


def _profile(profile: Any, network: NetworkModel | None) -> Profile:
    if isinstance(profile, Profile):
        found = profile
    elif profile in ("default", "free"):
        found = FREE if profile == "free" else Profile()
    elif isinstance(profile, str | os.PathLike):
        found = load_profile(profile)
    else:
        raise TypeError(f'profile takes "default", "free", a path or a Profile, not {profile!r}')
    if network is None:
        return found
    if not isinstance(network, NetworkModel):
        raise TypeError(f"network takes a NetworkModel, not {network!r}")
    return msgspec.structs.replace(found, network=network)


def describe(models: Sequence[NodeModel], num_cpus: float) -> str:
    """Return what to call a cluster: its kinds of nodes, how many of each. ``num_cpus``: of those that do not say."""
    kinds: dict[str, int] = {}
    for model in models:
        kind = _kind(model, num_cpus)
        kinds[kind] = kinds.get(kind, 0) + 1
    return ", ".join([f"{count} x ({kind})" for kind, count in kinds.items()])


def _kind(model: NodeModel, num_cpus: float) -> str:
    said = [f"{num_cpus if model.num_cpus is None else model.num_cpus:g} CPUs"]
    for name in ("num_gpus", "resources", "memory", "object_store_memory", "leaves"):
        value = getattr(model, name)
        if value is not None:
            said.append(f"{name}={value}")
    if model.joins:
        said.append(f"joins={model.joins:g}")
    return ", ".join(said)
