"""Several nodes: where tasks run, what travels, who keeps what for whom, and what a node's death costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from typing import Any

import msgspec
import pytest

from sundog.core import actions as act
from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.config import Config
from sundog.core.ids import LOOP, NodeID, ObjectID, ProcessID
from sundog.core.resources import shape
from sundog.core.task import REMOTE, FailureKind, Value
from sundog.core.units import MICROSECOND, MILLISECOND, SECOND
from tests.support.builders import CPUS_2, GPU_1
from tests.support.cluster_fleet import Cluster, Node, cluster_config
from tests.support.fleet import Execution, Get, Raised, Refused, Room, TaskFailed, Wait, Work, inline

LARGE = 200_000


def here(execution: Execution) -> Value:
    """Return the number of the node that it runs on."""
    return inline(node_of(execution))


def node_of(execution: Execution) -> int:
    return execution.worker.fleet.host.node


def large(execution: Execution) -> Generator[Any, Any, Value]:
    """Return something that lies in the arena: where it was made."""
    return (yield from execution.large(LARGE, node_of(execution)))


def slowly(execution: Execution) -> Generator[Any, Any, Value]:
    yield Work(10 * MILLISECOND)
    return here(execution)


def lasting(execution: Execution) -> Generator[Any, Any, Value]:
    """Take as long as the argument says."""
    yield Work(execution.contents[0])
    return here(execution)


def total(execution: Execution) -> Value:
    return inline([node_of(execution), *execution.contents])


BODIES = {body.__name__: body for body in (here, large, slowly, lasting, total)}
ONLY_ON = [shape({"CPU": 1, f"node{n}": 1}) for n in range(5)]


def cluster(count: int = 3, **fields: Any) -> Cluster:
    """Return a cluster of nodes with one CPU, in which node n alone has one of the resource ``node<n>``."""

    def settings(number: int) -> Config:
        return msgspec.structs.replace(cluster_config(cpus=1, **fields), capacity=ONLY_ON[number])

    return Cluster(count, BODIES, each=settings)


def on(node: Node, number: int, name: str, *dependencies: ObjectID, **fields: Any) -> ObjectID:
    """Submit at ``node`` a task that can only run on node ``number``."""
    return node.driver.call(name, *dependencies, resources=ONLY_ON[number], **fields)


def finish(made: Cluster) -> None:
    """Let everything go, and see that nothing is left."""
    made.drop_all()
    made.check_empty()


# -- where tasks run ------------------------------


@pytest.mark.parametrize("at", [0, 1])
def test_a_thousand_tasks_of_one_node_spread_over_ten(at: int) -> None:
    made = Cluster(10, BODIES, cluster_config(cpus=1))
    node = made.nodes[at]
    began = made.now
    ran = Counter(node.get(*[node.driver.call("slowly") for _ in range(1000)]))
    assert sorted(ran) == list(range(10))
    assert min(ran.values()) >= 90
    assert made.now - began < 1_100 * MILLISECOND, "ten ideal nodes would take a second"
    assert made.sent[msg.NodeHolds] == made.sent[msg.LocationsAdded] == 0, "small results need no directory"
    finish(made)


def test_ten_sleeping_tasks_on_ten_nodes_take_the_time_of_one() -> None:
    made = Cluster(10, BODIES, cluster_config(cpus=1))
    began = made.now
    assert sorted(made.head.get(*[made.head.driver.call("slowly") for _ in range(10)])) == list(range(10))
    assert made.now - began < 15 * MILLISECOND
    finish(made)


def test_what_is_over_at_once_stays() -> None:
    made = Cluster(3, BODIES, cluster_config(cpus=1))
    ids = [made.head.driver.call("here") for _ in range(50)]
    assert made.head.get(*ids) == [0] * 50
    assert not made.sent[msg.TaskAssigned]
    finish(made)


@pytest.mark.parametrize("at", [0, 1])
def test_what_lies_behind_a_head_that_is_late_goes_to_other_nodes(at: int) -> None:
    """Of a function that was quick so far, many calls lie in few pipelines; then it is slow."""
    made = Cluster(4, BODIES, cluster_config(cpus=1))
    node = made.nodes[at]
    quick, slow = node.driver.put(0), node.driver.put(50 * MILLISECOND)
    node.get(*[node.driver.call("lasting", quick) for _ in range(10)])
    began = made.now
    ran = Counter(node.get(*[node.driver.call("lasting", slow) for _ in range(40)]))
    assert sorted(ran) == list(range(4))
    assert made.now - began < 700 * MILLISECOND, "four ideal nodes would take 500 ms"
    finish(made)


def test_a_task_goes_where_its_resources_are() -> None:
    made = cluster(3)
    node = made.nodes[1]
    assert node.get(on(node, 2, "here"), on(node, 0, "here"), on(node, 1, "here")) == [2, 0, 1]
    with pytest.raises(TaskFailed, match="no node has it"):
        node.get(node.driver.call("here", resources=GPU_1))
    finish(made)


def test_a_task_that_no_node_can_run_waits_for_one_that_joins() -> None:
    made = Cluster(2, BODIES, cluster_config(cpus=1))
    result = made.nodes[1].driver.call("here", resources=CPUS_2)
    made.run_for(100 * MILLISECOND)
    made.add(cluster_config(cpus=2))
    assert made.nodes[1].get(result) == [2]
    finish(made)


@pytest.mark.parametrize(("policy", "tasks"), [("locality", 5), ("bottom_up", 1)])
def test_a_task_goes_to_its_large_argument(policy: str, tasks: int) -> None:
    made = cluster(3, placement_policy=policy)
    big = on(made.head, 2, "large")
    assert made.head.wait(big) == (big,)
    assert made.bytes_copied == 0, "wait brings nothing"
    results = [made.head.driver.call("total", big) for _ in range(tasks)]
    assert made.head.get(*results) == [[2, 2]] * tasks
    assert made.bytes_copied == 0
    finish(made)


def test_nested_tasks_run_wherever_there_is_room_and_their_parents_wait() -> None:
    made = Cluster(4, BODIES, cluster_config(cpus=1))

    def tree(execution: Execution) -> Generator[Any, Any, Value]:
        depth = execution.argument
        yield Work(3 * MILLISECOND)
        if not depth:
            return inline([node_of(execution)])
        children = [execution.call("tree", content=depth - 1) for _ in range(3)]
        values = yield Get(tuple(children))
        return inline([node_of(execution), *[n for value in values for n in execution.read(value)]])

    made.bodies["tree"] = tree
    [ran] = made.head.get(made.head.driver.call("tree", content=3))
    assert len(ran) == 40
    assert set(ran) == {0, 1, 2, 3}
    finish(made)


# -- what travels ------------------------------


def test_a_large_result_stays_until_somebody_reads_it_and_is_fetched_once() -> None:
    made = cluster(3)
    big = on(made.head, 1, "large")
    made.head.wait(big)
    value = made.head.objects.objects[big].value
    assert value is not None
    assert value.offset == REMOTE
    assert value.size == LARGE
    assert made.head.get(big, big) == [1, 1]
    local = [on(made.head, 0, "total", big) for _ in range(5)]
    assert made.head.get(*local) == [[0, 1]] * 5
    assert made.bytes_copied == LARGE
    finish(made)


def test_arguments_in_the_arena_travel_with_their_task() -> None:
    made = cluster(2)

    def argued(execution: Execution) -> Value:
        return inline([node_of(execution), execution.argument])

    made.bodies["argued"] = argued
    head = made.head
    answer = head.ask(Room(LARGE))
    assert isinstance(answer, act.ResolveQuestion)
    assert isinstance(answer.answer, msg.ExtentGranted)
    arguments = head.driver.write(answer.answer.offset, LARGE, "large")
    result = head.driver.call("argued", arguments=arguments, resources=ONLY_ON[1])
    assert head.get(result) == [[1, "large"]]
    assert made.bytes_copied == LARGE
    finish(made)


def test_ids_inside_results_and_arguments_live_as_long_as_anybody_holds_them_anywhere() -> None:
    made = cluster(3)

    def boxed(execution: Execution) -> Value:
        inner = execution.put("inner")
        return inline("outer", inner)

    def opens(execution: Execution) -> Generator[Any, Any, Value]:
        [box] = execution.run.spec.contained
        [value] = yield Get((box,))
        content, inside = execution.open(value)
        [value] = yield Get(tuple(inside))
        return inline([content, execution.read(value)])

    made.bodies |= {"boxed": boxed, "opens": opens}
    box = on(made.head, 1, "boxed")
    result = on(made.head, 2, "opens", contained=(box,))
    made.head.driver.drop(box)
    assert made.head.get(result) == [["outer", "inner"]]
    made.run_for(10 * MILLISECOND)
    assert made.nodes[1].objects.shared == {}, "the head let it go, and nobody else has it"
    finish(made)


def test_what_another_node_holds_stays_although_its_maker_let_it_go() -> None:
    made = cluster(3)

    def keeps(execution: Execution) -> Generator[Any, Any, Value]:
        yield Work(100 * MILLISECOND)
        [value] = yield Get(execution.run.spec.contained)
        return inline(execution.read(value))

    made.bodies["keeps"] = keeps
    put = made.head.driver.put("put")
    result = on(made.head, 1, "keeps", contained=(put,))
    made.head.driver.drop(put)
    assert made.head.get(result) == ["put"]
    made.run_for(10 * MILLISECOND)
    assert put not in made.head.objects.objects
    finish(made)


def test_a_copy_that_fails_is_tried_again() -> None:
    made = cluster(3)
    failures = iter([True, True])
    made.fails = lambda fetch: next(failures, False)
    assert made.head.get(on(made.head, 1, "large")) == [1]
    finish(made)


def test_a_broadcast_is_not_served_by_its_first_copy_alone() -> None:
    made = cluster(5)
    served: Counter[int] = Counter()

    def note(fetch: act.StartFetch) -> bool:
        served[fetch.source] += 1
        return False

    made.fails = note
    big = made.head.put_large(LARGE, "big")
    for _ in range(2):
        made.head.get(*[on(made.head, n, "total", big) for n in range(1, 5)])
    assert served.total() == 4, "once for each node"
    finish(made)


def test_a_copy_for_which_there_is_no_room_fails_the_reader_and_not_the_object() -> None:
    made = cluster(2, store_full_grace=20 * MILLISECOND, arena_bytes=300_000)
    big = on(made.head, 1, "large")
    made.head.wait(big)
    filler = made.head.put_large(LARGE)
    with pytest.raises(TaskFailed) as refused:
        made.head.get(big)
    assert refused.value.value.failure is not None
    assert refused.value.value.failure.kind is FailureKind.STORE_FULL
    made.head.driver.drop(filler)
    assert made.head.get(big) == [1]
    finish(made)


def test_a_blocked_task_frees_its_cpu_while_its_value_travels() -> None:
    made = cluster(2)

    def reads(execution: Execution) -> Generator[Any, Any, Value]:
        yield Wait(execution.run.spec.contained, 1)
        [value] = yield Get(execution.run.spec.contained)
        return inline([execution.read(value), execution.worker.fleet.now])

    made.bodies["reads"] = reads
    big = on(made.head, 1, "large")
    made.head.wait(big)
    reader = on(made.head, 0, "reads", contained=(big,))
    others = [made.head.driver.call("here", resources=()) for _ in range(2)]
    assert made.head.get(reader)[0][0] == 1
    assert len(made.head.get(*others)) == 2
    finish(made)


# -- what a death costs ------------------------------


def test_a_task_of_a_lost_node_runs_on_another() -> None:
    made = Cluster(3, BODIES, cluster_config(cpus=1, offer_after=0, backlog_max=0))

    def long(execution: Execution) -> Generator[Any, Any, Value]:
        yield Work(50 * MILLISECOND)
        return here(execution)

    made.bodies["long"] = long
    ids = [made.head.driver.call("long") for _ in range(9)]
    made.run(lambda: bool(made.nodes[1].running and made.nodes[2].running))
    made.kill(made.nodes[1])
    assert sorted(set(made.head.get(*ids))) == [0, 2]
    finish(made)


def test_a_task_that_may_not_run_twice_fails_with_its_node() -> None:
    made = cluster(2)
    result = on(made.head, 1, "slowly", retries_max=0)
    made.run(lambda: bool(made.nodes[1].running))
    made.kill(made.nodes[1])
    with pytest.raises(TaskFailed, match="node 1, which had slowly, was lost") as failed:
        made.head.get(result)
    assert failed.value.value.failure is not None
    assert failed.value.value.failure.kind is FailureKind.WORKER_CRASHED
    finish(made)


def test_a_lost_result_is_computed_again_with_all_that_it_needs() -> None:
    made = Cluster(3, BODIES, cluster_config(cpus=1, offer_after=0, backlog_max=0))

    def grown(execution: Execution) -> Generator[Any, Any, Value]:
        yield Work(1 * MILLISECOND)
        return (yield from execution.large(LARGE, 1 + sum(execution.contents)))

    made.bodies["grown"] = grown
    first = made.head.driver.call("grown")
    second = made.head.driver.call("grown", first)
    third = made.head.driver.call("grown", second)
    made.head.wait(third)
    made.head.driver.drop(first, second)
    made.run_for(10 * MILLISECOND)
    for node in [node for node in made.nodes[1:] if third in node.objects.objects]:
        made.kill(node)
    assert made.head.get(third) == [3]
    finish(made)


def test_a_put_dies_with_its_node_and_says_so() -> None:
    made = cluster(3)

    def puts(execution: Execution) -> Value:
        return inline("box", execution.put("lost"))

    made.bodies["puts"] = puts
    box = on(made.head, 1, "puts")
    [value] = made.head.get_values(box)
    _, [inner] = made.head.driver.open(value)
    made.kill(made.nodes[1])
    with pytest.raises(TaskFailed, match="it was put, not returned by a task") as failed:
        made.head.get(inner)
    assert failed.value.value.failure is not None
    assert failed.value.value.failure.kind is FailureKind.OBJECT_LOST
    with pytest.raises(TaskFailed, match="it was put"):
        made.head.get(on(made.head, 2, "total", inner))
    finish(made)


def test_what_nobody_can_compute_again_for_want_of_resources_ends_too() -> None:
    made = cluster(2, infeasible_grace=50 * MILLISECOND)
    big = on(made.head, 1, "large")
    made.head.wait(big)
    made.kill(made.nodes[1])
    with pytest.raises(TaskFailed, match="cannot be computed again: task large needs"):
        made.head.get(big)
    finish(made)


def test_a_pending_result_of_a_lost_node_that_another_waits_for_is_computed_elsewhere() -> None:
    made = cluster(3)
    lost, waiter = made.nodes[1], made.nodes[2]

    def gives(execution: Execution) -> Generator[Any, Any, Value]:
        """Its child is pending when it returns the child's ID."""
        yield Work(1)
        return inline("box", execution.call("slowly"))

    made.bodies["gives"] = gives
    [value] = waiter.get_values(on(waiter, 1, "gives"))
    _, [child] = waiter.driver.open(value)
    made.kill(lost)
    assert waiter.get(child)[0] in (0, 2)
    finish(made)


