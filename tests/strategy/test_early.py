"""The verdict on the way: every state of the machine, and stopping what can't recover: never a healthy attempt."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keepwarm.strategy.early import decide, decisions, stops, training_broke
from keepwarm.strategy.evidence import Evidence, NewSeries, OldSeries, Training, evidence
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


def in_full(found, less=0.0):
    """The last evaluation on all 96 windows: those not measured on the way forgot `less` nats less."""
    last, reference = found[-1], found[0]["references"]["d0"]["windows"]
    moved = np.mean(last["windows"]["d0"]) - np.mean(reference[::12])
    windows = [value + moved - (less if i % 12 else 0) for i, value in enumerate(reference)]
    return last | {"full": True, "loss": {"d0": float(np.mean(windows))}, "windows": {"d0": windows}}


def named(found):
    return [event["event"] for event in watch(found)]


def hopeless(found):
    """Why the watcher stops an attempt there, asked again on all windows where it wants them; or None."""
    if "confirm" in named(found):
        found = [*found, in_full(found)]
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


# The machine on series with known numbers. A constant is fitted exactly by either curve, so that without noise its doubt
# is the drift alone, DRIFT * reference * ln(1 / share): 2 doubts are 0.15 ln(1 / share) at the reference of 3 nats.

HALF = np.arange(5.0, 51, 5)  # ten evaluations, half of the phase


def flat(value, count=10):
    return np.full(count, float(value))


def old(forgotten, tolerance=0.3, noise=1e-6, returns=0.0, control=None, reference=3.0, name="d0"):
    unknown = flat(np.nan, len(forgotten))
    spread = flat(noise, len(forgotten))
    return OldSeries(name, reference, tolerance, forgotten, spread, returns, unknown if control is None else control)


def new(gained, noise=0.01, control=None, share=0.7):
    unknown = flat(np.nan, len(gained))
    return NewSeries("d1", gained, flat(noise, len(gained)), unknown if control is None else control, share)


def seen(*corpora, since=HALF, learns=None, loss=None, norm=None, falling=False, faster=False, broken=None):
    quiet = flat(np.nan, len(since))
    training = Training(quiet if loss is None else loss, flat(1, len(since)) if norm is None else norm)
    return Evidence(since, STEPS, 2048, falling, faster, broken, corpora, learns, training)


def outcome(found):
    return found.outcome, found.sure


@pytest.mark.parametrize(
    ("forgotten", "expected"),
    [
        (0.3 - 0.105, ("recovered", "clear")),  # 0.15 ln 2 = 0.10397
        (0.3 - 0.103, ("recovered", "close")),
        (0.3, ("recovered", "close")),
        (0.3 + 0.103, ("not-recovering", "close")),
        (0.3 + 0.105, ("not-recovering", "clear")),
    ],
)
def test_the_border_of_clear_is_two_doubts(forgotten, expected):
    found = decide(seen(old(flat(forgotten))))
    assert outcome(found) == expected
    stand = found.old["d0"]
    assert stand.forecast == pytest.approx(forgotten) and stand.doubt == pytest.approx(0.075 * math.log(2), rel=1e-3)
    assert stand.state == "on a plateau" and stand.slope == 0


def test_a_forecast_beyond_is_not_clear_before_the_corpus_itself_is_beyond():
    rising_late = 0.29 + 0.004 * HALF  # 0.49 at half
    assert decide(seen(old(rising_late, noise=0.001, reference=0.1))).sure == "clear"
    assert outcome(decide(seen(old(rising_late, noise=0.1, reference=0.1)))) == ("not-recovering", "close")


def test_it_takes_two_clear_decisions_in_a_row():
    """0.45 against 0.3 is clear once 0.15 > 0.15 ln(1 / share): beyond 1/e = 36.8 % of the phase."""
    whole = np.arange(5.0, 100, 5)
    attempt = seen(old(flat(0.45, 19)), since=whole)
    sure = {int(each.since_steps): each.sure for each in decisions(attempt)}
    assert (sure[30], sure[35], sure[40], sure[45]) == ("close", "close", "clear", "clear")
    assert next(n for n in range(1, 20) if stops(attempt.until(n))) == 9 and whole[8] == 45


def test_recovered_is_no_reason_to_stop():
    assert stops(seen(old(flat(0.0)))) is None


def test_a_worsening_curve():
    found = decide(seen(old(0.1 * np.log1p(HALF / 5) + 0.4)))
    assert found.outcome == "not-recovering" and found.old["d0"].state.startswith("worsening")
    assert found.old["d0"].crosses_tokens is None and found.trouble == "forgetting"
    assert found.text.startswith("d0 has forgotten +0.6") and found.text.endswith("tolerance 0.300")


def test_falling_too_slowly_says_when_it_would_be_back():
    """1 - 0.4 ln(1 + t/50) is one of the curves that are fitted; it meets 0.3 at t = 50 (e^1.75 - 1) = 237.7 steps."""
    found = decide(seen(old(1 - 0.4 * np.log1p(HALF / 50), reference=0.1)))
    assert outcome(found) == ("not-recovering", "clear")
    stand = found.old["d0"]
    assert stand.state == "falling" and stand.crosses_tokens == round(50 * math.expm1(1.75) * 2048) == 486_871
    assert found.text.endswith("tolerance 0.300, which the fit crosses after 487k tokens: too slow")


def test_falling_back_a_little_from_a_rise_never_gets_there():
    turned = np.array([0.2, 0.4, 0.6, 0.7, 0.75, 0.76, 0.755, 0.75, 0.745, 0.74])
    found = decide(seen(old(turned)))
    assert found.old["d0"].crosses_tokens is None
    assert found.text.endswith("tolerance 0.300, which the fit never crosses: too slow")


def test_a_curve_that_leaves_the_band_of_its_first_forecast_says_so():
    jumped = np.concatenate([flat(0.1, 6), flat(0.6, 4)])
    assert "worse than first forecast" in decide(seen(old(jumped, noise=0.01))).old["d0"].state
    assert "worse" not in decide(seen(old(flat(0.1), noise=0.01))).old["d0"].state


def test_the_worst_of_several_old_corpora_decides():
    found = decide(seen(old(flat(0.0)), old(flat(0.5), name="d1"), old(flat(0.9), name="d2")))
    assert outcome(found) == ("not-recovering", "clear") and found.text.startswith("d2 has forgotten +0.900")
    assert list(found.by_corpus()) == ["d0", "d1", "d2"]


def test_recovering_is_beyond_now_and_within_at_the_end():
    """0.6 - 0.25 ln(1 + t/50) is 0.427 at half and 0.325 at the end."""
    curve = 0.6 - 0.25 * np.log1p(HALF / 50)
    found = decide(seen(old(curve, tolerance=0.35, reference=0.01)))
    assert found.outcome == "recovering" and found.trouble is None
    stand = found.old["d0"]
    assert stand.forgetting == pytest.approx(curve[-3:].mean()) and stand.beyond and not stand.lost
    assert stand.forecast == pytest.approx(0.6 - 0.25 * math.log(3), abs=0.03)  # with half of the other curve


def test_nothing_old_is_nothing_to_forget():
    assert decide(seen()).text == "nothing old to forget"


@pytest.mark.parametrize("gained", [0.0, 0.01, 0.019])
def test_without_a_control_the_new_corpus_must_gain_more_than_noise(gained):
    found = decide(seen(old(flat(0)), learns=new(flat(gained))))
    assert found.outcome == found.trouble == "under-adapting"
    assert found.text == (
        f"d1 gained {gained:+.3f} nats of the 0.020 needed by now (more than noise (no control)), forecast at the end "
        f"{gained:+.3f} +- {found.new['d1'].doubt:.3f}"
    )
    assert decide(seen(old(flat(0)), learns=new(flat(0.021)))).outcome == "recovered"


def test_with_a_control_it_must_gain_its_share_of_what_the_control_gains():
    control = np.linspace(1.0, 1.9, 10)
    found = decide(seen(old(flat(0)), learns=new(0.5 * control, control=control)))
    assert outcome(found) == ("under-adapting", "clear")
    assert found.text == (
        "d1 gained +0.950 nats of the 1.330 needed by now (70% of the control's), forecast at the end 50% +- 1%"
    )
    assert found.new["d1"].forecast == pytest.approx(0.5)  # of the control's gain
    assert outcome(decide(seen(old(flat(0)), learns=new(0.9 * control, control=control)))) == ("recovered", "clear")
    assert decide(seen(old(flat(0)), learns=new(0.69 * control, control=control))).sure == "close"


def test_a_share_that_is_forecast_to_be_reached_is_not_short():
    control = flat(1.0)
    late = 0.9 * (1 - np.exp(-HALF / 50))  # 0.57 at half, 0.78 at the end
    found = decide(seen(old(flat(0)), learns=new(late, control=control, noise=0.001)))
    assert found.new["d1"].forecast == pytest.approx(0.9 * (1 - math.exp(-2)), abs=0.01)
    assert found.outcome == "recovered"


def test_a_control_that_is_known_at_fewer_than_five_evaluations_is_none():
    control = np.concatenate([flat(np.nan, 6), flat(1.0, 4)])
    found = decide(seen(old(flat(0)), learns=new(flat(0.1), control=control)))
    assert found.outcome == "recovered" and found.new["d1"].needed_is == "more than noise (no control)"


def test_forgetting_and_not_learning_is_broken_optimisation():
    found = decide(seen(old(flat(1)), learns=new(flat(0.0))))
    assert (found.outcome, found.trouble) == ("not-recovering", "broken optimisation")
    assert decide(seen(old(flat(1)), learns=new(flat(0.5)))).trouble == "forgetting"


def test_old_and_new_both_worse_is_diverged_from_a_tenth_of_the_phase_on():
    soon = HALF / 5  # 1, 2, ..., 10 %
    found = decide(seen(old(flat(0.5)), learns=new(flat(-0.5)), since=soon))
    assert outcome(found) == ("diverged", "clear") and found.trouble == "broken optimisation"
    assert found.text == "d0 +0.500 and d1 both got worse"
    assert decide(seen(old(flat(0.5, 9)), learns=new(flat(-0.5, 9)), since=soon[:9])).outcome == "undecided"
    assert decide(seen(old(flat(0.2)), learns=new(flat(-0.5)), since=soon)).outcome == "undecided"  # old within
    assert decide(seen(old(flat(0.5)), learns=new(flat(-0.015)), since=soon)).outcome == "undecided"  # new within noise


def test_a_new_corpus_on_its_way_back_is_no_clear_divergence():
    back = np.linspace(-1.0, -0.1, 10)
    assert outcome(decide(seen(old(flat(0.5)), learns=new(back)))) == ("diverged", "close")


BROKEN = np.array([3.0, 2.9, 2.9, 2.9, 2.9, 2.9, 3.4, 3.4, 3.5, 3.5])


def test_broken_training_is_diverged_only_where_old_data_is_lost_and_nothing_learned():
    lost, unlearned = old(flat(0.5)), new(flat(0.0))
    found = decide(seen(lost, learns=unlearned, loss=BROKEN))
    assert outcome(found) == ("diverged", "clear")
    assert found.text == "the training loss is above where it began: 3.000 -> 3.500"
    assert decide(seen(lost, learns=new(flat(0.5)), loss=BROKEN)).outcome == "not-recovering"  # new data is harder
    assert decide(seen(old(flat(0.2)), learns=unlearned, loss=BROKEN)).outcome == "under-adapting"
    assert decide(seen(lost, learns=unlearned, loss=flat(3.0))).outcome == "not-recovering"
    assert outcome(decide(seen(lost, learns=unlearned, loss=BROKEN, since=HALF / 4))) == ("diverged", "close")


def test_training_is_broken_by_its_loss_beyond_the_scatter_or_by_its_norm():
    quiet = flat(1.0, 8)
    above = np.array([3.0, 3, 3, 3, 3, 3.2, 3.2, 3.2])  # steps of the last: 0.2, 0, 0; their median is 0
    assert training_broke(above, quiet) == "the training loss is above where it began: 3.000 -> 3.200"
    noisy = np.array([3.0, 3, 3, 3, 3, 3.2, 3.05, 3.2])  # 0.2, 0.15, 0.15: 3.05 < 3 + 2 * 1.4826 * 0.15 / sqrt 2
    assert training_broke(noisy, quiet) is None
    assert training_broke(above - [0.3, 0, 0, 0, 0, 0.6, 0.6, 0.6], quiet) is None  # below its beginning
    down = np.linspace(3, 2, 8)
    assert training_broke(down, np.array([1, 1, 1, 1, 1, 10.5, 11, 12.0])) == "the gradient norm is 12 times its median"
    assert training_broke(down, np.array([1, 1, 1, 1, 1, 9.5, 11, 12.0])) is None
    assert training_broke(above[-3:], quiet[-3:]) is None  # three intervals have no beginning
    assert training_broke(np.where(np.arange(8) == 6, np.nan, above), quiet) is None


def test_what_is_not_a_finite_number_is_diverged_at_once_and_not_before():
    attempt = seen(old(flat(0)), broken="the loss was not a finite number at step 52")
    assert outcome(decide(attempt)) == ("diverged", "clear") and stops(attempt) is not None
    assert [each.outcome for each in decisions(attempt)][-3:] == ["recovered", "recovered", "diverged"]
    assert decide(seen(broken="the loss was not a finite number at step 1", since=HALF[:0])).outcome == "diverged"


def test_a_spike_far_beyond_what_no_replay_costs_is_a_data_bug():
    def spiked(top, **more):
        curve = flat(0.1)
        curve[2] = top
        return decide(seen(old(curve, control=flat(0.4)), learns=new(flat(0.5)), **more))

    found = spiked(2.01)  # 5 * 0.4
    assert (*outcome(found), found.trouble) == ("diverged", "clear", "data bug")
    assert found.text == "d0 jumped by 2.010 nats, where training without replay costs 0.400"
    assert spiked(1.99).trouble is None
    assert spiked(2.01, faster=True).trouble is None  # a higher rate spikes by itself
    assert decide(seen(old(flat(9)))).trouble == "forgetting"  # no control to compare with
    assert decide(seen(old(flat(9), tolerance=2, control=flat(0.4)))).trouble == "forgetting"  # 5 * 2 were allowed


def test_a_falling_rate_is_waited_for():
    """What falls with LR is not known before 60 % of the phase; its forecast is never above where it stands."""
    whole = np.arange(5.0, 100, 5)
    attempt = seen(old(flat(2.0, 19)), since=whole, falling=True)
    assert outcome(decide(attempt.until(6))) == ("not-recovering", "clear")
    assert [int(whole[n - 1]) for n in range(1, 20) if stops(attempt.until(n))] == [60, 65, 70, 75, 80, 85, 90, 95]
    climbing = 0.5 * np.log1p(HALF / 5)
    steady, lowered = (decide(seen(old(climbing), falling=falls)).old["d0"] for falls in (False, True))
    assert lowered.forecast == pytest.approx(climbing[-3:].mean()) and lowered.forecast < steady.forecast
    assert lowered.doubt >= (steady.forecast - lowered.forecast) / 2


def test_under_adapting_is_never_clear_while_the_rate_falls_and_diverged_does_not_wait():
    assert decide(seen(old(flat(0)), learns=new(flat(-0.1)), falling=True)).sure == "close"
    both = seen(old(flat(0.9)), learns=new(flat(-0.5)), falling=True)
    assert both.share == 0.5 and stops(both) is not None


def test_what_a_cooldown_gives_back_is_subtracted():
    found = decide(seen(old(flat(0.55), returns=0.4)))
    stand = found.old["d0"]
    assert outcome(found) == ("recovered", "clear") and (stand.forecast, stand.forgetting) == pytest.approx(
        (0.15, 0.15)
    )
    assert outcome(decide(seen(old(flat(0.15), returns=None)))) == ("recovered", "close")  # it is not known
    assert outcome(decide(seen(old(flat(5.0), returns=None)))) == ("not-recovering", "close")


def test_at_the_end_nothing_is_forecast():
    ends = np.array([50.0, 100.0])
    found = decide(seen(old(np.array([0.1, 0.45]), noise=0.06), learns=new(np.array([0.0, 1.0])), since=ends))
    stand = found.old["d0"]
    assert outcome(found) == ("not-recovering", "clear") and stand.state == "at its end"
    assert (stand.forecast, stand.doubt, stand.slope) == (0.45, 0.06, 0.0)
    assert decide(seen(old(np.array([0.1, 0.45]), noise=0.08), since=ends)).sure == "close"  # 0.15 < 2 * 0.08
    assert outcome(decide(seen(old(np.array([0.9, 0.0])), since=ends))) == ("recovered", "clear")
    short = decide(seen(old(np.array([0.9, 0.0])), learns=new(np.array([0.5, 0.01])), since=ends))
    assert outcome(short) == ("under-adapting", "close")


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(4, 0.9, "few"), (5, 0.09, "few"), (5, 0.1, "little"), (5, 0.24, "little")]
)
def test_undecided(count, share, expected):
    found = decide(seen(old(flat(2, count)), since=np.linspace(1, share * STEPS, count)))
    assert outcome(found) == ("undecided", "close") and f"too {expected}" in found.text


def test_before_the_first_evaluation():
    found = decide(seen(since=HALF[:0]))
    assert (found.outcome, found.since_steps, found.old) == ("undecided", 0, {})


CURVES = st.lists(st.floats(-0.5, 2, width=32), min_size=5, max_size=19).map(np.array)


@given(CURVES, st.floats(-1, 1), st.sampled_from([0.0, 0.01, 0.2]))
def test_a_constant_on_curve_and_tolerance_changes_no_decision(curve, shift, noise):
    since = 5.0 * np.arange(1, len(curve) + 1)
    one, other = (
        decide(seen(old(curve + more, tolerance=0.3 + more, noise=noise), since=since)) for more in (0.0, shift)
    )
    stand = one.old["d0"]
    excess = abs(stand.forecast - 0.3)
    assume(min(excess, abs(stand.forgetting - 0.3), abs(excess - 2 * stand.doubt)) > 1e-6)
    assume(abs(stand.forgetting - 2 * noise - 0.3) > 1e-6)
    assert outcome(other) == outcome(one)
    assert other.old["d0"].forecast == pytest.approx(stand.forecast + shift, abs=1e-6)


@given(CURVES, st.floats(0, 0.5), st.floats(0, 5))
def test_there_is_never_less_doubt_than_noise_and_drift(curve, noise, reference):
    since = 5.0 * np.arange(1, len(curve) + 1)
    found = decide(seen(old(curve, noise=noise, reference=reference), since=since))
    drift = 0.025 * reference * math.log(STEPS / since[-1])
    assert found.old["d0"].doubt >= math.hypot(noise, drift) - 1e-12


@given(st.lists(st.floats(0, 2, width=32), min_size=2, max_size=19), st.booleans(), st.sampled_from(["peak", "cooled"]))
@settings(max_examples=30)
def test_a_decision_knows_only_what_was_recorded_before_it(heights, breaks, ends):
    whole = records(lambda step: heights[step // 5 - 1], upto=5 * len(heights), ends=ends)
    for step in range(1, whole[-1]["step"] + 1, 2):
        whole.append({"kind": "train", "step": step, "tokens": step * 2048, "loss": 3 + step / 50, "grad_norm": 1.0})
    whole[1:] = sorted(whole[1:], key=lambda record: record["step"])
    broke = {"kind": "event", "event": "non-finite", "step": whole[-1]["step"] + 1, "what": "the loss"}
    found = decisions(evidence([*whole, broke] if breaks else whole))
    steps = [record["step"] for record in whole if record["kind"] == "eval"]
    for each, step in zip(found[: -1 if breaks else None], steps, strict=False):
        assert each == decide(evidence([r for r in whole if r.get("step", 0) <= step]))
    assert len(found) == len(heights) and ("finite" in found[-1].text) == breaks


@given(st.integers(0, 1000), st.floats(0, 1.5), st.floats(-2, 2))
@settings(max_examples=30)
def test_losses_and_references_that_are_all_higher_forget_the_same(seed, height, shift):
    whole = records(rising(height), upto=60, seed=seed)
    moved = copy.deepcopy(whole)
    for holder in (moved[0]["references"]["d0"], *(record["windows"] for record in moved[1:])):
        for name, windows in holder.items():
            holder[name] = [value + shift for value in windows]
    one, other = decide(evidence(whole)), decide(evidence(moved))
    assume(abs(one.old["d0"].forecast - 0.3) > 1e-6)
    assert other.outcome == one.outcome
    for key in ("forgetting", "noise", "forecast"):
        assert getattr(other.old["d0"], key) == pytest.approx(getattr(one.old["d0"], key), abs=1e-6)


# An attempt that goes back to an earlier checkpoint begins above where the line stands (`lead`).


def test_a_corpus_that_the_start_did_not_know_is_no_spike():
    """D_1 at 3.2 nats above its reference in the first evaluation, as the checkpoint that was gone back to has it."""
    control = flat(0.2)
    unknown = replace(old(flat(3.2), control=control), lead=3.3)
    assert decide(seen(unknown)).outcome == "not-recovering"
    assert decide(seen(replace(unknown, lead=0.0))).trouble == "data bug"
    assert decide(seen(replace(unknown, forgotten=flat(3.2 + 5 * 0.3 + 0.2)))).trouble == "data bug"


def test_new_data_above_the_line_and_below_its_own_start_is_being_learned():
    learning = replace(new(flat(-0.3)), lead=2.0)
    found = decide(seen(old(flat(0.9)), learns=learning))
    assert (found.outcome, found.trouble) == ("not-recovering", "forgetting")
    broken = decide(seen(old(flat(0.9)), learns=replace(learning, lead=0.0)))
    assert (broken.outcome, broken.trouble) == ("diverged", "broken optimisation")


def test_where_an_attempt_itself_began_is_read_from_its_first_evaluation():
    found = records(rising(0.1), upto=60)
    began = [value + 1.5 for value in found[0]["references"]["d0"]["windows"]]
    start = {"kind": "eval", "full": True, "step": 0, "tokens": 0, "loss": {"d0": 4.5}, "windows": {"d0": began}}
    assert evidence([found[0], start, *found[1:]]).old[0].lead == pytest.approx(1.5)
    assert evidence(found).old[0].lead == 0


# A part of the windows may forget more than all do.


def test_what_is_to_be_stopped_is_measured_on_all_windows_first():
    found = records(rising(1.5), upto=30)
    assert named(found) == ["decision", "confirm"]
    confirm = watch(found)[1]["text"]
    assert confirm.startswith("not-recovering is clear on a part of the held-out windows")
    assert named([*found, in_full(found)]) == ["decision", "stopped-early"]


def test_an_attempt_whose_other_windows_hold_goes_on_and_is_not_asked_again():
    found = records(lambda step: 0.5, tolerance=0.4, upto=60, noise=0.005)
    assert "confirm" in named(found)
    found.append(in_full(found, less=0.2))  # .5 on 8 windows, .3 on 88: .317 of all
    assert named(found) == ["decision"]
    assert evidence(found).old[0].forgotten[-1] == pytest.approx(0.5 - 0.2 * 88 / 96, abs=0.01)
    later = records(lambda step: 0.5, tolerance=0.4, upto=100, noise=0.005)
    assert named([*found, *later[13:]]) == ["decision"]


def test_a_gap_corrects_nothing_before_it_was_measured():
    found = records(lambda step: 0.5, upto=60, noise=0.0)
    whole = evidence([*found, in_full(found, less=0.2)])
    assert whole.until(12).old[0].forgotten[0] == pytest.approx(0.5 - 0.2 * 88 / 96)
    assert whole.until(11).old[0].forgotten == pytest.approx(0.5)
    start = in_full(found, less=0.1) | {"step": 0, "tokens": 0}
    both = evidence([found[0], start, *found[1:], in_full(found, less=0.2)]).old[0]
    assert both.forgotten[5] == pytest.approx(0.5 - 0.15 * 88 / 96)  # step 30 of 60: half way between the gaps


def test_a_loss_that_is_not_finite_needs_no_confirmation():
    broken = {"kind": "event", "event": "non-finite", "step": 30, "tokens": 30 * 2048, "what": "a held-out loss"}
    assert named([*records(rising(0.1), upto=30), broken]) == ["decision", "stopped-early"]
