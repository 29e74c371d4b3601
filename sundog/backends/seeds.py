"""Seeds: a session's, as users give it; and that of a task's random streams, its ID: the same numbers wherever it runs."""

from __future__ import annotations

from typing import Any

from sundog.core.ids import TaskID


def session_seed(seed: Any) -> bytes:
    """Return the bytes that a user's ``seed`` (a whole number, a text or bytes) stands for. Raises TypeError for anything else."""
    if isinstance(seed, bytes):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, (int, str)):
        raise TypeError(f"seed takes a whole number, a text or bytes, not {seed!r}")
    return str(seed).encode()


def python_seed(task_id: TaskID) -> int:
    """Return the seed of ``random`` in the body of ``task_id``."""
    return int.from_bytes(task_id, "big")


def numpy_seed(seed: int) -> list[int]:
    """Return the seed of numpy's global generator that goes with :func:`python_seed`: 32 bits a piece, lowest first."""
    return [seed >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)]
