"""The machine that can make a lost object again: it keeps the recipes (task specs) of what has left its node.

A node records a recipe before an ID that it names leaves it, and waits for the acknowledgement (protocol P8). When the
directory says that an object is lost, its task is submitted again, and before it the tasks whose returns it needs and
nobody holds any more. A recipe therefore stays while one of its returns is held, or while the recipe of a task that
needs one of them stays.

Recipes are bounded by ``config.lineage_bytes_max``. Past it the oldest ones of objects that have been sealed go, and a later
loss of such an object is answered by ``ObjectUnrecoverable``, naming the bound.

Invariants: L1. ``_needed_by`` counts, for each object, the kept recipes that need it; L2. a recipe is kept only while it
has an unreleased return or a needed one; L3. ``bytes`` is the sum of the costs.

What it does not know: where a task runs. A task that was *running* on a lost node is submitted again by whoever gave it
there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.errors import InvariantViolation
from sundog.core.ids import Address, ObjectID, TaskID, is_put, producer_of, return_ids
from sundog.core.machine import Action, Event
from sundog.core.recovery import Service, first_start
from sundog.core.task import TaskSpec
from sundog.core.units import MIB, Nanos

#: What a recipe costs besides its arguments and the IDs it names: the spec, its name and the tables' entries, measured.
RECIPE_BYTES = 600
_ID_BYTES = 60
#: Starts of a body that a rerun leaves to the runs before it: what each creates is named after the number of its start.
_RERUN_SHIFT = 24


class _Recipe(msgspec.Struct):
    """How to make a task's returns."""

    spec: TaskSpec
    #: The host that recorded it; it speaks for the submitter when the task is submitted again.
    origin: Address
    cost: int
    #: Returns that have left their node and that somebody may still hold.
    unreleased: dict[ObjectID, None]
    sealed: bool = False
    #: Submitted again, and none of its returns sealed since; who waits for which of them.
    rerunning: bool = False
    wanted: dict[ObjectID, dict[Address, None]] = {}
    #: How often it was submitted again.
    reruns: int = 0


