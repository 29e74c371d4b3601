"""Writes down what a machine was told and what it answered, and holds a fresh machine to it.

    python -m sundog.backends.recorder replay FILE          exit code 0 if every action comes out byte for byte
    python -m sundog.backends.recorder story FILE TASK_ID   everything that was said about a task (or object)

A recording is a header, then one turn after the other, each a msgpack value after its length in 4 bytes, big-endian:
``[now, [[sender, fact], ...], [action, ...]]`` and, where the step raised, the error's text. A recording whose last turn
was cut off is read up to there.

Payloads do not go into it: bytes of values stand as their 16-byte digest (their size is in the value anyway), which the
machines cannot tell from the real thing, since they read no payload. What workers print does go into it.
"""

from __future__ import annotations

import os
import platform
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Union, get_type_hints

import msgspec

from sundog.backends import schema
from sundog.backends.payloads import Payloads
from sundog.core import actions as act
from sundog.core.config import Config
from sundog.core.ids import LOOP, Address, NodeID, node_of, process_of
from sundog.core.machine import Action, Event, Fact, Machine
from sundog.core.units import MILLISECOND, Nanos

FORMAT = 1
_LENGTH_BYTES = 4
_BUFFER_BYTES = 1 << 20
_FIRST_NODE = NodeID(0)

_encode = msgspec.msgpack.Encoder().encode


class RecordingError(Exception):
    """The file is no recording, or of a version whose messages this one would misread."""


class Header(msgspec.Struct, frozen=True):
    """What has to be equal for a replay to be equal, and what made the recording."""

    core: str
    schema: str
    config: Config
    node: int = 0
    #: What the machine's random generator was seeded with; None if it had none.
    seed: int | str | None = None
    clustered: bool = False
    python: str = ""
    format: int = FORMAT


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """One step as it stands in a recording."""

    now: Nanos
    events: list[msgspec.Raw]
    actions: list[msgspec.Raw]
    error: str | None = None


class Divergence(msgspec.Struct, frozen=True):
    """The first action that came out differently. ``turn`` and ``position`` count from 0; ``events`` are that turn's."""

    turn: int
    now: Nanos
    position: int
    events: tuple[str, ...]
    expected: str
    got: str

    def __str__(self) -> str:
        told = "\n".join(f"    {event}" for event in self.events) or "    nothing; a deadline had passed"
        return (
            f"turn {self.turn} at {self.now} ns, action {self.position}:\n"
            f"  expected {self.expected}\n  got      {self.got}\n  the turn's events were\n{told}"
        )


class ReplayReport(msgspec.Struct, frozen=True):
    """How a replay went."""

    turns: int
    events: int
    actions: int
    divergence: Divergence | None
    #: The file ends in the middle of a turn.
    truncated: bool
    #: The core that recorded is the core that replayed; if not, a divergence may be a change that was meant.
    same_core: bool

    def __str__(self) -> str:
        parts = [f"{self.turns} turns, {self.events} events, {self.actions} actions"]
        if not self.same_core:
            parts.append("recorded by another version of sundog.core")
        if self.truncated:
            parts.append("the last turn is cut off")
        parts.append("replayed byte for byte" if self.divergence is None else f"DIVERGED in {self.divergence}")
        return "; ".join(parts)


# --- recording ---------------------------------------------------------------------------------------------------------


