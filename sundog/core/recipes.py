"""The recipes of a node's own objects: task specs, kept while something that lives could be made again from them.

When an ID leaves the node its recipe goes before it to the head's lineage, and with it those of what it was made from (P8).
A recipe that is there already is not sent again, until this node has let go of what it makes: then the head may have dropped it.

Invariants: C1. a recipe is kept while one of its returns exists here or a kept one needs it; C2. ``bytes`` is the sum of costs.
Past ``bytes_max`` the oldest go, and what they make cannot be made again.
"""

from __future__ import annotations

import msgspec

from sundog.core.ids import ObjectID, TaskID, producer_of
from sundog.core.task import TaskSpec

_RECIPE_BYTES = 600


class _Recipe(msgspec.Struct):
    spec: TaskSpec
    #: Returns that exist here.
    alive: int
    #: Mentions by kept recipes.
    needed: int = 0
    recorded: bool = False
    cost: int = _RECIPE_BYTES


class Recipes:
    """See the module."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._recipes: dict[TaskID, _Recipe] = {}
        self.bytes = 0

    def born(self, spec: TaskSpec) -> None:
        """A task was submitted here."""
        arguments = spec.arguments
        cost = _RECIPE_BYTES + (arguments.size if arguments.offset < 0 else 0)
        self._recipes[spec.task_id] = _Recipe(spec, spec.return_count, cost=cost)
        self.bytes += cost
        for maker in self._makers(spec):
            maker.needed += 1
        while self.bytes > self._bytes_max:
            self._drop(next(iter(self._recipes)))

    def gone(self, object_id: ObjectID) -> None:
        """An object does not exist here any more."""
        recipe = self._recipes.get(producer_of(object_id))
        if recipe is not None:
            recipe.alive -= 1
            if recipe.alive <= 0 and not recipe.needed:
                self._drop(recipe.spec.task_id)

    def leaving(self, object_id: ObjectID) -> list[TaskSpec] | None:
        """Return what the head must record before ``object_id`` leaves, makers of arguments first; None if it is not known."""
        first = self._recipes.get(producer_of(object_id))
        if first is None:
            return None
        found: list[TaskSpec] = []
        todo = [first]
        while todo:
            recipe = todo.pop()
            if not recipe.recorded:
                recipe.recorded = True
                found.append(recipe.spec)
                todo += self._makers(recipe.spec)
        found.reverse()
        return found

    def released(self, object_id: ObjectID) -> None:
        """The directory was told that this node holds ``object_id`` no longer."""
        first = self._recipes.get(producer_of(object_id))
        todo = [first] if first is not None else []
        while todo:
            recipe = todo.pop()
            if recipe.recorded:
                recipe.recorded = False
                todo += self._makers(recipe.spec)

    def _makers(self, spec: TaskSpec) -> list[_Recipe]:
        recipes = self._recipes
        return [recipes[producer_of(o)] for o in (*spec.dependencies, *spec.contained) if producer_of(o) in recipes]

    def _drop(self, task_id: TaskID) -> None:
        """Drop a recipe, and then those that only it needed."""
        todo = [task_id]
        while todo:
            recipe = self._recipes.pop(todo.pop(), None)
            if recipe is None:
                continue
            self.bytes -= recipe.cost
            for maker in self._makers(recipe.spec):
                maker.needed -= 1
                if maker.alive <= 0 and maker.needed <= 0:
                    todo.append(maker.spec.task_id)

    def __len__(self) -> int:
        return len(self._recipes)
