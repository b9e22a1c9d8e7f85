"""What comes next for an attempt on a cluster, as a command to paste. PLAN stands for the plan's file."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from keepwarm.backends.megatron.script import EVALUATE, JOB, TRAIN, typed

SEVERE = frozenset({"weights-not-loaded", "lr-differs", "position-differs", "scheduler-failed"})


@dataclass(frozen=True, slots=True)
class Stands:
    """How far a launch has come: the trainer's count, up to the last iteration that is logged and counts."""

    name: str
    folder: Path
    begin: int
    end: int
    logged: int
    jobs: tuple[str, ...]  # its logs
    submitted: str | None  # the job that keepwarm put into the queue
    scheduler: Literal["pbs", "slurm", "none"]
    interval: int

    @property
    def reached(self) -> bool:
        """True when its last iteration is logged, or can't be, as not every one is."""
        return self.logged + self.interval > self.end

    def as_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return {
            "name": self.name, "begin": self.begin, "end": self.end, "logged": self.logged, "jobs": list(self.jobs),
            "submitted": self.submitted,
        }  # fmt: skip

    def command(self, script: str) -> str:
        """How a script of its folder is submitted."""
        return typed(self.scheduler, self.folder, script)


@dataclass(frozen=True, slots=True)
class Next:
    """The next command, and why it is that."""

    do: Literal["submit", "resubmit", "evaluate", "run", "mend"]
    command: str
    why: str

    def as_dict(self) -> dict[str, str]:
        """JSON-able content."""
        return {"do": self.do, "command": self.command, "why": self.why}


def next_of(
    launches: Sequence[Stands],
    events: Collection[str],
    saved: Collection[int],
    unevaluated: Sequence[int],
    *,
    done: bool,
) -> Next:
    """`done`: its end is recorded, or it diverged. `events`: of its warnings; `saved`, `unevaluated`: iterations."""
    if done:
        return Next("run", "keepwarm run PLAN", "nothing more is to be trained of it")
    open_ones = [each for each in launches if not each.reached]
    now = open_ones[0] if open_ones else launches[-1]
    severe = [each for each in events if each in SEVERE]
    doctor = f"keepwarm doctor {shlex.quote(str(now.folder / TRAIN))}"
    if severe and open_ones:
        return Next("mend", doctor, f"what the jobs train is not the attempt ({', '.join(severe)}): cancel them first")
    if open_ones and not now.jobs:
        if now.submitted is not None:
            return Next(
                "submit", now.command(JOB), f"{now.name} was submitted as {now.submitted}: only if that is gone"
            )
        return Next("submit", now.command(JOB), f"{now.name} has no log yet")
    if open_ones or now.end not in saved:
        at = f"{now.logged:,} of {now.end:,} iterations" if open_ones else "its last iteration is logged, and not saved"
        return Next("resubmit", now.command(JOB), f"{now.name}: {at}; if no job of it is queued or running any more")
    if unevaluated:
        count = len(unevaluated)
        return Next("evaluate", now.command(EVALUATE), f"{count} saved step{'s' * (count != 1)} not measured yet")
    return Next("mend", doctor, "the last checkpoint is not what the attempt says it ends with")
