"""Traces: every event well formed, arrows in pairs and inside their slices, nothing on top of anything else."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sundog.backends.simulated.costs.durations import Exponential, Uniform
from sundog.backends.simulated.experiment.trace import Trace
from sundog.backends.simulated.workloads import generators
from sundog.backends.simulated.workloads.workload import Workload, task
from sundog.core.units import MILLISECOND, SECOND
from tests.support.list_scheduler import run

Event = dict[str, Any]

#: Of each phase, the keys that it must have and those that it may have.
KEYS = {
    "M": ({"ph", "pid", "tid", "name", "args"}, set()),
    "X": ({"ph", "pid", "tid", "ts", "dur", "cat", "name"}, {"args"}),
    "s": ({"ph", "pid", "tid", "ts", "id", "cat", "name"}, set()),
    "f": ({"ph", "pid", "tid", "ts", "id", "cat", "name", "bp"}, set()),
    "C": ({"ph", "pid", "tid", "ts", "name", "args"}, set()),
    "i": ({"ph", "pid", "tid", "ts", "s", "cat", "name"}, {"args"}),
}


def nanos(micros: float) -> int:
    return round(micros * 1000)


def validated(path: Path) -> dict[str, list[Event]]:
    """Return the events of a trace by phase, after holding it to the format."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    document = json.loads(content, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert set(document) == {"displayTimeUnit", "otherData", "traceEvents"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    by_phase: dict[str, list[Event]] = defaultdict(list)
    for event in document["traceEvents"]:
        must, may = KEYS[event["ph"]]
        assert must <= set(event) <= must | may, event
        assert type(event["pid"]) is int
        assert event["pid"] > 0
        assert type(event["tid"]) is int
        assert isinstance(event["name"], str)
        assert event["name"]
        for key in ("ts", "dur"):
            if key in event:
                assert type(event[key]) is float
                assert event[key] >= 0
        by_phase[event["ph"]].append(event)
    check_names(by_phase)
    check_slices(by_phase["X"])
    check_flows(by_phase)
    check_counters(by_phase["C"])
    for event in by_phase["i"]:
        assert event["s"] in ("g", "p")
    return by_phase


def check_names(events: dict[str, list[Event]]) -> None:
    """Every process and thread that is used has exactly one name."""
    processes = [e["pid"] for e in events["M"] if e["name"] == "process_name"]
    threads = [(e["pid"], e["tid"]) for e in events["M"] if e["name"] == "thread_name"]
    assert len(set(processes)) == len(processes)
    assert len(set(threads)) == len(threads)
    assert {(e["pid"], e["tid"]) for e in events["X"]} == set(threads)
    assert {e["pid"] for phase in "XsfCi" for e in events[phase]} <= set(processes)
    for event in events["M"]:
        (key,) = event["args"]
        assert key == ("name" if event["name"].endswith("_name") else "sort_index")


def check_slices(slices: list[Event]) -> None:
    """Slices of a thread do not overlap."""
    by_thread: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in slices:
        begin = nanos(event["ts"])
        by_thread[event["pid"], event["tid"]].append((begin, begin + nanos(event["dur"])))
    for spans in by_thread.values():
        spans.sort()
        for (_, end), (begin, _) in pairwise(spans):
            assert begin >= end, "two slices of one thread overlap"


def check_flows(events: dict[str, list[Event]]) -> None:
    """Arrows have one beginning and one end, not before it, each within a slice of its thread."""
    spans: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in events["X"]:
        at = nanos(event["ts"])
        spans[event["pid"], event["tid"]].append((at, at + nanos(event["dur"])))
    begins = {e["id"]: e for e in events["s"]}
    ends = {e["id"]: e for e in events["f"]}
    assert len(begins) == len(events["s"])
    assert len(ends) == len(events["f"])
    assert begins.keys() == ends.keys()
    for number, begin in begins.items():
        end = ends[number]
        assert end["bp"] == "e"
        assert (begin["cat"], begin["name"]) == (end["cat"], end["name"])
        assert begin["ts"] <= end["ts"]
        for event in (begin, end):
            at = nanos(event["ts"])
            assert any(a <= at < max(b, a + 1) for a, b in spans[event["pid"], event["tid"]]), event


def check_counters(counters: list[Event]) -> None:
    """The values of a counter are numbers, in the order of their times, each another than the one before."""
    last: dict[tuple[int, str], tuple[float, float]] = {}
    for event in counters:
        ((_, value),) = event["args"].items()
        assert type(value) in (int, float)
        key = (event["pid"], event["name"])
        if key in last:
            assert event["ts"] >= last[key][0]
            assert value != last[key][1]
        last[key] = (event["ts"], value)


