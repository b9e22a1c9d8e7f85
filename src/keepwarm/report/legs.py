"""A plan's line as legs: the learning rate of every step, as its first rungs run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from keepwarm.plan.model import Plan
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.schedule import Schedule
from keepwarm.units import parse_lr


@dataclass(frozen=True, slots=True)
class Leg:
    """One stretch of the line: a schedule that begins at a step of the whole line."""

    stage: str
    first_step: int
    steps: int
    schedule: Schedule


def legs(plan: Plan) -> list[Leg]:
    """The base, each stage at LR_max, and the cooldown branch at the line's end, as the plan's first rungs run."""
    lr_max, found, first = plan.optimizer.lr_max, [], 0
    lr_min = 0.0 if str(plan.schedule.lr_min) in ("0", "0.0") else parse_lr(plan.schedule.lr_min, lr_max)

    def add(stage: str, tokens: int, make: str) -> None:
        nonlocal first
        steps = -(-tokens // plan.step_tokens)
        total = steps * plan.step_tokens
        warmup_tokens = plan.schedule.warmup.tokens_of(tokens)
        schedule = {
            "wsd": lambda: schedules.wsd(lr_max, warmup_tokens, total),
            "cosine": lambda: schedules.cosine(lr_max, warmup_tokens, total, lr_min),
            "constant": lambda: schedules.constant(lr_max, total),
            "cooldown": lambda: schedules.cooldown(lr_max, total, plan.schedule.cooldown_shape, lr_min),
        }[make]()
        found.append(Leg(stage, first, steps, schedule))
        first += steps

    if plan.base.tokens is not None:
        add("base", plan.base.tokens, plan.schedule.kind)
    for stage in plan.stages:
        add(stage.name, stage.tokens, "constant")
    cooldown_tokens = plan.schedule.cooldown.tokens_of(plan.stages[-1].tokens)
    if cooldown_tokens:
        add("cooldown", cooldown_tokens, "cooldown")
    return found


def rates(plan: Plan, steps: range) -> Iterator[tuple[int, float, str, str]]:
    """(step, LR after that many optimizer steps, phase, stage) for each of `steps` of the line."""
    line = legs(plan)
    last = line[-1]
    for step in steps:
        leg = next((each for each in line if step < each.first_step + each.steps), last)
        tokens = (step - leg.first_step) * plan.step_tokens
        yield step, float(leg.schedule.lr(tokens)), leg.schedule.phase(tokens), leg.stage


def total_steps(plan: Plan) -> int:
    """Optimizer steps of the whole line."""
    last = legs(plan)[-1]
    return last.first_step + last.steps
