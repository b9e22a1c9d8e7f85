"""A plan's line as legs: the learning rate of every step, as its first rungs run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from keepwarm.attempt.base import base_batches, base_schedule
from keepwarm.plan.model import Plan
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.batch import Batches, batches, scaled_lr
from keepwarm.schedule.schedule import Schedule
from keepwarm.units import lr_of


@dataclass(frozen=True, slots=True)
class Leg:
    """One stretch of the line: a schedule that begins at a step of the whole line."""

    stage: str
    first_step: int
    batches: Batches
    sequence_length: int
    schedule: Schedule

    @property
    def steps(self) -> int:
        """Its optimizer steps."""
        return self.batches.steps(self.schedule.tokens // self.sequence_length)


def legs(plan: Plan) -> list[Leg]:
    """The base, each stage at LR_max, and the cooldown branch at the line's end, as the plan's first rungs run."""
    found = [("base", base_batches(plan), base_schedule(plan))] if plan.base.tokens is not None else []
    for stage, lr in zip(plan.stages, stage_rates(plan), strict=True):
        own = plan.of_stage(stage)
        trunk = schedules.constant(lr, own.whole_steps(stage.tokens))
        found.append((stage.name, batches(own.global_batch_size), trunk))
    cooldown_tokens = plan.schedule.cooldown.tokens_of(plan.stages[-1].tokens)
    if cooldown_tokens:
        shape, lr_min = plan.schedule.cooldown_shape, lr_of(plan.schedule.lr_min, lr)
        fall = schedules.cooldown(lr, own.whole_steps(cooldown_tokens), shape, lr_min)
        found.append(("cooldown", batches(own.global_batch_size), fall))
    lengths = [cut.steps(schedule.tokens // plan.sequence_length) for _, cut, schedule in found]
    firsts = [0, *accumulate(lengths)]
    return [
        Leg(name, first, cut, plan.sequence_length, schedule)
        for first, (name, cut, schedule) in zip(firsts, found, strict=False)
    ]


def stage_rates(plan: Plan) -> list[float]:
    """LR_max of each stage: the line's plateau, scaled by the plan's rule where a stage changes the batch."""
    rates, lr, batch = [], plan.plateau_lr, plan.global_batch_size
    for stage in plan.stages:
        own = plan.of_stage(stage).global_batch_size
        lr *= scaled_lr(1.0, batch, own, plan.optimizer.lr_scaling or "none")
        batch = own
        rates.append(lr)
    return rates


def rates(plan: Plan, steps: Sequence[int]) -> Iterator[tuple[int, float, str, str]]:
    """(step, LR after that many optimizer steps, phase, stage) for each of `steps` of the line."""
    line = legs(plan)
    for number, leg in enumerate(line):
        last = number == len(line) - 1
        end = leg.first_step + leg.steps
        here = [step for step in steps if leg.first_step <= step and (step < end or last)]
        if here:
            tokens = np.array([leg.batches.samples(step - leg.first_step) * leg.sequence_length for step in here])
            found = zip(here, leg.schedule.lr(tokens).tolist(), leg.schedule.phases(tokens).tolist(), strict=True)
            yield from ((step, lr, phase, leg.stage) for step, lr, phase in found)


def total_steps(plan: Plan) -> int:
    """Optimizer steps of the whole line."""
    last = legs(plan)[-1]
    return last.first_step + last.steps
