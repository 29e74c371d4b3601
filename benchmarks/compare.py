"""Put other engines beside sundog: the same work, each engine in a process of its own, in alternating blocks.

``python -m benchmarks.compare`` takes what is installed here. An engine in another environment is named with its interpreter:
``python -m benchmarks.compare ray=/path/to/ray-env/bin/python dask=/path/to/dask-env/bin/python``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

PEER = Path(__file__).with_name("peer.py")
ENGINES = ("sundog", "futures", "joblib", "dask", "ray")
#: work -> (count for sundog, count for the others, unit, what it is)
WORKS = {
    "many": (10_000, 2_000, "tasks/s", "empty tasks, submitted together"),
    "one_by_one": (500, 200, "tasks/s", "empty tasks, one after the other"),
    "chain": (1_000, 200, "tasks/s", "dependency chain"),
    "tree": (100, 100, "tasks/s", "tree reduce of 100 leaves"),
    "small_puts": (2_000, 500, "puts/s", "put of 1 kB"),
    "busy": (1_000, 1_000, "tasks/s", "tasks of about 2 ms"),
    "returned": (200, 100, "MB/s", "returns of 10 MB"),
}
BLOCKS = 5


class Peer:
    """An engine's process, spoken to in lines."""

    def __init__(self, name: str, interpreter: str) -> None:
        self.name = name
        root = str(PEER.parents[1])
        source = f"import sys; sys.path.insert(0, {root!r}); from benchmarks import peer; peer.main({name!r})"
        self._process = subprocess.Popen(
            [interpreter, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.start = self._read()

    def run(self, work: str, count: int) -> dict[str, Any]:
        """Return the peer's answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{work} {count}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the engine and its process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"cannot": "its process ended"}


def per_second(answer: dict[str, Any]) -> float:
    """Return an answer as a rate."""
    return float(answer["count"] / answer["seconds"])


def compare(peers: list[Peer], work: str) -> dict[str, str]:
    """Return each peer's cell: its rate, and how many times slower than sundog it was in the blocks beside it."""
    mine, others, _, _ = WORKS[work]
    rates: dict[str, list[float]] = {peer.name: [] for peer in peers}
    cells = {}
    for number in range(BLOCKS + 1):
        for peer in peers:
            if peer.name in cells:
                continue
            answer = peer.run(work, mine if peer.name == "sundog" else others)
            if "cannot" in answer:
                cells[peer.name] = f"- ({answer['cannot']})"
            elif number:
                rates[peer.name].append(per_second(answer))
    for name, measured in rates.items():
        if measured:
            ratio = statistics.median(ours / theirs for ours, theirs in zip(rates["sundog"], measured, strict=True))
            cells[name] = f"{statistics.median(measured):,.0f}" + ("" if name == "sundog" else f" ({ratio:.1f}x)")
    return cells


def main(arguments: list[str]) -> int:
    """Run the comparison and print it."""
    interpreters = dict.fromkeys(ENGINES, sys.executable)
    for argument in arguments:
        name, _, interpreter = argument.partition("=")
        if name not in interpreters or not interpreter:
            print(f"{argument!r} is not ENGINE=INTERPRETER with one of {', '.join(ENGINES)}")
            return 2
        interpreters[name] = interpreter
    peers = []
    for name, interpreter in interpreters.items():
        peer = Peer(name, interpreter)
        if "cannot" in peer.start:
            print(f"{name}: {peer.start['cannot']}")
            peer.close()
        else:
            peers.append(peer)
    if not peers or peers[0].name != "sundog":
        return 1
    try:
        print("\n| work (in brackets: how many times faster sundog was) | " + " | ".join(peer.name for peer in peers) + " |")
        print("|---|" + "---|" * len(peers))
        print("| start to first result | " + " | ".join(f"{1e3 * peer.start['seconds']:,.0f} ms" for peer in peers) + " |")
        for work, (_, _, unit, what) in WORKS.items():
            cells = compare(peers, work)
            print(f"| {what}, {unit} | " + " | ".join(cells[peer.name] for peer in peers) + " |", flush=True)
    finally:
        for peer in peers:
            peer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
