"""Traces of whole runs, of both engines: they hold to the format, show what happened, and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sundog
from sundog import workloads
from tests.simulated.test_trace import validated


def slices(events: dict[str, list[Any]], kind: str) -> list[Any]:
    return [event for event in events["X"] if event["cat"] == kind]


def instants(events: dict[str, list[Any]]) -> list[str]:
    return [event["name"] for event in events["i"]]


@pytest.mark.parametrize("name", ["run.json", "run.json.gz"])
def test_a_workload_is_traced(name: str, tmp_path: Path) -> None:
    work = workloads.map_reduce(20, 4, 0.1, reduce_duration=0.2, partition=2 << 20)
    path = tmp_path / name
    report = sundog.simulate(work, 3, num_cpus=2, seed=1, trace=path)
    events = validated(path)
    assert len(slices(events, "map")) + len(slices(events, "reduce")) == report.tasks == 24
    assert len(slices(events, "transfer")) == 2 * report.fetches > 0
    values = [event for event in events["s"] if event["cat"] == "value"]
    assert len(values) == report.edges == 80
    assert {event["name"] for event in events["C"]} == {"tasks", "store bytes", "tasks queued", "tasks running"}
    assert instants(events) == ["joins"] * 3
    last = max(event["ts"] + event["dur"] for event in events["X"])
    assert last == pytest.approx(report.makespan * 1e6)
    untraced = sundog.simulate(work, 3, num_cpus=2, seed=1)
    assert (untraced.makespan, untraced.events, untraced.steps) == (report.makespan, report.events, report.steps)


def test_faults_joins_and_what_they_cost_are_shown(tmp_path: Path) -> None:
    work = workloads.independent(40, 0.1, size=1 << 20)
    cluster: list[dict[str, Any]] = [{"num_cpus": 1}, {"num_cpus": 2, "count": 2}, {"num_cpus": 1, "joins": 0.2, "leaves": 0.45}]
    path = tmp_path / "run.json"
    report = sundog.simulate(work, cluster, seed=1, faults="kill node 1 at 150 ms for 100 ms", trace=path)
    events = validated(path)
    told = instants(events)
    assert told.count("joins") == 5  # three, one late, one that was started again
    assert told.count("is gone") == 2
    assert any("kill node 1" in text for text in told)
    assert len(slices(events, "lost")) == report.retries > 0
    assert len(slices(events, "independent")) == 40


def test_a_run_that_fails_leaves_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with pytest.raises(OSError, match="No such file or directory"):
        sundog.simulate(workloads.independent(1), trace=tmp_path / "none" / "run.json")
    with pytest.raises(TypeError, match="trace takes the path of a file, not 3"):
        sundog.simulate(workloads.independent(1), trace=3)  # type: ignore[arg-type]
    with pytest.raises(sundog.SundogError, match="needs 1 CPU; no node has it"):
        sundog.simulate(workloads.independent(4, 0.1), [{"num_cpus": 0}, {"num_cpus": 1, "leaves": 0.15}], trace=path)
    events = validated(path)
    assert len(slices(events, "independent")) == 1
    assert "is gone" in instants(events)


@sundog.remote
def produce(index: int) -> bytes:
    return bytes([index]) * 300_000


@sundog.remote
def consume(*parts: bytes) -> int:
    sundog.sleep(0.01)
    return sum(len(part) for part in parts)


@sundog.remote
def fail() -> None:
    raise ValueError("no")


def test_a_program_is_traced(tmp_path: Path) -> None:
    def program(trace: Path | None) -> tuple[int, float]:
        import time

        sundog.init(backend="simulated", nodes=3, num_cpus=2, seed=5, trace=trace)
        try:
            parts = [produce.options(duration=0.2).remote(index) for index in range(12)]
            total = sundog.get(consume.remote(*parts))
            with pytest.raises(sundog.TaskError):
                sundog.get(fail.remote())
            return total, time.monotonic()
        finally:
            sundog.shutdown()

    path = tmp_path / "program.json.gz"
    assert program(path) == program(None)
    events = validated(path)
    names = [event["name"] for event in slices(events, "task")]
    assert [sum(name.endswith(end) for name in names) for end in ("produce", "consume")] == [12, 1]
    (failed,) = slices(events, "failed")
    assert failed["args"]["outcome"] == "failed"
    assert len([event for event in events["s"] if event["cat"] == "value"]) == 12
    assert slices(events, "transfer")
    assert instants(events)[:3] == ["joins"] * 3


def test_a_trace_that_cannot_be_written_is_refused_by_init(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory"):
        sundog.init(backend="simulated", trace=tmp_path / "none" / "run.json")
    with pytest.raises(TypeError, match="trace takes the path"):
        sundog.init(backend="simulated", trace=7)
