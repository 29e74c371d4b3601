"""A record of a real run replays through the machines: byte for byte, in a fresh process, under another hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sundog.backends.recorder import replay

ROOT = Path(__file__).parents[2]

#: A bit of everything: dependencies, nested tasks, large objects, references dropped, errors, a killed worker.
PROGRAM = """
import os, sys
import sundog

def main(path):
    sundog.init(num_workers=2, record=path, seed=7)

    @sundog.remote
    def add(a, b=1):
        return a + b

    @sundog.remote
    def parent(n):
        return sum(sundog.get([add.remote(i) for i in range(n)]))

    @sundog.remote
    def bad():
        raise ValueError("as planned")

    @sundog.remote(max_retries=1)
    def die():
        print("about to die")
        os._exit(3)

    @sundog.remote
    def double(a):
        return a * 2

    x = add.remote(1)
    for _ in range(100):
        x = add.remote(x, x)
    assert sundog.get(x) == 2 * 2**100
    assert sundog.get([add.remote(i) for i in range(64)]) == list(range(1, 65))  # they travel in lots
    assert sundog.get(parent.remote(10)) == 55
    big = sundog.put(b"x" * 3_000_000)
    assert len(sundog.get(double.remote(big))) == 6_000_000
    del big
    for task in (bad, die):
        try:
            sundog.get(task.remote())
        except Exception as error:
            print(type(error).__name__)
    ready, rest = sundog.wait([add.remote(i) for i in range(5)], num_returns=3)
    assert len(ready) == 3
    sundog.shutdown()

main(sys.argv[1])
"""


def run(arguments: list[str], hash_seed: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_real_run_replays(tmp_path: Path) -> None:
    record = tmp_path / "run"
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = run([str(program), str(record)], "1")
    assert done.returncode == 0, done.stdout + done.stderr
    again = run(["-m", "sundog.backends.recorder", "replay", str(record)], "2")
    assert again.returncode == 0, again.stdout + again.stderr
    report = replay(record, check=True)
    assert report.divergence is None, str(report)
    assert report.same_core
    assert not report.truncated
    assert report.events > 100
