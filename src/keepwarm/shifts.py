"""The shift of a stage, measured once before it and kept in its folder, so that a rerun decides the same."""

from __future__ import annotations

from keepwarm import files
from keepwarm.errors import KeepwarmError
from keepwarm.evaluate.divergence import divergence
from keepwarm.evaluate.heldout import bits_per_byte
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.model import StageSpec
from keepwarm.report.shifted import SHIFT, begun_by
from keepwarm.strategy.shift import Shift, graded
from keepwarm.work import Run


def measured_shift(context: Run, arm: str, stage: StageSpec, base: Manifest) -> Shift:
    """The plan's grade, or the measured one: bits per byte of the base, and the tokens of both corpora.

    Raises KeepwarmError where nothing can be measured.
    """
    stage_folder = context.folder / "arms" / arm / stage.name
    if (known := begun_by(stage, stage_folder)) is not None:
        return known
    found = shift_of(context, stage, base)
    files.write_json(stage_folder / SHIFT, found.as_dict())
    return found


def shift_of(context: Run, stage: StageSpec, base: Manifest) -> Shift:
    """The shift as it is measured, not recorded; by the tokens alone where the base's losses are not known yet."""
    corpora, old = context.prepared.corpora, context.plan.base.corpus
    rates, unknown = [], []
    for name in (stage.new, old):
        corpus = corpora[name]
        per_byte = corpus.holdout_tokens / corpus.holdout_text_bytes if corpus.holdout_text_bytes else None
        measured = base.evaluation.get(name)
        rates.append(None if measured is None else bits_per_byte(measured["loss"], per_byte))
        unknown += [name] * (per_byte is None)
    notes = [f"bits/byte: the bytes of text in the holdout of {name} are not known" for name in unknown]
    notes += [] if base.evaluation else ["bits/byte: the base is not measured yet"]
    apart = divergence(corpora[stage.new], corpora[old], context.prepared.tokenizer, context.plan.seed)
    if apart is None:
        notes.append(f"divergences: {stage.new} or {old} has too little text to compare tokens")
    shift = graded(apart, rates[0], rates[1], tuple(notes))
    if shift is None:
        raise KeepwarmError(
            f"stages.{stage.name}.shift: auto has nothing to measure ({'; '.join(notes)})",
            "the ladder is chosen by the shift",
            f"say it yourself: {{name: {stage.name}, shift: strong}} (or weak)",
        )
    return shift
