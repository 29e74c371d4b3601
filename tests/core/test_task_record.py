"""What a task in flight weighs: what tasks have in common is there once."""

from __future__ import annotations

import msgspec

from sundog.core.ids import FunctionID, ObjectID, TaskID
from sundog.core.task import TaskSpec, Value
from sundog.core.task_record import FunctionRecord, unready

FUNCTION = FunctionID(b"f" * 24)
DECODER = msgspec.msgpack.Decoder(TaskSpec)


def decoded(task: bytes, *, name: str = "train", data: bytes = b"arguments", cpus: int = 1) -> TaskSpec:
    """Return a spec as it comes over a link: nothing of it is shared with another."""
    value = Value(len(data), 0, data)
    return DECODER.decode(msgspec.msgpack.encode(TaskSpec(TaskID(task * 24), FUNCTION, name, value, resources=(("CPU", cpus),))))


def test_what_tasks_of_a_function_have_in_common_is_kept_once() -> None:
    function = FunctionRecord("train", Value(0))
    one, two = decoded(b"1"), decoded(b"2")
    assert one.name is not two.name
    for spec in (one, two):
        before = msgspec.structs.asdict(spec)
        function.keep_once(spec)
        assert msgspec.structs.asdict(spec) == before, "nothing of it has changed"
    assert one.function_id is two.function_id
    assert one.name is two.name
    assert one.resources is two.resources
    assert one.arguments is two.arguments
    assert one.task_id != two.task_id


def test_what_differs_stays_as_it_came() -> None:
    function = FunctionRecord("train", Value(0))
    specs = [decoded(b"1"), decoded(b"2", data=b"others"), decoded(b"3", name="named"), decoded(b"4", cpus=2), decoded(b"5")]
    before = [msgspec.structs.asdict(spec) for spec in specs]
    for spec in specs:
        function.keep_once(spec)
    assert [msgspec.structs.asdict(spec) for spec in specs] == before


def test_one_dependency_needs_no_table_of_its_own() -> None:
    one, two = ObjectID(b"1" * 28), ObjectID(b"2" * 28)
    dependencies = (one,)
    values, missing = unready(dependencies)
    assert missing is dependencies
    assert values is unready((two,))[0]
    assert unready((one, two)) == ([None, None], {one: 0, two: 1})
