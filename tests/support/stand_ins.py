"""Stand-ins for the two ends between which a real node, zygote and link run: a host without decisions, a worker without Python.

The host passes each submitted task to the worker whose number stands in front of its name ("2:echo"), and tells the driver
every fact that only a loop reports, as a warning. The worker does what the rest of the name says.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from sundog.backends.local_processes.channel import Channel
from sundog.backends.local_processes.output_parser import marker
from sundog.backends.local_processes.progress import FINISHED, STARTED, ProgressTable
from sundog.core import events, messages
from sundog.core.actions import Dispatch, KillWorker, ReclaimTasks, Send, StartWorker, StopHost
from sundog.core.config import Config
from sundog.core.ids import DRIVER, FunctionID, NodeID, ProcessID, TaskID, address, process_of
from sundog.core.machine import Action, Event
from sundog.core.task import TaskSpec, Value

_DRIVER = address(NodeID(0), DRIVER)


def spec(name: str, number: int = 1) -> TaskSpec:
    """Return a task that only its name and number tell apart."""
    return TaskSpec(TaskID(number.to_bytes(16, "big")), FunctionID(bytes(16)), name, Value(0))


class PassingHost:
    """See the module."""

    def __init__(self, config: Config) -> None:
        self._first = [StartWorker(ProcessID(2 + i)) for i in range(config.worker_count)]
        self._sequences: dict[ProcessID, int] = {}

    def next_deadline(self) -> int | None:
        return None

    def check_invariants(self) -> None:
        pass

    def step(self, now: int, arrived: Iterable[Event]) -> list[Action]:
        actions: list[Action] = [*self._first]
        self._first = []
        for sender, fact in arrived:
            if isinstance(fact, messages.TaskSubmitted):
                actions.append(self._order(fact.spec))
            elif isinstance(fact, messages.SessionEnding):
                actions += [Send(_DRIVER, messages.SessionEnded()), StopHost()]
            elif isinstance(fact, messages.TaskFinished):
                actions.append(Send(_DRIVER, messages.WarningRaised(f"finished {process_of(sender)}:{fact.attempt}")))
            elif isinstance(fact, events.OutputRead):
                actions.append(Send(_DRIVER, messages.OutputWritten(fact.worker, fact.name, fact.stream, fact.text)))
            else:
                actions.append(Send(_DRIVER, messages.WarningRaised(f"{sender} {fact!r}")))
        return actions

    def _order(self, task: TaskSpec) -> Action:
        number, _, order = task.name.partition(":")
        worker = ProcessID(int(number))
        if order == "!start":
            return StartWorker(worker)
        if order == "!kill":
            return KillWorker(worker)
        if order == "!reclaim":
            return ReclaimTasks(worker, 100)
        if order == "!fail":
            raise RuntimeError("told to fail")
        sequence = self._sequences[worker] = self._sequences.get(worker, 0) + 1
        run = messages.RunTask(msgspec.structs.replace(task, name=order), 1, 1, sequence)
        return Dispatch(worker, (run,), 0)


def worker(number: int, link: Any, tokens: int, boot: dict[str, Any], arena_fd: int, progress_fd: int) -> int:
    """Be a worker that obeys names."""
    channel = Channel(link, msgspec.convert(boot["config"], Config))
    record = ProgressTable(progress_fd).record(ProcessID(number))
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    while True:
        poll.poll()
        received = channel.receive()
        if received is None:
            return 0
        for message in received:
            if isinstance(message, messages.RunTasks):
                for run in message.tasks:
                    try:
                        os.eventfd_read(tokens)
                    except BlockingIOError:
                        continue
                    record[STARTED] = run.sequence
                    _obey(run.spec.name, number)
                    record[FINISHED] = run.sequence
                    channel.append(messages.TaskFinished(run.spec.task_id, run.sequence, (), 0))
        channel.flush()


def _obey(order: str, number: int) -> None:
    kind, _, argument = order.partition("=")
    if kind == "exit":
        os._exit(int(argument))
    elif kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "sleep":
        signal.pause()
    elif kind == "print":
        os.write(1, marker("f") + argument.encode() + marker(""))
    elif kind == "descriptors":
        os.write(1, (",".join(sorted(os.listdir("/proc/self/fd"), key=int)) + "\n").encode())
    elif kind == "identity":
        os.write(1, f"{os.getpid()} {os.getpgid(0)} {os.getppid()} {os.getcwd()}\n".encode())
    elif kind in ("child", "daemon"):
        code = "import signal; signal.pause()"
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=kind == "daemon")
        child.returncode = 0  # nobody waits for it
        os.write(1, f"{child.pid}\n".encode())
        if argument:
            os._exit(int(argument))
