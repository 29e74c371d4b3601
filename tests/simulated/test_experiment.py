"""``sundog.simulate``: workloads without bodies on the machines of core, in virtual time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

import sundog
from sundog import workloads
from sundog.backends import current
from sundog.backends.simulated.experiment.experiment import SimulationError
from sundog.backends.simulated.experiment.report import Report
from sundog.backends.simulated.experiment.start import prepare
from sundog.backends.simulated.workloads.workload import PUT
from sundog.core.ids import NodeID
from sundog.core.machine import Rng
from sundog.core.placement import POLICIES, IndexedPolicy, NodeView, PowerOfChoices
from sundog.core.task import TaskSpec
from sundog.core.units import MIB
from sundog.workloads import Compute, Get, Submit, Workload, WorkloadError, compute, task

#: A head that runs nothing, so that every task is placed by the policy, and ten nodes.
PLACED = [{"num_cpus": 0}, {"num_cpus": 4, "count": 10}]
PROFILES = ("free", "default")


def run(workload: Workload, cluster: Any = 1, **options: Any) -> Report:
    """Simulate with all invariants checked; the books are checked by every report."""
    report = sundog.simulate(workload, cluster, check_invariants=True, **options)
    assert report.unfinished == 0
    return report


# -- how long things take ------------------------------


def test_ten_tasks_on_two_workers_take_five_times_their_duration() -> None:
    report = run(workloads.independent(10, 1.0), num_cpus=2, profile="free")
    assert report.makespan == 5.0
    assert report.utilisation == (1.0,)
    assert (report.tasks, report.spilled, report.messages_remote) == (10, 0, 0)


def test_what_costs_time_is_added() -> None:
    free, costly = [run(workloads.chain(20, 0.01), profile=profile).makespan for profile in PROFILES]
    assert free == pytest.approx(0.2)
    assert 20 * 5e-6 < costly - free < 20 * 400e-6


@pytest.mark.parametrize("profile", PROFILES)
def test_every_task_is_placed_when_the_head_runs_nothing(profile: str) -> None:
    report = run(workloads.independent(200, 0.1), PLACED, profile=profile, policy="round_robin")
    assert report.spilled == 200
    assert report.utilisation[0] == 0
    assert report.makespan == pytest.approx(0.5, rel=0.05)


def test_large_values_move_and_stores_end_empty() -> None:
    tasks = [task(0.1, outputs=(50 * MIB, MIB))]
    tasks += [task(0.5, inputs=[(0, 0), (0, 1)], outputs=(MIB,)) for _ in range(12)]
    tasks.append(task(0.1, inputs=range(1, 13)))
    report = run(Workload(tasks, "fan"), 3, profile="default")
    assert report.bytes_moved >= 51 * MIB
    assert report.store_peak >= 51 * MIB
    assert report.makespan > 0.1 + 50 * MIB / 1.25e9


def test_a_put_is_there_before_what_takes_it() -> None:
    tasks = [task(outputs=(10 * MIB,), function=PUT, resources=()), *[task(0.1, inputs=[0]) for _ in range(20)]]
    tasks += [task(outputs=(8,), function=PUT, resources=()), task(0.1, inputs=[21])]
    report = run(Workload(tasks, "put"), 3, profile="default")
    assert report.bytes_moved % (10 * MIB) == 0
    assert report.bytes_moved > 0


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("cluster", [1, 3, PLACED])
def test_a_body_that_waits_gives_its_cpu_back(profile: str, cluster: Any) -> None:
    parent = task(steps=[compute(0.1), Submit((1, 2, 3)), compute(0.1), Get((1, 2, 3)), compute(0.1)])
    children = [task(1.0, parent=0, outputs=(MIB,)) for _ in range(3)]
    report = run(Workload([parent, *children, task(0.1, inputs=[0])], "nested"), cluster, profile=profile)
    # Three children on one CPU; on three, whoever gets two; on forty.
    most = 3.5 if cluster == 1 else 2.5 if cluster == 3 else 1.5
    assert 1.3 <= report.makespan < most


def test_ids_are_handed_down_to_those_who_take_them() -> None:
    """A task that a grandchild takes was submitted by the driver: the IDs travel in the arguments in between."""
    tasks = [
        task(0.1, outputs=(MIB,)),
        task(steps=[Submit((2,)), Get((2,))]),
        task(parent=1, steps=[Submit((3,)), Get((3, 0)), compute(0.1)]),
        task(0.1, parent=2, inputs=[0]),
    ]
    report = run(Workload(tasks, "handed down"), 2, profile="default")
    assert report.makespan >= 0.3


GRAPHS = {
    "tree": lambda: workloads.tree_reduce(32, 0.05, size=MIB),
    "shuffle": lambda: workloads.map_reduce(10, 5, 0.05, partition=MIB),
    "random": lambda: workloads.layered_random(8, 12, 0.05, size=100_000, seed=3),
    "nested": lambda: workloads.nested(3, 3, 0.05, depth=2, before=0.01, after=0.01, size=MIB),
    "rounds": lambda: workloads.bulk_synchronous(4, 3, 0.05),
}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_graph_ends_with_nothing_left(graph: str, profile: str) -> None:
    workload = GRAPHS[graph]()
    report = run(workload, [{"num_cpus": 2, "count": 2}, {"num_cpus": 1}], profile=profile)
    # A body that waits for longer than the overdraft's grace goes on beyond the CPUs: no bound there.
    assert graph == "nested" or report.makespan >= report.bound * 0.999


# -- policies ------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_by_name(policy: str) -> None:
    arrivals = workloads.poisson(300, 100, 0.1, seed=1)
    report = run(arrivals, PLACED, policy=policy, profile="free")
    assert report.policy == policy
    assert report.response.mean < 0.2


class Third(IndexedPolicy):
    """All to node 3."""

    def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
        """See ``PlacementPolicy``."""
        return NodeID(3)


def fourth(spec: TaskSpec, views: Sequence[NodeView], holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
    """All to node 4."""
    return views[4].node


@pytest.mark.parametrize(("policy", "node", "name"), [(Third, 3, "Third"), (Third(), 3, "Third"), (fourth, 4, "fourth")])
def test_a_policy_of_the_users_own(policy: Any, node: int, name: str) -> None:
    report = run(workloads.independent(40, 0.1), PLACED, policy=policy, profile="free")
    assert [index for index, share in enumerate(report.utilisation) if share] == [node]
    assert report.policy == name
    assert report.makespan == pytest.approx(1.0)


def test_more_choices_wait_less() -> None:
    arrivals = workloads.poisson(900, 500, workloads.Exponential(0.01), seed=2)
    cluster = [{"num_cpus": 0}, {"num_cpus": 1, "count": 10}]
    waits = [sundog.simulate(arrivals, cluster, policy=PowerOfChoices(d), profile="free").queueing.mean for d in (1, 2)]
    central = sundog.simulate(arrivals, cluster, policy="central", profile="free").queueing.mean
    assert waits[0] > 1.2 * waits[1] > waits[1] > central > 0


@pytest.mark.parametrize(("policy", "node"), [(Third, 3), (fourth, 4)])
def test_the_same_policies_place_what_users_programs_submit(policy: Any, node: int) -> None:
    nodes = [{"num_cpus": 0}, {"num_cpus": 2, "count": 5}]
    with sundog.init(backend="simulated", nodes=nodes, policy=policy):
        slept = sundog.remote(sundog.sleep)
        sundog.get([slept.remote(0.1) for _ in range(8)])
        session: Any = current.get()
        assert list(session.port.cluster.hosts[NodeID(0)].global_scheduler.placed) == [node]


@pytest.mark.parametrize(("policy", "error"), [("best", ValueError), (object(), TypeError)])
def test_wrong_policies_for_users_programs(policy: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="polic"):
        sundog.init(backend="simulated", nodes=2, policy=policy)


# -- the same every time ------------------------------

_DIGEST = """
import sundog
from sundog import workloads
w = workloads.layered_random(6, 10, workloads.Exponential(0.05), size=200_000, seed=3)
print(sundog.simulate(w, 3, num_cpus=2, seed=SEED, digest=True, policy="power_of_two").digest)
"""


def _digest(seed: int, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", _DIGEST.replace("SEED", str(seed))], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_same_seed_same_digest_in_any_process() -> None:
    first = _digest(1, "1")
    assert len(first) == 64
    assert _digest(1, "2") == first
    assert _digest(2, "1") != first


def test_a_digest_changes_nothing() -> None:
    workload = workloads.layered_random(6, 10, 0.05, size=200_000, seed=3)
    plain, logged = [sundog.simulate(workload, 3, seed=1, digest=digest) for digest in (False, True)]
    assert plain.digest == ""
    assert (plain.makespan, plain.response, plain.events) == (logged.makespan, logged.response, logged.events)


# -- nodes that come and go ------------------------------


@pytest.mark.parametrize("workload", ["random", "nested"])
@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_lost_node_had_is_done_again(workload: str, profile: str) -> None:
    cluster = [{"num_cpus": 1}, {"num_cpus": 2, "leaves": 0.2}, {"num_cpus": 2, "joins": 0.4}]
    report = run(GRAPHS[workload](), cluster, profile=profile)
    assert report.retries > 0
    assert report.utilisation[2] > 0


@pytest.mark.parametrize(
    ("faults", "retries"),
    [
        ("kill node 2 at 0.1 s for 500 ms", 1),
        ("kill worker 1 of node 1 when the 7th task starts", 0),
        ("kill node 2 when the 7th task seals", 0),
        ("partition [0,1]|[2,3] at 0.1 s for 5 s", 1),
        ("slow node 1 by 4 at 0.1 s", 0),
        ("swarm", 0),
    ],
)
def test_a_workload_on_a_cluster_that_fails(faults: str, retries: int) -> None:
    workload = workloads.layered_random(6, 20, 0.1, size=MIB, seed=1)
    cluster = [{"num_cpus": 2, "count": 4}]
    report = run(workload, cluster, faults=faults, seed=3)
    assert report.retries >= retries
    assert report.makespan > run(workload, cluster, seed=3).bound


# -- what makes no sense ------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"workload": [1]}, TypeError, "simulate runs a Workload"),
        ({"cluster": 0}, ValueError, "a cluster has at least one"),
        ({"cluster": [{"cpus": 1}]}, TypeError, "nodes have no 'cpus'"),
        ({"policy": "best"}, ValueError, "no placement policy 'best'"),
        ({"policy": object()}, TypeError, "no node_changed, node_lost, choose"),
        ({"profile": 3}, TypeError, "profile takes"),
        ({"network": 3}, TypeError, "NetworkModel"),
        ({"seed": 1.5}, TypeError, "seed takes"),
        ({"num_cpus": -1}, ValueError, "num_cpus=-1"),
        ({"settings": {"heartbeat": 1}}, TypeError, "there is no 'heartbeat'"),
        ({"faults": "kill node 9 at 1 s"}, ValueError, "there is no node 9"),
        ({"cluster": [{"num_cpus": 0}]}, WorkloadError, "task-0.*needs 1 CPU, which no node ever has"),
        ({"workload": Workload([task(node=3)])}, WorkloadError, "driver of node 3"),
        ({"workload": Workload([task(inputs=[1]), task(inputs=[0])])}, WorkloadError, "cyclic"),
    ],
)
def test_wrong_calls(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    workload = arguments.pop("workload", Workload([task(0.1)]))
    with pytest.raises(error, match=text):
        sundog.simulate(workload, **arguments)


def test_a_full_store_is_named() -> None:
    tasks = [task(0.1, outputs=(4 * MIB,)) for _ in range(20)] + [task(0.1, inputs=range(20))]
    with pytest.raises(SimulationError, match="the object store has no room for 4,194,304 bytes"):
        sundog.simulate(Workload(tasks), [{"num_cpus": 4, "object_store_memory": 20 * MIB}])


def test_a_task_that_no_node_is_left_for_is_named() -> None:
    with pytest.raises(SimulationError, match="needs 1 CPU; no node has it"):
        sundog.simulate(workloads.independent(5, 0.1), [{"num_cpus": 0}, {"num_cpus": 1, "leaves": 0.2}])


class Nowhere(Third):
    """No node is good enough."""

    def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
        """See ``PlacementPolicy``."""
        return None


def test_heartbeats_alone_do_not_keep_a_run_alive() -> None:
    with pytest.raises(SimulationError, match=r"nothing is left to happen.*2 of 2 tasks.*independent-0 on node 0"):
        sundog.simulate(workloads.independent(2, 0.1), PLACED, policy=Nowhere)


def test_bodies_that_wait_for_each_other_for_ever_are_told() -> None:
    """Both hold the only GPU that the other's child needs."""
    gpu = {"CPU": 1, "GPU": 1}
    parent = task(resources=gpu, steps=[Submit((1,)), Get((1,))])
    with pytest.raises(SimulationError, match="GPU"):
        sundog.simulate(Workload([parent, task(0.1, resources=gpu, parent=0)], "held"), {"num_cpus": 2, "num_gpus": 1})


