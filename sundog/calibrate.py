"""Measures what real processes cost on this machine, and makes of it the profile that the simulator charges.

``python -m sundog calibrate`` does it and stores the profile; it takes some seconds and wants the machine for itself. What is
counted is mostly computing time, which other work on the machine hardly changes; latencies and copies are medians.

How the parts are told apart: puts cost the node a message each and next to no turns, since many travel together; tasks by the
thousand two messages and a decision each (turns of a busy node are in these); tasks one after the other two more messages, and
twice it wakes. What a driver
computes more for results that come one by one is what its client thread's turns cost; what it, or a worker, computes more for tasks
one after the other is what waking costs. The way between two processes is what is left of the time that
tasks one after the other take; since some of the computing lies beside that way, the simulator itself says how much.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

import sundog
from sundog.backends import current
from sundog.backends.serialization import pack
from sundog.backends.simulated.cost_model import Profile
from sundog.backends.simulated.network_model import NetworkModel
from sundog.core.units import MICROSECOND, SECOND, Nanos

#: Messages that the node hears for a task among many: submitted, finished. References travel many to a message.
_MESSAGES_PER_TASK = 2
#: And for one that comes alone: also what is wanted, and what is let go of.
_MESSAGES_PER_LONE_TASK = 4
#: Turns of the node for a task that comes alone: one hears of it, one of its end.
_TURNS_PER_LONE_TASK = 2
_LARGE_BYTES = 64_000_000
#: An argument that travels inline; it passes the node twice, in and out.
_INLINE_BYTES = 64 << 10
_PASSES = 2
#: Of a loop.
_ROUNDS = 100_000
#: Tasks among many, by which the simulator is asked what it charges.
_SIMULATED = 2000
#: Tasks one after the other, by which the simulator is asked what a round trip takes.
_ASKED = 50


class Measurements(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. Nanoseconds for one, computing time where not said otherwise."""

    #: One task after the other, submitted and fetched, on the clock.
    round_trip: Nanos
    #: A task among thousands: in the driver, the node, the workers.
    task_driver: Nanos
    task_node: Nanos
    task_workers: Nanos
    #: Of that in the driver, before anything is fetched.
    submit: Nanos
    #: In the node: a small put among many.
    put_node: Nanos
    #: Tasks one after the other: in the driver, the node, the workers.
    lone_task_driver: Nanos
    lone_task_node: Nanos
    lone_task_workers: Nanos
    #: In the driver: a task whose result comes by itself, while others are waited for.
    spread_task_driver: Nanos
    #: What the first nested call costs more than later ones, on the clock.
    worker_start: Nanos
    #: A loop's computing time, alone and while every core runs one.
    alone: Nanos
    crowded: Nanos
    #: Bytes a second; ``carried``: inline, into the node or out of it.
    carried: int
    serialized: int
    copied: int
    copied_fresh: int


@sundog.remote
def nothing() -> None:
    """An empty task."""


@sundog.remote
def take(_: bytes) -> None:
    """An empty task with an argument."""


@sundog.remote
def pause() -> None:
    """A task that computes nothing for a millisecond."""
    time.sleep(0.001)


@sundog.remote
def loop() -> int:
    """Compute for some milliseconds; return for how many nanoseconds."""
    began = time.thread_time_ns()
    total = 0
    for number in range(_ROUNDS):
        total += number
    return time.thread_time_ns() - began


@sundog.remote
def parent() -> None:
    """A task that waits for another."""
    sundog.get(nothing.remote())


def measure(repeats: int = 7) -> Measurements:
    """Start sessions on this machine and measure; the medians of ``repeats``.

    Raises RuntimeError if there is a session already, OSError where the system does not tell computing times (not on Linux).
    """
    worker_start = statistics.median(_worker_start() for _ in range(3))
    with sundog.init(num_workers=2):
        _tasks(2000)
        tasks, submits, puts, lone, spread, small, large, round_trips = [], [], [], [], [], [], [], []
        for _ in range(repeats):
            tasks.append(_computed(lambda: _tasks(5000), 5000))
            submits.append(_computed(lambda: _submit(2000), 2000))
            sundog.get(_KEPT)
            _KEPT.clear()
            puts.append(_computed(lambda: _puts(4000), 4000))
            _KEPT.clear()
            lone.append(_computed(lambda: round_trips.append(_clock(lambda: _one_by_one(500)) / 500), 500))
            spread.append(_computed(lambda: _spread(200), 200))
            small.append(_computed(lambda: _carry(b"", 100), 100))
            large.append(_computed(lambda: _carry(bytes(_INLINE_BYTES), 100), 100))
        fresh, copied = _copies(repeats)
    alone, crowded = _loops(repeats)
    return Measurements(
        round_trip=int(statistics.median(round_trips)),
        task_driver=_median(tasks, "driver"),
        task_node=_median(tasks, "node"),
        task_workers=_median(tasks, "worker"),
        submit=_median(submits, "driver"),
        put_node=_median(puts, "node"),
        lone_task_driver=_median(lone, "driver"),
        lone_task_node=_median(lone, "node"),
        lone_task_workers=_median(lone, "worker"),
        spread_task_driver=_median(spread, "driver"),
        worker_start=int(worker_start),
        alone=alone,
        crowded=crowded,
        carried=_rate(_PASSES * _INLINE_BYTES, max(0, _median(large, "node") - _median(small, "node"))),
        serialized=_serialized(repeats),
        copied=copied,
        copied_fresh=fresh,
    )


