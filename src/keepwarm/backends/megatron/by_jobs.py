"""An attempt on a cluster, brought on as far as it goes without a person: launched, its logs read, the next step named.

Nothing is waited for. Each call looks at what the jobs have left since the last, and ends with the command that is next.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from keepwarm.attempt.records import STOPPED_EARLY, MetricsWriter, Watch
from keepwarm.backends.megatron.launches import launches_for
from keepwarm.backends.megatron.observe import Asked, Observed, observe
from keepwarm.backends.megatron.record import launches_of
from keepwarm.backends.megatron.write import submit, write_launches
from keepwarm.exits import ToSubmit
from keepwarm.plan.model import Plan


def bring_on(
    asked: Asked, plan: Plan, say: Callable[[str], None], begin: Callable[[], None], watch: Watch | None, *,
    submitting: bool,
) -> None:  # fmt: skip
    """Launch the attempt, or read what its jobs have logged and saved; returns when nothing more is to be trained of it.

    `begin` is called before it is launched; `watch` is asked about its evaluations, as natively, and may end it early.
    With `submitting` its jobs are submitted. Raises ToSubmit while something has still to run.
    """
    if not launches_of(asked.run_folder / asked.attempt.folder):
        _launch(asked, plan, say, begin, submitting=submitting)
    found = observe(asked)
    for each in found.warnings:
        say(f"warning: {each['text']}")
    for place in found.unread:
        say(f"not understood: {place}")
    if found.finished or _stopped_early(found, watch, say):
        return
    raise ToSubmit(
        f"{asked.attempt.stage} {asked.attempt.label}: step {found.step:,} of {found.steps:,}; {found.next.why}",
        (found.next.command, "keepwarm run PLAN"),
    )


def _launch(
    asked: Asked, plan: Plan, say: Callable[[str], None], begin: Callable[[], None], *, submitting: bool
) -> None:
    planned = launches_for(plan, asked.attempt, asked.start)
    begin()
    write_launches(asked.attempt, planned, asked.feed)
    for note in dict.fromkeys(note for each in planned for note in each.notes):
        say(note)
    if submitting:
        say(f"submitted {submit(planned).job_id}: {planned[0].folder}")


def _stopped_early(found: Observed, watch: Watch | None, say: Callable[[str], None]) -> bool:
    """True when the last evaluation says that it won't come to anything: recorded, and its jobs are to be cancelled."""
    last = max((place for place, record in enumerate(found.records) if record["kind"] == "eval"), default=None)
    if watch is None or last is None or not found.records[last]["step"]:
        return False
    at = {"kind": "event", "step": found.records[last]["step"], "tokens": found.records[last]["tokens"]}
    stop = next((each for each in watch(list(found.records[: last + 1])) if each["event"] == STOPPED_EARLY), None)
    if stop is None:
        return False
    writer = MetricsWriter(found.folder / "metrics.jsonl")
    writer.write({**at, **stop})
    writer.close()
    say(f"{stop['text']}: its jobs are of no use any more, cancel them ({_cancel(found.folder)})")
    return True


def _cancel(folder: Path) -> str:
    commands = {"pbs": "qdel", "slurm": "scancel", "none": "kill"}
    scheduler = launches_of(folder)[0][1].scheduler
    return f"{commands[scheduler]} JOB, their ids: ls {shlex.quote(str(folder))}/launches/*/logs"
