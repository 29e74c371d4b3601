"""Whether a workload could run to its end, and if not, which task is why."""

from __future__ import annotations

from collections.abc import Sequence

from sundog.backends.simulated.workloads.precedence import Precedence
from sundog.backends.simulated.workloads.workload import BY_DRIVER, Compute, Get, Submit, Workload, WorkloadError, WorkTask
from sundog.core.ids import RETURN_COUNT_MAX
from sundog.core.resources import ResourceSet, Shape, describe
from sundog.core.units import SECOND


def validate(workload: Workload, shapes: Sequence[Shape], drivers: int | None) -> None:
    """See :meth:`Workload.validate`."""
    nodes = drivers if drivers is not None else (len(shapes) or None)
    for index, one in enumerate(workload.tasks):
        _check_numbers(workload, index, one, nodes)
        _check_inputs(workload, index, one)
    nested = any(one.parent != BY_DRIVER or one.steps for one in workload.tasks)
    if nested:
        _check_nesting(workload)
    cycle = Precedence(workload.tasks).cycle()
    if cycle:
        raise WorkloadError(workload.describe_cycle(cycle))
    submitted = _Submissions(workload) if nested else None
    for index, one in enumerate(workload.tasks):
        _check_known(workload, index, one, submitted)
    if shapes:
        _check_fit(workload, shapes)


def _wrong(workload: Workload, index: int, text: str) -> WorkloadError:
    return WorkloadError(f"{workload.name}: task {workload.name_of(index)} (number {index}) {text}")


def _check_numbers(workload: Workload, index: int, one: WorkTask, nodes: int | None) -> None:
    if one.duration < 0:
        raise _wrong(workload, index, f"has a duration of {one.duration / SECOND:g} s; give 0 or more")
    if one.submitted_at < 0:
        raise _wrong(workload, index, f"is submitted at {one.submitted_at / SECOND:g} s; a workload begins at 0")
    for place, size in enumerate(one.outputs):
        if size < 0:
            raise _wrong(workload, index, f"returns {size} bytes as its output {place}; give 0 or more")
    if len(one.outputs) > RETURN_COUNT_MAX:
        raise _wrong(workload, index, f"has {len(one.outputs)} outputs; at most {RETURN_COUNT_MAX}")
    if one.node < 0 or (nodes is not None and one.node >= nodes):
        there = f"there are nodes 0 to {nodes - 1}" if nodes else "nodes count from 0"
        raise _wrong(workload, index, f"is submitted by the driver of node {one.node}; {there}")
    for name, amount in one.resources:
        if amount <= 0:
            raise _wrong(workload, index, f"asks for {describe([(name, amount)])}; leave out what it does not need")
    if not one.steps:
        return
    computed = 0
    for place, step in enumerate(one.steps):
        if isinstance(step, Compute):
            if step.span < 0:
                raise _wrong(workload, index, f"computes for {step.span / SECOND:g} s in step {place}; give 0 or more")
            computed += step.span
    if computed != one.duration:
        raise _wrong(
            workload,
            index,
            f"has a duration of {one.duration / SECOND:g} s, but its steps compute for {computed / SECOND:g} s; make them equal",
        )


def _check_inputs(workload: Workload, index: int, one: WorkTask) -> None:
    tasks = workload.tasks
    for producer, output in one.inputs:
        if not 0 <= producer < len(tasks):
            raise _wrong(workload, index, f"takes an output of task number {producer}; they go from 0 to {len(tasks) - 1}")
        if not 0 <= output < len(tasks[producer].outputs):
            has = len(tasks[producer].outputs)
            raise _wrong(
                workload, index, f"takes output {output} of {workload.name_of(producer)}, which has {has} (counted from 0)"
            )


