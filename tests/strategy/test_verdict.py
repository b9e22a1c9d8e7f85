"""Verdicts on metrics with known numbers."""

from __future__ import annotations

import copy

import pytest

from keepwarm.strategy.verdict import judge

WINDOWS = 40


def metrics(*, old_end=2.2, new_end=2.0, reference=2.0, tolerance=0.3, spread=0.0, control_gain=None, end=True):
    """An attempt of 100 steps: d0 was 2.0 when taught; d1 is new and starts at 4.0."""
    reference_windows = [reference + (0.5 if i % 2 else -0.5) for i in range(WINDOWS)]
    # The difference to the reference is old_end - reference on average, +-spread by window.
    end_windows = [
        w + old_end - reference + (spread if i % 4 < 2 else -spread) for i, w in enumerate(reference_windows)
    ]
    header = {
        "kind": "header", "old": ["d0"], "new": "d1", "steps": 100,
        "references": {"d0": {"loss": reference, "windows": reference_windows}},
        "before": {"d0": {"loss": 2.1, "windows": reference_windows}, "d1": {"loss": 4.0, "windows": [4.0] * WINDOWS}},
        "tolerance": {"d0": {"nats": tolerance}}, "adaptation": {"share": 0.7, "before_at_peak": 4.0},
    }  # fmt: skip
    before = {
        "kind": "eval", "full": True, "step": 0, "tokens": 0, "loss": {"d0": 2.1, "d1": 4.0},
        "windows": {"d0": reference_windows, "d1": [4.0] * WINDOWS},
    }  # fmt: skip
    after = {
        "kind": "eval", "full": True, "step": 100, "tokens": 1000, "loss": {"d0": old_end, "d1": new_end},
        "windows": {"d0": end_windows, "d1": [new_end] * WINDOWS},
    }  # fmt: skip
    train = {"kind": "train", "step": 50, "tokens": 500, "loss": 2.0}
    control = {"kind": "event", "event": "control", "step": 100, "tokens": 1000, "gain": control_gain}
    return [header, before, train, *([after] if end else []), *([control] if control_gain else [])]


def test_within_tolerance_and_learned_is_recovered():
    verdict = judge(metrics(old_end=2.2, new_end=2.0))
    assert verdict.outcome == "recovered"
    assert verdict.old["d0"].forgetting == pytest.approx(0.2)
    assert verdict.old["d0"].sure == "clear"
    assert verdict.new["d1"].gain == pytest.approx(2.0)
    assert (verdict.step, verdict.tokens) == (100, 1000)


def test_beyond_tolerance_is_not_recovering_and_says_by_how_much():
    verdict = judge(metrics(old_end=2.5))
    assert verdict.outcome == "not-recovering"
    assert "d0 2.000 -> 2.500: forgot +0.500 nats, beyond the tolerance of 0.300 (clear" in verdict.reasons[0]


def test_forgetting_is_against_the_reference_not_against_the_loss_before_the_stage():
    verdict = judge(metrics(old_end=2.35))  # only 0.25 worse than just before, 0.35 worse than when taught
    assert verdict.outcome == "not-recovering"
    assert verdict.old["d0"].before == 2.1


def test_a_difference_inside_the_noise_is_decided_by_its_sign_and_marked_close():
    verdict = judge(metrics(old_end=2.29, spread=0.2))
    noise = verdict.old["d0"].noise
    assert noise == pytest.approx(0.2 / WINDOWS**0.5, rel=0.1)  # paired: the +-0.5 between windows does not count
    assert verdict.old["d0"].sure == "close"
    assert verdict.outcome == "recovered"
    assert judge(metrics(old_end=2.31, spread=0.2)).outcome == "not-recovering"


def test_a_new_corpus_that_gains_less_than_the_control_is_under_adapting():
    assert judge(metrics(new_end=2.5, control_gain=2.0)).outcome == "recovered"  # 1.5 of 2.0 is 75 %
    verdict = judge(metrics(new_end=2.7, control_gain=2.0))  # 1.3 of 2.0 is 65 %
    assert verdict.outcome == "under-adapting"
    assert "missed the 1.400 needed (70% of the 2.000 to where the no-replay control came)" in verdict.reasons[1]


def test_without_a_control_the_gain_must_exceed_noise_and_the_record_says_so():
    verdict = judge(metrics(new_end=4.0))
    assert verdict.outcome == "under-adapting"
    assert verdict.new["d1"].needed_is == "more than noise (no control to compare with)"


def test_forgetting_comes_before_under_adapting():
    assert judge(metrics(old_end=2.9, new_end=3.9, control_gain=2.0)).outcome == "not-recovering"


