"""What tests and the bodies of their tasks tell each other through files, because that works however processes end."""

from __future__ import annotations

import os
import time
from pathlib import Path

#: Seconds that a body waits at a gate which no test opens.
GATE_PATIENCE = 30.0


class Gate:
    """A body calls :meth:`wait`, the test :meth:`open`. Travels by value: it is a path."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def open(self) -> None:
        """Let everybody through, now and later."""
        Path(self.path).touch()

    def wait(self) -> None:
        """Block until the gate is open. Fails, so that nothing is left behind, if nobody opens it."""
        end = time.monotonic() + GATE_PATIENCE
        while not os.path.exists(self.path):
            if time.monotonic() > end:
                raise TimeoutError(f"nobody opened the gate {self.path}")
            time.sleep(0.002)


class Notes:
    """A file that everybody appends lines to, each in one write."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def write(self, text: object) -> None:
        """Append one line; it is there even if the process dies right after."""
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, f"{text}\n".encode())
        finally:
            os.close(fd)

    def lines(self) -> list[str]:
        """Return what was written so far."""
        try:
            return Path(self.path).read_text().splitlines()
        except FileNotFoundError:
            return []
