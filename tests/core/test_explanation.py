"""Why is it not ready? Why is there no room? Every state has its sentence."""

from __future__ import annotations

from typing import Any

import pytest

from sundog.core import actions as act
from sundog.core import events as ev
from sundog.core import messages as msg
from sundog.core.ids import ObjectID, return_ids
from sundog.core.resources import shape
from sundog.core.task import FailureKind
from sundog.core.units import SECOND
from tests.support.builders import GPU_1, put_id
from tests.support.fleet import Execution, Fleet, Get, Refused, Room, config, inline


def blocks(execution: Execution) -> Any:
    yield Get((execution.call("slow", content=1, duration=100 * SECOND),))
    return inline(None)


def fleet_with(**fields: Any) -> Fleet:
    return Fleet(config(**fields), {"blocks": blocks})


def explain(fleet: Fleet, *object_ids: ObjectID) -> str:
    number = fleet.process.ask(lambda n: ev.Asked(n, msg.ExplanationRequested(n, object_ids)))
    fleet.run(lambda: number in fleet.process.answers)
    answer = fleet.process.answers.pop(number)
    assert isinstance(answer, act.ResolveQuestion)
    assert isinstance(answer.answer, msg.ExplanationGiven)
    return answer.answer.text.replace(object_ids[0].hex() if object_ids else "?", "X")


def test_what_runs_waits_or_has_no_cpu_is_told() -> None:
    fleet = fleet_with(cpus=1)
    running = fleet.driver.call("slow", duration=100 * SECOND)
    queued = fleet.driver.call("slow")
    needs = fleet.driver.call("later", queued, running)
    fleet.run_for(2 * SECOND)
    assert (
        explain(fleet, running) == "ObjectID(X) is returned by slow(), which has been running for 2 s on the worker with pid 1002."
    )
    assert explain(fleet, queued) == "ObjectID(X) is returned by slow(), which needs 1 CPU; free now: 0 CPU."
    text = explain(fleet, needs)
    assert text.startswith("ObjectID(X) is returned by later(), which waits for its argument and 1 more: ObjectID(")
    assert text.endswith("is returned by slow(), which needs 1 CPU; free now: 0 CPU.")


def test_what_is_next_in_a_pipeline_is_told() -> None:
    fleet = fleet_with(cpus=1)
    fleet.get(*[fleet.driver.call("slow") for _ in range(3)])
    fleet.driver.call("slow", duration=100 * SECOND)
    following = fleet.driver.call("slow")
    fleet.run_for(SECOND)
    assert (
        explain(fleet, following) == "ObjectID(X) is returned by slow(), which is next on the worker with pid 1002, after slow()."
    )


def test_a_blocked_task_is_told_with_what_it_waits_for() -> None:
    fleet = fleet_with(cpus=1)
    made = fleet.driver.call("blocks")
    fleet.run_for(SECOND)
    text = explain(fleet, made)
    assert text.startswith("ObjectID(X) is returned by blocks(), which is itself blocked: ObjectID(")
    assert text.endswith("is returned by slow(), which has been running for 1 s on the worker with pid 1003.")


