"""The arena and the progress records: real shared memory."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sundog.backends.local_processes import arena as arena_module
from sundog.backends.local_processes.arena import SharedArena, create_arena
from sundog.backends.local_processes.progress import FINISHED, STARTED, ProgressTable, create_progress
from sundog.core.ids import ProcessID
from tests.support.deaths import TellsItsDeath

SIZE = 16 << 20


@pytest.fixture
def arena() -> Iterator[SharedArena]:
    made = SharedArena(create_arena(SIZE), SIZE)
    yield made
    made.close()


@pytest.fixture(params=["numpy", "own mapping"])
def reader(request: pytest.FixtureRequest, arena: SharedArena, monkeypatch: pytest.MonkeyPatch) -> SharedArena:
    """An arena that reads in each of its two ways."""
    if request.param == "numpy":
        pytest.importorskip("numpy")
    else:
        monkeypatch.setattr(arena, "_find_exporter", lambda: None)
    return arena


def test_what_one_maps_another_reads(reader: SharedArena) -> None:
    other = SharedArena(os.dup(reader.fd), SIZE)
    other.write(64, 5, warm=False)[:] = b"hello"
    assert bytes(reader.read(64, 5, None)) == b"hello"
    assert bytes(reader.read(66, 2, None)) == b"ll"
    other.close()


def test_a_view_is_read_only_whatever_is_done_to_it(reader: SharedArena) -> None:
    reader.write(0, 8, warm=False)[:] = b"original"
    view = reader.read(0, 8, None)
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1
    numpy = pytest.importorskip("numpy")
    array = numpy.frombuffer(view, numpy.uint8)
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


def test_death_is_told_once_when_the_last_slice_is_gone(reader: SharedArena) -> None:
    reader.write(0, 100, warm=False)[:] = bytes(range(100))
    deaths: list[int] = []
    view = reader.read(0, 100, TellsItsDeath(lambda: deaths.append(1)))
    tail = view[50:]
    cast = tail.cast("B")[1:]
    del view
    del tail
    gc.collect()
    assert deaths == []
    assert cast[0] == 51
    del cast
    assert deaths == [1]


def test_arrays_made_of_a_view_keep_it(reader: SharedArena) -> None:
    numpy = pytest.importorskip("numpy")
    original = numpy.arange(1000, dtype=numpy.float64)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(original, protocol=5, buffer_callback=buffers.append)
    reader.write(64, 8000, warm=False)[:] = buffers[0].raw()
    deaths: list[int] = []
    array = pickle.loads(data, buffers=[reader.read(64, 8000, TellsItsDeath(lambda: deaths.append(1)))])
    assert (array == original).all()
    part = array[100:200].reshape(10, 10)[2:, ::2]
    del array
    gc.collect()
    assert deaths == []
    assert part[0, 0] == 120
    del part
    assert deaths == [1]


def test_views_outlive_the_arena(reader: SharedArena) -> None:
    reader.write(0, 4, warm=False)[:] = b"stay"
    view = reader.read(0, 4, None)
    reader.close()
    reader.close()
    assert bytes(view) == b"stay"


def test_a_view_of_nothing_is_dead_at_once(arena: SharedArena) -> None:
    deaths: list[int] = []
    assert bytes(arena.read(0, 0, TellsItsDeath(lambda: deaths.append(1)))) == b""
    assert deaths == [1]


def test_cold_extents_get_their_pages_at_once_and_give_them_back(arena: SharedArena) -> None:
    def pages() -> int:
        return os.fstat(arena.fd).st_blocks * 512

    assert pages() == 0
    arena.write(4096 * 3 + 64, 8 << 20, warm=False)
    assert pages() == (8 << 20) + 4096  # neither end is aligned
    view = arena.write(4096 * 3 + 64, 8 << 20, warm=True)
    view[0] = view[-1] = 7
    arena.release_pages(4096 * 3 + 64, 8 << 20)
    assert pages() == 2 * 4096, "the first and the last page belong to others too"
    assert view[0] == 7
    assert view[-1] == 7
    arena.release_pages(64, 100)
    assert pages() == 2 * 4096


def test_no_room_is_an_error_and_not_a_signal() -> None:
    code = (
        "import resource, sys; sys.path[:] = eval(sys.argv[1])\n"
        "from sundog.backends.local_processes.arena import SharedArena, create_arena\n"
        "arena = SharedArena(create_arena(64 << 20), 64 << 20)\n"
        "arena.write(0, 1, False)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import os, errno\n"
        "os.ftruncate(arena.fd, 1 << 20)\n"  # the machine's memory is not ours to fill: a bound on the file stands for it
        "try: arena.write(0, 8 << 20, False)\n"
        "except OSError as error: print(errno.errorcode[error.errno])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, repr(sys.path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    assert done.stdout.strip() == "EFBIG", done


def test_numpy_is_not_imported_for_a_few_views() -> None:
    code = (
        "import sys; sys.path[:] = eval(sys.argv[1])\n"
        "from sundog.backends.local_processes.arena import SharedArena, create_arena\n"
        "arena = SharedArena(create_arena(1 << 20), 1 << 20); arena.write(0, 100, False)[:] = bytes(100)\n"
        "kept = [arena.read(0, 100, None) for _ in range(10)]\n"
        "assert 'numpy' not in sys.modules\n"
        "kept += [arena.read(0, 100, None) for _ in range(1000)]\n"
        "import os; print(len(os.listdir('/proc/self/fd')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, repr(sys.path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < arena_module._OWN_MAPPINGS_MAX + 20


def test_progress_records_are_shared_and_apart() -> None:
    fd = create_progress()
    ours, theirs = ProgressTable(fd), ProgressTable(fd)
    os.close(fd)
    two = theirs.record(ProcessID(2))
    two[STARTED] = 1 << 40
    two[FINISHED] = 5
    theirs.record(ProcessID(3))[STARTED] = 1
    assert ours.read(ProcessID(2)) == (1 << 40, 5)
    assert ours.read(ProcessID(3)) == (1, 0)
    ours.clear(ProcessID(2))
    assert two[STARTED] == two[FINISHED] == 0
