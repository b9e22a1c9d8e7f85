"""The rungs that warm the learning rate again: replay-rewarm, rewarm-converged, legacy replay + rewarm.

A warm-up over 1 % of the stage's tokens (2308.04014: its length is not a knob, its peak is), from a fresh optimizer
unless the rung keeps the moments. replay-rewarm then stays at its plateau, which is the line's LR_max from there on;
the two that start from a converged checkpoint decay again, so that the line stays cooled.
"""

from __future__ import annotations

from fractions import Fraction

from keepwarm.attempt.build import make_attempt
from keepwarm.attempt.line import Role, identity
from keepwarm.attempt.model import Attempt, Moments
from keepwarm.attempt.resolve import Request, new_of
from keepwarm.lineage import guard
from keepwarm.lineage.manifest import Manifest
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.schedule import Schedule
from keepwarm.units import lr_of

WARMUP_SHARE = Fraction(1, 100)
USUAL_REPLAY = Fraction(5, 100)


def replay_rewarm(request: Request) -> tuple[Attempt, Manifest]:
    """From the line's end at peak, optimizer reset: the replay mix that did best, warmed up to LR, then constant."""
    line, label = request.line, request.candidate.label
    guard.peak_start(line.end, label, request.whole, request.stage.allow, line.end.lr_max)
    lr = lr_of(request.candidate.parameters["lr"], request.lr_max)
    tokens, warmup_tokens = _lengths(request)
    schedule = schedules.rewarm(lr, warmup_tokens, tokens)
    return _attempt(request, request.best_replay or USUAL_REPLAY, schedule, line.end, "reset")


def rewarm_converged(request: Request) -> tuple[Attempt, Manifest]:
    """From a converged checkpoint, with more of D_0: warmed up to LR, then a cosine to the plan's minimum."""
    start = request.converged
    assert start is not None
    guard.converged_start(start, request.candidate.label, request.stage.allow)
    return _redecayed(request, start, request.plan.schedule.lr_min, request.candidate.parameters["optimizer"])


def legacy(request: Request) -> tuple[Attempt, Manifest]:
    """From the end of a cosine decay (2403.08763): a little of D_0, warmed up to LR, a cosine down again."""
    start = request.line.end
    guard.converged_start(start, request.candidate.label, request.stage.allow)
    return _redecayed(request, start, request.candidate.parameters["to"], "reset")


def _redecayed(request: Request, start: Manifest, to: str | float, moments: Moments) -> tuple[Attempt, Manifest]:
    lr_max = request.lr_max
    tokens, warmup_tokens = _lengths(request)
    lr = lr_of(request.candidate.parameters["lr"], lr_max)
    schedule = schedules.rewarm(lr, warmup_tokens, tokens, "cosine", lr_of(to, lr_max))
    share = request.candidate.share
    assert share is not None
    return _attempt(request, share, schedule, start, moments if start.optimizer_state else "reset")


def _lengths(request: Request) -> tuple[int, int]:
    """Tokens of the stage and of the warm-up, whole steps each (at least one)."""
    tokens = request.plan.whole_steps(request.stage.tokens)
    return tokens, request.plan.whole_steps(round(WARMUP_SHARE * tokens))


def _attempt(
    request: Request, share: Fraction, schedule: Schedule, start: Manifest, moments: Moments
) -> tuple[Attempt, Manifest]:
    plan, stage, feed, line = request.plan, request.stage, request.feed, request.line
    guard.same_identity(start, identity(plan, feed), stage.allow)
    d0, new = feed.corpora[plan.base.corpus].weights, feed.corpora[stage.new].weights
    attempt = make_attempt(
        plan, feed, [(0, [Role("d0", share, d0), Role("new", 1 - share, new)])], schedule, arm=line.arm,
        stage=stage.name, number=request.number, rung=request.candidate.rung, label=request.candidate.label,
        new=new_of(line, stage), old=tuple(name for name, _ in line.taught), start=start.id, moments=moments,
        cursors=start.cursors, allow=stage.allow,
    )  # fmt: skip
    return attempt, start
