"""From actions to what performs them: one table per loop, built once, looked up by the action's type.

A loop marks its methods with :func:`performs`; :func:`effect_table` collects them and refuses a loop that forgot one, when
the loop is made rather than when the action first comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from sundog.core.actions import (
    ClosePeer,
    Dispatch,
    KillWorker,
    ReclaimTasks,
    ReleasePages,
    Send,
    StartFetch,
    StartWorker,
    StopFetch,
    StopHost,
)
from sundog.core.machine import Action

A = TypeVar("A", bound=Action)
L = TypeVar("L")
Effect = Callable[[Any], None]

#: What a host may ask of the loop that runs it.
HOST_ACTIONS: tuple[type[Action], ...] = (
    Send, Dispatch, ReclaimTasks, StartWorker, KillWorker, ReleasePages, StopHost,
)  # fmt: skip
#: What a host in a cluster may ask of it.
CLUSTER_ACTIONS: tuple[type[Action], ...] = (*HOST_ACTIONS, StartFetch, StopFetch, ClosePeer)


def performs(action: type[A]) -> Callable[[Callable[[L, A], None]], Callable[[L, A], None]]:
    """Mark a method as the one that performs actions of type ``action``."""

    def mark(method: Callable[[L, A], None]) -> Callable[[L, A], None]:
        method.performs = action  # type: ignore[attr-defined]
        return method

    return mark


def effect_table(loop: object, required: Iterable[type[Action]]) -> dict[type[Action], Effect]:
    """Return {action type: bound method} of ``loop``. Raises TypeError naming the ``required`` actions nobody performs."""
    table: dict[type[Action], Effect] = {}
    for kind in reversed(type(loop).__mro__):
        for name, method in vars(kind).items():
            action = getattr(method, "performs", None)
            if action is not None:
                table[action] = getattr(loop, name)
    missing = [action.__name__ for action in required if action not in table]
    if missing:
        raise TypeError(f"{type(loop).__name__} performs no {', '.join(missing)}")
    return table


def perform(table: dict[type[Action], Effect], actions: Iterable[Action]) -> None:
    """Perform ``actions`` in order."""
    for action in actions:
        table[type(action)](action)
