"""`keepwarm run PLAN`: train, judge, climb; goes on from what is on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def run(
    plan: Path,
    /,
    *,
    stage: str | None = None,
    approve: Literal["never", "each-stage", "each-rung"] = "never",
    set: list[str] | None = None,
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
    """
    from keepwarm.errors import KeepwarmError, WorkFailed
    from keepwarm.pipeline import Waiting
    from keepwarm.pipeline import run as run_plan
    from keepwarm.plan.load import load_plan
    from keepwarm.report.html import print_report
    from keepwarm.report.terminal import Terminal, print_status

    asked = load_plan(plan, set or ())
    names = [each.name for each in asked.stages]
    if stage is not None and stage not in names:
        raise KeepwarmError(
            f"--stage {stage}: the plan has no such stage", "nothing was trained", f"one of: {', '.join(names)}"
        )
    try:
        with Terminal() as terminal:
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