def fit(measured: Measurements, name: str = "", network: NetworkModel | None = None, cores: int = 0) -> Profile:
    """Return the profile that explains ``measured``. ``network``: what the nodes of the simulated cluster are joined by.

    Needs SimPy and greenlet, and no session in this process.
    """
    crowded = max(1, min(1000, measured.alone * 1000 // max(1, measured.crowded)))

    def among_many(span: Nanos) -> Nanos:
        """What was measured with all cores busy would have taken less on one alone."""
        return span * crowded // 1000

    task_driver, task_workers = among_many(measured.task_driver), among_many(measured.task_workers)
    task_node = among_many(measured.task_node)
    message = min(among_many(measured.put_node), task_node // _MESSAGES_PER_TASK)
    more = measured.lone_task_node - task_node - (_MESSAGES_PER_LONE_TASK - _MESSAGES_PER_TASK) * message
    submit = min(among_many(measured.submit), task_driver)
    driver_turn = max(0, measured.spread_task_driver - task_driver)
    profile = Profile(
        name=name,
        node_turn=0,
        node_wake=max(0, more) // _TURNS_PER_LONE_TASK,
        node_message=message,
        node_decision=task_node - _MESSAGES_PER_TASK * message,
        submit=submit,
        receive=task_driver - submit,
        worker_task=task_workers,
        driver_turn=driver_turn,
        driver_wake=max(0, measured.lone_task_driver - task_driver - driver_turn),
        worker_wake=max(0, measured.lone_task_workers - task_workers),
        worker_start=measured.worker_start,
        serialize_bytes_per_second=measured.serialized,
        copy_bytes_per_second=measured.copied,
        fresh_copy_bytes_per_second=measured.copied_fresh,
        message_bytes_per_second=measured.carried,
        cores=cores,
        crowded_permille=crowded,
        network=network or NetworkModel(),
    )
    profile = _settled(profile, task_node, task_workers)
    # A round trip grows by the same for every nanosecond of the way, so two of them tell how long the way is.
    near, far = _with_latency(profile, 1 * MICROSECOND), _with_latency(profile, 101 * MICROSECOND)
    taken, more_taken = round_trip(near), round_trip(far)
    way = (measured.round_trip - taken) * 100 * MICROSECOND // max(1, more_taken - taken)
    return _with_latency(profile, 1 * MICROSECOND + max(0, way))


def _settled(profile: Profile, task_node: Nanos, task_workers: Nanos) -> Profile:
    """Return ``profile`` without what tasks among many would be charged twice: now and then somebody sleeps then, too."""
    for _ in range(2):
        node, workers = task_among_many(profile)
        profile = msgspec.structs.replace(
            profile,
            node_decision=max(0, profile.node_decision - (node - task_node)),
            worker_task=max(0, profile.worker_task - (workers - task_workers)),
        )
    return profile


def task_among_many(profile: Profile) -> tuple[Nanos, Nanos]:
    """Return what a task among many computes in the simulator: in the node, and in the workers."""
    with sundog.init(backend="simulated", num_workers=2, profile=profile):
        session = current.session
        assert session is not None
        node = session.port.node  # type: ignore[attr-defined]

        def spent() -> tuple[Nanos, Nanos]:
            return node.spent, sum([worker.charges.spent for worker in node.workers.values()])

        _tasks(_SIMULATED)
        before = spent()
        _tasks(_SIMULATED)
        after = spent()
        return (after[0] - before[0]) // _SIMULATED, (after[1] - before[1]) // _SIMULATED


def _with_latency(profile: Profile, latency: Nanos) -> Profile:
    return msgspec.structs.replace(profile, network=msgspec.structs.replace(profile.network, local_latency=latency))


def round_trip(profile: Profile) -> Nanos:
    """Return how long a task takes in the simulator, submitted and fetched, one after the other."""
    with sundog.init(backend="simulated", num_workers=2, profile=profile):
        session = current.session
        assert session is not None
        _one_by_one(_ASKED)
        began = session.now()
        _one_by_one(_ASKED)
        return (session.now() - began) // _ASKED


def calibrate(repeats: int = 7) -> Profile:
    """Return the profile of this machine. See :func:`measure` for errors."""
    return fit(measure(repeats), machine(), cores=len(os.sched_getaffinity(0)))


def machine() -> str:
    """Return the name of a profile that is measured here and now."""
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"


def medians(measured: Sequence[Measurements]) -> Measurements:
    """Return the median of each figure of several measurements."""
    names = Measurements.__struct_fields__
    return Measurements(**{name: int(statistics.median(getattr(one, name) for one in measured)) for name in names})


# --- the workloads ------------------------------


def _tasks(count: int) -> None:
    sundog.get([nothing.remote() for _ in range(count)])
    _settle()


def _settle() -> None:
    """Let what was let go of be forgotten everywhere, lest it be counted with what comes next."""
    for _ in range(3):
        sundog.get(nothing.remote())


def _submit(count: int) -> None:
    """Submit, and wait until all are done, without fetching them."""
    _KEPT[:] = [nothing.remote() for _ in range(count)]
    sundog.wait(_KEPT[-1:])


#: What must outlive a measurement.
_KEPT: list[Any] = []


def _puts(count: int) -> None:
    _KEPT[:] = [sundog.put(b"small") for _ in range(count)]
    sundog.get(nothing.remote())  # by then the node has heard of all


def _spread(count: int) -> None:
    sundog.get([pause.remote() for _ in range(count)])


def _carry(value: bytes, count: int) -> None:
    sundog.get([take.remote(value) for _ in range(count)])


def _one_by_one(count: int) -> None:
    for _ in range(count):
        sundog.get(nothing.remote())


def _worker_start() -> float:
    """Return what a nested call costs more when no second worker is there yet."""
    with sundog.init(num_workers=1):
        sundog.get(nothing.remote())
        first = _clock(lambda: sundog.get(parent.remote()))
        later = min(_clock(lambda: sundog.get(parent.remote())) for _ in range(5))
    return max(0.0, first - later)


def _loops(repeats: int) -> tuple[int, int]:
    """Return how long a loop computes, alone and while every core runs one."""
    with sundog.init():
        cores = sundog.cluster_resources()["CPU"]
        _together(int(cores))
        alone = [_together(1) for _ in range(10 * repeats)]
        crowded = [_together(int(cores)) for _ in range(10 * repeats)]
    return int(statistics.median(alone)), int(statistics.median(crowded))


def _together(count: int) -> float:
    return statistics.mean(sundog.get([loop.remote() for _ in range(count)]))


def _copies(repeats: int) -> tuple[int, int]:
    """Return bytes a second of a large put: the first, and later ones."""
    import numpy as np

    source = np.ones(_LARGE_BYTES // 8)
    times = []
    for _ in range(repeats + 3):
        _KEPT.clear()
        times.append(_clock(lambda: _KEPT.append(sundog.put(source))))
        sundog.get(_KEPT[0])
    _KEPT.clear()
    return _rate(_LARGE_BYTES, times[0]), _rate(_LARGE_BYTES, statistics.median(times[3:]))


def _serialized(repeats: int) -> int:
    """Return bytes a second of plain data through pickle."""
    value = [{"name": f"row {number}", "value": number * 0.5, "tags": (number, "a", None)} for number in range(20_000)]
    size = pack(None, value).size
    return _rate(size, statistics.median(_clock(lambda: pack(None, value)) for _ in range(repeats)))


def _rate(size: int, span: float) -> int:
    return max(1, int(size * SECOND / max(1.0, span)))


# --- clocks ------------------------------


def _clock(work: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    work()
    return float(time.perf_counter_ns() - started)


def _computed(work: Callable[[], object], count: int) -> dict[str, float]:
    """Return nanoseconds of computing for one of ``count``, by kind of process."""
    _settle()
    before = computing_times()
    work()
    spent: dict[str, float] = {"driver": 0.0, "node": 0.0, "worker": 0.0}
    for process, total in computing_times().items():
        spent[process[0]] += (total - before.get(process, 0)) / count
    return spent


def _median(measured: list[dict[str, float]], kind: str) -> int:
    return int(statistics.median(one[kind] for one in measured))


def computing_times() -> dict[tuple[str, int], int]:
    """Return {(kind, pid): nanoseconds on a core so far} of this process and those of its session."""
    found = {("driver", os.getpid()): _on_core(os.getpid())}
    for child in _children(os.getpid()):
        found["node", child] = _on_core(child)
        for zygote in _children(child):
            for worker in _children(zygote):
                found["worker", worker] = _on_core(worker)
    return found


def _children(pid: int) -> Iterator[int]:
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (thread / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        return


def _on_core(pid: int) -> int:
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((thread / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total
