"""The backend of real processes on one machine: from a config to the loop beneath a driver's session."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sundog.backends.local_processes.launch import launch
from sundog.core.config import Config
from sundog.core.ids import TaskID, root_task_id

if TYPE_CHECKING:
    from sundog.backends.local_processes.client_loop import DriverPort


def start(config: Config, *, seed: bytes | None, redis: str | bool | None, record: str | None) -> DriverPort:
    """Start a node with its workers and return the driver's port to it; ``port.close()`` ends them all.

    ``seed`` makes object IDs and the random streams of tasks the same from run to run; None: different each time. ``redis``:
    the URL of a server that is to hold control state, True to start one for the session. ``record``: a file for the record
    of the host. Returns before the node is up: what is sent meanwhile waits for it.

    Raises RuntimeError where sundog cannot run and says what is missing (ControlStoreError for a Redis that cannot be had);
    OSError at a limit of the system.
    """
    where: dict[str, str] | None = None
    if redis:
        from sundog.backends.control_store import choose  # only a session that asks for it pays for redis-py

        chosen = choose(redis)
        where = {"url": chosen.url, "binary": chosen.binary} if chosen is not None else None
    root = root_task_id(os.urandom(16) if seed is None else seed)
    return connect(config, root, seed=None if seed is None else seed.hex(), record=record, redis=where)


def connect(
    config: Config, root: TaskID, *, seed: str | None = None, record: str | None = None, redis: Mapping[str, str] | None = None
) -> DriverPort:
    """Like :func:`start`, with ``root`` naming the driver's program and the rest as :func:`launch.launch` takes it."""
    node = launch(config, seed=seed, record=record, redis=redis)
    try:
        os.close(node.progress)  # the node and its workers have their own
        from sundog.backends.local_processes.client_loop import DriverPort  # while the node starts

        return DriverPort(config, node.sock, node.arena, node.process, node.session, root)
    except BaseException:
        node.sock.close()  # which ends the node
        node.arena.close()
        node.process.wait()
        raise
