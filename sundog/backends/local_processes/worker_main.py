"""What a freshly forked worker runs: it becomes a client of its node, with a session of its own, and works until told to stop."""

from __future__ import annotations

import faulthandler
import socket
from typing import Any

import msgspec

from sundog.backends import current
from sundog.backends.local_processes.arena import SharedArena
from sundog.backends.local_processes.progress import ProgressTable
from sundog.backends.local_processes.worker_loop import WorkerPort
from sundog.backends.session import Session
from sundog.backends.task_body import TaskBody
from sundog.core.config import Config
from sundog.core.ids import ProcessID

_STDERR = 2


def main(worker: int, link: socket.socket, tokens_fd: int, boot: dict[str, Any], arena_fd: int, progress_fd: int) -> int:
    """Run tasks until the node says to stop; return the exit status. Takes over the link, the tokens and the arena.

    ``boot`` is the boot record (see ``launch``). Threads, descriptors and signal handlers of the parent have been left behind.
    """
    config = msgspec.convert(boot["config"], Config)
    port = WorkerPort(
        config,
        link,
        ProcessID(worker),
        SharedArena(arena_fd, config.arena_bytes),
        tokens_fd,
        ProgressTable(progress_fd).record(ProcessID(worker)),
        by_task_seeds=boot["seed"] is not None,
    )
    faulthandler.enable(file=_STDERR)
    port.output.install()
    session = Session(port, worker=True)
    current.set(session)
    port.run(TaskBody(session))
    port.output.flush()
    return 0
