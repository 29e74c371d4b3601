"""What a simulated cluster consists of, as data: its nodes, how they differ, and when they come and go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from sundog.core.config import Config
from sundog.core.resources import CPU, GPU, shape
from sundog.core.units import MIB, SECOND, Nanos

#: The resource by which tasks ask for bytes of memory.
MEMORY = "memory"
_PAGE = 4096


class NodeModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node, or ``count`` equal ones. What is None is as the session says.

    ``memory``: bytes that tasks may ask for as ``resources={"memory": ...}``; ``object_store_memory``: bytes of its store.
    ``joins``, ``leaves``: virtual seconds from the beginning; a node that leaves is gone like one that lost its power.

    Raises TypeError or ValueError, naming the setting, for what makes no sense.
    """

    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: Mapping[str, float] | None = None
    memory: int | None = None
    object_store_memory: int | None = None
    joins: float = 0.0
    leaves: float | None = None
    count: int = 1

    def __post_init__(self) -> None:
        for name in ("num_cpus", "num_gpus", "memory", "joins", "leaves"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"nodes: {name} takes a number, not {value!r}")
            if not 0 <= value < math.inf:
                raise ValueError(f"nodes: {name}={value} must be 0 or more")
        if self.leaves is not None and self.leaves <= self.joins:
            raise ValueError(f"nodes: a node that joins at {self.joins:g} s cannot leave at {self.leaves:g} s")
        _check_whole("object_store_memory", self.object_store_memory, MIB)
        _check_whole("count", self.count, 1)

    def joins_at(self) -> Nanos:
        """Return when it joins, in nanoseconds."""
        return round(self.joins * SECOND)

    def leaves_at(self) -> Nanos | None:
        """Return when it leaves, in nanoseconds; None: never."""
        return None if self.leaves is None else round(self.leaves * SECOND)

    def config(self, session: Config) -> Config:
        """Return the settings of such a node in a session with settings ``session``."""
        amounts: dict[str, int] = dict(session.capacity)
        own = {CPU: self.num_cpus, GPU: self.num_gpus, MEMORY: self.memory}
        given = {**(self.resources or {}), **{name: amount for name, amount in own.items() if amount is not None}}
        for name, amount in given.items():
            amounts.pop(name, None)
            amounts.update(shape({name: amount}))
        store = session.arena_bytes if self.object_store_memory is None else self.object_store_memory // _PAGE * _PAGE
        workers = session.worker_count if self.num_cpus is None else math.ceil(self.num_cpus)
        return msgspec.structs.replace(session, capacity=tuple(sorted(amounts.items())), worker_count=workers, arena_bytes=store)


def _check_whole(name: str, value: Any, least: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"nodes: {name} takes a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"nodes: {name}={value} must be at least {least}")


#: How users say it: a number of equal nodes; or one entry for each (or each kind).
Nodes: TypeAlias = int | Sequence[NodeModel | Mapping[str, Any]]


def node_models(nodes: Nodes) -> tuple[NodeModel, ...]:
    """Return ``nodes`` as one model for each node, in the order of their numbers; the first one is the head.

    Raises TypeError or ValueError for what makes no sense, and for a head that joins late or leaves.
    """
    if isinstance(nodes, int) and not isinstance(nodes, bool):
        if nodes < 1:
            raise ValueError(f"nodes={nodes}: a cluster has at least one")
        return (NodeModel(),) * nodes
    if not isinstance(nodes, (list, tuple)):
        raise TypeError(f"nodes takes a whole number, or a list with a dict for each node, not {nodes!r}")
    models: list[NodeModel] = []
    for entry in nodes:
        model = _model(entry)
        models += [model] * model.count
    if not models:
        raise ValueError("nodes=[]: a cluster has at least one")
    if models[0].joins or models[0].leaves is not None:
        raise ValueError("nodes: the first one is the head: it is there from the beginning to the end")
    return tuple(models)


def _model(entry: Any) -> NodeModel:
    if isinstance(entry, NodeModel):
        return entry
    if not isinstance(entry, Mapping):
        raise TypeError(f"nodes: an entry is a dict such as {{'num_cpus': 4}}, not {entry!r}")
    known = [field.name for field in msgspec.structs.fields(NodeModel)]
    for name in entry:
        if name not in known:
            raise TypeError(f"nodes have no {name!r}; there are {', '.join(known)}")
    return NodeModel(**entry)
