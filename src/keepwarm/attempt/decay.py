"""The rungs that lower the learning rate while the data changes: decay-then-introduce (2407.07263), the special
continuation 3->4, and incremental introduction.

The base data goes on while LR decays from LR_max to LR_max/N; the new mix, never the new data alone, enters where LR
crosses LR_max/5 on the way down. That place is found from the curve: it lies at 71.1 % of a cosine to LR_max/100, at
80.8 % of a linear decay, at 65 % of 1-sqrt.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from keepwarm.attempt.build import make_attempt
from keepwarm.attempt.line import Role, cursors_at, identity, recorded_mix
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.resolve import Request, new_of
from keepwarm.attempt.steered import roles_at
from keepwarm.attempt.steering import Pole, Steering
from keepwarm.errors import GuardError
from keepwarm.lineage import guard
from keepwarm.lineage.graph import newest_at_peak
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.plan.rungs import Candidate
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.introduction import decay_schedule, introduction
from keepwarm.schedule.schedule import Schedule

CONTINUED_TO, CONTINUED_AT = 100, 5  # the special continuation: LR_3/100, the new mix at LR_3/5


def decay_then_introduce(request: Request) -> tuple[Attempt, Manifest]:
    """From an earlier at-peak checkpoint of the line: the newest that lies one decay segment before the line's end."""
    asked, label, allow = request.candidate.parameters, request.candidate.label, request.stage.allow
    mix = guard.mixed_introduction(asked["alpha_0"], label)
    overridden = guard.enforce([mix, guard.not_converged(request.line.end, label)], allow)
    schedule, switch_step = introduction(request.plan, request.stage, request.candidate, request.lr_max)
    start = _earlier(request, switch_step * request.plan.step_tokens)
    scale = request.scale_from(start)
    own_lr_max = request.lr_max / scale  # at the batch the checkpoint was trained with
    if asked["anchor"] == "start-lr":
        own_lr_max = start.lr
        schedule, switch_step = introduction(request.plan, request.stage, request.candidate, start.lr * scale)
    phase = guard.peak_start(start, label, request.whole, own_lr_max)
    overridden += guard.enforce([phase, guard.optimizer_state(start, label)], allow)
    d0 = request.feed.corpora[request.plan.base.corpus].weights
    base = d0 if asked["base_data"] == "d0" else recorded_mix(start, _parent(start, request), d0)
    return _introduced(request, start, base, schedule, switch_step, overridden)


def special_continuation(request: Request) -> tuple[Attempt, Manifest]:
    """From a line that ended by decay-then-introduce: the decay goes on from where it ended, with that stage's mix."""
    start, asked, label = request.line.end, request.candidate.parameters, request.candidate.label
    refusals = [
        guard.decayed_end(start, label),
        guard.mixed_introduction(asked["alpha_0"], label),
        guard.optimizer_state(start, label),
    ]
    overridden = guard.enforce(refusals, request.stage.allow)
    lr = start.lr * request.scale_from(start)
    schedule, switch_step = decay_schedule(
        request.plan, request.stage, request.candidate, lr, lr / CONTINUED_TO, lr / CONTINUED_AT
    )
    d0 = request.feed.corpora[request.plan.base.corpus].weights
    base = recorded_mix(start, request.line.begin, d0)
    return _introduced(request, start, base, schedule, switch_step, overridden)


