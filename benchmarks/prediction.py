"""The twin against the real thing: the makespan that the simulator predicts for ten programs, beside what is measured.

``python -m benchmarks.prediction [PROFILE]`` runs each program of ``prediction_programs`` on real processes, in two rounds with the
calibration between them (unless a profile is given), then once in the simulator with that profile, and prints one table with the
spread of the real runs. Nothing is fitted to the programs.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import sundog
from benchmarks import prediction_programs as programs
from benchmarks.measure import Row, info, quiet_gc
from sundog.backends.simulated.cost_model import Profile, load_profile

WORKERS = 2
#: Real runs of each program in a round; one more warms up and does not count.
REPEATS = 5


def makespan(program: Callable[[], None]) -> float:
    """Return how many seconds the program takes, in the time of its own session."""
    started = time.perf_counter()
    program()
    return time.perf_counter() - started


def measured(program: Callable[[], None], repeats: int = REPEATS) -> list[float]:
    """Return the makespans of real runs, in one session."""
    times = []
    with sundog.init(num_workers=WORKERS):
        for number in range(repeats + 1):
            with quiet_gc():
                took = makespan(program)
            if number:
                times.append(took)
    return times


def predicted(program: Callable[[], None], profile: Profile) -> float:
    """Return the makespan in the simulator: the second run, as the pool is up and functions are known then."""
    with sundog.init(backend="simulated", num_workers=WORKERS, profile=profile):
        makespan(program)
        return makespan(program)


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
    """Return the table. Without a profile this machine is calibrated, between the two rounds of real runs."""
    times: list[list[float]] = [[] for _ in programs.PROGRAMS]
    units: list[float] = []

    def one_round() -> None:
        for number, program in enumerate(programs.PROGRAMS):
            units.append(unit_of_work())
            times[number] += measured(program)

    one_round()
    if profile is None:
        from sundog.calibrate import calibrate

        profile = calibrate()
    one_round()
    programs.unit = statistics.median(units)
    rows = [info("profile", profile.name)]
    errors = []
    for program, runs in zip(programs.PROGRAMS, times, strict=True):
        runs.sort()
        real = statistics.median(runs)
        model = predicted(program, profile)
        error = model / real - 1
        errors.append(abs(error))
        name = f"{program.__name__.replace('_', ' ')}: {program.__doc__.removesuffix('.') if program.__doc__ else ''}"
        rows.append(
            info(
                name,
                f"measured {real * 1e3:.2f} ms ({runs[0] / real - 1:+.0%} to {runs[-1] / real - 1:+.0%}), "
                f"predicted {model * 1e3:.2f} ms, error {error:+.0%}",
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
