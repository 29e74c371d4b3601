"""The node process: forks the zygote, then runs the host in one loop until the session is over.

Order matters here. The driver is watched before anything else; the zygote is forked while this process is small, clean and
has one thread; what only the host needs is imported after that, while the zygote already forks.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
from typing import Any, NoReturn

import msgspec

from sundog.backends.local_processes import process, zygote
from sundog.backends.local_processes.channel import Channel, socket_pair
from sundog.core.config import Config
from sundog.core.ids import DRIVER, NodeID, address

_NODE = NodeID(0)


def main(boot_fd: int, boot: dict[str, Any]) -> NoReturn:
    """Be the node of the session that ``boot`` (see ``launch``) describes. Ends the process."""
    status = 1
    try:
        driver_fd = os.pidfd_open(boot["driver_pid"])
        if os.getppid() != boot["driver_pid"]:
            os._exit(1)  # the driver died first; whatever has its number now is not it
        descriptors = (boot["link"], boot["arena"], boot["progress"], boot_fd)
        for fd in descriptors:
            os.set_inheritable(fd, False)
        process.close_descriptors((*descriptors, driver_fd))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whatever the thread that called init had blocked
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's business
        process.become_subreaper()
        process.set_process_name("sundog:node")
        _run(boot_fd, boot, driver_fd)
        status = 0
    except BaseException:
        with contextlib.suppress(BaseException):
            import traceback  # only when something went wrong

            story = "sundog: the node failed, which ends the session\n" + traceback.format_exc()
            os.write(2, story.encode("utf-8", "replace"))
    finally:
        os._exit(status)


def _fork_zygote(boot: dict[str, Any]) -> tuple[int, socket.socket]:
    """Return the zygote's process and the control socket. Must come first: see the module."""
    control, theirs = socket_pair()
    node_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        control.close()
        zygote.run(theirs, boot, boot["arena"], boot["progress"], node_pid)
    theirs.close()
    return pid, control


def _run(boot_fd: int, boot: dict[str, Any], driver_fd: int) -> None:
    zygote_pid, control = _fork_zygote(boot)
    process.raise_descriptor_limit()

    from sundog.backends.local_processes.arena import SharedArena  # after the fork
    from sundog.backends.local_processes.poller import Peer, Poller
    from sundog.backends.local_processes.progress import ProgressTable
    from sundog.backends.local_processes.supervisor import Supervisor
    from sundog.backends.local_processes.turn_loop import TurnLoop

    config = msgspec.convert(boot["config"], Config)
    poller = Poller(config)
    host = _make_host(boot, config)
    stepped, recorder = _recorded(boot, config, host)
    driver = Peer(address(_NODE, DRIVER), Channel(socket.socket(fileno=boot["link"]), config))
    loop = TurnLoop(stepped, config, poller, driver, SharedArena(boot["arena"], config.arena_bytes))
    supervisor = Supervisor(
        config, boot, poller=poller, progress=ProgressTable(boot["progress"]), arena_fd=boot["arena"],
        progress_fd=boot["progress"], boot_fd=boot_fd, zygote_pid=zygote_pid, control=control, report=loop.report,
    )  # fmt: skip
    loop.supervisor = supervisor
    if boot.get("check_invariants"):
        loop.after_step = host.check_invariants
    poller.add_other(driver_fd, loop.driver_died)
    _watch_children(poller, supervisor)
    hook = _start_control_store(boot, host, loop)
    gc.freeze()
    gc.disable()  # as since the boot: everything on the hot path is freed by counting; a collection would stop all workers' supply
    try:
        loop.run()
    finally:
        try:
            if hook is not None:
                hook.close(host)
            if recorder is not None:
                recorder.close()
        finally:
            supervisor.stop()


def _make_host(boot: dict[str, Any], config: Config) -> Any:
    """Return the host: that of ``sundog.core``, or the stand-in ``module:callable`` that a test names."""
    if "host" in boot:
        from importlib import import_module

        module, _, name = boot["host"].partition(":")
        return getattr(import_module(module), name)(config)
    from sundog.core.host import Host

    return Host(config, _NODE)


def _recorded(boot: dict[str, Any], config: Config, host: Any) -> tuple[Any, Any]:
    """Return what the loop steps and the recorder, if one was asked for."""
    if not boot.get("record"):
        return host, None
    from sundog.backends.recorder import Recorder

    recorder = Recorder(boot["record"], config)
    return recorder.wrap(host), recorder


def _start_control_store(boot: dict[str, Any], host: Any, loop: Any) -> Any:
    """The one place where control state leaves the node: ``loop.hook`` is called once a turn with the time and the host."""
    if not boot.get("redis"):
        return None
    from sundog.backends.control_store import ControlStore, Where

    host.keep_journal()
    hook = ControlStore(boot["session"], Where(**boot["redis"]), loop.warn)
    loop.hook, loop.hook_tables = hook, host
    return hook


def _watch_children(poller: Any, supervisor: Any) -> None:
    """Reap orphans when they die: SIGCHLD writes a byte to a pipe that the loop watches."""
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)

    def woken() -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wake_read, select.PIPE_BUF)
        supervisor.reap_strays()

    poller.add_other(wake_read, woken)
    supervisor.reap_strays()  # what died before the signal was heard
