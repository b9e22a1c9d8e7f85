"""What Megatron-DeepSpeed is launched with next: the stage, its candidate, and the attempt past the guards.

Nothing here waits for a loss, trains, or writes into the run folder before it is told to: corpora that were not prepared
yet are prepared aside, for a look. So a launch can be read before anything is there but text and a plan.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keepwarm import files
from keepwarm.attempt.base import base_attempt
from keepwarm.attempt.line import BASE, COOKBOOK, COOLDOWN, Feed, Line
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.progress import attempts_of, end_of
from keepwarm.attempt.records import read_attempt, read_verdict
from keepwarm.attempt.settle import differences
from keepwarm.backends.given import given
from keepwarm.backends.megatron.launches import launches_for
from keepwarm.backends.megatron.machines import site_of
from keepwarm.backends.megatron.record import SAVED, launches_of
from keepwarm.backends.megatron.verbatim import Verbatim, verbatim_cookbook
from keepwarm.backends.megatron.write import submit, write_launches
from keepwarm.branches import cooldown_of
from keepwarm.corpora.prepare import Prepared, prepare, prepared_before
from keepwarm.errors import GuardError, KeepwarmError
from keepwarm.lineage.guard import CONVERGED
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.cookbook import ladder_for
from keepwarm.plan.load import plan_document
from keepwarm.plan.machines import Scheduler
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.plan.rungs import Candidate, candidates
from keepwarm.report.account import spent, tokens_per_hour
from keepwarm.report.launched import Look
from keepwarm.report.shifted import begun_by
from keepwarm.report.status import base_manifest
from keepwarm.search import Search, beginning
from keepwarm.shifts import shift_of
from keepwarm.standing import line_after, refuse_unaccepted
from keepwarm.strategy.ladder import Tried, skip_reason
from keepwarm.strategy.shift import Shift
from keepwarm.tries import Try, guarded
from keepwarm.work import Listener, Run, keep_plan, sampler_of

PREPARED_ASIDE = "the corpora are not prepared yet: done aside for this look, and again with --write"


@dataclass(frozen=True, slots=True)
class Asked:
    """An attempt that is to be launched, what it starts from, and why it is its turn."""

    attempt: Attempt
    start: Manifest | None
    why: str
    context: Run

    @property
    def feed(self) -> Feed:
        """What its views are made of."""
        return self.context.feed()


def look(
    plan: Plan, listener: Listener, *, stage: str | None = None, rung: str | None = None,
    scheduler: Scheduler | None = None, machine: str | None = None, write: bool = False, submitting: bool = False,
    rate: float | None = None,
) -> Look:  # fmt: skip
    """The launches of the next attempt, or of the one named; with `write` they are written, with `submitting` sent."""
    site_of(plan, scheduler, machine)  # what is wrong with it is told before any corpus is prepared
    write = write or submitting
    with _prepared(plan, listener, write) as prepared:
        asked = asked_for(plan, prepared, listener, stage, rung)
        planned = launches_for(plan, asked.attempt, asked.start, scheduler=scheduler, machine=machine)
        if write:
            with files.run_lock(Path(plan.run.folder)):
                keep_plan(asked.context)
                write_launches(asked.attempt, planned, asked.feed)
        sent = submit(planned) if submitting else None
        hourly = None if rate is not None else tokens_per_hour(spent(plan))
        rate = rate if hourly is None else hourly / 3600
        return Look(asked.attempt, asked.start, asked.why, planned, write, sent, rate)


def verbatim(plan: Plan, stage: str | None, scheduler: Scheduler | None, machine: str | None) -> Verbatim:
    """The cookbook's own command for a stage, the first not accepted when left out."""
    site, named = site_of(plan, scheduler, machine), _stage(plan, stage, trained=True)
    if named is None:
        raise KeepwarmError(
            f"--stage {BASE}: the cookbook has no command for it", "it begins with stage 2", "--stage NAME"
        )
    base = base_manifest(plan)
    given_load = plan.base.checkpoint or str(Path(plan.run.folder) / "arms" / COOKBOOK / BASE / f"00-{BASE}" / SAVED)
    load = str(Path(base.location).parent) if base is not None and base.location else given_load
    return verbatim_cookbook(plan, named, site, load)


