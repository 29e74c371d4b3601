"""A record of a real run replays through the machines byte for byte, in a fresh process under another hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sundog
from tests.support.programs import ROOT

pytestmark = pytest.mark.real_processes


def a_bit_of_everything(path: Path) -> None:
    """Tasks that depend, nest, fail, wait, print, die and are cancelled; objects of all sizes."""

    @sundog.remote
    def f(x):
        return x + 1

    @sundog.remote
    def parent(i):
        children = [f.remote(i + j) for j in range(5)]
        ready, rest = sundog.wait(children, num_returns=2)
        return sum(sundog.get(ready + rest))

    @sundog.remote(max_retries=0)
    def fails():
        raise LookupError("on purpose")

    @sundog.remote
    def dies_once(marker):
        print("about to see")  # noqa: T201
        if not os.path.exists(marker):
            Path(marker).touch()
            os._exit(9)
        return np.ones(50_000)

    @sundog.remote
    def sleeps():
        time.sleep(0.05)

    value = f.remote(0)
    for _ in range(50):
        value = f.remote(value)
    array_id = sundog.put(np.zeros(200_000))
    kept = [sundog.put(i) for i in range(20)] + [f.remote(i) for i in range(300)]
    assert sundog.get([parent.remote(i) for i in range(20)])[0] == 15
    assert sundog.get(value) == 51
    assert sundog.get(array_id).sum() + sundog.get(dies_once.remote(str(path / "was here"))).sum() == 50_000
    for failing in (fails.remote(), f.remote(fails.remote())):
        with pytest.raises(LookupError):
            sundog.get(failing)
    waiting = [sleeps.remote() for _ in range(6)]
    sundog.cancel(waiting[-1])
    with pytest.raises(sundog.GetTimeoutError):
        sundog.get(waiting, timeout=0.01)
    threads = [threading.Thread(target=lambda: sundog.get([f.remote(i) for i in range(50)])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    sundog.get(kept)
    sundog.table("tasks")


@pytest.fixture
def recording(start: Callable[..., Any], tmp_path: Path) -> Path:
    path = tmp_path / "record"
    with start(num_workers=2, num_gpus=1, seed=3, record=path):
        a_bit_of_everything(tmp_path)
    return path


def replayed(*arguments: str, hash_seed: str = "12345") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


def test_a_record_of_a_real_run_replays_byte_for_byte_and_a_planted_clock_read_does_not(recording: Path):
    assert recording.stat().st_mode & 0o077 == 0
    for hash_seed in ("0", "98765"):
        done = replayed("-m", "sundog.backends.recorder", "replay", str(recording), hash_seed=hash_seed)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "replayed byte for byte" in done.stdout
    planted = (
        "import sys, time\n"
        "from sundog.backends import recorder\n"
        "from sundog.core.host import Host\n"
        "real = Host.step\n"
        "Host.step = lambda self, now, events: real(self, time.monotonic_ns(), events)\n"
        "sys.exit(recorder.main(sys.argv[1:]))\n"
    )
    done = replayed("-c", planted, "replay", str(recording))
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    assert "DIVERGED" in done.stdout


def test_a_record_tells_the_story_of_a_task(start: Callable[..., Any], tmp_path: Path):
    with start(num_workers=1, record=tmp_path / "record"):
        x = sundog.remote(lambda: 1).remote()
        task = x.hex()[:32]
        assert sundog.get(x) == 1
        del x
    done = replayed("-m", "sundog.backends.recorder", "story", str(tmp_path / "record"), task)
    assert done.returncode == 0, done.stderr
    for word in ("TaskSubmitted", "Dispatch", "TaskFinished"):
        assert word in done.stdout
