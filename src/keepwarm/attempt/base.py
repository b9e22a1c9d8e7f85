"""Stage 1: the base is trained on D_0 alone."""

from __future__ import annotations

from fractions import Fraction

from keepwarm.attempt.build import lr_min, make_attempt
from keepwarm.attempt.line import BASE, COOKBOOK, Feed, Role
from keepwarm.attempt.model import Attempt
from keepwarm.plan.model import Plan
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.batch import Batches, BatchRamp, batches
from keepwarm.schedule.schedule import Schedule


def base_attempt(plan: Plan, feed: Feed) -> Attempt:
    """The attempt of a base that is trained here."""
    roles = [Role("d0", Fraction(1), feed.corpora[plan.base.corpus].weights)]
    start = plan.model.hf if plan.model and plan.model.hf else None
    return make_attempt(
        plan, feed, [(0, roles)], base_schedule(plan), arm=COOKBOOK, stage=BASE, number=0, rung=BASE,
        label="train the base", new=None, old=(), start=start, moments="fresh", cursors={}, allow=plan.base.allow,
        batch_ramp=batch_ramp(plan),
    )  # fmt: skip


def base_schedule(plan: Plan) -> Schedule:
    """LR over the base's tokens, in whole steps: it ends at peak, but for a cosine."""
    assert plan.base.tokens is not None
    cut, asked = base_batches(plan), plan.schedule
    samples = cut.samples(cut.steps(-(-plan.base.tokens // plan.sequence_length)))
    tokens, warmup_tokens = samples * plan.sequence_length, asked.warmup.tokens_of(plan.base.tokens)
    lr_max = plan.optimizer.lr_max
    if asked.decay is not None:
        decay_tokens = asked.decay.tokens_of(plan.base.tokens)
        infinite = {
            "infinite-cosine": schedules.infinite_cosine,
            "infinite-inv-sqrt": schedules.infinite_inv_sqrt,
        }[asked.kind]
        return infinite(lr_max, plan.plateau_lr, warmup_tokens, decay_tokens, tokens - warmup_tokens - decay_tokens)
    if asked.kind == "cosine":
        return schedules.cosine(lr_max, warmup_tokens, tokens, lr_min(plan))
    return schedules.wsd(lr_max, warmup_tokens, tokens)


def base_batches(plan: Plan) -> Batches:
    """How the base's samples are cut into optimizer steps."""
    return batches(plan.global_batch_size, batch_ramp(plan))


def batch_ramp(plan: Plan) -> BatchRamp | None:
    """The plan's ramp, its length in samples."""
    asked = plan.base.batch_ramp
    return BatchRamp(asked.start, asked.increment, -(-asked.tokens // plan.sequence_length)) if asked else None
