"""The whole story on one screen: for each stage, for each candidate of its ladder: attempt, train, judge, accept or climb.

The run folder is the only state. Every step first looks there for what is done, so the same command goes on after a
kill, a full disk or Ctrl-C, and a finished run is read, not repeated.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from keepwarm import files
from keepwarm.arms import beside
from keepwarm.attempt.candidates import resolve
from keepwarm.attempt.line import Line
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.progress import EXHAUSTED, WAITING
from keepwarm.attempt.records import Record, allowed_before, read_attempt, read_verdict, write_verdict
from keepwarm.attempt.resolve import Request
from keepwarm.attempt.retained import deleted_of, recorded_start, retain
from keepwarm.attempt.settle import settle_attempt
from keepwarm.branches import converged, cool
from keepwarm.corpora.prepare import prepare
from keepwarm.errors import GuardError, KeepwarmError, LineageError, WorkFailed
from keepwarm.evaluate.references import CooldownDrop, cooldown_drop
from keepwarm.lineage.deletion import refuse_deleted
from keepwarm.lineage.graph import all_manifests
from keepwarm.lineage.guard import CONVERGED
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.cookbook import ladder_for
from keepwarm.plan.load import plan_document
from keepwarm.plan.model import Plan, StageSpec, allowing
from keepwarm.plan.rungs import Candidate, candidates
from keepwarm.report.progress import progress_bar
from keepwarm.strategy.ladder import Tried, best_replay, skip_reason
from keepwarm.work import (
    NO_REPLAY,
    Approve,
    Listener,
    Run,
    base_line,
    end_manifest,
    fill_buffer,
    judged,
    keep_plan,
    measured_shift,
    scores_of,
    start_of,
    train,
)


class Waiting(Exception):
    """`--approve`: a person's word is needed on (stage, label, outcome) before the run goes on."""


def run(plan: Plan, listener: Listener, *, until: str | None = None, approve: Approve = "never") -> None:
    """Bring `plan` to its end (or to the end of stage `until`).

    Raises WorkFailed when a ladder is exhausted, Waiting when `approve` asks for a person's word.
    """
    folder = Path(plan.run.folder)
    with files.run_lock(folder):
        context = Run(
            plan,
            files.sha256_json(plan_document(plan)),
            folder,
            prepare(plan, listener.say, progress_bar),
            listener,
            approve,
        )
        for stage in plan.stages:
            scores_of(context, stage)  # what is wrong with them is told before anything is trained
        line = base_line(context)
        with beside(plan, until) as failed:
            context = replace(context, control_failed=failed if NO_REPLAY in plan.control else None)
            for index, stage in enumerate(plan.stages):
                line, _ = _climb(context, index, stage, line)
                retain(plan, listener.say)
                if stage.name == until:
                    keep_plan(context)
                    return
            cool(context, line)
            keep_plan(context)
            retain(plan, listener.say)


def _climb(context: Run, index: int, stage: StageSpec, line: Line) -> tuple[Line, Attempt]:
    """Try a stage's candidates in order until one is accepted."""
    shift = measured_shift(context, stage, line.taught[0][1])
    which, rungs = ladder_for(context.plan, index, shift.grade)
    context.listener.say(f"{stage.name}: shift {shift.words()} -> ladder {which}")
    (context.folder / "arms" / line.arm / stage.name / EXHAUSTED).unlink(missing_ok=True)
    tried: list[Tried] = []
    chosen: Record = {}  # a person's `next RUNG`, until that rung is reached
    for number, candidate in enumerate(each for rung in rungs for each in candidates(rung)):
        chosen = {} if chosen.get("rung") == candidate.rung else chosen
        passed = f"a person chose {chosen['rung']}: {chosen['because']}" if chosen.get("rung") else None
        folder = _folder(context, stage, line, number, candidate)
        verdict, attempt = _try(context, stage, line, number, candidate, tried, passed)
        _wait_for_approval(context, stage, folder, verdict)
        decision = verdict.get("decision", {})
        chosen = decision if decision.get("decision") == "next" else chosen
        excesses = [corpus["forgetting"] - corpus["tolerance"] for corpus in verdict.get("old", {}).values()]
        tried.append(Tried(candidate, verdict["outcome"], max(excesses, default=None)))
        if verdict["accepted"]:
            assert attempt is not None
            return _accept(context, stage, line, attempt), attempt
    raise _exhausted(context, index, stage, tried)


def _try(
    context: Run, stage: StageSpec, line: Line, number: int, candidate: Candidate, tried: list[Tried],
    passed: str | None,
) -> tuple[Record, Attempt | None]:  # fmt: skip
    """One candidate: passed over, refused by a guard, or trained and judged. What is on record already stands."""
    folder = _folder(context, stage, line, number, candidate)
    recorded = read_verdict(folder)
    if recorded is not None and recorded["label"] != candidate.label:
        raise LineageError(
            f"{folder}: holds the attempt {recorded['label']}, the plan now has {candidate.label} there",
            "the ladder was changed above a rung that was tried already",
            "put the rungs that were tried back first, or start anew: run: {folder: ...}",
        )
    if recorded is not None and recorded["outcome"] in ("skipped", "refused") and _passed(folder):
        context.listener.judged(None, folder, recorded)
        return recorded, None
    reason = passed or skip_reason(candidate, tried)
    if reason is not None:
        return _pass_over(context, folder, candidate, "skipped", reason), None
    try:
        attempt, start, drop = _resolve(context, stage, line, number, candidate, tried)
    except GuardError as error:
        if not (folder / "attempt.json").exists():
            reason = f"{error.what}: {error.why}"
            return _pass_over(context, folder, candidate, "refused", reason, fix=error.fix), None
        if recorded is None:
            raise  # it was begun before the plan or its data changed
        context.listener.judged(read_attempt(folder), folder, recorded)
        return recorded, read_attempt(folder)
    if recorded is not None and recorded["outcome"] in ("skipped", "refused"):
        (folder / "verdict.json").unlink()  # it may start now: the plan was mended
    attempt, feed = settle_attempt(context.plan, attempt), context.feed()
    train(context, attempt, feed, start, line, drop, early=True)
    return judged(context, attempt, feed, accept_any=False), attempt


