"""The simulated backend: from a config to the port beneath a driver's session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from sundog.backends.simulated.cluster import Cluster
from sundog.backends.simulated.driver import Driver
from sundog.backends.simulated.durations import Durations
from sundog.backends.simulated.log import EventLog
from sundog.backends.simulated.node import Node
from sundog.backends.simulated.sim_loop import ConstantNetwork, Costs, Loop, Network
from sundog.core.config import Config
from sundog.core.host import Host
from sundog.core.ids import NodeID, root_task_id
from sundog.core.units import SECOND

if TYPE_CHECKING:
    from sundog.backends.simulated.network_model import NetworkModel

#: What ``sundog.init`` takes for this backend beside its own settings.
OPTIONS = ("nodes", "durations", "network", "costs", "log", "check_invariants")

_FIRST_NODE = NodeID(0)
#: A simulation is the same every time; another seed gives another one.
_DEFAULT_SEED = b"0"


def start(
    config: Config,
    *,
    seed: bytes | None = None,
    redis: str | bool | None = None,
    record: str | None = None,
    nodes: int = 1,
    durations: Any = None,
    network: NetworkModel | Callable[[Any], Network] | None = None,
    costs: Mapping[str, float] | None = None,
    log: str | None = None,
    check_invariants: bool = False,
) -> Driver:
    """Start a simulated cluster in this process and return the driver's port to it; ``port.close()`` ends it.

    ``seed``: names everything, and every task's random stream; the same one each time if none is given. ``record``: a file for
    the record of the host. ``nodes``: how many, each as ``config`` says. ``durations``: how long bodies take that declare
    nothing (see ``durations.Durations``). ``network``: a model of what lies between processes, or a function of the SimPy
    environment that makes one. ``costs``: fields of ``sim_loop.Costs`` by name, in seconds. ``log``: a file for the event log.
    ``check_invariants``: after every step of a host; slow.

    Raises TypeError or ValueError for what makes no sense, or is not there yet.
    """
    if redis:
        raise ValueError("redis: the simulated backend keeps control state in its machines only; sundog.table() shows it")
    _check_nodes(nodes)
    name = _DEFAULT_SEED if seed is None else seed
    model = Durations(durations)
    loop = Loop(_costs(costs))
    between = _network(network, loop, name)
    recorder = None
    events = EventLog(log)
    try:
        cluster = Cluster(loop, between, events, model, checks=check_invariants)
        host = Host(config, _FIRST_NODE)
        stepped: Any = host
        if record is not None:
            from sundog.backends.recorder import Recorder

            recorder = Recorder(record, config)
            stepped = recorder.wrap(host)
    except BaseException:
        events.close()
        raise

    def close_files() -> None:
        events.close()
        if recorder is not None:
            recorder.close()

    node = Node(cluster, _FIRST_NODE, config, stepped)
    cluster.add(node, host)
    driver = Driver(cluster, node, root_task_id(name), close_files)
    driver.begin_session()
    return driver


def _check_nodes(nodes: Any) -> None:
    if isinstance(nodes, bool) or not isinstance(nodes, int):
        raise TypeError(f"nodes takes a whole number, not {nodes!r}")
    if nodes < 1:
        raise ValueError(f"nodes={nodes}: a cluster has at least one")
    if nodes > 1:
        raise ValueError(f"nodes={nodes}: simulated clusters of more than one node are not there yet; use nodes=1")


def _network(network: Any, loop: Loop, seed: bytes) -> Network:
    if network is None:
        return ConstantNetwork(loop.environment, loop.costs.hop)
    if callable(network):
        made: Network = network(loop.environment)
        return made
    from sundog.backends.simulated import network as model
    from sundog.backends.simulated.network_model import NetworkModel

    if isinstance(network, NetworkModel):
        return model.Network(loop.environment, network, seed=seed.hex())
    raise TypeError(f"network takes a NetworkModel, or a function of the SimPy environment, not {network!r}")


def _costs(costs: Mapping[str, float] | None) -> Costs:
    names = [field.name for field in msgspec.structs.fields(Costs)]
    given = {}
    for name, value in (costs or {}).items():
        if name not in names:
            raise TypeError(f"costs has no {name!r}; there are {', '.join(names)}, in seconds")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"costs: {name} takes seconds, not {value!r}")
        given[name] = round(value * SECOND)
    return Costs(**given)
