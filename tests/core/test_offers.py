"""Which tasks a node offers, and when it looks again."""

from __future__ import annotations

from sundog.core.config import Config
from sundog.core.deadlines import NEVER
from sundog.core.ids import DRIVER, FunctionID, NodeID, ProcessID, TaskID, address
from sundog.core.offers import Offers
from sundog.core.resources import ONE_CPU, ResourceSet, shape
from sundog.core.task import TaskSpec, TaskState, Value
from sundog.core.task_record import FunctionRecord, TaskRecord, set_state
from sundog.core.units import MICROSECOND
from sundog.core.worker_pool import WorkerPool


class Node:
    """Offers of a node that keeps what has a free CPU, and nothing else."""

    def __init__(self, cpus: int) -> None:
        self.resources = ResourceSet(shape({"CPU": cpus}))
        pool = WorkerPool(NodeID(1), ProcessID(2), self.resources)
        self.offers = Offers(Config(offer_after=0, backlog_max=0), pool, self.resources)

    def ready(self, number: int) -> TaskRecord:
        spec = TaskSpec(TaskID(number.to_bytes(16, "big")), FunctionID(bytes(16)), "train", Value(0), resources=ONE_CPU)
        record = TaskRecord(spec, address(NodeID(1), DRIVER), number, FunctionRecord("train", Value(0)), [], {})
        set_state(record, TaskState.READY)
        self.offers.fresh.append(record)
        return record


def test_a_node_that_offers_at_once_does_not_look_again_at_once() -> None:
    """Seen where a task was ready, a CPU free, and its worker not up yet: the node took a step in every nanosecond."""
    node = Node(cpus=1)
    node.ready(1)
    assert node.offers.choose(5) == [], "it fits"
    assert 5 + 100 * MICROSECOND <= node.offers.again_at < NEVER


def test_what_went_and_came_back_assigned_stays_even_if_it_was_there_twice() -> None:
    """Else the global scheduler hears of a task that it has given away, and does nothing: nobody ever runs it."""
    node = Node(cpus=3)
    first, taken_back, last = node.ready(1), node.ready(2), node.ready(3)
    node.offers.fresh.append(taken_back)
    assert node.offers.choose(5) == [taken_back], "the other three fit"
    set_state(taken_back, TaskState.SPILLED)
    set_state(taken_back, TaskState.READY)
    taken_back.assigned = True
    node.resources.take(2 * ONE_CPU)
    assert node.offers.choose(6) == [last]
    assert [first.state, taken_back.state] == [TaskState.READY] * 2
