"""`keepwarm eval PLAN [CHECKPOINT]`: held-out losses of any checkpoint, or of all that an attempt's jobs have saved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def eval(
    plan: Path,
    checkpoint: Path | None = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    stage: str | None = None,
    rung: str | None = None,
    arm: str = "cookbook",
    trust: bool = False,
    json: bool = False,
    set: list[str] | None = None,
) -> int:
    """Measure a checkpoint on the held-out windows of every corpus of a plan: nats per token and bits per byte.

    Parameters
    ----------
    plan
        The plan file.
    checkpoint
        A keepwarm checkpoint, a Hugging Face folder, a step of Megatron-DeepSpeed or its universal copy. Left out: every
        saved step of a launched attempt that was not measured yet, each written where `keepwarm observe` reads it.
    out
        Write the losses, window by window, to this file.
    stage
        Of the attempt: base, or a stage; left out, that of the one launched last that is not done.
    rung
        A rung, a candidate's label, or the attempt's folder, such as 01-replay.
    arm
        cookbook, a control arm, or branches.
    trust
        Read pickled files, in a process of their own and by an allow-list; Megatron-DeepSpeed's are.
    json
        Print everything as JSON.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm.measuring import measured_by
    from keepwarm.observing import Named
    from keepwarm.plan.load import load_plan
    from keepwarm.report.observed import print_evaluations
    from keepwarm.report.terminal import Terminal, console_aside

    say = Terminal(out=console_aside()).say
    named = Named(arm, stage, rung)
    print_evaluations(
        measured_by(load_plan(plan, set or ()), checkpoint, out, named, trust=trust, say=say), as_json=json
    )
    return 0
