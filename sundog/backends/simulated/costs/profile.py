"""What it costs a node, a driver and a worker to do what they do: the profile that the simulator charges to virtual time.

A profile is measured on a real machine (``python -m sundog calibrate``), or is the documented default. That one is rounded from
what the benchmarks' budgets allow on two cores: an empty task among many computes for 12 us in the node and 11 in driver and
worker, one alone takes 100 us from call to value, memcpy into used pages runs at 12 GB/s, into pages of another process at 3; how
that divides, and what waking, dependencies and blocking cost, is guessed. Times are integer nanoseconds, rates bytes a second.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from sundog.backends.simulated.network.model import NetworkModel
from sundog.core.units import GIB, MICROSECOND, MILLISECOND, SECOND, Nanos

FORMAT = 2
#: Profiles of format 1 say nothing of these: what they stand for lay in other costs, or was not measured.
_SINCE_FORMAT_2 = (
    "node_reclaim", "node_dependency", "node_block", "submit_dependency", "worker_dependency", "worker_reclaim", "worker_block",
)  # fmt: skip


class ProfileError(ValueError):
    """A profile that cannot be read, or that makes no sense; the message names the file and what is wrong."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The costs of a node and its processes.

    Raises ValueError for a negative time or a rate that is not positive.
    """

    format: int = FORMAT
    #: What was measured, where and when; for people.
    name: str = "default"

    # -- the node's process, one thing at a time
    #: A turn of its loop, whatever comes: reading, writing.
    node_turn: Nanos = 3 * MICROSECOND
    #: What a turn takes more that finds it asleep.
    node_wake: Nanos = 6 * MICROSECOND
    #: Each message that it takes in, answers included; of a lot each task.
    node_message: Nanos = 3 * MICROSECOND
    #: Each decision where a task runs, on top of its messages.
    node_decision: Nanos = 6 * MICROSECOND
    #: The same for one that it has taken back from another worker, which waits.
    node_reclaim: Nanos = 2 * MICROSECOND
    #: Each argument that is an object, of a task that it sends to a worker.
    node_dependency: Nanos = 3 * MICROSECOND
    #: Each task that says that it waits in ``get`` or ``wait``, on top of its messages: its CPUs go and come back.
    node_block: Nanos = 5 * MICROSECOND

    # -- drivers and workers
    #: ``.remote()`` in the caller: the name, the arguments' pickle, the fact.
    submit: Nanos = 3 * MICROSECOND
    #: Each argument of it that is an object, and letting go of that once.
    submit_dependency: Nanos = 2 * MICROSECOND
    #: A small result: from its message to the value.
    receive: Nanos = 3 * MICROSECOND
    #: A task in its worker besides its body: unpacking, calling, packing, reporting.
    worker_task: Nanos = 5 * MICROSECOND
    #: Each argument of it that is an object.
    worker_dependency: Nanos = 2 * MICROSECOND
    #: A task that came and was taken back.
    worker_reclaim: Nanos = 1 * MICROSECOND
    #: A body that waits in ``get`` or ``wait``, besides waking: asking, and giving CPUs back.
    worker_block: Nanos = 5 * MICROSECOND
    #: A driver's client thread, for every packet that comes: waking, reading, stepping.
    driver_turn: Nanos = 5 * MICROSECOND
    #: A driver that slept until an answer came: threads that wake each other, cold caches.
    driver_wake: Nanos = 5 * MICROSECOND
    #: A worker that slept until a task or an answer came.
    worker_wake: Nanos = 10 * MICROSECOND
    #: From the node's wish for a worker to one that takes tasks.
    worker_start: Nanos = 6 * MILLISECOND

    # -- bytes
    #: Plain data (numbers, texts, containers) through pickle, one way.
    serialize_bytes_per_second: int = 400_000_000
    #: A value's bytes into pages of the store that were written before: the speed of memcpy.
    copy_bytes_per_second: int = 12_000_000_000
    #: Into pages that only other processes have written: mapping them is included.
    unmapped_copy_bytes_per_second: int = 3_000_000_000
    #: Into pages that are fresh.
    fresh_copy_bytes_per_second: int = 1_500_000_000
    #: Inline values through a socket, once into it or once out of it, framing and copies included.
    message_bytes_per_second: int = 1_000_000_000

    #: How many cores the processes of a node share; 0: each has one of its own.
    cores: int = 0
    #: How fast a core is while all of them compute, in thousandths of one alone: hardware threads share what they compute with.
    crowded_permille: int = 1000

    #: Between processes and nodes; ``network.local_latency`` is measured, the rest is what a data centre has.
    network: NetworkModel = NetworkModel()

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and (value < 0 or (value == 0 and name.endswith("_per_second"))):
                raise ValueError(f"profile: {name}={value} must be {'positive' if name.endswith('_per_second') else 'at least 0'}")
        if not 0 < self.crowded_permille <= 1000:
            raise ValueError(f"profile: crowded_permille={self.crowded_permille} must be from 1 to 1000")

    def charges_nothing(self) -> bool:
        """Tell whether nothing takes time but bodies, and nobody shares cores; the network and ``worker_start`` do not matter."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and name not in _NO_COSTS:
                free = value >= _AT_ONCE if name.endswith("_per_second") else value == 0
                if not free:
                    return False
        return True

    def node_time(self, messages: int, decisions: int, dependencies: int = 0, reclaimed: int = 0, blocks: int = 0) -> Nanos:
        """Return how long a node's turn takes that hears ``messages``, of which ``blocks`` say that a task waits, and makes
        ``decisions``, ``reclaimed`` of them about tasks that it has taken back, about tasks with ``dependencies`` together."""
        span = self.node_turn + messages * self.node_message + (decisions - reclaimed) * self.node_decision
        return span + reclaimed * self.node_reclaim + dependencies * self.node_dependency + blocks * self.node_block

    def submit_time(self, dependencies: int) -> Nanos:
        """Return how long ``.remote()`` takes with arguments of which ``dependencies`` are objects."""
        return self.submit + dependencies * self.submit_dependency

    def task_time(self, dependencies: int) -> Nanos:
        """Return how long a worker takes for a task besides its body."""
        return self.worker_task + dependencies * self.worker_dependency

    def serialize_time(self, size: int) -> Nanos:
        """Return how long it takes to pickle, or unpickle, ``size`` bytes of plain data."""
        return _time(size, self.serialize_bytes_per_second)

    def copy_time(self, size: int, fresh: bool = False, unmapped: int = 0) -> Nanos:
        """Return how long ``size`` bytes take into the store; ``fresh``: into pages never written before, else ``unmapped`` of them
        into pages that only other processes have written."""
        if fresh:
            return _time(size, self.fresh_copy_bytes_per_second)
        return _time(size - unmapped, self.copy_bytes_per_second) + _time(unmapped, self.unmapped_copy_bytes_per_second)

    def message_time(self, size: int) -> Nanos:
        """Return how long a process takes to send, or to receive, ``size`` bytes of inline values."""
        return _time(size, self.message_bytes_per_second)


