"""Workflows in WfFormat, the JSON of WfCommons: measured runs of real applications, and synthetic ones.

Reads schema versions 1.4, 1.5 and 1.6 and writes 1.6 (https://github.com/wfcommons/WfFormat). What becomes of it here:

- A file that a task writes is one of its outputs; who reads it takes that output. A file that no task writes is a value that the
  driver puts. A parent that hands nothing over is waited for by an output of no bytes.
- ``coreCount`` is CPUs. Memory, energy, priorities and the speeds of machines are left out.
- Everything is submitted at 0 by one driver, in the order of the document as far as parents come first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sundog.backends.simulated.cluster_model import NodeModel
from sundog.backends.simulated.workloads.generators import Duration, durations
from sundog.backends.simulated.workloads.precedence import Precedence
from sundog.backends.simulated.workloads.workload import BY_DRIVER, PUT, Output, Workload, WorkloadError, WorkTask, nanos
from sundog.core.resources import CPU, ONE_CPU, UNIT, Shape, shape
from sundog.core.units import SECOND, Nanos

WRITTEN = "1.6"
_IDENTIFIER = re.compile(r"[0-9a-zA-Z_.#:/-]+")


class Machine(msgspec.Struct, frozen=True):
    """A machine on which the tasks ran."""

    name: str
    #: Its cores, as CPUs.
    shape: Shape = ONE_CPU
    #: Bytes; 0 if the file does not say.
    memory: int = 0

    def node(self) -> NodeModel:
        """Return a node like it, for ``sundog.simulate``: its cores as CPUs, its memory as what tasks may ask for."""
        return NodeModel(num_cpus=dict(self.shape).get(CPU, 0) / UNIT, memory=self.memory or None)


class Instance(NamedTuple):
    """What a file holds. ``machines`` is empty where it describes none."""

    workload: Workload
    machines: tuple[Machine, ...]

    def cluster(self) -> list[NodeModel]:
        """Return a node for each machine, for ``sundog.simulate(instance.workload, instance.cluster())``; the first is the head.

        Raises WorkloadError if the file describes no machines.
        """
        if not self.machines:
            raise WorkloadError(f"{self.workload.name}: the file describes no machines; say what cluster to simulate instead")
        return [machine.node() for machine in self.machines]


# --- the document ------------------------------------------------------------------------------------------------------


class _Part(msgspec.Struct, rename="camel", omit_defaults=True):
    """A part of the document; properties that are not named here are passed over."""


class _File(_Part):
    id: str
    size_in_bytes: int


class _SpecifiedTask(_Part):
    name: str
    id: str
    # The schema requires these two, so they are written when they are empty, too.
    parents: list[str] | msgspec.UnsetType = msgspec.UNSET
    children: list[str] | msgspec.UnsetType = msgspec.UNSET
    input_files: list[str] = []
    output_files: list[str] = []


class _Specification(_Part):
    tasks: list[_SpecifiedTask]
    files: list[_File] = []


class _ExecutedTask(_Part):
    id: str
    runtime_in_seconds: float
    core_count: float | None = None
    #: A property of ours, for what ``coreCount`` cannot say; WfFormat permits properties that it does not know.
    sundog_resources: dict[str, float] | None = None


class _Cpu(_Part):
    core_count: int | None = None
    #: Before 1.5.
    count: int | None = None


class _Machine(_Part):
    node_name: str
    memory_in_bytes: int = 0
    cpu: _Cpu | None = None


class _Execution(_Part):
    makespan_in_seconds: float
    executed_at: str
    tasks: list[_ExecutedTask]
    machines: list[_Machine] = []


class _Workflow(_Part):
    specification: _Specification
    execution: _Execution | None = None


class _Document(_Part):
    name: str
    schema_version: str
    workflow: _Workflow


class _OldFile(_Part):
    link: str
    name: str
    size_in_bytes: int = 0
    path: str = ""


class _OldTask(_Part):
    name: str
    id: str = ""
    runtime_in_seconds: float | None = None
    parents: list[str] = []
    children: list[str] = []
    files: list[_OldFile] = []
    cores: float | None = None


class _OldWorkflow(_Part):
    tasks: list[_OldTask]
    machines: list[_Machine] = []


class _OldDocument(_Part):
    name: str
    schema_version: str
    workflow: _OldWorkflow


class _Version(_Part):
    schema_version: str


# --- reading -----------------------------------------------------------------------------------------------------------


def read_wfformat(path: str | os.PathLike[str], *, runtime: Duration | None = None, node: int = 0, seed: int = 0) -> Instance:
    """Return the workload in the file at ``path``, and the machines that it ran on.

    ``runtime``: seconds (or a distribution, drawn with ``seed``) for tasks whose runtime the file does not have. ``node``: whose
    driver submits. Raises OSError if the file cannot be read; WorkloadError, naming the file, the place in it and what is wrong
    there, if it is no such document.
    """
    where = os.fspath(path)
    content = Path(path).read_bytes()
    version = _decode(content, _Version, where).schema_version
    if version in ("1.5", "1.6"):
        document = _decode(content, _Document, where)
    elif version == "1.4":
        document = _from_14(_decode(content, _OldDocument, where))
    else:
        raise WorkloadError(f"{where}: $.schemaVersion is {version!r}; 1.4, 1.5 and 1.6 can be read: migrate it to one of them")
    default = None if runtime is None else durations(runtime, seed)
    workload = _Reading(where, document, default, node).workload()
    execution = document.workflow.execution
    return Instance(workload, tuple([_machine(one) for one in execution.machines]) if execution is not None else ())


def _decode(content: bytes, kind: type[Any], where: str) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise WorkloadError(f"{where} is no WfFormat document: {error}") from None
    except msgspec.DecodeError as error:
        raise WorkloadError(f"{where} is no JSON: {error}") from None


def _machine(one: _Machine) -> Machine:
    cores = (one.cpu.core_count or one.cpu.count or 1) if one.cpu is not None else 1
    return Machine(one.node_name, ((CPU, cores * UNIT),), one.memory_in_bytes)


def _from_14(old: _OldDocument) -> _Document:
    """Bring a 1.4 document, where a task has everything in one place and parents may go by their names, into the form of 1.5."""
    sizes: dict[str, int] = {}
    specified, executed = [], []
    identifiers: dict[str, str] = {}
    for task in old.workflow.tasks:
        identifiers[task.name] = identifiers[task.id or task.name] = task.id or task.name
    for task in old.workflow.tasks:
        identifier = task.id or task.name
        reads: list[str] = []
        writes: list[str] = []
        for file in task.files:
            sizes.setdefault(file.path + file.name, file.size_in_bytes)
            (reads if file.link.lower() == "input" else writes).append(file.path + file.name)
        parents = [identifiers.get(name, name) for name in task.parents]
        children = [identifiers.get(name, name) for name in task.children]
        specified.append(_SpecifiedTask(task.name, identifier, parents, children, reads, writes))
        if task.runtime_in_seconds is not None:
            executed.append(_ExecutedTask(identifier, task.runtime_in_seconds, task.cores))
    files = [_File(name, size) for name, size in sizes.items()]
    execution = _Execution(0.0, "", executed, old.workflow.machines)
    return _Document(old.name, "1.4", _Workflow(_Specification(specified, files), execution))


class _Reading:
    """One document on its way to a workload. Tasks go by their place in the document."""

    def __init__(self, where: str, document: _Document, default: Callable[[], Nanos] | None, node: int) -> None:
        self._where = where
        self._name = document.name
        self._default = default
        self._node = node
        self._tasks = document.workflow.specification.tasks
        self._place: dict[str, int] = {}
        for index, task in enumerate(self._tasks):
            if task.id in self._place:
                raise self._wrong(index, "id", f"{task.id!r} is the ID of task {self._place[task.id]}, too")
            self._place[task.id] = index
        self._sizes: dict[str, int] = {}
        for index, file in enumerate(document.workflow.specification.files):
            if file.size_in_bytes < 0:
                raise WorkloadError(
                    f"{where}: $.workflow.specification.files[{index}].sizeInBytes of {file.id!r} is {file.size_in_bytes}; "
                    "a size is 0 or more"
                )
            self._sizes[file.id] = file.size_in_bytes
        #: Of each task, its outputs: sizes of files, then perhaps one of nothing for who only waits for it.
        self._outputs: list[list[int]] = [
            [self._size(i, "outputFiles", f) for f in t.output_files] for i, t in enumerate(self._tasks)
        ]
        self._signal: dict[int, int] = {}
        self._writers: dict[str, list[Output]] = {}
        for index, task in enumerate(self._tasks):
            for output, file_id in enumerate(task.output_files):
                self._writers.setdefault(file_id, []).append((index, output))
        self._executed = self._executions(document.workflow.execution)

    def workload(self) -> Workload:
        """Return the tasks in an order in which a driver can submit them."""
        parents = self._parents()
        puts: dict[str, int] = {}
        inputs = [self._inputs(index, parents[index], puts) for index in range(len(self._tasks))]
        plain = [self._task(index, inputs[index]) for index in range(len(self._tasks))]
        order = self._order(inputs)
        first = len(puts)
        moved = {old: first + new for new, old in enumerate(order)}
        tasks = [WorkTask(file_id, 0, (), (self._sizes[file_id],), (), 0, self._node, PUT) for file_id in puts]
        for old in order:
            renumbered = tuple([(moved[p] if p >= 0 else -1 - p, output) for p, output in inputs[old]])
            tasks.append(msgspec.structs.replace(plain[old], inputs=renumbered))
        return Workload(tasks, self._name)

    def _executions(self, execution: _Execution | None) -> dict[int, _ExecutedTask]:
        found: dict[int, _ExecutedTask] = {}
        for index, task in enumerate(execution.tasks if execution is not None else ()):
            at = f"{self._where}: $.workflow.execution.tasks[{index}]"
            if task.id not in self._place:
                raise WorkloadError(f"{at}.id is {task.id!r}, which no task of $.workflow.specification.tasks has")
            nanos(task.runtime_in_seconds, f"{at}.runtimeInSeconds")
            if task.core_count is not None and not task.core_count > 0:
                raise WorkloadError(f"{at}.coreCount is {task.core_count}; give more than 0")
            found[self._place[task.id]] = task
        return found

    def _parents(self) -> list[dict[int, None]]:
        """Return who waits for whom, by either one's word."""
        found: list[dict[int, None]] = [{} for _ in self._tasks]
        for index, task in enumerate(self._tasks):
            for key, named in (("parents", task.parents), ("children", task.children)):
                for place, other in enumerate(named or ()):
                    if other not in self._place:
                        raise self._wrong(index, f"{key}[{place}]", f"{other!r} is the ID of no task")
                    if key == "parents":
                        found[index][self._place[other]] = None
                    else:
                        found[self._place[other]][index] = None
        return found

    def _inputs(self, index: int, parents: dict[int, None], puts: dict[str, int]) -> tuple[Output, ...]:
        """Return what a task takes; -1 - n stands for the n-th value that is put."""
        taken: dict[Output, None] = {}
        for file_id in self._tasks[index].input_files:
            size = self._size(index, "inputFiles", file_id)
            writers = [output for output in self._writers.get(file_id, ()) if output[0] != index]
            # Where several tasks write a file, one that it waits for anyway is meant.
            known = [output for output in writers if output[0] in parents]
            if writers:
                taken[(known or writers)[0]] = None
            elif size >= 0:
                taken[(-1 - puts.setdefault(file_id, len(puts)), 0)] = None
        from_tasks = {producer for producer, _ in taken}
        for parent in parents:
            if parent not in from_tasks:
                taken[(parent, self._signal_of(parent))] = None
        return tuple(taken)

    def _signal_of(self, parent: int) -> int:
        """Return an output of nothing that says that ``parent`` is over."""
        found = self._signal.get(parent)
        if found is None:
            outputs = self._outputs[parent]
            found = self._signal[parent] = len(outputs)
            outputs.append(0)
        return found

    def _task(self, index: int, inputs: tuple[Output, ...]) -> WorkTask:
        task, executed = self._tasks[index], self._executed.get(index)
        if executed is not None:
            duration = nanos(executed.runtime_in_seconds)
        elif self._default is not None:
            duration = self._default()
        else:
            raise self._wrong(index, "id", f"{task.id!r} has no runtime in $.workflow.execution.tasks: give one with runtime=")
        return WorkTask(
            task.id,
            duration,
            inputs,
            tuple(self._outputs[index]) or (0,),
            self._resources(index, executed),
            0,
            self._node,
            task.name,
        )

    def _resources(self, index: int, executed: _ExecutedTask | None) -> Shape:
        if executed is None or (executed.core_count is None and executed.sundog_resources is None):
            return ONE_CPU
        try:
            return shape(executed.sundog_resources if executed.sundog_resources is not None else {CPU: executed.core_count or 1})
        except ValueError as error:
            raise self._wrong(index, "id", f"of {self._tasks[index].id!r}: {error}") from None

    def _order(self, inputs: Sequence[tuple[Output, ...]]) -> list[int]:
        """Return the tasks, producers first, otherwise as they stand in the document."""
        waits = [0] * len(inputs)
        after: list[list[int]] = [[] for _ in inputs]
        for index, taken in enumerate(inputs):
            for producer, _ in taken:
                if producer >= 0:
                    waits[index] += 1
                    after[producer].append(index)
        ready = [index for index, count in enumerate(waits) if not count]
        heapify(ready)
        order: list[int] = []
        while ready:
            order.append(heappop(ready))
            for other in after[order[-1]]:
                waits[other] -= 1
                if not waits[other]:
                    heappush(ready, other)
        if len(order) < len(inputs):
            graph = [
                WorkTask(task.id, inputs=tuple([one for one in taken if one[0] >= 0]))
                for task, taken in zip(self._tasks, inputs, strict=True)
            ]
            cycle = Precedence(graph).cycle()
            raise WorkloadError(
                f"{self._where}: $.workflow.specification.tasks: " + Workload(graph, self._name).describe_cycle(cycle)
            )
        return order

    def _size(self, index: int, key: str, file_id: str) -> int:
        found = self._sizes.get(file_id)
        if found is None:
            raise self._wrong(index, key, f"{file_id!r} is in no entry of $.workflow.specification.files: its size is not known")
        return found

    def _wrong(self, index: int, key: str, text: str) -> WorkloadError:
        return WorkloadError(f"{self._where}: $.workflow.specification.tasks[{index}].{key}: {text}")


