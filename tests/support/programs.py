"""Whole programs as a user would run them: in a process of their own, which a test may kill, interrupt or let end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from tests.support import leaks
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
#: Seconds that a program may take.
PATIENCE = 60.0


class Ended(NamedTuple):
    """How a program ended. ``code`` is minus a signal's number if one killed it."""

    code: int
    out: str
    err: str


class Program:
    """A running program; :attr:`mark` is in the environment of all that it starts."""

    def __init__(self, source: str, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        path = directory / "program.py"
        path.write_text(textwrap.dedent(source))
        environ = {**os.environ, **(environment or {})}
        environ[leaks.MARK_VARIABLE] = f"program-{os.getpid()}-{os.urandom(6).hex()}"
        search = (str(ROOT), environ.get("PYTHONPATH"))
        environ["PYTHONPATH"] = os.pathsep.join(entry for entry in search if entry)
        self.mark = f"{leaks.MARK_VARIABLE}={environ[leaks.MARK_VARIABLE]}"
        self._out = directory / "program.out"
        self._err = directory / "program.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(path)], stdin=subprocess.PIPE, stdout=out, stderr=err, env=environ, cwd=directory
            )

    @property
    def stdin(self) -> IO[bytes]:
        """What the program reads as standard input."""
        assert self.process.stdin is not None
        return self.process.stdin

    def out(self) -> str:
        """Return what it has written to standard output so far."""
        return self._out.read_text(errors="replace")

    def err(self) -> str:
        """Return what it has written to standard error so far."""
        return self._err.read_text(errors="replace")

    def said(self, text: str) -> str:
        """Wait until it has printed a line that starts with ``text``, and return the rest of that line."""

        def look() -> str | None:
            for line in self.out().split("\n")[:-1]:
                if line.startswith(text):
                    return line.removeprefix(text).strip() or " "
            if self.process.poll() is not None:
                raise AssertionError(f"the program ended with {self.process.returncode}:\n{self.out()}\n{self.err()}")
            return None

        return (wait_until(look, PATIENCE, f"the program prints {text!r}") or "").strip()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ended(self, timeout: float = PATIENCE) -> Ended:
        """Wait for its end."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the program did not end within {timeout:g} s:\n{self.out()}\n{self.err()}") from None
        return Ended(code, self.out(), self.err())

    def left_behind(self) -> list[str]:
        """Return the processes of it that still exist, and the arenas that they keep."""
        running = leaks.processes_with(self.mark)
        return [f"{pid}: {command}" for pid, command in running.items()] + leaks.arena_descriptors(list(running))

    def leaves_nothing(self, timeout: float = 10.0) -> None:
        """Fail unless all that it started is gone soon."""
        wait_until(lambda: not self.left_behind(), timeout, lambda: f"nothing is left of the program, but {self.left_behind()}")

    def kill(self) -> None:
        """Make sure that neither it nor anything that it started is left, whatever the test found."""
        for pid in (*leaks.processes_with(self.mark), self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        if self.process.stdin is not None:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass


@contextmanager
def running(source: str, directory: Path, environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Run ``source`` as a program in ``directory``; it is killed at the end if it still runs."""
    program = Program(source, directory, environment)
    try:
        yield program
    finally:
        program.kill()


def run(source: str, directory: Path, environment: Mapping[str, str] | None = None, timeout: float = PATIENCE) -> Ended:
    """Run ``source`` to its end, check that it left nothing behind, and return how it ended."""
    with running(source, directory, environment) as program:
        ended = program.ended(timeout)
        program.leaves_nothing()
        return ended