class Recorder:
    """Writes one recording. ``config``, ``node`` and ``seed`` are what the machine was made with."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: Config,
        *,
        node: NodeID = _FIRST_NODE,
        seed: int | str | None = None,
        clustered: bool = False,
    ) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)  # it holds what workers print, even where the file was there before
        self._file = open(descriptor, "wb", buffering=_BUFFER_BYTES)  # noqa: SIM115 (closed by close())
        self._payloads = Payloads()
        header = Header(
            core=core_digest(), schema=schema.digest(), config=config, node=node, seed=seed, clustered=clustered,
            python=platform.python_version(),
        )  # fmt: skip
        self._write(header)

    def wrap(self, machine: Machine[Any]) -> RecordedMachine:
        """Return a machine that is ``machine`` to whoever steps it, and is recorded."""
        return RecordedMachine(machine, self)

    def turn(self, now: Nanos, events: Sequence[Event], actions: Sequence[Action], error: BaseException | None = None) -> None:
        """Write one step."""
        strip = self._payloads.strip
        told = [(sender, strip(fact)) for sender, fact in events]
        asked = [strip(action) for action in actions]
        if error is None:
            self._write((now, told, asked))
        else:
            self._write((now, told, asked, f"{type(error).__name__}: {error}"))
            self.flush()

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._file.flush()

    def close(self) -> None:
        """Write what is buffered and close the file. Idempotent."""
        self._file.close()

    def _write(self, item: object) -> None:
        body = _encode(item)
        self._file.write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)


class RecordedMachine:
    """A machine whose every step is written down. What is not of the door is that of the machine inside."""

    def __init__(self, machine: Machine[Any], recorder: Recorder) -> None:
        self.machine = machine
        self._recorder = recorder

    def step(self, now: Nanos, events: Iterable[Event]) -> Sequence[Action]:
        """See :class:`~sundog.core.machine.Machine`. An error is recorded and passed on."""
        batch = list(events)
        try:
            actions: Sequence[Action] = self.machine.step(now, batch)
        except BaseException as error:
            self._recorder.turn(now, batch, (), error)
            raise
        self._recorder.turn(now, batch, actions)
        return actions

    def next_deadline(self) -> Nanos | None:
        """See :class:`~sundog.core.machine.Machine`."""
        return self.machine.next_deadline()

    def check_invariants(self) -> None:
        """See :class:`~sundog.core.machine.Machine`."""
        self.machine.check_invariants()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.machine, name)


def core_digest() -> str:
    """Return 16 hex digits that change whenever a source of ``sundog.core`` does."""
    import sundog.core

    found = blake2b(digest_size=8)
    for source in sorted(Path(sundog.core.__path__[0]).glob("*.py")):
        text = source.read_bytes()
        found.update(f"{source.name} {len(text)}\n".encode() + text)
    return found.hexdigest()


# --- reading -----------------------------------------------------------------------------------------------------------


class Recording:
    """A recording being read. Raises RecordingError, saying what is wrong, if the file is none that can be."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._content = Path(path).read_bytes()
        self.truncated = False
        parts = self._parts()
        try:
            self.header = msgspec.msgpack.decode(next(parts), type=Header)
        except (StopIteration, msgspec.MsgspecError) as error:
            raise RecordingError(f"{os.fspath(path)} is not a recording: {str(error) or 'it is empty'}") from None
        if self.header.format != FORMAT:
            raise RecordingError(f"{os.fspath(path)} has format {self.header.format}; this version reads {FORMAT}")
        if self.header.schema != schema.digest():
            raise RecordingError(
                f"{os.fspath(path)} was recorded with message schema {self.header.schema}, this version has "
                f"{schema.digest()}: replay it with the version that recorded it"
            )
        self._turns = parts
        self._fact: msgspec.msgpack.Decoder[tuple[int, Fact]] = msgspec.msgpack.Decoder(tuple[int, _FactUnion])

    def turns(self) -> Iterator[Turn]:
        """Yield the turns, once."""
        decode = msgspec.msgpack.Decoder(Turn).decode
        for part in self._turns:
            yield decode(part)

    def event(self, raw: msgspec.Raw) -> Event:
        """Return an event of a turn."""
        sender, fact = self._fact.decode(raw)
        return Address(sender), fact

    def _parts(self) -> Iterator[memoryview]:
        content = memoryview(self._content)
        at = 0
        while at < len(content):
            length = int.from_bytes(content[at : at + _LENGTH_BYTES], "big")
            body = content[at + _LENGTH_BYTES : at + _LENGTH_BYTES + length]
            if len(body) < length or at + _LENGTH_BYTES > len(content):
                self.truncated = True
                return
            yield body
            at += _LENGTH_BYTES + length


def _without_inner_facts(kinds: Iterable[Any]) -> Any:
    """Return the union of those that a decoder can read by their types alone."""
    return Union[tuple([kind for kind in kinds if Fact not in get_type_hints(kind).values()])]  # noqa: UP007


_FactUnion: Any = _without_inner_facts(schema.facts())
_ActionUnion: Any = _without_inner_facts(schema.known_actions())


def make_host(header: Header) -> Machine[Any]:
    """Return the host that ``header`` describes, as it was before its first step."""
    rng = random.Random(header.seed) if header.seed is not None else None
    if header.clustered:
        from sundog.core.cluster_host import ClusterHost

        return ClusterHost(header.config, NodeID(header.node), rng=rng)
    from sundog.core.host import Host

    return Host(header.config, NodeID(header.node), rng=rng)