class Lineage:
    """See the module. ``here`` is the address of the host that also runs the global scheduler."""

    HEARS = (
        msg.RecipesRecorded, msg.RecipesReleased, msg.LocationsAdded, msg.ObjectLost, msg.TaskInfeasible,
        msg.ObjectsKnown, msg.ServiceRestarted,
    )  # fmt: skip

    def __init__(self, config: Config, here: Address) -> None:
        self._config = config
        self._here = here
        self.bytes = 0
        self._recipes: dict[TaskID, _Recipe] = {}
        #: Recipes of sealed objects, oldest first: what the bound takes. An ordered set; unlike a dict it finds the oldest at once.
        self._sealed: OrderedDict[TaskID, None] = OrderedDict()
        #: L1.
        self._needed_by: dict[ObjectID, int] = {}
        #: Needed objects that nobody holds: there is no copy of them.
        self._gone: dict[ObjectID, None] = {}
        #: Tasks whose recipes the bound took -> returns not yet released.
        self._evicted: dict[TaskID, int] = {}
        self._acknowledge: dict[Address, int] = {}
        self._losses: dict[ObjectID, dict[Address, None]] = {}
        self._said: list[Action] = []
        self._handlers: dict[type, Callable[[Address, Any], None]] = {
            msg.RecipesRecorded: self._on_recipes_recorded,
            msg.RecipesReleased: self._on_recipes_released,
            msg.LocationsAdded: self._on_locations_added,
            msg.ObjectLost: self._on_object_lost,
            msg.TaskInfeasible: self._on_task_infeasible,
            msg.ObjectsKnown: self._on_objects_known,
            msg.ServiceRestarted: self._on_service_restarted,
        }

    # -- the door

    def step(self, now: Nanos, events: Iterable[Event]) -> list[Action]:
        """See ``machine.Machine``."""
        handlers = self._handlers
        for sender, fact in events:
            handlers[type(fact)](sender, fact)
        actions, self._said = self._said, []
        for sender, sequence in self._acknowledge.items():
            actions.append(Send(sender, msg.LineageRecorded(sequence)))
        self._acknowledge = {}
        for object_id, wanted_by in self._losses.items():
            reason = self._rebuild(object_id, actions)
            if reason is None:
                recipe = self._recipes[producer_of(object_id)]
                recipe.wanted.setdefault(object_id, {}).update(wanted_by)
            else:
                actions += [Send(to, msg.ObjectUnrecoverable(object_id, reason)) for to in wanted_by]
        self._losses = {}
        while self.bytes > self._config.lineage_bytes_max and self._sealed:
            self._evict(next(iter(self._sealed)))
        return actions

    def next_deadline(self) -> Nanos | None:
        """See ``machine.Machine``: lineage waits for nothing."""
        return None

    def check_invariants(self) -> None:
        """See ``machine.Machine``."""
        needed: dict[ObjectID, int] = {}
        for recipe in self._recipes.values():
            for object_id in _needs(recipe.spec):
                needed[object_id] = needed.get(object_id, 0) + 1
        if needed != self._needed_by:
            raise InvariantViolation("L1: the counts of needed objects are not those of the recipes")
        for task_id, recipe in self._recipes.items():
            if not recipe.unreleased and not self._is_needed(recipe.spec):
                raise InvariantViolation(f"L2: nobody needs the recipe of {recipe.spec.name} {task_id.hex()}")
        if self.bytes != sum(recipe.cost for recipe in self._recipes.values()):
            raise InvariantViolation(f"L3: {self.bytes} bytes counted")
        if any(object_id not in self._needed_by for object_id in self._gone):
            raise InvariantViolation("an object is kept as gone that nobody needs")

    # -- facts

    def _on_recipes_recorded(self, sender: Address, fact: msg.RecipesRecorded) -> None:
        for spec in fact.specs:
            if spec.task_id in self._recipes:
                if fact.leaving is None:
                    self._recipes[spec.task_id].unreleased.update(dict.fromkeys(_returns(spec)))
                continue
            self._evicted.pop(spec.task_id, None)
            needs = _needs(spec)
            ids = len(needs) + spec.return_count
            inline = spec.arguments.size if spec.arguments.offset < 0 else 0
            cost = RECIPE_BYTES + inline + _ID_BYTES * ids
            unreleased: dict[ObjectID, None] = dict.fromkeys(_returns(spec)) if fact.leaving is None else {}
            self._recipes[spec.task_id] = _Recipe(spec, sender, cost, unreleased, wanted={})
            self.bytes += cost
            for object_id in needs:
                self._needed_by[object_id] = self._needed_by.get(object_id, 0) + 1
        for object_id in fact.leaving or ():
            recipe = self._recipes.get(producer_of(object_id))
            if recipe is not None:
                recipe.unreleased[object_id] = None
        for spec in fact.specs:
            self._drop_unneeded(spec.task_id)
        self._acknowledge[sender] = max(fact.sequence, self._acknowledge.get(sender, 0))

    def _on_recipes_released(self, sender: Address, fact: msg.RecipesReleased) -> None:
        for object_id in fact.object_ids:
            if object_id in self._needed_by:
                self._gone[object_id] = None
            task_id = producer_of(object_id)
            recipe = self._recipes.get(task_id)
            if recipe is not None:
                recipe.unreleased.pop(object_id, None)
                self._drop_unneeded(task_id)
            elif task_id in self._evicted:
                self._evicted[task_id] -= 1
                if self._evicted[task_id] <= 0 and object_id not in self._needed_by:
                    del self._evicted[task_id]

    def _on_locations_added(self, sender: Address, fact: msg.LocationsAdded) -> None:
        recipes = self._recipes
        if not recipes:
            return
        for object_id, _ in fact.objects:
            task_id = producer_of(object_id)
            recipe = recipes.get(task_id)
            if recipe is not None:
                recipe.sealed = True
                recipe.rerunning = False
                recipe.wanted.clear()
                self._sealed[task_id] = None

    def _on_object_lost(self, sender: Address, fact: msg.ObjectLost) -> None:
        wanted_by = self._losses.setdefault(fact.object_id, {})
        for address in fact.wanted_by:
            wanted_by[address] = None

    def _on_task_infeasible(self, sender: Address, fact: msg.TaskInfeasible) -> None:
        """What was submitted again cannot be run: who waits for it is told why."""
        recipe = self._recipes.get(fact.task_id)
        if recipe is None or not recipe.rerunning:
            return
        recipe.rerunning = False
        wanted, recipe.wanted = recipe.wanted, {}
        for object_id, askers in wanted.items():
            text = f"every copy of object {object_id.hex()} is lost, and it cannot be computed again: {fact.message}"
            self._said += [Send(to, msg.ObjectUnrecoverable(object_id, text)) for to in askers]

    def _on_objects_known(self, sender: Address, fact: msg.ObjectsKnown) -> None:
        """A directory has begun anew: what nobody holds was released while nobody heard of it."""
        known = dict.fromkeys(fact.object_ids)
        gone = [o for recipe in self._recipes.values() for o in recipe.unreleased if o not in known]
        self._on_recipes_released(sender, msg.RecipesReleased(tuple(gone)))
        left = dict.fromkeys(self._evicted, 0)
        for object_id in known:
            task_id = producer_of(object_id)
            if task_id in left:
                left[task_id] += 1
        needed = {producer_of(object_id) for object_id in self._needed_by}
        self._evicted = {task_id: count for task_id, count in left.items() if count or task_id in needed}

    def _on_service_restarted(self, sender: Address, fact: msg.ServiceRestarted) -> None:
        """A global scheduler has begun anew: what was to run again has to be submitted once more."""
        if fact.service != Service.GLOBAL_SCHEDULER:
            return
        for recipe in self._recipes.values():
            if recipe.rerunning:
                starts = (recipe.reruns << _RERUN_SHIFT) + first_start(fact.incarnation)
                self._said.append(Send(self._here, msg.TaskSpilled(recipe.spec, recipe.origin, starts, rebuild=True)))

    # -- decisions

    def _rebuild(self, object_id: ObjectID, actions: list[Action]) -> str | None:
        """Submit again what makes ``object_id``, what it needs first; or return why that cannot be, for people."""
        order: list[_Recipe] = []
        seen: dict[TaskID, None] = {}
        todo = [object_id]
        while todo:
            lost = todo.pop()
            task_id = producer_of(lost)
            if task_id in seen:
                continue
            seen[task_id] = None
            recipe = self._recipes.get(task_id)
            if recipe is None or recipe.spec.arguments.offset >= 0 or not recipe.spec.retries_max:
                return self._why_not(object_id, lost, recipe)
            if recipe.rerunning:
                continue
            order.append(recipe)
            todo += [needed for needed in _needs(recipe.spec) if needed in self._gone]
        for recipe in reversed(order):
            recipe.rerunning = True
            recipe.sealed = False
            self._sealed.pop(recipe.spec.task_id, None)
            recipe.reruns += 1
            starts = recipe.reruns << _RERUN_SHIFT
            actions.append(Send(self._here, msg.TaskSpilled(recipe.spec, recipe.origin, starts, rebuild=True)))
        return None

    def _why_not(self, object_id: ObjectID, lost: ObjectID, recipe: _Recipe | None) -> str:
        what = f"every copy of object {object_id.hex()} is lost"
        if lost != object_id:
            what += f", and object {lost.hex()}, which is needed to make it again, is gone too"
        if recipe is not None and not recipe.spec.retries_max:
            return f"{what}; {recipe.spec.name} may not run again (max_retries=0)."
        if recipe is not None:
            return f"{what}; the arguments of {recipe.spec.name} lay in the memory of the node that was lost."
        if is_put(lost):
            return f"{what}; it was put, not returned by a task, so it cannot be computed again. Put it again."
        if producer_of(lost) in self._evicted:
            bound = self._config.lineage_bytes_max
            return (
                f"{what}; its recipe was dropped when recipes exceeded lineage_bytes_max = {bound / MIB:g} MiB. "
                "Submit its task again, or raise that bound."
            )
        return f"{what}; its task was not recorded. Submit it again."

    def _evict(self, task_id: TaskID) -> None:
        """Let the bound take a recipe."""
        self._evicted[task_id] = len(self._recipes[task_id].unreleased)
        self._drop(task_id)

    def _drop_unneeded(self, task_id: TaskID) -> None:
        recipe = self._recipes.get(task_id)
        if recipe is not None and not recipe.unreleased and not self._is_needed(recipe.spec):
            self._drop(task_id)

    def _drop(self, task_id: TaskID) -> None:
        """Drop a recipe, and then those that only it needed."""
        todo = [task_id]
        while todo:
            task_id = todo.pop()
            recipe = self._recipes.pop(task_id, None)
            if recipe is None:
                continue
            self._sealed.pop(task_id, None)
            self.bytes -= recipe.cost
            for object_id in _needs(recipe.spec):
                self._needed_by[object_id] -= 1
                if self._needed_by[object_id]:
                    continue
                del self._needed_by[object_id]
                self._gone.pop(object_id, None)
                if self._evicted.get(producer_of(object_id), 1) <= 0:
                    del self._evicted[producer_of(object_id)]
                maker = self._recipes.get(producer_of(object_id))
                if maker is not None and not maker.unreleased and not self._is_needed(maker.spec):
                    todo.append(maker.spec.task_id)

    def _is_needed(self, spec: TaskSpec) -> bool:
        needed = self._needed_by
        return any(object_id in needed for object_id in return_ids(spec.task_id, spec.return_count))


def _needs(spec: TaskSpec) -> tuple[ObjectID, ...]:
    """Return the objects that the task needs to run again."""
    return spec.dependencies + spec.contained if spec.contained else spec.dependencies


def _returns(spec: TaskSpec) -> tuple[ObjectID, ...]:
    return return_ids(spec.task_id, spec.return_count)
