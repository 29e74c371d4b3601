"""The options of a remote function: checked once, where they are given, with messages that say what would be right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sundog.backends.functions import CallOptions
from sundog.core.ids import RETURN_COUNT_MAX
from sundog.core.resources import CPU, GPU, ONE_CPU, Shape, shape
from sundog.core.units import SECOND, Nanos

#: What ``max_retries=-1`` means: more often than anybody will see.
_RETRIES_FOR_EVER = (1 << 31) - 1
_NAMES = (
    "num_returns", "num_return_vals", "num_cpus", "num_gpus", "resources", "max_retries", "retry_exceptions", "max_calls",
    "name", "priority", "duration",
)  # fmt: skip


def parse_options(function_name: str, asked: Mapping[str, Any]) -> CallOptions:
    """Return ``asked`` as what a call copies into its TaskSpec. Raises TypeError or ValueError, naming the option."""
    if not asked:
        return CallOptions(function_name)
    for name in asked:
        if name not in _NAMES:
            raise TypeError(f"remote functions have no option {name!r}; there are {', '.join(_NAMES)}")
    retries = _integer(asked, "max_retries", 3, -1)
    label = asked.get("name")
    if label is not None and not isinstance(label, str):
        raise TypeError(f"name takes a text, not {label!r}")
    return CallOptions(
        name=label or function_name,
        return_count=_return_count(asked),
        resources=_resources(asked),
        retries_max=_RETRIES_FOR_EVER if retries == -1 else retries,
        calls_max=_integer(asked, "max_calls", 0, 0),
        priority=_integer(asked, "priority", 0, -(1 << 31)),
        duration=_duration(asked),
        duration_model=_duration_model(asked),
    )


def check_resources(resources: Any, what: str, number: Callable[[Any, str], float]) -> dict[str, float]:
    """Return ``resources`` as a dict of amounts. Raises TypeError or ValueError, naming the resource, within ``what``."""
    if resources is None:
        return {}
    if not isinstance(resources, Mapping):
        raise TypeError(f"{what} takes a dict such as {{'licence': 1}}, not {resources!r}")
    amounts = {}
    for name, amount in resources.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"{what}: resources have names, not {name!r}")
        if name in (CPU, GPU):
            raise ValueError(f"{what}: say num_{name.lower()}s={amount!r} instead of resources={{{name!r}: {amount!r}}}")
        amounts[name] = number(amount, f"{what}[{name!r}]")
    return amounts


def amount(value: Any, what: str) -> float:
    """Return ``value``, an amount of a resource. Raises TypeError or ValueError, naming ``what``, if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} takes a number, not {value!r}")
    if value < 0:
        raise ValueError(f"{what}={value!r} is negative: ask for 0 or more")
    if not value < float("inf"):
        raise ValueError(f"{what}={value!r}: an amount is a finite number")
    return value


def _resources(asked: Mapping[str, Any]) -> Shape:
    cpus = asked.get("num_cpus")
    gpus = asked.get("num_gpus")
    custom = asked.get("resources")
    if cpus is None and not gpus and not custom:
        return ONE_CPU
    amounts = check_resources(custom, "resources", amount)
    amounts[CPU] = 1 if cpus is None else amount(cpus, "num_cpus")
    amounts[GPU] = 0 if gpus is None else amount(gpus, "num_gpus")
    return shape(amounts)


def _return_count(asked: Mapping[str, Any]) -> int:
    count = _integer(asked, "num_returns", 1, 0)
    if "num_return_vals" in asked:
        other = _integer(asked, "num_return_vals", 1, 0)
        if "num_returns" in asked and other != count:
            raise ValueError(f"num_returns={count} and num_return_vals={other} are two names of one thing: give one")
        count = other
    if count > RETURN_COUNT_MAX:
        raise ValueError(f"num_returns={count}: a task has at most {RETURN_COUNT_MAX} returns; put them into a list")
    return count


def _integer(asked: Mapping[str, Any], name: str, default: int, least: int) -> int:
    value = asked.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} takes a whole number, not {value!r}")
    if value < least or value > _RETRIES_FOR_EVER:
        raise ValueError(f"{name}={value}: the least is {least}, the most {_RETRIES_FOR_EVER}")
    return value


def _duration(asked: Mapping[str, Any]) -> Nanos | None:
    value = asked.get("duration")
    return None if value is None or _is_model(value) else round(amount(value, "duration") * SECOND)


def _duration_model(asked: Mapping[str, Any]) -> Any:
    value = asked.get("duration")
    return value if _is_model(value) else None


def _is_model(duration: Any) -> bool:
    """Tell whether a duration is a function of the arguments or a distribution, which only the simulator can read."""
    return callable(duration) or callable(getattr(duration, "draw", None))
