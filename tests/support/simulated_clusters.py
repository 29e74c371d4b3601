"""User programs on simulated clusters that fail: drawn from a seed, run, compared with plain Python, and looked over.

``python -m tests.support.simulated_clusters 0 500`` explores these seeds and prints those that show a bug; add
``without-services`` for faults that leave the head's services alone.
"""

from __future__ import annotations

import gc
import itertools
import signal
import sys
import traceback
from random import Random
from typing import Any, NamedTuple

import sundog
from sundog.backends import current
from sundog.backends.simulated.cluster import Cluster
from sundog.backends.simulated.costs.durations import Exponential
from sundog.backends.simulated.faults.swarm import swarm
from sundog.backends.simulated.faults.target import FILLER
from sundog.backends.simulated.network.model import NetworkModel
from sundog.core.ids import process_of
from sundog.core.units import MICROSECOND, MILLISECOND, SECOND
from tests.support import agreement

#: Errors that faults may bring about.
LEGITIMATE = ("WorkerCrashedError", "ObjectLostError", "ObjectStoreFullError")
#: How long anything may fail.
SAFETY = 400 * MILLISECOND
#: Virtual seconds after which nothing of a program is left anywhere.
SETTLED = 0.8
#: What hangs is to be noticed soon.
QUIET = 3 * SECOND
_LIMITS: dict[str, Any] = {
    "heartbeat_every": 50 * MILLISECOND, "node_lost_after": 200 * MILLISECOND, "store_full_grace": 200 * MILLISECOND,
}  # fmt: skip


#: Of this process, for one seed.
_CPU_SECONDS = 20


class _TooLong(BaseException):
    """A run that does not end."""


class Found(NamedTuple):
    """What a run came to."""

    digest: str
    entries: int
    #: Outcomes that differ from those of plain Python, all of them legitimate.
    failed: int
    faults: int


class Remote:
    """The api, for functions whose tasks may be run again."""

    def __init__(self, retries: int) -> None:
        self.retries = retries

    def remote(self, function: Any = None, **options: Any) -> Any:
        """See ``sundog.remote``."""
        options["max_retries"] = self.retries
        given: Any = sundog.remote(**options)
        return given if function is None else given(function)

    put = staticmethod(sundog.put)
    get = staticmethod(sundog.get)


def alike(found: Any, expected: Any) -> bool:
    """Tell whether an outcome is the expected one, but for what faults may have done to it."""
    if isinstance(found, tuple) and found and any(name in found[0] for name in LEGITIMATE):
        return True
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(itertools.starmap(alike, zip(found, expected, strict=True)))
    return bool(found == expected)


def check_empty(cluster: Cluster) -> None:
    """Nobody refers to anything any more: no table of any node that the head knows holds anything."""
    head: Any = cluster.hosts[min(cluster.hosts)]
    network: Any = cluster.network
    if any(network.stops(head.node, node) or network.stops(node, head.node) for node in head._members):
        return  # a node outside the core that the head hears, and does not reach: it holds what it holds
    for number, host in cluster.hosts.items():
        if host is not head and number not in head._members:
            continue  # cut off for good: it cannot know
        manager: Any = host.object_manager
        scheduler: Any = host.local_scheduler
        where = f"node {number}"
        assert manager.objects == {}, where
        assert scheduler.tasks == {}, where
        assert [one for one in manager.ledger.extents() if process_of(one.writer) != FILLER] == [], where
        assert scheduler.resources.free == scheduler.resources.capacity, where
        assert scheduler.resources.overdrawn == {}, where
        if manager._CLUSTERED:
            assert (manager.shared, manager.foreign, scheduler.foreign) == ({}, {}, {}), where
            assert (len(manager.pulls), len(manager.recipes), len(manager.ended)) == (0, 0, 0), where
    assert head.directory._entries == {}
    assert head.directory._askers == {}
    assert head.global_scheduler.waiting == {}
    assert head.global_scheduler.assigned == {}
    assert head.lineage._recipes == {}


def port() -> Any:
    """Return the driver's port of the session."""
    assert current.session is not None
    return current.session.port


