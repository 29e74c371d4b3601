"""Lineage: what is submitted again, what cannot be, and what is kept for how long."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.ids import HOST, FunctionID, NodeID, ObjectID, TaskID, address, return_id, return_ids
from sundog.core.lineage import Lineage
from sundog.core.machine import Action, Fact
from sundog.core.task import TaskSpec, Value

HERE = address(NodeID(0), HOST)
NODE = address(NodeID(1), HOST)
ASKER = address(NodeID(2), HOST)
PUT = ObjectID(bytes(16) + b"\x80\0\0\0")


def task_id(number: int) -> TaskID:
    return TaskID(number.to_bytes(16, "big"))


def result(number: int, index: int = 1) -> ObjectID:
    return return_id(task_id(number), index)


def task(number: int, *needs: ObjectID, returns: int = 1, size: int = 10, offset: int = -1) -> TaskSpec:
    arguments = Value(size, offset=offset)
    return TaskSpec(task_id(number), FunctionID(bytes(16)), f"t{number}", arguments, needs, return_count=returns)


class Bench:
    def __init__(self, bound: int = 1 << 20) -> None:
        self.machine = Lineage(Config(lineage_bytes_max=bound), HERE)
        self.sequence = 0

    def step(self, *facts: Fact) -> list[Action]:
        actions = self.machine.step(0, [(NODE, fact) for fact in facts])
        self.machine.check_invariants()
        return actions

    def record(self, *specs: TaskSpec) -> None:
        self.sequence += 1
        assert self.step(msg.RecipesRecorded(self.sequence, specs)) == [Send(NODE, msg.LineageRecorded(self.sequence))]

    def lose(self, *ids: ObjectID) -> list[Action]:
        return self.step(*[msg.ObjectLost(each, (ASKER,)) for each in ids])

    def reason(self, lost: ObjectID) -> str:
        (action,) = self.lose(lost)
        assert isinstance(action, Send)
        assert action.to == ASKER
        assert isinstance(action.message, msg.ObjectUnrecoverable)
        assert action.message.object_id == lost
        return action.message.message


def again(*specs: TaskSpec, reruns: int = 1) -> list[Action]:
    return [Send(HERE, msg.TaskSpilled(spec, NODE, reruns << 24, rebuild=True)) for spec in specs]


def sealed(*ids: ObjectID) -> msg.LocationsAdded:
    return msg.LocationsAdded(NodeID(1), tuple([(each, 1) for each in ids]))


def test_one_acknowledgement_for_a_batch() -> None:
    bench = Bench()
    facts = [msg.RecipesRecorded(number, (task(number),)) for number in (1, 2, 3)]
    assert bench.step(*facts) == [Send(NODE, msg.LineageRecorded(3))]


def test_a_lost_object_is_computed_again_once_for_all_its_siblings() -> None:
    bench = Bench()
    spec = task(1, returns=2)
    bench.record(spec)
    bench.step(sealed(result(1, 1), result(1, 2)))
    assert bench.lose(result(1, 2), result(1, 1)) == again(spec)
    assert bench.lose(result(1, 1)) == [], "it is being computed"
    bench.step(sealed(result(1, 1)))
    assert bench.lose(result(1, 1)) == again(spec, reruns=2), "and lost once more"


def test_what_it_needs_and_nobody_holds_is_computed_first() -> None:
    bench = Bench()
    specs = task(1), task(2, result(1)), task(3, result(2), result(1)), task(4, result(3))
    bench.record(*specs)
    bench.step(sealed(*[result(n) for n in (1, 2, 3, 4)]))
    bench.step(msg.RecipesReleased((result(1), result(2))))
    assert bench.lose(result(4)) == again(specs[3]), "its argument is held, so it has copies or is lost by itself"
    order = bench.lose(result(3))
    assert sorted(order, key=str) == sorted(again(*specs[:3]), key=str)
    assert order[-1:] == again(specs[2])


def test_recipes_go_when_nothing_can_ask_for_them() -> None:
    bench = Bench()
    bench.record(task(1), task(2, result(1)), task(3, result(2)))
    bench.step(msg.RecipesReleased((result(1), result(2))))
    assert bench.machine.bytes > 0
    bench.step(msg.RecipesReleased((result(3), PUT)))
    assert bench.machine.bytes == 0
    assert bench.machine._recipes == {}
    assert bench.machine._gone == {}


def test_puts_and_what_needs_them_cannot_be_computed() -> None:
    bench = Bench()
    assert "it was put, not returned by a task" in bench.reason(PUT)
    bench.record(task(1, PUT))
    bench.step(msg.RecipesReleased((PUT,)))
    reason = bench.reason(result(1))
    assert f"object {PUT.hex()}, which is needed to make it again, is gone too" in reason
    assert "was not recorded" in bench.reason(result(9))
    bench.record(task(2, offset=64))
    assert "the arguments of t2 lay in the memory" in bench.reason(result(2))


def test_the_bound_takes_the_oldest_sealed_and_the_loss_names_it() -> None:
    bench = Bench(bound=5000)
    bench.record(task(1))
    bench.record(task(2), task(3))
    bench.step(sealed(result(2), result(3), PUT))
    for number in range(4, 9):
        bench.record(task(number))
    assert bench.machine.bytes <= 5000
    assert "lineage_bytes_max = 0.00476837 MiB" in bench.reason(result(2))
    assert bench.lose(result(1)) == again(task(1)), "unfinished work is not taken"
    bench.step(msg.RecipesReleased((result(2),)))
    assert "was not recorded" in bench.reason(result(2)), "nothing is remembered of what is released"


def test_the_oldest_is_found_at_once_however_many_went_before_it() -> None:
    """By structure: the first entry of an OrderedDict is a pointer, while a dict passes the places of all that left before."""
    bench = Bench(bound=700 * 1000)
    assert type(bench.machine._sealed) is OrderedDict
    for first in range(1, 20_001, 1000):
        specs = tuple([task(number) for number in range(first, first + 1000)])
        bench.machine.step(
            0, [(NODE, msg.RecipesRecorded(first, specs)), (NODE, sealed(*[return_id(spec.task_id, 1) for spec in specs]))]
        )
    kept = list(bench.machine._recipes)
    assert 1000 <= len(kept) < 1100
    assert kept == [task_id(number) for number in range(20_001 - len(kept), 20_001)]
    assert len(bench.machine._evicted) == 20_000 - len(kept)
    bench.machine.check_invariants()


NUMBERS = st.integers(1, 6)
MOVES: st.SearchStrategy[tuple[str, int, list[int]]] = st.one_of(
    st.tuples(st.just("record"), NUMBERS, st.lists(NUMBERS, max_size=2, unique=True)),
    st.tuples(st.sampled_from(["release", "seal", "lose"]), NUMBERS, st.just([])),
)


@given(st.lists(MOVES, max_size=60), st.sampled_from([1 << 20, 2000]))
def test_any_history_keeps_the_invariants(moves: list[tuple[str, int, list[int]]], bound: int) -> None:
    bench = Bench(bound)
    recorded: dict[int, TaskSpec] = {}
    for move, number, needs in moves:
        if move == "record":
            earlier = [result(need) for need in needs if need < number and need in recorded]
            recorded.setdefault(number, task(number, *earlier))
            bench.record(recorded[number])
        elif move == "release":
            bench.step(msg.RecipesReleased((result(number),)))
        elif move == "seal":
            bench.step(sealed(result(number)))
        else:
            for action in bench.lose(result(number)):
                assert isinstance(action, Send)
                assert isinstance(action.message, msg.TaskSpilled | msg.ObjectUnrecoverable)
    bench.step(msg.RecipesReleased(tuple([result(number) for number in range(1, 7)])))
    assert bench.machine.bytes == 0
    assert return_ids(task_id(1), 1) == (result(1),)
