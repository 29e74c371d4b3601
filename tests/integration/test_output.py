"""What workers print appears at the driver: prefixed, in time, and bounded."""

# ruff: noqa: T201 (printing is the subject)

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sundog
from tests.support.files import Gate
from tests.support.inspection import workers
from tests.support.programs import run
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real_processes
Capture = pytest.CaptureFixture[str]


@pytest.mark.usefixtures("session")
def test_prints_are_prefixed_with_function_and_pid_and_come_before_the_result(capsys: Capture):
    @sundog.remote
    def talks(i):
        print("hello", i)
        print("and more", end="")
        return os.getpid()

    for i in range(30):
        capsys.readouterr()
        pid = sundog.get(talks.remote(i))
        out = capsys.readouterr().out
        assert out.splitlines() == [f"(talks pid={pid}) hello {i}", f"(talks pid={pid}) and more"]


@pytest.mark.usefixtures("session")
def test_stderr_goes_to_stderr(capsys: Capture):
    @sundog.remote
    def complains():
        print("oh no", file=sys.stderr)
        print("fine")

    sundog.get(complains.remote())
    captured = capsys.readouterr()
    assert "oh no" in captured.err
    assert "fine" in captured.out
    assert "oh no" not in captured.out
    assert captured.err.startswith("(complains pid=")


@pytest.mark.usefixtures("session")
def test_what_c_code_and_subprocesses_write_appears_too(capsys: Capture):
    @sundog.remote
    def shell():
        print("before", flush=True)
        os.system("echo from the shell; echo to stderr >&2")
        os.write(1, b"straight to the descriptor\n")
        return os.getpid()

    pid = sundog.get(shell.remote())
    captured = capsys.readouterr()
    for line in ("before", "from the shell", "straight to the descriptor"):
        assert f"(shell pid={pid}) {line}\n" in captured.out
    assert "to stderr" in captured.err


@pytest.mark.usefixtures("session")
def test_output_appears_while_the_task_runs_and_while_the_driver_computes(capsys: Capture, gate: Gate):
    @sundog.remote
    def talks():
        print("in the middle")
        gate.wait()

    pending = talks.remote()
    seen: list[str] = []

    def said() -> bool:
        seen.append(capsys.readouterr().out)
        return "in the middle" in "".join(seen)

    wait_until(said)  # without any call into sundog
    gate.open()
    sundog.get(pending)


@pytest.mark.usefixtures("session")
def test_text_without_a_line_end_is_not_lost(capsys: Capture):
    @sundog.remote
    def talks(text):
        sys.stdout.write(text)

    sundog.get(talks.remote("no line end"))
    assert "no line end\n" in capsys.readouterr().out
    sundog.get(talks.remote("gr\u00fc\u00dfe \u2603 \x1b[1mbold\x1b[0m"))
    assert "gr\u00fc\u00dfe \u2603" in capsys.readouterr().out


@pytest.mark.usefixtures("session")
def test_output_of_nested_tasks_and_threads_appears_under_their_names(capsys: Capture):
    @sundog.remote
    def child():
        print("from the child")

    @sundog.remote
    def parent():
        thread = threading.Thread(target=lambda: print("from a thread"))
        thread.start()
        thread.join()
        sundog.get(child.remote())
        print("from the parent")

    sundog.get(parent.remote())
    out = capsys.readouterr().out
    assert "(child pid=" in out
    for line in out.splitlines():
        assert line.startswith("(child pid=" if "child" in line else "(parent pid=")
    assert len(out.splitlines()) == 3


@pytest.mark.usefixtures("session")
def test_a_named_task_prints_under_its_name(capsys: Capture):
    @sundog.remote
    def talks():
        print("hello")

    sundog.get(talks.options(name="called otherwise").remote())
    assert capsys.readouterr().out.startswith("(called otherwise pid=")


@pytest.mark.usefixtures("session")
def test_the_last_words_of_a_worker_that_dies_appear(capsys: Capture):
    @sundog.remote(max_retries=0)
    def dies():
        print("last words")
        os._exit(1)

    with pytest.raises(sundog.WorkerCrashedError):
        sundog.get(dies.remote())
    assert "last words" in capsys.readouterr().out


def test_a_flood_is_bounded_and_says_what_it_dropped(start: Callable[..., Any], capsys: Capture):
    start(num_workers=1, config={"output_bytes_per_second_max": 20_000})

    @sundog.remote
    def floods():
        for i in range(20_000):
            print(f"line {i} of a flood that nobody will read")

    sundog.get(floods.remote())
    seen: list[str] = []

    def told() -> bool:
        seen.append(capsys.readouterr().out)
        return "dropped" in "".join(seen)

    wait_until(told)
    text = "".join(seen)
    assert "line 0 of" in text
    assert len(text) < 300_000

    @sundog.remote
    def quiet():
        print("after the flood")

    def heard() -> bool:
        sundog.get(quiet.remote())
        return "after the flood" in capsys.readouterr().out

    wait_until(heard)


@pytest.mark.usefixtures("session")
def test_a_flood_from_below_python_does_not_stop_the_session(capsys: Capture):
    @sundog.remote
    def floods():
        os.system("yes | head -c 5000000")
        return "done"

    assert sundog.get(floods.remote()) == "done"
    assert len(workers()) >= 1
    capsys.readouterr()


def test_output_is_plain_where_it_is_not_a_terminal_and_coloured_where_it_is(tmp_path: Path):
    import pty
    import subprocess

    program = (
        "import sundog\n"
        "@sundog.remote\ndef talks():\n    print('hello')\n"
        "with sundog.init(num_workers=1):\n    sundog.get(talks.remote())\n"
    )
    assert "\x1b[" not in run(program, tmp_path).out
    ours, theirs = pty.openpty()
    try:
        environment = {**os.environ, "PYTHONPATH": os.getcwd(), "TERM": "xterm"}
        environment.pop("NO_COLOR", None)
        process = subprocess.Popen([sys.executable, str(tmp_path / "program.py")], stdout=theirs, env=environment)
        os.close(theirs)
        text = b""
        try:
            while piece := os.read(ours, 4096):
                text += piece
        except OSError:
            pass  # the terminal's other end is closed
        assert process.wait(60) == 0
    finally:
        os.close(ours)
    assert b"\x1b[" in text
    assert b"hello" in text
