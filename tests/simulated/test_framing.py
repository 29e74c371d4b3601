"""Messages over frames that are lost, repeated and disordered: once and in order, through the real link."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simpy.core import Environment

from sundog.backends.simulated.calls import Call
from sundog.backends.simulated.network.framing import FramedNetwork, FrameFaults
from sundog.backends.simulated.network.model import NetworkModel
from sundog.core.config import Config
from sundog.core.ids import Address, NodeID, ProcessID, address
from sundog.core.units import MICROSECOND, MILLISECOND, SECOND


def host(node: int) -> Address:
    return address(NodeID(node), ProcessID(0))


class Framed:
    """A framed network between three nodes, and what was sent and got."""

    def __init__(self, seed: int = 0, config: Config | None = None) -> None:
        self.environment = Environment(0)
        model = NetworkModel(jitter=20 * MICROSECOND)
        self.network = FramedNetwork(self.environment, model, seed=seed, config=config)
        self.sent: dict[tuple[int, int], list[int]] = {}
        self.got: dict[tuple[int, int], list[int]] = {}
        self._number = 0

    def send(self, source: int, target: int, size: int) -> None:
        self._number += 1
        number = self._number
        self.sent.setdefault((source, target), []).append(number)
        self.network.send(host(source), host(target), size, lambda: self.got.setdefault((source, target), []).append(number))

    def at(self, when: int, what: object) -> None:
        assert callable(what)
        self.environment.schedule(Call(self.environment, lambda _: what()), 1, when - self.environment.now)  # type: ignore[arg-type]

    def run(self, check: bool = True) -> None:
        while self.environment.peek() != float("inf"):
            self.environment.step()
            if check:
                self.network.check_invariants()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10 * MILLISECOND),
            st.sampled_from(["send"] * 8 + ["cut", "stop", "resume"]),
            st.integers(0, 2),
            st.integers(0, 2),
            st.sampled_from([10, 5000, 100_000, 1_000_000]),
        ),
        max_size=50,
    ),
    st.builds(FrameFaults, loss=st.integers(0, 400), duplication=st.integers(0, 1000), reordering=st.integers(0, 1000)),
    st.integers(0, 3),
)
def test_once_and_in_order(actions: list[tuple[int, str, int, int, int]], faults: FrameFaults, seed: int) -> None:
    framed = Framed(seed)
    network = framed.network
    network.frame_faults = faults
    for when, what, source, target, size in actions:
        if what == "send":
            framed.at(when, partial(framed.send, source, target, size))
        elif source != target:
            framed.at(when, partial(getattr(network, what), NodeID(source), NodeID(target)))
    framed.at(20 * MILLISECOND, network.heal)
    framed.run()
    assert framed.got == framed.sent
    assert network.undelivered() == 0


def test_frames_are_really_lost_and_sent_again() -> None:
    framed = Framed(seed=1)
    framed.network.frame_faults = FrameFaults(loss=200, duplication=200, reordering=200)
    for _ in range(300):
        framed.send(0, 1, 100)
    framed.run(check=False)
    assert framed.got == framed.sent
    assert framed.network.frames_lost > 10
    assert framed.network.reconnects > 1
    assert framed.network.delivered.messages > 350


def test_control_without_the_link_frames_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """With resending off, something must be missing: else the faults do nothing."""
    framed = Framed(seed=1)
    framed.network.frame_faults = FrameFaults(loss=200)
    monkeypatch.setattr(FramedNetwork, "_notice", lambda *_: None)
    for _ in range(300):
        framed.send(0, 1, 100)
    framed.run(check=False)
    assert len(framed.got.get((0, 1), [])) < 300
    assert framed.network.undelivered() > 0


def test_a_narrow_window_holds_back_and_goes_on() -> None:
    framed = Framed(config=Config(link_window_max=4))
    for _ in range(100):
        framed.send(0, 1, 100)
    framed.run()
    assert framed.got == framed.sent


def test_a_cut_during_a_stop_is_made_good_after_it() -> None:
    framed = Framed()
    network = framed.network
    framed.send(0, 1, 100)
    network.stop(NodeID(1), NodeID(0))
    network.cut(NodeID(0), NodeID(1))
    framed.run()
    assert framed.got == {}
    assert framed.environment.now < SECOND, "it waits for the resume, not for time"
    network.resume(NodeID(1), NodeID(0))
    framed.run()
    assert framed.got == framed.sent


def test_a_dead_node_gets_nothing_and_its_next_life_begins_anew() -> None:
    framed = Framed()
    framed.send(0, 1, 100)
    framed.send(0, 2, 100)
    framed.network.forget(NodeID(1))
    framed.send(1, 0, 100)
    framed.run()
    assert framed.got == {(0, 2): [2], (1, 0): [3]}
    assert framed.network.messages_dropped.messages == 1
    assert framed.network.undelivered() == 0


@pytest.mark.parametrize("settings", [{"loss": -1}, {"reordering": 1001}, {"loss": 1000}])
def test_shares_that_make_no_sense(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="="):
        FrameFaults(**settings)
