"""Branches off the trunk: a cooldown gives a converged model, an average of its last checkpoints a preview of one.

The trunk stays as it is and may be in training meanwhile: a branch writes below its own folder only, which has its own
lock. A cooldown of an attempt's end lies beside the attempt (the ladder uses the same one), every other branch below
`arms/branches`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from keepwarm import files
from keepwarm.attempt.line import BASE, BRANCHES, COOKBOOK, COOLDOWN, Line, threads_for
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.progress import attempts_of, end_of
from keepwarm.attempt.records import allowed_before, attempt_in, read_metrics
from keepwarm.attempt.resolve import cooldown_attempt
from keepwarm.attempt.settle import settle_attempt
from keepwarm.attempt.steered import as_fed
from keepwarm.corpora.prepare import prepare
from keepwarm.errors import GuardError, KeepwarmError, WorkFailed
from keepwarm.lineage.deletion import deletion_of
from keepwarm.lineage.graph import all_manifests
from keepwarm.lineage.guard import CONVERGED
from keepwarm.lineage.manifest import Manifest, checkpoint_name, checkpoints_of, read_manifest
from keepwarm.plan.load import plan_document
from keepwarm.plan.model import Plan
from keepwarm.report.branched import Bought
from keepwarm.units import format_count
from keepwarm.work import Listener, Run, train

AVERAGE = "average"
Kind = Literal["cooldown", "average"]
USUAL_LAST = 4  # checkpoints of an average


def branch(
    plan: Plan,
    listener: Listener,
    kind: Kind | None,
    where: str | None,
    *,
    tokens: int | None = None,
    last: int | None = None,
    stage: str | None = None,
) -> tuple[Manifest, list[Bought]]:
    """Make a branch off the checkpoint that `where` names: that checkpoint, the branch, every other one off the same.

    A run that has checkpoints has its corpora prepared, so nothing of the run is written here but the branch.
    """
    needless = {"--last": last if kind == COOLDOWN else None, "--tokens": tokens if kind == AVERAGE else None,
                "--stage": stage}  # fmt: skip
    extra = next((flag for flag, value in needless.items() if value is not None), None)
    if kind is None or where is None or extra is not None:
        what = (
            f"{extra} says nothing about --branch {kind}" if kind and where else "a branch has a kind and a beginning"
        )
        raise KeepwarmError(what, "nothing was trained", "keepwarm run PLAN --branch cooldown --from STAGE@peak")
    folder = Path(plan.run.folder)
    if not (folder / "resolved.json").exists():
        raise KeepwarmError(
            f"{folder}: nothing was trained there yet", "a branch needs a trunk", "keepwarm run PLAN first"
        )
    plan_sha256, prepared = files.sha256_json(plan_document(plan)), prepare(plan, listener.say)
    context = Run(plan, plan_sha256, folder, prepared, listener, keeps_plan=False)
    start = find(context, where)
    if kind == COOLDOWN:
        end = cooldown_branch(context, start, tokens)
    else:
        end = average_branch(context, start, USUAL_LAST if last is None else last)
    return start, [_bought(folder, each) for each in (end, *_others(folder, start, end))]


def _others(run_folder: Path, start: Manifest, end: Manifest) -> list[Manifest]:
    """The ends of the other finished branches off the same checkpoint."""
    found = [each for each in all_manifests(run_folder) if each.parent == start.id and each.evaluation]
    return [each for each in found if each.rung in (COOLDOWN, AVERAGE) and each.id != end.id]


def _bought(run_folder: Path, end: Manifest) -> Bought:
    folder = run_folder / end.id.partition("/checkpoints/")[0]
    before = next(r["loss"] for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == "eval" and r["full"])
    return Bought(end, before, {name: found["loss"] for name, found in end.evaluation.items()})


def converged(context: Run, line: Line) -> Manifest:
    """The line's end, cooled: itself, or the end of a cooldown branch, trained once and kept beside its stage."""
    if line.end.phase in CONVERGED:
        return line.end
    return _cooled(context, cooldown_of(context, line), line.end)


