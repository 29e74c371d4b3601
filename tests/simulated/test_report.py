"""What an experiment writes down, the laws that it must keep, and what is reported of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest

from sundog.backends.simulated.costs.durations import Exponential, Uniform
from sundog.backends.simulated.experiment.measures import Measures, exact_sum, whole
from sundog.backends.simulated.experiment.report import Report, Spread, compare, estimate, student_t, summary
from sundog.backends.simulated.workloads import generators
from sundog.backends.simulated.workloads.workload import PUT, Get, Submit, Workload, compute, task
from sundog.core.errors import InvariantViolation
from sundog.core.resources import CPU, ONE_CPU, UNIT
from sundog.core.units import SECOND
from tests.support.list_scheduler import run

TWO = ((CPU, 2 * UNIT),)


def by_hand() -> Measures:
    """Return the record of a small run: a on node 0; b takes it on node 1, is lost once there, and runs on node 0."""
    workload = Workload([task(2, name="a"), task(3, name="b", inputs=[0]), task(1, name="c", at=1)], "by hand")
    m = Measures(workload, [ONE_CPU, TWO])
    m.submitted(0, 0)
    m.submitted(1, 0)
    m.started(0, 0, 0, 2)
    m.submitted(2, SECOND)
    m.started(2, SECOND, 1, 2)
    m.finished(2, 2 * SECOND)
    m.finished(0, 2 * SECOND)
    m.started(1, 3 * SECOND, 1, 3)
    m.lost(1, 4 * SECOND)
    m.started(1, 5 * SECOND, 0, 2)
    m.finished(1, 8 * SECOND)
    m.sent(0, 500)
    m.received(1, 500)
    m.stored = [700, 500]
    m.freed = [200, 500]
    m.resident = [500, 0]
    m.close(8 * SECOND, 0.5)
    return m


def test_a_report_says_what_happened() -> None:
    m = by_hand()
    m.evicted(0, 200)
    m.store_used(0, 700)
    m.store_used(0, 600)
    m.spilled_out[0] += 1
    m.messages_remote += 7
    report = Report.of(m, policy="by hand", seed=4)
    assert (report.tasks, report.edges, report.unfinished, report.nodes, report.cpus) == (3, 1, 0, 2, 3)
    assert (report.makespan, report.work, report.critical_path, report.bound) == (8, 6, 5, 5)
    assert report.response == Spread(3, 11 / 3, 2, 8, 8, 8)
    # a did not wait, c neither; b could have begun at 2, and the attempt that counts began at 5.
    assert report.queueing == Spread(3, 1, 0, 3, 3, 3)
    assert report.utilisation == (5 / 8, 2 / 16)
    assert (report.retries, report.wasted) == (1, 1)
    assert (report.fetches, report.bytes_moved, report.evictions, report.bytes_evicted, report.store_peak) == (1, 500, 1, 200, 700)
    assert (report.spilled, report.messages_remote) == (1, 7)
    assert (report.seconds, report.lives_per_second) == (0.5, 6)
    assert Report.of(m, first=2).response.count == 1


def test_values_that_are_put_are_not_among_the_times() -> None:
    workload = Workload([task(function=PUT, outputs=(9,), resources=()), task(1, inputs=[0])])
    report = Report.of(run(workload))
    assert report.response == Spread(1, 1, 1, 1, 1, 1)


def test_what_has_not_finished() -> None:
    m = Measures(Workload([task(1), task(9), task(5, inputs=[1])]), [TWO])
    for index in range(3):
        m.submitted(index, 0)
    m.started(0, 0, 0, 2)
    m.started(1, SECOND, 0, 3)
    m.finished(0, SECOND)
    m.close(4 * SECOND, 1.0)
    report = Report.of(m)
    assert report.unfinished == 2
    assert m.unfinished() == [1, 2]
    assert report.response.count == 1
    assert m.busy_at_end() == [4 * SECOND * UNIT]
    nothing = Measures(Workload([]), [TWO])
    nothing.close(0, 0.0)
    assert Report.of(nothing).makespan == 0


def test_a_body_that_waits_is_not_busy_and_its_attempt_may_be_lost_while_it_does() -> None:
    workload = Workload([task(steps=[compute(1), Submit((1,)), Get((1,)), compute(1)]), task(4, parent=0)])
    m = Measures(workload, [ONE_CPU])
    m.submitted(0, 0)
    m.started(0, 0, 0, 2)
    m.submitted(1, SECOND)
    m.blocked(0, SECOND)
    m.started(1, SECOND, 0, 3)
    m.lost(0, 2 * SECOND, blocked=True)
    m.started(0, 2 * SECOND, 0, 2)
    m.blocked(0, 3 * SECOND)
    m.finished(1, 5 * SECOND)
    m.resumed(0, 5 * SECOND)
    m.finished(0, 6 * SECOND)
    m.close(6 * SECOND, 0.0)
    m.check()
    assert m.wasted == [SECOND * UNIT]
    assert m.busy == [(1 + 2 + 4) * SECOND * UNIT]
    assert m.blocked_for == {0: 2 * SECOND}


@dataclass
class Planted:
    """Something wrong with a record, and the words in which it must be found."""

    spoil: Callable[[Measures], None]
    text: str


PLANTED = {
    "finished twice": Planted(lambda m: m.finished(2, 6 * SECOND), "4 ends of 3 tasks"),
    "submitted twice": Planted(lambda m: m.submitted(2, SECOND), "4 submissions of 3 tasks"),
    "another finish": Planted(
        lambda m: m.finished_at.__setitem__(2, 3 * SECOND), "Little's law: response times come to 12000000000 ns"
    ),
    "started before its input": Planted(
        lambda m: m.started_at.__setitem__(1, SECOND), r"b: submitted 0, ready 2000000000, started 1"
    ),
    "ended before its duration": Planted(lambda m: m.started_at.__setitem__(0, SECOND), "a: .* no order of a life"),
    "after the end": Planted(lambda m: m.close(7 * SECOND, 0.0), "b: .* finished 8000000000.* over at 7000000000"),
    "busy for nothing": Planted(lambda m: m.busy.__setitem__(1, m.busy[1] + 1), "node 1: tasks computed .* they differ by 1"),
    "wrong node": Planted(lambda m: m.node.__setitem__(2, 0), "node 0: tasks computed"),
    "bytes from nowhere": Planted(lambda m: m.received(1, 20), "bytes: 500 sent, 520 received, 0 dropped, 0 under way: -20"),
    "bytes gone": Planted(lambda m: m.sent(1, 20), "20 are nowhere"),
    "store leaks": Planted(
        lambda m: m.resident.__setitem__(1, 8), "node 1: 500 bytes came into its store, 500 left it, 8 are in it"
    ),
}


@pytest.mark.parametrize("case", PLANTED)
def test_books_that_do_not_agree_are_found(case: str) -> None:
    m = by_hand()
    m.check()
    m = by_hand()
    PLANTED[case].spoil(m)
    with pytest.raises(InvariantViolation, match=PLANTED[case].text):
        Report.of(m)


def test_more_busy_than_there_are_cpus() -> None:
    m = Measures(Workload([task(5), task(5)]), [ONE_CPU])
    for index in range(2):
        m.submitted(index, 0)
        m.started(index, 0, 0, index + 2)
        m.finished(index, 5 * SECOND)
    m.close(5 * SECOND, 0.0)
    with pytest.raises(InvariantViolation, match="node 0: busy for 100000000000000 CPU share ns, and all its CPUs"):
        m.check()


def test_faster_than_any_schedule() -> None:
    report = Report.of(by_hand())
    with pytest.raises(InvariantViolation, match=r"makespan of 4\.0 s is below 5\.0 s"):
        msgspec.structs.replace(report, makespan=4.0).check()


def test_bytes_that_were_dropped_or_are_under_way_are_accounted_for() -> None:
    m = by_hand()
    m.sent(0, 30)
    m.bytes_dropped += 10
    m.bytes_in_flight = 20
    m.check()


@pytest.mark.parametrize("seed", range(5))
def test_the_laws_hold_on_random_runs(seed: int) -> None:
    for workload in (
        generators.layered_random(10, 8, Uniform(0, 2), seed=seed),
        generators.poisson(3.0, 300, Exponential(1.0), seed=seed),
        generators.nested(3, 4, Exponential(1.0), depth=2, before=0.1, after=0.2, seed=seed),
    ):
        report = Report.of(run(workload, nodes=2, cpus=2), seed=seed)
        assert 0 < report.utilisation_mean <= 1
        assert report.queueing.mean <= report.response.mean
        assert report.slowdown >= 1 or "nested" in workload.name


def test_percentiles_are_nearest_rank() -> None:
    spread = Spread.of([n * SECOND for n in range(1, 101)])
    assert (spread.p50, spread.p90, spread.p99, spread.max, spread.mean, spread.count) == (50, 90, 99, 100, 50.5, 100)
    assert Spread.of([7 * SECOND]) == Spread(1, 7, 7, 7, 7, 7)
    assert Spread.of([]) == Spread()


def test_sums_stay_exact_beyond_64_bits() -> None:
    numbers = [(1 << 62) + n for n in range(9)] + [-(1 << 61)]
    assert exact_sum(whole(numbers)) == sum(numbers)


def reports(count: int = 6) -> list[Report]:
    return [
        Report.of(run(generators.poisson(3.0, 400, Exponential(1.0), seed=seed)), policy="fifo", seed=seed) for seed in range(count)
    ]


def test_json_brings_a_report_back() -> None:
    report = Report.of(by_hand(), cluster="two boxes", policy="p", seed="s", digest="ab")
    assert Report.from_json(report.to_json()) == report
    with pytest.raises(msgspec.ValidationError, match="makespan"):
        Report.from_json(report.to_json().replace('"makespan": 8.0', '"makespan": "long"'))


def test_tables() -> None:
    report = Report.of(by_hand(), policy="p")
    lines = str(report).splitlines()
    assert len({len(line) for line in lines}) == 1, "aligned"
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines}
    assert cells["makespan"] == "8 s"
    assert cells["response mean / p50 / p90 / p99 / max"] == "3.667 s / 2 s / 8 s / 8 s / 8 s"
    assert cells["utilisation mean (least to most)"] == "37.5% (12.5% to 62.5%)"
    assert cells["values fetched, bytes moved"] == "1, 500 B"
    assert cells["cluster"] == "2 nodes, 3 CPUs"
    other = msgspec.structs.replace(report, policy="q", makespan=9.0)
    table = compare([report, other])
    head = [cell.strip() for cell in table.splitlines()[0].split("|")[2:-1]]
    assert head == ["p", "q"]
    row = next(line for line in table.splitlines() if line.startswith("| makespan  "))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["8 s", "9 s"]
    assert "evictions" not in table, "nothing was evicted in any"
    with pytest.raises(ValueError, match="no reports"):
        compare([])


def test_a_summary_has_the_mean_and_its_interval() -> None:
    found = reports()
    whole_summary = summary(found)
    makespans = [report.makespan for report in found]
    one = whole_summary["makespan"]
    assert one.mean == pytest.approx(statistics.mean(makespans))
    assert one.half_width == pytest.approx(2.570582 * statistics.stdev(makespans) / 6**0.5, rel=1e-6)
    assert one.mean in one
    assert one.mean + 1.01 * one.half_width not in one
    assert "95% CI" in str(whole_summary)
    assert whole_summary["response mean"].mean == pytest.approx(statistics.mean(r.response.mean for r in found))
    with pytest.raises(ValueError, match="one and the same run"):
        summary([found[0], msgspec.structs.replace(found[0], seconds=9.0)])
    with pytest.raises(ValueError, match="two values or more, not 1"):
        summary(found[:1])


def test_student_t() -> None:
    table = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 10: 2.2281, 29: 2.0452, 100: 1.9840}
    for degrees, t in table.items():
        assert student_t(degrees, 0.95) == pytest.approx(t, abs=1e-4)
    assert student_t(9, 0.99) == pytest.approx(3.2498, abs=1e-4)
    with pytest.raises(ValueError, match="level"):
        estimate([1, 2], level=95)


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    import random

    generator = random.Random(11)
    hits = sum(2.0 in estimate([generator.gauss(2.0, 3.0) for _ in range(5)]) for _ in range(2000))
    assert 1870 <= hits <= 1930, hits
