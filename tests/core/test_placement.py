"""Placement policies: what each prefers, that all are total, and that an index agrees with a scan."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog.core.ids import FunctionID, NodeID, TaskID
from sundog.core.placement import (
    BANDWIDTH,
    MEAN_UNKNOWN,
    POLICIES,
    FunctionPolicy,
    NodeView,
    PlacementPolicy,
    expected_wait,
    fits,
    policy,
)
from sundog.core.resources import ONE_CPU, Shape, shape
from sundog.core.task import TaskSpec, Value
from sundog.core.units import SECOND

RNG = random.Random(7)


def spec(wanted: Shape = ONE_CPU) -> TaskSpec:
    return TaskSpec(TaskID(bytes(16)), FunctionID(bytes(16)), "f", Value(0), resources=wanted)


def view(node: int, cpus: float = 4, free: float = 4, queued: int = 0, gpus: float = 0, mean: int = 0) -> NodeView:
    return NodeView(NodeID(node), shape({"CPU": cpus, "GPU": gpus}), shape({"CPU": free, "GPU": gpus}), queued, mean)


def with_nodes(name: str, *views: NodeView) -> PlacementPolicy:
    made = policy(name)
    for each in views:
        made.node_changed(each)
    return made


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_knows_where_a_task_could_never_run(name: str) -> None:
    made = policy(name)
    assert made.choose(spec(), {}, RNG) is None
    for each in (view(0), view(1), view(2, gpus=1)):
        made.node_changed(each)
    gpu = shape({"CPU": 1, "GPU": 1})
    assert [made.choose(spec(gpu), {NodeID(0): 99}, RNG) for _ in range(5)] == [2] * 5
    made.node_lost(NodeID(2))
    made.node_lost(NodeID(2))
    assert made.choose(spec(gpu), {NodeID(2): 99}, RNG) is None
    assert made.choose(spec(), {NodeID(2): 99}, RNG) in (0, 1)


def test_an_unknown_policy_names_the_known() -> None:
    with pytest.raises(ValueError, match="no placement policy 'best'; there are bottom_up, central"):
        policy("best")


def test_round_robin_goes_round_over_all_classes() -> None:
    made = with_nodes("round_robin", view(3), view(0), view(1, cpus=8), view(2, gpus=1))
    assert [made.choose(spec(), {}, RNG) for _ in range(6)] == [0, 1, 2, 3, 0, 1]


def test_random_reaches_every_node_about_as_often() -> None:
    made = with_nodes("random", view(0), view(1, cpus=8), view(2))
    counts = Counter(made.choose(spec(), {}, RNG) for _ in range(3000))
    assert all(850 < counts[NodeID(node)] < 1150 for node in range(3))


def test_least_loaded_follows_changes() -> None:
    made = with_nodes("least_loaded", view(0, free=0, queued=5), view(1, free=0, queued=2))
    assert made.choose(spec(), {}, RNG) == 1
    made.node_changed(view(1, free=0, queued=9))
    assert made.choose(spec(), {}, RNG) == 0
    made.node_changed(view(1, free=1))
    assert made.choose(spec(), {}, RNG) == 1


def test_power_of_two_avoids_the_busy_one() -> None:
    made = with_nodes("power_of_two", view(0, free=0, queued=50), view(1), view(2))
    counts = Counter(made.choose(spec(), {}, RNG) for _ in range(900))
    assert counts[NodeID(0)] < 160, "only when drawn twice"


def test_locality_follows_the_bytes() -> None:
    made = with_nodes("locality", view(0), view(1, free=0, queued=99))
    assert made.choose(spec(), {NodeID(1): 10}, RNG) == 1
    assert made.choose(spec(), {NodeID(1): 10, NodeID(0): 11, NodeID(7): 99}, RNG) == 0
    assert made.choose(spec(), {}, RNG) == 0


def test_bottom_up_weighs_the_wait_against_the_bytes() -> None:
    made = with_nodes("bottom_up", view(0), view(1, free=0, queued=3))
    wait = expected_wait(view(1, free=0, queued=3))
    assert wait == MEAN_UNKNOWN
    enough = BANDWIDTH * wait // SECOND + 2
    assert made.choose(spec(), {NodeID(1): enough // 2}, RNG) == 0
    assert made.choose(spec(), {NodeID(1): enough}, RNG) == 1


def test_central_waits_for_room() -> None:
    made = with_nodes("central", view(0, free=0), view(1, free=0, gpus=1))
    assert made.choose(spec(), {}, RNG) is None
    made.node_changed(view(0, free=1))
    assert made.choose(spec(), {}, RNG) == 0
    assert made.choose(spec(shape({"CPU": 2})), {}, RNG) is None


def test_a_plain_function_is_a_policy() -> None:
    made = FunctionPolicy(lambda spec, views, holders, rng: views[-1].node if views else None)
    assert made.choose(spec(), {}, RNG) is None
    made.node_changed(view(2))
    made.node_changed(view(1))
    assert made.choose(spec(), {}, RNG) == 2
    made.node_lost(NodeID(2))
    assert made.choose(spec(), {}, RNG) == 1


VIEWS = st.builds(
    view,
    st.integers(0, 6),
    cpus=st.sampled_from([2, 4]),
    free=st.integers(0, 2),
    queued=st.integers(0, 4),
    gpus=st.sampled_from([0, 1]),
    mean=st.sampled_from([0, 500_000]),
)


@given(
    changes=st.lists(st.one_of(VIEWS, st.integers(0, 6)), max_size=80),
    wanted=st.sampled_from([ONE_CPU, shape({"CPU": 3}), shape({"CPU": 1, "GPU": 1})]),
    held=st.dictionaries(st.integers(0, 6), st.integers(0, 4_000_000), max_size=3),
)
def test_the_index_agrees_with_a_scan(changes: list[NodeView | int], wanted: Shape, held: dict[int, int]) -> None:
    least, bottom_up, central = policy("least_loaded"), policy("bottom_up"), policy("central")
    views: dict[int, NodeView] = {}
    for change in changes:
        for each in (least, bottom_up, central):
            if isinstance(change, int):
                each.node_lost(NodeID(change))
                views.pop(change, None)
            else:
                each.node_changed(change)
                views[change.node] = change
    able = [known for known in views.values() if fits(wanted, known.capacity)]
    holders = {NodeID(node): size for node, size in held.items()}
    scan = min(((expected_wait(known), known.node) for known in able), default=None)
    assert least.choose(spec(wanted), holders, RNG) == (scan and scan[1])
    costs = [(expected_wait(k) - holders.get(k.node, 0) * SECOND // BANDWIDTH, k.node) for k in able]
    assert bottom_up.choose(spec(wanted), holders, RNG) == (min(costs)[1] if costs else None)
    chosen = central.choose(spec(wanted), holders, RNG)
    free = [known.node for known in able if fits(wanted, known.free)]
    assert chosen in free if free else chosen is None
