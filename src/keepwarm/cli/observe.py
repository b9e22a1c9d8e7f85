"""`keepwarm observe PLAN [LOG...]`: the logs of an attempt's jobs as metrics, warnings, a verdict and the next command."""

from __future__ import annotations

from pathlib import Path


def observe(
    plan: Path,
    /,
    *logs: Path,
    stage: str | None = None,
    rung: str | None = None,
    arm: str = "cookbook",
    follow: bool = False,
    json: bool = False,
    set: list[str] | None = None,
) -> int:
    """Read what Megatron-DeepSpeed logged of a launched attempt and what was measured of its checkpoints.

    Parameters
    ----------
    plan
        The plan file.
    logs
        Logs in the order they were written; left out, those in the folders of the attempt's launches.
    stage
        base, or a stage; left out, that of the attempt launched last that is not done.
    rung
        A rung, a candidate's label, or the attempt's folder, such as 01-replay.
    arm
        cookbook, a control arm, or branches.
    follow
        Print new points as they are logged, until the last one or Ctrl-C.
    json
        Print everything as JSON; with --follow, when it ends.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm.observing import Named, followed, looked, opened
    from keepwarm.plan.load import load_plan
    from keepwarm.report.observed import Live, print_observed
    from keepwarm.report.terminal import Terminal, console_aside, print_json

    asked = opened(load_plan(plan, set or ()), Terminal(out=console_aside()), Named(arm, stage, rung))
    found = followed(asked, logs, Live(silent=json).tell) if follow else looked(asked, logs)
    if json:
        print_json(found.as_dict())
    else:
        print_observed(found, plan)
    return 0
