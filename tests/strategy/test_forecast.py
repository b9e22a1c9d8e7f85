"""Forecasts from pilots: laws found again, intervals that hold what they say, the share that is recommended."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm.strategy.forecast import (
    CANDIDATES,
    Asked,
    Pilot,
    critical,
    made,
    predicted,
    predicted_excess,
    recommended,
)
from keepwarm.strategy.laws import critical_law, growth, moved, new_gain, old_loss, unprotected
from keepwarm.strategy.surface import Points, Steps, drift_of, fit_new

STEP, WINDOWS, PILOT, STAGE = 2048, 60, 24, 160
LAW_OLD = {
    "scale": 0.35, "k": STEP * 2.5, "gamma": -0.5, "b": 60.0, "kappa": 0.4, "alpha": 0.5, "unit_tokens": PILOT * STEP,
    "drift": -0.2, "before_tokens": 600 * STEP, "step_tokens": STEP, "beta": 0.9,
}  # fmt: skip
LAW_NEW = {"scale": 1.2, "k": STEP * 1.5, "gamma": -0.25, "eta": 0.8, "step_tokens": STEP, "beta": 0.9}


def pilots(shares=(0.0, 0.05, 0.25), noise=0.01, seed=0, tolerance=0.4):
    """Metrics of pilots whose losses follow the laws, with noise that all windows of a point share and noise of each."""
    rng = np.random.default_rng(seed)
    before = {"d0": 3.5 + rng.normal(0, 0.4, WINDOWS), "d1": 6.5 + rng.normal(0, 0.4, WINDOWS)}
    steps = [3, 5, 8, 11, 14, 17, 20, 22, PILOT]
    common = {step: rng.normal(0, noise, 2) for step in steps}
    found = []
    for share in shares:
        records = [{
            "kind": "header", "old": ["d0"], "new": "d1", "adaptation": {"share": 0.7},
            "before": {n: {"loss": float(w.mean()), "windows": w.tolist()} for n, w in before.items()},
            "references": {"d0": {"loss": float(before["d0"].mean()), "windows": before["d0"].tolist()}},
            "tolerance": {"d0": {"nats": tolerance}},
            "evaluation": {"subset": {"d0": WINDOWS, "d1": WINDOWS}},
        }]  # fmt: skip
        for step in steps:
            up = float(old_loss(share, step * STEP, LAW_OLD)) + common[step][0]
            down = float(new_gain(share, step * STEP, LAW_NEW)) + common[step][1]
            windows = {
                "d0": (before["d0"] + up + rng.normal(0, 0.02, WINDOWS)).tolist(),
                "d1": (before["d1"] - down + rng.normal(0, 0.02, WINDOWS)).tolist(),
            }
            records.append(
                {"kind": "eval", "step": step, "tokens": step * STEP, "full": step == PILOT, "windows": windows}
            )
        found.append(Pilot(share, records))
    return found


def record(**more):
    asked = Asked(STAGE * STEP, [80 * STEP, STAGE * STEP], Steps(STEP, 0.9), 600 * STEP, seed=1)
    return made(pilots(**more), {"d0": (-0.2, 0.03)}, asked)


@pytest.fixture(scope="module")
def forecast():
    return record()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.25, 0.5])
def test_the_whole_stage_is_foretold_from_a_seventh_of_it(forecast, share):
    draws = predicted(forecast, share, STAGE * STEP)
    old = forecast["corpora"]["d0"]["before"] + float(old_loss(share, STAGE * STEP, LAW_OLD))
    new = forecast["corpora"]["d1"]["before"] - float(new_gain(share, STAGE * STEP, LAW_NEW))
    assert np.quantile(draws["d0"], 0.02) < old < np.quantile(draws["d0"], 0.98)
    assert np.median(draws["d0"]) == pytest.approx(old, abs=0.15)
    assert np.quantile(draws["d1"], 0.02) < new < np.quantile(draws["d1"], 0.98)


def test_intervals_hold_about_what_they_say():
    """80 % intervals at shares without a pilot, over streams of noise: neither empty promises nor useless."""
    inside = []
    for seed in range(8):
        made_of = record(seed=seed, noise=0.02)
        for share in (0.01, 0.1, 0.5):
            low, high = np.quantile(predicted(made_of, share, STAGE * STEP)["d0"], [0.1, 0.9])
            truth = made_of["corpora"]["d0"]["before"] + float(old_loss(share, STAGE * STEP, LAW_OLD))
            inside.append(low <= truth <= high)
    assert np.mean(inside) >= 0.6


def test_windows_of_the_way_that_differ_are_scaled_to_all_of_them():
    """Where the pilots end, all windows were measured: which of them were on the way is no doubt there."""
    steps = np.array([8.0, 12.0, 16.0, 20.0, 24.0])
    curve = np.array([-float(new_gain(0.0, step * STEP, LAW_NEW)) for step in steps])
    windows = curve[:, None] * np.random.default_rng(0).uniform(0.4, 1.6, WINDOWS // 4)
    whole = np.where(steps == PILOT, 0.9 * curve, windows.mean(axis=1))
    surface = fit_new(Points(np.zeros(5), steps * STEP, windows, whole), Steps(STEP, 0.9), seed=1)
    draws = -new_gain(0.0, PILOT * STEP, surface.law)
    assert np.median(draws) == pytest.approx(whole[-1], rel=0.02)
    assert np.ptp(np.quantile(draws, [0.1, 0.9])) < 0.03 * abs(whole[-1])


def test_further_out_is_less_sure(forecast):
    width = [
        np.ptp(np.quantile(predicted(forecast, 0.05, n * STEP)["d0"], [0.1, 0.9])) for n in (PILOT, STAGE, 10 * STAGE)
    ]
    assert width[0] < width[1] < width[2]


def test_the_least_share_that_holds_is_recommended(forecast):
    found = recommended(forecast)
    excess = {share: predicted_excess(forecast, share)["d0"][0] for share in CANDIDATES}
    assert excess[found["share"]] <= 0.01 and found["confidence"] >= 0.5
    assert all(value > -0.01 for share, value in excess.items() if share < found["share"])


def test_none_is_recommended_where_half_is_too_little():
    assert record(tolerance=-0.5)["recommended"] is None


def test_a_wider_tolerance_allows_more_new_data(forecast):
    wide = record(tolerance=0.8)
    assert critical(wide, STAGE * STEP)["share"] > critical(forecast, STAGE * STEP)["share"]


def test_old_data_alone_forgets_nothing_and_none_forgets_all():
    assert float(unprotected(0.0, 60.0)) == 1.0 and float(unprotected(1.0, 60.0)) == pytest.approx(0.0)
    assert float(old_loss(1.0, 5e5, LAW_OLD)) == pytest.approx(-0.2 * np.log1p(5e5 / (600 * STEP)))


@given(st.floats(0.01, 100), st.floats(-1.5, 0.5))
@settings(max_examples=50)
def test_growth_is_one_family(x, gamma):
    assert growth(np.array(x), 0.0) == pytest.approx(np.log1p(x))
    slope = (growth(np.array(x * 1.0001), gamma) - growth(np.array(x), gamma)) / (x * 0.0001)
    assert slope == pytest.approx((1 + x) ** (gamma - 1), rel=2e-3)


def test_moments_that_are_kept_hold_the_first_steps_back():
    assert moved(STEP, STEP, 0.9) == pytest.approx(STEP * (1 - 0.9))
    assert moved(1000 * STEP, STEP, 0.9) == pytest.approx(STEP * (1000 - 9))


def test_the_law_of_the_critical_share_is_found_again():
    tokens = np.geomspace(1e5, 1e7, 8)
    b0, b1, s = critical_law(tokens, 0.9 - 8.0 * tokens**-0.3)
    assert (b0, s) == (pytest.approx(0.9), -0.3) and b1 == pytest.approx(-8.0)
    assert critical_law([1e5, 1e6], [0.5, 0.6]) is None


def test_the_drift_of_the_stage_before():
    tokens = np.arange(1, 21) * 1e5
    slope, doubt = drift_of(tokens, 4 - 0.3 * np.log(tokens))
    assert slope == pytest.approx(-0.8 * 0.3) and doubt == pytest.approx(
        0.2 * 0.3, rel=1e-3
    )  # it falls off, in log time
    assert drift_of([1.0, 2.0], [3.0, 3.0]) is None
