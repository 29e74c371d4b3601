"""A timeline of a run that Perfetto (https://ui.perfetto.dev) and chrome://tracing open.

The format is Chrome's trace events as JSON: a process for each node, a thread for each worker, a slice for each task, arrows from
who returned a value to who took it. Events are written as they are made; none is kept. Times in the file are microseconds.

    with Trace(path, nodes=10) as trace:
        ...  # trace.counter, trace.instant, trace.transfer, while the run goes on
        trace.tasks(measures)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import msgspec

from sundog.backends.simulated.experiment.measures import NEVER, Measures, whole
from sundog.core.ids import DRIVER
from sundog.core.units import MICROSECOND, Nanos

if TYPE_CHECKING:
    from gzip import GzipFile

#: The process of what belongs to no node, and of node 0; a process must not be 0.
_CLUSTER = 1
_FIRST = 2
#: Threads of transfers come after those of workers.
_SENDING = 1_000_000
_RECEIVING = 2_000_000
_FLUSH_BYTES = 1 << 20
_SAMPLES = 2_000

_encode = msgspec.json.Encoder().encode


class Trace:
    """A trace being written to ``path``; compressed if that ends in ``.gz``. ``nodes``: how many, or a name for each.

    Raises OSError if the file cannot be written. It is a whole trace only after :meth:`close`.
    """

    def __init__(self, path: str | os.PathLike[str], nodes: int | Sequence[str], title: str = "") -> None:
        where = Path(path)
        self._file: IO[bytes] | GzipFile
        if where.suffix == ".gz":
            import gzip

            self._file = gzip.open(where, "wb", compresslevel=5)  # noqa: SIM115 (closed by close())
        else:
            self._file = where.open("wb")
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._comma = b"\n"
        self._flows = 0
        self._threads: set[tuple[int, int]] = set()
        self._counters: dict[tuple[int, str], float] = {}
        #: When each lane of transfers of a node is free again.
        self._lanes: dict[tuple[int, int], list[Nanos]] = {}
        self._file.write(b'{"displayTimeUnit":"ns","otherData":' + _encode({"title": title}) + b',"traceEvents":[')
        names = [f"node {number}" for number in range(nodes)] if isinstance(nodes, int) else list(nodes)
        self._process(_CLUSTER, title or "cluster", 0)
        for number, name in enumerate(names):
            self._process(_FIRST + number, name, number + 1)

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the file is complete."""
        return self._file.closed

    def close(self) -> None:
        """Write what is pending and the end. Idempotent."""
        if not self._file.closed:
            self._flush()
            self._file.write(b"\n]}\n")
            self._file.close()

    # --- what a run tells while it goes on ------------------------------------------------------------------------------

    def add_node(self, number: int, name: str) -> None:
        """One more node has come."""
        self._process(_FIRST + number, name, number + 1)

    def slice(
        self, node: int, worker: int, name: str, start: Nanos, end: Nanos, args: Mapping[str, Any] | None = None, kind: str = "task"
    ) -> None:
        """Something that took from ``start`` to ``end`` on a worker: an attempt that was lost, a pause. Tasks that finished are
        written by :meth:`tasks`. Raises ValueError for an end before the start."""
        self._slice(node, worker + 1, "driver" if worker == DRIVER else f"worker {worker}", name, kind, start, end, args)

    def counter(self, node: int | None, name: str, now: Nanos, value: float) -> None:
        """A quantity has a new value (queue length, bytes in a store) from now on. A value that is the old one is left out.
        ``node`` None: it belongs to the cluster."""
        process = _CLUSTER if node is None else _FIRST + node
        if self._counters.get((process, name)) == value:
            return
        self._counters[process, name] = value
        self._write(
            f'{{"ph":"C","pid":{process},"tid":0,"ts":{_micros(now)},"name":{_text(name)},"args":{{"value":{_number(value)}}}}}'
        )

    def instant(self, node: int | None, name: str, now: Nanos, args: Mapping[str, Any] | None = None) -> None:
        """Something happened: a fault, a node that joined. ``node`` None: to the whole cluster."""
        process, scope = (_CLUSTER, "g") if node is None else (_FIRST + node, "p")
        self._write(
            f'{{"ph":"i","pid":{process},"tid":0,"ts":{_micros(now)},"s":"{scope}","cat":"fault","name":{_text(name)}{_args(args)}}}'
        )

    def transfer(self, source: int, target: int, name: str, start: Nanos, end: Nanos, size: int) -> None:
        """A value of ``size`` bytes went from one node to another. To be told when it has arrived (or was given up), so that
        transfers come in the order of their ends. Raises ValueError for an end before the start."""
        args = {"bytes": size, "from": source, "to": target}
        sending = self._lane(source, _SENDING, start, end)
        receiving = self._lane(target, _RECEIVING, start, end)
        self._slice(source, sending, f"sending {sending - _SENDING}", name, "transfer", start, end, args)
        self._slice(target, receiving, f"receiving {receiving - _RECEIVING}", name, "transfer", start, end, args)
        self._flow("transfer", (_FIRST + source, sending, start), (_FIRST + target, receiving, max(start, end - 1)))

    def arrow(self, leaves: tuple[int, int, Nanos], arrives: tuple[int, int, Nanos]) -> None:
        """A value went from one worker to another: (node, worker, when) of both, each within a slice there."""
        (source, giver, left), (target, taker, came) = leaves, arrives
        self._flow("value", (_FIRST + source, giver + 1, left), (_FIRST + target, taker + 1, came))

    # --- what is known when it is over ----------------------------------------------------------------------------------

    def tasks(self, measures: Measures, *, flows: bool = True) -> None:
        """Write the tasks of a run that is over, the arrows between them (``flows``), and how many were queued and running."""
        workload = measures.workload
        started, finished = measures.started_at, measures.finished_at
        ready = measures.ready_at()
        for index, task in enumerate(workload.tasks):
            start, end = started[index], finished[index]
            if start == NEVER or end == NEVER:
                continue
            args = {
                "task": workload.name_of(index),
                "number": index,
                "queued_us": (start - ready[index]) / MICROSECOND,
                "bytes": sum(task.outputs),
            }
            if index in measures.blocked_for:
                args["waited_us"] = measures.blocked_for[index] / MICROSECOND
            if index in measures.retries:
                args["retries"] = measures.retries[index]
            self.slice(measures.node[index], measures.worker[index], task.name or task.function, start, end, args, task.function)
            if not flows:
                continue
            here = (measures.node[index], measures.worker[index], start)
            for producer in dict.fromkeys([one for one, _ in task.inputs]):
                # An arrow begins inside its slice: at the last nanosecond, since its end is no longer inside.
                leaves = max(started[producer], finished[producer] - 1)
                if started[producer] != NEVER and leaves <= start:  # it may have run again since
                    self.arrow((measures.node[producer], measures.worker[producer], leaves), here)
        self._queues(measures)

    def _queues(self, measures: Measures) -> None:
        import numpy as np

        ready = whole(measures.ready_at())
        started, finished = whole(measures.started_at), whole(measures.finished_at)
        times = [np.sort(one[one != NEVER]) for one in (ready, started, finished)]
        if not len(times[0]):
            return
        every = np.unique(np.concatenate(times))
        samples = every[:: max(1, len(every) // _SAMPLES)]
        begun, gone, over = [np.searchsorted(one, samples, side="right") for one in times]
        for now, queued, running in zip(samples.tolist(), (begun - gone).tolist(), (gone - over).tolist(), strict=True):
            self.counter(None, "tasks queued", now, queued)
            self.counter(None, "tasks running", now, running)

    # --- events ---------------------------------------------------------------------------------------------------------

    def _process(self, process: int, name: str, order: int) -> None:
        self._write(f'{{"ph":"M","pid":{process},"tid":0,"name":"process_name","args":{{"name":{_text(name)}}}}}')
        self._write(f'{{"ph":"M","pid":{process},"tid":0,"name":"process_sort_index","args":{{"sort_index":{order}}}}}')

    def _slice(
        self, node: int, thread: int, title: str, name: str, kind: str, start: Nanos, end: Nanos, args: Mapping[str, Any] | None
    ) -> None:
        if end < start:
            raise ValueError(f"slice {name!r} on node {node}: its end, {end} ns, is before its start, {start} ns")
        process = _FIRST + node
        if (process, thread) not in self._threads:
            self._threads.add((process, thread))
            self._write(f'{{"ph":"M","pid":{process},"tid":{thread},"name":"thread_name","args":{{"name":{_text(title)}}}}}')
            self._write(f'{{"ph":"M","pid":{process},"tid":{thread},"name":"thread_sort_index","args":{{"sort_index":{thread}}}}}')
        self._write(
            f'{{"ph":"X","pid":{process},"tid":{thread},"ts":{_micros(start)},"dur":{_micros(end - start)},'
            f'"cat":{_text(kind)},"name":{_text(name)}{_args(args)}}}'
        )

    def _flow(self, kind: str, leaves: tuple[int, int, Nanos], arrives: tuple[int, int, Nanos]) -> None:
        self._flows += 1
        for phase, (process, thread, now) in (("s", leaves), ("f", arrives)):
            binds = ',"bp":"e"' if phase == "f" else ""
            self._write(
                f'{{"ph":"{phase}","pid":{process},"tid":{thread},"ts":{_micros(now)},"id":{self._flows},'
                f'"cat":"{kind}","name":"{kind}"{binds}}}'
            )

    def _lane(self, node: int, side: int, start: Nanos, end: Nanos) -> int:
        """Return a thread of the node on which nothing else goes on at that time."""
        lanes = self._lanes.setdefault((node, side), [])
        for number, free_at in enumerate(lanes):
            if free_at <= start:
                lanes[number] = end
                return side + number
        lanes.append(end)
        return side + len(lanes) - 1

    def _write(self, event: str) -> None:
        encoded = self._comma + event.encode()
        self._comma = b",\n"
        self._pending.append(encoded)
        self._pending_bytes += len(encoded)
        if self._pending_bytes > _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._file.write(b"".join(self._pending))
        self._pending.clear()
        self._pending_bytes = 0


def _micros(span: Nanos) -> str:
    """Return nanoseconds as microseconds, exactly."""
    return f"{span // MICROSECOND}.{span % MICROSECOND:03d}"


def _text(text: str) -> str:
    return _encode(text).decode()


def _number(value: float) -> str:
    return _encode(value).decode()


def _args(args: Mapping[str, Any] | None) -> str:
    return f',"args":{_encode(args).decode()}' if args else ""
