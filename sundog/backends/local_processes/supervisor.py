"""Workers from the node's point of view: how they are asked for, watched, heard and buried.

Workers are children of the zygote. This side keeps, for each, the link, the eventfd of tokens and the reading ends of two
pipes, and reports ``WorkerStarted``, ``WorkerStartFailed``, ``OutputRead`` and ``WorkerLost``, the last only when the exit has
been reaped and everything the worker had sent and printed has been reported before it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from sundog.backends.local_processes import process, zygote
from sundog.backends.local_processes.boot import boot_source
from sundog.backends.local_processes.channel import Channel, socket_pair
from sundog.backends.local_processes.output_parser import OutputParser
from sundog.backends.local_processes.poller import Peer, Poller, close_all, readable
from sundog.backends.local_processes.progress import ProgressTable
from sundog.core.config import Config
from sundog.core.errors import ProtocolViolation
from sundog.core.events import OutputRead, WorkerLost, WorkerStarted, WorkerStartFailed
from sundog.core.ids import LOOP, Address, NodeID, ProcessID, address, process_of
from sundog.core.machine import Fact
from sundog.core.units import SECOND, Nanos

#: Read from one pipe at one time: all that a pipe holds unless somebody enlarged it.
PIPE_READ_BYTES = 64 << 10
#: What is still read from the pipes of a dead worker whose escaped children may go on writing.
_LAST_OUTPUT_BYTES_MAX = 1 << 20
#: How much of what a worker printed last is told when it is lost, in characters.
_TAIL_CHARACTERS = 2048
#: A busy worker's memory is read this often.
SAMPLE_EVERY: Nanos = 1 * SECOND
#: A zygote that dies this often before any worker of it ran is given up.
_ZYGOTE_FAILURES_MAX = 3
#: How long the zygote has to bury everybody at the end, in milliseconds.
_STOP_MILLISECONDS = 5000


class WorkerProcess:
    """One worker, from the request for it to its burial."""

    __slots__ = ("memory", "number", "parsers", "peer", "pid", "pipes", "progress", "remote", "tail", "tokens")

    def __init__(self, number: ProcessID, node: NodeID, config: Config) -> None:
        """Open what the worker and the node share. Raises OSError at a limit, with nothing left open."""
        self.number = number
        self.pid = 0
        #: Last sampled resident size in bytes.
        self.memory = 0
        #: (started, finished) when it was sampled.
        self.progress = (0, 0)
        self.tail = ""
        opened: list[int] = []
        try:
            self.tokens = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            opened.append(self.tokens)
            out, out_remote = os.pipe2(os.O_CLOEXEC)
            opened += [out, out_remote]
            err, err_remote = os.pipe2(os.O_CLOEXEC)
            opened += [err, err_remote]
            ours, theirs = socket_pair()
        except OSError:
            close_all(opened)
            raise
        for fd in (out, err):
            os.set_blocking(fd, False)
        self.peer = Peer(address(node, number), Channel(ours, config))
        #: Descriptor -> stream number; those still open.
        self.pipes = {out: 1, err: 2}
        self.parsers = {1: OutputParser(), 2: OutputParser()}
        #: The worker's ends, until they are on their way: link, tokens, stdout, stderr.
        self.remote = [theirs.detach(), self.tokens, out_remote, err_remote]

    def close_remote(self) -> None:
        """Close the worker's ends here."""
        remote, self.remote = self.remote, []
        close_all([fd for fd in remote if fd != self.tokens])

    def close(self) -> None:
        """Close everything."""
        self.close_remote()
        self.peer.open = False
        self.peer.channel.close()
        close_all([self.tokens, *self.pipes])
        self.pipes.clear()


