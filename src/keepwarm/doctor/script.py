"""Traps of job scripts, and of scripts that submit jobs behind each other: PBS and Slurm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from keepwarm.doctor.settings import Command
from keepwarm.doctor.shell import Text
from keepwarm.doctor.trap import Sight, trap
from keepwarm.units import parse_seconds

SCRIPTS = "reference/megatron.md section 7"
_MALFORMED = re.compile(r"(?:walltime|select|place)=[^,\s]*?:((?:filesystems|walltime|place)=)")
_WALLTIME = re.compile(r"(?:walltime=|--time[= ]|-t[ =]?)(\S+?)(?:,|$|\s)")
_DEPENDENCY = re.compile(r"(?:depend|--dependency)[= ]*(after\w+):(\$\{?(\w+)(?:\[[^]]*\])?\}?|[0-9]\S*)?")
_STORED = r"(?m)^[^#\n]*\b{name}(?:\[[^]]*\])?\+?=(?!\(\)|\"\"|''|\s|$)"
_LOOP = re.compile(
    r"\(\(\s*(\w+)\s*=\s*([01])\s*;\s*\1\s*(<=?)\s*\"?\$?\{?(\w+)\}?\"?|seq\s+(?:([01])\s+)?\"?\$\{?(\w+)\}?\"?"
)
_SUBMITS = re.compile(r"\b(qsub|sbatch)\b")
_STOPS = ("--exit-duration-in-mins", "--exit-interval", "--exit-signal-handler")


@dataclass(frozen=True)
class Job:
    """A script and the launches in it, each as it would run."""

    text: Text
    commands: tuple[Command, ...]

    @property
    def seconds(self) -> tuple[str, float] | None:
        """(place, seconds) of the time limit that the header asks for."""
        for place, _, words in self.text.directives:
            match = _WALLTIME.search(words)
            if match is not None:
                try:
                    return f"{place}: {match[0].strip(', ')}", parse_seconds(match[1].split(":filesystems")[0])
                except ValueError:
                    return None
        return None


@trap(
    "malformed-directive",
    "script",
    "stops",
    seen="resources with `:` between them, as in -l walltime=01:00:00:filesystems=eagle",
    harm="qsub refuses the job, or the walltime is not the one that is read",
    source=f"{SCRIPTS}: deprecated.md",
)
def malformed_directive(job: Job) -> Iterator[Sight]:
    """PBS parts resources by commas."""
    places = [(place, words) for place, _, words in job.text.directives]
    places += [(job.text.place(number), line) for number, line in job.text.lines if _SUBMITS.search(line)]
    for place, words in places:
        for match in _MALFORMED.finditer(words):
            yield Sight(
                place, f"`:{match[1]}` stands where `,{match[1]}` must", words.replace(f":{match[1]}", f",{match[1]}")
            )


@trap(
    "empty-dependency",
    "script",
    "lost",
    seen="depend=afterany: with nothing behind it, or with a variable that is not set there",
    harm="qsub refuses the job, or it does not wait: two jobs write to the same checkpoints",
    source=f"{SCRIPTS}: train_aGPT_7B_chain.sh",
)
def empty_dependency(job: Job) -> Iterator[Sight]:
    """A variable counts as set where a line above stores something in it."""
    for number, line in job.text.lines:
        for match in _DEPENDENCY.finditer(line):
            name = match[3]
            above = "\n".join(text for at, text in job.text.lines if at < number)
            if match[2] and (
                not name or name.startswith(("PBS_", "SLURM_")) or re.search(_STORED.format(name=name), above)
            ):
                continue
            what = f"nothing is stored in {name} above" if name else "no job id follows"
            yield Sight(
                job.text.place(number), f"`{match[0]}`: {what}",
                "id=$(qsub job.sh), then id=$(qsub -W depend=afterany:$id job.sh) for each further job",
            )  # fmt: skip


@trap(
    "one-job-more",
    "script",
    "lost",
    seen="a job submitted before a loop that submits N more",
    harm="N + 1 jobs run: one more than asked for, and paid for",
    source=f"{SCRIPTS}: train_aGPT_7B_chain.sh",
)
def one_job_more(job: Job) -> Iterator[Sight]:
    """Loops over all of N in a script that submitted one before."""
    submitted = False
    for at, (number, line) in enumerate(job.text.lines):
        match = _LOOP.search(line)
        if match is not None and submitted:
            first, last = match[2] or match[5] or "1", match[4] or match[6]
            rounds = match[3] != "<" if first == "1" else match[3] == "<"
            body = [text for _, text in job.text.lines[at:]]
            if rounds and any(_SUBMITS.search(text) for text in body):
                yield Sight(
                    job.text.place(number), f"{last} jobs in the loop, and one before it", f"loop to {last} - 1",
                )  # fmt: skip
        submitted = submitted or bool(_SUBMITS.search(line))


@trap(
    "waits-for-success",
    "script",
    "lost",
    seen="depend=afterok behind a job of train_alcf.sh",
    harm="its exit status is tee's 0, so a job that failed counts as done",
    source="golden/launch/dry_runs.json: fail_launcher",
)
def waits_for_success(job: Job) -> Iterator[Sight]:
    """afterany and a look at what is saved say more."""
    for number, line in job.text.lines:
        if "afterok:" in line:
            yield Sight(
                job.text.place(number),
                "`afterok` asks for an exit status that says nothing",
                line.replace("afterok", "afterany"),
            )


@trap(
    "status-of-tee",
    "script",
    "silent",
    seen="the exit status of train_alcf.sh used by &&, || or if",
    harm="it is the status of `tee` at the end of its pipe: 0 also where nothing was trained",
    source="golden/launch/dry_runs.json: fail_launcher",
)
def status_of_tee(job: Job) -> Iterator[Sight]:
    """What was saved tells whether something was trained."""
    for command in job.commands:
        if command.launch.status_used:
            yield Sight(
                command.launch.place, command.launch.status_used,
                'bash train_alcf.sh ...; [ "$(cat "$SAVE"/latest)" = global_stepN ] && ...',
            )  # fmt: skip


@trap(
    "cut-off-by-walltime",
    "script",
    "lost",
    seen="a time limit, and no --exit-duration-in-mins that ends before it",
    harm="the scheduler kills the trainer: what was trained since the last save is lost",
    source=f"{SCRIPTS}: --exit-duration-in-mins saves, then exits",
)
def cut_off_by_walltime(job: Job) -> Iterator[Sight]:
    """The script passes none of the trainer's own flags for it."""
    if job.seconds is None:
        return
    place, seconds = job.seconds
    minutes = int(seconds // 60)
    for command in job.commands:
        words = " ".join(command.launch.arguments).replace("=", " ").split()
        asked = words[words.index(_STOPS[0]) + 1] if _STOPS[0] in words[:-1] else ""
        if (asked.isdigit() and int(asked) < minutes) or any(flag in words for flag in _STOPS[1:]):
            continue
        every = command.rate("SAVE_INTERVAL")
        said = f"{_STOPS[0]}={asked} is not below {minutes} minutes" if asked else f"none of {', '.join(_STOPS)}"
        yield Sight(
            place, f"{said}; a save every {every} iterations is the only protection",
            f"bash train_alcf.sh {_STOPS[0]}={max(1, minutes - max(5, minutes // 20))} ...",
        )  # fmt: skip


@trap(
    "pbs-variables-under-slurm",
    "script",
    "stops",
    seen="a Slurm job without PBS_O_WORKDIR and HOSTFILE",
    harm="the script writes to /.cache and counts the nodes of a file that is not there",
    source=SCRIPTS,
)
def pbs_variables_under_slurm(job: Job) -> Iterator[Sight]:
    """The script was written for PBS."""
    if job.text.scheduler != "SBATCH":
        return
    for command in job.commands:
        lacking = [name for name in ("PBS_O_WORKDIR", "HOSTFILE") if not command.is_set(name)]
        if "HOSTFILE" in lacking and command.is_set("PBS_NODEFILE"):
            lacking.remove("HOSTFILE")
        fixes = {
            "PBS_O_WORKDIR": "export PBS_O_WORKDIR=$SLURM_SUBMIT_DIR",
            "HOSTFILE": 'scontrol show hostnames "$SLURM_JOB_NODELIST" > hostfile; export HOSTFILE=$PWD/hostfile',
        }  # fmt: skip
        if lacking:
            yield Sight(
                command.launch.place, f"not set: {', '.join(lacking)}", "; ".join(fixes[name] for name in lacking)
            )


@trap(
    "no-cd",
    "script",
    "stops",
    seen="a PBS job that does not go to its folder",
    source="pbs(7): a job starts in the home folder",
    harm="ALCF/helpers.sh is looked for in the home folder, and the script stops",
)
def no_cd(job: Job) -> Iterator[Sight]:
    """The script takes the current folder for the repository's."""
    if job.text.scheduler != "PBS" or not job.commands:
        return
    if not any(re.search(r"(^|[\s;&{(])cd\s+\S", line) for _, line in job.text.lines):
        yield Sight(job.commands[0].launch.place, "no `cd` before the launch", 'cd "$PBS_O_WORKDIR" || exit 1')