def test_a_run_becomes_a_timeline(tmp_path: Path) -> None:
    workload = generators.layered_random(8, 6, Uniform(0, 2), reach=2, size=100, seed=4)
    measures = run(workload, nodes=3, cpus=2)
    with Trace(tmp_path / "run.json", 3, "a run") as trace:
        trace.tasks(measures)
    events = validated(tmp_path / "run.json")
    slices = {e["args"]["number"]: e for e in events["X"]}
    assert len(slices) == len(workload)
    for index in range(len(workload)):
        event = slices[index]
        assert nanos(event["ts"]) == measures.started_at[index]
        assert nanos(event["dur"]) == workload[index].duration
        assert event["pid"] == measures.node[index] + 2
        assert event["args"]["task"] == workload.name_of(index)
        assert event["args"]["bytes"] == 100
        assert event["args"]["queued_us"] >= 0
    assert len(events["s"]) == workload.edge_count()
    names = {e["args"]["name"] for e in events["M"] if e["name"] == "process_name"}
    assert names == {"a run", "node 0", "node 1", "node 2"}
    running = [e["args"]["value"] for e in events["C"] if e["name"] == "tasks running"]
    assert max(running) <= 6
    assert running[-1] == 0


def test_arrows_go_from_producer_to_consumer(tmp_path: Path) -> None:
    workload = Workload([task(1, name="a"), task(0, name="none", inputs=[0]), task(1, name="b", inputs=[0, 1])])
    with Trace(tmp_path / "t.json", ["one"]) as trace:
        trace.tasks(run(workload, cpus=2))
    events = validated(tmp_path / "t.json")
    arrows = [(nanos(s["ts"]), nanos(f["ts"])) for s, f in zip(events["s"], events["f"], strict=True)]
    assert arrows == [(SECOND - 1, SECOND), (SECOND - 1, SECOND), (SECOND, SECOND)]
    with Trace(tmp_path / "plain.json", 1) as trace:
        trace.tasks(run(workload, cpus=2), flows=False)
    assert not validated(tmp_path / "plain.json")["s"]


def test_what_happens_on_the_way(tmp_path: Path) -> None:
    with Trace(tmp_path / "t.json.gz", 2) as trace:
        trace.counter(0, "bytes in store", 0, 0)
        trace.counter(0, "bytes in store", 5, 1 << 40)
        trace.counter(0, "bytes in store", 6, 1 << 40)
        trace.counter(1, "bytes in store", 3, 7)
        trace.instant(1, 'node "1" dies', 1_234_567, {"reason": "a test"})
        trace.instant(None, "the network parts", 2 * SECOND)
        trace.slice(0, 2, "lost attempt", 10, 40)
        trace.slice(0, 1, "driver waits", 10, 40, kind="driver")
        # Two at the same time share neither lane; the third takes one that is free again.
        trace.transfer(0, 1, "x", 100, 300, 5000)
        trace.transfer(0, 1, "y", 200, 400, 6000)
        trace.transfer(0, 1, "z", 300, 500, 7000)
        trace.transfer(1, 0, "w", 500, 500, 0)
    events = validated(tmp_path / "t.json.gz")
    assert [e["args"]["value"] for e in events["C"]] == [0, 1 << 40, 7], "a value that does not change is not said again"
    assert [(e["name"], e["s"], e["ts"]) for e in events["i"]] == [
        ('node "1" dies', "p", 1234.567),
        ("the network parts", "g", 2_000_000),
    ]
    transfers = [e for e in events["X"] if e["cat"] == "transfer"]
    assert len(transfers) == 8
    lanes = {e["name"]: e["tid"] for e in transfers if e["pid"] == 3 and e["name"] != "w"}
    assert lanes["x"] == lanes["z"] != lanes["y"]
    assert len(events["s"]) == 4
    assert {e["args"]["name"] for e in events["M"] if e["name"] == "thread_name"} >= {
        "driver",
        "worker 2",
        "sending 0",
        "receiving 1",
    }


def test_the_books_of_bodies_that_wait(tmp_path: Path) -> None:
    workload = generators.nested(2, 3, Exponential(1.0), before=0.5, after=0.5, seed=2)
    measures = run(workload, cpus=8)
    with Trace(tmp_path / "t.json", 1) as trace:
        trace.tasks(measures)
    parents = [e for e in validated(tmp_path / "t.json")["X"] if e["name"] == "parent"]
    assert len(parents) == 2
    for event in parents:
        assert nanos(event["dur"]) == SECOND + nanos(event["args"]["waited_us"])


def test_a_trace_is_written_as_it_goes(tmp_path: Path) -> None:
    with Trace(tmp_path / "t.json", 1) as trace:
        for at in range(15_000):
            trace.slice(0, 2, "step", at * MILLISECOND, (at + 1) * MILLISECOND)
        assert (tmp_path / "t.json").stat().st_size > 1_000_000, "most of it is there before the end"
        trace.close()
    assert len(validated(tmp_path / "t.json")["X"]) == 15_000


def test_what_no_trace_can_say(tmp_path: Path) -> None:
    with Trace(tmp_path / "t.json", 1) as trace:
        with pytest.raises(ValueError, match="'x' on node 0: its end, 3 ns, is before its start, 5 ns"):
            trace.slice(0, 2, "x", 5, 3)
        trace.tasks(run(Workload([])))
    validated(tmp_path / "t.json")
    with pytest.raises(FileNotFoundError):
        Trace(tmp_path / "no" / "folder.json", 1)
