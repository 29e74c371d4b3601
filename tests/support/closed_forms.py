"""What theory says of simple systems: the values that the simulator has to meet. Times are in units of the mean service time.

Each function names its source. ``load`` is the share of time for which a server is busy, below 1.
"""

from __future__ import annotations

import math


def erlang_c(servers: int, load: float) -> float:
    """Return the chance that an arrival at M/M/c has to wait (A. K. Erlang, 1917)."""
    offered = servers * load
    term, total = 1.0, 1.0
    for number in range(1, servers):
        term *= offered / number
        total += term
    last = term * offered / servers / (1 - load)
    return last / (total + last)


def mmc_response(servers: int, load: float) -> float:
    """Return the mean time in M/M/c, waiting and service."""
    return 1 + erlang_c(servers, load) / (servers * (1 - load))


def md1_response(load: float) -> float:
    """Return the mean time in M/D/1 (Pollaczek and Khinchine)."""
    return 1 + load / (2 * (1 - load))


def mg1_response(load: float, second_moment: float) -> float:
    """Return the mean time in M/G/1, first in first out, for a service time of mean 1 and this second moment."""
    return 1 + load * second_moment / (2 * (1 - load))


def supermarket_response(probes: int, load: float) -> float:
    """Return the mean time where an arrival joins the shortest of ``probes`` queues drawn at random, many servers (Mitzenmacher,
    1996; Vvedenskaya et al., 1996)."""
    if probes == 1:
        return 1 / (1 - load)
    total, step = 0.0, 1
    while True:
        term: float = load ** ((probes**step - probes) / (probes - 1))
        total += term
        step += 1
        if term < 1e-15:
            return total


def harmonic(count: int) -> float:
    """Return 1 + 1/2 + ... + 1/count: the mean of the largest of ``count`` exponential times of mean 1."""
    return math.fsum(1 / number for number in range(1, count + 1))


def bulk_synchronous(cores: int, rounds: int) -> float:
    """Return the mean makespan of ``rounds`` rounds of one exponential task for each core, with a barrier after each."""
    return rounds * harmonic(cores)


def asynchronous(cores: int, rounds: int) -> float:
    """Return the same without barriers, from one queue: all cores work until fewer tasks than cores are left."""
    return rounds - 1 + harmonic(cores)


def fork_join_two(load: float) -> float:
    """Return the mean time of a job that forks to two M/M/1 servers and ends with the later one (Flatto and Hahn, 1984)."""
    return (12 - load) / (8 * (1 - load))


def fork_join(servers: int, load: float) -> float:
    """Return the same for more servers, within 5 % (Nelson and Tantawi, 1988)."""
    ratio = harmonic(servers) / harmonic(2)
    return (ratio + 4 / 11 * (1 - ratio) * load) * fork_join_two(load)


def ring_all_reduce(nodes: int, size: int, bandwidth: float, latency: float) -> float:
    """Return the seconds in which ``nodes`` nodes in a ring sum ``size`` bytes each; ``bandwidth`` in bytes a second."""
    return 2 * (nodes - 1) * (latency + size / (nodes * bandwidth))


def brent_bounds(work: float, critical_path: float, cores: int) -> tuple[float, float]:
    """Return the least and the largest makespan of a greedy schedule on ``cores`` cores (Brent, 1974; Graham, 1966)."""
    return max(work / cores, critical_path), (work - critical_path) / cores + critical_path