def settings(
    random: Random, *, nodes: int, retries: int, faults: bool, ties: bool = False, services: bool = False
) -> dict[str, Any]:
    """Draw a cluster, and faults for it."""
    cpus = [random.choice((1, 1, 2, 3)) for _ in range(nodes)]
    limits = {**_LIMITS, "inline_bytes_max": random.choice((16, 64, 100_000)), "backlog_max": random.choice((0, 1, 64))}
    limits["offer_after"] = random.choice((0, 200 * MICROSECOND, 2 * MILLISECOND))
    network = NetworkModel(latency=random.choice((5, 50, 2000)) * MICROSECOND, jitter=random.choice((0, 30, 1000)) * MICROSECOND)
    seed = random.getrandbits(40)
    made: dict[str, Any] = {
        "nodes": [{"num_cpus": count} for count in cpus], "num_cpus": 2, "seed": seed, "config": limits, "network": network,
        "durations": Exponential(random.choice((1e-4, 2e-3, 2e-2))), "object_store_memory": 4 << 20,
    }  # fmt: skip
    if faults:
        made["faults"] = swarm(seed, dict(enumerate(cpus)), safety=SAFETY, tasks=60, frames=nodes > 1, services=services)
    if ties:
        made["ties"] = seed
    return made


def explore(
    seed: int, *, faults: bool = True, ties: bool = False, checks: bool = True, most_nodes: int = 5, services: bool = False
) -> Found:
    """Run what ``seed`` says. Raises AssertionError for a wrong outcome or anything left over, and what the run raises."""
    random = Random(f"explore {seed}")
    retries = random.choice((0, 1, 100)) if faults else 0
    drawn = settings(random, nodes=random.randint(2, most_nodes), retries=retries, faults=faults, ties=ties, services=services)
    programs = [agreement.generate(random) for _ in range(random.randint(1, 4))]
    plain = agreement.Plain()
    known = agreement.functions(plain)
    expected = [agreement.run(plain, known, program).outcomes for program in programs]
    sundog.init(backend="simulated", check_invariants=checks, **drawn)
    try:
        driver = port()
        driver.cluster.watch.quiet = QUIET
        failed = _compare(programs, expected, retries)
        sundog.sleep(SETTLED)
        gc.collect()
        sundog.sleep(SETTLED)
        check_empty(driver.cluster)
        log = driver.node.log
        happened = len(driver.faults.log) if driver.faults is not None else 0
    finally:
        sundog.shutdown()
    return Found(log.digest(), log.entries, failed, happened)


def _compare(programs: list[agreement.Program], expected: list[list[Any]], retries: int) -> int:
    api = Remote(retries)
    known = agreement.functions(api)
    failed = 0
    for program, right in zip(programs, expected, strict=True):
        found = agreement.run(api, known, program).outcomes
        assert len(found) == len(right)
        for step, (one, other) in enumerate(zip(found, right, strict=True)):
            assert alike(one, other), f"step {step}: {one!r} is not {other!r}, of {program}"
            failed += one != other
    return failed


def main(first: int, last: int, services: bool = True) -> int:
    """Explore seeds; print what is wrong with them."""
    wrong = []
    lost = faults = 0

    def too_long(*_: object) -> None:
        raise _TooLong(f"more than {_CPU_SECONDS} s")

    signal.signal(signal.SIGVTALRM, too_long)
    for seed in range(first, last):
        signal.setitimer(signal.ITIMER_VIRTUAL, _CPU_SECONDS)
        try:
            found = explore(seed, services=services)
            lost += found.failed > 0
            faults += found.faults
        except BaseException as error:
            wrong.append(seed)
            sys.stdout.write(f"--- seed {seed}: {type(error).__name__}: {str(error)[:1500]}\n")
            traceback.print_exc(limit=-12)
            if isinstance(error, KeyboardInterrupt):
                break
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            sundog.shutdown()
    sys.stdout.write(f"{last - first} seeds, {faults} faults, legitimate failures in {lost}, wrong: {wrong}\n")
    return len(wrong)


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), int(sys.argv[2]), "without-services" not in sys.argv))
