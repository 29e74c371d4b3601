"""A small seeded generator, so that a host without one of its loop's still draws the same numbers in every replay."""

from __future__ import annotations

_MASK = (1 << 64) - 1


class SplitMix:
    """Steele, Lea and Flood's SplitMix64 (OOPSLA 2014). Fits ``machine.Rng``."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def randrange(self, stop: int, /) -> int:
        """Return an integer in ``range(stop)``; the bias of the remainder is below stop / 2**64."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return (mixed ^ (mixed >> 31)) % stop
