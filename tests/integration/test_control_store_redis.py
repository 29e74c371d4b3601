"""The control store with a real Redis server and its real writer process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from sundog.backends.control_store import ControlStore, Where, choose
from sundog.backends.redis_server import ControlStoreError, RedisServer, find_server, sessions_root
from sundog.core import messages as msg
from sundog.core.config import Config
from sundog.core.host import Host
from sundog.core.ids import DRIVER, IdSequence, NodeID, TaskID, address, return_id, root_task_id
from sundog.core.machine import Fact
from sundog.core.task import TaskSpec, Value

DRIVER_ADDRESS = address(NodeID(0), DRIVER)
NOTHING = Value(size=1, data=b"N")

try:
    SERVER = find_server()
except ControlStoreError:
    SERVER = ""

pytestmark = [pytest.mark.redis, pytest.mark.skipif(not SERVER, reason="no Redis server on this machine")]


class Node:
    """A node's host whose workers never come, so that tasks live until a test cancels them."""

    def __init__(self) -> None:
        self.host = Host(Config())
        self._ids = IdSequence(root_task_id(b"test"), 1, 0)
        function = self._ids.next_function()
        self._function = function
        self.step(msg.FunctionExported(function, "square", NOTHING))

    def step(self, *facts: Fact) -> None:
        self.host.step(time.monotonic_ns(), [(DRIVER_ADDRESS, fact) for fact in facts])

    def submit(self) -> TaskID:
        spec = TaskSpec(self._ids.next_task(), self._function, "square", NOTHING)
        self.step(msg.TaskSubmitted(spec))
        return spec.task_id

    def cancel(self, task: TaskID) -> None:
        self.step(msg.CancelRequested(1, (return_id(task, 1),)))


class Session:
    """A control store, its host, and the turns of the loop that would be around them."""

    def __init__(self, where: Where, name: str) -> None:
        self.node = Node()
        self.host = self.node.host
        self.warnings: list[str] = []
        self.store = ControlStore(name, where, self.warnings.append)
        self.name = name

    def until(self, condition: Callable[[], bool], timeout: float = 20.0) -> None:
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"not in {timeout} s; warnings: {self.warnings}"
            self.store.turn(time.monotonic_ns(), self.host)
            time.sleep(0.005)  # a turn of the loop; the condition is in other processes

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.store.url, decode_responses=True)


