"""What the session consists of, and what goes on in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sundog.api import lifecycle
from sundog.backends.object_ref import ObjectID

TABLES = ("objects", "tasks", "functions", "nodes", "workers", "errors")


def table(name: str) -> list[dict[str, Any]]:
    """Return a control table as it is now, one dict a row: ``objects``, ``tasks``, ``functions``, ``nodes``, ``workers`` or
    ``errors``. Raises ValueError for another name."""
    if name not in TABLES:
        raise ValueError(f"there is no table {name!r}; there are {', '.join(TABLES)}")
    return lifecycle.session().table(name)


def nodes() -> list[dict[str, Any]]:
    """Return one dict for each node of the session."""
    return table("nodes")


def cluster_resources() -> dict[str, float]:
    """Return what all nodes together have: ``{"CPU": 8.0}``."""
    return _summed("resources")


def available_resources() -> dict[str, float]:
    """Return what of :func:`cluster_resources` no task occupies now."""
    return _summed("available")


def explain(ids: ObjectID[Any] | Sequence[ObjectID[Any]]) -> str:
    """Return, for people, why ``ids`` are not ready."""
    return lifecycle.session().explain([ids] if isinstance(ids, ObjectID) else ids)


def _summed(column: str) -> dict[str, float]:
    amounts: dict[str, float] = {}
    for row in nodes():
        for name, count in row[column].items():
            amounts[name] = amounts.get(name, 0.0) + count
    return amounts