def _time(size: int, rate: int) -> Nanos:
    """Return the whole nanoseconds next to ``size / rate`` seconds."""
    return (size * SECOND + rate // 2) // rate


#: Fields of a profile that are numbers and no costs of work.
_NO_COSTS = ("format", "worker_start", "crowded_permille")
#: Fast enough that a gigabyte takes no whole nanosecond.
_AT_ONCE = 1 << 62

#: Nothing takes time but bodies: for tests, and for questions about policies alone.
FREE = Profile(
    name="free", node_turn=0, node_wake=0, node_message=0, node_decision=0, node_reclaim=0, node_dependency=0, node_block=0,
    submit=0, submit_dependency=0, receive=0, worker_task=0, worker_dependency=0, worker_reclaim=0, worker_block=0,
    driver_turn=0, driver_wake=0, worker_wake=0, worker_start=0, serialize_bytes_per_second=_AT_ONCE,
    copy_bytes_per_second=_AT_ONCE, unmapped_copy_bytes_per_second=_AT_ONCE, fresh_copy_bytes_per_second=_AT_ONCE,
    message_bytes_per_second=_AT_ONCE,
    network=NetworkModel(latency=0, local_latency=0, bandwidth=1024 * GIB),
)  # fmt: skip


def profile_path() -> Path:
    """Return where the user's own profile lies: ``$XDG_CONFIG_HOME/sundog/profile.json``, usually below ``~/.config``."""
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config and os.path.isabs(config) else Path.home() / ".config") / "sundog" / "profile.json"


def load_profile(path: str | os.PathLike[str] | None = None) -> Profile:
    """Return the profile in ``path``; without one, the user's own if there is one, else the default.

    Raises ProfileError, naming the file, for one that is not there or cannot be read as a profile.
    """
    where = profile_path() if path is None else Path(path)
    try:
        content = where.read_bytes()
    except OSError as error:
        if path is None and isinstance(error, FileNotFoundError):
            return Profile()
        raise ProfileError(f"profile {where}: {error.strerror}; `python -m sundog calibrate` makes one") from None
    try:
        raw = msgspec.json.decode(content)
        profile = msgspec.convert(_of_format_1(raw) if isinstance(raw, dict) and raw.get("format") == 1 else raw, Profile)
    except msgspec.MsgspecError as error:
        raise ProfileError(f"profile {where}: {error}; `python -m sundog calibrate` makes a new one") from None
    if profile.format != FORMAT:
        raise ProfileError(f"profile {where} has format {profile.format}, this version reads {FORMAT}: calibrate again")
    return profile


def _of_format_1(raw: dict[str, Any]) -> dict[str, Any]:
    """Return what a profile of format 1 says, in the present one."""
    copies = raw.get("copy_bytes_per_second", Profile().copy_bytes_per_second)
    return {**dict.fromkeys(_SINCE_FORMAT_2, 0), "unmapped_copy_bytes_per_second": copies, **raw, "format": FORMAT}


def save_profile(profile: Profile, path: str | os.PathLike[str] | None = None) -> Path:
    """Write ``profile`` as JSON to ``path`` (default: the user's own), whole or not at all; return where.

    Raises OSError if the system refuses.
    """
    where = profile_path() if path is None else Path(path)
    where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = where.with_name(f"{where.name}.{os.getpid()}")
    try:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n")
        part.replace(where)
    finally:
        part.unlink(missing_ok=True)
    return where