def replay(
    path: str | os.PathLike[str], make: Callable[[Header], Machine[Any]] = make_host, *, check: bool = False
) -> ReplayReport:
    """Tell a fresh machine what the recorded one was told, and compare what it answers, byte by byte, to the end or the
    first divergence. ``check``: check the machine's invariants after every step (slow).

    Raises RecordingError if the file cannot be read.
    """
    recording = Recording(path)
    machine = make(recording.header)
    payloads = Payloads()
    turns = events = actions = 0
    divergence = None
    for turn in recording.turns():
        batch = [recording.event(raw) for raw in turn.events]
        for _, fact in batch:
            payloads.learn(fact)
        error = None
        answer: list[bytes] = []
        try:
            answer = [_encode(payloads.strip(action)) for action in machine.step(turn.now, batch)]
            if check:
                machine.check_invariants()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        divergence = _compare(turns, turn, batch, answer, error)
        turns += 1
        events += len(batch)
        actions += len(answer)
        if divergence is not None or error is not None:
            break
    same_core = recording.header.core == core_digest()
    return ReplayReport(turns, events, actions, divergence, recording.truncated, same_core)


def _compare(number: int, turn: Turn, batch: Sequence[Event], answer: Sequence[bytes], error: str | None) -> Divergence | None:
    told = tuple([f"{_who(sender)} {_show(fact)}" for sender, fact in batch])
    if error != turn.error:
        return Divergence(number, turn.now, 0, told, turn.error or "no error", error or "no error")
    for position, expected in enumerate(turn.actions):
        got = answer[position] if position < len(answer) else None
        if got != bytes(expected):
            shown = "nothing" if got is None else _show_action(got)
            return Divergence(number, turn.now, position, told, _show_action(bytes(expected)), shown)
    if len(answer) > len(turn.actions):
        position = len(turn.actions)
        return Divergence(number, turn.now, position, told, "nothing", _show_action(answer[position]))
    return None


# --- for people --------------------------------------------------------------------------------------------------------


def story(path: str | os.PathLike[str], task_id: bytes) -> Iterator[str]:
    """Yield a line for every event and action that names ``task_id`` (or one of its objects), in order.

    Raises RecordingError if the file cannot be read.
    """
    recording = Recording(path)
    start: Nanos | None = None
    for number, turn in enumerate(recording.turns()):
        start = turn.now if start is None else start
        when = f"turn {number:>6} {(turn.now - start) / MILLISECOND:>12.3f} ms"
        for raw in turn.events:
            if task_id in bytes(raw):
                sender, fact = recording.event(raw)
                yield f"{when}  <- {_who(sender)} {_show(fact)}"
        for raw in turn.actions:
            if task_id in bytes(raw):
                yield f"{when}  -> {_show_action(bytes(raw))}"
        if turn.error is not None:
            yield f"{when}  !! {turn.error}"


def _who(sender: Address) -> str:
    return "loop" if sender == LOOP else f"{node_of(sender)}.{process_of(sender)}"


def _show(item: Any) -> str:
    """Return a struct as people read it: names of fields, bytes as hex, defaults left out."""
    if isinstance(item, msgspec.Struct):
        parts = []
        for field in msgspec.structs.fields(item):
            value = getattr(item, field.name)
            if field.required or value != field.default:
                parts.append(f"{field.name}={_show(value)}")
        return f"{type(item).__name__}({', '.join(parts)})"
    if isinstance(item, bytes):
        return item.hex() or "b''"
    if isinstance(item, tuple | list):
        return f"({', '.join([_show(part) for part in item])})"
    return repr(item)


def _show_action(encoded: bytes) -> str:
    fields = msgspec.msgpack.decode(encoded)
    if fields[0] == schema.tag_of(act.Send):
        message = msgspec.msgpack.decode(_encode(fields[2]), type=_FactUnion)
        return f"Send({_who(Address(fields[1]))}, {_show(message)})"
    return _show(msgspec.msgpack.decode(encoded, type=_ActionUnion))


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return an exit code: 0, 1 for a divergence, 2 for what cannot be done."""
    try:
        match list(arguments):
            case ["replay", path]:
                report = replay(path)
                sys.stdout.write(f"{report}\n")
                return 0 if report.divergence is None else 1
            case ["story", path, task_id]:
                sys.stdout.writelines(f"{line}\n" for line in story(path, bytes.fromhex(task_id)))
                return 0
    except (RecordingError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stderr.write("usage: python -m sundog.backends.recorder (replay FILE | story FILE TASK_ID_HEX)\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