def exists(client: redis.Redis, key: str) -> bool:
    try:
        return bool(client.exists(key))
    except redis.RedisError:
        return False


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def servers_in(directory: Path) -> list[int]:
    """The server processes whose command line names ``directory``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(directory).encode() in (entry / "cmdline").read_bytes() and b"unixsocket" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.fixture(params=["own", "given"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    name = f"test-{os.getpid()}-{os.urandom(4).hex()}"
    server = RedisServer(SERVER, tmp_path) if request.param == "given" else None
    if server is not None:
        server.wait_until_ready()
    made = Session(Where(url=server.url) if server else Where(binary=SERVER), name)
    yield made
    made.store.close(made.host)
    if server is not None:
        server.stop()
    assert servers_in(sessions_root() / name) == []
    assert not (sessions_root() / name).exists()


def test_tables_appear_follow_and_end(session: Session) -> None:
    task = session.node.submit()
    with session.client() as client:
        key = f"sundog:{session.name}:task:{task.hex()}"
        session.until(lambda: exists(client, key))
        assert client.hget(key, "name") == "square"
        session.until(lambda: exists(client, f"sundog:{session.name}:node:0"))
        assert client.hget(key, "state") == "ready"
        session.node.cancel(task)
        session.until(lambda: not exists(client, key))
        assert client.hget(f"sundog:{session.name}", "tasks_finished") == "1"
    assert all("redis-cli" in text for text in session.warnings)  # where to look, if the server is its own


def test_private_server_that_dies_is_replaced_and_written_afresh() -> None:
    name = f"test-{os.getpid()}-{os.urandom(4).hex()}"
    session = Session(Where(binary=SERVER), name)
    directory = sessions_root() / name
    key = f"sundog:{name}:task:{session.node.submit().hex()}"
    try:
        with session.client() as client:
            session.until(lambda: exists(client, key))
            [pid] = servers_in(directory)
            os.kill(pid, signal.SIGKILL)
            second = f"sundog:{name}:task:{session.node.submit().hex()}"
            session.until(lambda: exists(client, key) and exists(client, second))
        [_, warning] = session.warnings
        assert "tasks go on" in warning
    finally:
        session.store.close(session.host)
    assert servers_in(directory) == []


def test_killed_writer_process_leaves_no_server_and_the_next_session_sweeps() -> None:
    name = f"test-{os.getpid()}-{os.urandom(4).hex()}"
    session = Session(Where(binary=SERVER), name)
    directory = sessions_root() / name
    session.until(lambda: (directory / "redis.sock").exists())
    os.kill(session.store.pid, signal.SIGKILL)
    session.until(lambda: servers_in(directory) == [])
    session.until(lambda: any("has ended" in text for text in session.warnings))
    session.store.close(session.host)
    assert directory.exists()
    following = Session(Where(binary=SERVER), f"{name}-next")
    following.until(lambda: not directory.exists())
    following.store.close(following.host)


def test_node_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    name = f"test-{os.getpid()}-{os.urandom(4).hex()}"
    program = (
        "import sys, time\n"
        "from sundog.backends.control_store import ControlStore, Where\n"
        f"store = ControlStore({name!r}, Where(binary={SERVER!r}), print)\n"
        "print(store.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    import sys

    node = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert node.stdout is not None
    assert node.stdin is not None
    with node.stdout, node.stdin:
        writer = int(node.stdout.readline())
        directory = sessions_root() / name
        end = time.monotonic() + 20
        while not (directory / "redis.sock").exists():
            assert time.monotonic() < end
            time.sleep(0.005)
        node.kill()
        node.wait()
        while directory.exists() or is_alive(writer) or servers_in(directory):
            assert time.monotonic() < end
            time.sleep(0.005)


def test_choose_accepts_a_server_that_answers(tmp_path: Path) -> None:
    server = RedisServer(SERVER, tmp_path)
    server.wait_until_ready()
    try:
        assert choose(server.url) == Where(url=server.url)
    finally:
        server.stop()
    assert not server.is_running()


@pytest.mark.parametrize("own", [True, False])
def test_whole_session_is_readable_and_leaves_nothing(own: bool, tmp_path: Path) -> None:
    import sundog

    @sundog.remote
    def square(x: int) -> int:
        return x * x

    given = None if own else RedisServer(SERVER, tmp_path)
    if given is not None:
        given.wait_until_ready()
    root = sessions_root()
    sockets = set(root.glob("*/redis.sock"))
    try:
        with sundog.init(num_workers=1, redis=True if given is None else given.url):
            kept = [square.remote(i) for i in range(20)]
            assert sundog.get(kept)[3] == 9
            end = time.monotonic() + 20
            while given is None and not (set(root.glob("*/redis.sock")) - sockets):
                assert time.monotonic() < end
                time.sleep(0.01)
            url = given.url if given is not None else f"unix://{(set(root.glob('*/redis.sock')) - sockets).pop()}"
            with redis.Redis.from_url(url, decode_responses=True) as client:
                while (state := _state(client, kept[3].hex())) != "sealed":
                    assert time.monotonic() < end, f"the object is {state or 'not there'} in Redis"
                    time.sleep(0.01)
        assert set(root.glob("*/redis.sock")) - sockets == set()
    finally:
        if given is not None:
            given.stop()


def _state(client: redis.Redis, hex_digits: str) -> str | None:
    try:
        for key in client.scan_iter(f"sundog:*:object:{hex_digits}"):
            return str(client.hget(str(key), "state"))
    except redis.RedisError:
        pass  # not yet there
    return None
