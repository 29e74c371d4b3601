"""How long bodies take in virtual time: declared at the call, or by a model for the whole session; nothing by default.

Where a duration is asked for, these will do: a number of seconds; a function of the task's arguments that returns one; a
distribution, from which each task draws by its own ID, so the same seed gives the same durations whatever else happens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from random import Random
from typing import Any, Protocol, runtime_checkable

from sundog.core.ids import TaskID
from sundog.core.task import TaskSpec
from sundog.core.units import SECOND, Nanos


@runtime_checkable
class Distribution(Protocol):
    """Something that durations are drawn from."""

    def draw(self, random: Random) -> float:
        """Return a number of seconds, 0 or more."""


class Uniform:
    """Evenly between ``low`` and ``high`` seconds."""

    def __init__(self, low: float, high: float) -> None:
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"Uniform({low}, {high}): give 0 <= low <= high")
        self.low, self.high = low, high

    def draw(self, random: Random) -> float:
        """See :class:`Distribution`."""
        return random.uniform(self.low, self.high)


class Exponential:
    """Memoryless, with a mean of ``mean`` seconds."""

    def __init__(self, mean: float) -> None:
        self.mean = _positive("Exponential", "mean", mean)

    def draw(self, random: Random) -> float:
        """See :class:`Distribution`."""
        return random.expovariate(1 / self.mean)


class LogNormal:
    """Skewed as measured durations often are: half are below ``median`` seconds, ``sigma`` is the spread of the logarithm."""

    def __init__(self, median: float, sigma: float) -> None:
        self.median = _positive("LogNormal", "median", median)
        self.sigma = _positive("LogNormal", "sigma", sigma)

    def draw(self, random: Random) -> float:
        """See :class:`Distribution`."""
        return self.median * math.exp(random.gauss(0.0, self.sigma))


class Pareto:
    """A heavy tail: at least ``least`` seconds, beyond x with probability ``(least / x) ** alpha``."""

    def __init__(self, least: float, alpha: float) -> None:
        self.least = _positive("Pareto", "least", least)
        self.alpha = _positive("Pareto", "alpha", alpha)

    def draw(self, random: Random) -> float:
        """See :class:`Distribution`."""
        return self.least * random.paretovariate(self.alpha)


class Empirical:
    """One of ``seconds``, each as likely: durations that were measured."""

    def __init__(self, seconds: Sequence[float]) -> None:
        if not seconds or not all(0 <= x < math.inf for x in seconds):
            raise ValueError("Empirical takes at least one number of seconds, none negative")
        self.seconds = tuple(seconds)

    def draw(self, random: Random) -> float:
        """See :class:`Distribution`."""
        return random.choice(self.seconds)


def _positive(kind: str, name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{kind}: {name}={value!r}: give a number above 0")
    return value


#: A number, a function of the arguments, or a distribution.
Duration = float | Callable[..., Any] | Distribution


class Durations:
    """The durations of one session's bodies.

    ``model``: for tasks that declare none. A :data:`Duration` for all, or a mapping from names of functions to one each; the
    function of a model for all is given the task's name before its arguments. Raises TypeError or ValueError for what is none.
    """

    def __init__(self, model: Any = None) -> None:
        if isinstance(model, Mapping):
            for name, duration in model.items():
                check(duration, f"durations[{name!r}]")
        elif model is not None:
            check(model, "durations")
        self._model = model
        #: Declared at the call, and no number: by task, until its body has run.
        self._declared: dict[TaskID, Any] = {}

    def declare(self, task_id: TaskID, duration: Any) -> None:
        """A call declared a function or a distribution."""
        self._declared[task_id] = duration

    def of(self, spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Nanos:
        """Return how long the body of ``spec`` takes with these arguments. Raises ValueError if the model says nonsense."""
        if spec.duration is not None:
            return spec.duration
        declared, model = self._declared.get(spec.task_id), self._model
        if declared is not None:
            return self._resolve(spec, declared, args, kwargs)
        if model is None:
            return 0
        if isinstance(model, Mapping):
            found = model.get(spec.name)
            return 0 if found is None else self._resolve(spec, found, args, kwargs)
        if not isinstance(model, Distribution) and callable(model):
            args = (spec.name, *args)
        return self._resolve(spec, model, args, kwargs)

    def _resolve(self, spec: TaskSpec, duration: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Nanos:
        if not isinstance(duration, Distribution) and callable(duration):
            duration = duration(*args, **kwargs)
            if duration is None:
                return 0
        if isinstance(duration, Distribution):
            seed = blake2b(spec.task_id, digest_size=16, person=b"sundog-duration").digest()
            duration = duration.draw(Random(int.from_bytes(seed, "big")))
        if isinstance(duration, bool) or not isinstance(duration, (int, float)) or not 0 <= duration < math.inf:
            raise ValueError(f"the duration of {spec.name!r} came out as {duration!r}: it must be a number of seconds, 0 or more")
        return round(duration * SECOND)


def check(duration: Any, what: str) -> None:
    """Raise TypeError or ValueError, naming ``what``, if ``duration`` is no :data:`Duration`."""
    if isinstance(duration, Distribution) or callable(duration):
        return
    if isinstance(duration, bool) or not isinstance(duration, (int, float)):
        raise TypeError(f"{what} takes seconds, a function of the arguments, or a distribution, not {duration!r}")
    if not 0 <= duration < math.inf:
        raise ValueError(f"{what}={duration!r}: a duration is 0 seconds or more")