def test_a_node_that_was_silent_too_long_is_told_and_stops() -> None:
    made = cluster(3)
    deaf = made.nodes[2]
    result = on(made.head, 2, "slowly", retries_max=1)
    made.delays[2, 0] = 2 * SECOND
    made.run(lambda: deaf not in made.nodes)
    assert deaf.stopped
    made.run_for(3 * SECOND)
    with pytest.raises(TaskFailed, match="no node has it"):
        made.head.get(result)
    finish(made)


def test_children_of_a_lost_node_that_have_not_started_are_dropped() -> None:
    made = cluster(3)

    def parent(execution: Execution) -> Generator[Any, Any, Value]:
        for _ in range(5):
            execution.call("long", resources=ONLY_ON[2])
        yield Work(SECOND)
        return inline()

    def long(execution: Execution) -> Generator[Any, Any, Value]:
        yield Work(SECOND)
        return inline()

    made.bodies |= {"parent": parent, "long": long}
    on(made.head, 1, "parent", retries_max=0)
    made.run(lambda: len(made.nodes[2].scheduler.tasks) == 5)
    made.kill(made.nodes[1])
    finish(made)
    [_, last] = made.nodes
    assert len(last.starts) == 1


def test_messages_of_a_lost_node_are_not_heard() -> None:
    made = cluster(2)
    head, other = made.head, made.nodes[1]
    made.kill(other)
    made.run_for(SECOND)
    stale = (other.host.here, msg.LocationsAdded(NodeID(1), ((ObjectID(bytes(20)), 5),)))
    assert head.host.step(made.now + 1, [stale]) == []
    made.now += 1
    [answer] = head.host.step(made.now + 1, [(other.host.here, msg.LoadReported(NodeID(1), (), 0))])
    assert answer == act.Send(other.host.here, msg.NodeLost(NodeID(1)))


