"""Where new data enters a decay (decay-then-introduce, arXiv 2407.07263): how long the decay is, and its switch step.

Pure numbers of a plan, asked twice: by the rung when it starts, and by retention, which must know beforehand how far
back the rung may reach.
"""

from __future__ import annotations

from fractions import Fraction

from keepwarm.errors import GuardError
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.plan.rungs import Candidate
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.schedule import Schedule
from keepwarm.units import lr_of

CROSSING_PROBE_TOKENS = 10**12  # a decay this long gives the crossing as a share to twelve digits


def introduction(plan: Plan, stage: StageSpec, candidate: Candidate, lr_max: float) -> tuple[Schedule, int]:
    """decay-then-introduce from a line at `lr_max`: `decay_schedule` with the candidate's own rates."""
    asked = candidate.parameters
    lr_end, lr_switch = lr_of(asked["to"], lr_max), lr_of(asked["introduce_at"], lr_max)
    return decay_schedule(plan, stage, candidate, lr_max, lr_end, lr_switch)


def decay_schedule(
    plan: Plan, stage: StageSpec, candidate: Candidate, lr_start: float, lr_end: float, lr_switch: float
) -> tuple[Schedule, int]:
    """The decay and the step at which the new mix enters: the first whose LR is at or below `lr_switch`.

    `horizon` new-data sizes the decay so that what follows the switch has the stage's tokens; `stage` gives the whole
    decay the stage's tokens. GuardError if there is no step on both sides of the switch, PlanError if LR never crosses
    `lr_switch`.
    """
    shape, horizon = candidate.parameters["decay"], candidate.parameters["horizon"]
    probe = schedules.decay_then_introduce(lr_start, CROSSING_PROBE_TOKENS, shape, lr_end)
    before = Fraction(probe.where(lr_switch), CROSSING_PROBE_TOKENS)
    whole = Fraction(stage.tokens) if horizon == "stage" else stage.tokens / (1 - before)
    tokens = plan.whole_steps(-(-whole.numerator // whole.denominator))
    schedule = schedules.decay_then_introduce(lr_start, tokens, shape, lr_end)
    switch_step = -(-schedule.where(lr_switch) // plan.step_tokens)
    if not 0 < switch_step < tokens // plan.step_tokens:
        raise GuardError(
            "budget-and-identity",
            f"{candidate.label}: a decay of {tokens // plan.step_tokens} steps has no step on both sides of its switch",
            "base data comes first, the new mix after it",
            "give the stage more tokens",
        )
    return schedule, switch_step
