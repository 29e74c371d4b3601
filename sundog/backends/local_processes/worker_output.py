"""A worker's ``sys.stdout`` and ``sys.stderr``: they say, once per task that prints, which task it is.

Both are pipes that the node reads. Before the first text of a task goes a marker with its name, at the task's end an empty
one; what C code or a child process writes in between is attributed with it. Whole lines leave at once, so that a crash loses
nothing that was printed; the rest leaves when it is a millisecond old or when the task ends.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from sundog.backends.local_processes.output_parser import marker

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT = 1
STDERR = 2
END_OF_TASK = marker("")


class MarkedStream(io.BufferedIOBase):
    """The binary stream beneath a worker's text stream. ``arm`` is called when text waits for its line to end."""

    def __init__(self, fd: int, output: WorkerOutput, arm: Callable[[], None]) -> None:
        self._fd = fd
        self._output = output
        self._arm = arm
        self._marked = False
        self._parts: list[bytes] = []
        self._lock = threading.Lock()

    @property
    def name(self) -> int:
        """The descriptor, as files opened by number have it."""
        return self._fd

    def writable(self) -> bool:
        """See ``io``."""
        return True

    def fileno(self) -> int:
        """See ``io``."""
        return self._fd

    def isatty(self) -> bool:
        """See ``io``."""
        return False

    def write(self, text: ReadableBuffer, /) -> int:
        """See ``io``."""
        part = bytes(text)
        with self._lock:
            self._parts.append(part)
            self._output.touched = True
            if b"\n" in part:
                self._emit()
                return len(part)
        self._arm()
        return len(part)

    def flush(self) -> None:
        """See ``io``."""
        if self._parts:
            with self._lock:
                self._emit()

    @property
    def waiting(self) -> bool:
        """Whether text waits for the end of its line."""
        return bool(self._parts)

    def end(self) -> None:
        """The task ends: everything that it printed leaves now."""
        if self._marked or self._parts:
            with self._lock:
                self._emit()
                self._write(END_OF_TASK)
                self._marked = False

    def renew_lock(self) -> None:
        """In a forked child: the thread that held the lock is not here."""
        self._lock = threading.Lock()

    def _emit(self) -> None:
        parts, self._parts = self._parts, []
        if not parts:
            return
        task = self._output.task
        if task and not self._marked:
            parts.insert(0, marker(task))
            self._marked = True
        self._write(b"".join(parts))

    def _write(self, text: bytes) -> None:
        try:
            while text:
                text = text[os.write(self._fd, text) :]
        except OSError:
            return  # the node is gone, and so is whoever would have read it


class WorkerOutput:
    """Both streams of a worker. ``arm`` is called when something waits for :meth:`flush`."""

    def __init__(self, arm: Callable[[], None]) -> None:
        #: The name of the task that runs: what is printed is its output. Set by the loop.
        self.task = ""
        #: Something was printed since the last :meth:`end`.
        self.touched = False
        self._streams = (MarkedStream(STDOUT, self, arm), MarkedStream(STDERR, self, arm))
        os.register_at_fork(after_in_child=self._forked)

    def install(self) -> None:
        """Become ``sys.stdout`` and ``sys.stderr``."""
        out, err = (
            io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", write_through=True) for stream in self._streams
        )
        sys.stdout = out
        sys.stderr = err
        sys.__dict__.update(__stdout__=out, __stderr__=err)  # for those who put the original back

    def end(self) -> None:
        """The task is over; its output must have left before its result does. Need not be called unless ``touched``."""
        self.touched = False  # first: what another thread prints meanwhile touches again
        for stream in self._streams:
            stream.end()

    def flush(self) -> None:
        """Let text leave that waits for the end of its line."""
        for stream in self._streams:
            stream.flush()

    @property
    def waiting(self) -> bool:
        """Whether :meth:`flush` would do anything."""
        return self.touched and (self._streams[0].waiting or self._streams[1].waiting)

    def _forked(self) -> None:
        for stream in self._streams:
            stream.renew_lock()
