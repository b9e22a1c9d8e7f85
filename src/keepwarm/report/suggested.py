"""`keepwarm ladder suggest`: what came of candidates in earlier runs, read from their folders, and the order it suggests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keepwarm.attempt.line import COOKBOOK, COOLDOWN
from keepwarm.attempt.progress import Progress, attempts_of
from keepwarm.errors import KeepwarmError
from keepwarm.plan.cookbook import ladder_for
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.plan.rungs import Candidate, candidates
from keepwarm.plan.written import ladder_of, ladder_yaml
from keepwarm.report.account import NOT_NEEDED
from keepwarm.report.lineage import plan_at
from keepwarm.report.shifted import known_shift
from keepwarm.report.table import aligned
from keepwarm.strategy.ladder import Begin, begin_by
from keepwarm.strategy.promise import Forgotten
from keepwarm.strategy.shift import Shift
from keepwarm.strategy.suggest import FAR, Ranked, Seen, suggest
from keepwarm.units import format_count

UNJUDGED = ("skipped", "refused", "undecided", NOT_NEEDED)  # outcomes that say nothing of a candidate

Record = Mapping[str, Any]


def suggested(plan: Plan, name: str, runs: Sequence[Path]) -> dict[str, Any]:
    """The order of a stage's candidates with the evidence, from the outcomes in `runs`: run folders, or their plans.

    Reads only. Raises KeepwarmError for a stage that is not there, a folder that is no run, a shift that is not known.
    """
    stage = _stage_of(plan, name)
    known = known_shift(plan, stage)
    if known is None:
        raise KeepwarmError(
            f"{name}: its shift is not known: {plan.run.folder} has neither its shift.json nor the tokens to measure it on",
            "outcomes of other runs say something of it at a similar shift only",
            f"keepwarm forecast PLAN --stage {name} (or run) measures it, or say it yourself: {{name: {name}, shift: strong}}",
        )
    shift, shift_from = known
    which, ladder, begin = _ladder(plan, plan.stages.index(stage), shift)
    seen, unread = _evidence(plan, runs)
    found = suggest(shift, ladder, begin, seen)
    entries = ladder_of(each.candidate for each in found.order)
    return {
        "stage": name, "new": stage.new, "shift": shift.as_dict(), "shift_from": shift_from, "written": which,
        "runs": [str(run) for run in runs], "counted": found.counted, "far": FAR,
        "evidence": [_seen(each, weight) for each, weight in found.evidence], "not_counted": unread,
        "order": [_ranked(each) for each in found.order],
        "expected": {"suggested": found.expected, "written": found.expected_as_written}, "ladder": entries,
    }  # fmt: skip


def print_suggested(found: Record) -> None:
    """Print `suggested_lines`."""
    print("\n".join(suggested_lines(found)))


def suggested_lines(found: Record) -> Iterator[str]:
    """The shift, the evidence, the order, and the ladder to paste."""
    yield f"{found['stage']}: {found['new']}, shift {found['shift']['words']}"
    yield f"  {found['shift_from']}"
    yield ""
    yield from _evidence_lines(found)
    yield ""
    yield from _order_lines(found)
    yield ""
    yield f"to paste into {found['stage']} of the plan:"
    yield ladder_yaml(found["ladder"])


def _stage_of(plan: Plan, name: str) -> StageSpec:
    names = [each.name for each in plan.stages]
    if name not in names:
        raise KeepwarmError(
            f"--stage {name}: the plan has no such stage", "nothing was suggested", f"one of: {', '.join(names)}"
        )
    return plan.stages[names.index(name)]


def _ladder(plan: Plan, index: int, shift: Shift) -> tuple[str, list[Candidate], Begin]:
    """What `run` would climb: which ladder, its candidates, and the replay share that it begins with."""
    declared = plan.stages[index].shift
    by = shift if declared == "auto" else Shift(declared, False)
    which, rungs = ladder_for(plan, index, by.grade)
    begin = begin_by(by, own=which == "own")
    words = "the plan's own ladder" if which == "own" else f"{plan.cookbook}, {which}"
    return words, [each for rung in rungs for each in candidates(rung)], begin


def _evidence(plan: Plan, runs: Sequence[Path]) -> tuple[list[Seen], list[str]]:
    """The outcomes in the runs, and what of them could not be counted, in words."""
    seen: list[Seen] = []
    unread: list[str] = []
    folders: dict[Path, Path] = {}
    for path in runs:
        other = plan_at(path)
        folder = Path(other.run.folder).resolve()
        if folder in folders:
            raise KeepwarmError(
                f"--from {path}: the same run as {folders[folder]}", "its outcomes would count twice", "name it once"
            )
        folders[folder] = path
        for stage in other.stages:
            tried = [each for each in attempts_of(folder, COOKBOOK, stage.name) if each.rung != COOLDOWN]
            for each in _of_stage(plan, path, other, stage, tried):
                (seen if isinstance(each, Seen) else unread).append(each)  # type: ignore[arg-type]
    return seen, unread


def _of_stage(
    plan: Plan, run: Path, other: Plan, stage: StageSpec, tried: Sequence[Progress]
) -> Iterator[Seen | str]:  # fmt: skip
    """A stage's outcomes; of what can't be counted, why, in words."""
    known = known_shift(other, stage) if tried else None
    if known is None:
        yield from (f"{run} {stage.name}: {each.label}: the stage's shift is not known" for each in tried)
        return
    ladder = _ladder(other, other.stages.index(stage), known[0])[1]
    tokens = other.of_stage(stage).whole_steps(stage.tokens)
    for each in tried:
        at = f"{run} {stage.name}: {each.label}"
        label = ladder[each.number].label if each.number < len(ladder) else None
        verdict = each.verdict
        if verdict is None or each.outcome in UNJUDGED:
            yield f"{at}: {each.outcome or 'not judged yet'}"
        elif label != each.label:
            yield f"{at}: not in the ladder of {run} any more"
        else:
            early = verdict["step"] < each.steps and each.outcome != "diverged"
            outcome = _outcome(plan, verdict, stopped_early=early)
            if outcome is None:
                yield f"{at}: stopped early as {each.outcome}, by a tolerance stricter than this plan's"
                continue
            yield Seen(
                str(run), stage.name, known[0], ladder[each.number], outcome, _accepted(outcome, verdict),
                verdict["tokens"], tokens, early,
            )  # fmt: skip


def _outcome(plan: Plan, verdict: Record, *, stopped_early: bool) -> str | None:
    """The outcome by the plan's tolerance; None of what was stopped before that could be known."""
    if verdict["outcome"] == "diverged":
        return "diverged"
    old = verdict["old"].items()
    within = all(
        Forgotten.of(corpus).forgetting <= plan.verdict.tolerance_of(name).nats(corpus["reference"])
        for name, corpus in old
    )
    if not within:
        return "not-recovering"
    if stopped_early:
        return "under-adapting" if verdict["outcome"] == "under-adapting" else None
    return "recovered" if all(corpus["learned"] for corpus in verdict["new"].values()) else "under-adapting"


