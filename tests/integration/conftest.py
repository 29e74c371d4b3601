"""Sessions for the tests of the whole system, on every backend that there is.

A test asks for ``session`` (one with two workers that tests share as long as they leave it as they found it) or for ``start``
(a session of its own, with the settings that it names). Either way the end of the session is checked: nothing may be left.
Tests marked ``real_processes`` are about processes, signals or descriptors and run only on backends that have some.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sundog
from tests.support import leaks
from tests.support.files import Gate, Notes
from tests.support.inspection import table
from tests.support.waiting import wait_until

#: "cluster" slots in here.
BACKENDS = ("local_processes", "simulated")
#: Files whose tests also run on three simulated nodes.
ON_SEVERAL_NODES = frozenset({"test_nested", "test_wait", "test_futures", "test_errors"})
SEVERAL_NODES = "simulated, 3 nodes"
WITH_PROCESSES = frozenset({"local_processes", "cluster"})
#: What the shared session is started with.
SHARED: dict[str, Any] = {"num_workers": 2}

_HERE = Path(__file__).parent
_MARK = leaks.mark_this_run()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "one_node: about what one node does; tasks must not leave it")
    config.addinivalue_line("markers", "real_processes: about processes, signals or descriptors; means nothing to a simulation")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        real = metafunc.definition.get_closest_marker("real_processes") is not None
        chosen = [name for name in BACKENDS if not real or name in WITH_PROCESSES]
        alone = metafunc.definition.get_closest_marker("one_node") is not None
        if not real and not alone and metafunc.module.__name__.rpartition(".")[2] in ON_SEVERAL_NODES:
            chosen.append(SEVERAL_NODES)
        metafunc.parametrize("backend", chosen, scope="module")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report: pytest.TestReport = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


_PASSED = pytest.StashKey[bool]()


class Sessions:
    """The one session that this process may have, and what the process was like before it."""

    def __init__(self) -> None:
        self._running: tuple[str, dict[str, Any]] | None = None
        self._before: leaks.Baseline | None = None

    def use(self, backend: str, settings: dict[str, Any]) -> None:
        """See that a session of these settings runs; the one that runs already will do if it is the same."""
        if self._running == (backend, settings) and sundog.is_initialized():
            return
        self.end()
        self.begin(backend, settings)

    def begin(self, backend: str, settings: dict[str, Any]) -> Any:
        """Start a session."""
        gc.collect()
        self._before = leaks.Baseline(_MARK)
        self._running = (backend, dict(settings))
        if backend == SEVERAL_NODES:
            return sundog.init(backend="simulated", nodes=3, **settings)
        return sundog.init(backend=backend, **settings)

    def end(self, check: bool = True) -> None:
        """End what runs, and check that nothing is left of it."""
        sundog.shutdown()
        before, self._before, self._running = self._before, None, None
        if before is not None and check:
            before.check()


_SESSIONS = Sessions()


@pytest.hookimpl(wrapper=True, trylast=True)  # inside the capture, whose descriptors the check knows
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Any:
    """The shared session ends before tests that know nothing of it: some start their own, and simulated ones make time virtual."""
    yield
    if nextitem is None or _HERE not in nextitem.path.parents or "backend" not in getattr(nextitem, "fixturenames", ()):
        _SESSIONS.end()


@pytest.fixture(scope="session")
def sessions() -> Sessions:
    return _SESSIONS


@pytest.fixture
def session(backend: str, sessions: Sessions, request: pytest.FixtureRequest) -> Iterator[None]:
    """The shared session. Afterwards no task is unfinished and no object is held, or the test has kept something alive."""
    sessions.use(backend, SHARED)
    yield
    if not request.node.stash.get(_PASSED, False):
        sessions.end(check=False)  # pytest keeps the frames of a failed test, and with them whatever IDs they held
        return
    try:
        nothing_is_held()
    except BaseException:
        sessions.end(check=False)
        raise


@pytest.fixture
def start(backend: str, sessions: Sessions, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """A function that starts a session with the settings given (those of ``sundog.init``)."""
    sessions.end()

    def begin(**settings: Any) -> Any:
        return sessions.begin(backend, settings)

    yield begin
    sessions.end(check=request.node.stash.get(_PASSED, False))


def nothing_is_held() -> None:
    """Wait until the session holds no object and no task."""
    gc.collect()
    wait_until(
        lambda: not table("objects") and not table("tasks"),
        timeout=10,
        what=lambda: f"no object and no task is left: {table('objects')} {table('tasks')}",
    )


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate that bodies wait at. It is opened at the test's end, so that a failing test leaves nobody waiting."""
    made = Gate(tmp_path / "gate")
    yield made
    made.open()


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    """A file that bodies write lines to."""
    return Notes(tmp_path / "notes")


@pytest.fixture(autouse=True)
def _where(tmp_path: Path) -> Iterator[None]:
    """Tests may change the directory; it is changed back."""
    here = os.getcwd()
    yield
    os.chdir(here)