# --- writing -----------------------------------------------------------------------------------------------------------


def write_wfformat(
    workload: Workload,
    path: str | os.PathLike[str],
    *,
    machines: Iterable[Machine] = (),
    makespan: float | None = None,
    executed_at: str = "1970-01-01T00:00:00+00:00",
) -> None:
    """Write ``workload`` to ``path`` as WfFormat 1.6. ``makespan``: seconds that it took; default: its critical path.

    When tasks are submitted, and by which driver, is lost: the format has no place for it. Raises WorkloadError for a workload
    whose bodies submit tasks, which the format cannot say either; OSError if the file cannot be written.
    """
    for index, task in enumerate(workload):
        if task.steps or task.parent != BY_DRIVER:
            raise WorkloadError(
                f"{workload.name}: {workload.name_of(index)} submits tasks or is submitted by one; WfFormat knows only graphs that "
                "are there from the start"
            )
    names = _identifiers(workload)
    puts = {index for index, task in enumerate(workload) if task.function == PUT and not task.inputs}
    specified, executed, files = [], [], []
    parents: list[dict[str, None]] = [{} for _ in range(len(workload))]
    children: list[dict[str, None]] = [{} for _ in range(len(workload))]
    for index, task in enumerate(workload):
        for producer, _ in task.inputs:
            if producer not in puts:
                parents[index][names[producer]] = None
                children[producer][names[index]] = None
    for index, task in enumerate(workload):
        written = [_file_name(names, puts, (index, output)) for output in range(len(task.outputs))]
        files += [_File(name, size) for name, size in zip(written, task.outputs, strict=True)]
        if index in puts:
            continue
        read = [_file_name(names, puts, taken) for taken in task.inputs]
        specified.append(_SpecifiedTask(task.function, names[index], list(parents[index]), list(children[index]), read, written))
        cores, plain = _cores(task.resources)
        own = None if plain else {name: amount / UNIT for name, amount in task.resources}
        executed.append(_ExecutedTask(names[index], task.duration / SECOND, cores, own))
    took = workload.critical_path() / SECOND if makespan is None else makespan
    described = [_Machine(one.name, one.memory, _Cpu(max(1, dict(one.shape).get(CPU, 0) // UNIT))) for one in machines]
    document = _Document(
        workload.name,
        WRITTEN,
        _Workflow(_Specification(specified, files), _Execution(took, executed_at, executed, described)),
    )
    Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2))


def _identifiers(workload: Workload) -> list[str]:
    """Return an ID for each task: its name where that will do, and is the first of its kind."""
    taken: set[str] = set()
    found: list[str] = []
    for index in range(len(workload)):
        name = workload.name_of(index)
        if not _IDENTIFIER.fullmatch(name) or name in taken:
            name = f"ID{index:07d}"
        taken.add(name)
        found.append(name)
    return found


def _file_name(names: Sequence[str], puts: set[int], output: Output) -> str:
    producer, number = output
    return names[producer] if producer in puts and number == 0 else f"{names[producer]}.out{number}"


def _cores(resources: Shape) -> tuple[float | None, bool]:
    """Return ``coreCount``, which is 1 or more, and whether it says all there is to say."""
    cpus = dict(resources).get(CPU, 0)
    return (cpus / UNIT if cpus >= UNIT else None), cpus >= UNIT and len(resources) == 1
