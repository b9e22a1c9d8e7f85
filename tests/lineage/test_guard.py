"""Each guard's refusal, whole: what it names, why, and what to write instead; and that it can be overridden by name."""

from __future__ import annotations

from fractions import Fraction

import pytest

from keepwarm.blend.ledger import LedgerRow
from keepwarm.errors import GuardError
from keepwarm.lineage import guard
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.parts import GUARDS


def manifest(id="arms/cookbook/base/00-base/checkpoints/1", **changes):
    facts = dict(
        id=id, parent=None, arm="cookbook", stage="base", rung="base", attempt="", plan="", step=1, samples=1,
        attempt_tokens=10, line_tokens=10, lr=3e-3, lr_max=3e-3, phase="peak", sequence_length=128, vocab_size=2048,
    )  # fmt: skip
    return Manifest(**facts | changes)


COOLED = dict(phase="cooled", lr=3e-5)


def override(name):
    return (
        f"; or, to go on all the same and have it recorded: --allow {name} (or in the plan, in the stage or the base: "
        f"allow: [{name}])"
    )


def said(refusal):
    """What, why and fix of a refusal, the guard's name and how to override it checked and taken off."""
    assert isinstance(refusal, GuardError)
    assert guard.enforce([None, refusal], [refusal.guard]) == (refusal,)
    with pytest.raises(GuardError) as raised:
        guard.enforce([refusal], [name for name in GUARDS if name != refusal.guard])
    assert raised.value is refusal
    mark = f" (guard {refusal.guard})"
    assert refusal.what.endswith(mark)
    return (
        refusal.guard,
        refusal.what.removesuffix(mark),
        refusal.why,
        refusal.fix.removesuffix(override(refusal.guard)),
    )


NOT_AT_PEAK = "from a checkpoint that is not at peak the rate must be warmed again, which costs loss on the old data"


def test_peak_start_names_the_newest_that_qualifies():
    others = [
        manifest("a", line_tokens=5), manifest("b", line_tokens=9), manifest("c", line_tokens=12, **COOLED),
        manifest("d", line_tokens=14, optimizer_state=False),
    ]  # fmt: skip
    assert said(guard.peak_start(manifest("end", **COOLED), "replay 5%", others, 3e-3)) == (
        "peak-start", "replay 5% starts at peak, but end is cooled at LR 3e-05 (1% of LR_max 0.003)", NOT_AT_PEAK,
        "start from b (LR 0.003, 9 tokens seen)",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "state", "instead"),
    [
        (COOLED, "cooled at LR 3e-05 (1% of LR_max 0.003)", "use a rewarm rung: ladder: [{rung: rewarm-converged}]"),
        (dict(phase="merged"), "merged at LR 0.003 (100% of LR_max 0.003)",
         "use a rewarm rung: ladder: [{rung: rewarm-converged}]"),
        (dict(phase="warming", lr=1e-3), "warming at LR 0.001 (33% of LR_max 0.003)", "start from a checkpoint at peak"),
        (dict(phase="decaying", lr=1e-3), "decaying at LR 0.001 (33% of LR_max 0.003)", "start from a checkpoint at peak"),
        (dict(phase="unknown"), "unknown at LR 0.003 (100% of LR_max 0.003)", "start from a checkpoint at peak"),
        (dict(lr=2.9e-3), "peak at LR 0.0029 (97% of LR_max 0.003)",
         "go on at the checkpoint's own rate: optimizer: {lr_max: 0.0029}"),
        (dict(phase="peak", phase_is="declared", lr=2.9e-3, lr_is="declared"),
         "peak (declared) at LR 0.0029 (declared) (97% of LR_max 0.003)",
         "go on at the checkpoint's own rate: optimizer: {lr_max: 0.0029}"),
        (dict(phase_is="declared", **COOLED), "cooled (declared) at LR 3e-05 (1% of LR_max 0.003)",
         "use a rewarm rung: ladder: [{rung: rewarm-converged}]"),
    ],
)  # fmt: skip
def test_peak_start_refuses_all_that_is_not_at_peak(changes, state, instead):
    refusal = guard.peak_start(manifest("end", **changes), "naive", [], 3e-3)
    assert said(refusal) == ("peak-start", f"naive starts at peak, but end is {state}", NOT_AT_PEAK, instead)


def test_at_peak_is_lr_max_within_a_millionth():
    assert guard.peak_start(manifest(lr=3e-3 * (1 + 9e-7)), "naive", [], 3e-3) is None
    assert guard.peak_start(manifest(lr=3e-3 * (1 + 2e-6)), "naive", [], 3e-3) is not None
    assert guard.peak_start(manifest(phase_is="declared"), "naive", [], 3e-3) is None


