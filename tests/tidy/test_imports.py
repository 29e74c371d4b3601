"""``import sundog`` is light: what is heavy loads at first need (protocols: 24)."""

from __future__ import annotations

import json
import subprocess
import sys

#: Each costs more than all of sundog together, and many programs need none of them.
HEAVY = ("asyncio", "cloudpickle", "inspect", "multiprocessing", "numpy", "redis", "simpy")

PROGRAM = """
import sys
sys.path[:0] = {path!r}
import {name}
import json
json.dump(sorted(sys.modules), sys.stdout)
"""


def loaded_by(name: str) -> list[str]:
    """Return the modules that a fresh interpreter has after ``import name``."""
    program = PROGRAM.format(path=sys.path, name=name)
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_what_programs_use_of_sundog_loads_nothing_heavy() -> None:
    loaded = loaded_by("sundog, sundog.api.cluster, sundog.api.collections, sundog.api.get_put_wait, sundog.api.remote")
    # msgspec takes inspect along where typing_extensions is installed; that is not ours to prevent.
    unavoidable = loaded_by("msgspec")
    heavy = [name for name in HEAVY if name in loaded and name not in unavoidable]
    assert not heavy, f"import sundog loads {', '.join(heavy)}"
    backends = [name for name in loaded if name.startswith(("sundog.backends.simulated", "sundog.backends.cluster"))]
    assert not backends, f"import sundog loads {', '.join(backends)}, which a session may never use"


def test_a_node_does_not_load_what_users_call() -> None:
    """It passes ``sundog`` on its way to the backends, and starts sooner without."""
    loaded = loaded_by("sundog.backends.local_processes.node_main")
    assert not [name for name in loaded if name.startswith("sundog.api")]
    assert "sundog.backends.session" not in loaded