def test_a_spilled_task_and_one_without_a_worker_are_told() -> None:
    fleet = fleet_with(cpus=1, infeasible_grace=100 * SECOND)
    spilled = fleet.driver.call("slow", resources=shape({"CPU": 1, "anvil": 2}))
    fleet.run_for(SECOND)
    assert explain(fleet, spilled) == (
        "ObjectID(X) is returned by slow(), which needs 1 CPU, 2 anvil and waits for a node that has them."
    )
    fleet.start_fails = lambda number: "no"
    fleet.kill(2)
    idle = fleet.driver.call("slow")
    fleet.run_for(SECOND // 100)
    assert explain(fleet, idle) == "ObjectID(X) is returned by slow(), which waits for a worker; free now: 1 CPU."


def test_what_is_ready_or_unknown_or_nothing_is_told() -> None:
    fleet = fleet_with(cpus=1)
    made = fleet.driver.call("slow")
    fleet.get(made)
    assert explain(fleet, made) == "ObjectID(X) has no unfinished task: it is ready, or was freed."
    assert explain(fleet, put_id(7)) == "ObjectID(X) is put, or was freed."
    assert explain(fleet) == "Nothing is missing."


def test_a_long_chain_is_cut() -> None:
    fleet = fleet_with(cpus=1)
    made = fleet.driver.call("slow", duration=100 * SECOND)
    for _ in range(20):
        made = fleet.driver.call("slow", made)
    fleet.run_for(SECOND)
    assert len(explain(fleet, made)) < 1000


def test_a_get_of_the_driver_that_expires_says_why() -> None:
    fleet = fleet_with(cpus=1, gpus=1)
    fleet.driver.call("slow", duration=100 * SECOND, resources=GPU_1)
    made = fleet.driver.call("slow", resources=GPU_1)
    with pytest.raises(
        Refused, match=r"get timed out after 3 s; 0 of 1 objects were ready\. .* needs 1 CPU, 1 GPU; free now: 0 CPU"
    ):
        fleet.get(made, timeout=3 * SECOND)


def test_a_get_that_waits_ten_seconds_says_why_and_goes_on() -> None:
    fleet = fleet_with(cpus=1)
    assert fleet.get(fleet.driver.call("slow", duration=25 * SECOND)) == [None]
    [report] = fleet.process.shown
    assert report.startswith("get has waited 10 s; 0 of 1 objects were ready. ObjectID(")


def test_a_full_store_names_who_holds_what() -> None:
    fleet = fleet_with(cpus=1, arena_bytes=4096)

    @fleet.define
    def large(execution: Execution) -> Any:
        return (yield from execution.large(1024, "large"))

    kept = fleet.driver.call("large")
    fleet.get(kept)
    fleet.put_large(2048)
    with pytest.raises(Refused) as caught:
        fleet.ask(Room(2048))
    assert caught.value.failure.kind is FailureKind.STORE_FULL
    assert caught.value.failure.message == (
        "the object store has no room for 2,048 bytes: 3,072 of 4,096 are in use; waited 5 s. The largest: "
        "2,048 bytes by put, held by the driver; 1,024 bytes by large, held by the driver, views in the driver. "
        "Drop references that are not needed."
    )
    fleet.driver.drop_all()
    fleet.run()
    fleet.check_empty()


def nested(depth: int) -> dict[str, Any]:
    """Return bodies: each of ``deep1`` to ``deep<depth>`` waits for the one before it, ``deep0`` for a task that runs long."""

    def calls(name: str, **options: Any) -> Any:
        def body(execution: Execution) -> Any:
            yield Get((execution.call(name, **options),))
            return inline(None)

        return body

    return {"deep0": calls("slow", content=1, duration=100 * SECOND)} | {
        f"deep{n}": calls(f"deep{n - 1}") for n in range(1, depth + 1)
    }


def ids_of(fleet: Fleet, name: str) -> ObjectID:
    [spec] = [task.spec for task in fleet.host.local_scheduler.tasks.values() if task.spec.name == name]
    return return_ids(spec.task_id, 1)[0]


def test_the_end_of_a_long_chain_is_told() -> None:
    fleet = Fleet(config(cpus=1), nested(20))
    made = fleet.driver.call("deep20")
    after = fleet.driver.call("later", made)
    fleet.run_for(3 * SECOND)
    text = explain(fleet, made)
    assert text.count("which is itself blocked") == 5, "the first ones"
    assert ": 16 more tasks wait each for the next, and the last of them so: ObjectID(" in text
    assert "is returned by slow(), which has been running for" in text
    assert "is returned by slow(), which has been running for" in explain(fleet, after)
    assert explain(fleet, ids_of(fleet, "deep5")).count("which is itself blocked") == 6, "one more is told as well"


def test_of_those_who_wait_for_each_other_the_driver_and_the_innermost_say_so() -> None:
    fleet = Fleet(config(cpus=1), nested(20))
    made = fleet.driver.call("deep20")
    fleet.driver.call("later", made)
    fleet.process.ask(lambda n: ev.GetRequested(n, (made,)))
    fleet.run_for(15 * SECOND)
    assert len(fleet.process.shown) == 1
    said = {worker.execution.run.spec.name: worker.shown for worker in fleet.workers.values() if worker.execution is not None}
    assert len(said) == 22
    assert [name for name, shown in said.items() if shown] == ["deep0"]
    [report] = said["deep0"]
    assert report.startswith("get has waited 10 s; 0 of 1 objects were ready. ObjectID(")
    assert " is returned by slow(), which has been running for " in report
