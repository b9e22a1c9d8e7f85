"""An attempt from its mixes and its schedule: exact weights, cursors carried across switches, epochs guarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from keepwarm.attempt.line import Feed, Mixes, open_stream
from keepwarm.attempt.model import Attempt, EvaluationPlan, FedSource, Judgement, Moments, Optimizer, Part
from keepwarm.attempt.stability import Stability
from keepwarm.attempt.steered import capped, roles_at, worst_rows
from keepwarm.attempt.steering import Steering
from keepwarm.attempt.timing import affordable
from keepwarm.blend.ledger import ledger
from keepwarm.blend.mixture import combine
from keepwarm.blend.stream import Segment, followed
from keepwarm.errors import GuardError
from keepwarm.lineage import guard
from keepwarm.plan.model import Plan
from keepwarm.schedule.batch import Batches, BatchRamp, batches
from keepwarm.schedule.schedule import Schedule
from keepwarm.units import lr_of


def make_attempt(
    plan: Plan, feed: Feed, mixes: Mixes, schedule: Schedule, *, arm: str, stage: str, number: int, rung: str,
    label: str, new: str | None, old: tuple[str, ...], start: str | None, moments: Moments,
    cursors: Mapping[str, int], allow: tuple[str, ...] = (), overridden: Sequence[GuardError] = (),
    warnings: tuple[str, ...] = (), batch_ramp: BatchRamp | None = None, steering: Steering | None = None,
) -> Attempt:  # fmt: skip
    """Put an attempt together. The schedule has whole steps; `mixes` begins at step 0. GuardError if epochs exceed.

    With `steering` the last of the mixes is where it starts, and epochs are those of the worst that it may come to.

    `allow` names guards that may be overridden, `overridden` are those that its start has overridden already: they and
    what the mix overrides are recorded, nothing else.
    """
    cut = batches(plan.global_batch_size, batch_ramp)
    steps = cut.steps(schedule.tokens // plan.sequence_length)
    assert cut.samples(steps) * plan.sequence_length == schedule.tokens and mixes[0][0] == 0
    shares = [guard.shares_complete([(role.name, role.share) for role in roles]) for _, roles in mixes]
    overridden = (*overridden, *guard.enforce(shares, allow))
    if plan.over_max_epochs == "reweight":
        mixes, steering, lowered = capped(plan, feed, mixes, steering, cut, steps, cursors)
        warnings = (*warnings, *lowered)
    attempt = Attempt(
        arm=arm, stage=stage, number=number, rung=rung, label=label, new=new, old=old, start=start, moments=moments,
        parts=_parts(mixes, cut, steps), sources=_fed_sources(mixes, steering, feed), schedule=schedule, segments=(),
        optimizer=Optimizer.of(plan.optimizer),
        seed=plan.seed, sequence_length=plan.sequence_length, global_batch_size=plan.global_batch_size,
        micro_batch_size=plan.micro_batch_size or plan.global_batch_size, steps=steps,
        max_epochs=Fraction(plan.max_epochs), batch_ramp=batch_ramp,
        evaluation=_evaluation(plan, feed, cut, steps, _first_new(mixes), new, old),
        judgement=_judgement(plan, old), model=model_words(plan), tokenizer_sha256=feed.tokenizer.sha256,
        vocab_size=feed.tokenizer.vocab_size, document_eod=feed.tokenizer.eod_id if plan.document_mask else None,
        warnings=warnings, steering=steering, stability=Stability.of(plan.stability),
    )  # fmt: skip
    for first_step, roles in mixes:
        mixture = combine([(role.share, role.members) for role in roles])
        first = (Segment(0, mixture, tuple(sorted(cursors.items()))),)
        segments = followed(attempt.segments, cut.samples(first_step), mixture) if attempt.segments else first
        attempt = replace(attempt, segments=segments)
    at_most = " at the most that its mix may come to" if steering else ""
    rows = worst_rows(attempt, feed) if steering else ledger(open_stream(attempt, feed), cut.samples(steps))
    overridden = (*overridden, *guard.enforce([guard.within_epochs(rows, attempt.max_epochs)], allow))
    allowed = tuple(f"allowed {refusal.guard}: {refusal.args[1]}" for refusal in overridden)
    return replace(
        attempt,
        allow=tuple(sorted({refusal.guard for refusal in overridden})),
        warnings=tuple(dict.fromkeys((*allowed, *warnings, *(f"{text}{at_most}" for text in guard.repeats(rows))))),
    )


def lr_min(plan: Plan) -> float:
    """Where the plan's cooldowns and cosines end."""
    return lr_of(plan.schedule.lr_min, plan.optimizer.lr_max)


def _first_new(mixes: Mixes) -> int:
    """The step at which the new data comes in; 0 where none does."""
    return next((step for step, roles in mixes if any(role.name == "new" for role in roles)), 0)


def _parts(mixes: Mixes, cut: Batches, steps: int) -> tuple[Part, ...]:
    """Each role's share of all the attempt's tokens."""
    found: dict[str, Fraction] = {}
    borders = [cut.samples(step) for step in (*(first for first, _ in mixes), steps)]
    for number, (_, roles) in enumerate(mixes):
        for role in roles:
            share = role.share * Fraction(borders[number + 1] - borders[number], borders[-1])
            found[role.name] = found.get(role.name, Fraction(0)) + share
    return tuple(Part(name, share) for name, share in found.items())


def _fed_sources(mixes: Mixes, steering: Steering | None, feed: Feed) -> tuple[FedSource, ...]:
    role_of: dict[str, str] = {}
    steered = roles_at(steering, Fraction(1, 2)) if steering else []  # both poles, though one may not be fed at first
    for role in (*(role for _, roles in mixes for role in roles), *steered):
        for source in role.members:
            role_of.setdefault(source, role.name)
    return tuple(
        FedSource(source, feed.sources[source][0].name, feed.sources[source][1], role)
        for source, role in role_of.items()
    )


def _evaluation(
    plan: Plan, feed: Feed, cut: Batches, steps: int, switch_step: int, new: str | None, old: Sequence[str]
) -> EvaluationPlan:
    """Points are dense from the step on that brings new data: that is when loss moves."""
    windows = {n: (c.holdout_tokens - 1) // plan.sequence_length for n, c in feed.corpora.items()}
    watched = [*old, new] if new else [plan.base.corpus]
    tokens = (cut.samples(steps) - cut.samples(switch_step)) * plan.sequence_length
    points, size = affordable(steps - switch_step, tokens, plan.sequence_length, windows, watched)
    if plan.verdict.evaluate_every != "auto":
        every = max(1, round(int(plan.verdict.evaluate_every) / plan.step_tokens))
        return EvaluationPlan(tuple(range(every, steps, every)), size or {name: windows[name] for name in watched})
    return EvaluationPlan(tuple(switch_step + point for point in points), size)


def _judgement(plan: Plan, old: Sequence[str]) -> Judgement:
    tolerances = {name: plan.verdict.tolerance_of(name) for name in old}
    return Judgement({name: (float(t.value), t.unit) for name, t in tolerances.items()}, float(plan.verdict.adaptation))


def model_words(plan: Plan) -> Mapping[str, Any]:
    """What the plan says of its model: a config, a Hugging Face folder, or the given checkpoint's own."""
    if plan.model is None:
        return {"checkpoint": plan.base.checkpoint}
    return {"hf": plan.model.hf} if plan.model.hf else {"config": dict(plan.model.config or {})}
