"""What a candidate will keep of the checkpoint it starts from, as far as a plan alone can say it: the table before a run."""

from __future__ import annotations

from keepwarm.attempt.decay import rising_schedule
from keepwarm.attempt.kept import MOMENTS, Row, batch_row, lr_row, random_row
from keepwarm.attempt.rewarm import plateau_schedule, redecay_schedule
from keepwarm.errors import KeepwarmError
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.plan.rungs import Candidate
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.introduction import introduction
from keepwarm.schedule.schedule import Schedule

_END = "the line's end at peak"
_STARTS = {
    "replay-rewarm": (_END, "reset"),
    "rewarm-converged": ("the line's end cooled, or a cooldown of it", "reset"),
    "legacy-replay-rewarm": ("the line's end cooled", "reset"),
    "decay-then-introduce": ("the newest at peak, one decay earlier", "keep"),
    "special-continuation": ("the line's end, decayed", "keep"),
    "incremental": ("the line's end", "keep"),
}


def planned(
    plan: Plan, stage: StageSpec, candidate: Candidate, lr_before: float, lr_max: float, batch_before: int
) -> tuple[Row, ...]:
    """The table of a candidate, in a plan with the stage's batch. The line comes to it at `lr_before` with a batch of
    `batch_before`; `lr_max` is its LR_max at the stage's own batch. Empty for a rung that trains nothing."""
    if candidate.rung == "merge":
        return ()
    start, moments = _STARTS.get(candidate.rung, (_END, "keep"))
    moments = candidate.parameters.get("optimizer", moments)
    how, words = MOMENTS[moments]
    if candidate.rung == "incremental":
        words += "; reset, with a warm-up, where the line is cooled"
    return (
        Row("weights", "kept", start),
        Row("optimizer moments", how, words),
        _lr(plan, stage, candidate, lr_before, lr_max),
        *batch_row(batch_before, plan.global_batch_size),
        Row(f"data: {stage.new}", "new", "starts at 0"),
        Row("data: old", "kept", "every source goes on where the line stands"),
        random_row(plan.seed),
        Row("evaluation windows", "kept", "the same of every corpus"),
    )


def _lr(plan: Plan, stage: StageSpec, candidate: Candidate, before: float, lr_max: float) -> Row:
    if candidate.rung == "special-continuation":
        return Row("LR", "kept", "LR_3, where the stage before ended -> LR_3, no warm-up -> LR_3/100 (cooled)")
    try:
        schedule = candidate_schedule(plan, stage, candidate, lr_max)
    except KeepwarmError as error:
        return Row("LR", "changed", f"not possible: {error.what}")
    if candidate.rung in ("rewarm-converged", "legacy-replay-rewarm"):
        return lr_row(schedule, 0.0, "cooled")
    return lr_row(schedule, before, f"peak at LR {before:g}")


def candidate_schedule(
    plan: Plan, stage: StageSpec, candidate: Candidate, lr_max: float, *, cooled: bool = False
) -> Schedule:
    """LR of a candidate, in a plan with the stage's batch, from a line whose LR_max is `lr_max`."""
    if candidate.rung == "replay-rewarm":
        return plateau_schedule(plan, stage, candidate, lr_max)
    if candidate.rung in ("rewarm-converged", "legacy-replay-rewarm"):
        return redecay_schedule(plan, stage, candidate, lr_max)
    if candidate.rung == "decay-then-introduce":
        return introduction(plan, stage, candidate, lr_max)[0]
    if candidate.rung == "incremental":
        return rising_schedule(plan, stage, candidate, lr_max, warm_up=cooled)
    return schedules.constant(lr_max, plan.whole_steps(stage.tokens))