def test_forgetting_while_the_new_data_gets_worse_is_diverged():
    assert judge(metrics(old_end=3.0, new_end=4.5)).outcome == "diverged"


def test_a_loss_that_is_not_finite_is_diverged():
    records = metrics(end=False)
    event = {"kind": "event", "event": "non-finite", "step": 60, "tokens": 600, "what": "the gradient", "text": ""}
    verdict = judge([*records, event])
    assert verdict.outcome == "diverged"
    assert verdict.reasons == ("the gradient was not a finite number at step 60",)


SKIPPED = {
    "kind": "event", "event": "skipped", "step": 41, "tokens": 410, "why": "spike", "loss": 9.0, "grad_norm": 3.0,
    "text": "no update: the loss 9.000 is far above; in papers document 17 (tokens 0-9)",
}  # fmt: skip
REWOUND = {
    "kind": "event", "event": "rewound", "number": 1, "step": 20, "tokens": 200,
    "text": "to step 20: at step 34 the loss is not a finite number; steps 31 to 34 are passed over",
}  # fmt: skip
OVER = SKIPPED | {"step": 31, "why": "rewind", "rewind": 1, "text": "no update: passed over since a rewind"}


def test_steps_that_were_passed_over_are_told_and_decide_nothing():
    told = (
        "rewound to step 20: at step 34 the loss is not a finite number; steps 31 to 34 are passed over",
        "no update at 1 step: step 41: the loss 9.000 is far above; in papers document 17 (tokens 0-9)",
    )
    for found in (metrics(), metrics(old_end=2.5), metrics(end=False)):
        plain = judge(found)
        verdict = judge([*found[:2], REWOUND, OVER, SKIPPED, *found[2:]])
        assert verdict.outcome == plain.outcome and verdict.reasons == (*plain.reasons, *told)


@pytest.mark.parametrize("event", ["non-finite", "diverged"])
def test_what_was_given_up_is_diverged(event):
    text = "at step 42 the loss 9.000 is far above; 3 steps skipped already, most_skipped: 5%"
    end = {"kind": "event", "event": event, "step": 41, "tokens": 410, "text": text, "why": "spike"}
    verdict = judge([*metrics(end=False), SKIPPED, end])
    assert (verdict.outcome, verdict.trouble) == ("diverged", "broken optimisation")
    assert verdict.reasons[0] == text and verdict.reasons[1].startswith("no update at 1 step")


def test_before_its_end_an_attempt_is_undecided():
    verdict = judge(metrics(end=False))
    assert (verdict.outcome, verdict.step) == ("undecided", 50)


def test_a_subset_evaluation_at_the_end_is_not_the_end():
    records = copy.deepcopy(metrics())
    records[3]["full"] = False
    assert judge(records).outcome == "undecided"


def from_earlier(began, new_end, old_end=2.5):
    """An attempt that went back to a checkpoint where d1 stood at `began`, above the line's 4.0."""
    records = metrics(old_end=old_end, new_end=new_end)
    records[1]["loss"]["d1"], records[1]["windows"]["d1"] = began, [began] * WINDOWS
    return judge(records)


def test_what_went_back_to_an_earlier_checkpoint_is_not_broken_while_it_learns():
    verdict = from_earlier(began=6.5, new_end=4.3)  # not yet where the line stood, and far from where it began
    assert (verdict.outcome, verdict.trouble) == ("not-recovering", "forgetting")
    assert verdict.new["d1"].gain == pytest.approx(-0.3) and verdict.new["d1"].since_start == pytest.approx(2.2)
    assert from_earlier(began=6.5, new_end=4.3, old_end=2.2).outcome == "under-adapting"


def test_worse_than_where_the_attempt_itself_began_is_broken():
    verdict = from_earlier(began=6.5, new_end=6.7)
    assert (verdict.outcome, verdict.trouble) == ("diverged", "broken optimisation")


def test_a_converged_start_that_is_warmed_up_is_held_against_the_line():
    verdict = from_earlier(began=3.8, new_end=3.9)  # cooled it began lower, at peak it is below where the line stood
    assert verdict.new["d1"].since_start == pytest.approx(0.1) and verdict.outcome == "not-recovering"


def test_old_data_lost_and_nothing_learned_is_no_matter_of_the_mix():
    assert judge(metrics(old_end=2.5, new_end=4.0)).trouble == "broken optimisation"
    assert (
        judge(metrics(old_end=2.5, new_end=3.5, control_gain=2.0)).trouble == "forgetting"
    )  # a quarter is not nothing
