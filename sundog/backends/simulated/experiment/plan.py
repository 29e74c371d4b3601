"""From the tasks of a workload to what is submitted: specs, names, and until when whoever submitted a task holds its outputs.

A task's arguments stand for it: their ``format`` is its index in the workload, so whoever is handed a spec knows what to do.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from sundog.backends.simulated.workloads.workload import BY_DRIVER, PUT, Get, Submit, Workload, WorkTask
from sundog.core.ids import FunctionID, IdSequence, ObjectID, return_ids, root_task_id
from sundog.core.messages import FunctionExported, ObjectPut, TaskSubmitted
from sundog.core.task import Result, TaskSpec, Value

_NOTHING = Value(0)
_NO_IDS: tuple[ObjectID, ...] = ()


class Plan:
    """See the module. ``seed`` names everything."""

    def __init__(self, workload: Workload, seed: bytes, inline_bytes_max: int) -> None:
        self.workload = workload
        self.tasks: Sequence[WorkTask] = workload.tasks
        self.seed = seed
        self.inline_bytes_max = inline_bytes_max
        #: IDs of the outputs of tasks that were submitted, as long as somebody may mention them.
        self.object_ids: dict[int, tuple[ObjectID, ...]] = {}
        names = IdSequence(root_task_id(seed), 1, 0)
        #: Every driver runs the same program, so its functions are the same.
        self.functions: dict[str, FunctionID] = {}
        for function in dict.fromkeys([one.function for one in self.tasks if one.function != PUT]):
            self.functions[function] = names.next_function()
        self.nested = any(one.parent != BY_DRIVER or one.steps for one in self.tasks)
        self.dependent = self.nested or any(one.inputs for one in self.tasks)
        #: By task: how many tasks that its submitter has not submitted yet mention it. Only where there are any mentions.
        self.mentions = array("i", [0]) * (len(self.tasks) if self.dependent else 0)
        #: By task: whether anything takes an output of it.
        self.taken = bytearray(len(self.tasks) if self.dependent else 0)
        #: By task with steps: the tasks whose IDs its body is given, without taking their values.
        self.borrowed: dict[int, tuple[int, ...]] = {}
        if self.dependent:
            self._count()
        self._results: dict[tuple[int, ...], tuple[Result, ...]] = {}

    def _count(self) -> None:
        if self.nested:
            self._find_borrowed()
        tasks, mentions, taken = self.tasks, self.mentions, self.taken
        for index, one in enumerate(tasks):
            for producer, _ in one.inputs:
                taken[producer] = 1
            if one.parent == BY_DRIVER:
                for producer in self._mentioned(index):
                    mentions[producer] += 1

    def _mentioned(self, index: int) -> Iterable[int]:
        """Return the tasks that the arguments of a task mention, each once."""
        inputs, borrowed = self.tasks[index].inputs, self.borrowed.get(index, ())
        if not borrowed and len(inputs) < 2:
            return [producer for producer, _ in inputs]
        return dict.fromkeys([*[producer for producer, _ in inputs], *borrowed])

    def _find_borrowed(self) -> None:
        """What a body hands to those that it submits, or waits for, and has not submitted itself, it was given."""
        tasks = self.tasks
        depth: dict[int, int] = {BY_DRIVER: -1}
        for index in range(len(tasks)):
            path = []
            while index not in depth:
                path.append(index)
                index = tasks[index].parent
            for below in reversed(path):
                depth[below] = depth[tasks[below].parent] + 1
        parents = [index for index, one in enumerate(tasks) if one.steps]
        for index in sorted(parents, key=lambda one: -depth[one]):
            found: dict[int, None] = {}
            for step in tasks[index].steps:
                if isinstance(step, Submit):
                    for child in step.tasks:
                        found.update(dict.fromkeys(self._mentioned(child)))
                elif isinstance(step, Get):
                    found.update(dict.fromkeys(step.tasks))
            borrowed = tuple([other for other in found if tasks[other].parent != index])
            if borrowed:
                self.borrowed[index] = borrowed

    def by_driver(self, nodes: int) -> list[array[int]]:
        """Return, by node, the tasks that its driver submits, in order."""
        tasks = self.tasks
        found = [array("q") for _ in range(nodes)]
        for index in sorted([i for i, one in enumerate(tasks) if one.parent == BY_DRIVER], key=lambda i: tasks[i].submitted_at):
            found[tasks[index].node].append(index)
        return found

    # --- what is submitted ----------------------------------------------------------------------------------------------

    def submission(self, index: int, names: IdSequence) -> TaskSubmitted:
        """Return the submission of a task that is no put."""
        one = self.tasks[index]
        task_id = names.next_task()
        dependencies = contained = _NO_IDS
        if one.inputs:
            ids = self.object_ids
            given = [ids[producer][output] for producer, output in one.inputs]
            dependencies = tuple(given) if len(given) == 1 else tuple(dict.fromkeys(given))
        if self.dependent:
            if index in self.borrowed:
                contained = tuple([object_id for other in self.borrowed[index] for object_id in self.object_ids[other]])
            self.object_ids[index] = return_ids(task_id, len(one.outputs))
        return TaskSubmitted(
            TaskSpec(
                task_id, self.functions[one.function], one.name or one.function, Value(0, index), dependencies, contained,
                len(one.outputs), one.resources, 3, 0, 0, one.duration,
            )
        )  # fmt: skip

    def dependencies(self, index: int) -> int:
        """Return how many objects a task takes."""
        inputs = self.tasks[index].inputs
        return len(inputs) if len(inputs) < 2 else len(set(inputs))

    def put(self, index: int, names: IdSequence, offset: int) -> ObjectPut:
        """Return the put of a value; ``offset``: where it lies in the store, -1 if it travels."""
        object_id = names.next_put()
        self.object_ids[index] = (object_id,)
        return ObjectPut(object_id, Value(self.tasks[index].outputs[0], 0, b"", offset))

    def export(self, function: str) -> FunctionExported:
        """Return what makes a function known to a node."""
        return FunctionExported(self.functions[function], function, _NOTHING)

    def let_go(self, index: int) -> list[ObjectID]:
        """A driver has submitted the task, where any depend on others: return the IDs that its program mentions no more."""
        gone: list[ObjectID] = []
        mentions = self.mentions
        for producer in self._mentioned(index):
            mentions[producer] -= 1
            if not mentions[producer]:
                gone += self._forget(producer)
        if not mentions[index]:
            gone += self._forget(index)
        return gone

    def _forget(self, index: int) -> tuple[ObjectID, ...]:
        """The driver mentions the task no more; bodies that were given its IDs may."""
        return self.object_ids[index] if self.nested else self.object_ids.pop(index)

    # --- what is returned -----------------------------------------------------------------------------------------------

    def results(self, outputs: tuple[int, ...]) -> tuple[Result, ...] | None:
        """Return values of these sizes, or None if one of them is too large to travel inline."""
        found = self._results.get(outputs)
        if found is None:
            if outputs and max(outputs) > self.inline_bytes_max:
                return None
            if len(self._results) > 10_000:
                self._results.clear()
            found = self._results[outputs] = tuple([Result(Value(size)) for size in outputs])
        return found

    def name_of(self, index: int) -> str:
        """Return what to call a task."""
        return self.workload.name_of(index)
