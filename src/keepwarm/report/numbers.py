"""A plan in exact numbers before anything is trained: steps, tokens, epochs, LR at the borders, cost. No torch.

Exact where the token files exist; where there is only text, tokens are estimated from bytes and marked `~`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from keepwarm.attempt.base import base_batches, base_schedule
from keepwarm.attempt.candidates import RESOLVERS
from keepwarm.attempt.planned import planned
from keepwarm.attempt.ramp import BEFORE
from keepwarm.attempt.resolve import at_peak
from keepwarm.corpora.exclusions import read_exclusions
from keepwarm.corpora.given import given
from keepwarm.corpora.indexed import bin_tokens
from keepwarm.plan.cookbook import ladder_for
from keepwarm.plan.corpus import CorpusSpec
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.plan.rungs import Candidate, candidates
from keepwarm.report.legs import stage_rates
from keepwarm.strategy.ladder import TRAINABLE

BYTES_PER_TOKEN = 3.5  # of text, a rough figure that only estimates (marked ~) use
UNPACKED = {".gz": 3.5, ".zst": 3.5, ".parquet": 2.5}  # text bytes a stored byte, rough, likewise
TRAIN_FLOPS_PER_PARAMETER = 6  # forward and backward, a token


@dataclass(frozen=True, slots=True)
class Size:
    """Tokens of a corpus; `exact` False when estimated from the bytes of its text."""

    tokens: int
    exact: bool
    left_out: Mapping[str, Any] | None = None  # as the run recorded it; None before its token files are there

    def words(self) -> str:
        """For tables."""
        return f"{'' if self.exact else '~'}{self.tokens:,}"


def numbers(plan: Plan) -> dict[str, Any]:
    """All that `keepwarm plan` shows, as data."""
    sizes = {name: corpus_size(plan, name, spec) for name, spec in plan.corpora.items()}
    rows = [_base_row(plan, sizes)] if plan.base.tokens else []
    rates = stage_rates(plan)
    sized = [plan.of_stage(stage) for stage in plan.stages]
    before = [(plan.plateau_lr, plan.global_batch_size)]
    before += [(lr, own.global_batch_size) for lr, own in zip(rates, sized, strict=True)]
    stages = [
        _stage(sized[index], index, stage, sizes, rates[index], before[index])
        for index, stage in enumerate(plan.stages)
    ]
    worst = sum(stage["tokens"] * stage["attempts_at_most"] for stage in stages)
    trunk = sum(stage["tokens"] for stage in stages) + (rows[0]["tokens"] if rows else 0)
    cooldown = plan.schedule.cooldown.tokens_of(plan.stages[-1].tokens)
    control = len(plan.control) * (sum(stage["tokens"] for stage in stages) + cooldown)
    return {
        "name": plan.name,
        "step_tokens": plan.step_tokens,
        "lr_max": plan.plateau_lr,
        "max_epochs": float(plan.max_epochs),
        "corpora": {
            name: {
                "tokens": size.tokens,
                "exact": size.exact,
                "left_out": size.left_out,
                "stand_in": plan.stand_ins.get(name),
            }
            for name, size in sizes.items()
        },
        "base": rows[0] if rows else {"checkpoint": plan.base.checkpoint, "phase": plan.base.phase},
        "stages": stages,
        "cooldown_tokens": cooldown,
        "tokens": {
            "if_first_rungs_hold": trunk + cooldown + control,
            "worst_case": trunk - sum(stage["tokens"] for stage in stages) + worst + cooldown + control,
        },
    }


def corpus_size(plan: Plan, name: str, spec: CorpusSpec) -> Size:
    """Trainable tokens of a corpus: from the run's token files, else from its own, else from the bytes of its text."""
    record = Path(plan.run.folder) / "resolved.json"
    if record.exists():
        known = json.loads(record.read_text(encoding="utf-8"))["corpora"].get(name)
        if known:
            return Size(known["tokens"], True, known.get("left_out"))
    if spec.generate is not None:
        return Size(spec.generate.tokens, True)
    if spec.files.exclude is not None:
        read_exclusions(Path(spec.files.exclude))  # one that is missing or can't be understood is refused here already
    items = given(name, spec)
    if spec.files.text is None:
        return Size(sum(bin_tokens(item.prefix) for item in items if item.prefix is not None), True)
    size = sum(path.stat().st_size * UNPACKED.get(path.suffix, 1.0) for item in items for path in item.files)
    return Size(int(size / BYTES_PER_TOKEN), False)