# -- the door ------------------------------


def test_an_import_of_sundog_brings_nothing_of_the_simulator() -> None:
    code = "import sys, sundog; print([m for m in sys.modules if m.startswith(('simpy', 'greenlet', 'sundog.backends.simulated'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_empty_workload_is_over_at_once() -> None:
    assert run(Workload([]), 2).makespan == 0


def test_progress_is_a_line_that_goes_away(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sundog.backends.simulated.experiment.progress._PATIENCE", 0.0)
    sundog.simulate(workloads.independent(2000, 0.001), num_cpus=100, progress=True)
    shown = capsys.readouterr().err
    assert "tasks/s" in shown
    assert shown.endswith(" \r")


def test_steps_of_a_body_may_be_empty() -> None:
    report = run(Workload([task(steps=[Compute(0), Submit(()), Get(())])]), profile="free")
    assert report.makespan == 0


def test_an_experiment_counts_what_the_network_counts() -> None:
    experiment = prepare(workloads.map_reduce(6, 3, 0.01, partition=MIB), 3, seed=1)
    measures = experiment.run()
    network = experiment.network
    network.check_invariants()
    assert measures.messages_remote > 0
    assert sum(measures.bytes_received) == sum(measures.bytes_sent)
    assert network.delivered.bytes >= measures.bytes_remote - network.pending().bytes + sum(measures.bytes_received)
