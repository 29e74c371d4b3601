"""Random programs on several nodes come to the values of a plain interpretation, wherever their tasks run and whoever dies."""

from __future__ import annotations

from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import event, given, note, settings

from sundog.core.config import Config
from sundog.core.placement import POLICIES
from sundog.core.recovery import Service
from sundog.core.task import FailureKind
from sundog.core.units import MICROSECOND, MILLISECOND
from tests.support.cluster_fleet import Cluster, Node, cluster_config
from tests.support.programs_in_fleet import BOOM, Program, bodies_of, draw_program, outcome, plainly

seeds = st.integers(0, 1 << 48)
bodies = st.integers(1, 6)
operations = st.integers(0, 7)
nodes = st.integers(2, 5)
policies = st.sampled_from(sorted(POLICIES))
#: A node's death may take what was put there, and then what is made of it.
LOST = (BOOM, FailureKind.OBJECT_LOST.value)


def cluster_of(program: Program, count: int, policy: str, rng: Random | None, draw: Random, *, survives: bool = False) -> Cluster:
    """Return a cluster in which tasks soon leave their node. ``survives``: what large tasks need is where nobody dies."""
    offer = draw.choice((0, 100 * MICROSECOND, 2 * MILLISECOND))
    small = draw.choice((0, 16, 100_000))

    def settings(number: int) -> Config:
        """One node has what large tasks need; the others are small, so that tasks leave them."""
        large = number == (0 if survives else count - 1)
        return cluster_config(
            cpus=2 if large else draw.choice((1, 1, 2)), gpus=1 if large else 0, placement_policy=policy, offer_after=offer,
            backlog_max=draw.choice((0, 0, 1, 64)), inline_bytes_max=small, stall_after=5 * MILLISECOND,
        )  # fmt: skip

    return Cluster(count, bodies_of(program), rng=rng, each=settings)


def run_and_compare(program: Program, cluster: Cluster, submitters: list[Node]) -> int:
    """Submit the program at each of ``submitters``; compare; then nothing is left. Returns how many tasks ran elsewhere."""
    expected = [box.told() for box in plainly(program)]
    made = {}
    for node in submitters:
        made[node.number] = node.driver.submit("body0", return_count=program[0].returns, retries_max=1000)
    for node in submitters:
        assert outcome(node, made[node.number]) == expected, "S1"
    ran = [len(node.starts) for node in cluster.nodes]
    moved = sum(ran) - max(ran)
    cluster.drop_all()
    cluster.check_empty()
    return moved


@given(seeds, bodies, operations, nodes, policies)
def test_in_order(seed: int, bodies: int, operations: int, count: int, policy: str) -> None:
    rng = Random(seed)
    program = draw_program(rng, bodies, operations)
    cluster = cluster_of(program, count, policy, None, rng)
    moved = run_and_compare(program, cluster, cluster.nodes[: rng.randint(1, count)])
    event(f"tasks elsewhere: {moved.bit_length()} bits, copied: {cluster.bytes_copied.bit_length()} bits")


@given(seeds, bodies, operations, nodes, policies)
def test_in_any_order_and_with_copies_that_fail(seed: int, bodies: int, operations: int, count: int, policy: str) -> None:
    rng = Random(seed)
    program = draw_program(rng, bodies, operations)
    cluster = cluster_of(program, count, policy, Random(seed + 1), rng)
    cluster.fails = lambda fetch: not rng.randrange(3)
    for pair in ((0, 1), (1, 0), (1, 2), (2, 1)):
        cluster.delays[pair] = rng.choice((0, 0, 5 * MILLISECOND))
    moved = run_and_compare(program, cluster, cluster.nodes[: rng.randint(1, count)])
    event(f"tasks elsewhere: {moved.bit_length()} bits, copied: {cluster.bytes_copied.bit_length()} bits")


