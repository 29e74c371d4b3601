"""Two nodes that cannot reach each other, while the head hears both: copies come from elsewhere, or people are told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import sundog
from tests.support.inspection import table

Simulate = Callable[..., Any]
SIZE = 50_000_000
NODES: list[dict[str, Any]] = [{"num_cpus": 1}, *({"num_cpus": 1, "resources": {f"on {i}": 1}} for i in (1, 2, 3))]


@sundog.remote
def large() -> bytes:
    return bytes(SIZE)


@sundog.remote
def size(value: bytes) -> int:
    return len(value)


def made_on(node: int) -> Any:
    made = large.options(resources={f"on {node}": 1}).remote()
    sundog.wait([made])
    return made


def size_on(node: int, value: Any) -> Any:
    return size.options(resources={f"on {node}": 1}).remote(value)


def nothing_is_pinned() -> bool:
    sundog.sleep(1)
    return not any(row["store_bytes_used"] for row in table("nodes"))


def test_a_copy_comes_from_whoever_can_be_reached(simulate: Simulate, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(nodes=NODES, faults="partition [1]|[2] at 1 s for 100 s")
    made = made_on(1)
    assert sundog.get(size_on(3, made)) == SIZE
    sundog.sleep(2)
    began = time.monotonic()
    assert sundog.get(size_on(2, made)) == SIZE
    assert 4 < time.monotonic() - began < 6, "who does not answer for 5 s is passed over"
    second = made_on(1)
    assert sundog.get(size_on(3, second)) == SIZE
    began = time.monotonic()
    assert sundog.get(size_on(2, second)) == SIZE
    assert time.monotonic() - began < 1, "who was silent is not asked first"
    assert "waited" not in capsys.readouterr().err
    del made, second
    sundog.sleep(100)
    assert nothing_is_pinned()


def test_what_stops_halfway_comes_from_elsewhere(simulate: Simulate) -> None:
    simulate(nodes=NODES, faults="partition [1]|[2] at 1.02 s for 100 s")
    made = made_on(1)
    assert sundog.get(size_on(3, made)) == SIZE
    sundog.sleep(1 - time.monotonic() % 1 if time.monotonic() < 1 else 0)
    asked = size_on(2, made)
    assert sundog.get(asked) == SIZE
    assert 10 < time.monotonic() < 20, "5 s and what 50 MB take at 5 MB/s"
    del made, asked
    sundog.sleep(100)
    assert nothing_is_pinned()


def test_where_nobody_else_has_it_people_are_told_once_and_it_comes_when_the_network_heals(
    simulate: Simulate, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(nodes=NODES, faults="partition [1]|[2] at 1 s for 200 s")
    made = made_on(1)
    sundog.sleep(2)
    asked = size_on(2, made)
    sundog.wait([asked], timeout=30)
    said = capsys.readouterr().err
    assert f"node 2 has waited 15 s for a copy of {made!r} (50,000,000 bytes)" in said
    assert "does not reach any that has one (node 1)" in said
    assert sundog.get(asked) == SIZE
    assert "has waited" not in capsys.readouterr().err
    assert 200 < time.monotonic() < 600
    del made, asked
    sundog.sleep(400)
    assert nothing_is_pinned()


def test_where_the_silent_node_dies_what_it_had_is_computed_again(simulate: Simulate) -> None:
    nodes = [*NODES[:3], {"num_cpus": 1, "resources": {"on 1": 1}, "joins": 20}]
    simulate(nodes=nodes, faults="partition [1]|[2] at 1 s; kill node 1 at 40 s")
    made = made_on(1)
    sundog.sleep(2)
    assert sundog.get(size_on(2, made)) == SIZE
    assert 40 < time.monotonic() < 50