# -- people ------------------------------


def test_what_tasks_elsewhere_say_and_how_they_fail_is_told_once_where_they_were_submitted() -> None:
    made = cluster(2)

    def fails(execution: Execution) -> Value:
        raise Raised("no luck")

    made.bodies["fails"] = fails
    failed = on(made.head, 1, "fails")
    made.head.wait(failed)
    worker = next(iter(made.nodes[1].workers))
    made.nodes[1].loop.append((LOOP, ev.OutputRead(ProcessID(worker), 1, "fails", "hello\n")))
    made.run_for(10 * MILLISECOND)
    made.head.driver.drop(failed)
    made.run_for(10 * MILLISECOND)
    assert [type(shown) for shown in made.head.process.shown] == [msg.OutputWritten, msg.FailureUnheard]
    assert made.nodes[1].process.shown == []
    finish(made)


def test_a_task_that_waits_elsewhere_can_be_cancelled() -> None:
    made = cluster(2)
    running = on(made.head, 1, "slowly")
    waiting = on(made.head, 1, "slowly")
    made.run(lambda: bool(made.nodes[1].running))
    number = made.head.process.ask(lambda n: ev.Asked(n, msg.CancelRequested(n, (waiting,))))
    made.run(lambda: number in made.head.process.answers)
    assert made.head.error(waiting).failure.kind is FailureKind.CANCELLED  # type: ignore[union-attr]
    assert made.head.get(running) == [1]
    assert len(made.nodes[1].starts) == 1
    finish(made)


def test_a_get_that_times_out_leaves_nothing_behind() -> None:
    made = cluster(2)
    result = on(made.head, 1, "slowly")
    with pytest.raises(Refused, match="timed out"):
        made.head.get(result, timeout=100 * MICROSECOND)
    assert made.head.get(result) == [1]
    finish(made)