class Supervisor:
    """See the module. ``report`` takes events for the next step; ``zygote_pid`` and ``control`` are of the running zygote."""

    def __init__(
        self, config: Config, boot: dict[str, Any], *, poller: Poller, progress: ProgressTable, arena_fd: int, progress_fd: int,
        boot_fd: int, zygote_pid: int, control: socket.socket, report: Callable[[Address, Fact], None],
    ) -> None:  # fmt: skip
        self._config = config
        self._node = NodeID(0)
        self._boot = boot
        self._poller = poller
        self._progress = progress
        self._inherited = (arena_fd, progress_fd, boot_fd)
        self._zygote_pid = zygote_pid
        self._zygote_failures = 0
        self._control = control
        self._report = report
        self.workers: dict[ProcessID, WorkerProcess] = {}
        #: Asked for and not answered.
        self._starting: dict[ProcessID, WorkerProcess] = {}
        #: Exits of known workers seen as orphans, after their zygote died.
        self._orphans: dict[int, int] = {}
        #: Workers that may be running something, for sampling.
        self._busy: dict[ProcessID, WorkerProcess] = {}
        self.sample_due: Nanos | None = None
        #: Workers that wrote the start of a line outside any task.
        self.unfinished_lines: dict[ProcessID, WorkerProcess] = {}
        poller.add_other(control.fileno(), self._read_control)

    # -- what the effects ask

    def start(self, number: ProcessID) -> None:
        """Ask for a worker; WorkerStarted or WorkerStartFailed follows."""
        try:
            worker = WorkerProcess(number, self._node, self._config)
        except OSError as error:
            self._report(LOOP, WorkerStartFailed(number, process.limit_reached(error)))
            return
        self._progress.clear(number)
        self._starting[number] = worker
        self._request_start(worker)

    def kill(self, number: ProcessID) -> None:
        """Kill a worker and its group; WorkerLost follows. Nothing happens to one that is gone."""
        if number in self.workers or number in self._starting:
            self._request(zygote.KillProcess(number))

    def busy(self, worker: WorkerProcess, now: Nanos) -> None:
        """Count ``worker`` as running something from ``now`` on: its memory is sampled."""
        self._busy[worker.number] = worker
        if self.sample_due is None:
            self.sample_due = now + SAMPLE_EVERY

    def sample(self, now: Nanos) -> None:
        """Read the memory of workers that are or were busy, if it is time to."""
        if self.sample_due is None or now < self.sample_due:
            return
        for number, worker in list(self._busy.items()):
            worker.memory = process.resident_bytes(worker.pid) or worker.memory
            progress = self._progress.read(number)
            if progress[0] == progress[1] and progress == worker.progress:
                del self._busy[number]
            worker.progress = progress
        self.sample_due = now + SAMPLE_EVERY if self._busy else None

    def link_ended(self, peer: Peer) -> None:
        """The worker behind ``peer`` closed its link, or broke the protocol: it is killed if it has not died already."""
        self._poller.remove_peer(peer)
        peer.open = False
        self.kill(process_of(peer.address))

    def flush_lines(self) -> None:
        """Bring out unfinished lines that no task's end will: the worker may be about to send what they should precede."""
        lines, self.unfinished_lines = self.unfinished_lines, {}
        for worker in lines.values():
            for stream, parser in worker.parsers.items():
                self._output(worker, stream, parser.flush_unnamed())

    # -- the zygote

    def _request(self, message: zygote.StartProcess | zygote.KillProcess | zygote.Stop) -> None:
        with contextlib.suppress(OSError):  # the zygote is gone: its end is read next, and asks again
            self._control.send(zygote.encode(message))

    def _request_start(self, worker: WorkerProcess) -> None:
        packet = zygote.encode(zygote.StartProcess(worker.number))
        try:
            socket.send_fds(self._control, [packet], worker.remote)
        except (BrokenPipeError, ConnectionResetError):
            return  # the zygote is gone: its end is read next, and the request made again
        except OSError as error:
            del self._starting[worker.number]
            worker.close()
            self._report(LOOP, WorkerStartFailed(worker.number, process.limit_reached(error)))
            return
        worker.close_remote()

    def _read_control(self) -> None:
        while True:
            try:
                packet = self._control.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._zygote_lost()
                return
            message = zygote.decode_report(packet)
            number = ProcessID(message.worker)
            if isinstance(message, zygote.ProcessStarted):
                self._started(number, message.pid)
            elif isinstance(message, zygote.ProcessExited):
                self._lost(number, message.status, message.memory_peak)
            else:
                self._starting.pop(number).close()
                self._report(LOOP, WorkerStartFailed(number, message.reason))

    def _started(self, number: ProcessID, pid: int) -> None:
        self._zygote_failures = 0
        worker = self._starting.pop(number)
        worker.pid = pid
        self.workers[number] = worker
        self._poller.add_peer(worker.peer)
        for fd, stream in worker.pipes.items():
            self._poller.add_pipe(fd, partial(self._read_pipe, worker, fd, stream))
        self._report(LOOP, WorkerStarted(number, pid))

    def _zygote_lost(self) -> None:
        """The kernel has killed the zygote's workers and made them ours to reap. Bury them, start another zygote."""
        self._poller.remove_other(self._control.fileno())
        self._control.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._zygote_pid, signal.SIGKILL)
            os.waitpid(self._zygote_pid, 0)
        for worker in list(self.workers.values()):
            self._lost(worker.number, self._reap_orphan(worker.pid), 0)
        self._orphans.clear()
        self._zygote_failures += 1
        if self._zygote_failures > _ZYGOTE_FAILURES_MAX:
            raise RuntimeError(f"the process that forks workers died {self._zygote_failures} times before any of them ran")
        self._start_zygote()
        for number, worker in list(self._starting.items()):
            worker.close()
            del self._starting[number]
            self.start(number)
        self.reap_strays()

    def _reap_orphan(self, pid: int) -> int:
        if pid in self._orphans:
            return self._orphans.pop(pid)
        process.kill_group(pid)
        try:
            return process.exit_status(os.waitpid(pid, 0)[1])
        except ChildProcessError:
            return -signal.SIGKILL  # reaped by the zygote, which died before it could say how it ended

    def _start_zygote(self) -> None:
        import subprocess  # never needed unless a zygote dies

        self._control, theirs = socket_pair()
        self._control.setblocking(True)
        arena_fd, progress_fd, boot_fd = self._inherited
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
        fds = (theirs.fileno(), arena_fd, progress_fd)
        source = boot_source("sundog.backends.local_processes.zygote:main")
        command = [sys.executable, *flags, "-c", source, str(boot_fd), *map(str, fds), str(os.getpid())]
        with theirs:
            started = subprocess.Popen(command, pass_fds=(*fds, boot_fd), stdin=subprocess.DEVNULL)
        self._zygote_pid = started.pid
        started.returncode = 0  # reaped here, by number: no warning when the handle goes
        self._poller.add_other(self._control.fileno(), self._read_control)

    # -- output and ends

    def _read_pipe(self, worker: WorkerProcess, fd: int, stream: int) -> int:
        """Read a pipe once; return how much there was, 0 at its end (then it is closed) or if there is nothing."""
        try:
            data = os.read(fd, PIPE_READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self._poller.remove_pipe(fd)
            del worker.pipes[fd]
            os.close(fd)
            return 0
        parser = worker.parsers[stream]
        self._output(worker, stream, parser.feed(data))
        if parser.unnamed_rest:
            self.unfinished_lines[worker.number] = worker
        return len(data)

    def _output(self, worker: WorkerProcess, stream: int, pieces: list[tuple[str, str]]) -> None:
        for name, text in pieces:
            worker.tail = (worker.tail + text)[-_TAIL_CHARACTERS:]
            self._report(LOOP, OutputRead(worker.number, stream, name, text))

    def _lost(self, number: ProcessID, status: int, memory_peak: int) -> None:
        """Its exit is reaped: report what it still had printed and sent, then that it is lost."""
        worker = self.workers.pop(number)
        self._busy.pop(number, None)
        self.unfinished_lines.pop(number, None)
        for fd, stream in list(worker.pipes.items()):
            total = 0
            while (count := self._read_pipe(worker, fd, stream)) and total < _LAST_OUTPUT_BYTES_MAX:
                total += count
            self._output(worker, stream, worker.parsers[stream].flush())
            self._poller.remove_pipe(fd)
        peer = worker.peer
        self._poller.remove_peer(peer)
        with contextlib.suppress(ProtocolViolation):
            while peer.open and readable(peer.fd):
                messages = peer.channel.receive()
                if messages is None:
                    break
                for message in messages:
                    self._report(peer.address, message)
        worker.close()
        started, finished = self._progress.read(number)
        memory = max(worker.memory, memory_peak)
        self._report(LOOP, WorkerLost(number, started, finished, status, memory, worker.tail))

    def reap_strays(self) -> None:
        """Reap dead children that are not workers of a living zygote: descendants that came to us as orphans."""
        known = {worker.pid for worker in self.workers.values()}
        with contextlib.suppress(ChildProcessError):
            while True:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None or found.si_pid == self._zygote_pid:
                    return
                if found.si_pid in known:
                    process.kill_group(found.si_pid)
                _, status = os.waitpid(found.si_pid, 0)
                if found.si_pid in known:
                    self._orphans[found.si_pid] = process.exit_status(status)

    def stop(self) -> None:
        """End every worker, its group, the zygote, and whatever else has become a child of this process."""
        self._request(zygote.Stop())
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        pidfd = -1
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(self._zygote_pid)
        limit = time.monotonic_ns() + _STOP_MILLISECONDS * 1_000_000
        while pidfd >= 0 and not readable(pidfd) and time.monotonic_ns() < limit:
            _wait_readable(pidfd, 100)
        if pidfd >= 0:
            os.close(pidfd)
        for worker in self.workers.values():
            worker.close()
        while remaining := process.children():
            for pid in remaining:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            for pid in remaining:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def _wait_readable(fd: int, milliseconds: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(milliseconds)