def cooldown_of(context: Run, line: Line) -> Attempt:
    """The cooldown branch of a line's end, trained or not; GuardError where none can be made."""
    trunk = _trunk(context.folder, line.end)
    return _attempt(context, trunk, line.end, _cooldown_tokens(context, trunk), line.arm, trunk.number + 1)


def cool(context: Run, line: Line) -> None:
    """The cooldown branch at the end of a line: extra tokens, booked apart, giving a converged model."""
    if line.end.phase == "peak" and context.plan.schedule.cooldown.tokens_of(context.plan.stages[-1].tokens):
        converged(context, line)


def cooldown_branch(context: Run, start: Manifest, tokens: int | None) -> Manifest:
    """A cooldown of `tokens` (the plan's share of the attempt's, if None) off a checkpoint at peak; its end."""
    trunk = _trunk(context.folder, start)
    wanted = tokens or _cooldown_tokens(context, trunk)
    if start.step == trunk.steps and wanted == context.plan.schedule.cooldown.tokens_of(trunk.tokens):
        return _cooled(context, _attempt(context, trunk, start, wanted, trunk.arm, trunk.number + 1), start)
    for number, folder in _numbered(context, trunk, COOLDOWN):
        attempt = _attempt(context, trunk, start, wanted, BRANCHES, number)
        there = attempt_in(folder)
        if there is None or there.sha256 == attempt.sha256:
            break
    return _cooled(context, attempt, start)


def average_branch(context: Run, start: Manifest, last: int) -> Manifest:
    """The mean of the weights of the `last` checkpoints of the trunk up to `start`, measured over all windows.

    Nothing is trained. Source: the cookbook, "a free preview" of a cooldown; Izmailov et al. 1803.05407; Hägele et al.
    2405.18392, section 4.
    """
    trunk = _trunk(context.folder, start)
    there = [each for each in _peaks(context.folder / trunk.folder) if each.line_tokens <= start.line_tokens]
    members = there[-last:]
    _refuse_foreign(members)
    if last < 2 or len(members) < last:
        oftener = f"save more often: run: {{save_every: {trunk.tokens // (2 * max(2, last))}}}"
        raise KeepwarmError(
            f"--last {last}: {trunk.folder} has {len(there)} whole checkpoints at peak up to {start.line_tokens:,} tokens",
            "an average is taken of two or more checkpoints of one trunk",
            f"--last {len(there)}, or {oftener}" if len(there) > 1 else oftener,
        )
    names = tuple(member.id for member in members)
    for _, folder in _numbered(context, trunk, AVERAGE):
        found = [read_manifest(path) for path in checkpoints_of(folder)]
        if not found or found[0].merged_from == names:
            break
    return found[0] if found else _averaged(context, trunk, members, folder)


def _refuse_foreign(members: Sequence[Manifest]) -> None:
    for each in members:
        if each.weights != "dcp":
            raise KeepwarmError(
                f"--branch {AVERAGE}: the weights of {each.id} are {each.weights}, in {each.location}",
                "an average is taken of checkpoints in keepwarm's own format",
                "a cooldown branch says what a converged model comes to: --branch cooldown",
            )


def find(context: Run, where: str) -> Manifest:
    """The checkpoint at peak that `STAGE@peak` (the newest), `STAGE@TOKENS` or a checkpoint's id names."""
    if (context.folder / where / "manifest.json").is_file():
        return read_manifest(context.folder / where)
    stage, _, at = where.partition("@")
    fit = _at_peak(context.folder, stage)
    chosen = fit if at == "peak" else [each for each in fit if at in _names(each)]
    if chosen:
        return chosen[-1]
    stages = (BASE, *(each.name for each in context.plan.stages))
    there = [f"{name}@{format_count(each.line_tokens)}" for name in stages for each in _at_peak(context.folder, name)]
    raise KeepwarmError(
        f"--from {where}: no checkpoint at peak is named so",
        "a branch starts from a checkpoint of the trunk, whose LR is LR_max",
        f"--from {there[-1]}, or one of: {', '.join(there)}"
        if there
        else "keepwarm run PLAN first: nothing is at peak yet",
    )


def _names(manifest: Manifest) -> tuple[str, str]:
    """How a person may name a checkpoint of a stage: by the line's tokens there, in short or in full."""
    return format_count(manifest.line_tokens), str(manifest.line_tokens)


