"""Calls at a later time: the events of the simulation."""

from __future__ import annotations

from collections.abc import Callable

from simpy.core import Environment
from simpy.events import NORMAL, Event, EventPriority

from sundog.core.units import Nanos


class Call(Event):
    """An event that has already succeeded and calls one function: a SimPy Timeout without what that checks and formats."""

    __slots__ = ("callbacks", "env")

    _ok = True
    _value = None

    def __init__(self, environment: Environment, callback: Callable[[Event], None]) -> None:
        self.env = environment
        self.callbacks = [callback]


def call_in(environment: Environment, span: Nanos, callback: Callable[[Event], None], priority: EventPriority = NORMAL) -> None:
    """Call ``callback(event)`` after ``span``."""
    environment.schedule(Call(environment, callback), priority, span)
