"""What came of a run: one report, several side by side, or what several seeds say together.

Times of a report are seconds of virtual time, sizes bytes. Percentiles are nearest-rank: p99 is the smallest value that at least
99 % of all are no larger than.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from sundog.backends.simulated.experiment.measures import NEVER, Measures, exact_sum, whole
from sundog.backends.simulated.workloads.workload import PUT
from sundog.core.errors import InvariantViolation
from sundog.core.resources import UNIT
from sundog.core.units import SECOND


class Spread(msgspec.Struct, frozen=True):
    """How times are spread, in seconds."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, times: Any) -> Spread:
        """Return the spread of times in nanoseconds (a sequence, or a numpy array of whole numbers)."""
        import numpy as np

        ordered = np.sort(np.asarray(times, np.int64))
        count = len(ordered)
        if not count:
            return cls()

        def percentile(percent: int) -> float:
            return int(ordered[max(0, -(-percent * count // 100) - 1)]) / SECOND

        mean = exact_sum(ordered) / count / SECOND
        return cls(count, mean, percentile(50), percentile(90), percentile(99), int(ordered[-1]) / SECOND)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one run. Made by :meth:`of`; equal runs have equal reports but for ``seconds``."""

    workload: str
    #: What the cluster, the policy and the seed were, as people call them.
    cluster: str = ""
    policy: str = ""
    seed: int | str | None = None
    #: SHA-256 of the run's log of events, where it was kept.
    digest: str = ""
    nodes: int
    cpus: float
    tasks: int
    edges: int
    #: Tasks that never finished.
    unfinished: int = 0
    #: From the first submission to the last finish.
    makespan: float
    #: T1: what one worker would compute; Tinf: the longest path through the graph; and what no schedule can be faster than,
    #: max(CPU work / CPUs, Tinf); Tinf alone where bodies wait, and may overdraw CPUs when they go on.
    work: float
    critical_path: float
    bound: float
    #: Finished tasks a second.
    throughput: float
    #: From submission to finish; from when it could have begun (submitted, and its last input's task finished) to its start.
    response: Spread
    queueing: Spread
    #: By node, the part of CPUs x makespan that tasks computed on.
    utilisation: tuple[float, ...]
    #: CPU seconds computed for nothing: attempts that were lost.
    wasted: float = 0.0
    retries: int = 0
    #: Values that nodes fetched from other nodes, and their bytes.
    fetches: int = 0
    bytes_moved: int = 0
    evictions: int = 0
    bytes_evicted: int = 0
    #: The most bytes that any node's store held.
    store_peak: int = 0
    #: Tasks that nodes handed to the global scheduler.
    spilled: int = 0
    messages_local: int = 0
    messages_remote: int = 0
    bytes_remote: int = 0
    #: Steps of schedulers, and tasks that they placed.
    steps: int = 0
    decisions: int = 0
    events: int = 0
    #: Real seconds that the simulation took.
    seconds: float = 0.0

    @classmethod
    def of(
        cls,
        measures: Measures,
        *,
        cluster: str = "",
        policy: str = "",
        seed: int | str | None = None,
        digest: str = "",
        first: int = 0,
        last: int | None = None,
    ) -> Report:
        """Return the report of a run that is over, after its books were checked.

        Percentiles and means are of the tasks ``first`` to ``last`` (indices, ``last`` not included), so that a beginning and an
        end can be left out; values that are put are never among them. Raises InvariantViolation if the books do not agree.
        """
        measures.check()
        workload = measures.workload
        makespan = measures.makespan()
        cpus = sum(measures.capacity)
        critical = workload.critical_path()
        # Where tasks wait and resume, there may for a while be more of them at work than CPUs.
        bound = max(workload.cpu_work() / cpus if cpus and not measures.waits() else 0.0, critical)
        response, queueing = _times(measures, first, last)
        found = cls(
            workload=workload.name,
            cluster=cluster or f"{len(measures.shapes)} node{'s' if len(measures.shapes) > 1 else ''}, {cpus / UNIT:g} CPUs",
            policy=policy,
            seed=seed,
            digest=digest,
            nodes=len(measures.shapes),
            cpus=cpus / UNIT,
            tasks=len(workload),
            edges=workload.edge_count(),
            unfinished=len(workload) - measures.finished_count,
            makespan=makespan / SECOND,
            work=workload.work() / SECOND,
            critical_path=critical / SECOND,
            bound=bound / SECOND,
            throughput=measures.finished_count * SECOND / makespan if makespan else 0.0,
            response=Spread.of(response),
            queueing=Spread.of(queueing),
            utilisation=tuple(
                [
                    busy / (has * makespan) if has * makespan else 0.0
                    for busy, has in zip(measures.busy_at_end(), measures.capacity, strict=True)
                ]
            ),
            wasted=sum(measures.wasted) / UNIT / SECOND,
            retries=sum(measures.retries.values()),
            fetches=measures.fetches,
            bytes_moved=sum(measures.bytes_received),
            evictions=sum(measures.evictions),
            bytes_evicted=sum(measures.evicted_bytes),
            store_peak=max(measures.store_peak, default=0),
            spilled=sum(measures.spilled_out),
            messages_local=measures.messages_local,
            messages_remote=measures.messages_remote,
            bytes_remote=measures.bytes_remote,
            steps=measures.steps,
            decisions=measures.decisions,
            events=measures.events,
            seconds=measures.seconds,
        )
        found.check()
        return found

    def check(self) -> None:
        """Raise InvariantViolation, with the numbers, for a run that was faster than any can be, or CPUs that were all busy for
        longer than there was time. What needs the times of tasks is checked before there is a report (``Measures.check``)."""
        if not self.unfinished and self.makespan < self.bound * (1 - 1e-12):
            raise InvariantViolation(
                f"{self.workload}: a makespan of {self.makespan!r} s is below {self.bound!r} s, under which no schedule can go: "
                f"work {self.work!r} s on {self.cpus:g} CPUs, critical path {self.critical_path!r} s"
            )
        if self.response.count and self.queueing.max > self.response.max:
            raise InvariantViolation(f"{self.workload}: a task queued {self.queueing.max} s, and none was there that long")

    @property
    def utilisation_mean(self) -> float:
        """The mean over nodes."""
        return sum(self.utilisation) / len(self.utilisation) if self.utilisation else 0.0

    @property
    def lives_per_second(self) -> float:
        """Lives of tasks that were simulated in a real second."""
        return (self.tasks - self.unfinished) / self.seconds if self.seconds else 0.0

    @property
    def slowdown(self) -> float:
        """The makespan as a multiple of what no schedule can be faster than."""
        return self.makespan / self.bound if self.bound else 1.0

    def to_json(self) -> str:
        """Return the report as JSON, for :meth:`from_json` and other programs."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """Return the report that ``to_json`` wrote. Raises msgspec.ValidationError, naming the place, if the text is none."""
        return msgspec.json.decode(text, type=cls)

    def table(self) -> str:
        """Return the report as a table of plain text, which Markdown reads too."""
        return aligned(["", self.workload], [[title, show(self)] for title, show in _LINES])

    def __str__(self) -> str:
        return self.table()


def _times(measures: Measures, first: int, last: int | None) -> tuple[Any, Any]:
    """Return the response and queueing times of the tasks that count, as numpy arrays."""
    tasks = measures.workload.tasks
    bodies = [index for index in range(len(tasks))[first:last] if tasks[index].function != PUT]
    submitted, started, finished = whole(measures.submitted_at), whole(measures.started_at), whole(measures.finished_at)
    ready = whole(measures.ready_at())
    counted = [index for index in bodies if finished[index] != NEVER] if measures.finished_count < len(tasks) else bodies
    return finished[counted] - submitted[counted], started[counted] - ready[counted]


# --- tables ------------------------------------------------------------------------------------------------------------


def duration_text(seconds: float) -> str:
    """Return a time for people: ``12.3 ms``."""
    if not seconds:
        return "0 s"
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(seconds) >= unit:
            return f"{seconds / unit:,.4g} {name}" if seconds / unit < 10_000 else f"{seconds / unit:,.0f} {name}"
    return f"{seconds / 1e-9:.4g} ns"


def size_text(size: float) -> str:
    """Return a size for people: ``1.5 GB`` (powers of ten)."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(size) >= unit:
            return f"{size / unit:,.4g} {name}"
    return f"{size:g} B"


def _spread_text(spread: Spread) -> str:
    parts = (spread.mean, spread.p50, spread.p90, spread.p99, spread.max)
    return " / ".join([duration_text(part) for part in parts])


def _utilisation_text(report: Report) -> str:
    if not report.utilisation:
        return "-"
    return f"{report.utilisation_mean:.1%} ({min(report.utilisation):.1%} to {max(report.utilisation):.1%})"


#: The lines of a table: a title and how a report shows it.
_LINES: tuple[tuple[str, Callable[[Report], str]], ...] = (
    ("cluster", lambda r: r.cluster),
    ("policy", lambda r: r.policy or "-"),
    ("seed", lambda r: "-" if r.seed is None else str(r.seed)),
    ("tasks, edges", lambda r: f"{r.tasks:,}, {r.edges:,}"),
    ("unfinished", lambda r: f"{r.unfinished:,}"),
    ("makespan", lambda r: duration_text(r.makespan)),
    ("work T1", lambda r: duration_text(r.work)),
    ("critical path Tinf", lambda r: duration_text(r.critical_path)),
    ("makespan / lower bound", lambda r: f"{r.slowdown:.3f}"),
    ("tasks a second", lambda r: f"{r.throughput:,.5g}"),
    ("response mean / p50 / p90 / p99 / max", lambda r: _spread_text(r.response)),
    ("queueing mean / p50 / p90 / p99 / max", lambda r: _spread_text(r.queueing)),
    ("utilisation mean (least to most)", _utilisation_text),
    ("retries, CPU time lost", lambda r: f"{r.retries:,}, {duration_text(r.wasted)}"),
    ("values fetched, bytes moved", lambda r: f"{r.fetches:,}, {size_text(r.bytes_moved)}"),
    ("evictions, bytes evicted", lambda r: f"{r.evictions:,}, {size_text(r.bytes_evicted)}"),
    ("fullest store", lambda r: size_text(r.store_peak)),
    ("spilled tasks", lambda r: f"{r.spilled:,}"),
    ("messages within, between nodes", lambda r: f"{r.messages_local:,}, {r.messages_remote:,}"),
    ("bytes of those between nodes", lambda r: size_text(r.bytes_remote)),
    ("scheduler steps, decisions", lambda r: f"{r.steps:,}, {r.decisions:,}"),
    ("events", lambda r: f"{r.events:,}"),
    ("real time, task lives a second", lambda r: f"{duration_text(r.seconds)}, {r.lives_per_second:,.0f}"),
)


def aligned(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of plain text that Markdown reads too."""
    lines = [list(titles), *[list(row) for row in rows]]
    widths = [max([len(line[column]) for line in lines]) for column in range(len(titles))]
    texts = ["| " + " | ".join([cell.ljust(width) for cell, width in zip(line, widths, strict=True)]) + " |" for line in lines]
    texts.insert(1, "|" + "|".join(["-" * (width + 2) for width in widths]) + "|")
    return "\n".join([text.rstrip() for text in texts])


def compare(reports: Sequence[Report]) -> str:
    """Return a table with a column for each report; a line in which all agree on nothing having happened is left out.

    Columns are headed by what tells the reports apart: policy, workload, cluster, seed. Raises ValueError for no reports.
    """
    if not reports:
        raise ValueError("compare() was given no reports")
    heads = [_heading(report, reports) for report in reports]
    rows = []
    for title, show in _LINES:
        cells = [show(report) for report in reports]
        if any(char in "123456789" for cell in cells for char in cell) or title in ("cluster", "policy"):
            rows.append([title, *cells])
    return aligned(["", *heads], rows)


def _heading(report: Report, reports: Sequence[Report]) -> str:
    parts = []
    for name in ("policy", "workload", "cluster", "seed"):
        if len({getattr(other, name) for other in reports}) > 1:
            value = getattr(report, name)
            parts.append(f"seed {value}" if name == "seed" else str(value))
    return ", ".join(parts) or report.workload


# --- several seeds -----------------------------------------------------------------------------------------------------


class Estimate(msgspec.Struct, frozen=True):
    """A mean over runs, and how far from it the true mean may be (``level`` of such intervals hold it)."""

    mean: float
    half_width: float
    count: int
    level: float = 0.95

    def __contains__(self, value: float) -> bool:
        """Tell whether ``value`` lies in the interval."""
        return abs(value - self.mean) <= self.half_width

    def __str__(self) -> str:
        return f"{self.mean:.5g} ± {self.half_width:.2g}"


def estimate(values: Iterable[float], level: float = 0.95) -> Estimate:
    """Return the mean of independent ``values`` with its confidence interval, by Student's t with n - 1 degrees of freedom.

    Raises ValueError for fewer than two values, or a level that is not between 0 and 1.
    """
    found = list(values)
    if len(found) < 2:
        raise ValueError(f"a confidence interval takes two values or more, not {len(found)}: run more seeds")
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: give a share between 0 and 1")
    count = len(found)
    mean = math.fsum(found) / count
    variance = math.fsum([(value - mean) ** 2 for value in found]) / (count - 1)
    return Estimate(mean, student_t(count - 1, level) * math.sqrt(variance / count), count, level)


def student_t(degrees: int, level: float) -> float:
    """Return t such that a Student variable of so many degrees of freedom lies within -t and t with probability ``level``.

    The probability is a finite sum for whole degrees (Abramowitz and Stegun, 26.7.3 and 26.7.4); t is found by halving.
    """

    def within(t: float) -> float:
        angle = math.atan(t / math.sqrt(degrees))
        cos, sin = math.cos(angle), math.sin(angle)
        term, total = (cos if degrees % 2 else 1.0), 0.0
        for k in range(3 if degrees % 2 else 2, degrees + 1, 2):
            total += term
            term *= cos * cos * (k - 1) / k
        return 2 / math.pi * (angle + sin * total) if degrees % 2 else sin * total

    low, high = 0.0, 1.0
    while within(high) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < level else (low, middle)
    return high


#: What a summary speaks of: a title, the number that a report has for it, and how it is shown.
_SUMMARIZED: tuple[tuple[str, Callable[[Report], float]], ...] = (
    ("makespan", lambda r: r.makespan),
    ("makespan / lower bound", lambda r: r.slowdown),
    ("tasks a second", lambda r: r.throughput),
    ("response mean", lambda r: r.response.mean),
    ("response p50", lambda r: r.response.p50),
    ("response p99", lambda r: r.response.p99),
    ("queueing mean", lambda r: r.queueing.mean),
    ("queueing p99", lambda r: r.queueing.p99),
    ("utilisation", lambda r: r.utilisation_mean),
    ("bytes moved", lambda r: r.bytes_moved),
    ("evictions", lambda r: r.evictions),
    ("spilled tasks", lambda r: r.spilled),
    ("messages between nodes", lambda r: r.messages_remote),
    ("decisions", lambda r: r.decisions),
)


class Summary(msgspec.Struct, frozen=True):
    """What several runs say together: estimates by title."""

    estimates: dict[str, Estimate]
    runs: int

    def __getitem__(self, title: str) -> Estimate:
        return self.estimates[title]

    def to_json(self) -> str:
        """Return it as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()

    def __str__(self) -> str:
        level = next(iter(self.estimates.values())).level
        rows: list[list[Any]] = [[title, f"{one.mean:.6g}", f"± {one.half_width:.2g}"] for title, one in self.estimates.items()]
        return aligned([f"{self.runs} runs", "mean", f"{level:.0%} CI"], rows)


def summary(reports: Sequence[Report], level: float = 0.95) -> Summary:
    """Return the means over ``reports`` (one for each seed) with confidence intervals.

    Raises ValueError for fewer than two reports, or for two that are equal in all but real time: they are one run, not two.
    """
    runs = {msgspec.json.encode(msgspec.structs.replace(report, seconds=0.0)) for report in reports}
    if len(runs) < len(reports):
        raise ValueError("two of these reports are of one and the same run: give each run a seed of its own")
    return Summary({title: estimate([value(one) for one in reports], level) for title, value in _SUMMARIZED}, len(reports))
