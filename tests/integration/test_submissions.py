"""Submitting more than a session holds: ``.remote()`` waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import sundog

_SIZE = 10_000


@sundog.remote
def length(data: bytes, seconds: float) -> int:
    time.sleep(seconds)
    return len(data)


def test_submitting_waits_while_unfinished_tasks_have_too_many_bytes_of_arguments(
    start: Callable[..., Any], backend: str, capfd: Any
) -> None:
    start(num_workers=1, config={"submitted_bytes_max": 10 * _SIZE})
    data = bytes(_SIZE)
    refs = [length.remote(data, 0.0), *[length.remote(data, 0.02) for _ in range(20)]]
    sundog.get(refs[0])  # by now the driver has heard that it is too much
    last = length.remote(data, 0.0)
    over, _ = sundog.wait(refs, num_returns=len(refs), timeout=0)
    assert len(over) >= len(refs) - 9, "it waited until no more than nine tenths were left"
    assert sundog.get([*refs, last]) == [_SIZE] * 22
    if backend == "local_processes":
        assert "submitted_bytes_max" in capfd.readouterr().err


def test_arguments_in_the_object_store_do_not_make_it_wait(start: Callable[..., Any], capfd: Any) -> None:
    start(num_workers=1, config={"submitted_bytes_max": 10 * _SIZE})
    refs = [length.remote(bytes(20 * _SIZE), 0.0) for _ in range(10)]
    assert sundog.get(refs) == [20 * _SIZE] * 10
    assert "submitted_bytes_max" not in capfd.readouterr().err
