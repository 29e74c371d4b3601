"""From measurements to a profile: the costs with which the simulator charges for each workload what was measured for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

import sundog
from sundog.backends import current
from sundog.backends.simulated.costs.profile import Profile
from sundog.backends.simulated.network.model import NetworkModel
from sundog.calibrate import workloads
from sundog.calibrate.computing import Computed
from sundog.calibrate.measurements import PARENTS, WORKERS, Measurements
from sundog.core.units import MICROSECOND, Nanos

#: Messages that the node hears for a task among many: submitted, finished. References travel many to a message.
_MESSAGES_PER_TASK = 2
#: Turns of the node for a task that comes alone: one hears of it, one of its end.
_TURNS_PER_LONE_TASK = 2
#: How often all costs are put right, one after the other: each changes what the others explain. After the first time by this part
#: of what is missing, as costs would go up and down in turns: a longer turn of the node lets more messages share the next one.
_ROUNDS = 5
_PART = 0.5
#: Tasks one after the other, by which the simulator is asked what a round trip takes.
_ASKED = 30


class Explained(NamedTuple):
    """A cost, and the workload that says what it is: ``process`` pays it ``times`` for each of ``number`` in the workload."""

    cost: str
    process: str
    measured: str
    work: Callable[[int], None]
    number: int
    times: int = 1


#: In the order in which they are put right.
EXPLAINED = (
    Explained("node_decision", "node", "task", workloads.tasks, 1500),
    Explained("worker_task", "workers", "task", workloads.tasks, 1500),
    Explained("receive", "driver", "task", workloads.tasks, 1500),
    Explained("driver_turn", "driver", "spread_task", workloads.spread, 60),
    Explained("driver_wake", "driver", "lone_task", workloads.one_by_one, _ASKED),
    Explained("worker_wake", "workers", "lone_task", workloads.one_by_one, _ASKED),
    Explained("node_wake", "node", "lone_task", workloads.one_by_one, _ASKED, _TURNS_PER_LONE_TASK),
    Explained("submit_dependency", "driver", "pair", workloads.pairs, 600),
    Explained("node_dependency", "node", "pair", workloads.pairs, 600),
    Explained("worker_dependency", "workers", "pair", workloads.pairs, 600),
    Explained("node_block", "node", "lone_parent", workloads.lone_parents, _ASKED),
    Explained("worker_block", "workers", "lone_parent", workloads.lone_parents, _ASKED),
    Explained("node_reclaim", "node", "parent", workloads.parents, PARENTS),
    Explained("worker_reclaim", "workers", "parent", workloads.parents, PARENTS),
)


class Charged(NamedTuple):
    """What the simulator charges for one of a workload, how long that occupies cores, and how many tasks are taken back."""

    computed: Computed
    occupied: Nanos
    reclaimed: float


def fit(measured: Measurements, name: str = "", network: NetworkModel | None = None, cores: int = 0) -> Profile:
    """Return the profile that explains ``measured``. ``network``: what the nodes of the simulated cluster are joined by.

    Needs SimPy and greenlet, and no session in this process.
    """
    crowded = max(1, min(1000, measured.alone * 1000 // max(1, measured.crowded)))
    # What was measured with all cores busy would have taken less on one alone.
    message = max(1, min(measured.put_node, measured.task.node // _MESSAGES_PER_TASK) * crowded // 1000)
    submit = min(measured.submit, measured.task.driver) * crowded // 1000
    profile = Profile(
        name=name,
        node_turn=0,  # part of what else is measured: see there
        **dict.fromkeys((one.cost for one in EXPLAINED), 0),
        node_message=message,
        submit=submit,
        worker_start=measured.worker_start,
        serialize_bytes_per_second=measured.serialized,
        copy_bytes_per_second=measured.copied,
        unmapped_copy_bytes_per_second=measured.copied_unmapped,
        fresh_copy_bytes_per_second=measured.copied_fresh,
        message_bytes_per_second=measured.carried,
        cores=cores,
        crowded_permille=crowded,
        network=network or NetworkModel(),
    )
    for turn in range(_ROUNDS):
        for place, one in enumerate(EXPLAINED):
            before = EXPLAINED[place - 1]
            if not place or one.work is not before.work:
                found = charged(profile, one.work, one.number)  # who pays for one workload pays apart from the others
            profile = _put_right(profile, one, found, measured, _PART if turn else 1.0)
        profile = _with_way(profile, measured.round_trip)
    return profile


def _put_right(profile: Profile, one: Explained, found: Charged, measured: Measurements, part: float) -> Profile:
    """Return ``profile`` with one cost nearer by ``part`` to what explains the workload, which is now charged with ``found``."""
    total = found.computed.total
    wanted: int = getattr(getattr(measured, one.measured), one.process)
    if total and found.occupied > total:
        wanted = wanted * total // found.occupied
    more = wanted - getattr(found.computed, one.process)
    times = max(1.0, found.reclaimed) if one.cost.endswith("_reclaim") else one.times
    return msgspec.structs.replace(profile, **{one.cost: max(0, getattr(profile, one.cost) + int(part * more / times))})


def charged(profile: Profile, work: Callable[[int], None], count: int) -> Charged:
    """Return what the simulator charges for one of ``count`` in a workload, once all workers are there and functions known."""
    with sundog.init(backend="simulated", num_workers=WORKERS, profile=profile):
        session = current.session
        assert session is not None
        driver, node = session.port, session.port.node  # type: ignore[attr-defined]

        def spent() -> Computed:
            of_workers = sum([worker.charges.spent for worker in node.workers.values()])
            return Computed(driver.charges.spent, node.spent, of_workers)  # type: ignore[attr-defined]

        work(count)
        workloads.settle()
        before, occupied, reclaimed = spent(), node.cores.occupied, node.taken_back
        work(count)
        after = spent()
        more = Computed(after.driver - before.driver, after.node - before.node, after.workers - before.workers)
        return Charged(more.over(count), (node.cores.occupied - occupied) // count, (node.taken_back - reclaimed) / count)


def _with_way(profile: Profile, wanted: Nanos) -> Profile:
    """Return ``profile`` with the way between processes that makes round trips as long as they are.

    A round trip grows by the same for every nanosecond of the way, so two of them tell how long the way is.
    """
    near, far = _with_latency(profile, 1 * MICROSECOND), _with_latency(profile, 101 * MICROSECOND)
    taken, more_taken = round_trip(near), round_trip(far)
    way = (wanted - taken) * 100 * MICROSECOND // max(1, more_taken - taken)
    return _with_latency(profile, 1 * MICROSECOND + max(0, way))


def _with_latency(profile: Profile, latency: Nanos) -> Profile:
    return msgspec.structs.replace(profile, network=msgspec.structs.replace(profile.network, local_latency=latency))


def round_trip(profile: Profile) -> Nanos:
    """Return how long a task takes in the simulator, submitted and fetched, one after the other."""
    with sundog.init(backend="simulated", num_workers=WORKERS, profile=profile):
        session = current.session
        assert session is not None
        workloads.one_by_one(_ASKED)
        began = session.now()
        workloads.one_by_one(_ASKED)
        return (session.now() - began) // _ASKED
