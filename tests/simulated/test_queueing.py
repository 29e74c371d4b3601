"""Networks against the theory of queues: confidence intervals over seeds, and controls that must fail."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import pytest
from simpy.core import Environment
from simpy.events import Event

from sundog.backends.simulated.calls import Call
from sundog.backends.simulated.network.connections import Network
from sundog.backends.simulated.network.model import NetworkModel
from sundog.core.ids import NodeID, ProcessID, address
from sundog.core.units import SECOND

#: Of the receiver's downlink; the sender's uplink is no bottleneck.
BANDWIDTH = 1_000_000_000
MEAN_SIZE = 1_000_000
LOAD = 0.7
MESSAGES, WARM_UP, SEEDS = 2200, 200, 10

Law = Callable[[Random], float]


def exponential(random: Random) -> float:
    return random.expovariate(1.0)


def pareto(random: Random) -> float:
    """Heavy-tailed: of index 2.5, with mean 1."""
    return 0.6 * random.paretovariate(2.5)


def constant(random: Random) -> float:
    return 1.0


def slowdowns(law: Law, seed: int, *, one_connection: bool = False) -> list[float]:
    """Send messages at random times; return how many times longer each took than alone, in the order of arrival."""
    random = Random(f"{law.__name__} {seed}")
    environment = Environment(0)
    model = NetworkModel(latency=0, bandwidth=BANDWIDTH, bandwidths=((0, 1000 * BANDWIDTH, BANDWIDTH),), flow_bytes_min=8192)
    network = Network(environment, model)
    found: list[float] = [0.0] * MESSAGES

    def send(number: int, size: int, _: Event) -> None:
        sent = environment.now
        source = address(NodeID(0), ProcessID(0 if one_connection else number))

        def delivered() -> None:
            found[number] = (environment.now - sent) * BANDWIDTH / (size * SECOND)

        network.send(source, address(NodeID(1), ProcessID(0)), size, delivered)

    when = 0.0
    for number in range(MESSAGES):
        when += random.expovariate(LOAD * BANDWIDTH / MEAN_SIZE)
        size = max(10_000, round(MEAN_SIZE * law(random)))
        call = Call(environment, partial(send, number, size))
        environment.schedule(call, 1, round(when * SECOND))  # type: ignore[arg-type]
    environment.run()
    network.check_invariants()
    return found[WARM_UP:]


def agrees(samples: Sequence[float], theory: float) -> bool:
    """Whether the mean over seeds lies within three standard errors, or 1 %, of ``theory``."""
    error = statistics.stdev(samples) / math.sqrt(len(samples))
    return abs(statistics.fmean(samples) - theory) <= max(3 * error, 0.01 * theory)


@pytest.mark.parametrize("law", [exponential, pareto, constant], ids=lambda law: law.__name__)
def test_one_shared_link_is_processor_sharing(law: Law) -> None:
    """M/G/1-PS: E[T(x)] = x / (B (1 - load)), whatever the law of sizes: the slope is the same for all three."""
    samples = [statistics.fmean(slowdowns(law, seed)) for seed in range(SEEDS)]
    theory = 1 / (1 - LOAD)
    assert agrees(samples, theory), (statistics.fmean(samples), theory)
    assert not agrees(samples, 1 / (1 - (LOAD - 0.1))), "a load of 0.6 would fit as well: the test sees nothing"


def test_control_one_connection_is_no_processor_sharing() -> None:
    """On one connection messages queue: the formula of sharing must not fit."""
    samples = [statistics.fmean(slowdowns(exponential, seed, one_connection=True)) for seed in range(SEEDS)]
    assert not agrees(samples, 1 / (1 - LOAD)), statistics.fmean(samples)


def test_one_connection_is_a_queue() -> None:
    """M/D/1: T = 1 + load / (2 (1 - load)) = 2.1667 at 0.7."""
    samples = [statistics.fmean(slowdowns(constant, seed, one_connection=True)) for seed in range(SEEDS)]
    assert agrees(samples, 1 + LOAD / (2 * (1 - LOAD))), statistics.fmean(samples)
    assert not agrees(samples, 1 / (1 - LOAD))
