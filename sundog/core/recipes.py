"""The recipes of a node's own objects: task specs, kept while something that lives could be made again from them.

A recipe is kept from the sealing of its first return, or from the first of them that leaves before that; until then the record
of the object has it. So a task whose returns are let go before it ends costs nothing here.

When an ID leaves the node its recipe goes before it to the head's lineage, and with it those of what it was made from (P8).
A recipe that is there already is not sent again, until this node has let go of what it makes: then the head may have dropped it.

Invariants: C1. a recipe is kept while one of its returns is sealed here, or has left, or a kept one needs it; C2. ``bytes`` is
the sum of costs. Past ``bytes_max`` the oldest go, and what they make cannot be made again.
"""

from __future__ import annotations

from collections import OrderedDict

from sundog.core.ids import ObjectID, TaskID, producer_of
from sundog.core.task import TaskSpec

_RECIPE_BYTES = 600


class Recipes:
    """See the module."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        #: What is kept, oldest first; and how many returns of it exist here, where that is not one. An OrderedDict finds the
        #: oldest at once, where a dict looks through the places of all that left before it.
        self._specs: OrderedDict[TaskID, TaskSpec] = OrderedDict()
        self._alive: dict[TaskID, int] = {}
        #: Mentions of a task's returns by kept recipes.
        self._needed: dict[TaskID, int] = {}
        #: What the head has. An ordered set.
        self._recorded: dict[TaskID, None] = {}
        self.bytes = 0

    def keep(self, spec: TaskSpec) -> None:
        """One more return of the task exists here, sealed or about to leave."""
        task_id = spec.task_id
        if task_id in self._specs:
            self._alive[task_id] = self._alive.get(task_id, 1) + 1
            return
        self._specs[task_id] = spec
        self.bytes += _cost(spec)
        if spec.dependencies or spec.contained:
            needed = self._needed
            for maker in _makers(spec):
                needed[maker] = needed.get(maker, 0) + 1
        while self.bytes > self._bytes_max:
            self._drop(next(iter(self._specs)))

    def gone(self, object_id: ObjectID) -> None:
        """An object that was kept does not exist here any more."""
        task_id = producer_of(object_id)
        if task_id not in self._specs:
            return
        left = self._alive.pop(task_id, 1) - 1
        if left > 0 or task_id in self._needed:
            self._alive[task_id] = left
        else:
            self._drop(task_id)

    def leaving(self, object_id: ObjectID) -> list[TaskSpec] | None:
        """Return what the head must record before ``object_id`` leaves, makers of arguments first; None if it is not known."""
        first = producer_of(object_id)
        if first not in self._specs:
            return None
        found: list[TaskSpec] = []
        todo = [first]
        while todo:
            task_id = todo.pop()
            spec = self._specs.get(task_id)
            if spec is not None and task_id not in self._recorded:
                self._recorded[task_id] = None
                found.append(spec)
                todo += _makers(spec)
        found.reverse()
        return found

    def released(self, object_id: ObjectID) -> None:
        """The directory was told that this node holds ``object_id`` no longer."""
        todo = [producer_of(object_id)]
        while todo:
            task_id = todo.pop()
            if self._recorded.pop(task_id, 0) is None:
                todo += _makers(self._specs[task_id])

    def _drop(self, task_id: TaskID) -> None:
        """Drop a recipe, and then those that only it needed."""
        todo = [task_id]
        while todo:
            task_id = todo.pop()
            spec = self._specs.pop(task_id)
            self._alive.pop(task_id, None)
            self._recorded.pop(task_id, None)
            self.bytes -= _cost(spec)
            if not (spec.dependencies or spec.contained):
                continue
            for maker in _makers(spec):
                self._needed[maker] -= 1
                if not self._needed[maker]:
                    del self._needed[maker]
                    if self._alive.get(maker, 1) <= 0:  # arguments in the arena go under their task's name, too
                        todo.append(maker)

    def __len__(self) -> int:
        return len(self._specs)


def _makers(spec: TaskSpec) -> list[TaskID]:
    """Return the tasks that make what the task needs to run again, one for each mention."""
    return [producer_of(object_id) for object_id in (*spec.dependencies, *spec.contained)]


def _cost(spec: TaskSpec) -> int:
    """Return about how many bytes of memory a recipe takes."""
    arguments = spec.arguments
    return _RECIPE_BYTES + arguments.size if arguments.offset < 0 else _RECIPE_BYTES
