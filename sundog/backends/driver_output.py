"""What a driver shows to people: the output of workers, failures that nobody looked at, and warnings."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from sundog.core.machine import Fact
from sundog.core.messages import FailureUnheard, OutputWritten, WarningRaised

STDERR = 2
#: Colours of prefixes, one a worker: cyan, green, magenta, yellow, blue.
_COLOURS = (36, 32, 35, 33, 34)


class DriverOutput:
    """Writes to whatever ``sys.stdout`` and ``sys.stderr`` are at the moment. Never raises: a closed terminal is no failure."""

    def show(self, what: Fact | str) -> None:
        """Show a message of the node, or a text, on the stream that it belongs to."""
        if isinstance(what, OutputWritten):
            stream = sys.stderr if what.stream == STDERR else sys.stdout
            self._write(stream, lambda: _output_text(what, stream))
        elif isinstance(what, FailureUnheard):
            self._write(sys.stderr, lambda: _failure_text(what))
        else:
            text = what.text if isinstance(what, WarningRaised) else str(what)
            self._write(sys.stderr, lambda: text if text.startswith("sundog") else f"sundog: {text}")

    def show_error(self, text: str, error: BaseException) -> None:
        """Show ``text`` with the error's traceback."""
        import traceback

        lines = "".join(traceback.format_exception(error))
        self._write(sys.stderr, lambda: f"{text}\n{lines}")

    def _write(self, stream: TextIO | None, make: Any) -> None:
        if stream is None:  # pythonw, or a daemon that closed it
            return
        try:
            text = make()
            if not text.endswith("\n"):
                text += "\n"
            try:
                stream.write(text)
            except UnicodeEncodeError:
                encoding = stream.encoding or "ascii"
                stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        except (OSError, ValueError):
            return


def _output_text(what: OutputWritten, stream: TextIO) -> str:
    prefix = f"({what.name or 'worker'} pid={what.pid}) "
    if stream.isatty():
        prefix = f"\x1b[{_COLOURS[what.pid % len(_COLOURS)]}m{prefix}\x1b[0m"
    lines = []
    if what.dropped:
        lines.append(f"{prefix}[{what.dropped} bytes of output were dropped: more than the driver shows in a second]\n")
    if what.text:
        lines.extend([f"{prefix}{line}\n" for line in what.text.removesuffix("\n").split("\n")])
    return "".join(lines)


def _failure_text(what: FailureUnheard) -> str:
    head = f"sundog: task {what.name!r} failed and nobody asked for its result ({what.object_id.hex()}):"
    value = what.value
    if value.failure is not None:
        return f"{head} {value.failure.message}"
    from sundog.backends.serialization import ERROR, describe_error, read_report

    if value.format == ERROR and value.offset < 0:
        return f"{head}\n{read_report(value.data).traceback}"
    return f"{head} {describe_error(value)}"
