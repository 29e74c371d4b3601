"""A line on stderr for those who wait for a long run."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from sundog.core.units import seconds

if TYPE_CHECKING:
    from sundog.backends.simulated.experiment.experiment import Experiment

#: Runs that take less than this show nothing; real seconds.
_PATIENCE = 2.0
_EVERY = 0.5


class Progress:
    """Call it with the experiment now and then. ``wanted``: None, if stderr is a terminal."""

    def __init__(self, total: int, wanted: bool | None) -> None:
        self._total = total
        self._shows = wanted if wanted is not None else sys.stderr is not None and sys.stderr.isatty()
        self._began = time.perf_counter()
        self._next = self._began + _PATIENCE
        self._width = 0

    def __call__(self, experiment: Experiment) -> None:
        """Write the line, if it is time."""
        now = time.perf_counter()
        if not self._shows or now < self._next:
            return
        self._next = now + _EVERY
        done = experiment.measures.finished_count
        share = 100 * done / self._total if self._total else 100
        virtual = seconds(experiment.loop.now - experiment.began)
        rate = done / (now - self._began)
        line = f"sundog: {share:5.1f} % of {self._total} tasks, {rate:,.0f} tasks/s, {virtual:,.3f} s of virtual time"
        sys.stderr.write(f"\r{line.ljust(self._width)}")
        sys.stderr.flush()
        self._width = len(line)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