@pytest.mark.parametrize(("changes", "rewarm"), [({}, "replay-rewarm"), (COOLED, "rewarm-converged")])
def test_moments_must_be_there_to_go_on_with(changes, rewarm):
    lr = changes.get("lr", 3e-3)
    assert said(guard.optimizer_state(manifest("hf", optimizer_state=False, **changes), "replay 5%")) == (
        "optimizer-state", "replay 5% goes on with the optimizer's moments, but hf has no optimizer state",
        f"AdamW with empty moments at LR {lr:g} takes steps of full size in noise directions",
        f"use a rewarm rung: ladder: [{{rung: {rewarm}}}]",
    )  # fmt: skip
    assert guard.optimizer_state(manifest(**changes), "replay 5%") is None


@pytest.mark.parametrize(
    ("held", "held_out", "holds"),
    [(["d1", "d2"], 0, "documents of d2 itself"), (["d1"], 3, "3 held-out documents")],
)
def test_the_buffer_must_be_clean(held, held_out, holds):
    assert said(guard.buffer_clean(held, "d2", held_out, "v2")) == (
        "buffer-clean", f"the buffer v2 holds {holds}",
        "replaying the new data hides forgetting, replaying held-out data makes every verdict a lie",
        "use the buffer version from before d2 was taught, or a rung without B: replay, replay-previous-mix",
    )  # fmt: skip
    assert guard.buffer_clean(["d1"], "d2", 0, "v1") is None


def test_shares_must_be_complete():
    parts = [("d0", Fraction(5, 100)), ("new", Fraction(90, 100))]
    assert said(guard.shares_complete(parts)) == (
        "budget-and-identity", "shares add up to 0.95, they must add up to 1 (d0 5% + new 90%)",
        "a mix that is silently normalised is not the mix that was asked for",
        "mixes: [[...]] with shares that add up to 1 (these need +0.05)",
    )  # fmt: skip
    assert guard.shares_complete([*parts, ("buffer", Fraction(5, 100))]) is None


def row(epochs_after, samples=10, name="proofs"):
    return LedgerRow(
        source_id="0" * 16, name=name, asked_tokens=Fraction(1), fed_tokens=1, samples=samples, repeated_samples=0,
        epochs_before=Fraction(0), epochs_after=Fraction(epochs_after),
    )  # fmt: skip


def test_repetition_beyond_the_cap_is_refused_with_the_worst_number():
    rows = [row(5, name="web"), row(Fraction(15, 2)), row(2)]
    assert said(guard.within_epochs(rows, Fraction(4))) == (
        "budget-and-identity", "proofs would be repeated 7.50 times, max_epochs is 4",
        "the share asked of it is more than the source holds; repeated text is memorised, not learned",
        "ask a smaller share or fewer tokens, add text to the corpus, or: max_epochs: 8; where its role has other "
        "sources: over_max_epochs: reweight",
    )  # fmt: skip
    assert guard.within_epochs([row(4)], Fraction(4)) is None
    assert guard.within_epochs([row(9, samples=0)], Fraction(4)) is None  # what is not fed is not refused


def test_above_one_epoch_the_number_is_said():
    rows = [row(Fraction(3, 2)), row(1), row(9, samples=0)]
    assert guard.repeats(rows) == ("proofs: 1.50 epochs over the line",)


ADAMW = {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}


@pytest.mark.parametrize(
    ("known", "expected", "words", "name"),
    [
        ({}, {"sequence_length": 256}, "sequence length 128, this plan has 256", "sequence length"),
        ({}, {"vocab_size": 4096}, "vocab size 2048, this plan has 4096", "vocab size"),
        ({"tokenizer_sha256": "abc"}, {"tokenizer_sha256": "def"}, "tokenizer abc, this plan has def", "tokenizer"),
        ({"optimizer": ADAMW}, {"optimizer": ADAMW | {"weight_decay": 0.2}}, "weight decay 0.1, this plan has 0.2",
         "weight decay"),
        ({"optimizer": ADAMW}, {"optimizer": ADAMW | {"betas": [0.9, 0.99]}}, "betas [0.9, 0.95], this plan has [0.9, 0.99]",
         "betas"),
        ({"holdout": {"d0": "aa"}}, {"holdout": {"d0": "bb", "d1": "cc"}}, "holdout of d0 aa, this plan has bb",
         "holdout of d0"),
    ],
)  # fmt: skip
def test_only_data_and_lr_change_between_stages(known, expected, words, name):
    assert said(guard.same_identity(manifest("end", **known), expected)) == (
        "budget-and-identity", f"end has {words}",
        "only data and learning rate change between stages, else what a stage did can't be told from the change",
        f"use the {name} the checkpoint was trained with",
    )  # fmt: skip


