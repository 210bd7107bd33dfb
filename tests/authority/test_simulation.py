"""A whole rotation of the root, simulated: a small mesh of what `scripts/bench/rotation-sim` runs at full size."""

from __future__ import annotations

from functools import cache

import pytest

from scripts.bench.rotation_sim import Outcome, Scenario, Simulation

MESH = Scenario(workloads=300, capacity=5.0)
AGENTS_ONLY = Scenario(workloads=300, capacity=5.0, foreign=0.0)
BOTH = pytest.mark.parametrize("scenario", [MESH, AGENTS_ONLY], ids=["with foreign clients", "agents only"])


@cache
def run(scenario: Scenario) -> Outcome:
    """The same each time."""
    return Simulation(scenario).run()


@BOTH
def test_nobody_ever_lacks_a_root_that_somebody_presents(scenario: Scenario) -> None:
    assert run(scenario).lacked == set()


def test_without_the_gate_of_evidence_somebody_does() -> None:
    assert run(Scenario(workloads=300, capacity=5.0, gated=False)).lacked


@BOTH
def test_it_takes_as_long_as_the_plan_says(scenario: Scenario) -> None:
    outcome = run(scenario)
    for step in ("activate", "renew", "retire"):
        happened = outcome.happened(step)
        # a push takes its time: 20 s are in every estimate
        assert abs(outcome.planned(step) - happened) <= max(happened / 10, 20), step
    assert abs(outcome.planned("retire") - outcome.happened("retire")) <= outcome.happened("retire") / 10


@BOTH
def test_paced_renewals_stay_within_what_can_be_signed_and_nobody_waits(scenario: Scenario) -> None:
    outcome = run(scenario)
    assert outcome.peak <= scenario.capacity
    assert max(outcome.load.longest.values()) < 2
    assert sum(outcome.load.asked.values()) > 2 * scenario.workloads  # so that there was something to pace


def test_without_pacing_they_come_in_a_herd_that_cannot_be_signed_in_time() -> None:
    outcome = run(Scenario(workloads=300, capacity=5.0, paced=False))
    assert outcome.peak > 2 * MESH.capacity
    assert outcome.load.too_long
    assert outcome.lacked == set()
