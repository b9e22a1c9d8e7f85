"""`keepwarm decide PLAN accept|reject|next`: a person's word on an attempt."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def decide(
    plan: Path,
    decision: Literal["accept", "reject", "next"],
    rung: str | None = None,
    /,
    *,
    stage: str,
    because: str,
    set: list[str] | None = None,
) -> int:
    """Record a person's decision on a stage: it stands above the verdict, with its reason.

    Parameters
    ----------
    plan
        The plan file.
    decision
        accept: keep the stage's last attempt (of an exhausted ladder: its best); reject: go on to the next candidate;
        next RUNG: go on to that rung.
    rung
        With next: the rung to go on to.
    stage
        The stage.
    because
        The reason, for the record.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm.decisions import record_decision
    from keepwarm.plan.load import load_plan

    attempt = record_decision(load_plan(plan, set or ()), stage, decision, rung, because)
    print(f"{stage} {attempt}: {decision}{f' {rung}' if rung else ''}, because {because}")
    print(f"next: keepwarm run {plan}")
    return 0
