"""An object that tells when nobody refers to it any more."""

from __future__ import annotations

from collections.abc import Callable


class TellsItsDeath:
    """Calls ``told`` when it dies."""

    def __init__(self, told: Callable[[], object]) -> None:
        self._told = told

    def __del__(self) -> None:
        self._told()
