"""An attempt on a cluster, looked at: which one a person means, what its records rest on, and the same again and again.

Nothing is trained, launched or measured here, and what is not there yet is left out: an attempt whose base was not
measured has records, and no verdict.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keepwarm import files
from keepwarm.attempt.line import BASE, BRANCHES, COOKBOOK, COOLDOWN, Line, identity
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.progress import attempts_of, end_of
from keepwarm.attempt.records import Record, read_attempt
from keepwarm.backends.given import given
from keepwarm.backends.megatron.observe import Asked, Observed, observe
from keepwarm.backends.megatron.record import launches_of
from keepwarm.branches import cooldown_of
from keepwarm.corpora.prepare import prepare
from keepwarm.errors import GuardError, KeepwarmError
from keepwarm.evaluate.references import CooldownDrop, cooldown_drop
from keepwarm.lineage.guard import CONVERGED
from keepwarm.lineage.manifest import Manifest, read_manifest
from keepwarm.plan.load import plan_document
from keepwarm.plan.model import Plan
from keepwarm.report.status import accepted, base_manifest
from keepwarm.standing import line_after
from keepwarm.work import Listener, Run, first_record

POLL_SECONDS = 5.0  # between two looks at logs that grow


@dataclass(frozen=True, slots=True)
class Named:
    """Which attempt is meant: an arm, a stage, and a rung by name, label or folder; None: the last that is open."""

    arm: str = COOKBOOK
    stage: str | None = None
    rung: str | None = None


def attempt_folder(plan: Plan, named: Named) -> Path:
    """The folder of a launched attempt; KeepwarmError where none is meant, with those that were launched."""
    stages = [BASE, *(stage.name for stage in plan.stages)]
    if named.stage is not None and named.stage not in stages:
        raise KeepwarmError(
            f"--stage {named.stage}: the plan has no such stage", "nothing was read", f"one of: {', '.join(stages)}"
        )
    tried = [each for name in stages for each in attempts_of(Path(plan.run.folder), named.arm, name)]
    launched = [each for each in tried if launches_of(each.folder)]
    fits = [each for each in launched if named.stage in (None, each.folder.parent.name)]
    fits = [each for each in fits if named.rung in (None, each.rung, each.label, each.folder.name)]
    if fits:
        return next(
            (each for each in reversed(fits) if each.verdict is None and end_of(each.folder) is None), fits[-1]
        ).folder
    there = ", ".join(f"--stage {each.folder.parent.name} --rung {each.folder.name}" for each in launched)
    asked = " ".join(f"--{key} {value}" for key, value in (("stage", named.stage), ("rung", named.rung)) if value)
    where = "" if named.arm == COOKBOOK else f"of the arm {named.arm} "
    raise KeepwarmError(
        f"{asked or plan.run.folder}: no attempt {where}was launched{' by that name' if there else ''}",
        "there are no jobs whose logs could be read", there or "keepwarm launch PLAN --write",
    )  # fmt: skip


def opened(plan: Plan, listener: Listener, named: Named) -> Asked:
    """The attempt with its references, as far as they are there."""
    folder, run_folder = attempt_folder(plan, named), Path(plan.run.folder)
    sha256 = files.sha256_json(plan_document(plan))
    context = Run(plan, sha256, run_folder, prepare(plan, listener.say), listener, keeps_plan=False)
    attempt, feed = read_attempt(folder), context.feed()
    line = _line(context, attempt)
    start = _start(context, attempt, line)
    line, drop = _compared(context, attempt, line)
    return Asked(
        run_folder=run_folder, plan_sha256=sha256, attempt=attempt, start=start, feed=feed,
        header=first_record(context, attempt, feed, start, line, drop), identity=identity(plan, feed),
    )  # fmt: skip


def looked(asked: Asked, logs: Sequence[Path] = ()) -> Observed:
    """One look, written down."""
    with files.run_lock(asked.run_folder):
        return observe(asked, logs)


def followed(asked: Asked, logs: Sequence[Path], tell: Callable[[Sequence[Record], Observed], None]) -> Observed:
    """Look again and again, and `tell` the records that are new each time; to the end of the attempt's launches, or Ctrl-C."""
    seen: set[str] = set()
    found = looked(asked, logs)
    try:
        while True:
            fresh = {json.dumps(record): record for record in found.records[1:]}
            tell([record for text, record in fresh.items() if text not in seen], found)
            seen |= fresh.keys()
            if found.logged or found.finished:
                return found
            time.sleep(POLL_SECONDS)
            found = looked(asked, logs)
    except KeyboardInterrupt:
        return found


def _line(context: Run, attempt: Attempt) -> Line | None:
    """Where the line stood that the attempt goes on with; None of a base, a branch, and of one whose base is not there."""
    plan = context.plan
    if attempt.stage == BASE or attempt.rung == COOLDOWN or attempt.arm == BRANCHES:
        return None
    base = base_manifest(plan)
    if base is None and plan.base.checkpoint is not None:
        base = given(plan, context.prepared.tokenizer)  # not measured yet
    if base is None:
        return None
    line = Line(
        COOKBOOK, base, None, tuple((name, base) for name in plan.known_by_base), None, frozenset({base.attempt})
    )
    before = next(number for number, stage in enumerate(plan.stages) if stage.name == attempt.stage)
    if attempt.arm == COOKBOOK:
        return line_after(context, before, line)
    for stage in plan.stages[:before]:
        kept = accepted(plan, attempt.arm, stage.name)
        end = end_of(kept.folder) if kept is not None else None
        if end is not None:
            line = replace(line, arm=attempt.arm, end=end, taught=(*line.taught, (stage.new, end)))
    return line


def _start(context: Run, attempt: Attempt, line: Line | None) -> Manifest | None:
    """What the attempt starts from; None of random weights, and of a model's folder."""
    if line is not None and attempt.start == line.end.id:
        return line.end
    folder = context.folder / str(attempt.start)
    return read_manifest(folder) if attempt.start is not None and (folder / "manifest.json").exists() else None


def _compared(context: Run, attempt: Attempt, line: Line | None) -> tuple[Line | None, CooldownDrop | None]:
    """The line, and what a cooldown of its end buys, where the attempt ends cooled and its references are at peak.

    Where that was not measured yet, the line has no references: a cooled model is held against none at peak.
    """
    ends = attempt.schedule.phase(attempt.tokens)
    if line is None or ends != "cooled" or line.end.phase in CONVERGED or attempt.arm != COOKBOOK:
        return line, None
    try:
        folder = context.folder / cooldown_of(context, line).folder
    except GuardError:
        return replace(line, taught=()), None
    cooled = end_of(folder) if (folder / "attempt.json").exists() else None
    if cooled is None or not cooled.evaluation:
        return replace(line, taught=()), None
    return line, cooldown_drop(line.end, cooled)
