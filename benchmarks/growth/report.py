"""What curves say: exponents of fits in logarithms, verdicts, and the document."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.growth.curves import CURVES
from benchmarks.growth.point import Point

_INTRODUCTION = """# How cost grows

`python -m benchmarks.growth` wrote this file, `growth.json` and `growth.svg`. Every point is a session of its own on
`local_processes`, in a fresh process. *wall* is by the clock, and other work on the machine makes it longer; *computing* is
what all processes of the session spent on cores, which hardly changes. *bytes* are proportional set size of all of them.
The *exponent* is the slope of a fit of the total to the size, both in logarithms: 1.00 is linear. The verdict goes by the upper
end (the three or four largest sizes), where nothing fixed hides what grows; up to 1.10 counts as linear.
"""


class Growth(msgspec.Struct):
    """Everything that was measured in one run."""

    date: str
    machine: str
    versions: dict[str, str]
    #: Seconds that the whole run took, and the load (runnable processes) before it.
    seconds: float
    load: float
    points: list[Point]
    #: {point: reason} of those that could not be measured.
    missing: dict[str, str] = {}

    def curve(self, name: str) -> list[Point]:
        """Return the points of a curve by size."""
        return sorted((point for point in self.points if point.curve == name), key=lambda point: point.size)


def exponent(points: Sequence[Point], cost: Callable[[Point], float]) -> float | None:
    """Return the exponent with which the total grows: the least-squares slope of ``cost`` of one item, times their number, over
    size, in logarithms. None for fewer than two sizes."""
    proportional = points and CURVES[points[0].curve].proportional
    pairs = [(math.log(point.size), math.log(cost(point))) for point in points if cost(point) > 0]
    if len(pairs) < 2:
        return None
    mean_x, mean_y = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in pairs)
    slope: float = sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread
    return 1 + slope if proportional else slope


def upper(points: Sequence[Point]) -> Sequence[Point]:
    """Return the upper end of a curve, where what is fixed has faded."""
    return points[-CURVES[points[0].curve].upper :]


class Verdict(msgspec.Struct):
    """The exponents of one curve. ``linear``: neither computing nor bytes pass the ceiling at the upper end."""

    curve: str
    whole: float
    upper: float
    weight: float | None
    linear: bool


def judge(growth: Growth, name: str) -> Verdict | None:
    """Return the verdict on computing and bytes; None if too little was measured."""
    points = growth.curve(name)
    whole = exponent(points, lambda point: point.cpu_each)
    if whole is None:
        return None
    end = exponent(upper(points), lambda point: point.cpu_each) or whole
    heavy = [point for point in points if (point.bytes_each or 0) > 0]
    weight = exponent(upper(heavy), lambda point: point.bytes_each or 0.0) if heavy else None
    ceiling = CURVES[name].ceiling
    return Verdict(name, whole, end, weight, max(end, weight or 0.0) <= ceiling)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _table(lines: Sequence[Sequence[str]]) -> list[str]:
    head, *body = lines
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *[f"| {' | '.join(line)} |" for line in body], ""]


def _section(growth: Growth, name: str, verdict: Verdict) -> list[str]:
    points, curve = growth.curve(name), CURVES[name]
    kinds = [kind for kind in ("driver", "node", "zygote", "worker") if any(p.cpu.get(kind, 0) for p in points)]
    weighs = any(point.heavy for point in points)
    head = [curve.what, f"wall, µs a {curve.item}", "computing, µs", *[f"of it {kind}" for kind in kinds]]
    lines = [head + ["bytes", "of it driver", "of it node", "of it workers"] * weighs]
    for point in points:
        line = [f"{point.size:,}", _figure(point.wall_each), _figure(point.cpu_each)]
        line += [_figure(point.cpu.get(kind, 0.0) / point.items * 1e6) for kind in kinds]
        if weighs and point.heavy:
            each = [point.weight.get(kind, 0) / point.heavy for kind in ("driver", "node", "worker")]
            line += [_figure(value) for value in (point.bytes_each or 0.0, *each)]
        elif weighs:
            line += [""] * 4
        lines.append(line)
    return [f"## {name}", "", *_table(lines), *([curve.note, ""] if curve.note else [])]


def document(growth: Growth) -> str:
    """Return growth.md."""
    versions = ", ".join(f"{name} {version}" for name, version in growth.versions.items())
    text = [
        _INTRODUCTION,
        f"{growth.date}, {growth.machine}, load {growth.load:.1f} before it began; {versions}; {growth.seconds:.0f} s.\n",
    ]
    judged = [verdict for verdict in (judge(growth, name) for name in CURVES) if verdict is not None]
    lines = [["curve", "exponent of computing, all sizes", "upper end", "of bytes, upper end", "verdict"]]
    for verdict in judged:
        weight = "" if verdict.weight is None else f"{verdict.weight:.2f}"
        found = "linear or better" if verdict.linear else "**worse than linear**"
        lines.append([verdict.curve, f"{verdict.whole:.2f}", f"{verdict.upper:.2f}", weight, found])
    text += _table(lines)
    for point, reason in growth.missing.items():
        text.append(f"Not measured: {point}: {reason}\n")
    text.append("![Cost of one item over size](growth.svg)\n")
    for verdict in judged:
        text += _section(growth, verdict.curve, verdict)
    return "\n".join(text)
