"""The head's services die and begin anew: nothing runs twice, nothing is freed too early, nothing is forgotten."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.cluster_host import ClusterHost
from sundog.core.config import Config
from sundog.core.errors import InvariantViolation
from sundog.core.host import Host
from sundog.core.ids import HOST, LOOP, NodeID, address
from sundog.core.placement import POLICIES
from sundog.core.recovery import Recovery, Service
from sundog.core.restarted_scheduler import RestartedScheduler
from sundog.core.task import Result, Value
from sundog.core.units import MILLISECOND, SECOND
from tests.core.test_several_nodes import BODIES, LARGE, ONLY_ON, cluster, finish, node_of, on
from tests.support.builders import AT_DRIVER, inline, said, spec
from tests.support.cluster_fleet import Cluster, Node, cluster_config
from tests.support.fleet import Execution, Work

SCHEDULER, DIRECTORY = Service.GLOBAL_SCHEDULER, Service.DIRECTORY
MS = MILLISECOND


def restart(made: Cluster, *services: Service) -> None:
    """Kill services, and have them run again at once."""
    for service in services:
        made.kill_service(service)
        made.restart_service(service)
    made.run_for(MS)


def directory_recovers(made: Cluster) -> bool:
    return made.head.host.directory._recovering


def slowly_large(execution: Execution) -> Generator[Any, Any, Value]:
    """Return something large, late enough for other nodes to take part."""
    yield Work(10 * MS)
    return (yield from execution.large(LARGE, node_of(execution)))


def runs(made: Cluster) -> int:
    """Return how many bodies have begun, anywhere."""
    return sum(len(node.starts) for node in (*made.nodes, *made.lost))


# -- the global scheduler ------------------------------


@pytest.mark.parametrize("at", [0, 1])
def test_what_is_submitted_while_there_is_no_scheduler_is_placed_by_the_next(at: int) -> None:
    made = cluster(3)
    made.kill_service(SCHEDULER)
    made.run_for(MS)
    result = on(made.nodes[at], 2, "here")
    made.run_for(20 * MS)
    assert runs(made) == 0
    made.restart_service(SCHEDULER)
    assert made.nodes[at].get(result) == [2]
    assert runs(made) == 1
    finish(made)


@pytest.mark.parametrize("at", [0, 1])
def test_what_runs_and_what_ends_meanwhile_runs_once(at: int) -> None:
    """One end is lost with the scheduler, one task ends while nobody knows of it, and one after the next has begun."""
    made = cluster(3, inline_bytes_max=16)
    node = made.nodes[at]
    spans = [node.driver.put(span) for span in (5 * MS, 20 * MS, 60 * MS)]
    first = on(node, 2, "lasting", spans[0])
    second = on(node, 2, "lasting", spans[1])
    third = on(node, 2, "lasting", spans[2])
    made.run_for(2 * MS)
    large = on(node, 1 - at, "large")
    made.run_for(MS)
    made.kill_service(SCHEDULER)
    made.run_for(20 * MS)
    assert made.nodes[2].objects.ended, "its end waits to be told"
    made.restart_service(SCHEDULER)
    assert node.get(first, second, third, large) == [2, 2, 2, 1 - at]
    assert runs(made) == 4
    finish(made)


def test_an_end_that_was_heard_is_not_kept() -> None:
    made = cluster(2)
    result = on(made.head, 1, "here")
    made.head.get(result)
    assert len(made.nodes[1].objects.ended) == 1
    made.run_for(110 * MS)
    assert len(made.nodes[1].objects.ended) == 1, "one end is not worth a message"
    made.run_for(1000 * MS)
    assert made.nodes[1].objects.ended == {}
    finish(made)


def test_an_end_that_is_told_twice_changes_nothing() -> None:
    made = cluster(3, inline_bytes_max=16)
    result = on(made.nodes[1], 2, "large")
    assert made.nodes[1].get(result) == [2]
    assert made.nodes[2].objects.ended
    restart(made, SCHEDULER)
    assert made.nodes[1].get(result) == [2]
    assert made.head.host.directory._entries
    finish(made)


def test_functions_that_only_nodes_know_reach_the_next() -> None:
    made = cluster(3)
    made.nodes[1].get(on(made.nodes[1], 1, "here"))
    restart(made, SCHEDULER)
    assert made.nodes[1].get(on(made.nodes[1], 2, "here")) == [2]
    finish(made)


def test_nothing_is_placed_before_every_node_has_told() -> None:
    made = cluster(3)
    made.kill_service(SCHEDULER)
    made.run_for(MS)
    result = on(made.nodes[1], 0, "here")
    made.delays[0, 2] = 100 * MS
    made.restart_service(SCHEDULER)
    made.run_for(90 * MS)
    assert made.head.host.global_scheduler.recovering
    assert runs(made) == 0
    assert made.nodes[1].get(result) == [0]
    made.delays.clear()
    finish(made)


@pytest.mark.parametrize("retries", [0, 1])
def test_a_node_that_is_lost_meanwhile_may_have_run_it(retries: int) -> None:
    made = Cluster(3, BODIES, cluster_config(cpus=1))
    span = made.head.driver.put(50 * MS)
    made.run_for(MS)
    ids = [made.head.driver.call("lasting", span, retries_max=retries) for _ in range(3)]
    made.run_for(10 * MS)
    assert runs(made) == 3
    made.kill_service(SCHEDULER)
    made.run_for(MS)
    made.kill(made.nodes[2])
    made.run_for(400 * MS)
    made.restart_service(SCHEDULER)
    if retries:
        assert sorted(made.head.get(*ids))[:2] == [0, 0] or sorted(made.head.get(*ids)) == [0, 1, 1]
        assert runs(made) == 4
    else:
        errors = [str(value.failure) for task in ids for value in made.head.get_values(task) if value.error]
        assert len(errors) == 1
        assert "was lost while the global scheduler was down" in errors[0]
        assert runs(made) == 3
    finish(made)


def test_a_node_that_beats_and_does_not_answer_is_lost() -> None:
    made = cluster(3)
    result = on(made.nodes[1], 0, "slowly")
    made.run_for(MS)
    made.delays[0, 2] = 2 * SECOND
    restart(made, SCHEDULER, DIRECTORY)
    assert made.nodes[1].get(result) == [0]
    made.run_for(700 * MS)
    assert NodeID(2) not in made.head.host._members
    assert not directory_recovers(made)
    finish(made)


def test_a_policy_of_the_users_forgets_the_nodes_and_hears_of_them_again() -> None:
    policy = POLICIES["bottom_up"]()
    heard: list[Any] = []

    class Watched:
        def node_changed(self, view: Any) -> None:
            heard.append(("changed", int(view.node)))
            policy.node_changed(view)

        def node_lost(self, node: NodeID) -> None:
            heard.append(("lost", int(node)))
            policy.node_lost(node)

        def choose(self, *given: Any) -> Any:
            return policy.choose(*given)

    config = cluster_config(cpus=1)
    host = ClusterHost(config, policy=Watched())
    host.step(0, [((1 << 32), msg.NodeJoined(NodeID(1), ONLY_ON[1]))])  # type: ignore[list-item]
    heard.clear()
    host.step(1, [(LOOP, ev.ServiceLost(SCHEDULER))])
    assert heard == [("lost", 0), ("lost", 1)]
    assert host.known_nodes() == []
    heard.clear()
    host.step(2, [(LOOP, ev.ServiceStarted(SCHEDULER))])
    assert {node for _, node in heard} == {0, 1}
    assert [view.node for view in host.known_nodes()] == [0, 1]
    assert isinstance(host.global_scheduler, RestartedScheduler)


# -- the directory ------------------------------


def _shared(made: Cluster) -> tuple[Node, Any]:
    """Have node 1 hold what node 2 has."""
    node = made.nodes[1]
    result = on(node, 2, "large")
    assert node.wait(result) == (result,)
    return node, result


def test_objects_survive_the_directory() -> None:
    made = cluster(3, inline_bytes_max=16)
    node, result = _shared(made)
    restart(made, DIRECTORY)
    assert made.head.host.directory._entries.keys() == {result}
    assert node.get(result, on(node, 0, "total", result)) == [2, [0, 2]]
    finish(made)


def test_what_is_let_go_meanwhile_goes_after_all() -> None:
    made = cluster(3, inline_bytes_max=16)
    node, _ = _shared(made)
    assert made.head.host.lineage._recipes
    made.kill_service(DIRECTORY)
    made.run_for(MS)
    node.driver.drop_all()
    made.run_for(10 * MS)
    assert made.nodes[2].objects.objects, "nobody has said that it may go"
    made.restart_service(DIRECTORY)
    made.run_for(1_200 * MS)
    made.check_empty()


def test_nothing_is_freed_or_lost_before_every_node_has_told() -> None:
    made = cluster(3, inline_bytes_max=16)
    node, result = _shared(made)
    made.delays[0, 1] = 50 * MS  # it holds what the others have told of
    restart(made, DIRECTORY)
    made.run_for(20 * MS)
    assert made.nodes[2].objects.objects
    made.run_for(50 * MS)
    made.delays.clear()
    made.delays[0, 2] = 50 * MS  # it has what the others want
    made.kill_service(DIRECTORY)
    made.restart_service(DIRECTORY)
    began = made.now
    assert node.get(result) == [2]
    assert made.now - began > 40 * MS
    assert runs(made) == 1
    made.delays.clear()
    finish(made)


def test_what_was_on_a_node_that_is_lost_meanwhile_is_made_again() -> None:
    made = Cluster(4, {**BODIES, "slowly_large": slowly_large}, cluster_config(cpus=1, inline_bytes_max=16, arena_bytes=1 << 23))
    node = made.nodes[1]
    ids = [node.driver.call("slowly_large", retries_max=9) for _ in range(8)]
    node.wait(*ids, count=8)
    assert made.nodes[3].objects.objects
    made.kill_service(DIRECTORY)
    made.run_for(MS)
    made.kill(made.nodes[3])
    made.run_for(400 * MS)
    made.restart_service(DIRECTORY)
    assert set(node.get(*ids)) <= {0, 1, 2}
    assert runs(made) > 8
    finish(made)


def test_results_that_no_scheduler_has_heard_of_outlive_the_directory() -> None:
    made = cluster(3, inline_bytes_max=16)
    result = on(made.nodes[1], 2, "large")
    made.run_for(MS // 10)
    made.kill_service(SCHEDULER)
    made.run_for(10 * MS)
    made.kill_service(DIRECTORY)
    made.restart_service(DIRECTORY)
    made.run_for(20 * MS)
    assert directory_recovers(made), "it waits for a scheduler that knows whose results there are"
    made.restart_service(SCHEDULER)
    made.run_for(10 * MS)
    assert not directory_recovers(made)
    assert made.nodes[1].get(result) == [2]
    finish(made)


@pytest.mark.parametrize("services", [(SCHEDULER,), (DIRECTORY,), (SCHEDULER, DIRECTORY), (DIRECTORY, SCHEDULER)])
def test_services_that_die_over_and_over(services: tuple[Service, ...]) -> None:
    made = Cluster(4, BODIES, cluster_config(cpus=1, inline_bytes_max=16))
    node = made.nodes[1]
    ids = [node.driver.call("slowly") for _ in range(20)]
    values = [node.driver.call("large") for _ in range(5)]
    for _ in range(10):
        restart(made, *services)
        made.run_for(3 * MS)
    ids.append(node.driver.call("total", *values))
    restart(made, *services)
    assert len(node.get(*ids)) == 21
    assert runs(made) == 26, "nothing runs twice"
    finish(made)


# -- what they are made of ------------------------------


def test_facts_of_services_that_live_or_are_dead_already_mean_nothing() -> None:
    made = cluster(2)
    made.restart_service(SCHEDULER)
    made.run_for(MS)
    assert not isinstance(made.head.host.global_scheduler, RestartedScheduler)
    made.kill_service(DIRECTORY)
    made.kill_service(DIRECTORY)
    made.restart_service(DIRECTORY)
    made.run_for(MS)
    assert made.head.host._incarnations[DIRECTORY] == 1
    finish(made)


@pytest.mark.parametrize("host", [Host(Config()), ClusterHost(Config(), NodeID(1))])
def test_a_host_without_services_of_their_own_refuses(host: Host) -> None:
    with pytest.raises(InvariantViolation, match="global_scheduler"):
        host.step(0, [(LOOP, ev.ServiceLost(SCHEDULER))])


def test_an_answer_counts_once_and_for_its_incarnation() -> None:
    recovery = Recovery(Config(), 3, [NodeID(0), NodeID(1)])
    assert not recovery.heard(NodeID(0), 2)
    assert recovery.heard(NodeID(0), 3)
    assert not recovery.heard(NodeID(0), 3)
    assert recovery.awaits(NodeID(1))
    assert recovery.lost(NodeID(1))
    assert not recovery


def test_patience_takes_its_own_lateness_for_the_reason() -> None:
    config = Config()
    recovery = Recovery(config, 1, [NodeID(1)])
    assert recovery.silent(0) == []
    due = recovery.next_deadline()
    assert due is not None
    late = due + 10 * config.heartbeat_every
    assert recovery.silent(late) == []
    assert recovery.silent(late + config.heartbeat_every) == [NodeID(1)]


def test_an_end_right_behind_the_answer_counts() -> None:
    """They may come in one step."""
    config = Config(capacity=ONLY_ON[0])
    here, there = address(NodeID(0), HOST), address(NodeID(1), HOST)
    recovery = Recovery(config, 1, [NodeID(0), NodeID(1)])
    scheduler = RestartedScheduler(config, here, POLICIES["bottom_up"](), None, None, recovery, node_was_lost=False)
    joined = [(here, msg.NodeJoined(NodeID(node), ONLY_ON[node])) for node in range(2)]
    task = spec(1)
    end = (there, msg.TaskEnded(task.task_id, NodeID(1), (Result(inline(7)),)))
    assert scheduler.step(1, [*joined, end]) == [], "whose it was is not known"
    spilled, assigned = msg.TaskSpilled(task, AT_DRIVER), msg.TaskAssigned(task, AT_DRIVER)
    assert scheduler.step(2, [(here, msg.TasksResent(NodeID(0), 1, (spilled,), (), ()))]) == []
    told = scheduler.step(3, [(there, msg.TasksResent(NodeID(1), 1, (), (assigned,), ())), end])
    assert said(told, msg.TaskSettled) == [msg.TaskSettled(task.task_id, (Result(inline(7)),))]
    assert not said(told, msg.TaskAssigned)
    assert scheduler.assigned == {}
    assert scheduler.waiting == {}