def _at_peak(run_folder: Path, stage: str) -> list[Manifest]:
    """The checkpoints at peak of a stage's trunk, oldest first: of the accepted attempt, else of the one that may be."""
    tried = [each for each in attempts_of(run_folder, COOKBOOK, stage) if each.rung != COOLDOWN]
    open_or_kept = [each for each in tried if each.accepted or each.waiting or each.outcome is None]
    return _peaks(open_or_kept[-1].folder) if open_or_kept else []


def _peaks(attempt_folder: Path) -> list[Manifest]:
    whole = [path for path in checkpoints_of(attempt_folder) if deletion_of(path) is None]
    return [manifest for manifest in map(read_manifest, whole) if manifest.phase == "peak"]


def _trunk(run_folder: Path, manifest: Manifest) -> Attempt:
    """The attempt that made a checkpoint, as it was fed; GuardError if it was trained elsewhere."""
    folder = run_folder / manifest.id.partition("/checkpoints/")[0]
    made = attempt_in(folder)
    if made is not None:
        return as_fed(made, read_metrics(folder / "metrics.jsonl")) if made.steering else made
    raise GuardError(
        "phase-match",
        f"{manifest.id} was trained elsewhere: there is no record of its mix to branch a cooldown from",
        "a converged checkpoint is needed here",
        "give the cooled checkpoint as the base: base: {checkpoint: ..., phase: cooled, ...}",
    )


def _cooldown_tokens(context: Run, trunk: Attempt) -> int:
    tokens = context.plan.schedule.cooldown.tokens_of(trunk.tokens)
    if tokens:
        return tokens
    raise GuardError(
        "phase-match", "schedule.cooldown is 0", "a converged checkpoint is needed here", "schedule: {cooldown: 20%}"
    )


def _cooled(context: Run, attempt: Attempt, start: Manifest) -> Manifest:
    """Train a cooldown branch to its end, or wait for the process that is at it, or read it where it is done."""
    folder = context.folder / attempt.folder
    with contextlib.nullcontext() if end_of(folder) is not None else files.run_lock(folder, context.listener.say):
        end = train(context, settle_attempt(context.plan, attempt), context.feed(), start, None)
    if end is None:
        raise WorkFailed(f"{attempt.folder}: the cooldown diverged")
    return end


def _attempt(context: Run, trunk: Attempt, start: Manifest, tokens: int, arm: str, number: int) -> Attempt:
    allowed = allowed_before(context.folder / "arms" / arm / trunk.stage / f"{number:02d}-{COOLDOWN}")
    plan = context.plan.allowing(allowed, trunk.stage)
    return cooldown_attempt(plan, trunk, start, tokens, context.feed(), arm, number)


def _averaged(context: Run, trunk: Attempt, members: Sequence[Manifest], folder: Path) -> Manifest:
    from keepwarm.backends.native import heldout_of
    from keepwarm.merge.average import average

    with files.run_lock(folder):
        name = f"{folder.relative_to(context.folder)}/checkpoints/{checkpoint_name(members[-1].line_tokens, 'merged')}"
        merged = replace(
            members[-1], id=name, parent=members[-1].id, arm=BRANCHES, rung=AVERAGE, attempt="", phase="merged",
            merged_from=tuple(member.id for member in members), optimizer_state=False, schedule=None,
        )  # fmt: skip
        heldout, threads = heldout_of(context.plan, context.feed()), threads_for(context.plan, trunk.stage)
        return average(context.folder, members, merged, heldout, threads, trunk.document_eod)


def _numbered(context: Run, trunk: Attempt, rung: str) -> Iterator[tuple[int, Path]]:
    """The folders that branches of one kind may have, in order; a number has two digits."""
    for number in range(100):
        yield number, context.folder / "arms" / BRANCHES / trunk.stage / f"{number:02d}-{rung}"
    raise KeepwarmError(
        f"{context.folder}/arms/{BRANCHES}/{trunk.stage}: has 100 branches of the kind {rung}",
        "their numbers have two digits",
        "remove those that are not needed",
    )