def incremental(request: Request) -> tuple[Attempt, Manifest]:
    """The new data's share rises in steps to its target, on a decay or at LR_max: of equal tokens, or as it is steered."""
    asked, line, stage, label = request.candidate.parameters, request.line, request.stage, request.candidate.label
    start, lr_max = line.end, line.end.lr_max
    keep = guard.at_peak(start, lr_max) or asked["schedule"] == "peak"  # else LR is warmed up, from a fresh optimizer
    overridden = guard.enforce(
        [
            guard.peak_start(start, label, request.whole, lr_max) if asked["schedule"] == "peak" else None,
            guard.optimizer_state(start, label) if keep else None,
            guard.same_identity(start, identity(request.plan, request.feed)),
        ],
        stage.allow,
    )
    schedule = rising_schedule(request.plan, stage, request.candidate, request.lr_max, warm_up=not keep)
    d0, new = (request.feed.corpora[name].weights for name in (request.plan.base.corpus, stage.new))
    steps = schedule.tokens // request.plan.step_tokens
    stairs = tuple(1 - rise * (1 - asked["alpha_0"]) for rise in asked["rises"])
    steering = Steering(
        "incremental", Pole.of("d0", d0), Pole.of("new", new), stairs[0], min(stairs), max(stairs), stairs
    )
    mixes = [(number * steps // len(stairs), roles_at(steering, share)) for number, share in enumerate(stairs)]
    judged = asked["advance"] == "verdict"
    attempt = make_attempt(
        request.plan, request.feed, mixes[:1] if judged else mixes, schedule, arm=line.arm, stage=stage.name,
        number=request.number, rung=request.candidate.rung, label=label, new=new_of(line, stage),
        old=tuple(name for name, _ in line.taught), start=start.id,
        moments="keep" if keep and start.optimizer_state else "reset", cursors=cursors_at(start, request.plan.sequence_length),
        allow=stage.allow, overridden=overridden, steering=steering if judged else None,
    )  # fmt: skip
    return attempt, start


def rising_schedule(plan: Plan, stage: StageSpec, candidate: Candidate, lr_max: float, *, warm_up: bool) -> Schedule:
    """LR of incremental introduction: constant, or the decay; a rate that reached its minimum is warmed up first."""
    tokens = plan.whole_steps(stage.tokens)
    if candidate.parameters["schedule"] == "peak":
        return schedules.constant(lr_max, tokens)
    warmup_tokens = plan.whole_steps(round(tokens / 100)) if warm_up else 0
    return schedules.rewarm(lr_max, warmup_tokens, tokens, "cosine", lr_max / CONTINUED_TO)


def _introduced(
    request: Request,
    start: Manifest,
    base: Mapping[str, Fraction],
    schedule: Schedule,
    switch_step: int,
    overridden: tuple[GuardError, ...],
) -> tuple[Attempt, Manifest]:
    plan, stage, feed, line = request.plan, request.stage, request.feed, request.line
    overridden += guard.enforce([guard.same_identity(start, identity(plan, feed))], stage.allow)
    alpha_0 = request.candidate.parameters["alpha_0"]
    d0, new = feed.corpora[plan.base.corpus].weights, feed.corpora[stage.new].weights
    introduced = [role for role in (Role("d0", alpha_0, d0), Role("new", 1 - alpha_0, new)) if role.share]
    attempt = make_attempt(
        plan, feed, [(0, [Role("base data", Fraction(1), base)]), (switch_step, introduced)], schedule, arm=line.arm,
        stage=stage.name, number=request.number, rung=request.candidate.rung, label=request.candidate.label,
        new=new_of(line, stage), old=tuple(name for name, _ in line.taught), start=start.id,
        moments="keep" if start.optimizer_state else "reset", cursors=cursors_at(start, plan.sequence_length), allow=stage.allow,
        overridden=overridden,
    )  # fmt: skip
    return attempt, start


def _earlier(request: Request, segment_tokens: int) -> Manifest:
    """The newest at-peak checkpoint of the line that lies at least `segment_tokens` before the line's end."""
    end, label = request.line.end, request.candidate.label
    found = newest_at_peak(request.whole, end.line_tokens - segment_tokens)
    if found is not None:
        return found
    deleted = newest_at_peak(request.trunk, end.line_tokens - segment_tokens)
    raise GuardError(
        "phase-match",
        f"{label} needs a checkpoint at peak {segment_tokens:,} tokens before {end.id}; "
        + (f"{deleted.id} was deleted" if deleted else "the line has none"),
        "its decay first goes on with the base data from there",
        "save more often (run: {save_every: ...}) or give the stage fewer tokens",
    )


def _parent(start: Manifest, request: Request) -> Manifest | None:
    """What the attempt that made a checkpoint had started from."""
    return next((manifest for manifest in request.trunk if manifest.id == start.parent), None)
