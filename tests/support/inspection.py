"""What a running session says of itself: the control tables, computed by the node when asked."""

from __future__ import annotations

from typing import Any

import sundog

table = sundog.table


def workers() -> dict[int, dict[str, Any]]:
    """Return the living workers' rows by pid."""
    return {row["pid"]: row for row in table("workers") if row["pid"]}


def store_bytes_used() -> int:
    """Return how much of the arena is occupied."""
    used: int = table("nodes")[0]["store_bytes_used"]
    return used
