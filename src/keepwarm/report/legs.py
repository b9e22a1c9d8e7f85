"""A plan's line as legs: the learning rate of every step, if each stage keeps the first rung that may start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from keepwarm.attempt.base import base_batches, base_schedule
from keepwarm.attempt.planned import candidate_schedule
from keepwarm.plan.cookbook import ladder_for
from keepwarm.plan.model import Plan
from keepwarm.plan.rungs import Candidate, candidates
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.batch import Batches, batches, scaled_lr
from keepwarm.schedule.schedule import Schedule
from keepwarm.strategy.ladder import TRAINABLE
from keepwarm.units import lr_of

COOLED_ONLY = ("legacy-replay-rewarm", "special-continuation")  # rungs that refuse a line at peak
FROM_BOTH = ("rewarm-converged", "incremental")


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
    """The base, each stage by its first candidate that may start, and the cooldown branch of a line that ends at peak."""
    found: list[tuple[str, Batches, Schedule]] = []
    phase: str = plan.base.phase or "peak"
    if plan.base.tokens is not None:
        base = base_schedule(plan)
        found, phase = [("base", base_batches(plan), base)], base.phase(base.tokens)
    lr, own = plan.plateau_lr, plan
    for index, stage in enumerate(plan.stages):
        batch, own = own.global_batch_size, plan.of_stage(stage)
        lr = scaled_lr(lr, batch, own.global_batch_size, plan.optimizer.lr_scaling or "none")
        schedule = candidate_schedule(own, stage, _first(plan, index, phase), lr, cooled=phase != "peak")
        lr, phase = schedule.lr_max, schedule.phase(schedule.tokens)
        found.append((stage.name, batches(own.global_batch_size), schedule))
    cooldown_tokens = plan.schedule.cooldown.tokens_of(plan.stages[-1].tokens)
    if cooldown_tokens and phase == "peak":
        shape, lr_min = plan.schedule.cooldown_shape, lr_of(plan.schedule.lr_min, lr)
        fall = schedules.cooldown(lr, own.whole_steps(cooldown_tokens), shape, lr_min)
        found.append(("cooldown", batches(own.global_batch_size), fall))
    lengths = [cut.steps(schedule.tokens // plan.sequence_length) for _, cut, schedule in found]
    firsts = accumulate(lengths, initial=0)
    return [
        Leg(name, first, cut, plan.sequence_length, schedule)
        for first, (name, cut, schedule) in zip(firsts, found, strict=False)
    ]


def _first(plan: Plan, index: int, phase: str) -> Candidate:
    """A stage's first candidate that a line in `phase` may start; the very first if none may, or a guard is overridden."""
    ladder = ladder_for(plan, index, "strong")[1]
    tried = [each for rung in ladder for each in candidates(rung) if each.rung in TRAINABLE]
    if "peak-start" in plan.stages[index].allow:
        return tried[0]
    fit = (each for each in tried if each.rung in FROM_BOTH or (each.rung in COOLED_ONLY) == (phase != "peak"))
    return next(fit, tried[0])


def stage_rates(plan: Plan) -> list[float]:
    """LR_max of each stage: the line's plateau, scaled by the plan's rule where a stage changes the batch."""
    rates, lr, batch = [], plan.plateau_lr, plan.global_batch_size
    for stage in plan.stages:
        own = plan.of_stage(stage).global_batch_size
        lr *= scaled_lr(1.0, batch, own, plan.optimizer.lr_scaling or "none")
        batch = own
        rates.append(lr)
    return rates


def rates(line: Sequence[Leg], steps: Sequence[int]) -> Iterator[tuple[int, float, str, str]]:
    """(step, LR after that many optimizer steps, phase, stage) for each of `steps` of the line, which rise."""
    for number, leg in enumerate(line):
        last = number == len(line) - 1
        end = leg.first_step + leg.steps
        here = [step for step in steps if leg.first_step <= step and (step < end or last)]
        if here:
            tokens = leg.batches.samples_of(np.array(here) - leg.first_step) * leg.sequence_length
            found = zip(here, leg.schedule.lr(tokens).tolist(), leg.schedule.phases(tokens).tolist(), strict=True)
            yield from ((step, lr, phase, leg.stage) for step, lr, phase in found)


def total_steps(line: Sequence[Leg]) -> int:
    """Optimizer steps of the whole line."""
    return line[-1].first_step + line[-1].steps
