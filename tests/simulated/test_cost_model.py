"""Profiles: what they compute, how they are kept, and how one is made from measurements."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from sundog.__main__ import main
from sundog.backends.simulated.cost_model import FREE, Profile, ProfileError, load_profile, profile_path, save_profile
from sundog.calibrate import Measurements, fit, round_trip, task_among_many
from sundog.core.units import MICROSECOND, MILLISECOND, SECOND


def test_times() -> None:
    profile = Profile(
        node_turn=10, node_message=3, node_decision=5, serialize_bytes_per_second=SECOND, copy_bytes_per_second=2 * SECOND
    )
    assert profile.node_time(messages=4, decisions=2) == 32
    assert profile.serialize_time(100) == 100
    assert profile.copy_time(101) == 51
    assert profile.copy_time(100, fresh=True) > profile.copy_time(100)
    assert FREE.node_time(100, 100, 100, 100) == 0


def test_times_of_dependencies_blocks_and_mapping() -> None:
    profile = Profile(
        node_turn=10, node_message=3, node_decision=5, node_dependency=100, node_block=1000, submit=7, submit_dependency=20,
        worker_task=9, worker_dependency=30, copy_bytes_per_second=2 * SECOND, unmapped_copy_bytes_per_second=SECOND // 2,
    )  # fmt: skip
    assert profile.node_time(4, 2, dependencies=3, blocks=1) == 1332
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
    assert not profile.node_block + profile.worker_block
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


def measurements(**changes: int) -> Measurements:
    known = Measurements(
        round_trip=200 * MICROSECOND, task_driver=6000, task_node=12_000, task_workers=5000, submit=4000, put_node=3000,
        lone_task_driver=26_000, lone_task_node=36_000, lone_task_workers=20_000, spread_task_driver=14_000,
        worker_start=5 * MILLISECOND, alone=10**6, crowded=10**6,
        carried=10**9, serialized=4 * 10**8, copied=12 * 10**9, copied_fresh=10**9,
    )  # fmt: skip
    return msgspec.structs.replace(known, **changes)


def test_a_fit_explains_what_was_measured() -> None:
    profile = fit(measurements())
    assert (profile.node_message, profile.node_turn, profile.node_wake) == (3000, 0, 9000)
    assert 5000 < profile.node_decision <= 6000, "now and then the node sleeps among many tasks, too"
    node, workers = task_among_many(profile)
    assert node == pytest.approx(12_000, rel=0.03)
    assert workers == pytest.approx(5000, rel=0.03)
    assert profile.submit + profile.receive == 6000
    assert (profile.driver_turn, profile.driver_wake, profile.worker_wake) == (8000, 12_000, 15_000)
    assert abs(round_trip(profile) - 200 * MICROSECOND) < 10


def test_what_lies_beside_a_round_trip_does_not_lengthen_it() -> None:
    late = fit(measurements(lone_task_node=136_000))  # a turn is 59 us: that at the end of one task runs into the next one
    assert abs(round_trip(late) - 200 * MICROSECOND) < 10
    assert late.network.local_latency < fit(measurements()).network.local_latency


def test_costs_among_many_are_those_of_one_core_alone() -> None:
    profile = fit(measurements(alone=700_000, crowded=1_000_000), cores=2)
    assert profile.crowded_permille == 700
    assert profile.node_message == 2100
    assert 3000 < profile.worker_task <= 3500
    assert fit(measurements(alone=10**6, crowded=9 * 10**5)).crowded_permille == 1000


def test_a_fit_of_noise_has_no_negative_costs() -> None:
    noise = measurements(put_node=50_000, lone_task_node=0, lone_task_driver=0, lone_task_workers=0, submit=90_000, round_trip=1)
    profile = fit(noise)
    assert (profile.node_turn, profile.node_decision, profile.receive) == (0, 0, 0)
    assert (profile.driver_wake, profile.worker_wake) == (0, 0)
    assert profile.network.local_latency == MICROSECOND


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
