"""One program, three ways: plain Python, the simulator and real processes find the same, and the last two by the same IDs."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st

import sundog
from tests.support import agreement

BACKENDS: tuple[dict[str, Any], ...] = (
    {"backend": "simulated", "check_invariants": True},
    {"backend": "simulated", "nodes": 3, "durations": 0.01},
    {"backend": "local_processes"},
)
PROGRAMS = 40
SHARE_MIN = 0.2


def shares(programs: list[agreement.Program]) -> dict[str, float]:
    """Return the share of programs with each feature."""
    counts = Counter(feature for program in programs for feature in program.features)
    return {feature: counts[feature] / len(programs) for feature in agreement.FEATURES}


def found(programs: list[agreement.Program], **how: Any) -> list[agreement.Found]:
    """Run all programs in one session."""
    with sundog.init(num_workers=2, seed=7, **how):
        known = agreement.functions(sundog)
        return [agreement.run(sundog, known, program) for program in programs]


@settings(max_examples=3, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.integers(0, 2**32))
def test_plain_python_the_simulator_and_real_processes_agree(seed: int) -> None:
    random = Random(seed)
    programs = [agreement.generate(random) for _ in range(PROGRAMS)]
    for feature, share in shares(programs).items():
        event(f"{feature}: {share:.1f}")
        assert share >= SHARE_MIN, f"only {share:.0%} of the programs have {feature}"
    plain = agreement.Plain()
    known = agreement.functions(plain)
    expected = [agreement.run(plain, known, program).outcomes for program in programs]
    failed = sum(any(isinstance(o, tuple) for o in outcomes) for outcomes in expected) / PROGRAMS
    event(f"something fails: {failed:.1f}")
    assert failed >= SHARE_MIN, f"in only {failed:.0%} of the programs something fails"
    simulated, several, real = (found(programs, **how) for how in BACKENDS)
    for number, program in enumerate(programs):
        assert simulated[number].outcomes == expected[number], program
        assert real[number].outcomes == expected[number], program
        assert several[number].outcomes == expected[number], program
        assert simulated[number].ids == several[number].ids == real[number].ids, program
    assert len({name for one in real for name in one.ids}) > PROGRAMS


def test_the_generator_has_of_everything() -> None:
    random = Random(1)
    found_shares = shares([agreement.generate(random) for _ in range(1000)])
    for feature, share in found_shares.items():
        assert 0.3 < share < 0.9, feature


def test_a_disagreement_would_be_noticed() -> None:
    """The negative control: a function that answers otherwise in a session."""
    random = Random(3)
    programs = [agreement.generate(random) for _ in range(10)]
    with sundog.init(backend="simulated", num_workers=2):
        known = agreement.functions(sundog)
        known["add"] = sundog.remote(lambda a, b: a - b)
        wrong = [agreement.run(sundog, known, program).outcomes for program in programs]
    plain = agreement.Plain()
    expected = [agreement.run(plain, agreement.functions(plain), program).outcomes for program in programs]
    assert wrong != expected
