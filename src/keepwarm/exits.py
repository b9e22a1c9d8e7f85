"""Exit codes of the command line, and how a run that ends before its work is done says so."""

from __future__ import annotations

FAILED = 1  # the work failed: a stage exhausted its ladder
BAD_INPUT = 2
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: saved before the job's end; the same command goes on
INTERRUPTED = 130  # Ctrl-C


class Requeue(KeyboardInterrupt):
    """The job ends: a signal of the scheduler or the time limit. What was trained is saved."""


class ToSubmit(Exception):
    """A run on a cluster waits for a job: what for, and the commands that bring it on, to be typed in this order."""

    def __init__(self, what: str, commands: tuple[str, ...]) -> None:
        super().__init__(what, commands)
        self.what = what
        self.commands = commands

    def __str__(self) -> str:
        return "\n".join((f"{self.what}. Next:", *(f"  {command}" for command in self.commands)))