def asked_for(plan: Plan, prepared: Prepared, listener: Listener, stage: str | None, rung: str | None) -> Asked:
    """The attempt that is launched: `stage` defaults to the first not accepted, `rung` to its ladder's next candidate."""
    sha256 = files.sha256_json(plan_document(plan))
    context = Run(plan, sha256, Path(plan.run.folder), prepared, listener, keeps_plan=False)
    line = _base_line(context)
    named = _stage(plan, stage, trained=line is not None)
    if line is None or named is None:
        _refuse_untrained(plan, stage, named)
        if rung == COOLDOWN and line is not None:
            return _cooldown(context, line, "asked for")
        return _as_launched(context, base_attempt(plan, context.feed()), None, "the base is not there yet")
    refuse_unaccepted(plan, named)
    before = plan.stages.index(named)
    if rung == COOLDOWN:
        return _cooldown(context, line_after(context, before + _is_accepted(plan, named), line), "asked for")
    return _candidate(context, named, line_after(context, before, line), rung)


def _base_line(context: Run) -> Line | None:
    """Where the line begins: the base, measured or not; None before it is trained."""
    plan = context.plan
    end = base_manifest(plan)
    if end is None and plan.base.checkpoint is not None:
        end = given(plan, context.prepared.tokenizer)
    if end is None:
        return None
    return Line(COOKBOOK, end, None, tuple((name, end) for name in plan.known_by_base), None, frozenset({end.attempt}))


def _stage(plan: Plan, name: str | None, *, trained: bool) -> StageSpec | None:
    """The stage of that name; without one the first not accepted. None: the base."""
    if name == BASE or (name is None and not trained):
        return None
    stages = {each.name: each for each in plan.stages}
    if name is not None and name not in stages:
        raise KeepwarmError(
            f"--stage {name}: the plan has no such stage",
            "nothing was written",
            f"one of: {', '.join([BASE, *stages])}",
        )
    if name is not None:
        return stages[name]
    for each in plan.stages:
        if not _is_accepted(plan, each):
            return each
    raise KeepwarmError(
        "every stage is accepted",
        "there is nothing to launch but a cooldown of the line's end",
        f"--stage {plan.stages[-1].name} --rung {COOLDOWN}",
    )


def _refuse_untrained(plan: Plan, asked: str | None, stage: StageSpec | None) -> None:
    if stage is not None:
        raise KeepwarmError(
            f"--stage {asked}: the base it starts from is not trained yet",
            "nothing was written",
            f"--stage {BASE}, and keepwarm observe once its jobs have run",
        )
    if plan.base.checkpoint is not None and asked == BASE:
        raise KeepwarmError(
            f"--stage {BASE}: the base is given, {plan.base.checkpoint}", "it is not trained here", "leave --stage out"
        )


def _is_accepted(plan: Plan, stage: StageSpec) -> bool:
    return any(tried.accepted for tried in attempts_of(Path(plan.run.folder), COOKBOOK, stage.name))


def _cooldown(context: Run, line: Line, why: str) -> Asked:
    """The cooldown branch of the line's end."""
    return _as_launched(context, cooldown_of(context, line), line.end, why)


def _candidate(context: Run, stage: StageSpec, line: Line, rung: str | None) -> Asked:
    """The ladder's next candidate, or the next of those that `rung` names, past the guards."""
    search, refused = _search(context, stage, line), list[GuardError]()
    while (choice := search.next()).option is not None:
        number, candidate = choice.option.number, choice.option.candidate
        asked = search.asked(choice.option)
        recorded = read_verdict(context.folder / asked.folder)
        try:
            outcome = recorded or _passed(asked, rung)
            if outcome is None:
                return _tried(context, asked, choice.why)
        except GuardError as error:
            context.listener.say(f"{candidate.label}: refused, {error.what}")
            outcome = {"outcome": "refused", "accepted": False}
            refused.append(error)
        search.tried.append(Tried.of(number, candidate, outcome))
    if rung is not None and refused:
        raise refused[0]
    left = "; ".join(f"{each.candidate.label}: {each.outcome}" for each in search.tried)
    wanted = f"--rung {rung}: nothing of it is left to launch" if rung else "its ladder has nothing left to launch"
    raise KeepwarmError(
        f"{stage.name}: {wanted} ({left or 'it is empty'})", choice.why,
        f"keepwarm status PLAN; or one of: {', '.join(dict.fromkeys(each.rung for each in search.candidates))}",
    )  # fmt: skip


