"""The rungs that warm the learning rate again: replay-rewarm, rewarm-converged, legacy replay + rewarm.

A warm-up over 1 % of the stage's tokens (2308.04014: its length is not a knob, its peak is), from a fresh optimizer
unless the rung keeps the moments. replay-rewarm then stays at its plateau, which is the line's LR_max from there on;
the two that start from a converged checkpoint decay again, so that the line stays cooled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from keepwarm.attempt.build import make_attempt
from keepwarm.attempt.line import Role, cursors_at, identity
from keepwarm.attempt.model import Attempt, Moments
from keepwarm.attempt.resolve import Request, new_of
from keepwarm.errors import GuardError
from keepwarm.lineage import guard
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.plan.rungs import Candidate
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.schedule import Schedule
from keepwarm.units import lr_of

WARMUP_SHARE = Fraction(1, 100)
USUAL_REPLAY = Fraction(5, 100)


def replay_rewarm(request: Request) -> tuple[Attempt, Manifest]:
    """From the line's end at peak, optimizer reset: the replay mix that did best, warmed up to LR, then constant."""
    line, label = request.line, request.candidate.label
    refusals = [guard.peak_start(line.end, label, request.whole, line.end.lr_max)]
    schedule = plateau_schedule(request.plan, request.stage, request.candidate, request.lr_max)
    return _attempt(request, request.best_replay or USUAL_REPLAY, schedule, line.end, "reset", refusals)


def rewarm_converged(request: Request) -> tuple[Attempt, Manifest]:
    """From a converged checkpoint, with more of D_0: warmed up to LR, then a cosine to the plan's minimum."""
    assert request.converged is not None
    return _redecayed(request, request.converged, request.candidate.parameters["optimizer"])


def legacy(request: Request) -> tuple[Attempt, Manifest]:
    """From the end of a cosine decay (2403.08763): a little of D_0, warmed up to LR, a cosine down again."""
    return _redecayed(request, request.line.end, "reset")


def _redecayed(request: Request, start: Manifest, moments: Moments) -> tuple[Attempt, Manifest]:
    label = request.candidate.label
    refusals = [guard.converged_start(start, label), guard.optimizer_state(start, label) if moments == "keep" else None]
    share = request.candidate.share
    assert share is not None
    schedule = redecay_schedule(request.plan, request.stage, request.candidate, request.lr_max)
    return _attempt(request, share, schedule, start, moments if start.optimizer_state else "reset", refusals)


def control(request: Request) -> tuple[Attempt, Manifest]:
    """A control arm whose line can't go on at peak: warmed up to LR_max from a fresh optimizer, as the ladder's rungs are.

    It then stays there, or decays again if the line was converged, so that phases compare.
    """
    end, candidate = request.line.end, request.candidate
    share = Fraction(1 if candidate.rung == "d0-only" else 0)
    request = replace(request, candidate=replace(candidate, parameters={"lr": "lr_max", "share": share}))
    if end.phase in guard.CONVERGED:
        return _redecayed(request, end, "reset")
    schedule = plateau_schedule(request.plan, request.stage, request.candidate, request.lr_max)
    refusal = guard.peak_start(end, candidate.label, request.whole, end.lr_max)
    return _attempt(request, share, schedule, end, "reset", [refusal])


def plateau_schedule(plan: Plan, stage: StageSpec, candidate: Candidate, lr_max: float) -> Schedule:
    """replay-rewarm's LR, from a line at `lr_max`: up over 1 % of the tokens, then constant."""
    tokens, warmup_tokens = _lengths(plan, stage)
    return schedules.rewarm(lr_of(candidate.parameters["lr"], lr_max), warmup_tokens, tokens)


def redecay_schedule(plan: Plan, stage: StageSpec, candidate: Candidate, lr_max: float) -> Schedule:
    """LR of the rungs that start from a converged checkpoint: up over 1 % of the tokens, then a cosine down again."""
    tokens, warmup_tokens = _lengths(plan, stage)
    lr, lr_end = candidate.parameters["lr"], candidate.parameters.get("to", plan.schedule.lr_min)
    return schedules.rewarm(lr_of(lr, lr_max), warmup_tokens, tokens, "cosine", lr_of(lr_end, lr_max))


def _lengths(plan: Plan, stage: StageSpec) -> tuple[int, int]:
    """Tokens of the stage and of the warm-up, whole steps each (at least one)."""
    tokens = plan.whole_steps(stage.tokens)
    return tokens, plan.whole_steps(round(WARMUP_SHARE * tokens))


def _attempt(
    request: Request, share: Fraction, schedule: Schedule, start: Manifest, moments: Moments,
    refusals: Sequence[GuardError | None],
) -> tuple[Attempt, Manifest]:  # fmt: skip
    plan, stage, feed, line = request.plan, request.stage, request.feed, request.line
    overridden = guard.enforce([*refusals, guard.same_identity(start, identity(plan, feed))], stage.allow)
    d0, new = feed.corpora[plan.base.corpus].weights, feed.corpora[stage.new].weights
    roles = [role for role in (Role("d0", share, d0), Role("new", 1 - share, new)) if role.share]
    attempt = make_attempt(
        plan, feed, [(0, roles)], schedule, arm=line.arm,
        stage=stage.name, number=request.number, rung=request.candidate.rung, label=request.candidate.label,
        new=new_of(line, stage), old=tuple(name for name, _ in line.taught), start=start.id, moments=moments,
        cursors=cursors_at(start, plan.sequence_length), allow=stage.allow, overridden=overridden,
    )  # fmt: skip
    return attempt, start
