"""People have the last word: a decision on an attempt, recorded beside its verdict, which it overrules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keepwarm.attempt.line import COOLDOWN
from keepwarm.attempt.progress import EXHAUSTED, Progress, attempts_of, end_of
from keepwarm.attempt.records import write_decision
from keepwarm.errors import KeepwarmError
from keepwarm.lineage.deletion import refuse_deleted
from keepwarm.lineage.manifest import checkpoints_of
from keepwarm.plan.model import Plan
from keepwarm.report.account import NOT_NEEDED
from keepwarm.strategy.ladder import TRAINABLE


def record_decision(plan: Plan, stage: str, decision: str, rung: str | None, because: str) -> str:
    """Write the decision beside the attempt it is about; returns that attempt's label. KeepwarmError if it can't be."""
    names = [each.name for each in plan.stages]
    if stage not in names:
        raise KeepwarmError(
            f"--stage {stage}: the plan has no such stage", "nothing was decided", f"one of: {', '.join(names)}"
        )
    if (decision == "next") != (rung is not None):
        raise KeepwarmError("next takes a rung, accept and reject take none", "nothing was decided", "next buffer-mix")
    if rung is not None and rung not in TRAINABLE:
        raise KeepwarmError(f"{rung} is not a rung", "nothing was decided", f"one of: {', '.join(TRAINABLE)}")
    if not because.strip():
        raise KeepwarmError("--because is empty", "a decision without its reason helps nobody later", '--because "..."')
    attempt = _about(plan, stage, decision)
    if decision == "accept":
        refuse_deleted(checkpoints_of(attempt.folder)[-1])
    else:
        _refuse_built_upon(plan, names[names.index(stage) + 1 :], attempt)
    content = {"decision": decision, "rung": rung, "because": because, "over": attempt.outcome}
    write_decision(attempt.folder, content)
    return attempt.label


def _about(plan: Plan, stage: str, decision: str) -> Progress:
    """The attempt a decision is about: the one that is accepted or waits, else the last that was judged; for accept after
    an exhausted ladder, the best."""
    folder = Path(plan.run.folder)
    tried = [each for each in attempts_of(folder, "cookbook", stage) if each.steps and each.rung != COOLDOWN]
    judged = [each for each in tried if each.verdict and each.outcome != NOT_NEEDED]
    whole = [each for each in judged if end_of(each.folder) is not None]
    if not judged or (decision == "accept" and not whole):
        raise KeepwarmError(
            f"{stage}: no attempt has come to its end", "there is nothing to decide on yet", "keepwarm run PLAN first"
        )
    last = next((each for each in judged if each.accepted or each.waiting), judged[-1])
    if decision != "accept":
        return last
    if (folder / "arms/cookbook" / stage / EXHAUSTED).exists():
        return min(whole, key=_worst_excess)
    if last not in whole:
        raise KeepwarmError(
            f"{stage} {last.label}: was stopped before its end",
            "a stage that was trained in part can't be accepted",
            "reject it, or let the ladder go on to its end and accept the best",
        )
    return last


def _refuse_built_upon(plan: Plan, later: Sequence[str], attempt: Progress) -> None:
    """What later stages started from can't be taken back: they were trained on it."""
    begun = next((name for name in later if attempts_of(Path(plan.run.folder), "cookbook", name)), None)
    if begun is not None:
        raise KeepwarmError(
            f"{attempt.label}: {begun} went on from it already",
            "the stages behind it would hang in the air",
            "try the stage again in a run of its own: --set run.folder=...",
        )


def _worst_excess(attempt: Progress) -> float:
    old = (attempt.verdict or {}).get("old", {}).values()
    return max((corpus["forgetting"] - corpus["tolerance"] for corpus in old), default=0.0)
