"""Stopping what can't recover: never a healthy attempt, soon a hopeless one."""

from __future__ import annotations

import numpy as np
import pytest

from keepwarm.strategy.early import decide
from keepwarm.strategy.evidence import evidence
from keepwarm.strategy.watch import watch

STEPS = 100


def records(curve, tolerance=0.3, noise=0.02, upto=100, ends="peak", switch=0, seed=0):
    """Evaluations every 5 steps of an attempt whose old corpus d0 has forgotten curve(step) nats."""
    rng = np.random.default_rng(seed)
    reference = (3 + rng.normal(0, 0.5, 96)).tolist()
    header = {
        "kind": "header", "ends": ends, "old": ["d0"], "steps": STEPS, "switch_step": switch,
        "references": {"d0": {"windows": reference}}, "tolerance": {"d0": {"nats": tolerance}}, "new": None,
        "before": {}, "step_tokens": 2048,
    }  # fmt: skip
    found = [header]
    for step in range(5, upto + 1, 5):
        windows = [reference[i] + curve(step) + rng.normal(0, noise) for i in range(0, 96, 12)]
        found.append(
            {"kind": "eval", "full": False, "step": step, "tokens": step * 2048, "loss": {"d0": float(np.mean(windows))},
             "windows": {"d0": windows}}
        )  # fmt: skip
    return found


def rising(height):
    return lambda step: height * np.log1p(step / 5) / np.log1p(STEPS / 5)


def hopeless(found):
    """Why the watcher stops an attempt there, or None."""
    return next((event["text"] for event in watch(found) if event["event"] == "stopped-early"), None)


def stopped_at(curve, **more):
    return next((step for step in range(5, STEPS + 1, 5) if hopeless(records(curve, upto=step, **more))), None)


def test_clear_forgetting_is_stopped_a_third_of_the_way():
    assert stopped_at(rising(1.5)) == 30  # at 25 % for the first time, and the second time in a row
    assert "d0 has forgotten" in hopeless(records(rising(1.5), upto=30))


@pytest.mark.parametrize("seed", range(20))
def test_forgetting_within_tolerance_is_never_stopped(seed):
    assert stopped_at(rising(0.28), seed=seed) is None


@pytest.mark.parametrize("seed", range(10))
def test_a_spike_that_comes_back_is_never_stopped(seed):
    assert stopped_at(lambda step: 1.2 * np.exp(-step / 12), seed=seed) is None


def test_before_the_evidence_is_there_nothing_is_stopped():
    assert hopeless(records(rising(3.0), upto=25)) is None


def test_an_attempt_that_lowers_its_rate_is_trained_to_the_end():
    assert stopped_at(rising(3.0), ends="cooled") is None


def test_the_clock_starts_at_the_switch_of_data():
    assert stopped_at(lambda step: 0.0 if step <= 50 else rising(1.5)(step - 50), switch=50) in (80, 85)


def test_every_decision_is_an_event_with_its_numbers():
    (event,) = watch(records(rising(0.1), upto=60))
    assert (event["event"], event["outcome"], event["sure"]) == ("decision", "recovered", "clear")
    assert event["corpora"]["d0"]["forecast"] == pytest.approx(0.1, abs=0.02)
    assert event["corpora"]["d0"]["tolerance"] == 0.3
    assert event["text"].startswith("recovered (clear): d0 has forgotten +0.0")


def test_beyond_the_tolerance_and_coming_back_is_recovering():
    assert decide(evidence(records(lambda step: 1.2 * np.exp(-step / 25), upto=30))).outcome == "recovering"


def test_too_little_evidence_says_nothing():
    assert watch(records(rising(3.0), upto=20)) == ()
