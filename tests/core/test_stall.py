"""Deadlocks: found when there is one, never claimed when there is not, told so that one can act."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.operations import Operations
from sundog.core.ids import ObjectID, ProcessID, TaskID, return_id
from sundog.core.resources import ONE_CPU, ResourceSet, Shape, shape
from sundog.core.stall import BlockedTask, Deadlock, PendingTask, find_deadlock
from sundog.core.stalled import find_stalled
from sundog.core.task import TaskState, arguments_id
from sundog.core.task_record import Blocking, FunctionRecord, TaskRecord, WorkerRecord
from tests.support.builders import AT_DRIVER, inline, returned, spec, worker_at

GPU = shape({"GPU": 1})
NODE = ResourceSet(shape({"CPU": 2, "GPU": 1}))


def task_id(number: int) -> TaskID:
    return TaskID(number.to_bytes(16, "big"))


def result(number: int) -> ObjectID:
    return return_id(task_id(number), 1)


def blocked(number: int, *waits_for: int, holds: Shape = (), count: int | None = None) -> BlockedTask:
    ids = tuple([result(each) for each in waits_for])
    return BlockedTask(task_id(number), f"f{number}", number, ids, len(ids) if count is None else count, holds)


def pending(number: int, *needs: int, wants: Shape = ONE_CPU) -> PendingTask:
    return PendingTask(task_id(number), f"f{number}", tuple([result(each) for each in needs]), wants)


def judge(tasks: list[BlockedTask], *waiting: PendingTask, workers_max: int | None = None) -> Deadlock | None:
    stuck = {return_id(task.task_id, 1): task for task in waiting}
    return find_deadlock(tasks, stuck, NODE, workers_max)


def test_nested_tasks_are_no_deadlock() -> None:
    assert judge([]) is None
    assert judge([blocked(1, 2), blocked(2, 3), blocked(3, 4)], pending(4)) is None
    assert judge([blocked(1, 99)]) is None, "what runs, or is put, will come"
    assert judge([blocked(1, 2, holds=GPU)], pending(2)) is None
    assert judge([blocked(1, 2)], pending(2, wants=shape({"GPU": 5}))) is None, "it fails as infeasible"


def test_a_parent_that_holds_what_its_child_needs() -> None:
    found = judge([blocked(1, 2), blocked(2, 3, holds=GPU)], pending(3, 4, wants=GPU), pending(4, wants=GPU))
    assert found is not None
    assert found.task_id == task_id(2)
    assert found.message == (
        "deadlock: f2, holding 1 GPU, waits for f3; f3 has not started, because it needs the result of f4; "
        "f4 needs 1 GPU of the 1 GPU that there are, and blocked tasks hold them: f2 (1 GPU). A task keeps its GPU "
        "while it waits: wait for f4 outside such a task, ask for less GPU, or give the node more."
    )


def test_what_a_task_that_can_move_gives_back_counts() -> None:
    assert judge([blocked(1, 3), blocked(2, 4, holds=GPU)], pending(3, wants=GPU), pending(4)) is None


def test_tasks_that_wait_for_each_other() -> None:
    found = judge([blocked(1, 2), blocked(2, 1)])
    assert found is not None
    assert found.task_id == task_id(2)
    assert "f2 waits for f1; f1 waits for f2; and there the circle closes at f2" in found.message
    itself = judge([blocked(1, 1)])
    assert itself is not None
    through_arguments = judge([blocked(1, 3)], pending(3, 1))
    assert through_arguments is not None
    assert "f3 has not started, because it needs the result of f1" in through_arguments.message


def test_a_wait_for_one_of_many_needs_only_one() -> None:
    assert judge([blocked(1, 1, 9, count=1)]) is None
    found = judge([blocked(1, 1, 9, 1, count=2)])
    assert found is not None
    assert "waits for f1 and 1 more" in found.message


def test_too_few_workers() -> None:
    chain = [blocked(1, 2), blocked(2, 3)]
    assert judge(chain, pending(3), workers_max=3) is None
    found = judge(chain, pending(3), workers_max=2)
    assert found is not None
    assert "f3 has no worker, because all 2 that may exist are blocked" in found.message
    assert "worker_processes_max" in found.message


def test_a_long_chain_is_cut() -> None:
    ring = [blocked(n, n % 400 + 1) for n in range(1, 401)]
    found = judge(ring)
    assert found is not None
    assert found.task_id == task_id(400)
    assert "and so on" in found.message


def operations(tasks: list[BlockedTask], *waiting: PendingTask, workers_max: int | None = None) -> int:
    """Return how many operations of the interpreter it takes to find that there is no deadlock."""
    counted = Operations()
    with counted.counted():
        assert judge(tasks, *waiting, workers_max=workers_max) is None
    return counted.total


def in_orders(tasks: list[BlockedTask]) -> Iterator[list[BlockedTask]]:
    """Yield ``tasks`` as they are, the other way round, and shuffled."""
    yield tasks
    yield tasks[::-1]
    for seed in range(3):
        mixed = list(tasks)
        random.Random(seed).shuffle(mixed)
        yield mixed


def test_nested_tasks_are_judged_in_one_pass_in_whatever_order_they_blocked() -> None:
    depth = 50
    counts = [operations(tasks) for tasks in in_orders([blocked(n, n + 1) for n in range(1, depth)])]
    deeper = [operations(tasks) for tasks in in_orders([blocked(n, n + 1) for n in range(1, 4 * depth)])]
    assert max(deeper) <= 4.2 * min(counts), "linear, and the order of blocking is nothing to it"


def test_what_waits_for_one_task_or_for_room_is_judged_in_one_pass() -> None:
    def wide(count: int) -> int:
        """Parents that each wait for the next one and for a child, which wants what the last parent holds."""
        parents = [blocked(n, count + n, n + 1) for n in range(1, count)]
        children = [pending(count + n, wants=GPU) for n in range(1, count)]
        holder = blocked(count, 2 * count, holds=GPU)
        return operations([*parents[::-1], holder], *children, pending(2 * count), workers_max=count + 1)

    assert wide(160) <= 4.3 * wide(40)


def simulate(tasks: list[BlockedTask], waiting: dict[int, PendingTask], room: dict[str, int]) -> bool:
    """Run to the end in the most naive way; tell whether anything is left blocked."""
    done: set[bytes] = set()
    left = {task.task_id: task for task in tasks}
    held = {task.task_id: dict(task.holds) for task in tasks}
    todo = dict(waiting)
    moved = True
    while moved:
        moved = False
        open_ids = {*left, *[p.task_id for p in todo.values()]} - done
        for task in list(left.values()):
            if sum(each[:16] not in open_ids for each in task.waits_for) >= task.count:
                done.add(left.pop(task.task_id).task_id)
                held.pop(task.task_id)
                moved = True
        for number, child in list(todo.items()):
            free = {k: v - sum(h.get(k, 0) for h in held.values()) for k, v in room.items()}
            ready = all(need[:16] not in open_ids for need in child.needs)
            if ready and all(free.get(name, 0) >= amount for name, amount in child.wants):
                done.add(todo.pop(number).task_id)
                moved = True
    return bool(left)


SMALL = st.integers(1, 8)
FEW = st.lists(SMALL, max_size=3, unique=True)


@given(
    st.lists(st.tuples(FEW, st.booleans(), st.booleans()), min_size=1, max_size=5),
    st.lists(st.tuples(FEW, st.booleans()), max_size=3),
)
def test_agrees_with_running_it(parents: list[tuple[list[int], bool, bool]], children: list[tuple[list[int], bool]]) -> None:
    tasks = [
        blocked(number, *waits, holds=GPU if gpu else (), count=min(1, len(waits)) if one else None)
        for number, (waits, gpu, one) in enumerate(parents, 1)
    ]
    if sum(bool(task.holds) for task in tasks) > 1:
        return  # one GPU is held once
    first = len(tasks) + 1
    waiting = {n: pending(n, *needs, wants=GPU if gpu else ONE_CPU) for n, (needs, gpu) in enumerate(children, first)}
    found = judge(tasks, *waiting.values())
    assert (found is not None) == simulate(tasks, waiting, dict(NODE.capacity))


def test_arguments_that_are_on_their_way_are_no_deadlock() -> None:
    """They bear the number of their own task, which does not wait for itself."""
    function = FunctionRecord("f", inline())
    child = spec(2)
    waits = TaskRecord(child, AT_DRIVER, 2, function, [], {arguments_id(child.task_id): -1})
    worker = WorkerRecord(ProcessID(2), worker_at(2))
    parent = TaskRecord(spec(1), AT_DRIVER, 1, function, [], {}, state=TaskState.BLOCKED, worker=worker)
    parent.blocking = Blocking(1, {returned(2): None}, 1)
    tasks = {record.spec.task_id: record for record in (parent, waits)}
    blocked_ones = {parent.spec.task_id: parent}
    assert find_stalled(tasks, blocked_ones, NODE, 9, (TaskState.WAITING,)) is None
    waits.missing = {returned(1): 0}
    assert find_stalled(tasks, blocked_ones, NODE, 9, (TaskState.WAITING,)) is not None
