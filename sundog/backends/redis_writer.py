"""The process that writes a session's tables to Redis: it reads batches from the node's socket and sends each in one round trip.

Keys (``docs/control-store.md``)::

    sundog:<session>                 hash    what the session is: state, counts, times
    sundog:<session>:object:<hex>    hash    an object that is alive: node, size, state, ...
    sundog:<session>:task:<hex>      hash    a task that is not over: name, state, worker, ...
    sundog:<session>:function:<hex>  hash    an exported function
    sundog:<session>:node:<n>        hash    a node; :worker:<n> a worker
    sundog:<session>:errors          list    JSON, newest first
    sundog:<session>:finished        stream  one entry a flush: the tasks that ended since the last

Every key expires an hour after its session stopped renewing it, so a crash leaves nothing for ever. When Redis goes away the
node hears one warning, batches are dropped, and once Redis is back the node sends everything again. When the node's socket
ends, so does this process, with the server it may have started and its directory.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from sundog.backends.control_store import Batch, Report, frame, frames, shown_url
from sundog.backends.redis_server import ControlStoreError, RedisServer, SessionDirectory, die_with_parent
from sundog.core.journal import TaskGone

if TYPE_CHECKING:
    import redis

#: Seconds until a key that nobody renews is gone; and how often this process renews its own.
TTL = 3600
RENEW_EVERY = 1200.0
#: Entries of the stream.
STREAM_MAX = 1000
ERRORS_MAX = 1000
#: Commands per round trip where there may be very many (renewal, clearing).
COMMANDS_MAX = 5000
#: Seconds between attempts to reach a Redis that is away: doubled from the first to the last.
BACK_OFF_FIRST = 0.1
BACK_OFF_LAST = 5.0
#: Seconds that one command may take.
COMMAND_TIMEOUT = 2.0


class RoundTrip:
    """Commands that travel together, packed here: redis-py's own packing of a hash costs four times the rest of a flush."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._count = 0

    def add(self, *arguments: str | int | float) -> None:
        """Append a command."""
        self._parts.append(b"*%d\r\n" % len(arguments))
        self._parts += map(_packed, arguments)
        self._count += 1

    def hset(self, key: str, fields: dict[str, Any]) -> None:
        """Append HSET of all ``fields``; a value that Redis has no notion of is written as people read it."""
        parts = self._parts
        parts.append(b"*%d\r\n$4\r\nHSET\r\n" % (2 + 2 * len(fields)))
        parts.append(_packed(key))
        for name, value in fields.items():
            parts.append(_packed_name(name))
            parts.append(_packed(_plain(value)))
        self._count += 1

    def run(self, connection: Any) -> None:
        """Send everything and read every answer. Raises the first error among them."""
        if not self._count:
            return
        connection.send_packed_command([b"".join(self._parts)])
        errors = [answer for _ in range(self._count) if isinstance(answer := _answer(connection), Exception)]
        if errors:
            raise errors[0]


class RedisTables:
    """Writes batches through a connection of redis-py. Raises what that raises; keeps the names of what it has written."""

    def __init__(self, client: redis.Redis, session: str) -> None:
        self._connection: Any = client.connection_pool.make_connection()  # redis-py's types differ from version to version
        self._name = f"sundog:{session}"
        #: Keys that exist because of us.
        self.keys: dict[str, None] = {}
        self._finished_count = 0
        self._started = time.time()

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def write(self, batch: Batch) -> None:
        """Write ``batch`` in one round trip (two when it starts again from nothing)."""
        if batch.restart:
            self._delete(self.keys)
            self.keys.clear()
        trip = RoundTrip()
        for kind, identity, fields in batch.upserts:
            key = f"{self._name}:{kind}:{identity}"
            trip.hset(key, fields)
            if key not in self.keys:
                self.keys[key] = None
                trip.add("EXPIRE", key, TTL)
        dead = [f"{self._name}:{kind}:{identity}" for kind, identity in batch.deletes]
        for key in dead:
            self.keys.pop(key, None)
        if dead:
            trip.add("DEL", *dead)
        self._write_finished(trip, batch)
        self._write_errors(trip, batch)
        self._write_session(trip, batch)
        trip.run(self._connection)
        if batch.last:
            self._delete(self.keys)
            self.keys.clear()

    def renew(self) -> None:
        """Let every key live another hour."""
        names = [*self.keys, self._name, f"{self._name}:errors", f"{self._name}:finished"]
        for start in range(0, len(names), COMMANDS_MAX):
            trip = RoundTrip()
            for name in names[start : start + COMMANDS_MAX]:
                trip.add("EXPIRE", name, TTL)
            trip.run(self._connection)

    def _delete(self, keys: Iterable[str]) -> None:
        names = list(keys)
        for start in range(0, len(names), COMMANDS_MAX):
            trip = RoundTrip()
            trip.add("DEL", *names[start : start + COMMANDS_MAX])
            trip.run(self._connection)

    def _write_finished(self, trip: RoundTrip, batch: Batch) -> None:
        if not batch.ended_count:
            return
        self._finished_count += batch.ended_count
        totals = {name: {"count": n, "seconds": round(spent / 1e9, 6)} for name, (n, spent) in batch.ended_by_name.items()}
        lines = "\n".join(map(_line, batch.ended))
        stream = f"{self._name}:finished"
        head = ("XADD", stream, "MAXLEN", "~", STREAM_MAX, "*", "count", batch.ended_count, "by_name", json.dumps(totals))
        trip.add(*head, "tasks", lines, "omitted", batch.ended_count - len(batch.ended))
        trip.add("EXPIRE", stream, TTL)

    def _write_errors(self, trip: RoundTrip, batch: Batch) -> None:
        texts = [
            json.dumps({"task_id": gone.task_id.hex(), "name": gone.name, "state": gone.state, "error": gone.error})
            for gone in batch.failed
        ]
        if texts:
            errors = f"{self._name}:errors"
            trip.add("LPUSH", errors, *texts)
            trip.add("LTRIM", errors, 0, ERRORS_MAX - 1)
            trip.add("EXPIRE", errors, TTL)

    def _write_session(self, trip: RoundTrip, batch: Batch) -> None:
        fields = {
            "state": "ended" if batch.last else "running",
            "started": f"{self._started:.3f}",
            "written": f"{time.time():.3f}",
            "tasks_alive": batch.tasks_alive,
            "objects_alive": batch.objects_alive,
            "tasks_finished": self._finished_count,
        }
        trip.hset(self._name, fields)
        trip.add("EXPIRE", self._name, TTL)


