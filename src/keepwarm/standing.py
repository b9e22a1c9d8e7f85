"""Where the accepted line stands before a stage, read from the run folder: for what begins there and is no part of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from keepwarm import files
from keepwarm.attempt.line import COOKBOOK, COOLDOWN, Line
from keepwarm.attempt.progress import attempts_of, end_of
from keepwarm.attempt.records import read_attempt
from keepwarm.blend.buffer import load_buffer
from keepwarm.corpora.prepare import prepare
from keepwarm.errors import KeepwarmError
from keepwarm.lineage.manifest import read_manifest
from keepwarm.plan.load import plan_document
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.report.progress import progress_bar
from keepwarm.report.status import base_manifest
from keepwarm.work import Listener, Run, base_line, sampler_of


def opened(plan: Plan, stage: StageSpec, listener: Listener) -> Run:
    """The run, its corpora prepared and its base there: made now, as `run` would, where it is not.

    KeepwarmError if a stage before `stage` is not accepted yet.
    """
    refuse_unaccepted(plan, stage)
    folder, sha256 = Path(plan.run.folder), files.sha256_json(plan_document(plan))
    if base_manifest(plan) is not None:
        return Run(plan, sha256, folder, prepare(plan, listener.say), listener, keeps_plan=False)
    with files.run_lock(folder):
        prepared = prepare(plan, listener.say, progress_bar, sampler_of(plan))
        context = Run(plan, sha256, folder, prepared, listener)
        base_line(context)
    return replace(context, keeps_plan=False)


def line_before(context: Run, stage: StageSpec, base: Line | None = None) -> Line:
    """Where the accepted line stands before a stage, with the version of B that it may draw on; `base`: its beginning."""
    return line_after(context, context.plan.stages.index(stage), base or base_line(context))


def line_after(context: Run, stages: int, line: Line) -> Line:
    """Where the accepted line stands after so many of the plan's stages; `line`: its beginning, the base."""
    for number, each in enumerate(context.plan.stages[:stages], start=1):
        tried = attempts_of(context.folder, COOKBOOK, each.name)
        accepted = next(one for one in tried if one.accepted)
        attempt = read_attempt(accepted.folder)
        end, begin = end_of(accepted.folder), read_manifest(context.folder / str(attempt.start))
        assert end is not None, f"{accepted.folder} was accepted before its end"
        branches = [end_of(one.folder) for one in tried if one.rung == COOLDOWN and attempt.rung == "balance"]
        for cooled in (one for one in branches if one is not None and one.parent == end.id):
            end, begin = cooled, end  # the line went on from the balance's cooldown
        version = context.folder / "buffer" / f"v{number}"
        buffer = load_buffer(version) if version.exists() else None
        line = Line(COOKBOOK, end, begin, (*line.taught, (each.new, end)), buffer, line.attempts | {attempt.sha256})
    return line


def refuse_unaccepted(plan: Plan, stage: StageSpec) -> None:
    """KeepwarmError if a stage before `stage` is not accepted yet."""
    for each in plan.stages[: plan.stages.index(stage)]:
        if not any(tried.accepted for tried in attempts_of(Path(plan.run.folder), COOKBOOK, each.name)):
            raise KeepwarmError(
                f"{stage.name}: the stage before it, {each.name}, is not accepted yet",
                "the line does not stand where the stage begins; nothing was trained",
                f"keepwarm run PLAN --stage {each.name}",
            )