def test_what_a_foreign_checkpoint_does_not_say_is_not_held_against_it():
    expected = {"sequence_length": 128, "optimizer": ADAMW, "holdout": {"d0": "aa"}}
    assert guard.same_identity(manifest(), expected) is None
    assert guard.same_identity(manifest(optimizer=ADAMW, holdout={"d9": "zz"}), expected) is None


def test_another_architecture():
    assert said(guard.another_architecture("hf", "model.config")) == (
        "budget-and-identity", "hf has another architecture than the plan's model.config",
        "only data and learning rate change between stages",
        "leave `model` out of the plan (the checkpoint's own is used), or name the same one",
    )  # fmt: skip


def test_append_only_is_never_allowed(tmp_path):
    assert guard.append_only(tmp_path / "new") is None
    refusal = guard.append_only(tmp_path)
    assert str(refusal) == (
        f"{tmp_path} exists already (guard append-only)\n"
        "  why: lineage is append-only: a checkpoint or buffer that is overwritten makes every record about it false\n"
        "  fix: use another run folder: run: {folder: ...}"
    )


def test_phase_match_a_converged_line_has_nothing_to_decay():
    for phase in ("cooled", "merged"):
        assert said(guard.not_converged(manifest("end", phase=phase, lr=3e-5), "decay-then-introduce")) == (
            "phase-match",
            f"decay-then-introduce decays from LR_max, but the line's end end is {phase} at LR 3e-05: converged",
            "an earlier trunk lacks the data of the stages after it, and a converged model has no rate to decay",
            "use rewarm-converged, special-continuation or incremental here",
        )  # fmt: skip
    assert guard.not_converged(manifest(), "decay-then-introduce") is None


def test_phase_match_only_what_is_converged_is_rewarmed():
    assert said(guard.converged_start(manifest("end"), "rewarm-converged")) == (
        "phase-match", "rewarm-converged starts from a converged checkpoint, but end is peak at LR 0.003",
        "a checkpoint at peak needs no warm-up: continuing it keeps its moments and forgets less",
        "use replay or replay-rewarm here",
    )  # fmt: skip
    assert said(guard.converged_start(manifest("end", phase="decaying", lr=1e-3), "rewarm-converged")) == (
        "phase-match", "rewarm-converged starts from a converged checkpoint, but end is decaying at LR 0.001",
        "it is neither converged nor at peak: what a warm-up does to it was never measured",
        "start from a checkpoint at peak, or from a cooled one",
    )  # fmt: skip
    assert guard.converged_start(manifest(**COOLED), "rewarm-converged") is None
    assert guard.converged_start(manifest(phase="merged", optimizer_state=False), "rewarm-converged") is None


def test_only_a_decay_is_continued():
    assert said(guard.decayed_end(manifest("end", **COOLED), "special-continuation")) == (
        "phase-match",
        "special-continuation goes on from a stage that ended by decay-then-introduce above LR 0, but end was made by "
        "base and is cooled at LR 3e-05",
        "there is no decay to continue", "use another rung",
    )  # fmt: skip
    for rung in ("decay-then-introduce", "special-continuation"):
        assert guard.decayed_end(manifest(rung=rung, **COOLED), "special-continuation") is None
    assert guard.decayed_end(manifest(rung="decay-then-introduce", phase="cooled", lr=0.0), "x") is not None


def test_new_data_is_introduced_as_a_mix():
    assert said(guard.mixed_introduction(Fraction(0), "decay-then-introduce")) == (
        "mixed-introduction", "decay-then-introduce would introduce the new data alone (alpha_0 is 0)",
        "at a low rate the old data is lost all the same, and nothing brings it back",
        "alpha_0: 0.6 (later practice: .6 to .8)",
    )  # fmt: skip
    assert guard.mixed_introduction(Fraction(6, 10), "decay-then-introduce") is None


def test_what_was_allowed_and_refused_nothing_leaves_no_trace():
    assert guard.enforce([None, None], GUARDS) == ()


def test_the_first_refusal_that_is_not_allowed_is_the_one_raised():
    peak = guard.peak_start(manifest(**COOLED), "naive", [], 3e-3)
    bare = guard.optimizer_state(manifest(optimizer_state=False), "naive")
    with pytest.raises(GuardError) as raised:
        guard.enforce([peak, bare], ["peak-start"])
    assert raised.value is bare


def test_every_guard_of_the_plan_has_its_functions():
    assert tuple(sorted(guard.BY_NAME)) == tuple(sorted(GUARDS))
