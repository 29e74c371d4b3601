"""The worker's side of its pipeline: order, kept values, forgetting."""

from __future__ import annotations

from sundog.core.executor import Executor
from sundog.core.ids import ObjectID
from sundog.core.messages import RunTask, RunTasks, TasksDropped, TasksForgotten, TaskSkipped
from sundog.core.task import Value
from tests.support.builders import inline, put_id, result, returned, spec, task_id


def run(number: int, *dependencies: ObjectID, values: tuple[Value | None, ...] = (), returns: int = 1) -> RunTask:
    """Task ``number``, which is also its sequence."""
    return RunTask(spec(number, *dependencies, return_count=returns), 1, 1, number, values)


def test_tasks_come_out_in_the_order_in_which_they_came() -> None:
    executor = Executor()
    executor.accept(RunTasks((run(1), run(2))))
    executor.accept(RunTasks((run(3),)))
    assert [task.sequence for task in executor.queue] == [1, 2, 3]
    first = executor.next()
    assert first is not None
    assert (first.sequence, len(executor.queue)) == (1, 2)


def test_a_task_gets_the_values_that_came_with_it() -> None:
    executor = Executor()
    assert executor.values(run(1)) == ()
    sent = run(2, put_id(1), put_id(2), values=(inline("a"), inline("b")))
    assert executor.values(sent) == (inline("a"), inline("b"))


def test_a_task_gets_what_a_task_ahead_of_it_returned() -> None:
    executor = Executor()
    first = run(1, returns=2)
    executor.accept(RunTasks((first, run(2, returned(1, 2), put_id(1), values=(None, inline("b"))))))
    assert executor.next() is first
    executor.finished(first, (result("one"), result("two")))
    second = executor.next()
    assert second is not None
    assert executor.values(second) == (inline("two"), inline("b"))


def test_a_task_whose_value_never_came_is_skipped() -> None:
    executor = Executor()
    orphan = run(2, returned(1), values=(None,))
    assert executor.values(orphan) is None
    assert executor.skip(orphan) == TaskSkipped(task_id(2), 1)


def test_values_are_kept_until_the_node_says_that_nobody_needs_them() -> None:
    executor = Executor()
    for number in (1, 2, 3):
        executor.finished(run(number), (result(number),))
    executor.accept(RunTasks((), 2))
    assert executor.kept == {task_id(3): (result(3),)}
    executor.accept(RunTasks((), 2))
    assert executor.values(run(4, returned(3), values=(None,))) == (inline(3),)


def test_reclaimed_tasks_are_dropped_and_only_they() -> None:
    executor = Executor()
    executor.accept(RunTasks((run(1), run(2), run(3))))
    assert executor.forget(TasksForgotten(1, 3)) == TasksDropped(3)
    executor.accept(RunTasks((run(4),)))
    assert [task.sequence for task in executor.queue] == [1, 4]
    assert executor.forget(TasksForgotten(2, 3)) == TasksDropped(3)
    assert [task.sequence for task in executor.queue] == [1, 4]