def _base_row(plan: Plan, sizes: Mapping[str, Size]) -> dict[str, Any]:
    assert plan.base.tokens is not None
    tokens = base_schedule(plan).tokens
    return {
        "name": "base",
        "steps": base_batches(plan).steps(tokens // plan.sequence_length),
        "tokens": tokens,
        "asked_tokens": plan.base.tokens,
        "warmup_tokens": plan.schedule.warmup.tokens_of(plan.base.tokens),
        "schedule": plan.schedule.kind,
        "epochs": {plan.base.corpus: tokens / max(1, sizes[plan.base.corpus].tokens)},
    }


def _stage(
    plan: Plan, index: int, stage: StageSpec, sizes: Mapping[str, Size], lr: float, before: tuple[float, int]
) -> dict[str, Any]:
    """A stage of a plan with its batch, at `lr`; `before` it the line had that LR and batch."""
    tokens = plan.whole_steps(stage.tokens)
    steps = tokens // plan.step_tokens
    grade = "strong" if stage.shift == "auto" else stage.shift
    which, rungs = ladder_for(plan, index, grade)
    tried = [each for rung in rungs for each in candidates(rung)]
    return {
        "name": stage.name,
        "new": stage.new,
        "shift": stage.shift,
        "ladder": "weak or strong, by the measured shift" if which != "own" and stage.shift == "auto" else which,
        "steps": steps,
        "tokens": tokens,
        "asked_tokens": stage.tokens,
        "lr": [lr, lr],
        "candidates": [
            _candidate(each, stage, tokens, sizes, plan)
            | {"kept": [row.as_dict() for row in planned(plan, stage, each, before[0], lr, before[1])]}
            for each in tried
        ],
        "attempts_at_most": sum(each.rung in TRAINABLE for each in tried),
    }


def _candidate(each: Candidate, stage: StageSpec, tokens: int, sizes: Mapping[str, Size], plan: Plan) -> dict[str, Any]:
    shares = shares_of(each)
    if stage.ramp is not None and RESOLVERS.get(each.rung) is at_peak:
        shares = _with_ramp(shares, Fraction(plan.whole_steps(stage.ramp.tokens_of(stage.tokens)), tokens))
    new, d0 = float(shares.get("new", 0)), float(shares.get("d0", 0))
    new = max(new, 1 - float(each.parameters.get("least", 1)))  # of a steered mix, the most it may come to
    return {
        "label": each.label,
        "rung": each.rung,
        "built": each.rung in TRAINABLE,
        "shares": {role: float(share) for role, share in shares.items()},
        "tokens": {role: round(float(share) * tokens) for role, share in shares.items()},
        "epochs": {
            stage.new: new * tokens / max(1, sizes[stage.new].tokens),
            plan.base.corpus: d0 * tokens / max(1, sizes[plan.base.corpus].tokens),
        },
    }


def _with_ramp(shares: Mapping[str, Fraction], ramp: Fraction) -> dict[str, Fraction]:
    """Of all the stage's tokens, when its first `ramp` of them move from the recorded mix: half of those are its."""
    found = {role: share * (1 - ramp / 2) for role, share in shares.items()}
    return {BEFORE: found.pop(BEFORE, Fraction(0)) + ramp / 2, **found}


def shares_of(candidate: Candidate) -> dict[str, Fraction]:
    """A candidate's mix by role, as asked; empty for rungs whose planned mix changes on the way."""
    if candidate.rung == "naive":
        return {"new": Fraction(1)}
    if candidate.rung in ("replay", "replay-previous-mix") and candidate.share is not None:
        return {"d0" if candidate.rung == "replay" else "previous": candidate.share, "new": 1 - candidate.share}
    if candidate.share is not None:  # the rungs that warm up from a converged checkpoint
        return {"d0": candidate.share, "new": 1 - candidate.share}
    if candidate.mix is not None:
        return dict(zip(("d0", "new", "buffer"), candidate.mix, strict=True))
    if candidate.rung == "thermostat":  # as it starts
        return {"previous": candidate.parameters["start"], "new": 1 - candidate.parameters["start"]}
    return {}
