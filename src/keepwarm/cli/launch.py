"""`keepwarm launch PLAN`: the next attempt as jobs of Megatron-DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Scheduler = Literal["pbs", "slurm", "none"]
Machine = Literal["aurora", "polaris", "sunspot", "sirius", "sophia", "perlmutter", "none"]


def launch(
    plan: Path,
    /,
    *,
    stage: str | None = None,
    rung: str | None = None,
    scheduler: Scheduler | None = None,
    machine: Machine | None = None,
    write: bool = False,
    submit: bool = False,
    verbatim_cookbook: bool = False,
    rate: float | None = None,
    json: bool = False,
    set: list[str] | None = None,
) -> int:
    """Show the file list, environment, command and job of the next attempt. Nothing is written unless it is asked for.

    Parameters
    ----------
    plan
        The plan file, with run: {backend: megatron, megatron: ...}.
    stage
        base, or a stage; the first that is not accepted when left out.
    rung
        A rung of its ladder, a candidate's label, or cooldown; the ladder's next candidate when left out.
    scheduler
        In place of the plan's.
    machine
        In place of the plan's, with its own defaults.
    write
        Write the attempt's folder: list, views, scripts and records.
    submit
        Write it, and submit the first job.
    verbatim_cookbook
        Instead: the cookbook's own command for this stage, and each thing in it that would not do what it says.
    rate
        Tokens a second, to turn tokens into node-hours and jobs (else the run's own measured rate).
    json
        Print everything as JSON.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm.launching import look, verbatim
    from keepwarm.plan.load import load_plan
    from keepwarm.report.launched import show
    from keepwarm.report.terminal import Terminal, console_aside

    asked = load_plan(plan, set or ())
    if verbatim_cookbook:
        show(verbatim(asked, stage, scheduler, machine), as_json=json)
        return 0
    with Terminal(out=console_aside() if json else None) as terminal:
        found = look(
            asked, terminal, stage=stage, rung=rung, scheduler=scheduler, machine=machine, write=write, submitting=submit,
            rate=rate,
        )  # fmt: skip
    show(found, as_json=json)
    return 0
