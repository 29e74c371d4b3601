"""The recipes of a node's own objects: kept while something could be made again from them, and no longer (C1, C2)."""

from __future__ import annotations

import random
from collections import OrderedDict

import msgspec

from sundog.core import messages as msg
from sundog.core.config import Config
from sundog.core.ids import DRIVER, HOST, NodeID, ObjectID, TaskID, address, producer_of
from sundog.core.lent_objects import LendingObjectManager
from sundog.core.recipes import Recipes
from sundog.core.task import Result, TaskSpec, Value
from sundog.core.units import MIB
from tests.support.builders import returned, spec

A, B, C = (returned(number) for number in (1, 2, 3))
NODE = NodeID(1)
HERE, DRIVEN, HEAD = address(NODE, HOST), address(NODE, DRIVER), address(NodeID(0), HOST)
SMALL = Value(1, data=b"x")


def test_a_recipe_is_kept_as_long_as_a_return_of_it_is() -> None:
    recipes = Recipes(MIB)
    pair = spec(1, return_count=2)
    recipes.keep(pair)
    recipes.keep(pair)
    recipes.gone(returned(1, 1))
    assert len(recipes) == 1
    recipes.gone(returned(1, 2))
    assert (len(recipes), recipes.bytes) == (0, 0)
    recipes.gone(returned(1, 2))


def test_a_recipe_stays_while_one_that_needs_it_does() -> None:
    recipes = Recipes(MIB)
    for each in (spec(1), spec(2, A), spec(3, B)):
        recipes.keep(each)
    recipes.gone(A)
    recipes.gone(B)
    assert len(recipes) == 3
    assert recipes.leaving(C) == [spec(1), spec(2, A), spec(3, B)], "makers of arguments first"
    assert recipes.leaving(C) == [], "the head has them"
    recipes.released(C)
    assert len(recipes.leaving(C) or ()) == 3, "and may have let them go"
    recipes.gone(C)
    assert (len(recipes), recipes.bytes) == (0, 0)
    assert recipes.leaving(C) is None


def test_past_the_bound_the_oldest_go() -> None:
    recipes = Recipes(2000)
    for number in range(1, 6):
        recipes.keep(spec(number, *([returned(number - 1)] if number > 1 else [])))
    assert recipes.bytes <= 2000
    assert recipes.leaving(A) is None
    assert recipes.leaving(returned(5)) is not None
    for number in range(1, 6):
        recipes.gone(returned(number))
    assert (len(recipes), recipes.bytes) == (0, 0)


def test_the_oldest_is_found_at_once_however_many_went_before_it() -> None:
    """``next(iter(...))`` of a dict passes the places of all that left it: C code, which no count of operations sees.

    So this is by structure: an OrderedDict's first entry is a pointer.
    """
    recipes = Recipes(600 * 1000)
    assert type(recipes._specs) is OrderedDict
    numbers = range(1, 51_001)
    for number in numbers:
        recipes.keep(spec(number))
    assert 990 <= len(recipes) <= 1000
    assert list(recipes._specs) == [spec(number).task_id for number in numbers[-len(recipes) :]]


def _needed(kept: dict[TaskID, TaskSpec], alive: dict[ObjectID, None]) -> set[TaskID]:
    """Return which of what was kept has to be: by its returns, or by what has to be."""
    found = {producer_of(object_id) for object_id in alive}
    todo = list(found)
    while todo:
        each = kept[todo.pop()]
        makers = [producer_of(object_id) for object_id in (*each.dependencies, *each.contained)]
        new = [maker for maker in makers if maker in kept and maker not in found]
        found.update(new)
        todo += new
    return found


