"""The object directory: who is told what, and when an object counts as lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.ids import HOST, Address, NodeID, ObjectID, address
from sundog.core.machine import Action, Event, Fact
from sundog.core.object_directory import ObjectDirectory

HERE = address(NodeID(0), HOST)
A, B = (ObjectID(letter * 20) for letter in (b"a", b"b"))


def host(node: int) -> Address:
    return address(NodeID(node), HOST)


def step(machine: ObjectDirectory, *events: Event) -> list[Action]:
    actions = machine.step(0, events)
    machine.check_invariants()
    assert machine.next_deadline() is None
    return actions


def directory() -> ObjectDirectory:
    """Return a directory in which node 9 holds A and B, and will make them."""
    machine = ObjectDirectory(Config(), HERE)
    assert step(machine, held(9, A, B, made_here=(A, B))) == []
    return machine


def held(node: int, *objects: ObjectID, made_here: tuple[ObjectID, ...] = ()) -> Event:
    return host(node), msg.NodeHolds(NodeID(node), objects, made_here)


def unheld(node: int, *objects: ObjectID) -> Event:
    return host(node), msg.NodeReleases(NodeID(node), objects)


def added(node: int, *objects: ObjectID) -> Event:
    return host(node), msg.LocationsAdded(NodeID(node), tuple([(each, 100) for each in objects]))


def removed(node: int, *objects: ObjectID) -> Event:
    return host(node), msg.LocationsRemoved(NodeID(node), objects)


def wanted(node: int, *objects: ObjectID) -> Event:
    return host(node), msg.LocationsWanted(objects)


def changed(node: int, object_id: ObjectID, *nodes: int) -> Action:
    holders = tuple([NodeID(each) for each in nodes])
    return Send(host(node), msg.LocationsChanged(object_id, 100 if nodes else 0, holders))


def test_answers_at_once_and_at_every_change() -> None:
    machine = directory()
    assert step(machine, wanted(1, A)) == [changed(1, A)]
    assert step(machine, added(2, A), added(3, A, B)) == [changed(1, A, 2, 3)]
    assert step(machine, wanted(4, A, B)) == [changed(4, A, 2, 3), changed(4, B, 3)]
    assert step(machine, removed(2, A)) == [changed(1, A, 3), changed(4, A, 3)]
    step(machine, (host(1), msg.LocationsUnwanted((A,))), (host(9), msg.LocationsUnwanted((A,))))
    assert step(machine, added(5, A)) == [changed(4, A, 3, 5)]
    assert machine.bytes_held([A, B]) == {3: 200, 5: 100}


def test_one_batch_gives_one_answer() -> None:
    machine = directory()
    assert step(machine, wanted(1, A), added(2, A), wanted(1, A)) == [changed(1, A, 2)]


def test_the_last_copy_lost_with_its_node_is_reported_to_lineage() -> None:
    machine = directory()
    step(machine, added(2, A, B), added(3, B), wanted(1, A, B))
    actions = step(machine, (HERE, msg.NodeLost(NodeID(2))))
    lost = msg.LocationsChanged(A, 100, ())
    assert actions == [Send(host(1), lost), changed(1, B, 3), Send(HERE, msg.ObjectLost(A, (host(1),)))]
    actions = step(machine, wanted(4, A))  # whoever asks later is told, and lineage hears of it
    assert actions == [Send(host(4), lost), Send(HERE, msg.ObjectLost(A, (host(1), host(4))))]
    assert step(machine, added(5, A)) == [changed(1, A, 5), changed(4, A, 5)]


def test_a_loss_that_nobody_minds_is_reported_when_somebody_does() -> None:
    machine = directory()
    step(machine, added(2, A, B))
    assert step(machine, (HERE, msg.NodeLost(NodeID(2)))) == []
    assert Send(HERE, msg.ObjectLost(A, (host(1),))) in step(machine, wanted(1, A))


def test_what_nobody_has_or_will_make_is_lost() -> None:
    machine = ObjectDirectory(Config(), HERE)
    assert step(machine, held(1, A), wanted(1, A)) == [changed(1, A), Send(HERE, msg.ObjectLost(A, (host(1),)))]
    step(machine, held(2, B, made_here=(B,)), held(1, B))
    assert step(machine, wanted(1, B)) == [changed(1, B)], "node 2 will make it"
    assert step(machine, (HERE, msg.NodeLost(NodeID(2)))) == [Send(HERE, msg.ObjectLost(B, (host(1),)))]


def test_when_no_node_holds_it_the_copies_and_the_recipe_go() -> None:
    machine = directory()
    step(machine, held(1, A), added(2, A), added(3, A))
    assert step(machine, unheld(9, A)) == []
    released = [Send(host(node), msg.ObjectsReleased((A,))) for node in (9, 2, 3)]
    assert step(machine, unheld(1, A), unheld(1, A)) == [*released, Send(HERE, msg.RecipesReleased((A,)))]
    assert step(machine, added(4, A)) == [Send(host(4), msg.ObjectsReleased((A,)))], "too late"
    assert step(machine, unheld(9, B)) == [Send(host(9), msg.ObjectsReleased((B,))), Send(HERE, msg.RecipesReleased((B,)))]
    assert machine._entries == {}


def test_a_lost_node_holds_nothing() -> None:
    machine = directory()
    step(machine, added(2, A), added(9, A))
    actions = step(machine, (HERE, msg.NodeLost(NodeID(9))))
    assert actions == [Send(host(2), msg.ObjectsReleased((A,))), Send(HERE, msg.RecipesReleased((A, B)))]
    assert machine._entries == {}


def test_a_removed_copy_leaves_without_a_word() -> None:
    machine = directory()
    step(machine, added(2, A))
    assert step(machine, removed(2, A), removed(2, A), removed(3, B)) == []


def test_a_lost_node_asks_no_more() -> None:
    machine = directory()
    step(machine, wanted(1, A), wanted(2, A), added(1, B))
    assert step(machine, (HERE, msg.NodeLost(NodeID(1))), added(3, A)) == [changed(2, A, 3)]


NODES = st.integers(1, 3)
SOME = st.lists(st.sampled_from([A, B]), min_size=1, max_size=2, unique=True).map(tuple)
FACTS: st.SearchStrategy[tuple[int, Fact]] = st.one_of(
    st.builds(lambda n, o: (n, msg.LocationsAdded(NodeID(n), tuple([(x, 1) for x in o]))), NODES, SOME),
    st.builds(lambda n, o: (n, msg.LocationsRemoved(NodeID(n), o)), NODES, SOME),
    st.builds(lambda n, o: (n, msg.LocationsWanted(o)), NODES, SOME),
    st.builds(lambda n, o: (n, msg.LocationsUnwanted(o)), NODES, SOME),
    st.builds(lambda n, o: (n, msg.RecipesReleased(o)), NODES, SOME),
    st.builds(lambda n: (0, msg.NodeLost(NodeID(n))), NODES),
)


@given(st.lists(st.lists(FACTS, max_size=4), max_size=30))
def test_subscribers_know_what_a_plain_table_says(batches: list[list[tuple[int, Fact]]]) -> None:
    machine = directory()
    copies: dict[ObjectID, dict[int, None]] = {A: {}, B: {}}
    asking: dict[tuple[int, ObjectID], None] = {}
    told: dict[tuple[int, ObjectID], tuple[int, ...]] = {}
    for batch in batches:
        for node, fact in batch:
            match fact:
                case msg.LocationsAdded(objects=objects):
                    for each, _ in objects:
                        copies[each][node] = None
                case msg.LocationsRemoved(object_ids=ids):
                    for each in ids:
                        copies[each].pop(node, None)
                case msg.LocationsWanted(object_ids=ids):
                    asking.update(dict.fromkeys((node, each) for each in ids))
                case msg.LocationsUnwanted(object_ids=ids):
                    for each in ids:
                        asking.pop((node, each), None)
                        told.pop((node, each), None)
                case msg.NodeLost(node=lost):
                    for each in (A, B):
                        copies[each].pop(lost, None)
                        asking.pop((lost, each), None)
                        told.pop((lost, each), None)
        for action in step(machine, *[(host(node), fact) for node, fact in batch]):
            assert isinstance(action, Send)
            if isinstance(action.message, msg.LocationsChanged):
                told[action.to >> 32, action.message.object_id] = action.message.nodes
        assert told == {(node, each): tuple(copies[each]) for node, each in asking}
