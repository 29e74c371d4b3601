"""From the bytes of a worker's standard stream to pieces of text with the name of the function that wrote them.

A worker writes a marker ``ESC ] sundog;NAME BEL`` before what a task prints and one with an empty name at the task's end.
Text is given out in whole lines; what a task left without a newline is given out at its end.
"""

from __future__ import annotations

MARKER_START = b"\x1b]sundog;"
MARKER_END = b"\x07"
#: A name longer than this is no name: the bytes are text that happens to look like a marker.
NAME_BYTES_MAX = 512
#: A line longer than this is given out in pieces.
LINE_BYTES_MAX = 8 << 10


def marker(name: str) -> bytes:
    """Return what a worker writes before the output of a task of that ``name``; empty: the task is over."""
    clean = name.replace("\x07", "?").encode("utf-8", "replace")[:NAME_BYTES_MAX]
    return MARKER_START + clean + MARKER_END


class OutputParser:
    """Takes the bytes of one stream as they come, cut anywhere."""

    __slots__ = ("_line", "_name", "_rest")

    def __init__(self) -> None:
        self._name = ""
        #: The start of a line whose end has not come.
        self._line = b""
        #: What may be the start of a marker.
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[str, str]]:
        """Return ``(name, text)`` for what ``data`` completes; each text ends at a line's end or at a task's."""
        if not self._rest and b"\x1b" not in data:
            return self._text(data, [])
        pieces: list[tuple[str, str]] = []
        data = self._rest + data
        self._rest = b""
        position = 0
        while True:
            start = data.find(MARKER_START, position)
            if start < 0:
                keep = _partial_marker(data, position)
                self._rest = data[len(data) - keep :]
                return self._text(data[position : len(data) - keep], pieces)
            end = data.find(MARKER_END, start)
            if end < 0 and len(data) - start <= len(MARKER_START) + NAME_BYTES_MAX:
                self._rest = data[start:]
                return self._text(data[position:start], pieces)
            if end < 0 or end - start > len(MARKER_START) + NAME_BYTES_MAX:
                self._text(data[position : start + 1], pieces)
                position = start + 1
                continue
            self._text(data[position:start], pieces)
            self._flush_line(pieces)
            self._name = data[start + len(MARKER_START) : end].decode("utf-8", "replace")
            position = end + 1

    def flush(self) -> list[tuple[str, str]]:
        """Return what is left: nothing more will come."""
        rest, self._rest = self._rest, b""
        pieces = self._text(rest, [])
        self._flush_line(pieces)
        return pieces

    @property
    def unnamed_rest(self) -> bool:
        """Whether an unfinished line stands under no name."""
        return bool(self._line) and not self._name

    def flush_unnamed(self) -> list[tuple[str, str]]:
        """Return an unfinished line that stands under no name, so under no task whose end would bring it out."""
        pieces: list[tuple[str, str]] = []
        if not self._name:
            self._flush_line(pieces)
        return pieces

    def _text(self, data: bytes, pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
        line = self._line + data
        end = line.rfind(b"\n") + 1
        if len(line) - end > LINE_BYTES_MAX:
            end = len(line)
        if end:
            pieces.append((self._name, line[:end].decode("utf-8", "replace")))
        self._line = line[end:]
        return pieces

    def _flush_line(self, pieces: list[tuple[str, str]]) -> None:
        if self._line:
            pieces.append((self._name, self._line.decode("utf-8", "replace")))
            self._line = b""


def _partial_marker(data: bytes, position: int) -> int:
    """Return how many bytes at the end of ``data[position:]`` may be the start of a marker's start."""
    for length in range(min(len(MARKER_START) - 1, len(data) - position), 0, -1):
        if data.endswith(MARKER_START[:length]):
            return length
    return 0
