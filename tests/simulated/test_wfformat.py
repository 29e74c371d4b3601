"""WfFormat documents: read, written, and refused with the place of what is wrong."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import sundog
from sundog.backends.simulated.costs.durations import Uniform
from sundog.backends.simulated.workloads import generators
from sundog.backends.simulated.workloads.wfformat import Instance, Machine, read_wfformat, write_wfformat
from sundog.backends.simulated.workloads.workload import PUT, Workload, WorkloadError, task
from sundog.core.resources import CPU, UNIT
from sundog.core.units import SECOND

#: A workflow of ours: one input file, a split, two that work on the parts, a merge that also waits for a check.
DOCUMENT: dict[str, Any] = {
    "name": "split-and-merge",
    "schemaVersion": "1.6",
    "unknown": {"is": "passed over"},
    "workflow": {
        "specification": {
            "tasks": [
                {
                    "name": "merge", "id": "m", "parents": ["w1", "w2", "check"], "children": [],
                    "inputFiles": ["r1", "r2"], "outputFiles": ["all"],
                },
                {
                    "name": "split", "id": "s", "parents": [], "children": ["w1", "w2"],
                    "inputFiles": ["raw"], "outputFiles": ["p1", "p2"],
                },
                {
                    "name": "work", "id": "w1", "parents": ["s"], "children": ["m"],
                    "inputFiles": ["p1", "raw"], "outputFiles": ["r1"],
                },
                {"name": "work", "id": "w2", "parents": ["s"], "children": ["m"], "inputFiles": ["p2"], "outputFiles": ["r2"]},
                {"name": "check", "id": "check", "parents": [], "children": ["m"]},
            ],
            "files": [
                {"id": "raw", "sizeInBytes": 5000}, {"id": "p1", "sizeInBytes": 100}, {"id": "p2", "sizeInBytes": 200},
                {"id": "r1", "sizeInBytes": 10}, {"id": "r2", "sizeInBytes": 20}, {"id": "all", "sizeInBytes": 30},
            ],
        },
        "execution": {
            "makespanInSeconds": 9.5,
            "executedAt": "2026-01-01T00:00:00Z",
            "tasks": [
                {"id": "s", "runtimeInSeconds": 1.5, "coreCount": 1, "machines": ["box"]},
                {"id": "w1", "runtimeInSeconds": 4, "coreCount": 2},
                {"id": "w2", "runtimeInSeconds": 3.25, "coreCount": 1.5},
                {"id": "m", "runtimeInSeconds": 2.000000001},
                {"id": "check", "runtimeInSeconds": 0},
            ],
            "machines": [
                {"nodeName": "box", "memoryInBytes": 64000000000, "cpu": {"coreCount": 16, "speedInMHz": 3000}},
                {"nodeName": "bare"},
            ],
        },
    },
}  # fmt: skip

#: The same in the form of 1.4, where a task has its files and its runtime, and parents may go by their names.
DOCUMENT_14: dict[str, Any] = {
    "name": "old",
    "schemaVersion": "1.4",
    "workflow": {
        "makespanInSeconds": 3,
        "executedAt": "2020-01-01T00:00:00Z",
        "machines": [{"nodeName": "old-box", "cpu": {"count": 4, "speed": 2000}, "memoryInBytes": 1000}],
        "tasks": [
            {
                "name": "b_ID2", "id": "ID2", "type": "compute", "parents": ["a_ID1"], "runtimeInSeconds": 2, "cores": 2,
                "files": [{"link": "input", "name": "x", "sizeInBytes": 7}, {"link": "output", "name": "y", "sizeInBytes": 8}],
            },
            {
                "name": "a_ID1", "id": "ID1", "type": "compute", "parents": [], "runtimeInSeconds": 1,
                "files": [{"link": "output", "name": "x", "sizeInBytes": 7}],
            },
        ],
    },
}  # fmt: skip


def write(folder: Path, document: Any) -> Path:
    path = folder / "workflow.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_a_document_becomes_a_graph(tmp_path: Path) -> None:
    workload, machines = read_wfformat(write(tmp_path, DOCUMENT))
    workload.validate([((CPU, 2 * UNIT),)])
    by_name = {workload.name_of(i): (i, one) for i, one in enumerate(workload)}
    assert list(by_name) == ["raw", "s", "w1", "w2", "check", "m"], "producers first, else as it stands there"
    put, (split, _) = by_name["raw"][1], by_name["s"]
    assert (put.function, put.outputs, put.resources, put.duration) == (PUT, (5000,), (), 0)
    assert by_name["s"][1].outputs == (100, 200)
    assert by_name["w1"][1].inputs == ((split, 0), (by_name["raw"][0], 0))
    assert by_name["w2"][1].inputs == ((split, 1),)
    assert by_name["w1"][1].resources == ((CPU, 2 * UNIT),)
    assert by_name["w2"][1].resources == ((CPU, 15_000),)
    assert by_name["check"][1].outputs == (0,), "an output of nothing for who only waits for it"
    assert by_name["m"][1].inputs == ((2, 0), (3, 0), (4, 0))
    assert by_name["m"][1].duration == 2 * SECOND + 1
    assert by_name["m"][1].function == "merge"
    assert workload.critical_path() == 7_500_000_001
    assert machines == (Machine("box", ((CPU, 16 * UNIT),), 64_000_000_000), Machine("bare"))


def test_older_versions(tmp_path: Path) -> None:
    workload, machines = read_wfformat(write(tmp_path, DOCUMENT_14))
    assert [(one.name, one.duration, one.inputs, one.outputs) for one in workload] == [
        ("ID1", SECOND, (), (7,)),
        ("ID2", 2 * SECOND, ((0, 0),), (8,)),
    ]
    assert workload[1].resources == ((CPU, 2 * UNIT),)
    assert machines == (Machine("old-box", ((CPU, 4 * UNIT),), 1000),)
    newest = read_wfformat(write(tmp_path, DOCUMENT))
    same = read_wfformat(write(tmp_path, DOCUMENT | {"schemaVersion": "1.5"}))
    assert (list(same.workload), same.machines) == (list(newest.workload), newest.machines)


def test_a_workflow_that_was_never_run_takes_runtimes_that_are_given(tmp_path: Path) -> None:
    document = deepcopy(DOCUMENT)
    del document["workflow"]["execution"]
    with pytest.raises(WorkloadError, match=r"tasks\[0\].id: 'm' has no runtime .* runtime="):
        read_wfformat(write(tmp_path, document))
    workload, machines = read_wfformat(write(tmp_path, document), runtime=2.0, node=3)
    assert workload.work() == 10 * SECOND
    assert {one.node for one in workload} == {3}
    assert machines == ()
    drawn = [read_wfformat(write(tmp_path, document), runtime=Uniform(1, 2), seed=seed)[0].work() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_is_read_is_written_and_read_again(tmp_path: Path) -> None:
    first, machines = read_wfformat(write(tmp_path, DOCUMENT))
    write_wfformat(first, tmp_path / "again.json", machines=machines, makespan=9.5)
    again, same_machines = read_wfformat(tmp_path / "again.json")
    assert list(again) == list(first)
    assert [one.shape for one in same_machines] == [one.shape for one in machines]
    written = json.loads((tmp_path / "again.json").read_text())
    assert written["schemaVersion"] == "1.6"
    assert written["workflow"]["execution"]["makespanInSeconds"] == 9.5
    specified = {one["id"]: one for one in written["workflow"]["specification"]["tasks"]}
    assert specified["m"]["parents"] == ["w1", "w2", "check"]
    assert specified["check"]["children"] == ["m"]
    assert specified["s"]["parents"] == [], "the schema wants it there even when it is empty"
    assert "raw" not in specified
    assert specified["w1"]["inputFiles"] == ["s.out0", "raw"]


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs_survive_the_round_trip(tmp_path: Path, seed: int) -> None:
    workload = generators.layered_random(8, 6, Uniform(0, 10), reach=3, size=Uniform(0, 1e9), seed=seed)
    odd = Workload(
        [*workload, task(1, resources={"CPU": 0.5}), task(2, resources={"GPU": 1, "CPU": 2}), task(3, name="a name with spaces")]
    )
    write_wfformat(odd, tmp_path / "odd.json")
    again, _ = read_wfformat(tmp_path / "odd.json")
    # The reader takes tasks without inputs where they stand, so only the names are new.
    assert [(t.duration, t.inputs, t.outputs, t.resources, t.function) for t in again] == [
        (t.duration, t.inputs, t.outputs, t.resources, t.function) for t in odd
    ]


def test_what_the_format_cannot_say_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="parent-0 submits tasks"):
        write_wfformat(generators.nested(1, 2), tmp_path / "nested.json")
    assert not (tmp_path / "nested.json").exists()


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """Return the document with the value at ``path`` replaced."""
    document = deepcopy(DOCUMENT)
    part: Any = document["workflow"]
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = to
    return document


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("{not", "is no JSON"),
    "no object": ([1], r"is no WfFormat document: Expected `object`, got `array`"),
    "version": (DOCUMENT | {"schemaVersion": "1.1"}, r"\$.schemaVersion is '1.1'; 1.4, 1.5 and 1.6 can be read"),
    "no workflow": ({"name": "x", "schemaVersion": "1.6"}, "missing required field `workflow`"),
    "type": (
        changed("execution", "tasks", 1, "runtimeInSeconds", to="long"),
        r"Expected `float`, got `str` - at `\$.workflow.execution.tasks\[1\].runtimeInSeconds`",
    ),
    "negative runtime": (
        changed("execution", "tasks", 1, "runtimeInSeconds", to=-2),
        r"\$.workflow.execution.tasks\[1\].runtimeInSeconds is -2.0 s",
    ),
    "cores": (changed("execution", "tasks", 1, "coreCount", to=0), r"execution.tasks\[1\].coreCount is 0"),
    "negative size": (
        changed("specification", "files", 2, "sizeInBytes", to=-1),
        r"\$.workflow.specification.files\[2\].sizeInBytes of 'p2' is -1",
    ),
    "unknown parent": (
        changed("specification", "tasks", 2, "parents", to=["s", "nobody"]),
        r"\$.workflow.specification.tasks\[2\].parents\[1\]: 'nobody' is the ID of no task",
    ),
    "unknown child": (
        changed("specification", "tasks", 2, "children", to=["x"]),
        r"tasks\[2\].children\[0\]: 'x' is the ID of no task",
    ),
    "same ID": (changed("specification", "tasks", 3, "id", to="w1"), r"tasks\[3\].id: 'w1' is the ID of task 2, too"),
    "unknown file": (
        changed("specification", "tasks", 2, "inputFiles", to=["lost"]),
        r"tasks\[2\].inputFiles: 'lost' is in no entry of \$.workflow.specification.files",
    ),
    "stranger ran": (changed("execution", "tasks", 1, "id", to="ghost"), r"execution.tasks\[1\].id is 'ghost', which no task"),
    "cycle": (
        changed("specification", "tasks", 1, "parents", to=["m"]),
        r"\$.workflow.specification.tasks: split-and-merge: the graph is cyclic: \w+ waits for \w+",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_the_place(tmp_path: Path, case: str) -> None:
    document, text = BAD[case]
    path = write(tmp_path, document)
    with pytest.raises(WorkloadError, match=text) as caught:
        read_wfformat(path)
    assert str(caught.value).startswith(str(path))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_wfformat(tmp_path / "none.json")


def test_a_file_that_several_write_is_that_of_the_parent(tmp_path: Path) -> None:
    document = changed("specification", "tasks", 4, "outputFiles", to=["r1", "p1"])
    workload, _ = read_wfformat(write(tmp_path, document))
    names = [workload.name_of(i) for i in range(len(workload))]
    by_name = dict(zip(names, workload, strict=True))
    assert by_name["w1"].inputs[0] == (names.index("s"), 0)
    assert (names.index("w1"), 0) in by_name["m"].inputs


def test_a_workflow_runs_on_machines_like_those_that_it_ran_on(tmp_path: Path) -> None:
    instance = read_wfformat(write(tmp_path, DOCUMENT))
    cluster = instance.cluster()
    assert [(node.num_cpus, node.memory) for node in cluster] == [(16, 64_000_000_000), (1, None)]
    report = sundog.simulate(instance.workload, cluster, profile="free")
    assert (report.tasks, report.unfinished) == (len(instance.workload), 0)
    assert report.nodes == 2
    assert report.cpus == 17


def test_a_file_without_machines_is_no_cluster(tmp_path: Path) -> None:
    instance = Instance(read_wfformat(write(tmp_path, DOCUMENT)).workload, ())
    with pytest.raises(WorkloadError, match="describes no machines; say what cluster"):
        instance.cluster()
