"""A plan's line, or a schedule in words, as the reference's flags: one line a leg."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from keepwarm.errors import PlanError
from keepwarm.plan.model import Plan
from keepwarm.report.legs import Leg, legs
from keepwarm.schedule.megatron import to_flags
from keepwarm.schedule.named import named_schedule


def plan_flags(plan: Plan) -> Iterator[tuple[str, list[str]]]:
    """(leg, its flags) for the base, each stage and the cooldown, which resumes the leg before it.

    Raises PlanError at the first leg that the flags cannot say.
    """
    before: Leg | None = None
    for leg in legs(plan):
        after = before.steps if leg.stage == "cooldown" and before is not None else 0
        try:
            words = to_flags(leg.schedule, leg.batches.largest, leg.sequence_length, after, leg.batches.ramp)
        except PlanError as error:
            raise PlanError(f"{leg.stage}: {error.what}", error.why, error.fix) from None
        yield leg.stage, words
        before = leg


def schedule_flags(text: str) -> list[str]:
    """The flags of a schedule in words. Raises PlanError if there are none."""
    named = named_schedule(text)
    return to_flags(named.schedule, named.global_batch_size, named.sequence_length)


def print_plan_flags(plan: Plan) -> None:
    """One line a leg: its name and its flags."""
    found = list(plan_flags(plan))
    width = max(len(stage) for stage, _ in found)
    for stage, words in found:
        print(f"{stage.ljust(width)}  {shlex.join(words)}")
