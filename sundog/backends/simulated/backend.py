"""The simulated backend: from a config to the port beneath a driver's session."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from sundog.backends.simulated.arena import NodeArena
from sundog.backends.simulated.cluster import Cluster
from sundog.backends.simulated.cluster_model import NodeModel, Nodes, node_models
from sundog.backends.simulated.costs.durations import Durations
from sundog.backends.simulated.log import EventLog
from sundog.backends.simulated.node import Node
from sundog.backends.simulated.programs.driver import Driver
from sundog.backends.simulated.programs.worker import Worker
from sundog.backends.simulated.sim_loop import ConstantNetwork, Costs, Loop, Network
from sundog.core import placement
from sundog.core.cluster_host import ClusterHost
from sundog.core.config import Config
from sundog.core.host import Host
from sundog.core.ids import NodeID, root_task_id
from sundog.core.placement import PlacementPolicy, Policy
from sundog.core.units import MICROSECOND, SECOND, Nanos

if TYPE_CHECKING:
    from sundog.backends.recorder import Recorder
    from sundog.backends.simulated.costs.profile import Profile
    from sundog.backends.simulated.faults.runner import FaultRunner, Schedule
    from sundog.backends.simulated.network.model import NetworkModel
    from sundog.backends.simulated.run_trace import RunTrace

#: What ``sundog.init`` takes for this backend beside its own settings.
OPTIONS = (
    "nodes", "policy", "durations", "network", "costs", "profile", "faults", "ties", "log", "trace",
    "check_invariants",
)  # fmt: skip

#: What real drivers and workers let submissions gather for; where a profile says what things cost, these do, too.
SUBMITTED_FOR: Nanos = 100 * MICROSECOND
_FIRST_NODE = NodeID(0)
#: A simulation is the same every time; another seed gives another one.
_DEFAULT_SEED = b"0"


def start(
    config: Config,
    *,
    seed: bytes | None = None,
    redis: str | bool | None = None,
    record: str | None = None,
    nodes: Nodes = 1,
    policy: Policy | None = None,
    durations: Any = None,
    network: NetworkModel | Callable[[Any], Network] | None = None,
    costs: Mapping[str, float] | None = None,
    profile: Profile | str | os.PathLike[str] | None = None,
    faults: str | Schedule | None = None,
    ties: int | str | None = None,
    log: str | None = None,
    trace: str | os.PathLike[str] | None = None,
    check_invariants: bool = False,
) -> Driver:
    """Start a simulated cluster in this process and return the driver's port to it; ``port.close()`` ends it.

    ``seed``: names everything, and every task's random stream; the same one each time if none is given. ``record``: a file for the
    record of the host. ``nodes``: how many, each as ``config`` says, or one entry for each (see ``cluster_model``). ``policy``:
    where tasks go that leave their node (see ``placement.as_policy``). ``durations``: how long bodies take that declare nothing
    (see ``costs.durations``). ``network``: a model of what lies between processes, or a function of the SimPy environment that
    makes one. ``costs``: fields of ``sim_loop.Costs`` by name, in seconds. ``profile``: what things are charged: ``"default"``,
    ``"calibrated"`` (what ``python -m sundog calibrate`` stored), a file with one, a ``costs.profile.Profile``, or None: nothing;
    ``network`` and ``costs`` prevail over what it says of them. ``faults``: a text (see ``faults.language``), a ``Schedule``, or
    ``"swarm"``: drawn from the seed. ``ties``: a seed by which events of equal time are permuted; None: in the order of
    scheduling. ``log``: a file for the event log. ``trace``: one for a timeline that Perfetto opens, compressed if it ends in
    ``.gz``. ``check_invariants``: after every step of a host; slow.

    Raises TypeError or ValueError for what makes no sense, or is not there yet.
    """
    if redis:
        raise ValueError("redis: the simulated backend keeps control state in its machines only; sundog.table() shows it")
    models = node_models(nodes)
    clustered = len(models) > 1
    name = _DEFAULT_SEED if seed is None else seed
    charged = _profile(profile)
    schedule = _schedule(faults, models, config, name)
    loop = Loop(_costs(costs, charged), ties=ties)
    if network is None and clustered and charged is not None:
        network = charged.network
    between = _network(network, loop, name, clustered or ties is not None, schedule)
    config, chosen = _policy(policy, config, record)
    events = EventLog(log)
    try:
        cluster = Cluster(loop, between, events, Durations(durations), checks=check_invariants)
        cluster.profile = None if charged is None or charged.charges_nothing() else charged
        recorder = _recorder(record, models[0].config(config), name, clustered)
        cluster.watch_turns(trace=_trace(trace, len(models), loop))
    except BaseException:
        events.close()
        raise

    def close_files() -> None:
        for file in (events, recorder):
            if file is not None:
                file.close()
        if cluster.trace is not None:
            cluster.trace.close(driver.faults)

    add = _adder(cluster, config, name, clustered, chosen, recorder)
    for number, model in enumerate(models):
        add(NodeID(number), model, model.joins_at(), model.leaves_at())
    driver = Driver(cluster, cluster.nodes[_FIRST_NODE], root_task_id(name), close_files)
    if schedule is not None:
        driver.faults = _begin_faults(schedule, cluster, len(models), lambda number, which: add(number, models[which]))
    driver.begin_session()
    return driver


def _adder(
    cluster: Cluster, config: Config, seed: bytes, clustered: bool, policy: PlacementPolicy | None, recorder: Recorder | None
) -> Callable[..., None]:
    """Return what adds a node of a model to ``cluster``: (number, model, joins, leaves)."""

    def add(number: NodeID, model: NodeModel, joins: Nanos = 0, leaves: Nanos | None = None) -> None:
        settings = model.config(config)
        kind = ClusterHost if clustered else Host
        host = kind(settings, number, rng=Random(_host_seed(seed, number)), policy=None if number else policy)
        stepped: Any = host if recorder is None or number else recorder.wrap(host)
        cluster.add(Node(cluster, number, settings, stepped, Worker, NodeArena(settings.arena_bytes)), host, joins, leaves)

    return add


def _trace(path: Any, nodes: int, loop: Loop) -> RunTrace | None:
    if path is None:
        return None
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"trace takes the path of a file, not {path!r}")
    from sundog.backends.simulated.run_trace import RunTrace

    return RunTrace(path, nodes, "sundog", loop)


def _policy(policy: Policy | None, config: Config, record: str | None) -> tuple[Config, PlacementPolicy | None]:
    """Return the settings, and the policy of the head if they do not name it."""
    if policy is None or isinstance(policy, str):
        named = config if policy is None else msgspec.structs.replace(config, placement_policy=policy)
        placement.policy(named.placement_policy)  # raises for an unknown one
        return named, None
    if record is not None:
        raise ValueError("record: a recording names its policy, so that it can be replayed elsewhere; give one by name")
    return config, placement.as_policy(policy)


def _recorder(record: str | None, config: Config, seed: bytes, clustered: bool) -> Recorder | None:
    if record is None:
        return None
    from sundog.backends.recorder import Recorder

    return Recorder(record, config, seed=_host_seed(seed, _FIRST_NODE), clustered=clustered)


def _schedule(faults: Any, models: Sequence[NodeModel], config: Config, seed: bytes) -> Schedule | None:
    if faults is None:
        return None
    from sundog.backends.simulated.faults.target import schedule_of

    workers = {number: model.config(config).worker_count for number, model in enumerate(models)}
    return schedule_of(faults, workers, seed.hex())


def _begin_faults(schedule: Schedule, cluster: Cluster, count: int, add: Callable[[NodeID, int], None]) -> FaultRunner:
    from sundog.backends.simulated.faults.runner import FaultRunner, When
    from sundog.backends.simulated.faults.target import FaultyCluster
    from sundog.backends.simulated.network.connections import Network as ModelNetwork

    network = cluster.network
    assert isinstance(network, ModelNetwork)
    target = FaultyCluster(cluster, network, count, add)
    runner = FaultRunner(cluster.loop.environment, schedule, target, network, number=target.number, call_at=cluster.watch.call_at)
    if any(isinstance(fault.trigger, When) for fault in schedule.faults):
        cluster.watch_turns(occurred=runner.occurred)
    runner.start()
    return runner


def _host_seed(seed: bytes, number: int) -> str:
    return f"host {number} {seed.hex()}"


def _network(network: Any, loop: Loop, seed: bytes, modelled: bool, schedule: Schedule | None) -> Network:
    if network is None and not modelled and schedule is None:
        return ConstantNetwork(loop.environment, loop.costs.hop)
    if callable(network):
        if schedule is not None:
            raise TypeError("faults need the model network: leave network= out, or give a NetworkModel")
        made: Network = network(loop.environment)
        return made
    from sundog.backends.simulated.network import connections as model
    from sundog.backends.simulated.network.model import NetworkModel

    if network is None:
        network = NetworkModel(local_latency=loop.costs.hop)
    if isinstance(network, NetworkModel):
        if schedule is not None:
            from sundog.backends.simulated.faults.target import needs_frames
            from sundog.backends.simulated.network.framing import FramedNetwork

            if needs_frames(schedule):
                return FramedNetwork(loop.environment, network, seed=seed.hex())
        return model.Network(loop.environment, network, seed=seed.hex())
    raise TypeError(f"network takes a NetworkModel, or a function of the SimPy environment, not {network!r}")


def _profile(profile: Any) -> Profile | None:
    """Return what ``init(profile=...)`` means."""
    if profile is None:
        return None
    from sundog.backends.simulated.costs.profile import Profile, load_profile, profile_path

    if isinstance(profile, Profile):
        return profile
    if profile == "default":
        return Profile()
    if profile == "calibrated":
        return load_profile(profile_path())
    if isinstance(profile, (str, os.PathLike)):
        return load_profile(profile)
    raise TypeError(f"profile takes 'default', 'calibrated', the name of a file, or a Profile, not {profile!r}")


def _costs(costs: Mapping[str, float] | None, profile: Profile | None = None) -> Costs:
    names = [field.name for field in msgspec.structs.fields(Costs)]
    given = {}
    if profile is not None:
        given = {"hop": profile.network.local_latency, "worker_start": profile.worker_start, "flush": SUBMITTED_FOR}
    for name, value in (costs or {}).items():
        if name not in names:
            raise TypeError(f"costs has no {name!r}; there are {', '.join(names)}, in seconds")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"costs: {name} takes seconds, not {value!r}")
        given[name] = round(value * SECOND)
    return Costs(**given)