def test_what_is_kept_is_what_is_needed_in_any_order_of_coming_and_going() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        recipes = Recipes(MIB)
        kept: dict[TaskID, TaskSpec] = {}
        alive: dict[ObjectID, None] = {}
        for number in range(1, 30):
            some = rng.sample(list(alive), min(len(alive), rng.choice((0, 0, 1, 2))))
            made = spec(number, *some[:1], contained=tuple(some[1:]), return_count=rng.choice((1, 1, 2)))
            kept[made.task_id] = made
            for index in range(1, made.return_count + 1):
                recipes.keep(made)
                alive[returned(number, index)] = None
            for object_id in rng.sample(list(alive), rng.randrange(min(3, len(alive)) + 1)):
                del alive[object_id]
                recipes.gone(object_id)
            assert set(recipes._specs) == _needed(kept, alive), f"seed {seed}"
        for object_id in alive:
            recipes.gone(object_id)
        assert (len(recipes), recipes.bytes, recipes._needed, recipes._alive) == (0, 0, {}, {}), f"seed {seed}"


class Bench:
    """A node's object manager in a cluster, of which the head is another."""

    def __init__(self) -> None:
        self.machine = LendingObjectManager(Config(), NODE, HERE, DRIVEN, HEAD)

    def hear(self, *facts: msg.Message | msg.TaskRetired | msg.TaskLeaving) -> list[object]:
        """Return what goes to the head."""
        actions = self.machine.step(0, [(DRIVEN, fact) for fact in facts]) + self.machine.settle(0)
        self.machine.check_invariants()
        return [action.message for action in actions if getattr(action, "to", None) == HEAD]  # type: ignore[attr-defined]

    def submit(self, *specs: TaskSpec) -> None:
        self.hear(*[msg.TaskSubmitted(each) for each in specs])

    def end(self, task: TaskSpec) -> None:
        self.hear(msg.TaskRetired(task, tuple([Result(SMALL)] * task.return_count), HERE))


def test_a_task_whose_return_is_let_go_before_it_ends_leaves_no_recipe() -> None:
    bench = Bench()
    bench.submit(spec(1))
    bench.hear(msg.HoldsReleased((A,)))
    assert len(bench.machine.recipes) == 0
    bench.end(spec(1))
    assert len(bench.machine.recipes) == 0


def test_the_recipe_of_a_small_result_is_there_as_long_as_its_id_and_goes_before_it() -> None:
    bench = Bench()
    bench.submit(spec(1))
    bench.end(spec(1))
    assert len(bench.machine.recipes) == 1
    bench.submit(spec(2, A))
    told = bench.hear(msg.TaskLeaving(spec(2, A), DRIVEN, 0))
    assert [type(fact) for fact in told] == [msg.NodeHolds, msg.RecipesRecorded, msg.LocationsAdded, msg.TaskSpilled]
    assert told[1] == msg.RecipesRecorded(1, (spec(1),), (A,))


def test_the_recipe_of_what_leaves_before_it_is_made_goes_with_it_and_is_not_kept_twice() -> None:
    bench = Bench()
    inner, outer = spec(1), spec(2, contained=(A,))
    bench.submit(inner, outer, spec(3, B))
    told = bench.hear(msg.TaskLeaving(spec(3, B), DRIVEN, 0))
    assert msg.RecipesRecorded(1, (inner, outer), (B,)) in told
    bench.end(outer)
    bench.end(inner)
    bench.end(spec(3, B))
    bench.hear(msg.HoldsReleased((A,)))
    assert len(bench.machine.recipes) == 3, "what A is made from is needed to make B again"
    bench.hear(msg.HoldsReleased((B, C)), msg.ObjectsReleased((A, B)))
    assert (len(bench.machine.recipes), bench.machine.objects) == (0, {})


def test_a_body_that_begins_again_submits_what_is_there() -> None:
    bench = Bench()
    again = msgspec.structs.replace(spec(1))
    bench.submit(spec(1))
    bench.end(spec(1))
    bench.submit(again)
    bench.end(again)
    bench.hear(msg.HoldsReleased((A,)))
    assert (len(bench.machine.recipes), bench.machine.recipes.bytes) == (0, 0)
