"""The node's side of the control store in Redis: what has changed since the last flush, handed to a process that writes it.

The hook is ``turn(now, host)``, called once per turn of the node's loop. When nothing is due it is one comparison. When a flush
is due (at most every 100 ms) it takes the host's journal, lets what was born and gone cancel out, asks the host for the
rows of what has lived through a whole interval, at most a few hundred, and sends the lot through a socket to the writer process
(``redis_writer``), which owns redis-py and the connection. The node never waits: while the socket is full, changes go on
cancelling out here.

Why a process: loading redis-py takes longer than starting a session, and a thread that packs commands holds the
interpreter for milliseconds while tasks wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import msgspec

from sundog.backends.redis_server import ControlStoreError, find_server, socket_path
from sundog.core import tables
from sundog.core.journal import Entries, Journal, TaskGone
from sundog.core.units import MILLISECOND, SECOND, Nanos

if TYPE_CHECKING:
    from sundog.core.host import Host

#: Flushes come at most this often while something changes.
FLUSH_EVERY: Nanos = 100 * MILLISECOND
#: Nodes, workers and rows already written are read again this often.
REFRESH_EVERY: Nanos = 1 * SECOND
#: New rows written per flush: about 1 ms of Redis and its client, 1 % of a core. What is beyond it waits; most is gone by then.
ROWS_MAX = 50
#: Written rows of each table read again per refresh, in rotation.
REFRESH_MAX = 50
#: Tasks that ended told one by one per flush, and failures; the rest is counted only.
ENDED_MAX = 64
FAILED_MAX = 1_000
#: How long ``close`` waits for the last flush, in seconds.
CLOSE_TIMEOUT = 3.0

_how, _duration = attrgetter("name", "state"), attrgetter("duration")
Row: TypeAlias = Mapping[str, Any]


class Tables(Protocol):
    """What the control store asks; :class:`HostTables` gives it for a host."""

    def take(self) -> Entries:
        """Return who was born and who is gone since the last call."""

    def table(self, name: str) -> Sequence[Row]:
        """Return all rows of ``objects``, ``tasks``, ``functions``, ``nodes`` or ``workers``."""

    def rows(self, name: str, ids: Sequence[bytes]) -> Sequence[Row | None]:
        """Return the rows of ``ids``, in their order, None for what is not in the table."""


class HostTables:
    """The tables of a host, read in place."""

    _ROW: ClassVar[dict[str, Callable[..., Row | None]]] = {
        "tasks": tables.task_row,
        "objects": tables.object_row,
        "functions": tables.function_row,
    }

    def __init__(self, host: Host) -> None:
        self._host = host
        self.journal = host.journal if host.journal is not None else host.keep_journal()

    def take(self) -> Entries:
        """See :class:`Tables`."""
        return self.journal.take()

    def table(self, name: str) -> Sequence[Row]:
        """See :class:`Tables`."""
        return self._host.table(name)

    def rows(self, name: str, ids: Sequence[bytes]) -> Sequence[Row | None]:
        """See :class:`Tables`."""
        row, host = self._ROW[name], self._host
        return [row(host, identity) for identity in ids]


class Batch(msgspec.Struct, array_like=True):
    """One flush: node -> writer process."""

    #: (table, identity, fields) to be written.
    upserts: list[tuple[str, str, dict[str, Any]]] = []
    #: (table, identity) to be deleted.
    deletes: list[tuple[str, str]] = []
    #: How many tasks ended since the last flush; by name (and state, unless finished) how many and how long they took.
    ended_count: int = 0
    ended_by_name: dict[str, tuple[int, Nanos]] = {}
    #: The first of them, and of those that failed.
    ended: list[TaskGone] = []
    failed: list[TaskGone] = []
    tasks_alive: int = 0
    objects_alive: int = 0
    #: Everything written before is void: delete it first.
    restart: bool = False
    #: The session is over.
    last: bool = False


class Report(msgspec.Struct, array_like=True):
    """Writer process -> node."""

    #: Something that a person should read, once.
    warning: str = ""
    #: The store has lost what was written: send everything again.
    resend: bool = False


class Where(msgspec.Struct, frozen=True):
    """Which Redis: the ``url`` of one that runs, or the ``binary`` of one to start for the session."""

    url: str = ""
    binary: str = ""


def choose(redis: str | bool) -> Where | None:
    """Return what ``init(redis=...)`` asks for; None for none. Runs in the driver, so that mistakes show there and at once.

    Raises ControlStoreError if no server can be found, or the one named does not answer.
    """
    if redis is False or redis is None:
        return None
    if redis is True:
        return Where(binary=find_server())
    if not isinstance(redis, str):
        raise TypeError(f"init(redis=...) takes True or a URL such as 'redis://localhost:6379', not {redis!r}")
    import redis as client

    try:
        with client.Redis.from_url(redis, socket_timeout=3, socket_connect_timeout=3) as connection:
            connection.ping()
    except (client.RedisError, OSError, ValueError) as error:
        shown = shown_url(redis)
        raise ControlStoreError(
            f"init(redis={shown!r}): no answer from this Redis ({str(error).replace(redis, shown)})."
            " Start it, correct the URL, or use init(redis=True) to have one started for the session"
        ) from None
    return Where(url=redis)


def shown_url(url: str) -> str:
    """Return ``url`` without its password, for people."""
    scheme, mark, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}{mark}***@{host}" if at and ":" in credentials else url


class Delta:
    """What of one large table is alive, what of it has been written, and what is due. Identities only, no rows."""

    __slots__ = ("_due", "_fresh", "_refresh", "written")

    def __init__(self) -> None:
        #: Born since the last flush.
        self._fresh: dict[bytes, None] = {}
        #: Lived through a flush, not yet written. Oldest first.
        self._due: dict[bytes, None] = {}
        #: Written and alive. Rotates: what was refreshed last stands last.
        self.written: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._fresh) + len(self._due) + len(self.written)

    def waits(self) -> bool:
        """Tell whether something alive is not yet written."""
        return bool(self._fresh or self._due)

    def born(self, ids: Iterable[bytes]) -> None:
        """Count ``ids`` as alive."""
        self._fresh.update(dict.fromkeys(ids))

    def gone(self, ids: Iterable[bytes]) -> list[bytes]:
        """Forget ``ids``; return those that had been written."""
        fresh, due, written = self._fresh, self._due, self.written
        missing = object()
        deletes = []
        for identity in ids:
            if fresh.pop(identity, missing) is not missing or due.pop(identity, missing) is not missing:
                continue
            if written.pop(identity, missing) is not missing:
                deletes.append(identity)
        return deletes

    def take_due(self, count: int) -> list[bytes]:
        """Return at most ``count`` to be written now, and count them as written. What is fresh falls due."""
        due, written = self._due, self.written
        taken = list(islice(due, count))
        for identity in taken:
            del due[identity]
            written[identity] = None
        due.update(self._fresh)
        self._fresh.clear()
        return taken

    def take_stalest(self, count: int) -> list[bytes]:
        """Return at most ``count`` of the written ones, those refreshed longest ago."""
        written = self.written
        taken = list(islice(written, count))
        for identity in taken:
            del written[identity]
            written[identity] = None
        return taken

    def restart(self) -> None:
        """Nothing counts as written any more."""
        everything = {**self.written, **self._due, **self._fresh}
        self.written.clear()
        self._fresh.clear()
        self._due = everything


class Mirror:
    """Turns journals and rows into batches. Knows no socket and no clock; :class:`ControlStore` drives it."""

    def __init__(self) -> None:
        self._large = {"tasks": Delta(), "objects": Delta()}
        self._functions: dict[bytes, None] = {}
        #: Rows of the small tables as last written: (table, identity) -> row.
        self._small: dict[tuple[str, str], Row] = {}
        self._batch = Batch(restart=True)

    def record(self, entries: Entries) -> None:
        """Let what was born and gone cancel out; keep what ended for the stream."""
        tasks, objects = self._large["tasks"], self._large["objects"]
        tasks.born(entries.tasks_born)
        objects.born(entries.objects_born)
        self._functions.update(dict.fromkeys(entries.functions_born))
        deletes = self._batch.deletes
        deletes += [("task", i.hex()) for i in tasks.gone([gone.task_id for gone in entries.tasks_gone])]
        deletes += [("object", i.hex()) for i in objects.gone(entries.objects_gone)]
        self._count(entries.tasks_gone)

    def _count(self, ended: list[TaskGone]) -> None:
        batch = self._batch
        batch.ended_count += len(ended)
        batch.ended += ended[: ENDED_MAX - len(batch.ended)]
        totals = batch.ended_by_name
        for (name, state), group in groupby(ended, _how):
            alike = list(group)
            if state != "finished":
                name = f"{name} ({state})"
                if state == "failed":
                    batch.failed += alike[: FAILED_MAX - len(batch.failed)]
            count, duration = totals.get(name, (0, 0))
            totals[name] = count + len(alike), duration + sum(map(_duration, alike))

    def adopt(self, source: Tables) -> None:
        """Start from the whole tables: what the journal said is no longer enough."""
        for name, delta in self._large.items():
            identity = f"{name[:-1]}_id"
            delta.__init__()  # type: ignore[misc]  # as new
            delta.born([bytes.fromhex(row[identity]) for row in source.table(name)])
        self._functions = {bytes.fromhex(row["function_id"]): None for row in source.table("functions")}
        self.restart()

    def restart(self) -> None:
        """The store has forgotten everything: write it again."""
        for delta in self._large.values():
            delta.restart()
        self._small.clear()
        self._batch.deletes.clear()
        self._batch.restart = True

    def waits(self) -> bool:
        """Tell whether something is not yet in a batch."""
        return bool(self._batch.ended_count or self._batch.deletes or self._functions) or any(
            d.waits() for d in self._large.values()
        )

    def batch(self, source: Tables, refresh: bool) -> Batch:
        """Return what is to be written now; ``refresh`` also reads the small tables and a share of the written rows again."""
        batch, self._batch = self._batch, Batch()
        room = ROWS_MAX
        for name, delta in self._large.items():
            ids = delta.take_due(room)
            room -= len(ids)
            if refresh:
                ids += delta.take_stalest(REFRESH_MAX)
            self._upsert(batch, source, name, ids)
        functions = list(islice(self._functions, ROWS_MAX))
        for identity in functions:
            del self._functions[identity]
        self._upsert(batch, source, "functions", functions)
        if refresh:
            self._refresh_small(batch, source)
        batch.tasks_alive = len(self._large["tasks"])
        batch.objects_alive = len(self._large["objects"])
        return batch

    def _upsert(self, batch: Batch, source: Tables, name: str, ids: list[bytes]) -> None:
        kind = name[:-1]
        for identity, row in zip(ids, source.rows(name, ids) if ids else (), strict=True):
            if row is not None:
                batch.upserts.append((kind, identity.hex(), dict(row)))

    def _refresh_small(self, batch: Batch, source: Tables) -> None:
        found = {(n[:-1], str(row[n[:-1]])): row for n in ("nodes", "workers") for row in source.table(n)}
        for key in [key for key in self._small if key not in found]:
            del self._small[key]
            batch.deletes.append(key)
        for key, row in found.items():
            if self._small.get(key) != row:
                self._small[key] = row
                batch.upserts.append((*key, dict(row)))


class ControlStore:
    """The handle a node's loop holds: see the module. Starts the writer process; make it after the zygote."""

    def __init__(self, session: str, where: Where, warn: Callable[[str], None]) -> None:
        """Start writing ``session``'s tables to ``where``; ``warn`` is called with texts for people, within ``turn``."""
        self._warn = warn
        self._mirror = Mirror()
        self._outbox = bytearray()
        self._inbox = bytearray()
        #: When a flush may come, and when one must.
        self._soon: Nanos = 0
        self._due: Nanos = 0
        self._tables: HostTables | None = None
        self._journal: Journal | tuple[()] = ()
        self._refresh_due: Nanos = 0
        self._alive = True
        #: What ``redis-cli`` is to be pointed at.
        self.url = where.url or f"unix://{socket_path(session)}"
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            self._socket.setblocking(False)
            boot = {"session": session, "url": where.url, "binary": where.binary, "fd": theirs.fileno(), "parent": os.getpid()}
            source = (
                "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from sundog.backends.redis_writer import main; main()"
            )
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
            command = [sys.executable, *flags, "-c", source, json.dumps(sys.path), json.dumps(boot)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0)

    def fileno(self) -> int:
        """The descriptor that becomes readable when the writer process has something to say."""
        return self._socket.fileno()

    @property
    def pid(self) -> int:
        """The writer process."""
        return self._process.pid

    def next_deadline(self) -> Nanos | None:
        """Return when ``turn`` has something to do even if nothing happens, or None."""
        if not self._alive:
            return None
        return self._soon if self._journal else self._due

    def turn(self, now: Nanos, host: Host) -> None:
        """Do what is due at ``now``. Called in every turn of the node's loop; never waits."""
        if now < self._soon or not self._alive:
            return
        if self._tables is None:
            self._tables = HostTables(host)
            self._journal = self._tables.journal
            self._mirror.adopt(self._tables)  # what was there before the journal
        if now < self._due and not self._journal:
            return
        self._hear()
        if self._outbox:
            self._write()
        else:
            self._flush(now, self._tables)
        self._soon = now + FLUSH_EVERY
        self._due = self._soon if self._mirror.waits() or self._outbox else now + REFRESH_EVERY

    def close(self, host: Host) -> None:
        """Write what is left, end the writer process and whatever it started, within a few seconds. Idempotent."""
        if self._socket.fileno() < 0:
            return
        self._socket.settimeout(CLOSE_TIMEOUT)
        if self._alive:
            source = self._tables or HostTables(host)
            self._mirror.record(source.take())
            batch = self._mirror.batch(source, refresh=True)
            batch.last = True
            with contextlib.suppress(OSError):
                self._socket.sendall(self._outbox + frame(batch))
        self._alive = False
        self._socket.close()
        try:
            self._process.wait(timeout=CLOSE_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            try:
                self._process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _flush(self, now: Nanos, source: Tables) -> None:
        entries = source.take()
        if entries.complete:
            self._mirror.record(entries)
        else:
            self._mirror.adopt(source)
        refresh = now >= self._refresh_due
        if refresh:
            self._refresh_due = now + REFRESH_EVERY
        if refresh or self._mirror.waits():
            self._outbox += frame(self._mirror.batch(source, refresh))
            self._write()

    def _write(self) -> None:
        try:
            while self._outbox:
                del self._outbox[: self._socket.send(self._outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self._lost()

    def _hear(self) -> None:
        try:
            while data := self._socket.recv(65536):
                self._inbox += data
        except BlockingIOError:
            pass
        except OSError:
            self._lost()
        else:
            self._lost()
        for frame in frames(self._inbox):
            report = msgspec.msgpack.decode(frame, type=Report)
            if report.resend:
                self._mirror.restart()
            if report.warning:
                self._warn(report.warning)

    def _lost(self) -> None:
        if self._alive:
            self._alive = False
            self._outbox.clear()
            self._warn("the process that writes the control store has ended; tasks go on, its tables in Redis are no longer kept")


def frame(message: Batch | Report) -> bytes:
    """Return ``message`` with its length before it."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


def frames(buffer: bytearray) -> Iterable[bytes]:
    """Remove and yield every whole frame at the start of ``buffer``."""
    while len(buffer) >= 4 and len(buffer) >= 4 + (size := int.from_bytes(buffer[:4], "big")):
        frame = bytes(buffer[4 : 4 + size])
        del buffer[: 4 + size]
        yield frame
