"""Large extents: written in pieces, by several threads, into pages that are made on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from sundog.backends.local_processes import extent_writer
from sundog.backends.local_processes.arena import SharedArena, create_arena
from sundog.backends.local_processes.extent_writer import MappedStretches

MIB = 1 << 20
KIB = 1 << 10
PIECE = 64 * KIB
SIZE = 8 * MIB


@pytest.fixture
def arena(monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedArena]:
    monkeypatch.setattr(extent_writer, "PIECE_BYTES", PIECE)  # the sizes of real life, scaled down
    monkeypatch.setattr(extent_writer, "_THREAD_BYTES_MIN", 4 * PIECE)
    made = SharedArena(create_arena(SIZE), SIZE)
    yield made
    made.close()


def content(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def written(arena: SharedArena, offset: int, size: int) -> bytes:
    return bytes(arena.read(offset, size, None))


def until(condition: Callable[[], bool]) -> None:
    gate = threading.Event()
    for _ in range(2000):
        if condition():
            return
        gate.wait(0.005)
    raise AssertionError("it did not happen")


@pytest.mark.parametrize("helpers", [0, 2])
@pytest.mark.parametrize("numpy_loaded", [True, False])
def test_segments_arrive_whole_whoever_copies_them(
    arena: SharedArena, monkeypatch: pytest.MonkeyPatch, helpers: int, numpy_loaded: bool
) -> None:
    monkeypatch.setattr(extent_writer, "idle_cores", lambda: helpers)
    if not numpy_loaded:
        monkeypatch.setattr(extent_writer, "_copier", lambda: extent_writer._copy)
    body = content(37 * PIECE + 11)
    segments: list[bytes | memoryview] = [b"head" * 16, body.data, b"", b"tail"]
    size = sum(map(len, segments))
    arena.write(64, 1, warm=False)[:] = b"!"
    offset = PIECE - 128
    for warm in (False, True):  # the second time all is mapped
        arena.fill(offset, size, warm, segments)
        assert written(arena, offset, size) == b"".join(segments)
        body[:] = content(len(body), 1)
    assert written(arena, 64, 1) == b"!"
    assert written(arena, offset + size, 64) == bytes(64)


def test_pages_of_an_extent_that_others_wrote_are_mapped_before_the_copy(arena: SharedArena) -> None:
    other = SharedArena(os.dup(arena.fd), SIZE)
    body = content(3 * MIB)
    other.fill(0, len(body), False, [body.data])
    arena.fill(0, len(body), True, [body.data])
    assert written(arena, 0, len(body)) == body.tobytes()
    other.close()


def test_pages_behind_a_large_extent_are_made_ahead_and_no_further(arena: SharedArena, monkeypatch: pytest.MonkeyPatch) -> None:
    def pages() -> int:
        return os.fstat(arena.fd).st_blocks * 512

    monkeypatch.setattr(extent_writer, "AHEAD_BYTES", 2 * MIB)
    monkeypatch.setattr(extent_writer, "idle_cores", lambda: 0)
    arena.fill(0, 2 * MIB, False, [bytes(2 * MIB)])
    assert pages() == 2 * MIB, "a machine that is busy makes nothing ahead"
    monkeypatch.setattr(extent_writer, "idle_cores", lambda: 1)
    arena.fill(0, 2 * MIB, True, [bytes(2 * MIB)])
    until(lambda: pages() == 4 * MIB)
    writer = arena._writer
    assert writer is not None
    with writer._ahead:
        arena.fill(2 * MIB, 2 * MIB, False, [b"\1" * (2 * MIB)])  # one at a time
    assert pages() == 4 * MIB
    assert written(arena, 2 * MIB, 2 * MIB) == b"\1" * (2 * MIB)


@pytest.mark.parametrize("helpers", [0, 2])
def test_an_error_in_one_piece_is_raised_when_all_have_stopped(
    arena: SharedArena, monkeypatch: pytest.MonkeyPatch, helpers: int
) -> None:
    monkeypatch.setattr(extent_writer, "idle_cores", lambda: helpers)
    reserve = extent_writer.ExtentWriter.reserve
    active: list[int] = []

    def full(self: extent_writer.ExtentWriter, offset: int, size: int) -> None:
        active.append(offset)
        try:
            if offset >= 5 * PIECE:
                raise OSError(28, "No space left on device")
            reserve(self, offset, size)
        finally:
            active.remove(offset)

    monkeypatch.setattr(extent_writer.ExtentWriter, "reserve", full)
    body = content(40 * PIECE)
    with pytest.raises(OSError, match="No space left"):
        arena.fill(0, len(body), False, [body.data])
    assert not active
    monkeypatch.setattr(extent_writer.ExtentWriter, "reserve", reserve)
    arena.fill(0, len(body), False, [body.data])
    assert written(arena, 0, len(body)) == body.tobytes()


def test_an_interrupt_leaves_no_thread_writing(arena: SharedArena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extent_writer, "idle_cores", lambda: 2)
    main = threading.get_ident()
    helping, struck, finished = threading.Event(), threading.Event(), []
    reserve = extent_writer.ExtentWriter.reserve

    def interrupted(self: extent_writer.ExtentWriter, offset: int, size: int) -> None:
        if threading.get_ident() == main:
            assert helping.wait(10)
            struck.set()
            raise KeyboardInterrupt
        helping.set()
        assert struck.wait(10)
        reserve(self, offset, size)
        finished.append(offset)

    monkeypatch.setattr(extent_writer.ExtentWriter, "reserve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        arena.fill(0, 40 * PIECE, False, [bytes(40 * PIECE)])
    seen = len(finished)
    assert seen >= 1
    gate = threading.Event()
    gate.wait(0.02)
    assert len(finished) == seen


def test_a_full_machine_is_an_error_in_the_middle_too() -> None:
    code = (
        "import sys; sys.path[:] = eval(sys.argv[1])\n"
        "import errno, os, resource, signal\n"
        "from sundog.backends.local_processes.arena import SharedArena, create_arena\n"
        "arena = SharedArena(create_arena(64 << 20), 64 << 20)\n"
        "arena.fill(0, 2 << 20, False, [bytes(2 << 20)])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, 5 << 20))\n"
        "os.ftruncate(arena.fd, 5 << 20)\n"  # the machine's memory is not ours to fill: a bound on the file stands for it
        "try: arena.fill(0, 16 << 20, False, [bytes(16 << 20)])\n"
        "except OSError as error: print(errno.errorcode[error.errno])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, repr(sys.path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    assert done.stdout.strip() == "EFBIG", done


def test_stretches_join_and_cover() -> None:
    pages = 60
    for seed in range(200):
        rng = np.random.default_rng(seed)
        stretches, model = MappedStretches(), np.zeros(pages, bool)
        for _ in range(12):
            start = int(rng.integers(0, pages - 1))
            end = int(rng.integers(start + 1, pages + 1))
            if rng.integers(2):
                stretches.add(start, end)
                model[start:end] = True
            assert stretches.covers(start, end) == bool(model[start:end].all()), (seed, start, end)
        assert stretches._starts == sorted(stretches._starts)
        assert all(end < start for end, start in zip(stretches._ends, stretches._starts[1:], strict=False)), seed


def test_many_stretches_are_forgotten_rather_than_kept() -> None:
    stretches = MappedStretches()
    for index in range(5000):
        stretches.add(2 * index, 2 * index + 1)
        assert len(stretches._starts) <= extent_writer._STRETCHES_MAX
