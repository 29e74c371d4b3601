"""The comparison as Markdown."""

from __future__ import annotations

import msgspec

from benchmarks.compare import rows as compare_rows
from benchmarks.compare.rows import BASE, ROWS, Block, Ratio, Row


class Run(msgspec.Struct):
    """One run of the comparison."""

    date: str
    machine: dict[str, str]
    versions: dict[str, str]  # peer -> version, of those that were there
    titles: dict[str, str]  # peer -> name for people, in the order of the table
    missing: dict[str, str]  # peer -> why it was not measured
    size: dict[str, int]
    blocks: list[Block]
    loads: list[float]  # tasks that wanted a core, before each block


_FORKS = "it forks bare copies of the driver, where sundog starts a node process, a zygote and two workers of their own"
_HOPS = "one pipe to the worker and one back; sundog's task goes through the node, which decides: twice the hops and wake-ups"
_QUEUE = "workers take from one shared queue, and no other process needs a core meanwhile"
_CHUNKS = "chunks go through a pipe as they are, without IDs, objects and references for each"
_FUTURE = "what is kept is a future alone, and no process has a record of the task"
_THREADS = "it copies with several threads at once, sundog with one and a helper at most"
#: (row, peer) -> why the peer is ahead there.
REASONS = {
    ("start", "futures"): _FORKS,
    ("start", "joblib"): "it starts two workers and nothing between them and the driver; where it is slower, they import more",
    ("import", "futures"): "a small module of the standard library",
    ("memory", "futures"): "two forks that share the driver's pages, and neither a node process nor an object store",
    **{(row, peer): _HOPS for row in ("round_trip", "round_trip_p99") for peer in ("futures", "joblib")},
    **{("busy", peer): _QUEUE for peer in ("futures", "joblib")},
    **{("bulk", peer): _CHUNKS for peer in ("futures", "joblib")},
    **{(row, peer): _FUTURE for row in ("reference", "reference_all") for peer in ("futures", "joblib")},
    ("argument", "joblib"): "it sends calls in batches, each as one message, where each of sundog's is a task with an ID",
    **{(row, "ray"): _THREADS for row in ("put_large", "put_large_first")},
}
UNKNOWN = "not yet explained"


def cell(row: Row, blocks: list[Block], peer: str) -> str:
    """Return a peer's cell: its median, and how many times better the base was."""
    value = compare_rows.median(blocks, peer, row.key)
    if value is None:
        why = compare_rows.reason(blocks, peer, row.key)
        return "cannot" if why.startswith("cannot") else "-"
    text = row.show(value)
    found = compare_rows.ratio(blocks, peer, row) if peer != BASE else None
    return text if found is None else f"{text}; {shown(found)}"


def shown(found: Ratio) -> str:
    """Return a ratio with its spread; bold where the peer is ahead."""
    middle = f"**{rounded(found.median)}x**" if found.behind else f"{rounded(found.median)}x"
    return middle if found.least == found.most else f"{middle} ({rounded(found.least)} to {rounded(found.most)})"


def rounded(value: float) -> str:
    """Return a ratio with as many digits as say something."""
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}" if value < 2 else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def ahead(run: Run) -> list[str]:
    """Return a line for each row and peer where the peer is ahead, with the reason."""
    lines = []
    for row in ROWS:
        for peer in run.versions:
            found = compare_rows.ratio(run.blocks, peer, row) if peer != BASE else None
            if found is None or not found.behind:
                continue
            why = REASONS.get((row.key, peer), UNKNOWN)
            doubt = "" if found.sure or len(run.blocks) == 1 else " (not in every block)"
            lines.append(f"- {compare_rows.titled(row, run.size)}: {run.titles[peer]}{doubt}: {why}.")
    return lines


def gaps(run: Run) -> list[str]:
    """Return a line for each peer and reason why cells have no number; what an engine has no notion of needs no list of rows."""
    lines = []
    for peer in run.versions:
        where: dict[str, list[str]] = {}
        for row in ROWS:
            if compare_rows.median(run.blocks, peer, row.key) is None:
                where.setdefault(compare_rows.reason(run.blocks, peer, row.key), []).append(compare_rows.titled(row, run.size))
        never = [why.removeprefix("cannot: ") for why in where if why.startswith("cannot")]
        if never:
            lines.append(f"- {run.titles[peer]} cannot: {', '.join(never)}.")
        lines += [f"- {run.titles[peer]}: {why}: {'; '.join(rows)}." for why, rows in where.items() if not why.startswith("cannot")]
    return lines


def heading(run: Run) -> list[str]:
    """Return what was measured, where and when, and how to read it."""
    count = len(run.blocks)
    blocks = f"{count} block{'s' * (count != 1)}" + (", **a trial: too few to rely on**" if count < 3 else "")
    return [
        "# sundog beside its peers",
        "",
        "Written by `make compare`: do not edit.",
        "",
        f"- {run.date}, {blocks}; tasks that wanted a core before each: {', '.join(f'{load:.1f}' for load in run.loads)}",
        *(f"- {name}: {value}" for name, value in run.machine.items()),
        f"- versions: {', '.join(f'{run.titles[peer]} {version}' for peer, version in run.versions.items())}",
        *(f"- {run.titles[peer]} was not measured: {why}" for peer, why in run.missing.items()),
        "",
        "Two workers each, on loopback, one process tree at a time, a fresh one for every peer and block, in an order that rotates",
        "from block to block. A cell has the median over the blocks, then how many times better sundog was: the median of the",
        "blocks' ratios (least to greatest). Above 1x sundog is ahead, be more or less better; **bold** is where the peer is.",
        "",
    ]


def markdown(run: Run, plot: str = "") -> str:
    """Return the whole page; ``plot``: the name of the picture beside it."""
    peers = list(run.versions)
    table = [["what", *(run.titles[peer] for peer in peers)], ["---"] * (1 + len(peers))]
    table += [[compare_rows.titled(row, run.size), *(cell(row, run.blocks, peer) for peer in peers)] for row in ROWS]
    lines = [*heading(run), *("| " + " | ".join(line) + " |" for line in table)]
    lines += ["", "## Where a peer is ahead", "", *(ahead(run) or ["Nowhere in this run."])]
    missing = gaps(run)
    if missing:
        lines += ["", "## What has no number", "", *missing]
    if plot:
        lines += ["", f"![How many times better sundog was, row by row]({plot})"]
    return "\n".join(lines) + "\n"
