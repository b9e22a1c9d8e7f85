"""Logs as evidence: what one blended loss decides, what a log for each corpus decides, and what is assumed."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from keepwarm.errors import DataError
from keepwarm.lineage.foreign_logs import LogLine
from keepwarm.lineage.log_points import Points, Validation
from keepwarm.strategy.judge_log import Asked, judge_log, judge_metrics

ASKED = Asked(None, 0.3, False, None)
STEADY = dict.fromkeys(range(101, 201), 3.0)


def line(iteration, loss, end=200, tokens=1000, **more):
    values = {
        "place": f"train.log:{iteration}", "iteration": iteration, "iterations": end, "samples": None,
        "tokens": tokens and iteration * tokens, "lr": None, "lr_digits": 6, "global_batch_size": None, "loss": loss,
        "grad_norm": 1.0, "skipped": 0, "nans": 0,
    }  # fmt: skip
    return LogLine(**(values | more))


def log(losses, *, name="train.log", unparsed=0, restarts=0, **more):
    """Training lines by iteration."""
    lines = tuple(x if isinstance(x, LogLine) else line(iteration, x, **more) for iteration, x in losses.items())
    return Points(Path(name), lines, (), unparsed, restarts)


def validated(losses, name="d0.log", unparsed=0):
    found = tuple(Validation(iteration, "", loss) for iteration, loss in losses.items())
    return Points(Path(name), (), found, unparsed, 0)


def since(curve, before=3.0, every=10, upto=200):
    """A loss of `before` at iteration 100, then before + curve(iterations since)."""
    return {100: before} | {100 + t: before + curve(t) for t in range(every, upto - 100 + 1, every)}


# One log alone.


def test_from_a_blended_loss_alone_nothing_but_diverged_is_decided():
    found = judge_log(log(STEADY), {}, ASKED)
    assert (found.outcome, found.trouble, found.training_points) == ("undecided", None, 100)
    assert found.reasons[0].startswith("one blended validation loss means something else after every change of the mix")
    assert found.reasons[0].endswith("give each corpus's own: --validation CORPUS=LOG")


def test_a_loss_that_is_no_number_to_the_end_is_diverged():
    found = judge_log(log(STEADY | dict.fromkeys(range(190, 201))), {}, ASKED)
    assert (found.outcome, found.trouble) == ("diverged", "broken optimisation")
    assert found.reasons == (
        "the training loss is not a finite number at iteration 190 (line 190), and no later one is",
    )
    assert judge_log(log(STEADY | {200: math.inf}), {}, ASKED).outcome == "diverged"


def test_a_loss_that_comes_back_is_told_and_not_diverged():
    found = judge_log(log(STEADY | {150: None, 151: math.nan}), {}, ASKED)
    assert found.outcome == "undecided"
    assert (
        found.reasons[1]
        == "losses that are not finite numbers: 2, the first at iteration 150 (line 150); later ones are"
    )


def test_skipped_iterations_restarts_and_lines_that_can_not_be_read_are_told():
    skipped = line(150, None, skipped=3)
    found = judge_log(log(STEADY | {150: skipped}, unparsed=2, restarts=1), {}, ASKED)
    assert found.outcome == "undecided" and found.unparsed_lines == 2
    assert found.reasons[1:] == (
        "restarts: 1; of an iteration that was trained again the last time counts",
        "iterations logged as skipped: 3, the first in line 150; no loss is printed of them",
        "lines that begin like a point and can not be read: 2",
    )


def test_training_above_its_beginning_is_diverged():
    """20 intervals of 5 lines: the last three are all at 4."""
    found = judge_log(log(STEADY | dict.fromkeys(range(181, 201), 4.0)), {}, ASKED)
    assert found.outcome == "diverged"
    assert found.reasons == ("the training loss is above where it began: 3.000 -> 4.000",)
    assert judge_log(log(STEADY | dict.fromkeys(range(191, 201), 4.0)), {}, ASKED).outcome == "undecided"  # two of them


def test_a_gradient_norm_ten_times_its_median_is_diverged():
    wild = {i: line(i, 3.0, grad_norm=20.0 if i > 180 else 1.0) for i in STEADY}
    found = judge_log(log(wild), {}, ASKED)
    assert found.reasons == ("the gradient norm is 20 times its median",)


def test_training_counts_from_the_switch_on():
    """New data is harder: the loss of the mix jumps where it comes in, and falls from there."""
    jumped = dict.fromkeys(range(1, 101), 2.0) | {i: 4.0 - (i - 100) / 100 for i in range(101, 201)}
    assert judge_log(log(jumped), {}, ASKED).outcome == "diverged"
    assert judge_log(log(jumped), {}, Asked(None, 0.3, False, 100)).outcome == "undecided"


def test_a_log_without_a_loss_behind_the_switch_says_nothing():
    assert judge_log(log(STEADY), {}, Asked(None, 0.3, False, 300)).outcome == "undecided"
    assert judge_log(validated({5: 3.0}), {}, ASKED).outcome == "undecided"


# A log for each corpus.


def test_every_corpus_with_its_own_log_is_judged_to_the_end():
    held = {"d0": validated(since(lambda t: 0.1)), "d1": validated(since(lambda t: -0.5, before=4.0), "d1.log")}
    found = judge_log(log(STEADY), held, Asked("d1", 0.3, False, None))
    assert (found.outcome, found.validation_points, found.training_points) == ("recovered", 22, 100)
    assert found.reasons == (
        "d0 has forgotten +0.100 nats (at its end), forecast at the end +0.100 +- 0.003, tolerance 0.300 (clear)",
        "d1 gained +0.500 nats of the 0.006 needed by now (more than noise (no control)), forecast at the end +0.500 +- 0.003",
    )
    assert {name: each["role"] for name, each in found.corpora.items()} == {"d0": "old", "d1": "new"}
    assert found.assumed == (
        "the data switched at iteration 100, before the first one of train.log",
        "d0: too few losses before the switch to tell its noise, taken as 0.003 nats",
        "d1: too few losses before the switch to tell its noise, taken as 0.003 nats",
        "the learning rate is the same before the switch and at the end",
    )


@pytest.mark.parametrize(
    ("old", "new", "outcome", "trouble"),
    [
        (0.5, -0.5, "not-recovering", "forgetting"),
        (0.5, 0.0, "not-recovering", "broken optimisation"),
        (0.5, 0.5, "diverged", "broken optimisation"),
        (0.1, 0.0, "under-adapting", "under-adapting"),
    ],
)
def test_old_and_new_corpora_are_judged_jointly(old, new, outcome, trouble):
    held = {"d0": validated(since(lambda t: old)), "d1": validated(since(lambda t: new), "d1.log")}
    found = judge_log(log(STEADY), held, Asked("d1", 0.3, False, None))
    assert (found.outcome, found.trouble) == (outcome, trouble)
    assert (found.helps is None) == (trouble is None)


def test_training_above_its_beginning_is_not_diverged_where_the_new_corpus_is_learned():
    harder = log({i: 3.0 + (i - 100) / 100 for i in STEADY})
    held = {"d0": validated(since(lambda t: 0.5)), "d1": validated(since(lambda t: -t / 100), "d1.log")}
    assert judge_log(harder, held, Asked("d1", 0.3, False, None)).outcome == "not-recovering"
    held["d1"] = validated(since(lambda t: 0.0), "d1.log")
    on_the_way = {name: validated({i: each for i, each in points.items() if i < 200}, f"{name}.log") for name, points in {
        "d0": since(lambda t: 0.5), "d1": since(lambda t: 0.0)}.items()}  # fmt: skip
    found = judge_log(harder, on_the_way, Asked("d1", 0.3, False, None))
    assert found.outcome == "diverged"
    assert found.reasons[0].startswith("the training loss is above where it began: 3.055 -> 3.855")


def test_a_loss_that_is_no_number_is_diverged_whatever_was_validated():
    held = {"d0": validated(since(lambda t: 0.0))}
    assert judge_log(log(STEADY | {200: None}), held, ASKED).outcome == "diverged"


def test_the_tolerance_may_be_a_share_of_the_reference():
    held = {"d0": validated(since(lambda t: 0.2, before=4.0))}
    for share, outcome in ((0.04, "not-recovering"), (0.06, "recovered")):
        found = judge_log(log(STEADY), held, Asked(None, share, True, None))
        assert found.outcome == outcome and found.corpora["d0"]["tolerance"] == 4.0 * share


def test_the_reference_is_the_last_loss_before_the_switch_and_the_noise_their_scatter():
    """Of the last eight: 3.00 and 3.04 in turn, so that seven steps of +-0.04 have a standard deviation of 0.0396."""
    before = {10: 9.0, 20: 9.0} | {20 + 10 * k: 3.0 + 0.04 * (k % 2) for k in range(1, 9)}
    held = {"d0": validated(before | {150: 3.5, 200: 3.1})}
    found = judge_log(log(dict.fromkeys(range(1, 201), 3.0)), held, Asked(None, 0.3, False, 100))
    steps = 0.04 * np.array([-1, 1, -1, 1, -1, 1, -1])
    assert found.corpora["d0"]["noise"] == pytest.approx(np.std(steps) / math.sqrt(2), abs=1e-4)
    assert found.corpora["d0"]["forgetting"] == pytest.approx(0.1)
    assert found.assumed[0].startswith("no corpus is named as the new one (--new CORPUS)")
    assert not any("switched" in each or "too few" in each for each in found.assumed)


def test_without_a_loss_before_the_switch_the_first_one_stands_for_it():
    found = judge_log(log(STEADY), {"d0": validated({110: 3.0, 150: 3.5, 200: 3.2})}, ASKED)
    assert found.corpora["d0"]["forgetting"] == 0.2
    assert "d0: its first loss, at iteration 110, stands for the one before the switch" in found.assumed


def test_corpora_are_compared_at_the_checkpoints_they_share():
    held = {
        "d0": validated({100: 3.0, 150: 9.0, 180: 3.1}),
        "d1": validated({100: 4.0, 150: math.nan, 180: 3.9}, "d1.log"),
    }
    found = judge_log(log(STEADY), held, Asked("d1", 0.3, False, None))
    assert found.reasons == ("too few evaluations since the data switched",)
    held |= {"d0": validated({100: 3.0, 180: 9.0, 200: 3.1}), "d1": validated({100: 4.0, 150: 3.9, 200: 3.8}, "d1.log")}
    found = judge_log(log(STEADY), held, Asked("d1", 0.3, False, None))
    assert found.corpora["d0"]["forgetting"] == 0.1 and found.corpora["d1"]["gain"] == 0.2


def test_where_a_falling_curve_would_be_back_is_said_in_the_tokens_of_the_log():
    """1 - 0.4 ln(1 + t/50) meets 0.3 after 237.73 iterations."""
    curve = {100: 3.0} | {100 + t: 4.0 - 0.4 * math.log1p(t / 50) for t in range(5, 51, 5)}
    found = judge_log(log(STEADY, tokens=1_000_000), {"d0": validated(curve)}, ASKED)
    assert found.corpora["d0"]["crosses_tokens"] == pytest.approx(237_730_134, abs=1000)
    assert "which the fit crosses after 238M tokens: too slow" in found.reasons[0]
    unsaid = judge_log(log(STEADY, tokens=None), {"d0": validated(curve)}, ASKED)
    assert unsaid.corpora["d0"]["crosses_tokens"] == 238
    assert "train.log does not say how many tokens it consumed: an iteration counts as one" in unsaid.assumed


def test_what_changed_on_the_way_is_told_by_iteration():
    curve = since(lambda t: 0.5 if t < 70 else 0.05)
    said = judge_log(log(STEADY), {"d0": validated(curve)}, ASKED).said
    assert (said[0]["step"], said[0]["outcome"]) == (150, "not-recovering")
    assert (said[-1]["step"], said[-1]["outcome"], said[-1]["sure"]) == (200, "recovered", "clear")
    pairs = [(each["outcome"], each["sure"]) for each in said]
    assert all(one != other for one, other in pairwise(pairs))


def test_one_log_may_hold_both_training_and_the_losses_of_a_corpus():
    both = Points(Path("one.log"), log(STEADY).training, validated(since(lambda t: 0.1)).validation, 3, 0)
    found = judge_log(both, {"d0": both}, ASKED)
    assert (found.outcome, found.validation_points, found.unparsed_lines) == ("recovered", 11, 3)


@pytest.mark.parametrize(
    ("training", "held", "asked", "said"),
    [
        (STEADY, {"d0": since(lambda t: 0)}, Asked("d1", 0.3, False, None), "--new d1: no validation log of it is given"),
        ({}, {"d0": since(lambda t: 0)}, ASKED, "train.log: no training line"),
        (STEADY, {"d0": {150: 3.0}}, ASKED, "d0.log: validation losses of d0 up to iteration 100: 0, behind it: 1"),
        (STEADY, {"d0": {50: 3.0, 100: 3.0}}, ASKED, "d0.log: validation losses of d0 up to iteration 100: 2, behind it: 0"),
        (STEADY, {"d0": {100: 3.0, 250: 3.0}}, Asked(None, 0.3, False, 200), "--switch 200: train.log ends at iteration 200"),
        (
            STEADY, {"d0": {100: 3.0, 150: 3.0}, "d1": {100: 3.0, 160: 3.0}}, ASKED,
            "d0, d1: validated at no iteration in common",
        ),
    ],
)  # fmt: skip
def test_refusals(training, held, asked, said):
    logs = {name: validated(losses, f"{name}.log") for name, losses in held.items()}
    with pytest.raises(DataError) as refused:
        judge_log(log(training), logs, asked)
    assert said in str(refused.value)


# Metrics.

HEADER = {
    "kind": "header", "steps": 100, "step_tokens": 256, "switch_step": 0, "ends": "peak", "old": ["d0"], "new": None,
    "before": {"d0": {"loss": 3.0}}, "references": {"d0": {"loss": 3.0, "windows": [3.0] * 8}},
    "tolerance": {"d0": {"nats": 0.3}}, "adaptation": {"share": 0.7},
}  # fmt: skip


def evaluated(step, loss, full=False):
    windows = {"d0": [loss] * 8}
    return {"kind": "eval", "full": full, "step": step, "tokens": 256 * step, "loss": {"d0": loss}, "windows": windows}


def trained(step):
    return {"kind": "train", "step": step, "tokens": 256 * step, "loss": 3.0, "grad_norm": 1.0}


WAY = [record for step in range(5, 61, 5) for record in (trained(step), evaluated(step, 3.6))]


def test_metrics_in_progress_say_how_it_stands():
    found = judge_metrics([HEADER, *WAY], cut_lines=1)
    assert (found.outcome, found.training_points, found.validation_points, found.unparsed_lines) == (
        "not-recovering", 12, 12, 1,
    )  # fmt: skip
    assert found.reasons[0] == "still training, step 60 of 100" and found.reasons[1].startswith(
        "d0 has forgotten +0.600"
    )
    assert found.corpora["d0"]["role"] == "old" and found.trouble == "forgetting"
    assert [(each["step"], each["tokens"], each["sure"]) for each in found.said] == [(25, 6400, "clear")]


def test_metrics_at_their_end_are_the_verdict_on_all_windows():
    found = judge_metrics([HEADER, *WAY, evaluated(100, 3.1, full=True)])
    assert (found.outcome, found.trouble) == ("recovered", None)
    assert found.corpora["d0"]["forgetting"] == pytest.approx(0.1) and found.validation_points == 13
    assert [each["outcome"] for each in found.said] == ["not-recovering"]


def test_metrics_that_were_stopped_give_the_reason():
    stop = {
        "kind": "event",
        "event": "stopped-early",
        "step": 60,
        "tokens": 15360,
        "text": "hopeless",
        "outcome": "not-recovering",
    }
    found = judge_metrics([HEADER, *WAY, stop, evaluated(60, 3.6, full=True)])
    assert found.outcome == "not-recovering" and found.reasons[0] == "stopped early: hopeless"


def test_what_broke_at_last_was_not_known_before():
    broke = {"kind": "event", "event": "non-finite", "step": 62, "tokens": 15872, "text": "step 62", "what": "the loss"}
    found = judge_metrics([HEADER, *WAY, broke])
    assert (found.outcome, found.reasons) == ("diverged", ("the loss was not a finite number at step 62",))
    assert [(each["step"], each["outcome"]) for each in found.said] == [(25, "not-recovering"), (60, "diverged")]
