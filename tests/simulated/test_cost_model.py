"""Profiles: what they compute, how they are kept, and how one is made from measurements."""

from __future__ import annotations

import stat
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sundog.__main__ import main
from sundog.backends.simulated.costs.profile import FREE, Profile, ProfileError, load_profile, profile_path, save_profile
from sundog.calibrate import Computed, Measurements, charged, computed, fit, fitting, medians, round_trip
from sundog.calibrate.fitting import EXPLAINED
from sundog.core.units import MICROSECOND, MILLISECOND, SECOND


def test_times() -> None:
    profile = Profile(
        node_turn=10, node_message=3, node_decision=5, serialize_bytes_per_second=SECOND, copy_bytes_per_second=2 * SECOND
    )
    assert profile.node_time(messages=4, decisions=2) == 32
    assert profile.serialize_time(100) == 100
    assert profile.copy_time(101) == 51
    assert profile.copy_time(100, fresh=True) > profile.copy_time(100)
    assert FREE.node_time(100, 100, 100, 50, 100) == 0


def test_times_of_dependencies_blocks_and_mapping() -> None:
    profile = Profile(
        node_turn=10, node_message=3, node_decision=5, node_dependency=100, node_reclaim=2, node_block=1000, submit=7,
        submit_dependency=20, worker_task=9, worker_dependency=30, copy_bytes_per_second=2 * SECOND,
        unmapped_copy_bytes_per_second=SECOND // 2,
    )  # fmt: skip
    assert profile.node_time(4, 2, dependencies=3, reclaimed=1, blocks=1) == 1329
    assert (profile.submit_time(0), profile.submit_time(2)) == (7, 47)
    assert (profile.task_time(0), profile.task_time(2)) == (9, 69)
    assert profile.copy_time(1000, unmapped=400) == 300 + 800


@pytest.mark.parametrize("settings", [{"node_turn": -1}, {"copy_bytes_per_second": 0}, {"crowded_permille": 1001}])
def test_costs_that_make_no_sense(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"profile: {next(iter(settings))}="):
        Profile(**settings)  # type: ignore[arg-type]


def test_a_profile_is_kept(tmp_path: Path) -> None:
    profile = Profile(name="mine", node_turn=123)
    where = save_profile(profile, tmp_path / "made" / "profile.json")
    assert load_profile(where) == profile
    assert stat.S_IMODE(where.parent.stat().st_mode) == 0o700
    assert [path.name for path in where.parent.iterdir()] == ["profile.json"]


def test_the_users_own_profile_comes_before_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_profile() == Profile()
    save_profile(Profile(name="mine"))
    assert profile_path() == tmp_path / "sundog" / "profile.json"
    assert load_profile().name == "mine"


def test_a_profile_of_format_1_charges_nothing_for_what_it_did_not_measure(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(b'{"format": 1, "name": "old", "submit": 4, "copy_bytes_per_second": 7}')
    profile = load_profile(path)
    assert (profile.name, profile.submit, profile.node_turn) == ("old", 4, Profile().node_turn)
    assert not profile.submit_dependency + profile.node_dependency + profile.worker_dependency
    assert not profile.node_block + profile.worker_block + profile.node_reclaim + profile.worker_reclaim
    assert profile.unmapped_copy_bytes_per_second == profile.copy_bytes_per_second == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "truncated"),
        (b'{"node_turn": "fast"}', "Expected `int`, got `str` - at `\\$.node_turn`"),
        (b'{"node_tern": 5}', "unknown field `node_tern`"),
        (b'{"node_turn": -5}', "node_turn=-5 must be at least 0"),
        (b'{"format": 99}', "has format 99, this version reads 2"),
    ],
)
def test_a_profile_that_cannot_be_read(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile(path)
    assert str(path) in str(caught.value)


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"No such file.*calibrate` makes one"):
        load_profile(tmp_path / "none.json")


