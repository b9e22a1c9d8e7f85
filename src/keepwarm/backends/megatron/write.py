"""Launches on disk, whole or not at all, and on their way to the queue, once."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwarm import files
from keepwarm.attempt.line import Feed
from keepwarm.attempt.model import Attempt, to_json
from keepwarm.backends.megatron.launches import PlannedLaunch
from keepwarm.backends.megatron.lists import write_data
from keepwarm.backends.megatron.record import launches_of, write_launch
from keepwarm.backends.megatron.script import JOB, LOGS
from keepwarm.errors import KeepwarmError

HOLDOUTS = "holdouts.txt"  # in a launch's folder: what none of its lists names
SUBMITTED = "submitted.json"  # in a launch's folder: the job that was submitted by hand of keepwarm
_COMMANDS = {"pbs": ("qsub",), "slurm": ("sbatch", "--parsable")}


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job in the queue, and how it was put there."""

    job_id: str
    command: tuple[str, ...]
    folder: Path

    def as_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return {"job_id": self.job_id, "command": list(self.command), "folder": str(self.folder)}


def write_launches(attempt: Attempt, planned: Sequence[PlannedLaunch], feed: Feed) -> list[Path]:
    """Write the attempt and its launches; KeepwarmError where something else is there already. Their folders.

    The record is written last: a folder that has it is whole.
    """
    attempt_folder = planned[0].folder.parent.parent
    for each in planned:
        _refuse_other(each)
    launched = launches_of(attempt_folder)
    files.write_json(attempt_folder / "attempt.json", to_json(attempt), replace=not launched)
    for each in planned:
        write_data(attempt, feed, each.data)
        files.write_text(each.folder / HOLDOUTS, _holdouts(feed))
        for name, text in each.files.items():
            files.write_text(each.folder / name, text)
        (each.folder / LOGS).mkdir(exist_ok=True)
        write_launch(each.folder, each.launch)
    return [each.folder for each in planned]


def _holdouts(feed: Feed) -> str:
    """The held-out tokens of every corpus as a list that the trainer reads, for an evaluation of one's own with it."""
    return "".join(f"1 {corpus.holdout_prefix.resolve()} {name}\n" for name, corpus in feed.corpora.items())


def _refuse_other(planned: PlannedLaunch) -> None:
    """What is there must be this launch: another one in its place would be judged as this one."""
    for name, text in planned.files.items():
        path = planned.folder / name
        if path.exists() and path.read_text(encoding="utf-8") != text:
            begun = any((planned.folder / LOGS).glob("*.log"))
            raise KeepwarmError(
                f"{path}: is another launch's",
                "the plan, the data or the machine changed since it was written"
                + ("; and it has logs: it was run" if begun else ""),
                "put the plan back as it was" if begun else f"if it was never submitted: rm -r {planned.folder}",
            )


def submit(planned: Sequence[PlannedLaunch]) -> Submitted:
    """Submit the first launch's job; the others follow it by themselves.

    KeepwarmError where it was submitted before, where there is no scheduler, or where the scheduler refuses.
    """
    first = planned[0]
    record, command = first.folder / SUBMITTED, _COMMANDS.get(first.launch.scheduler)
    by_hand = f"cd {first.folder} && {shlex.join(command or ('bash',))} {JOB}"
    if record.exists():
        before = json.loads(record.read_text(encoding="utf-8"))["job_id"]
        raise KeepwarmError(
            f"{first.folder}: was submitted before, as {before}",
            "two chains of jobs would save into the same folder",
            f"once no job of it is in the queue any more: {by_hand}",
        )
    if command is None:
        raise KeepwarmError("--submit: the scheduler is none", "there is no queue to submit to", by_hand)
    if shutil.which(command[0]) is None:
        raise KeepwarmError(
            f"{command[0]}: there is no such command here", "jobs are submitted with it", f"on a login node: {by_hand}",
        )  # fmt: skip
    done = subprocess.run([*command, JOB], cwd=first.folder, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        raise KeepwarmError(
            f"{command[0]} {JOB}: exit status {done.returncode}: {done.stderr.strip() or 'no job id'}",
            f"the launch is written in {first.folder}, and not in the queue",
            by_hand,
        )
    found = Submitted(done.stdout.split()[-1], (*command, JOB), first.folder)
    files.write_json(record, found.as_dict())
    return found
