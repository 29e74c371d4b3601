"""The twin against the real thing: the makespan that the simulator predicts for ten programs, beside what is measured.

``python -m benchmarks.prediction [PROFILE] [--rounds N] [--repeats N]`` runs each program of ``prediction_programs`` on real
processes, in rounds, each with a calibration (unless a profile is given), then in the simulator with the medians of these, and
prints the table of ``docs/simulation.md`` in Markdown, with the spread of the real runs. Beside the makespans: for how long all
processes together were on a core, which other work on the machine changes less. Nothing is fitted to the programs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import sundog
from benchmarks import prediction_programs as programs
from benchmarks.measure import Row, info, quiet_gc
from sundog import calibrate
from sundog.backends import current
from sundog.backends.simulated.costs.profile import Profile, load_profile
from sundog.core.units import SECOND

WORKERS = 2
ROUNDS = 3
#: Real runs of each program in a round; one more warms up and does not count.
REPEATS = 3

Program = Callable[[], None]


class Run(NamedTuple):
    """How many seconds a program took, and for how long all processes were on a core."""

    makespan: float
    computing: float


class Line(NamedTuple):
    """A program in the table."""

    program: Program
    real: Sequence[Run]
    model: Run

    @property
    def makespan(self) -> float:
        """The median of the real runs."""
        return statistics.median(one.makespan for one in self.real)

    @property
    def computing(self) -> float:
        """The median of the real runs."""
        return statistics.median(one.computing for one in self.real)

    @property
    def error(self) -> float:
        """Of the makespan, as a part."""
        return self.model.makespan / self.makespan - 1

    @property
    def error_of_computing(self) -> float:
        """Of the computing time, as a part."""
        return self.model.computing / self.computing - 1

    def markdown(self) -> str:
        """Return the row of the table, in milliseconds."""
        spans = sorted(one.makespan / self.makespan - 1 for one in self.real)
        said = (self.program.__doc__ or "").removesuffix(".")
        what = f"{self.program.__name__.replace('_', ' ')}: {said[:1].lower()}{said[1:]}"
        return (
            f"| {what} | {self.makespan * 1e3:.1f} ({spans[0]:+.0%} to {spans[-1]:+.0%}) | {self.model.makespan * 1e3:.1f} "
            f"| {self.error:+.0%} | {self.computing * 1e3:.1f} | {self.model.computing * 1e3:.1f} "
            f"| {self.error_of_computing:+.0%} |"
        )


def measured(program: Program, repeats: int) -> list[Run]:
    """Return real runs, in one session."""
    runs = []
    with sundog.init(num_workers=WORKERS):
        for number in range(repeats + 1):
            spans: list[float] = []

            def timed(spans: list[float] = spans) -> None:
                started = time.perf_counter()
                program()
                spans.append(time.perf_counter() - started)

            with quiet_gc():
                computing = calibrate.computed(timed).total / SECOND
            if number:
                runs.append(Run(spans[0], computing))
    return runs


def predicted(program: Program, profile: Profile, repeats: int) -> Run:
    """Return the medians of as many runs in the simulator as there are real ones in a session, the first left out as there.

    They differ: who has written which pages of the store depends on the runs before.
    """
    runs = []
    with sundog.init(backend="simulated", num_workers=WORKERS, profile=profile):
        session = current.session
        assert session is not None
        cores = session.port.node.cores  # type: ignore[attr-defined]
        for _ in range(repeats + 1):
            before, started = cores.occupied, time.perf_counter()
            program()
            runs.append(Run(time.perf_counter() - started, (cores.occupied - before) / SECOND))
    return Run(*(statistics.median(figures) for figures in zip(*runs[1:], strict=True)))


def unit_of_work() -> float:
    """Return the seconds that one round of ``programs.spin`` takes here."""
    rounds = 2 * programs.ROUNDS_PER_MILLISECOND
    times = []
    for _ in range(101):
        started = time.thread_time()
        programs.spin(rounds)
        times.append(time.thread_time() - started)
    return statistics.median(times) / rounds


class Reality(NamedTuple):
    """What was measured: runs of each program, so many in a session; what a round of their work takes; and calibrations."""

    repeats: int
    runs: list[list[Run]]
    unit: float
    calibrations: list[calibrate.Measurements]


def observe(rounds: int = ROUNDS, repeats: int = REPEATS, *, calibrates: bool = True) -> Reality:
    """Run all programs on real processes."""
    runs: list[list[Run]] = [[] for _ in programs.PROGRAMS]
    units, found = [], []
    for _ in range(rounds):
        for number, program in enumerate(programs.PROGRAMS):
            units.append(unit_of_work())
            runs[number] += measured(program, repeats)
        if calibrates:
            found.append(calibrate.measure(repeats))
    return Reality(repeats, runs, statistics.median(units), found)


def predict(reality: Reality, profile: Profile) -> list[Line]:
    """Return the table."""
    programs.unit = reality.unit
    pairs = zip(programs.PROGRAMS, reality.runs, strict=True)
    return [Line(program, runs, predicted(program, profile, reality.repeats)) for program, runs in pairs]


def profile_of(reality: Reality) -> Profile:
    """Return the profile that the calibrations tell of."""
    return calibrate.fit(calibrate.medians(reality.calibrations), calibrate.machine(), cores=len(os.sched_getaffinity(0)))


def markdown(lines: Sequence[Line], reality: Reality, profile: Profile) -> str:
    """Return the table with what has to be said about it."""
    spans = statistics.mean(abs(line.error) for line in lines)
    computing = statistics.mean(abs(line.error_of_computing) for line in lines)
    repeats, rounds = reality.repeats, len(reality.runs[0]) // reality.repeats
    return "\n".join(
        [
            "| program | measured | predicted | error | computing | predicted | error |",
            "|---|---|---|---|---|---|---|",
            *(line.markdown() for line in lines),
            "",
            f"Mean size of the errors: makespans {spans:.0%}, computing times {computing:.0%}. {rounds} rounds of {repeats} runs;"
            f" profile: {profile.name}; load average: {os.getloadavg()[1]:.1f}.",
        ]
    )


def measure() -> list[Row]:
    """Return the rows for ``benchmarks.run``."""
    reality = observe()
    rows = []
    for line in predict(reality, profile_of(reality)):
        said = f"measured {line.makespan * 1e3:.1f} ms, predicted {line.model.makespan * 1e3:.1f} ms, error {line.error:+.0%}"
        rows.append(info(line.program.__name__, f"{said}; computing {line.error_of_computing:+.0%}"))
    return rows


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prediction", description="Ten programs, measured and predicted.")
    parser.add_argument("profile", nargs="?", help="a profile; without one the machine is calibrated, once in each round")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"rounds of real runs ({ROUNDS})")
    parser.add_argument("--repeats", type=int, default=REPEATS, metavar="N", help=f"runs of each program in a round ({REPEATS})")
    chosen = parser.parse_args(arguments)
    given = load_profile(chosen.profile) if chosen.profile else None
    reality = observe(chosen.rounds, chosen.repeats, calibrates=given is None)
    profile = given or profile_of(reality)
    print(markdown(predict(reality, profile), reality, profile))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