def measurements(**changes: Any) -> Measurements:
    known = Measurements(
        round_trip=300 * MICROSECOND, task=Computed(6000, 12_000, 5000), submit=4000, put_node=3000,
        lone_task=Computed(26_000, 36_000, 20_000), spread_task=Computed(14_000, 24_000, 9000),
        pair=Computed(16_000, 32_000, 15_000), lone_parent=Computed(30_000, 90_000, 80_000),
        parent=Computed(20_000, 140_000, 110_000),
        worker_start=5 * MILLISECOND, alone=10**6, crowded=10**6,
        carried=10**9, serialized=4 * 10**8, copied=12 * 10**9, copied_unmapped=3 * 10**9, copied_fresh=10**9,
    )  # fmt: skip
    return msgspec.structs.replace(known, **changes)


@pytest.fixture(scope="module")
def fitted() -> Profile:
    """The profile of two cores with ``measurements(crowded=1_250_000)``."""
    return fit(measurements(crowded=1_250_000), cores=2)


def test_a_fit_explains_what_was_measured(fitted: Profile) -> None:
    assert (fitted.crowded_permille, fitted.node_message, fitted.submit) == (800, 2400, 3200)
    for one in EXPLAINED:
        found = charged(fitted, one.work, one.number)
        slower = found.occupied / found.computed.total
        assert 1 <= slower <= 1.25, "hardware threads are slow while both compute"
        said = getattr(getattr(measurements(), one.measured), one.process)
        assert getattr(found.computed, one.process) * slower == pytest.approx(said, rel=0.1), one
        assert getattr(fitted, one.cost) > 0, one
    assert abs(round_trip(fitted) - 300 * MICROSECOND) < 10


def test_what_lies_beside_a_round_trip_does_not_lengthen_it(fitted: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_ROUNDS", 1)
    late = fit(measurements(lone_task=Computed(26_000, 136_000, 20_000)))  # the turn at the end of one task runs into the next one
    assert abs(round_trip(late) - 300 * MICROSECOND) < 10
    assert late.network.local_latency < fitted.network.local_latency


def test_a_fit_of_noise_has_no_negative_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_ROUNDS", 2)
    noise = measurements(put_node=50_000, lone_task=Computed(0, 0, 0), submit=90_000, round_trip=1, pair=Computed(0, 0, 0))
    profile = fit(msgspec.structs.replace(noise, crowded=9 * 10**5), cores=2)
    assert profile.crowded_permille == 1000, "hardware threads are not faster together"
    assert (profile.node_turn, profile.node_decision, profile.receive, profile.node_dependency) == (0, 0, 0, 0)
    assert (profile.driver_wake, profile.worker_wake, profile.submit_dependency) == (0, 0, 0)
    assert profile.network.local_latency == MICROSECOND


def test_medians_are_of_each_figure_by_itself() -> None:
    several = [measurements(task=Computed(number, 10 - number, 5), submit=number) for number in (1, 2, 9)]
    assert medians(several) == measurements(task=Computed(2, 8, 5), submit=2)


def test_what_this_process_computes_is_counted_and_what_it_sleeps_is_not() -> None:
    def work() -> None:
        began = time.process_time_ns()
        while time.process_time_ns() - began < 5 * MILLISECOND:
            pass

    assert 5 * MILLISECOND <= computed(work).driver < SECOND
    found = computed(lambda: None)
    assert found.driver < MILLISECOND
    assert found.node == found.workers == 0


def test_calibrate_measures_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "profile.json"
    assert main(["calibrate", "--output", str(path), "--repeats", "1"]) == 0
    profile = load_profile(path)
    assert "Python" in profile.name
    # Orders of magnitude only: the machine may be busy.
    assert 100 < profile.node_message < MILLISECOND
    assert 100 < profile.worker_task < 10 * MILLISECOND
    assert profile.copy_bytes_per_second > 10_000_000
    shown = capsys.readouterr().out
    assert "worker_start" in shown
    assert str(path) in shown


def test_calibrate_says_what_cannot_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["calibrate", "--repeats", "0"])
    assert "0: at least 1" in capsys.readouterr().err
