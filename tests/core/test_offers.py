"""Which tasks a node offers, and when it looks again."""

from __future__ import annotations

from sundog.core.config import Config
from sundog.core.ids import DRIVER, FunctionID, NodeID, ProcessID, TaskID, address
from sundog.core.offers import Offers
from sundog.core.resources import ONE_CPU, ResourceSet
from sundog.core.task import TaskSpec, TaskState, Value
from sundog.core.task_record import FunctionRecord, TaskRecord, set_state
from sundog.core.units import MICROSECOND
from sundog.core.worker_pool import WorkerPool


def test_a_node_that_offers_at_once_does_not_look_again_at_once() -> None:
    """Seen where a task was ready, a CPU free, and its worker not up yet: the node took a step in every nanosecond."""
    resources = ResourceSet(ONE_CPU)
    pool = WorkerPool(NodeID(1), ProcessID(2), resources)
    offers = Offers(Config(offer_after=0, backlog_max=0), pool, resources)
    spec = TaskSpec(TaskID(bytes(16)), FunctionID(bytes(16)), "train", Value(0), resources=ONE_CPU)
    record = TaskRecord(spec, address(NodeID(1), DRIVER), 1, FunctionRecord("train", Value(0)), [], {})
    if record.state is not TaskState.READY:
        set_state(record, TaskState.READY)
    offers.fresh.append(record)
    assert offers.choose(5) == [], "it fits"
    assert offers.again_at is not None
    assert offers.again_at >= 5 + 100 * MICROSECOND
