"""How a driver starts its node: one child process, three inherited descriptors beside the link, nothing in the file system."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from sundog.backends.local_processes.arena import SharedArena, create_arena
from sundog.backends.local_processes.boot import boot_source, write_boot
from sundog.backends.local_processes.process import SESSION_VARIABLE, descriptor_limits
from sundog.backends.local_processes.progress import create_progress
from sundog.core.config import Config

#: Libraries that start as many threads as the machine has cores, in every worker, unless these say otherwise.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)  # fmt: skip


class Node(NamedTuple):
    """A node that was started. The caller owns all of it, and waits for ``process`` in the end."""

    #: The driver's end of the link, for a ``Channel``.
    sock: socket.socket
    arena: SharedArena
    #: The descriptor of the progress records.
    progress: int
    process: subprocess.Popen[bytes]
    #: The session mark, 32 hex digits.
    session: str


def launch(
    config: Config,
    *,
    seed: str | None = None,
    record: str | None = None,
    redis: Mapping[str, str] | None = None,
    session: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Node:
    """Start a node process for this driver and return at once; what is sent meanwhile waits in the link.

    ``seed``: hex digits that workers derive their random streams from, or None. ``record``: a file for the record of the
    host, or None. ``redis``: the fields of ``control_store.Where``, or None. ``session``: the mark, drawn if None.
    ``extra``: further entries of the boot record (see ``boot``), plain values.

    Raises RuntimeError where sundog cannot run and says what is missing; OSError at a limit of the system, or if ``record``
    cannot be written.
    """
    _check_platform()
    if record is not None:
        with open(record, "ab"):
            pass  # what cannot be written is said here, to whoever asked, rather than by a node that dies of it
    session = session or os.urandom(16).hex()
    opened: list[int] = []
    sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # as channel.socket_pair, without its codec
    try:
        with theirs:
            sock, link = _above_standard(sock), _above_standard_fd(theirs.fileno(), opened)
        arena = _above_standard_fd(_noted(create_arena(config.arena_bytes), opened), opened)
        progress = _above_standard_fd(_noted(create_progress(), opened), opened)
        boot = {
            "config": msgspec.to_builtins(config), "session": session, "seed": seed, "record": record,
            "redis": dict(redis) if redis else None, "driver_pid": os.getpid(), "sys_path": _sys_path(),
            "argv": list(getattr(sys, "argv", ())), "main_file": getattr(sys.modules.get("__main__"), "__file__", None),
            "descriptor_limits": descriptor_limits(), "link": link, "arena": arena, "progress": progress,
            "check_invariants": os.environ.get("SUNDOG_CHECK_INVARIANTS") == "1", **(extra or {}),
        }  # fmt: skip
        boot_fd = _above_standard_fd(_noted(write_boot(boot), opened), opened)
        process = _start((link, arena, progress, boot_fd), boot_fd, session)
    except BaseException:
        sock.close()
        for fd in opened:
            _close(fd)
        raise
    kept = (arena, progress)
    for fd in opened:
        if fd not in kept:
            _close(fd)
    return Node(sock, SharedArena(arena, config.arena_bytes), progress, process, session)


def node_environment(session: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a session's processes: the driver's ``environ``, with what they must agree on."""
    result = dict(environ)
    result[SESSION_VARIABLE] = session
    if result.get("PYTHONHASHSEED", "random") in ("", "random"):
        result["PYTHONHASHSEED"] = str(int.from_bytes(os.urandom(4), "big"))
    for name in THREAD_VARIABLES:
        result.setdefault(name, "1")
    return result


def _start(descriptors: tuple[int, ...], boot_fd: int, session: str) -> subprocess.Popen[bytes]:
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
    return subprocess.Popen(
        [sys.executable, *flags, "-c", boot_source("sundog.backends.local_processes.node_main:main"), str(boot_fd)],
        pass_fds=descriptors,
        close_fds=True,
        process_group=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=None if _is_open(2) else subprocess.DEVNULL,
        env=node_environment(session, os.environ),
    )


def _check_platform() -> None:
    missing = [
        what
        for what, there in (
            ("Linux", sys.platform == "linux"),
            ("memfd_create (Linux 3.17)", hasattr(os, "memfd_create")),
            ("pidfd_open (Linux 5.3)", hasattr(os, "pidfd_open")),
            ("an interpreter that knows its path (sys.executable)", bool(sys.executable)),
        )
        if not there
    ]
    if missing:
        raise RuntimeError(f"sundog cannot start processes here: it needs {', '.join(missing)}")


def _sys_path() -> list[str]:
    """Return sys.path with "" (wherever the process is) made explicit, so that all agree."""
    here = ""
    result = []
    for entry in sys.path:
        if not entry:
            here = here or os.getcwd()
        result.append(str(entry or here))
    return result


def _noted(fd: int, opened: list[int]) -> int:
    opened.append(fd)
    return fd


def _above_standard_fd(fd: int, opened: list[int]) -> int:
    """Return a descriptor from 3 on for what ``fd`` names: a driver may run without its standard streams."""
    if fd > 2 and fd in opened:
        return fd
    return _noted(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3), opened)


def _above_standard(sock: socket.socket) -> socket.socket:
    if sock.fileno() > 2:
        return sock
    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass
