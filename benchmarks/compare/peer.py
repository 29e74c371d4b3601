"""One engine does the works of the comparison, in a process of its own: ``python -m benchmarks.compare.peer NAME SIZES``.

SIZES is a JSON object of counts. Every line of the output is a JSON object: ``{"row": name, "value": number}`` or
``{"rows": [work], "reason": text}`` where there is no number; ``{"end": true}`` comes last.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from typing import Any

from benchmarks.compare.bodies import nothing
from benchmarks.compare.engines import ENGINES, Cannot, Engine

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own, so that none can leave the tree (prctl(2))."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed: Linux 3.4 or later is needed")


class Answers:
    """Lines to the parent; what engines print goes where errors go."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def send(self, **fields: Any) -> None:
        """Send one line."""
        print(json.dumps(fields), file=self._stream, flush=True)


def begin(engine: Engine, answers: Answers) -> None:
    """Import the engine, start it, run one task."""
    started = time.perf_counter()
    engine.load()
    answers.send(row="import", value=time.perf_counter() - started)
    started = time.perf_counter()
    engine.start()
    engine.get_one(engine.task(nothing)())
    answers.send(row="start", value=time.perf_counter() - started)


def main(name: str, size: dict[str, int]) -> None:
    """Do everything."""
    adopt_orphans()
    answers = Answers()
    engine = ENGINES[name]()
    try:
        begin(engine, answers)
    except ImportError as error:
        answers.send(missing=f"not installed: {error.name}")
        return
    from benchmarks.compare.works import WORKS  # after the import that is timed

    for work in WORKS:
        try:
            for row, value in work(engine, size):
                answers.send(row=row, value=value)
        except Cannot as reason:
            answers.send(work=work.__name__, reason=f"cannot: {reason}")
        except Exception as error:
            answers.send(work=work.__name__, reason=f"failed: {type(error).__name__}: {str(error)[:200]}")
    engine.close()
    answers.send(end=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
