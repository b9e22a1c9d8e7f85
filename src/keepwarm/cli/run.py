"""`keepwarm run PLAN`: train, judge, climb; goes on from what is on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from keepwarm.plan.model import Plan

Approve = Literal["never", "each-stage", "each-rung"]


def run(
    plan: Path,
    /,
    *,
    stage: str | None = None,
    approve: Approve = "never",
    set: list[str] | None = None,
    allow: list[str] | None = None,
    branch: Literal["cooldown", "average"] | None = None,
    start: Annotated[str | None, Parameter("--from")] = None,
    tokens: str | None = None,
    last: int | None = None,
    nproc: int | None = None,
    time_limit: str | None = None,
    submit: bool = False,
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
    nproc
        Processes on this machine, one a GPU, that compute together (torchrun's). Under torchrun, srun or mpiexec the
        launcher says it.
    time_limit
        Of this job: 3h50m, 40 min, 90 s. It saves before, and exits with 75: submit the same command again. Slurm's own
        end (SLURM_JOB_END_TIME) is known without it.
    submit
        On a cluster (backend megatron): submit what is launched, too. Without it the command to submit it is printed; in
        either case the run ends there, and the same command goes on from what the jobs have left.
    """
    from keepwarm.backends.jobs import as_job
    from keepwarm.branches import branch as branch_off
    from keepwarm.cli import arguments
    from keepwarm.errors import KeepwarmError
    from keepwarm.plan.allow import with_allowed
    from keepwarm.plan.load import load_plan
    from keepwarm.report.branched import print_branch
    from keepwarm.report.terminal import Terminal

    asked = with_allowed(load_plan(plan, set or ()), allow or ())
    names = [each.name for each in asked.stages]
    if stage is not None and stage not in names:
        raise KeepwarmError(
            f"--stage {stage}: the plan has no such stage", "nothing was trained", f"one of: {', '.join(names)}"
        )
    _check_backend(asked.run.backend, {"--nproc": nproc, "--time-limit": time_limit}, submit)
    seconds = None if time_limit is None else arguments.seconds(time_limit, "--time-limit")
    wanted = None if tokens is None else arguments.count(tokens, "--tokens")

    def story() -> int:
        if all(each is None for each in (branch, start, tokens, last)):
            return _whole(plan, asked, stage, approve, submit)
        with Terminal(table=True) as terminal:
            found = branch_off(asked, terminal, branch, start, tokens=wanted, last=last, stage=stage)
        print_branch(*found)
        return 0

    return as_job(story, arguments.given, nproc, seconds)


def _check_backend(backend: str, processes: dict[str, object], submit: bool) -> None:
    """Flags that belong to the other backend are refused."""
    from keepwarm.errors import KeepwarmError

    extra = next((flag for flag, value in processes.items() if value is not None), None)
    if backend == "megatron" and extra is not None:
        raise KeepwarmError(
            f"{extra} says nothing about the backend megatron",
            "its jobs have the nodes and the walltime of the plan",
            "run: {megatron: {nodes: ..., walltime: ...}}",
        )
    if backend != "megatron" and submit:
        raise KeepwarmError(
            "--submit: the backend is native", "it trains in this process, and submits nothing", "leave --submit out"
        )


def _whole(path: Path, plan: Plan, stage: str | None, approve: Approve, submit: bool) -> int:
    from keepwarm.errors import WorkFailed
    from keepwarm.exits import ToSubmit
    from keepwarm.pipeline import Waiting
    from keepwarm.pipeline import run as run_plan
    from keepwarm.report.html import print_report
    from keepwarm.report.terminal import Terminal, print_status

    try:
        with Terminal(table=True) as terminal:
            run_plan(plan, terminal, until=stage, approve=approve, submit=submit)
    except Waiting as waiting:
        name, label, outcome = waiting.args
        print(f"\n{name} {label}: {outcome}. Your word, then run again:")
        print(f'  keepwarm decide {path} accept --stage {name} --because "..."   (or: reject, next RUNG)')
        return 0
    except ToSubmit as job:
        print_report(plan)
        raise ToSubmit(job.what, tuple(each.replace("PLAN", str(path)) for each in job.commands)) from None
    except WorkFailed:
        print_status(plan)
        print_report(plan)
        raise
    print_status(plan)
    print_report(plan)
    return 0
