"""Exit codes of the command line, and how a run that was told to end says so."""

from __future__ import annotations

FAILED = 1  # the work failed: a stage exhausted its ladder
BAD_INPUT = 2
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: saved before the job's end; the same command goes on
INTERRUPTED = 130  # Ctrl-C


class Requeue(KeyboardInterrupt):
    """The job ends: a signal of the scheduler or the time limit. What was trained is saved."""