def _answer(connection: Any) -> Any:
    """Return the next answer; one that is an error as the exception it would be."""
    import redis

    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _packed(argument: str | int | float) -> bytes:
    """Return one argument in the protocol of Redis."""
    data = str(argument).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


#: Field names are few.
_packed_name = lru_cache(maxsize=256)(_packed)


def _plain(value: Any) -> str | int | float:
    """Return ``value`` as Redis shows it to people."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    return msgspec.json.encode(value, enc_hook=repr).decode() if value else ""


def _line(gone: TaskGone) -> str:
    """Return one line of a stream entry: ID, name, state, microseconds, worker."""
    worker = "-" if gone.worker is None else gone.worker
    return f"{gone.task_id.hex()} {gone.name} {gone.state} {gone.duration // 1000}us worker:{worker}"


class Writer:
    """The loop of the process: batches in, round trips out, reports back."""

    def __init__(self, link: socket.socket, session: str, url: str, binary: str) -> None:
        self._link = link
        self._session = session
        self._url = url
        self._binary = binary
        self._directory = SessionDirectory(session) if binary else None
        self._server: RedisServer | None = None
        self._tables: RedisTables | None = None
        self._client: redis.Redis | None = None
        self._back_off = BACK_OFF_FIRST
        self._retry_at = 0.0
        self._warned = False
        self._renew_at = time.monotonic() + RENEW_EVERY
        self._known: dict[str, None] = {}

    def run(self) -> None:
        """Work until the node's socket ends or the last batch is written."""
        inbox = bytearray()
        last = False
        self._connect()
        while not last:
            if not select.select([self._link], [], [], self._patience())[0]:
                self._idle()
                continue
            data = self._link.recv(1 << 20)
            if not data:
                return
            inbox += data
            for raw in frames(inbox):
                batch = msgspec.msgpack.decode(raw, type=Batch)
                last = last or batch.last
                self._write(batch)
            self._idle()

    def stop(self) -> None:
        """End the server, if there is one, and remove the directory."""
        if self._tables is not None:
            self._tables.close()
        if self._client is not None:
            self._client.close()
        if self._server is not None:
            self._server.stop()
        if self._directory is not None:
            self._directory.remove()

    def _patience(self) -> float:
        until = self._renew_at if self._tables is not None else self._retry_at
        return max(0.0, until - time.monotonic())

    def _idle(self) -> None:
        now = time.monotonic()
        if self._tables is None:
            if now >= self._retry_at:
                self._connect()
        elif now >= self._renew_at:
            self._renew_at = now + RENEW_EVERY
            self._guard(self._tables.renew)

    def _write(self, batch: Batch) -> None:
        tables = self._tables
        if tables is not None:
            self._guard(lambda: tables.write(batch))

    def _guard(self, work: Any) -> None:
        import redis

        try:
            work()
        except (redis.RedisError, OSError) as error:
            self._away(error)

    def _connect(self) -> None:
        import redis

        try:
            if self._directory is not None and (self._server is None or not self._server.is_running()):
                self._server = RedisServer(self._binary, self._directory.path)
                self._server.wait_until_ready()
            url = self._server.url if self._server is not None else self._url
            client = redis.Redis.from_url(url, socket_timeout=COMMAND_TIMEOUT, socket_connect_timeout=COMMAND_TIMEOUT, retry=None)
            self._client = client
            client.ping()
        except (redis.RedisError, OSError, ControlStoreError) as error:
            self._away(error)
            return
        self._tables = RedisTables(client, self._session)
        self._tables.keys.update(self._known)
        self._back_off = BACK_OFF_FIRST
        if self._warned:
            self._say(Report(resend=True))
        elif self._server is not None:
            self._say(Report(warning=f"control state is in Redis: redis-cli -s {self._server.socket} --scan"))

    def _away(self, error: Exception) -> None:
        if self._tables is not None:
            self._known = self._tables.keys
            self._tables.close()
            self._tables = None
        if self._client is not None:
            self._client.close()
            self._client = None
        self._retry_at = time.monotonic() + self._back_off
        self._back_off = min(2 * self._back_off, BACK_OFF_LAST)
        if not self._warned:
            where = shown_url(self._url) if self._url else "of this session"
            text = f"the Redis {where} does not answer ({type(error).__name__}: {error}); tasks go on, and its tables are written"
            self._say(Report(warning=f"{text} again once it is back"))
        self._warned = True

    def _say(self, report: Report) -> None:
        try:
            self._link.sendall(frame(report))
        except OSError:
            pass  # the node is gone; the next read says so


def main() -> None:
    """Run the process: ``argv[2]`` is what ``control_store.ControlStore`` wrote."""
    boot = json.loads(sys.argv[2])
    die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, stack: sys.exit(0))
    if os.getppid() != boot["parent"]:
        return
    with socket.socket(fileno=boot["fd"]) as link:
        writer = Writer(link, boot["session"], boot["url"], boot["binary"])
        try:
            writer.run()
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            writer.stop()