def _check_nesting(workload: Workload) -> None:
    """A task names the one whose body submits it, and that body does so once."""
    tasks = workload.tasks
    submitted: dict[int, int] = {}
    for index, one in enumerate(tasks):
        for place, step in enumerate(one.steps):
            if isinstance(step, Compute):
                continue
            for other in step.tasks:
                if not 0 <= other < len(tasks):
                    doing = "submits" if isinstance(step, Submit) else "waits for"
                    last = len(tasks) - 1
                    raise _wrong(workload, index, f"{doing} task number {other} in step {place}; they go from 0 to {last}")
                if isinstance(step, Get):
                    continue
                if other in submitted:
                    by = workload.name_of(submitted[other])
                    raise _wrong(workload, other, f"is submitted by {by} and again by {workload.name_of(index)}; once will do")
                submitted[other] = index
                if tasks[other].parent != index:
                    raise _wrong(
                        workload, other, f"is submitted by the body of {workload.name_of(index)}: say so with parent={index}"
                    )
    for index, one in enumerate(tasks):
        if one.parent == BY_DRIVER:
            continue
        if not 0 <= one.parent < len(tasks):
            raise _wrong(workload, index, f"has parent {one.parent}; tasks go from 0 to {len(tasks) - 1}, {BY_DRIVER}: a driver")
        if index not in submitted:
            raise _wrong(
                workload, index, f"has parent {workload.name_of(one.parent)}, whose steps never submit it: add it to a Submit"
            )
        if one.submitted_at:
            raise _wrong(workload, index, "has both a parent and submitted_at: its parent's steps say when it is submitted")


class _Submissions:
    """When each task is submitted, within the body that does it."""

    def __init__(self, workload: Workload) -> None:
        #: Of each task that a body submits: (step, place in the step).
        self.place: dict[int, tuple[int, int]] = {}
        for one in workload.tasks:
            for number, step in enumerate(one.steps):
                if isinstance(step, Submit):
                    for place, child in enumerate(step.tasks):
                        self.place[child] = (number, place)


def _check_known(workload: Workload, index: int, one: WorkTask, submitted: _Submissions | None) -> None:
    """What a task takes or waits for is known to whoever submits it, or to its body."""
    for producer, _ in one.inputs:
        problem = _unknown(workload, producer, index, submitted)
        if problem:
            raise _wrong(workload, index, f"takes an output of {workload.name_of(producer)}, {problem}")
    for number, step in enumerate(one.steps):
        if isinstance(step, Get) and submitted is not None:
            for waited in step.tasks:
                if workload.tasks[waited].parent == index:
                    if submitted.place[waited] > (number, 0):
                        name = workload.name_of(waited)
                        raise _wrong(workload, index, f"waits for {name} in step {number} before it submits it: it would for ever")
                    continue
                problem = _unknown(workload, waited, index, submitted)
                if problem:
                    raise _wrong(workload, index, f"waits for {workload.name_of(waited)}, {problem}")


def _unknown(workload: Workload, wanted: int, index: int, submitted: _Submissions | None) -> str:
    """Return why nobody who submits ``index`` can know ``wanted``, or nothing."""
    tasks = workload.tasks
    source = tasks[wanted]
    # The one of the ancestors of ``index`` (or itself) that was submitted by whoever submitted ``wanted``.
    heir = index
    while tasks[heir].parent != source.parent and tasks[heir].parent != BY_DRIVER:
        heir = tasks[heir].parent
    one = tasks[heir]
    if one.parent != source.parent:
        by = workload.name_of(source.parent)
        return f"which only the body of {by} knows: take the output of {by} instead"
    if one.parent == BY_DRIVER:
        if one.node != source.node:
            return f"which the driver of node {source.node} submits, and its own that of node {one.node}: drivers share no IDs"
        before = (source.submitted_at, wanted) <= (one.submitted_at, heir)
    else:
        assert submitted is not None
        before = submitted.place[wanted] <= submitted.place[heir]
    return (
        "" if before else "which is submitted after it: nobody knows its ID then; put it later in the list, or give it a later time"
    )


def _check_fit(workload: Workload, shapes: Sequence[Shape]) -> None:
    """Every task fits on some node when that is empty."""
    nodes = [ResourceSet(shape) for shape in dict.fromkeys(shapes)]
    known: dict[Shape, bool] = {}
    for index, one in enumerate(workload.tasks):
        fits = known.get(one.resources)
        if fits is None:
            fits = known[one.resources] = any(node.could_fit(one.resources) for node in nodes)
        if not fits:
            lacks = min(
                [node.missing(one.resources) for node in nodes], key=lambda lack: (len(lack), [amount for _, amount in lack])
            )
            raise _wrong(
                workload,
                index,
                f"needs {describe(one.resources)}, which no node ever has: the nearest lacks {describe(lacks)}; "
                "ask for less or give a node more",
            )
