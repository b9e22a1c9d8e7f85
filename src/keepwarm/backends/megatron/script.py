"""A launch's files: what a person would type, the job around it that submits itself until it is done, the evaluation.

The trainer's own exit status says nothing: its script ends in a pipe, a launcher that fails gives 0, and weights that are
not found are replaced by random ones. So the job goes by what is saved: it reads the iteration that SAVE's `latest` names,
checks what LOAD holds before it begins, and stops after so many jobs in a row that saved nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path
from string import Template

from keepwarm.attempt.model import Attempt
from keepwarm.backends.megatron.machines import Site, site_of
from keepwarm.backends.megatron.record import Launch
from keepwarm.backends.megatron.starts import Origin
from keepwarm.plan.machines import Scheduler
from keepwarm.plan.model import Plan

TRAIN, JOB, EVALUATE = "train.sh", "job.sh", "evaluate.sh"
LOGS = "logs"
_SUBMIT = {  # how a script is submitted, at once or behind the job that runs now; each prints the new job's id
    "pbs": ("qsub", 'qsub -W "depend=afterany:$PBS_JOBID"', "qdel", "${PBS_JOBID:-}"),
    "slurm": (
        "sbatch --parsable", 'sbatch --parsable "--dependency=afterany:$SLURM_JOB_ID"', "scancel", "${SLURM_JOB_ID:-}",
    ),
    "none": ("", "", ":", ""),
}  # fmt: skip


def files_of(
    plan: Plan, attempt: Attempt, launch: Launch, site: Site, folder: Path, origin: Origin, follows: str | None
) -> dict[str, str]:
    """The scripts of a launch by name. `follows`: the folder of the launch behind it."""
    run_plan, rung = str(Path(plan.run.folder) / "plan.yaml"), Path(attempt.folder).name
    evaluate = ("keepwarm", "eval", run_plan, "--stage", attempt.stage, "--rung", rung, "--arm", attempt.arm, "--trust")
    name = f"{attempt.stage}-{attempt.number:02d}"
    header = _header(site, f"{name}-train", f"{folder}/{LOGS}/", site.spec.nodes, site.queue, site.spec.walltime)
    job = _filled(
        "job", header=header, setup=_setup(site), launch=shlex.quote(str(folder)), save=shlex.quote(launch.save),
        load=shlex.quote(launch.load or ""), pointed=shlex.quote(origin.pointed or ""), begins=launch.begins,
        follows=shlex.quote(follows or ""), begin=launch.begin_iteration, end=launch.end_iteration,
        most=site.spec.attempts_without_progress, prepare=shlex.join(launch.prepare), **_scheduling(site),
    )  # fmt: skip
    return {
        TRAIN: _train(launch, folder),
        JOB: job,
        EVALUATE: evaluation_script(plan, folder, f"{name}-eval", evaluate, site),
    }


def evaluation_script(
    plan: Plan, folder: Path, name: str, command: Sequence[str], site: Site | None = None
) -> str:  # fmt: skip
    """A job of one node that runs `command` in `folder`."""
    site = site or site_of(plan)
    queue, walltime = site.spec.evaluation_queue or site.queue, site.spec.evaluation_walltime or site.spec.walltime
    header = _header(site, name, f"{folder}/", 1, queue, walltime)
    return _filled(
        "evaluate", header=header, setup=_setup(site), folder=shlex.quote(str(folder)), command=shlex.join(command)
    )


def submit_command(plan: Plan, folder: Path, script: str) -> str:
    """What a person types to submit a script of a folder."""
    return typed(site_of(plan).scheduler, folder, script)


def typed(scheduler: Scheduler, folder: Path, script: str) -> str:
    """The same, of a scheduler that is known."""
    command = {"pbs": "qsub", "slurm": "sbatch", "none": "bash"}[scheduler]
    return f"cd {shlex.quote(str(folder))} && {command} {script}"


def _setup(site: Site) -> str:
    return "\n".join(site.spec.setup) or ":"


def _train(launch: Launch, folder: Path) -> str:
    """What is typed at the trainer: once at the launch's beginning, and whenever it goes on."""
    variables = " \\\n".join(f"  {name}={shlex.quote(value)}" for name, value in launch.environment.items())
    return _filled(
        "train", name=launch.name, attempt=launch.attempt, trainer=shlex.quote(launch.trainer), variables=variables,
        arguments=_typed(launch.arguments), resume_arguments=_typed(launch.resume_arguments),
        launch=shlex.quote(str(folder)),
    )  # fmt: skip


def _typed(arguments: Sequence[str]) -> str:
    return " ".join(shlex.quote(argument) for argument in arguments)


def _header(site: Site, name: str, output: str, nodes: int, queue: str | None, walltime: int | None) -> str:
    """The scheduler's own lines; nothing where there is none. `output`: a folder for what the scheduler itself says."""
    time = _clock(walltime or 0)
    if site.scheduler == "pbs":
        file_systems = f",filesystems={site.filesystems}" if site.filesystems else ""
        lines = [f"-A {site.account}", f"-q {queue}", f"-l select={nodes}", f"-l walltime={time}{file_systems}",
                 f"-N {name}", "-j oe", f"-o {output}"]  # fmt: skip
        return "\n".join(f"#PBS {line}" for line in lines)
    if site.scheduler == "slurm":
        lines = [f"--account={site.account}", f"--qos={queue}", f"--nodes={nodes}", f"--time={time}",
                 f"--gpus-per-node={site.gpus_per_node}", f"--job-name={name}", f"--output={output}%x-%j.out"]  # fmt: skip
        lines += [f"--constraint={site.constraint}"] if site.constraint else []
        return "\n".join(f"#SBATCH {line}" for line in lines)
    return "# scheduler none: run it where the trainer can be launched"


def _scheduling(site: Site) -> Mapping[str, str]:
    at_once, behind, cancel, job_id = _SUBMIT[site.scheduler]
    hosts = {
        "pbs": 'export HOSTFILE="${HOSTFILE:-$PBS_NODEFILE}"',
        "slurm": 'scontrol show hostnames "$SLURM_JOB_NODELIST" >"$launch/hostfile"; export HOSTFILE="$launch/hostfile"',
        "none": "",
    }[site.scheduler]
    return {"at_once": at_once, "behind": behind, "cancel": cancel, "job_id": job_id, "hosts": hosts}


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class _Script(Template):
    """`@@{name}` is filled in, so that the shell's own dollars need no escape."""

    delimiter = "@@"


def _filled(script: str, /, **values: object) -> str:
    """A file of scripts/ with its places filled in; nothing is left out silently."""
    text = (resources("keepwarm.backends.megatron") / "scripts" / f"{script}.sh").read_text(encoding="utf-8")
    return _Script(text).substitute({key: str(value) for key, value in values.items()})
