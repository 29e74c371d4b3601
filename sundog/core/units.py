"""Units of time and size. Core counts integer nanoseconds and bytes, nothing else."""

from __future__ import annotations

from typing import TypeAlias

#: A point in time or a span, in integer nanoseconds. Its epoch means nothing; only order and differences do.
Nanos: TypeAlias = int

MICROSECOND: Nanos = 1_000
MILLISECOND: Nanos = 1_000_000
SECOND: Nanos = 1_000_000_000

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


def seconds(span: Nanos) -> float:
    """Return ``span`` nanoseconds as seconds, for texts that people read."""
    return span / SECOND
