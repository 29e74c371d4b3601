"""Every machine hears exactly what it says that it hears, and nothing that is said goes unheard."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sundog.backends import schema
from sundog.core import events, messages
from sundog.core.client import Client
from sundog.core.cluster_host import ClusterHost
from sundog.core.cluster_objects import ClusterObjectManager
from sundog.core.cluster_tasks import ClusterScheduler
from sundog.core.config import Config
from sundog.core.executor import Executor
from sundog.core.global_scheduler import GlobalScheduler
from sundog.core.host import Host
from sundog.core.ids import DRIVER, HOST, NodeID, ProcessID, address
from sundog.core.lent_objects import LendingObjectManager
from sundog.core.lineage import Lineage
from sundog.core.local_scheduler import LocalScheduler
from sundog.core.membership import Membership
from sundog.core.object_directory import ObjectDirectory
from sundog.core.object_manager import ObjectManager
from sundog.core.placement import policy
from sundog.core.recovery import Recovery
from sundog.core.restarted_directory import RestartedDirectory
from sundog.core.restarted_scheduler import RestartedScheduler
from sundog.core.retold_objects import RetellingObjectManager

NODE = NodeID(0)
HERE = address(NODE, HOST)
TO_DRIVER = address(NODE, DRIVER)
CONFIG = Config()

MACHINES: list[Any] = [
    ClusterObjectManager(CONFIG, NODE, HERE, TO_DRIVER, HERE),
    ClusterScheduler(CONFIG, NODE, HERE, HERE, TO_DRIVER, ProcessID(2)),
    GlobalScheduler(CONFIG, HERE, policy("bottom_up"), random.Random(0)),
    LendingObjectManager(CONFIG, NODE, HERE, TO_DRIVER, HERE),
    Lineage(CONFIG, HERE),
    LocalScheduler(CONFIG, NODE, HERE, HERE, TO_DRIVER, ProcessID(2)),
    Membership(CONFIG, HERE),
    ObjectDirectory(CONFIG, HERE),
    ObjectManager(CONFIG, NODE, HERE, TO_DRIVER),
    RestartedDirectory(CONFIG, HERE, Recovery(CONFIG, 1, [NODE]), scheduler_whole=True),
    RestartedScheduler(CONFIG, HERE, policy("bottom_up"), None, None, Recovery(CONFIG, 1, [NODE]), node_was_lost=False),
    RetellingObjectManager(CONFIG, NODE, HERE, TO_DRIVER, HERE),
]
#: What a worker's loop itself takes from the node: its pipeline's business, and stopping.
WORKER_LOOP = {messages.RunTasks, messages.TasksForgotten, messages.FunctionDelivered, messages.StopRequested}
#: What the host answers itself, for the lack of a machine.
HOST_ITSELF = {events.OutputRead, events.ServiceStarted, messages.TableRequested}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: type(machine).__name__)
def test_the_handlers_are_what_is_heard(machine: Any) -> None:
    assert set(machine._handlers) == set(machine.HEARS)
    assert len(machine.HEARS) == len(set(machine.HEARS)), "heard twice"
    for handler in machine._handlers.values():
        method = getattr(handler, "__func__", handler)
        assert getattr(type(machine), method.__name__) is method, "an overridden method would not be called"


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: type(machine).__name__)
def test_an_idle_machine_keeps_the_door(machine: Any) -> None:
    machine.step(1, ())
    assert machine.step(1, ()) == [], "what was asked for once is not asked for again"
    deadline = machine.next_deadline()
    assert deadline is None or deadline > 1
    machine.check_invariants()


def heard() -> set[type]:
    """Return what anybody hears."""
    found: set[type] = {*HOST_ITSELF, *WORKER_LOOP}
    for machine in MACHINES:
        found |= set(machine.HEARS)
    for worker in (True, False):
        found |= set(Client(CONFIG, TO_DRIVER, HERE, worker=worker)._handlers)
    return found


def test_every_fact_is_heard_by_somebody() -> None:
    unheard = set(schema.facts()) - heard()
    assert not unheard, f"nobody hears {', '.join(sorted(kind.__name__ for kind in unheard))}"


@pytest.mark.parametrize("host", [Host(CONFIG), ClusterHost(CONFIG), ClusterHost(CONFIG, NodeID(3))])
def test_the_host_routes_to_all_of_its_machines(host: Host) -> None:
    for machine in host._machines:
        for fact in machine.HEARS:
            assert host._machines.index(machine) in host._hearers[fact]
    assert Executor().next() is None
