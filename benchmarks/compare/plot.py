"""The comparison as a picture: how many times better sundog was, row by row."""

from __future__ import annotations

from pathlib import Path

from benchmarks.compare import rows as compare_rows
from benchmarks.compare.rows import BASE, ROWS
from benchmarks.compare.table import Run

COLOURS = {"futures": "#4477aa", "joblib": "#228833", "dask": "#ee7733", "ray": "#aa3377"}


def draw(run: Run, path: Path) -> bool:
    """Write the picture; return False, and write nothing, where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "sundog", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    peers = [peer for peer in run.versions if peer != BASE]
    figure, axes = pyplot.subplots(figsize=(9, 0.36 * len(ROWS) + 1.4))
    for number, peer in enumerate(peers):
        shift = 0.5 * (number / max(1, len(peers) - 1) - 0.5)
        points = [(place + shift, compare_rows.ratio(run.blocks, peer, row)) for place, row in enumerate(ROWS)]
        found = [(place, ratio) for place, ratio in points if ratio is not None]
        axes.errorbar(
            [ratio.median for _, ratio in found],
            [place for place, _ in found],
            xerr=[[ratio.median - ratio.least for _, ratio in found], [ratio.most - ratio.median for _, ratio in found]],
            fmt="o",
            markersize=4,
            linewidth=1,
            color=COLOURS.get(peer),
            label=run.titles[peer],
        )
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(ROWS)), [compare_rows.titled(row, run.size).replace("`", "") for row in ROWS])
    axes.set_ylim(len(ROWS) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("times better than the peer; right of 1 sundog is ahead")
    axes.set_title(f"{run.date}, {run.machine.get('CPU', '')}, {len(run.blocks)} block{'s' * (len(run.blocks) != 1)}", fontsize=9)
    figure.legend(loc="outside lower center", ncols=max(1, len(peers)), frameon=False)
    figure.set_layout_engine("constrained")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return True
