"""A stage's shift as it is on record, or as far as it can be known without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keepwarm.attempt.line import COOKBOOK
from keepwarm.corpora.prepare import prepared_before
from keepwarm.errors import LineageError
from keepwarm.evaluate.divergence import divergence
from keepwarm.plan.cookbook import ladder_for
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.strategy.shift import Shift, graded

SHIFT = "shift.json"  # in a stage's folder


def read_shift(stage_folder: Path) -> Shift | None:
    """The measured shift on record in a stage's folder; None before it was measured. LineageError if it is damaged."""
    path = Path(stage_folder) / SHIFT
    if not path.exists():
        return None
    try:
        return Shift.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise LineageError(
            f"{path}: damaged ({error})", "the ladder began by it", f"remove it to measure again: rm {path}"
        ) from error


def begun_by(stage: StageSpec, stage_folder: Path) -> Shift | None:
    """The shift that a stage's ladder goes by: declared, or measured and on record; None before it was measured."""
    return Shift(stage.shift, False) if stage.shift != "auto" else read_shift(stage_folder)


def shift_of(plan: Plan, stage: StageSpec, arm: str = COOKBOOK) -> dict[str, Any] | None:
    """What a stage's ladder began by: its shift, and which ladder follows from it; None before it was measured."""
    found = begun_by(stage, Path(plan.run.folder) / "arms" / arm / stage.name)
    if found is None:
        return None
    return found.as_dict() | {"ladder": ladder_for(plan, plan.stages.index(stage), found.grade)[0]}


def known_shift(plan: Plan, stage: StageSpec) -> tuple[Shift, str] | None:
    """A stage's shift and where it is from: on record, else measured on the run's tokens, else as the plan says.

    None where none of these is there. Writes nothing.
    """
    folder = Path(plan.run.folder)
    stage_folder = folder / "arms" / COOKBOOK / stage.name
    if (found := read_shift(stage_folder)) is not None:
        return found, f"on record in {stage_folder / SHIFT}"
    if (found := _from_tokens(plan, stage)) is not None:
        return found, f"measured on the tokens in {folder / 'tokens'}, without a model"
    return None if stage.shift == "auto" else (Shift(stage.shift, False), "the plan says so")


def _from_tokens(plan: Plan, stage: StageSpec) -> Shift | None:
    prepared = prepared_before(plan, (stage.new, plan.base.corpus))
    if prepared is None:
        return None
    new, base = prepared.corpora[stage.new], prepared.corpora[plan.base.corpus]
    return graded(divergence(new, base, prepared.tokenizer, plan.seed), None, None, ("bits/byte: no model was asked",))
