"""What a profile says is charged, to the nanosecond; without one, nothing is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import sundog
from sundog.backends import current
from sundog.backends.simulated.costs.cores import Cores
from sundog.backends.simulated.costs.profile import FREE, Profile, ProfileError, save_profile
from sundog.backends.simulated.sim_loop import Costs, Loop
from sundog.core.units import KIB, MICROSECOND, MILLISECOND, SECOND, Nanos

Simulate = Callable[..., Any]
#: Ways from process to process of a task that comes alone: driver, node, worker, node, driver.
HOPS = 4
#: Every call of the driver that waits takes this much.
CALL = Costs().call


def free(**costs: Any) -> Profile:
    """FREE but for ``costs``; ``hop`` is the way between processes."""
    hop = costs.pop("hop", None)
    if hop is not None:
        costs["network"] = msgspec.structs.replace(FREE.network, local_latency=hop)
    return msgspec.structs.replace(FREE, **costs)


def now() -> Nanos:
    """Virtual time. Looking costs nothing."""
    session = current.session
    assert session is not None
    return session.port.loop.now  # type: ignore[attr-defined, no-any-return]


def took(work: Callable[[], object]) -> Nanos:
    """Return the virtual nanoseconds of ``work``."""
    began = now()
    work()
    return now() - began


@sundog.remote
def nothing(*_: Any) -> None:
    """An empty task."""


@sundog.remote
def made(size: int) -> bytes:
    """Return ``size`` bytes."""
    return bytes(size)


@sundog.remote
def text(size: int) -> str:
    """Return a text of ``size`` characters: pickled, unlike bytes."""
    return "x" * size


@sundog.remote
def parent() -> None:
    """Wait for another task."""
    sundog.get(nothing.remote())


def lone() -> None:
    """One task from call to value."""
    sundog.get(nothing.remote())


def lone_task(simulate: Simulate, work: Callable[[], object] = lone, **costs: Any) -> Nanos:
    """Return what ``work`` takes where only ``costs`` are charged, and functions are known."""
    simulate(profile=free(**costs))
    work()
    span = took(work)
    sundog.shutdown()
    return span


BASE = 2 * CALL  # .remote() and get


@pytest.mark.parametrize(
    ("costs", "span"),
    [
        ({}, BASE),
        ({"hop": 1000}, BASE + HOPS * 1000),
        ({"submit": 70_000}, BASE - CALL + 70_000),
        ({"receive": 7000}, BASE + 7000),
        ({"worker_task": 7000}, BASE + 7000),
        ({"driver_wake": 7000}, BASE + 7000),
        ({"driver_turn": 7000}, BASE + 7000),
        ({"worker_wake": 7000}, BASE + 7000),
        ({"node_turn": 7000}, BASE + 2 * 7000),
        ({"node_wake": 7000}, BASE + 7000),  # what comes in the instant in which a turn ends finds it awake
        ({"node_wake": 7000, "hop": 1000}, BASE + 2 * 7000 + HOPS * 1000),
        ({"node_message": 7000}, BASE + 3 * 7000),  # submitted, wanted; finished
        ({"node_decision": 7000}, BASE + 7000),
    ],
    ids=str,
)
def test_a_lone_task(costs: dict[str, Nanos], span: Nanos, simulate: Simulate) -> None:
    def rested() -> None:
        sundog.sleep(0.001)  # the node lets go of what was fetched before, in a turn of its own
        lone()

    assert lone_task(simulate, rested, **costs) - MILLISECOND == span


def test_tasks_among_many_wake_nobody(simulate: Simulate) -> None:
    simulate(num_cpus=1, profile=free(worker_task=1000, worker_wake=50_000, driver_wake=7000))
    sundog.get([nothing.remote() for _ in range(50)])
    span = took(lambda: sundog.get([nothing.remote() for _ in range(50)]))
    assert span < 50 * CALL + 50 * 1000 + 2 * 50_000 + 7000
    assert span > 50 * 1000 + 50_000 + 7000


def test_each_value_received_is_charged(simulate: Simulate) -> None:
    simulate(profile=free(receive=1000))
    lone()
    tasks = [nothing.options(duration=0.1).remote() for _ in range(4)]
    assert took(lambda: sundog.get(tasks)) == CALL + 100 * MILLISECOND + 4 * 1000
    assert took(lambda: sundog.get(tasks)) == CALL


def test_nested_calls_are_charged_to_the_worker(simulate: Simulate) -> None:
    simulate(profile=free(submit=10_000, receive=3000, worker_task=100, worker_wake=50))
    sundog.get(parent.remote())
    span = took(lambda: sundog.get(parent.remote()))
    assert span == CALL + 2 * 10_000 + 2 * 3000 + 2 * 100 + 3 * 50  # two workers wake, one of them twice


@pytest.mark.parametrize(
    ("costs", "span"),
    [
        ({"submit_dependency": 7000}, 2 * 7000),
        ({"node_dependency": 7000}, 2 * 7000),
        ({"worker_dependency": 7000}, 2 * 7000),
        ({"node_block": 7000}, 0),
        ({"worker_block": 7000}, 0),
    ],
    ids=str,
)
def test_each_dependency_is_charged(costs: dict[str, Nanos], span: Nanos, simulate: Simulate) -> None:
    simulate(profile=free(**costs))
    first, second = sundog.put(1), sundog.put(2)
    lone()
    plain, given = took(lone), took(lambda: sundog.get(nothing.remote(first, second, first)))
    assert plain == BASE
    assert given - BASE in (span, span - CALL)  # what submitting costs takes the place of the call's microsecond


def test_a_body_that_waits_is_charged(simulate: Simulate) -> None:
    for costs, span in (
        ({"node_block": 7000}, 7000),
        ({"worker_block": 7000}, 7000),
        ({"node_block": 7000, "worker_block": 90}, 7090),
    ):
        simulate(profile=free(**costs))
        sundog.get(parent.remote())
        assert took(lambda: sundog.get(parent.remote())) == BASE + span
        assert took(lone) == BASE
        sundog.shutdown()


def test_what_a_waiting_worker_gives_back_is_charged(simulate: Simulate) -> None:
    def spent(**costs: Nanos) -> tuple[Nanos, Nanos]:
        simulate(num_cpus=1, profile=free(**costs))
        node = current.session.port.node  # type: ignore[union-attr]
        sundog.get(parent.remote())
        sundog.get([parent.remote() for _ in range(10)])
        found = node.spent, sum(worker.charges.spent for worker in node.workers.values())
        sundog.shutdown()
        return found

    node, worker = spent(node_reclaim=1, worker_reclaim=1)
    assert node == 45  # each of ten waits; nine, eight, ... lie behind it
    assert worker == 45
    twenty_two = 22 * 1000  # tasks, each decided about once, however often they go to and fro
    assert spent(node_decision=1000)[0] == twenty_two


def test_pickles_take_time_where_they_are_made_and_where_they_are_read(simulate: Simulate) -> None:
    size = 10_000
    for task, ways in ((text, 2), (made, 0)):
        simulate(profile=free(serialize_bytes_per_second=SECOND))
        sundog.get(task.remote(size))
        small, large = took(lambda: sundog.get(task.remote(size))), took(lambda: sundog.get(task.remote(2 * size)))  # noqa: B023
        assert large - small == ways * size
        sundog.shutdown()


def test_inline_values_take_time_in_every_process_that_they_pass(simulate: Simulate) -> None:
    simulate(profile=free(message_bytes_per_second=SECOND))
    assert sundog.get(made.remote(0)) == b""
    empty, full = took(lambda: sundog.get(made.remote(1000))), took(lambda: sundog.get(made.remote(21_000)))
    assert full - empty == 4 * 20_000  # out of the worker, into and out of the node, into the driver


def test_the_store_is_written_at_the_speed_of_its_pages(simulate: Simulate) -> None:
    size = 1000 * KIB
    speeds = {"copy_bytes_per_second": 2 * SECOND, "unmapped_copy_bytes_per_second": SECOND}
    simulate(profile=free(**speeds, fresh_copy_bytes_per_second=SECOND // 2))
    kept = []
    fresh = took(lambda: kept.append(sundog.put(bytes(size))))
    kept.clear()
    sundog.sleep(0.01)
    warm = took(lambda: kept.append(sundog.put(bytes(size))))
    assert fresh == CALL + 2 * size
    assert warm == CALL + size // 2
    assert took(lambda: sundog.get(kept[0])) == CALL  # where it lies it can be read
    kept.clear()
    sundog.sleep(0.01)
    assert took(lambda: sundog.wait([made.remote(size)])) == BASE + size  # the worker maps what the driver has written
    sundog.sleep(0.01)
    assert took(lambda: sundog.wait([made.remote(size)])) == BASE + size // 2


def test_a_worker_takes_its_time_to_start(simulate: Simulate) -> None:
    simulate(num_cpus=1, profile=free(worker_start=3 * MILLISECOND))
    lone()
    assert took(lambda: sundog.get(parent.remote())) == BASE + 3 * MILLISECOND
    assert took(lambda: sundog.get(parent.remote())) == BASE


def test_what_a_future_brings_is_charged(simulate: Simulate) -> None:
    simulate(profile=free(receive=50_000))
    lone()
    assert 0 <= took(lambda: nothing.remote().future().result()) - 50_000 <= BASE


def test_bodies_share_the_cores(simulate: Simulate) -> None:
    tenth = nothing.options(duration=0.1)
    for cores, span in ((0, 100), (4, 100), (2, 200), (1, 400)):
        simulate(profile=free(cores=cores))
        lone()
        assert took(lambda: sundog.get([tenth.remote() for _ in range(4)])) == pytest.approx(span * MILLISECOND, abs=10_000)
        sundog.shutdown()


def test_bodies_that_sleep_share_nothing(simulate: Simulate) -> None:
    @sundog.remote
    def sleeps() -> None:
        sundog.sleep(0.1)

    simulate(profile=free(cores=1))
    lone()
    assert took(lambda: sundog.get([sleeps.remote() for _ in range(4)])) == pytest.approx(100 * MILLISECOND, abs=10_000)


def test_cores_are_shared_evenly() -> None:
    loop = Loop(Costs())
    cores = Cores(loop, 2)
    ended: dict[str, Nanos] = {}
    numbers: dict[str, int] = {}

    def begin(name: str, span: Nanos) -> None:
        numbers[name] = cores.compute(span, lambda _: ended.update({name: loop.now}))

    begin("a", 900)
    begin("b", 300)
    loop.call_at(100, lambda _: begin("c", 400))  # three on two cores: each gets two thirds
    environment = loop.environment
    environment.run(until=10_000)
    # b has 200 left, so until 400; c has 200 then and a 600, with a core each.
    assert ended == {"b": 400, "c": 600, "a": 1000}
    assert cores.computing == 0
    begin("d", 1000)
    begin("e", 1000)
    begin("f", 1000)
    loop.call_at(loop.now + 300, lambda _: cores.stop(numbers["d"]))
    environment.run(until=30_000)
    assert {name: when - 10_000 for name, when in ended.items() if name in "def"} == {"e": 1100, "f": 1100}


def test_cores_that_are_hardware_threads_slow_each_other_down() -> None:
    ended: list[Nanos] = []
    for together, span in ((1, 600), (2, 800), (3, 1200), (6, 2400)):  # speeds 1, 3/4, 1/2, 1/4
        loop = Loop(Costs())
        cores = Cores(loop, 3, crowded=500)
        for _ in range(together):
            cores.compute(600, lambda _: ended.append(loop.now))  # noqa: B023
        loop.environment.run(until=10_000)
        assert ended == [span] * together
        ended.clear()


def test_what_is_computed_occupies_crowded_cores_for_longer(simulate: Simulate) -> None:
    tenth = nothing.options(duration=0.1)
    for cores, together, occupied in ((2, 1, 100), (2, 2, 400), (2, 4, 800)):
        simulate(num_cpus=4, profile=free(cores=cores, crowded_permille=500))
        lone()
        shared = current.session.port.node.cores  # type: ignore[union-attr]
        before = shared.occupied
        sundog.get([tenth.remote() for _ in range(together)])
        assert shared.occupied - before == pytest.approx(occupied * MILLISECOND, abs=10_000)
        sundog.shutdown()


def test_a_free_profile_is_no_profile(simulate: Simulate) -> None:
    def digest(**settings: Any) -> tuple[str, Nanos]:
        simulate(**settings)
        log = current.session.port.node.log  # type: ignore[union-attr]
        lone()
        sundog.get([parent.remote() for _ in range(20)])
        sundog.get([nothing.remote(sundog.put(bytes(200 * KIB))) for _ in range(3)])
        ended = now()
        sundog.shutdown()
        return log.digest(), ended

    costs = {"hop": 1e-6, "worker_start": 0.0, "flush": Costs().flush / SECOND}
    assert digest(profile=FREE, costs=costs) == digest(costs=costs)
    assert digest(profile=Profile(cores=2)) == digest(profile=Profile(cores=2))
    assert digest(profile=Profile(cores=2)) != digest(profile=Profile())


def test_several_nodes_are_charged(simulate: Simulate) -> None:
    profile = Profile(cores=2)

    def run() -> Nanos:
        simulate(nodes=3, num_cpus=2, profile=profile, check_invariants=False)
        span = took(lambda: sundog.get([nothing.remote(number) for number in range(300)]))
        sundog.shutdown()
        return span

    assert run() == run() > 300 * profile.submit


def test_which_profile(simulate: Simulate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def charged(profile: Any) -> Profile | None:
        simulate(profile=profile)
        found: Profile | None = current.session.port.node.profile  # type: ignore[union-attr]
        sundog.shutdown()
        return found

    mine = Profile(name="mine")
    assert charged(None) is None
    assert charged("default") == Profile()
    assert charged(mine) is mine
    with pytest.raises(ProfileError, match="calibrate` makes one"):
        simulate(profile="calibrated")
    where = save_profile(mine)
    assert charged("calibrated") == charged(where) == charged(str(where)) == mine
    with pytest.raises(TypeError, match=r"profile takes 'default', 'calibrated', .*not 5"):
        simulate(profile=5)
    with pytest.raises(ProfileError, match=r"nowhere.json: No such file"):
        simulate(profile="nowhere.json")


def test_the_way_between_processes_may_still_be_said_by_itself(simulate: Simulate) -> None:
    simulate(profile=free(hop=MILLISECOND), costs={"hop": 5e-6})
    lone()
    sundog.sleep(0.001)
    assert took(lone) == BASE + HOPS * 5 * MICROSECOND