def _alike(told: object, expected: object) -> bool:
    """Tell whether ``told`` is ``expected``, but for objects that were lost."""
    if told == FailureKind.OBJECT_LOST.value:
        return True
    if isinstance(told, list) and isinstance(expected, list):
        return len(told) == len(expected) and all(_alike(a, b) for a, b in zip(told, expected, strict=True))
    return told == expected


@given(seeds, bodies, operations, st.integers(3, 5), policies, st.integers(1, 2))
def test_with_nodes_killed_at_any_moment(seed: int, bodies: int, operations: int, count: int, policy: str, kills: int) -> None:
    rng = Random(seed)
    program = draw_program(rng, bodies, operations)
    cluster = cluster_of(program, count, policy, Random(seed + 1), rng, survives=True)
    every = rng.choice((20, 100, 400))

    def kill_sometimes(cluster: Cluster) -> None:
        if len(cluster.lost) < kills and not rng.randrange(every):
            node = rng.choice(cluster.nodes[1:])
            note(f"{cluster.now}: node {node.number} dies")
            cluster.kill(node)

    submitters = cluster.nodes[: rng.randint(1, 2)]
    expected = [box.told() for box in plainly(program)]
    made = {n.number: n.driver.submit("body0", return_count=program[0].returns, retries_max=1000) for n in submitters}
    cluster.before_round = kill_sometimes
    told = outcome(cluster.head, made[cluster.head.number], LOST)
    assert _alike(told, expected), "S1"
    event(f"lost: {told != expected}, killed: {len(cluster.lost)}")
    cluster.before_round = lambda cluster: None
    for node in submitters:
        if node in cluster.nodes:
            assert _alike(outcome(node, made[node.number], LOST), expected), "S1"
    cluster.drop_all()
    cluster.run_for(2_000 * MILLISECOND)
    cluster.check_empty()


@settings(max_examples=max(5, settings().max_examples // 4))
@given(seeds, bodies, operations, st.integers(2, 4), policies, st.integers(0, 1))
def test_with_services_killed_at_any_moment(seed: int, bodies: int, operations: int, count: int, policy: str, kills: int) -> None:
    """The global scheduler and the directory die and begin anew, and a node dies, all at any moment."""
    rng = Random(seed)
    program = draw_program(rng, bodies, operations)
    cluster = cluster_of(program, count, policy, Random(seed + 1), rng, survives=True)
    every = rng.choice((20, 100, 400))
    dead: list[Service] = []

    def kill_sometimes(cluster: Cluster) -> None:
        for service in list(dead):
            if not rng.randrange(every):
                note(f"{cluster.now}: {service.name} begins anew")
                dead.remove(service)
                cluster.restart_service(service)
        if not rng.randrange(every):
            service = rng.choice(list(Service))
            if service not in dead:
                note(f"{cluster.now}: {service.name} dies")
                dead.append(service)
                cluster.kill_service(service)
        if len(cluster.lost) < kills and count > 2 and not rng.randrange(every):
            node = rng.choice(cluster.nodes[1:])
            note(f"{cluster.now}: node {node.number} dies")
            cluster.kill(node)

    expected = [box.told() for box in plainly(program)]
    made = cluster.head.driver.submit("body0", return_count=program[0].returns, retries_max=1000)
    cluster.before_round = kill_sometimes
    cluster.run_for(rng.choice((1, 5, 20)) * MILLISECOND)
    cluster.before_round = lambda cluster: None
    for service in dead:
        cluster.restart_service(service)
    assert _alike(outcome(cluster.head, made, LOST), expected), "S1"
    lives = sum(cluster.head.host._incarnations.values())
    event(f"restarts: {lives.bit_length()} bits, killed: {len(cluster.lost)}")
    cluster.drop_all()
    cluster.run_for(2_000 * MILLISECOND)
    cluster.check_empty()


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_runs_a_program(policy: str) -> None:
    rng = Random(7)
    program = draw_program(rng, 5, 7)
    cluster = cluster_of(program, 4, policy, None, rng)
    run_and_compare(program, cluster, cluster.nodes[1:2])
