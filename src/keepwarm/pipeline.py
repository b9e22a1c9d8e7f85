"""The whole story on one screen: for each stage, for each candidate of its ladder: attempt, train, judge, accept or climb.

The run folder is the only state. Every step first looks there for what is done, so the same command goes on after a
kill, a full disk or Ctrl-C, and a finished run is read, not repeated.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from keepwarm import files
from keepwarm.ahead import ahead, refuse_side_by_side
from keepwarm.arms import beside
from keepwarm.attempt.line import COOLDOWN, Line
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.progress import EXHAUSTED, WAITING, attempts_of
from keepwarm.attempt.records import Record, read_attempt, read_verdict, write_verdict
from keepwarm.attempt.retained import retain
from keepwarm.branches import converged, cool
from keepwarm.corpora.prepare import prepare
from keepwarm.errors import GuardError, KeepwarmError, LineageError, WorkFailed
from keepwarm.plan.cookbook import ladder_for
from keepwarm.plan.load import plan_document
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.plan.rungs import Candidate, candidates
from keepwarm.report.account import NOT_NEEDED
from keepwarm.report.progress import progress_bar
from keepwarm.search import Search, beginning
from keepwarm.shifts import measured_shift
from keepwarm.strategy.ladder import DATA_BUG, Tried, skip_reason
from keepwarm.tries import Try, resolved, trained
from keepwarm.work import (
    Approve,
    Listener,
    Run,
    base_line,
    end_manifest,
    fill_buffer,
    judged,
    keep_plan,
    sampler_of,
    scores_of,
    start_of,
)


class Waiting(Exception):
    """`--approve`: a person's word is needed on (stage, label, outcome) before the run goes on."""


def run(
    plan: Plan, listener: Listener, *, until: str | None = None, approve: Approve = "never", submit: bool = False
) -> None:
    """Bring `plan` to its end (or to the end of stage `until`).

    Raises WorkFailed when a ladder is exhausted, Waiting when `approve` asks for a person's word, and ToSubmit when jobs
    of a cluster have to run before it goes on; with `submit` they are submitted.
    """
    folder = Path(plan.run.folder)
    refuse_side_by_side(plan)
    with files.run_lock(folder):
        context = Run(
            plan,
            files.sha256_json(plan_document(plan)),
            folder,
            prepare(plan, listener.say, progress_bar, sampler_of(plan)),
            listener,
            approve,
            submit=submit,
        )
        for stage in plan.stages:
            scores_of(context, stage)  # what is wrong with them is told before anything is trained
        line = base_line(context)
        with beside(plan, until, submit) as failed:
            context = replace(context, control_failed=failed if plan.control else None)
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
    """Try a stage's candidates, one choice after another, until one is accepted."""
    shift = measured_shift(context, line.arm, stage, line.taught[0][1])
    which, rungs = ladder_for(context.plan, index, shift.grade)
    context.listener.say(f"{stage.name}: shift {shift.words()} -> ladder {which}")
    (context.folder / "arms" / line.arm / stage.name / EXHAUSTED).unlink(missing_ok=True)
    begin = beginning(context, stage, line, shift)
    search = Search(context, stage, line, [each for rung in rungs for each in candidates(rung)], begin)
    chosen: Record = {}  # a person's `next RUNG`, until that rung is reached
    with ahead(context.plan) as company:
        while (choice := search.next()).option is not None:
            number, candidate = choice.option.number, choice.option.candidate
            chosen = {} if chosen.get("rung") == candidate.rung else chosen
            passed = f"a person chose {chosen['rung']}: {chosen['because']}" if chosen.get("rung") else None
            asked = search.asked(choice.option)
            _refuse_another(context.folder / asked.folder, candidate)
            search.record(choice, passed)
            if passed is None:
                company.train(search.coming(choice.option))
                company.wait(number)
            verdict, attempt = _try(context, asked, passed)
            _wait_for_approval(context, stage, context.folder / asked.folder, verdict)
            decision = verdict.get("decision", {})
            chosen = decision if decision.get("decision") == "next" else chosen
            search.tried.append(Tried.of(number, candidate, verdict))
            if verdict["accepted"]:
                assert attempt is not None
                company.stop()
                return _accept(context, stage, line, attempt), attempt
    if (best := search.best()) is not None:
        folder = context.folder / best[0].folder
        _wait_for_approval(context, stage, folder, best[1])
        context.listener.say(f"{stage.name}: {best[1]['label']} is {best[1]['reasons'][-1]}")
        return _accept(context, stage, line, read_attempt(folder)), read_attempt(folder)
    raise _exhausted(context, index, search, choice.why)


def _try(context: Run, asked: Try, passed: str | None) -> tuple[Record, Attempt | None]:
    """One candidate: passed over, refused by a guard, or trained and judged. What is on record already stands."""
    folder, candidate = context.folder / asked.folder, asked.candidate
    recorded = read_verdict(folder)
    if recorded is not None and recorded["outcome"] in ("skipped", "refused") and _passed(context, asked):
        context.listener.judged(None, folder, recorded)
        return recorded, None
    reason = passed or skip_reason(candidate)
    if reason is not None:
        return _pass_over(context, folder, candidate, "skipped", reason), None
    try:
        attempt, start, drop = resolved(context, asked)
    except GuardError as error:
        if not (folder / "attempt.json").exists():
            reason = f"{error.what}: {error.why}"
            return _pass_over(context, folder, candidate, "refused", reason, fix=error.fix), None
        if recorded is None:
            raise  # it was begun before the plan or its data changed
        context.listener.judged(read_attempt(folder), folder, recorded)
        return recorded, read_attempt(folder)
    if recorded is not None and recorded["outcome"] in ("skipped", "refused", NOT_NEEDED):
        (folder / "verdict.json").unlink()  # its turn has come: the plan was mended, or another was rejected
    attempt = trained(context, asked, attempt, start, drop)
    return judged(context, attempt, context.feed(), compared=context.plan.search.choose == "best"), attempt


