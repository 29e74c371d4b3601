"""Runs every test but the soak, as two runs of pytest side by side: ``python -m tests.support.two_at_a_time [OPTIONS OF PYTEST]``.

One computes (core, properties, simulation), at low priority; the other starts real processes and mostly waits for them. What the
second one says is shown as it comes, what the first one says when both are over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
REAL = ("backends", "integration")
#: Neither tests nor to be collected.
OTHERS = ("support", "__pycache__")
_NICENESS = 15
#: Seconds that one test of the run that gives way may take: on a busy machine the other may take nearly all there is.
_GIVING_WAY_TIMEOUT = 540


def pytest(folders: list[str], name: str, arguments: list[str], output: int | None = None) -> subprocess.Popen[bytes]:
    """Start pytest on ``folders``, with a cache of its own; one whose ``output`` goes elsewhere gives way to the other."""
    command = [sys.executable, "-m", "pytest", "-m", "not soak", "-o", f"cache_dir=.pytest_cache/{name}", *arguments, *folders]
    give_way = None if output is None else partial(os.nice, _NICENESS)
    return subprocess.Popen(command, stdout=output, stderr=output, cwd=TESTS.parent, preexec_fn=give_way)


def main(arguments: list[str]) -> int:
    """Run both; return the first exit code that is not 0."""
    # Tests interrupt programs; a shell that starts this in its background would have them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folders = sorted(path.name for path in TESTS.iterdir() if path.is_dir() and path.name not in OTHERS)
    computing = [f"tests/{name}" for name in folders if name not in REAL]
    with tempfile.TemporaryFile() as said:
        beside = pytest(computing, "computing", [f"--timeout={_GIVING_WAY_TIMEOUT}", *arguments], said.fileno())
        try:
            code = pytest([f"tests/{name}" for name in REAL], "real", arguments).wait()
            other = beside.wait()
        finally:
            beside.kill()
            beside.wait()
        said.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(said.read())
    return code or other


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