def _folder(context: Run, stage: StageSpec, line: Line, number: int, candidate: Candidate) -> Path:
    """Where a candidate's attempt lies."""
    return context.folder / "arms" / line.arm / stage.name / f"{number:02d}-{candidate.rung}"


def _wait_for_approval(context: Run, stage: StageSpec, folder: Path, verdict: Record) -> None:
    """With `--approve`, a verdict that no person has seen stops the run: nobody lets a tool decide a stage alone."""
    (folder / WAITING).unlink(missing_ok=True)
    if "decision" in verdict or verdict["outcome"] in ("skipped", "refused"):
        return
    if context.approve == "each-rung" or (context.approve == "each-stage" and verdict["accepted"]):
        files.write_json(folder / WAITING, {"approve": context.approve})
        raise Waiting(stage.name, verdict["label"], verdict["outcome"])


def _resolve(
    context: Run, stage: StageSpec, line: Line, number: int, candidate: Candidate, tried: list[Tried]
) -> tuple[Attempt, Manifest, CooldownDrop | None]:
    """The attempt, its start, and what a cooldown of the line's end buys where the attempt will end cooled."""
    trunk = [manifest for manifest in all_manifests(context.folder) if manifest.attempt in line.attempts]
    folder = _folder(context, stage, line, number, candidate)
    recorded, stage = recorded_start(folder), allowing(stage, allowed_before(folder))
    deleted = deleted_of(context.folder, trunk) - {recorded}  # what an attempt started from is its start for good
    cooled = converged(context, line) if candidate.rung == "rewarm-converged" else None
    request = Request(
        context.plan, stage, context.feed(), line, number, candidate, trunk, cooled, best_replay(tried), deleted
    )  # fmt: skip
    attempt, start = resolve(request)
    if recorded is None:
        refuse_deleted(context.folder / start.id)
    if attempt.schedule.phase(attempt.tokens) != "cooled" or line.end.phase in CONVERGED:
        return attempt, start, None
    return attempt, start, cooldown_drop(line.end, cooled or converged(context, line))


def _passed(folder: Path) -> bool:
    """True when a later candidate was trained: then what was refused stays refused, else it is looked at afresh."""
    return any(other.name > folder.name and (other / "attempt.json").exists() for other in folder.parent.iterdir())


def _pass_over(context: Run, folder: Path, candidate: Candidate, outcome: str, reason: str, **more: str) -> Record:
    verdict = {"outcome": outcome, "accepted": False, "label": candidate.label, "reasons": [reason], **more}
    keep_plan(context)
    write_verdict(folder, verdict, replace=True)
    context.listener.judged(None, folder, verdict)
    return verdict


def _accept(context: Run, stage: StageSpec, line: Line, attempt: Attempt) -> Line:
    """The stage moves the line: its end becomes the next start, and B is filled from what was fed of D_i."""
    end, begin = end_manifest(context, attempt), start_of(context, attempt, line)
    buffer = fill_buffer(context, stage, line, begin, end) if context.plan.buffer.tokens else None
    taught = (*line.taught, (stage.new, end))
    moved = Line(line.arm, end, begin, taught, buffer, line.attempts | {attempt.sha256})
    if attempt.rung != "balance":
        return moved
    cooled = converged(context, moved)  # the final cooldown belongs to this rung: the line goes on from there
    return replace(moved, end=cooled, taught=(*line.taught, (stage.new, cooled)))


def _exhausted(context: Run, index: int, stage: StageSpec, tried: list[Tried]) -> Exception:
    """Exit 1 with what was tried; exit 2 when nothing of the first stage's ladder could even start."""
    words = "; ".join(f"{each.candidate.label}: {each.outcome}" for each in tried)
    if index == 0 and all(each.outcome in ("refused", "skipped") for each in tried):
        folder = context.folder / "arms/cookbook" / stage.name
        reasons = [read_verdict(path) for path in sorted(folder.iterdir())]
        refused = [r for r in reasons if r and r["outcome"] == "refused"]
        first: Record = refused[0] if refused else {"reasons": [words]}
        return KeepwarmError(
            f"stages.{stage.name}: nothing of its ladder can start ({words})", first["reasons"][0],
            first.get("fix", "give the stage another ladder: [...]"),
        )  # fmt: skip
    record = {"stage": stage.name, "tried": [{"label": t.candidate.label, "outcome": t.outcome} for t in tried]}
    files.write_json(context.folder / "arms/cookbook" / stage.name / EXHAUSTED, record, replace=True)
    return WorkFailed(f"{stage.name}: the ladder is exhausted, no candidate was accepted ({words})")
