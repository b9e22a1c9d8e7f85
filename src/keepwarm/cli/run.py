"""`keepwarm run PLAN`: train, judge, climb; goes on from what is on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def run(
    plan: Path,
    /,
    *,
    stage: str | None = None,
    approve: Literal["never", "each-stage", "each-rung"] = "never",
    set: list[str] | None = None,
    allow: list[str] | None = None,
    branch: Literal["cooldown", "average"] | None = None,
    start: Annotated[str | None, Parameter("--from")] = None,
    tokens: str | None = None,
    last: int | None = None,
) -> int:
    """Train a plan's stages, one rung after another, and go on from what is on disk.

    Parameters
    ----------
    plan
        The plan file.
    stage
        Stop after this stage.
    approve
        Stop for a person's word (keepwarm decide) before a stage is accepted, or after every rung.
    set
        Change a key of the plan: --set stages.stage2.tokens=1M (may be given several times).
    allow
        Override a guard by name, in one stage or in all, and have it recorded: --allow stage2:peak-start.
    branch
        Instead: a branch off the trunk, which may be in training meanwhile. cooldown: a converged model; average: the
        mean of its last checkpoints, a preview of one for nothing.
    start
        Where the branch begins: stage2@peak, stage2@1.5M (tokens of the line) or a checkpoint's id.
    tokens
        Of a cooldown; the plan's schedule.cooldown when left out.
    last
        How many checkpoints are averaged; 4 when left out.
    """
    from keepwarm.branches import branch as branch_off
    from keepwarm.cli.arguments import count
    from keepwarm.errors import KeepwarmError, WorkFailed
    from keepwarm.pipeline import Waiting
    from keepwarm.pipeline import run as run_plan
    from keepwarm.plan.allow import with_allowed
    from keepwarm.plan.load import load_plan
    from keepwarm.report.branched import print_branch
    from keepwarm.report.html import print_report
    from keepwarm.report.terminal import Terminal, print_status

    asked = with_allowed(load_plan(plan, set or ()), allow or ())
    names = [each.name for each in asked.stages]
    if stage is not None and stage not in names:
        raise KeepwarmError(
            f"--stage {stage}: the plan has no such stage", "nothing was trained", f"one of: {', '.join(names)}"
        )
    if any(each is not None for each in (branch, start, tokens, last)):
        wanted = None if tokens is None else count(tokens, "--tokens")
        with Terminal(table=True) as terminal:
            found = branch_off(asked, terminal, branch, start, tokens=wanted, last=last, stage=stage)
        print_branch(*found)
        return 0
    try:
        with Terminal(table=True) as terminal:
            run_plan(asked, terminal, until=stage, approve=approve)
    except Waiting as waiting:
        name, label, outcome = waiting.args
        print(f"\n{name} {label}: {outcome}. Your word, then run again:")
        print(f'  keepwarm decide {plan} accept --stage {name} --because "..."   (or: reject, next RUNG)')
        return 0
    except WorkFailed:
        print_status(asked)
        print_report(asked)
        raise
    print_status(asked)
    print_report(asked)
    return 0