def _accepted(outcome: str, verdict: Record) -> bool:
    """A person's word stands above the outcome."""
    return verdict["accepted"] if "decision" in verdict else outcome == "recovered"


def _seen(each: Seen, weight: float) -> dict[str, Any]:
    return {
        "run": each.run, "stage": each.stage, "shift": each.shift.as_dict(), "similarity": weight,
        "candidate": each.candidate.label, "outcome": each.outcome, "accepted": each.accepted, "tokens": each.tokens,
        "stage_tokens": each.stage_tokens, "stopped_early": each.stopped_early, "counts": weight >= FAR,
    }  # fmt: skip


def _ranked(each: Ranked) -> dict[str, Any]:
    return {
        "candidate": each.candidate.label, "rung": each.candidate.rung, "chance": each.chance, "cost": each.cost,
        "place": None if each.place is None else each.place + 1, "outcomes": each.weight, "accepted": each.accepted,
    }  # fmt: skip


def _evidence_lines(found: Record) -> Iterator[str]:
    count = len(found["evidence"])
    if not count:
        yield f"no evidence: no attempt of {', '.join(found['runs'])} was judged; the order is as written"
    else:
        far = count - found["counted"]
        apart = f", {far} of them too far apart (similarity below {found['far']:g}) to count" if far else ""
        yield f"evidence: {count} outcomes, by this plan's tolerance{apart}"
        if not found["counted"]:
            yield "no evidence at a similar shift; the order is as written"
        rows = [["run", "stage", "shift", "similarity", "candidate", "outcome", "tokens", "of its stage"]]
        for each in found["evidence"]:
            early = ", stopped early" if each["stopped_early"] else ""
            said = f"{each['outcome']}{', accepted by a person' if each['accepted'] and each['outcome'] != 'recovered' else ''}"
            rows.append([
                each["run"], each["stage"], _numbers(each["shift"]), f"{each['similarity']:.2f}", each["candidate"],
                f"{said}{early}", format_count(each["tokens"]), f"{each['tokens'] / each['stage_tokens']:.0%}",
            ])  # fmt: skip
        yield from (f"  {line}" for line in aligned(rows, (3, 6, 7)))
    yield from (f"  not counted: {each}" for each in found["not_counted"])


def _numbers(shift: Record) -> str:
    """A shift's grade with its numbers, short enough for a table."""
    names = {"ratio": "ratio", "js_unigram_excess": "JS", "js_bigram_excess": "JS2", "fertility": "fertility"}
    said = [f"{name} {shift[key]:.2f}" for key, name in names.items() if shift.get(key) is not None]
    return f"{shift['grade']} ({', '.join(said) if said else 'the plan says so'})"


def _order_lines(found: Record) -> Iterator[str]:
    if not found["counted"]:
        yield f"as written ({found['written']})"
        yield from (f"  {number:>2}. {each['candidate']}" for number, each in enumerate(found["order"], start=1))
        return
    yield f"order: the highest chance for its cost first (written: {found['written']})"
    rows = [["", "candidate", "chance", "cost", "accepted of outcomes", "written"]]
    for number, each in enumerate(found["order"], start=1):
        evidence = f"{each['accepted']:.2f} of {each['outcomes']:.2f}" if each["outcomes"] else "none"
        place = "not there" if each["place"] is None else str(each["place"])
        rows.append([
            f"{number}.", each["candidate"], f"{each['chance']:.0%}", f"{each['cost']:.2f}", evidence, place,
        ])  # fmt: skip
    yield from (f"  {line}" for line in aligned(rows, (0, 2, 3, 4, 5)))
    yield "  cost in lengths of the stage; an outcome counts for its similarity, or for what follows from it"
    expected = found["expected"]
    yield f"expected until one is accepted: {expected['suggested']:.2f} lengths of the stage"
    added = any(each["place"] is None for each in found["order"])
    yield f"  as written{', what is not there last' if added else ''}: {expected['written']:.2f}"