def _passed(asked: Try, rung: str | None) -> dict[str, object] | None:
    """Why a candidate is not the one that is launched, as a verdict would say it; None: it is."""
    reason = skip_reason(asked.candidate)
    if reason is None and rung is not None and not _named(asked, asked.candidate, rung):
        reason = f"--rung {rung}"
    return None if reason is None else {"outcome": "skipped", "accepted": False, "reasons": [reason]}


def _named(asked: Try, candidate: Candidate, rung: str) -> bool:
    return rung in (candidate.rung, candidate.label, Path(asked.folder).name)


def _tried(context: Run, asked: Try, why: str) -> Asked:
    """A candidate as an attempt; before it, the cooldown that it starts from, where that is not there yet."""
    line = asked.line
    if asked.candidate.rung != "rewarm-converged" or line.end.phase in CONVERGED:
        attempt, start = guarded(context, asked, line.end)
        return _as_launched(context, attempt, start, why)
    branch = cooldown_of(context, line)
    folder = context.folder / branch.folder
    cooled = end_of(folder) if (folder / "attempt.json").exists() else None
    if cooled is None:
        return _cooldown(context, line, f"{asked.candidate.label} starts from the line's end, cooled")
    attempt, start = guarded(context, asked, cooled)
    return _as_launched(context, attempt, start, why)


def _as_launched(context: Run, attempt: Attempt, start: Manifest | None, why: str) -> Asked:
    """The attempt, or the one on disk where it was launched already: its record never changes."""
    folder = context.folder / attempt.folder
    if not launches_of(folder):
        return Asked(attempt, start, why, context)
    recorded = read_attempt(folder)
    if changed := differences(recorded, attempt):
        raise KeepwarmError(
            f"{folder}: {recorded.label} was launched with other {', '.join(sorted(changed))}",
            "what was launched stays as it is, and at its place in the ladder",
            "put the plan back as it was (the run folder's plan.yaml), or start anew: run: {folder: ...}",
        )
    return Asked(recorded, start, f"{why}; launched before", context)


def _search(context: Run, stage: StageSpec, line: Line) -> Search:
    """The stage's ladder, begun as its shift says."""
    shift = _shift(context, stage, line.taught[0][1])
    which, rungs = ladder_for(context.plan, context.plan.stages.index(stage), shift.grade)
    context.listener.say(f"{stage.name}: shift {shift.words()} -> ladder {which}")
    found = [each for rung in rungs for each in candidates(rung)]
    return Search(context, stage, line, found, beginning(context, stage, line, shift))


def _shift(context: Run, stage: StageSpec, base: Manifest) -> Shift:
    """As declared or on record; else measured as it will be, and not recorded: nothing is begun yet."""
    return begun_by(stage, context.folder / "arms" / COOKBOOK / stage.name) or shift_of(context, stage, base)


@contextmanager
def _prepared(plan: Plan, listener: Listener, keep: bool) -> Iterator[Prepared]:
    """The plan's corpora: in the run folder to `keep` them, else as they are there, else in a folder that vanishes."""
    say: Callable[[str], None] = listener.say
    if keep:
        with files.run_lock(Path(plan.run.folder)):
            found = prepare(plan, say, None, sampler_of(plan))
        yield found
        return
    before = prepared_before(plan, [*plan.corpora, *plan.evaluation])
    if before is not None:
        yield before
        return
    say(PREPARED_ASIDE)
    with tempfile.TemporaryDirectory(prefix="keepwarm-launch-") as folder:
        aside = plan.model_copy(update={"run": plan.run.model_copy(update={"folder": folder})})
        yield prepare(aside, say)
