"""What newcomers run first works, on a machine as it is."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Those that take their time by default, made small.
SMALL = {
    "locality.py": ["--tasks", "8"],
    "policy_comparison.py": ["--nodes", "10", "--tasks", "60", "--loads", "0.7", "0.9"],
}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *SMALL.get(name, ())], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert done.stdout
    assert "\x1b[" not in done.stdout
    assert name != "tour.py" or "All as promised" in done.stdout


@pytest.mark.parametrize("name", ["locality.py", "policy_comparison.py"])
def test_a_plot_is_drawn_or_the_extra_is_named(name: str, tmp_path: Path) -> None:
    picture = tmp_path / "plot.png"
    command = [sys.executable, str(EXAMPLES / name), *SMALL[name], "--plot", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if importlib.util.find_spec("matplotlib") is None:
        assert done.returncode == 1
        assert "pip install 'sundog[plots]'" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert picture.read_bytes().startswith(b"\x89PNG")
