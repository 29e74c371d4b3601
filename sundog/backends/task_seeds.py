"""What a task's random streams are seeded with: its ID, so that it draws the same numbers wherever and whenever it runs."""

from __future__ import annotations

from sundog.core.ids import TaskID


def python_seed(task_id: TaskID) -> int:
    """Return the seed of ``random`` in the body of ``task_id``."""
    return int.from_bytes(task_id, "big")


def numpy_seed(seed: int) -> list[int]:
    """Return the seed of numpy's global generator that goes with :func:`python_seed`: 32 bits a piece, lowest first."""
    return [seed >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)]
