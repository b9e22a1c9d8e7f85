"""Control arms, beside the cookbook's: each in a process of its own, from the same base, with the same tokens and seed.

The run folder has one owner, the process that holds its lock; the arms write below their own folders only. They leave
the terminal's process group, so Ctrl-C reaches their owner alone, which passes it on as SIGTERM: each saves at its next
step and ends. If the owner is killed, the kernel kills them too.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path

from keepwarm import files, processes
from keepwarm.attempt.candidates import resolve
from keepwarm.attempt.line import COOLDOWN, Line
from keepwarm.attempt.progress import attempts_of, end_of
from keepwarm.attempt.records import allowed_before
from keepwarm.attempt.resolve import Request
from keepwarm.attempt.settle import settle_attempt
from keepwarm.backends.ranks import world_size
from keepwarm.branches import cool
from keepwarm.corpora.prepare import prepare
from keepwarm.errors import KeepwarmError, WorkFailed
from keepwarm.exits import ToSubmit
from keepwarm.lineage.guard import CONVERGED
from keepwarm.plan.load import plan_document
from keepwarm.plan.model import Plan, allowing
from keepwarm.plan.rungs import Candidate
from keepwarm.report.terminal import Terminal, console_beside
from keepwarm.work import CONTROL_RUNGS, Run, base_line, end_manifest, judged, train


@contextlib.contextmanager
def beside(plan: Plan, until: str | None, submit: bool = False) -> Iterator[Callable[[], bool]]:
    """Train the plan's unfinished control arms (to the end of stage `until`) while the block runs, and wait for them.

    Yields a function that tells whether an arm has failed. When the block fails or is interrupted they are interrupted
    too. Raises WorkFailed if one of them failed. In a run of several processes the arms come first, one after another:
    each is computed by all of them. On a cluster each is brought on as far as its jobs have come (`submit`: and they are
    submitted), and the block goes on; ToSubmit behind it, while one of them is not at its end.
    """
    unfinished = [arm for arm in plan.control if not finished(plan, arm, until)]
    if plan.run.backend == "megatron":
        waiting = [job for arm in unfinished if (job := _by_jobs(plan, arm, until, submit)) is not None]
        yield lambda: False
        if waiting:
            raise waiting[0]
        return
    if world_size() > 1:
        for arm in unfinished:
            _train_arm(plan, arm, until)
        yield lambda: False
        return
    spawn = multiprocessing.get_context("spawn")
    arms = [spawn.Process(target=_arm, args=(plan, arm, until), name=arm) for arm in unfinished]
    with processes.ignoring_ctrl_c():
        for process in arms:
            process.start()
    try:
        yield lambda: any(process.exitcode for process in arms)
        for process in arms:
            process.join()
    except BaseException:
        _interrupt(arms)
        raise
    failed = [process.name for process in arms if process.exitcode]
    if failed:
        raise WorkFailed(f"the control arm {', '.join(failed)} did not come to its end; what it said is above")


def finished(plan: Plan, arm: str, until: str | None = None) -> bool:
    """True when every stage of an arm (up to `until`) is on disk, and its cooldown branch where the plan has one and
    its line is at peak."""
    folder, names = Path(plan.run.folder), [stage.name for stage in plan.stages]
    wanted = names if until is None else names[: names.index(until) + 1]
    stages = [attempts_of(folder, arm, name) for name in wanted]
    if not all(any(each.accepted for each in attempts) for attempts in stages):
        return False
    if until is not None or not plan.schedule.cooldown.tokens_of(plan.stages[-1].tokens):
        return True
    ends = [(each.rung, end) for each in stages[-1] if (end := end_of(each.folder)) is not None]
    return any(rung == COOLDOWN or end.phase in CONVERGED for rung, end in ends)


def control_line(context: Run, base: Line, arm: str, until: str | None) -> None:
    """One arm: each stage continues the arm's own previous one, without ladder and without B."""
    line, folder = replace(base, arm=arm), context.folder
    name = CONTROL_RUNGS[arm]
    for stage in context.plan.stages:
        feed = context.feed()
        allowed = allowing(stage, allowed_before(folder / "arms" / arm / stage.name / f"00-{name}"))
        resolved, start = resolve(Request(context.plan, allowed, feed, line, 0, Candidate(name, name, {})))
        attempt = settle_attempt(context.plan, resolved)
        if train(context, attempt, feed, start, line) is None:
            raise WorkFailed(f"{attempt.folder}: the control arm diverged")
        judged(context, attempt, feed, accept_any=True)
        end = end_manifest(context, attempt)
        taught = (*line.taught, (stage.new, end)) if attempt.new else line.taught
        line = Line(arm, end, line.end, taught, None, line.attempts | {attempt.sha256})
        if stage.name == until:
            return
    cool(context, line)


def _interrupt(arms: list[SpawnProcess]) -> None:
    """SIGTERM: an arm that trains saves at its next step and ends, one that does not has nothing to lose."""
    for process in arms:
        process.terminate()
    for process in arms:
        process.join()


def _by_jobs(plan: Plan, arm: str, until: str | None, submit: bool) -> ToSubmit | None:
    """An arm as far as its jobs have come; what is to be submitted next, where it is not at its end."""
    try:
        _train_arm(plan, arm, until, submit)
    except ToSubmit as job:
        print(f"[{arm}] {job}", flush=True)
        return job
    return None


def _train_arm(plan: Plan, arm: str, until: str | None, submit: bool = False) -> None:
    """An arm from the base to its end."""
    folder = Path(plan.run.folder)
    listener = Terminal(prefix=f"[{arm}] ", out=console_beside(folder / "arms" / arm / "log.txt"))
    plan_sha256, prepared = files.sha256_json(plan_document(plan)), prepare(plan, lambda text: None)
    context = Run(plan, plan_sha256, folder, prepared, listener, submit=submit)
    control_line(context, base_line(context), arm, until)


def _arm(plan: Plan, arm: str, until: str | None) -> None:
    """What an arm's process does. Errors are told the way the command line tells them."""
    os.setpgrp()
    processes.die_with_owner()
    try:
        _train_arm(plan, arm, until)
    except (KeepwarmError, WorkFailed) as error:
        print(f"[{arm}] error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
