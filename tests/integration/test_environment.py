"""The world that workers live in is the driver's; their random numbers are their own."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sundog
from tests.support.programs import run

pytestmark = pytest.mark.real_processes


@sundog.remote
def world():
    return {
        "pid": os.getpid(), "cwd": os.getcwd(), "path": list(sys.path), "environ": dict(os.environ), "hash": hash("a text"),
        "executable": sys.executable, "flags": tuple(sys.flags),
    }  # fmt: skip


@sundog.remote
def draws():
    return os.getpid(), random.random(), float(np.random.random())


def test_workers_have_the_drivers_directory_path_and_environment(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here = tmp_path / "a directory with spaces"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setenv("SUNDOG_TEST_VARIABLE", "set by the test")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "found_by_workers.py").write_text("VALUE = 42\n")
    start(num_workers=2)
    seen = sundog.get(world.remote())
    assert seen["cwd"] == str(here)
    assert seen["path"] == [entry or str(here) for entry in sys.path]
    assert seen["environ"]["SUNDOG_TEST_VARIABLE"] == "set by the test"
    assert seen["executable"] == sys.executable

    @sundog.remote
    def imports():
        import found_by_workers  # type: ignore[import-not-found]

        return found_by_workers.VALUE

    assert sundog.get(imports.remote()) == 42


@pytest.mark.usefixtures("session")
def test_all_workers_agree_on_hashes():
    seen = sundog.get([world.remote() for _ in range(40)])
    assert len({one["hash"] for one in seen}) == 1
    assert len({one["environ"]["PYTHONHASHSEED"] for one in seen}) == 1


def test_a_hash_seed_that_the_user_set_is_kept(tmp_path: Path):
    program = """
        import os, sundog
        with sundog.init(num_workers=1):
            print(sundog.get(sundog.remote(lambda: hash("x")).remote()) == hash("x"))
        """
    assert run(program, tmp_path, {"PYTHONHASHSEED": "5"}).out == "True\n"


def test_blas_threads_are_as_many_as_a_workers_cpus_unless_the_user_says_otherwise(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    start(num_workers=2)
    environ = sundog.get(world.remote())["environ"]
    assert environ["OMP_NUM_THREADS"] == "1"
    assert environ["OPENBLAS_NUM_THREADS"] == "3"
    assert os.environ.get("OMP_NUM_THREADS") is None, "the driver's own environment is left alone"


@pytest.mark.usefixtures("session")
def test_a_hundred_tasks_draw_different_random_numbers():
    values = sundog.get([draws.remote() for _ in range(100)])
    assert len({value for _, value, _ in values}) == 100
    assert len({value for _, _, value in values}) == 100

    @sundog.remote
    def generate_data():
        return np.random.normal(size=1000)

    data = sundog.get([generate_data.remote() for _ in range(100)])
    assert len({array.tobytes() for array in data}) == 100


@pytest.mark.usefixtures("session")
def test_a_worker_that_takes_anothers_place_draws_other_numbers():
    @sundog.remote(max_calls=1)
    def first_draw():
        return random.random(), float(np.random.random())

    values = sundog.get([first_draw.remote() for _ in range(6)])
    assert len({value for value, _ in values}) == 6
    assert len({value for _, value in values}) == 6


def test_with_a_seed_every_task_draws_the_same_numbers_from_run_to_run(start: Callable[..., Any]):
    runs: list[Any] = []
    for seed, workers in ((7, 1), (7, 3), (8, 1)):
        with start(num_workers=workers, seed=seed):
            runs.append([values[1:] for values in sundog.get([draws.remote() for _ in range(30)])])
    assert runs[0] == runs[1]
    assert not set(runs[0]) & set(runs[2])
    assert len(set(runs[0])) == 30


@pytest.mark.usefixtures("session")
def test_drawing_in_tasks_leaves_the_drivers_own_stream_alone():
    random.seed(1)
    expected = random.random()
    random.seed(1)
    sundog.get([draws.remote() for _ in range(5)])
    assert random.random() == expected


@pytest.mark.usefixtures("session")
def test_a_worker_inherits_no_descriptor_of_the_driver(tmp_path: Path):
    @sundog.remote
    def descriptors():
        found = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
            except OSError:
                continue
        return found

    with (tmp_path / "open in the driver").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        seen = sundog.get(descriptors.remote())
    assert not [target for target in seen.values() if "open in the driver" in target]
    allowed = ("socket:", "pipe:", "anon_inode:", "/memfd:sundog", "/dev/null", "/proc/")
    assert not [target for target in seen.values() if not target.startswith(allowed)]


def test_what_functions_of_a_program_need_is_imported_once_and_shared(tmp_path: Path):
    """By the zygote, as soon as it has nothing else to do; the first workers may have to do it themselves."""
    (tmp_path / "birth.py").write_text("import sys\n\n\ndef has(name):\n    return name in sys.modules\n")
    done = run(
        """
        import sundog
        from birth import has

        one_each = sundog.remote(max_calls=1)(has)
        with sundog.init(num_workers=1):
            print([sundog.get(one_each.remote("cloudpickle")) for _ in range(3)][-1])
        """,
        tmp_path,
    )
    assert (done.code, done.out) == (0, "True\n"), done.err
