"""Random programs in a session come to the values of a plain interpretation, whoever moves when and whoever dies."""

from __future__ import annotations

from random import Random

import hypothesis.strategies as st
from hypothesis import event, example, given, note

from sundog.core.task import FailureKind
from sundog.core.units import MILLISECOND
from tests.support.fleet import Fleet, config
from tests.support.programs_in_fleet import BOOM, Program, bodies_of, draw_program, outcome, plainly

#: Everything about a run: what the program is, and what happens to it.
seeds = st.integers(0, 1 << 48)
bodies = st.integers(1, 6)
operations = st.integers(0, 7)


def session(program: Program, cpus: int, rng: Random | None) -> Fleet:
    settings = config(cpus=cpus, gpus=1, arena_bytes=1 << 20, warm_bytes_max=1 << 12, stall_after=5 * MILLISECOND)
    return Fleet(settings, bodies_of(program), rng)


def run_and_compare(program: Program, fleet: Fleet) -> None:
    made = fleet.driver.submit("body0", return_count=program[0].returns, retries_max=1000)
    assert outcome(fleet, made) == [box.told() for box in plainly(program)], "S1"
    fleet.driver.drop_all()
    fleet.run()
    fleet.check_empty()
    event(f"tasks: {len(fleet.executions).bit_length()} bits")


@given(seeds, bodies, operations, st.integers(2, 4))
@example(seed=265779572, bodies=4, operations=7, cpus=4)  # many tasks pass through the global scheduler of a node that is alone
def test_in_order(seed: int, bodies: int, operations: int, cpus: int) -> None:
    program = draw_program(Random(seed), bodies, operations)
    fleet = session(program, cpus, None)
    run_and_compare(program, fleet)
    assert set(fleet.executions.values()) <= {1}, "S7"


@given(seeds, bodies, operations, st.integers(2, 3))
def test_in_any_order(seed: int, bodies: int, operations: int, cpus: int) -> None:
    rng = Random(seed)
    program = draw_program(rng, bodies, operations)
    fleet = session(program, cpus, rng)
    run_and_compare(program, fleet)
    assert set(fleet.executions.values()) <= {1}, "S7"


@given(seeds, bodies, operations, st.integers(2, 3), st.integers(1, 6))
def test_with_workers_killed_at_any_moment(seed: int, bodies: int, operations: int, cpus: int, kills: int) -> None:
    rng = Random(seed)
    program = draw_program(rng, bodies, operations)
    fleet = session(program, cpus, Random(seed + 1))
    every = rng.choice((5, 30, 150))

    def kill_sometimes(fleet: Fleet) -> None:
        if fleet.killed < kills and fleet.workers and not rng.randrange(every):
            number = rng.choice(list(fleet.workers))
            note(f"{fleet.now}: worker {number} dies")
            fleet.kill(number)
        for worker in fleet.workers.values():
            worker.silent = every == 30 and worker.number % 2 == 0

    fleet.before_round = kill_sometimes
    run_and_compare(program, fleet)


#: How a get may end in a session that lacks everything.
ENDS = (BOOM, *[kind.value for kind in FailureKind if kind not in (FailureKind.OBJECT_LOST, FailureKind.SESSION_CLOSED)])


@given(seeds, bodies, operations)
def test_with_little_of_everything_every_get_ends_and_nothing_is_left(seed: int, bodies: int, operations: int) -> None:
    rng = Random(seed)
    program = draw_program(rng, bodies, operations, waiting_with_gpu=True)
    settings = config(
        cpus=2,
        workers=1,
        gpus=1,
        worker_processes_max=rng.choice((2, 4, 512)),
        arena_bytes=rng.choice((256, 1024, 1 << 20)),
        store_full_grace=MILLISECOND,
        warm_bytes_max=256,
        submitted_unfinished_max=rng.choice((3, 1000)),
        stall_after=5 * MILLISECOND,
    )
    retries = rng.choice((0, 2))
    fleet = Fleet(settings, bodies_of(program, retries), Random(seed + 1))
    fleet.start_fails = lambda number: None if rng.randrange(4) else "no more processes"
    every = rng.choice((20, 200))

    def kill_sometimes(fleet: Fleet) -> None:
        if fleet.killed < 10 and fleet.workers and not rng.randrange(every):
            fleet.kill(rng.choice(list(fleet.workers)))

    fleet.before_round = kill_sometimes
    made = fleet.driver.submit("body0", return_count=program[0].returns, retries_max=retries)
    for told in outcome(fleet, made, ENDS):
        event(f"ends: {told if isinstance(told, str) else 'values'}")
    fleet.driver.drop_all()
    fleet.run()
    fleet.check_empty()
    assert not fleet.process.paused
