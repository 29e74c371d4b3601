"""A module that a test has travel by value."""

from __future__ import annotations

factor = 2


class Scaled:
    """Uses a global in a method alone."""

    def value(self) -> int:
        """Return ``factor``."""
        return factor


def use() -> int:
    """Return what a method returns."""
    return Scaled().value()
