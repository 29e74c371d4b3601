"""The twin against the real thing: the makespan that the simulator predicts for ten programs, beside what is measured.

``python -m benchmarks.prediction [PROFILE]`` runs each program of ``prediction_programs`` on real processes, in three rounds, each
with a calibration (unless a profile is given), then once in the simulator with the medians of these, and prints one table with the
spread of the real runs. Beside the makespans: how long all processes computed, which other work on the machine hardly changes.
Nothing is fitted to the programs.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import sundog
from benchmarks import prediction_programs as programs
from benchmarks.measure import Row, info, quiet_gc
from sundog import calibrate
from sundog.backends import current
from sundog.backends.simulated.cost_model import Profile, load_profile
from sundog.core.units import SECOND

WORKERS = 2
ROUNDS = 3
#: Real runs of each program in a round; one more warms up and does not count.
REPEATS = 3


class Run(NamedTuple):
    """How many seconds a program took, and how long all processes computed."""

    makespan: float
    computing: float


def run(program: Callable[[], None], computing: Callable[[], int]) -> Run:
    """Run the program, in the time of its own session; ``computing`` tells nanoseconds so far."""
    before = computing()
    started = time.perf_counter()
    program()
    makespan = time.perf_counter() - started
    return Run(makespan, (computing() - before) / SECOND)


def measured(program: Callable[[], None], repeats: int = REPEATS) -> list[Run]:
    """Return real runs, in one session."""
    runs = []
    with sundog.init(num_workers=WORKERS):
        for number in range(repeats + 1):
            with quiet_gc():
                took = run(program, lambda: sum(calibrate.computing_times().values()))
            if number:
                runs.append(took)
    return runs


def predicted(program: Callable[[], None], profile: Profile) -> Run:
    """Return the run in the simulator: the second one, as the pool is up and functions are known then."""
    with sundog.init(backend="simulated", num_workers=WORKERS, profile=profile):
        session = current.session
        assert session is not None
        cores = session.port.node.cores  # type: ignore[attr-defined]
        run(program, lambda: cores.asked)
        return run(program, lambda: cores.asked)


def unit_of_work() -> float:
    """Return the seconds that one round of ``programs.spin`` takes here."""
    rounds = 2 * programs.ROUNDS_PER_MILLISECOND
    times = []
    for _ in range(101):
        started = time.perf_counter()
        programs.spin(rounds)
        times.append(time.perf_counter() - started)
    return statistics.median(times) / rounds


def measure(profile: Profile | None = None) -> list[Row]:
    """Return the table. Without a profile this machine is calibrated, once in each round of real runs."""
    times: list[list[Run]] = [[] for _ in programs.PROGRAMS]
    units: list[float] = []

    found = []
    for _ in range(ROUNDS):
        for number, program in enumerate(programs.PROGRAMS):
            units.append(unit_of_work())
            times[number] += measured(program)
        if profile is None:
            found.append(calibrate.measure(REPEATS))
    if profile is None:
        profile = calibrate.fit(calibrate.medians(found), calibrate.machine(), cores=len(os.sched_getaffinity(0)))
    programs.unit = statistics.median(units)
    rows = [info("profile", profile.name)]
    errors = []
    for program, runs in zip(programs.PROGRAMS, times, strict=True):
        runs.sort()
        real = statistics.median(one.makespan for one in runs)
        computed = statistics.median(one.computing for one in runs)
        model = predicted(program, profile)
        error = model.makespan / real - 1
        errors.append(abs(error))
        name = f"{program.__name__.replace('_', ' ')}: {program.__doc__.removesuffix('.') if program.__doc__ else ''}"
        rows.append(
            info(
                name,
                f"measured {real * 1e3:.2f} ms ({runs[0].makespan / real - 1:+.0%} to {runs[-1].makespan / real - 1:+.0%}), "
                f"predicted {model.makespan * 1e3:.2f} ms, error {error:+.0%}; computing {computed * 1e3:.2f} ms, "
                f"predicted {model.computing * 1e3:.2f} ms, error {model.computing / computed - 1:+.0%}",
            )
        )
    rows.append(info("mean of the errors' sizes", f"{statistics.mean(errors):.0%}"))
    return rows


def main(arguments: list[str]) -> int:
    """Print the table."""
    for row in measure(load_profile(arguments[0]) if arguments else None):
        print(f"| {row.what} | {row.measured} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
