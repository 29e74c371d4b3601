"""The zygote: a small, single-threaded, clean process from which workers are forked.

It has imported what every worker needs and nothing of the user's, so a worker costs a millisecond or two and shares its
pages. It reaps the workers and reports their exits; whatever a dead worker's process group still holds is killed *before* the
worker is reaped, while its number cannot have been given to anybody else.

It ends when the node says so, when the node's end of the control socket closes, or on SIGTERM (which the kernel sends when
the node dies), and takes every worker with its group along.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

import msgspec

from sundog.backends.local_processes import process

#: Descriptors that come with StartProcess: link, tokens, stdout, stderr.
DESCRIPTORS = 4
_CONTROL_BYTES = 4096
#: What bodies call, in modules that ``sundog`` loads at first use: here, once for all workers.
_API = ("sundog.api.remote", "sundog.api.get_put_wait", "sundog.api.collections")


class StartProcess(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """To the zygote, with the worker's descriptors: fork ``worker``."""

    worker: int


class KillProcess(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """To the zygote: kill ``worker`` and its group."""

    worker: int


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """To the zygote: kill all, reap all, leave."""


class ProcessStarted(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """From the zygote: ``worker`` runs."""

    worker: int
    pid: int


class ProcessNotStarted(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """From the zygote: ``worker`` does not run, because of ``reason``."""

    worker: int
    reason: str


class ProcessExited(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """From the zygote: ``worker`` has been reaped, its group killed. ``memory_peak`` in bytes."""

    worker: int
    status: int
    memory_peak: int


encode = msgspec.msgpack.Encoder().encode
decode_report = msgspec.msgpack.Decoder(ProcessStarted | ProcessNotStarted | ProcessExited).decode
_decode_request = msgspec.msgpack.Decoder(StartProcess | KillProcess | Stop).decode


class _Zygote:
    def __init__(self, control: socket.socket, boot: dict[str, Any], arena_fd: int, progress_fd: int) -> None:
        self.control = control
        self.boot = boot
        self.arena_fd = arena_fd
        self.progress_fd = progress_fd
        self.pid = os.getpid()
        process.raise_descriptor_limit()
        self.stopping = False
        #: worker -> pid, pidfd -> (worker, pid), of those not reaped.
        self.pids: dict[int, int] = {}
        self.watched: dict[int, tuple[int, int]] = {}
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)
        self.wake_read, self.wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.poll.register(self.wake_read, select.POLLIN)

    def run(self) -> bool:
        """Serve until told to stop; return whether the node said so (rather than vanished)."""
        signal.set_wakeup_fd(self.wake_write)
        signal.signal(signal.SIGTERM, lambda *_: None)
        ahead = False
        while True:
            if not ahead and not self.poll.poll(0):
                _import_ahead()
                ahead = True
            for fd, _ in self.poll.poll():
                if fd == self.wake_read:
                    return False
                if fd != self.control.fileno():
                    self.reap(fd)
                    continue
                said = self.serve()
                if said is not None:
                    return said

    def serve(self) -> bool | None:
        """Do what one packet asks; True for Stop, False at the end of the socket, else None."""
        try:
            packet, fds, _, _ = socket.recv_fds(self.control, _CONTROL_BYTES, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return False
        if not packet:
            return False
        request = _decode_request(packet)
        if isinstance(request, StartProcess):
            try:
                self.start(request.worker, fds)
            finally:
                for fd in fds:
                    os.close(fd)
        elif isinstance(request, KillProcess):
            if request.worker in self.pids:
                process.kill_group(self.pids[request.worker])
        else:
            return True
        return None

    def start(self, worker: int, fds: list[int]) -> None:
        if len(fds) != DESCRIPTORS:
            self.report(ProcessNotStarted(worker, process.limit_reached(OSError(24, "too many open files"))))
            return
        try:
            pid = os.fork()
        except OSError as error:
            self.report(ProcessNotStarted(worker, process.limit_reached(error)))
            return
        if pid == 0:
            self.become_worker(worker, fds)
        with contextlib.suppress(OSError):  # the child does it too; whoever comes first
            os.setpgid(pid, pid)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            process.kill_group(pid)
            os.waitpid(pid, 0)
            self.report(ProcessNotStarted(worker, process.limit_reached(error)))
            return
        self.pids[worker] = pid
        self.watched[pidfd] = (worker, pid)
        self.poll.register(pidfd, select.POLLIN)
        self.report(ProcessStarted(worker, pid))

    def reap(self, pidfd: int) -> None:
        worker, pid = self.watched.pop(pidfd)
        self.poll.unregister(pidfd)
        os.close(pidfd)
        process.kill_group(pid)
        _, status, usage = os.wait4(pid, 0)
        del self.pids[worker]
        self.report(ProcessExited(worker, process.exit_status(status), usage.ru_maxrss * 1024))

    def report(self, message: msgspec.Struct) -> None:
        with contextlib.suppress(OSError):  # the node is gone: the end of the socket says it again
            self.control.send(encode(message))

    def kill_all(self) -> None:
        for pid in self.pids.values():
            process.kill_group(pid)
        for pid in self.pids.values():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def become_worker(self, worker: int, fds: list[int]) -> NoReturn:
        """In the child: leave everything of the zygote behind and become a worker."""
        status = 1
        try:
            with contextlib.suppress(OSError):
                os.setpgid(0, 0)
            if not process.die_with_parent(self.pid, signal.SIGKILL):
                os._exit(1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            link, tokens, out, err = fds
            os.dup2(out, 1)
            os.dup2(err, 2)
            process.close_descriptors((link, tokens, self.arena_fd, self.progress_fd))
            self.control.detach()
            process.set_descriptor_limit(self.boot["descriptor_limits"])
            process.set_process_name("sundog:worker")
            gc.enable()
            main = _worker_main(self.boot)
            status = main(worker, socket.socket(fileno=link), tokens, self.boot, self.arena_fd, self.progress_fd)
        except SystemExit as leave:
            status = leave.code if isinstance(leave.code, int) else 1
            if isinstance(leave.code, str):  # why it does not come up, in a line
                os.write(2, f"{leave.code}\n".encode("utf-8", "replace"))
        except BaseException:
            with contextlib.suppress(BaseException):
                os.write(2, _story().encode("utf-8", "replace"))
        finally:
            os._exit(status)


def _import_ahead() -> None:
    """Import, while there is nothing else to do, what the first function of a driver's ``__main__`` needs in every worker."""
    with contextlib.suppress(Exception):  # what cannot be imported fails, with its story, in the worker
        import cloudpickle  # noqa: F401
    gc.freeze()


def _story() -> str:
    import traceback  # only when something went wrong

    return traceback.format_exc()


def _worker_main(boot: dict[str, Any]) -> Callable[..., int]:
    """Return what a worker runs: ``worker_main.main``, or the stand-in ``module:callable`` that a test names."""
    module, _, name = boot.get("worker", "sundog.backends.local_processes.worker_main:main").partition(":")
    main: Callable[..., int] = getattr(import_module(module), name)
    return main


def run(control: socket.socket, boot: dict[str, Any], arena_fd: int, progress_fd: int, node_pid: int) -> NoReturn:
    """Be the zygote of the node ``node_pid``, in a process that has no other thread and nothing else to do."""
    status = 1
    try:
        if not process.die_with_parent(node_pid, signal.SIGTERM):
            os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        process.close_descriptors((control.fileno(), arena_fd, progress_fd))
        process.set_process_name("sundog:zygote")
        control.setblocking(True)
        gc.disable()
        with contextlib.suppress(Exception):  # what cannot be imported fails, with its story, in the worker
            _worker_main(boot)  # and all it imports, so that it is loaded once and shared
            for name in _API:
                import_module(name)
        gc.freeze()
        zygote = _Zygote(control, boot, arena_fd, progress_fd)
        clean = False
        try:
            clean = zygote.run()
        finally:
            zygote.kill_all()
            if not clean:
                process.kill_session(boot["session"], (os.getpid(), node_pid, boot["driver_pid"]))
        status = 0
    except BaseException:
        with contextlib.suppress(BaseException):
            os.write(2, ("sundog: the zygote failed\n" + _story()).encode("utf-8", "replace"))
    finally:
        os._exit(status)


def main(boot_fd: int, boot: dict[str, Any]) -> NoReturn:
    """Be a zygote that was started by exec, to replace one that died; ``sys.argv`` names descriptors and the node."""
    os.close(boot_fd)
    control, arena_fd, progress_fd, node_pid = [int(argument) for argument in sys.argv[2:6]]
    for fd in (control, arena_fd, progress_fd):
        os.set_inheritable(fd, False)
    run(socket.socket(fileno=control), boot, arena_fd, progress_fd, node_pid)
