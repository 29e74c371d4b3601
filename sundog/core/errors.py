"""The three kinds of trouble, kept apart.

* Our bug: :class:`InvariantViolation`. The host that raises it stops, with the story of what it was doing.
* The peer's fault: :class:`ProtocolViolation`. The loop drops that connection and goes on.
* The weather (a worker, a node, an object, a message lost): not an exception at all, but an event.
"""

from __future__ import annotations


class InvariantViolation(AssertionError):
    """A machine found its own state impossible: a bug in sundog, never in a user's program."""


class ProtocolViolation(Exception):
    """A peer sent what the protocol does not allow: the connection to it is dropped."""
