"""Curves as a picture, for which matplotlib is needed (the extra ``plots``)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.growth.curves import CURVES
from benchmarks.growth.report import Growth, judge

_COLUMNS = 3


def draw(growth: Growth, path: Path) -> None:
    """Write one panel a curve: the cost of one item over size; flat is linear. Raises ImportError without matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "sundog"  # the same figures give the same file
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: a third of the size
    names = [name for name in CURVES if growth.curve(name)]
    rows = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(4.2 * _COLUMNS, 3.1 * rows), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(panels, names, strict=False):
        points = growth.curve(name)
        sizes = [point.size for point in points]
        axes.plot(sizes, [point.wall_each for point in points], "o--", color="0.7", markersize=3, label="wall, µs")
        axes.plot(sizes, [point.cpu_each for point in points], "o-", color="C0", markersize=4, label="computing, µs")
        heavy = [(point.size, point.bytes_each) for point in points if (point.bytes_each or 0) > 0]
        if heavy:
            axes.plot(*zip(*heavy, strict=True), "s-", color="C1", markersize=4, label="bytes")
        verdict = judge(growth, name)
        grows = f": exponent {verdict.upper:.2f}" if verdict is not None else ""
        axes.set(
            xscale="log", yscale="log", title=f"{name}{grows}", xlabel=CURVES[name].what, ylabel=f"for one {CURVES[name].item}"
        )
        low, high = axes.get_ylim()
        axes.set_ylim(low / 2, high * 2)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
    figure.savefig(path, metadata={"Date": None})
