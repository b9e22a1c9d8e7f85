"""Each guard's refusal: what it names, why, and what to write instead; and its override."""

from __future__ import annotations

from fractions import Fraction

import pytest

from keepwarm.blend.ledger import LedgerRow
from keepwarm.errors import GuardError
from keepwarm.lineage import guard
from keepwarm.lineage.manifest import Manifest


def manifest(id="arms/cookbook/base/00-base/checkpoints/1", **changes):
    facts = dict(
        id=id, parent=None, arm="cookbook", stage="base", rung="base", attempt="", plan="", step=1, samples=1,
        attempt_tokens=10, line_tokens=10, lr=3e-3, lr_max=3e-3, phase="peak", sequence_length=128, vocab_size=2048,
    )  # fmt: skip
    return Manifest(**facts | changes)


COOLED = dict(phase="cooled", lr=3e-5)


def test_peak_start_names_the_newest_that_qualifies():
    others = [manifest("a", line_tokens=5), manifest("b", line_tokens=9), manifest("c", line_tokens=12, **COOLED)]
    with pytest.raises(GuardError) as refused:
        guard.peak_start(manifest("end", **COOLED), "replay 5%", others, (), 3e-3)
    error = refused.value
    assert error.guard == "peak-start"
    assert "replay 5% starts at peak, but end is cooled at LR 3e-05 (1% of LR_max 0.003)" in error.what
    assert "warmed again" in error.why
    assert "start from b (LR 0.003, 9 tokens seen)" in error.fix
    assert "allow: [peak-start]" in error.fix


@pytest.mark.parametrize("changes", [COOLED, dict(phase="warming", lr=1e-3), dict(phase="unknown"), dict(lr=2.9e-3)])
def test_peak_start_refuses_all_that_is_not_at_peak(changes):
    with pytest.raises(GuardError, match="use a rewarm rung"):
        guard.peak_start(manifest(**changes), "naive", [], (), 3e-3)


def test_peak_start_lets_pass_what_is_at_peak_or_allowed():
    guard.peak_start(manifest(lr=3e-3 * (1 + 5e-7)), "naive", [], (), 3e-3)
    guard.peak_start(manifest(**COOLED), "naive", [], ("peak-start",), 3e-3)


def test_optimizer_state_is_needed_at_peak():
    bare = manifest(optimizer_state=False)
    with pytest.raises(GuardError, match="no optimizer state") as refused:
        guard.optimizer_state(bare, "replay 5%", ())
    assert "rewarm" in refused.value.fix
    guard.optimizer_state(bare, "replay 5%", ("optimizer-state",))
    guard.optimizer_state(manifest(), "replay 5%", ())


def test_buffer_must_not_hold_the_new_corpus_or_held_out_documents():
    with pytest.raises(GuardError, match="the buffer v2 holds documents of d2 itself"):
        guard.buffer_clean({"d1", "d2"}, "d2", 0, "v2")
    with pytest.raises(GuardError, match="the buffer v2 holds 3 held-out documents"):
        guard.buffer_clean({"d1"}, "d2", 3, "v2")
    guard.buffer_clean({"d1"}, "d2", 0, "v1")


def test_shares_must_be_complete():
    parts = [("d0", Fraction(5, 100)), ("new", Fraction(90, 100))]
    with pytest.raises(GuardError, match=r"shares add up to 0.95, they must add up to 1 \(d0 5% \+ new 90%\)"):
        guard.shares_complete(parts)
    guard.shares_complete([*parts, ("buffer", Fraction(5, 100))])


def row(epochs_after, samples=10):
    return LedgerRow(
        source_id="0" * 16, name="proofs", asked_tokens=Fraction(1), fed_tokens=1, samples=samples, repeated_samples=0,
        epochs_before=Fraction(0), epochs_after=Fraction(epochs_after),
    )  # fmt: skip


def test_repetition_beyond_the_cap_is_refused_with_the_number():
    with pytest.raises(GuardError, match="proofs would be repeated 7.50 times, max_epochs is 4"):
        guard.within_epochs([row(Fraction(15, 2))], Fraction(4), ())


def test_repetition_below_the_cap_is_a_warning_above_one_epoch():
    assert guard.within_epochs([row(Fraction(3, 2)), row(Fraction(1, 2))], Fraction(4), ()) == [
        "proofs: 1.50 epochs over the line"
    ]


def test_what_is_not_fed_is_not_refused():
    assert guard.within_epochs([row(9, samples=0)], Fraction(4), ()) == []


def test_another_tokenizer_or_length_is_refused():
    with pytest.raises(GuardError, match="has sequence length 128, this plan has 256"):
        guard.same_identity(manifest(), {"sequence_length": 256}, ())
    with pytest.raises(GuardError, match="has tokenizer abc, this plan has def"):
        guard.same_identity(manifest(tokenizer_sha256="abc"), {"tokenizer_sha256": "def"}, ())
    guard.same_identity(manifest(), {"sequence_length": 256}, ("budget-and-identity",))


def test_append_only(tmp_path):
    guard.append_only(tmp_path / "new")
    with pytest.raises(GuardError, match="exists already"):
        guard.append_only(tmp_path)


def test_phase_match_on_both_sides():
    cooled, at_peak = manifest(**COOLED), manifest()
    with pytest.raises(
        GuardError, match=r"decays from LR_max, but the line's end .* is converged \(LR 3e-05\)"
    ) as refused:
        guard.not_converged(cooled, "decay-then-introduce", ())
    assert refused.value.guard == "phase-match" and "special-continuation" in refused.value.fix
    guard.not_converged(at_peak, "decay-then-introduce", ())
    guard.not_converged(cooled, "decay-then-introduce", ("phase-match",))
    with pytest.raises(GuardError, match="starts from a converged checkpoint, but .* is peak at LR 0.003"):
        guard.converged_start(at_peak, "rewarm-converged", ())
    guard.converged_start(cooled, "rewarm-converged", ())
    guard.converged_start(at_peak, "rewarm-converged", ("phase-match",))


def test_only_a_decay_is_continued():
    with pytest.raises(GuardError, match="was made by base"):
        guard.decayed_end(manifest(**COOLED), "special-continuation", ())
    guard.decayed_end(manifest(rung="decay-then-introduce", **COOLED), "special-continuation", ())
    with pytest.raises(GuardError, match="no decay to continue"):
        guard.decayed_end(manifest(rung="decay-then-introduce", phase="cooled", lr=0.0), "special-continuation", ())


def test_new_data_is_introduced_as_a_mix():
    with pytest.raises(GuardError, match="would introduce the new data alone") as refused:
        guard.mixed_introduction(Fraction(0), "decay-then-introduce", ())
    assert refused.value.guard == "mixed-introduction"
    guard.mixed_introduction(Fraction(6, 10), "decay-then-introduce", ())
    guard.mixed_introduction(Fraction(0), "decay-then-introduce", ("mixed-introduction",))
