"""``import sundog`` is light: what is heavy loads at first need (protocols: 24)."""

from __future__ import annotations

import json
import subprocess
import sys

#: Each costs more than all of sundog together, and many programs need none of them.
HEAVY = ("asyncio", "cloudpickle", "inspect", "multiprocessing", "numpy", "redis", "simpy")

PROGRAM = """
import sys
import sundog
import json
json.dump(sorted(sys.modules), sys.stdout)
"""


def test_import_sundog_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{PROGRAM}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    heavy = [name for name in HEAVY if name in loaded]
    assert not heavy, f"import sundog loads {', '.join(heavy)}"
    backends = [name for name in loaded if name.startswith(("sundog.backends.simulated", "sundog.backends.cluster"))]
    assert not backends, f"import sundog loads {', '.join(backends)}, which a session may never use"