def _refuse_another(folder: Path, candidate: Candidate) -> None:
    """What was tried stays at its place in the ladder."""
    recorded = read_verdict(folder)
    if recorded is not None and recorded["label"] != candidate.label:
        raise LineageError(
            f"{folder}: holds the attempt {recorded['label']}, the plan now has {candidate.label} there",
            "the ladder was changed above a rung that was tried already",
            "put the rungs that were tried back first, or start anew: run: {folder: ...}",
        )


def _wait_for_approval(context: Run, stage: StageSpec, folder: Path, verdict: Record) -> None:
    """With `--approve`, a verdict that no person has seen stops the run: nobody lets a tool decide a stage alone. A bug in
    the data always does: no other candidate would mend it."""
    (folder / WAITING).unlink(missing_ok=True)
    if "decision" in verdict or verdict["outcome"] in ("skipped", "refused"):
        return
    asked = context.approve == "each-rung" or (context.approve == "each-stage" and verdict["accepted"])
    if asked or verdict.get("trouble") == DATA_BUG:
        files.write_json(folder / WAITING, {"approve": context.approve})
        raise Waiting(stage.name, verdict["label"], verdict["outcome"])


def _passed(context: Run, asked: Try) -> bool:
    """True when a candidate behind it was trained: then what was refused stays refused, else it is looked at afresh."""
    attempts = attempts_of(context.folder, asked.line.arm, asked.stage.name)
    places = {each.number: place for place, each in enumerate(attempts) if each.rung != COOLDOWN}
    return any(each.steps for each in attempts[places[asked.number] :])


def _pass_over(context: Run, folder: Path, candidate: Candidate, outcome: str, reason: str, **more: str) -> Record:
    verdict = {"outcome": outcome, "accepted": False, "label": candidate.label, "reasons": [reason], **more}
    keep_plan(context)
    write_verdict(folder, verdict, replace=True)
    context.listener.judged(None, folder, verdict)
    return verdict


def _accept(context: Run, stage: StageSpec, line: Line, attempt: Attempt) -> Line:
    """The stage moves the line: its end becomes the next start, and B is filled from what was fed of D_i."""
    _stop_the_rest(context, attempt)
    end, begin = end_manifest(context, attempt), start_of(context, attempt, line)
    buffer = fill_buffer(context, stage, line, begin, end) if context.plan.buffer.tokens else None
    taught = (*line.taught, (stage.new, end))
    moved = Line(line.arm, end, begin, taught, buffer, line.attempts | {attempt.sha256})
    if attempt.rung != "balance":
        return moved
    cooled = converged(context, moved)  # the final cooldown belongs to this rung: the line goes on from there
    return replace(moved, end=cooled, taught=(*line.taught, (stage.new, cooled)))


def _stop_the_rest(context: Run, attempt: Attempt) -> None:
    """What was begun of the stage's other candidates and is not needed any more."""
    for each in attempts_of(context.folder, attempt.arm, attempt.stage):
        if each.steps and each.outcome is None and each.rung != COOLDOWN and each.number != attempt.number:
            reason = f"not needed, {attempt.label} was accepted first"
            verdict = {"label": each.label, "accepted": False, "outcome": NOT_NEEDED, "reasons": [reason]}
            verdict |= {"step": each.step, "tokens": each.tokens, "attempt": read_attempt(each.folder).sha256}
            write_verdict(each.folder, verdict)
            context.listener.judged(None, each.folder, verdict)


def _exhausted(context: Run, index: int, search: Search, why: str) -> Exception:
    """Exit 1 with what was tried; exit 2 when nothing of the first stage's ladder could even start."""
    stage, tried = search.stage, search.tried
    words = "; ".join(f"{each.candidate.label}: {each.outcome}" for each in tried)
    if index == 0 and tried and all(each.outcome in ("refused", "skipped") for each in tried):
        reasons = [read_verdict(path) for path in sorted(search.folder.iterdir())]
        refused = [r for r in reasons if r and r["outcome"] == "refused"]
        first: Record = refused[0] if refused else {"reasons": [words]}
        return KeepwarmError(
            f"stages.{stage.name}: nothing of its ladder can start ({words})", first["reasons"][0],
            first.get("fix", "give the stage another ladder: [...]"),
        )  # fmt: skip
    outcomes = [{"label": each.candidate.label, "outcome": each.outcome} for each in tried]
    files.write_json(search.folder / EXHAUSTED, {"stage": stage.name, "why": why, "tried": outcomes}, replace=True)
    ended = "the ladder is exhausted" if len(tried) == len(search.candidates) else why
    return WorkFailed(f"{stage.name}: {ended}, no candidate was accepted ({words or 'none was tried'})")
