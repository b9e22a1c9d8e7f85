"""The account: every token that a run spent, and on what. Read from the run folder alone.

A token that is trained on costs a forward and a backward pass, one that is only measured or written by the base a third
of that (attempt/timing.py). What an attempt took over from another is counted once, where it was trained; what a rewind
gave up is counted too; a loss that is read off a manifest is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwarm.attempt.line import BASE, BRANCHES, COOKBOOK, COOLDOWN
from keepwarm.attempt.progress import Progress, attempts_of
from keepwarm.attempt.records import STOPPED_EARLY, Record, attempt_in, read_metrics
from keepwarm.attempt.retained import recorded_start
from keepwarm.attempt.rewinds import read_rewinds
from keepwarm.attempt.shared import SHARED
from keepwarm.attempt.timing import FORWARD_COST
from keepwarm.corpora.indexed import read_sidecar
from keepwarm.lineage.manifest import read_manifest
from keepwarm.plan.model import Plan

PILOTS = "pilots"  # the arm of forecasts
NOT_NEEDED = "stopped"  # the outcome of what another candidate made needless while it was trained
KINDS = {
    "base": "the base",
    "kept": "kept: the line",
    "rejected": "rejected",
    "stopped early": "stopped early, hopeless",
    "not needed": "stopped, not needed",
    "unfinished": "not finished or not judged yet",
    "cooldown": "cooldown branches, averages",
    "control": "control arms",
    "pilot": "pilots of forecasts",
}


@dataclass(frozen=True, slots=True)
class Spent:
    """What one attempt cost: tokens trained here, taken over from another, and measured; and seconds of training."""

    arm: str
    stage: str
    label: str
    kind: str  # of KINDS
    folder: Path
    start: str | None
    tokens: int
    shared_tokens: int
    evaluation_tokens: int
    seconds: float

    @property
    def compute_tokens(self) -> float:
        """In training tokens."""
        return self.tokens + FORWARD_COST * self.evaluation_tokens


def spent(plan: Plan) -> list[Spent]:
    """One for each attempt in the run folder, in the order of arms, stages, and when they were tried."""
    run = Path(plan.run.folder)
    stages = [BASE, *(stage.name for stage in plan.stages)]
    arms = [COOKBOOK, *plan.control, PILOTS, BRANCHES]
    on_disk = [(path.parent.name, path.name) for path in sorted((run / "arms").glob("*/*")) if path.is_dir()]
    known = [(arm, stage) for arm in arms for stage in stages if (arm, stage) in on_disk]
    places = dict.fromkeys([*known, *on_disk])
    return [_spent(plan, arm, stage, each) for arm, stage in places for each in attempts_of(run, arm, stage)]


def account(plan: Plan) -> dict[str, Any]:
    """What the run cost, by kind and in all: what `status --json` has as `account`, and its table and the page show."""
    entries, generated = spent(plan), generated_tokens(plan)
    rows = [
        {"kind": kind, "what": words} | _sums([each for each in entries if each.kind == kind])
        for kind, words in KINDS.items()
        if any(each.kind == kind for each in entries)
    ]
    total = _sums(entries)
    compute = total["compute_tokens"] + FORWARD_COST * generated
    share = FORWARD_COST * total["evaluation_tokens"] / compute if compute else 0.0
    return {
        "rows": rows, "total": total, "generated_tokens": generated, "compute_tokens": compute,
        "evaluation_share": share,
    }  # fmt: skip


def search_tokens(entries: Iterable[Spent], stage: str, line_end: str) -> float:
    """What a stage's search cost so far, in training tokens: its attempts, its pilots, and the cooldown branch of the
    line's end that it needed."""
    return sum(
        each.compute_tokens
        for each in entries
        if (each.arm in (COOKBOOK, PILOTS) and each.stage == stage and each.kind != "cooldown")
        or (each.arm == COOKBOOK and each.kind == "cooldown" and each.start == line_end)
    )


def tokens_per_hour(entries: Sequence[Spent]) -> float | None:
    """Training tokens an hour, over all that was trained on the way of the cookbook; None before anything was."""
    seconds = sum(each.seconds for each in entries if each.arm == COOKBOOK)
    return 3600 * sum(each.tokens for each in entries if each.arm == COOKBOOK) / seconds if seconds else None


def generated_tokens(plan: Plan) -> int:
    """Tokens that the base wrote to stand in for a corpus: all that were sampled, kept or not."""
    sidecars = sorted((Path(plan.run.folder) / "tokens").glob("*/*.meta.json"))
    made = (read_sidecar(path.with_name(path.name.removesuffix(".meta.json"))) for path in sidecars)
    return sum(int(facts.get("sampled_tokens", 0)) for each in made if each for facts in each.source_files)


def _sums(entries: Sequence[Spent]) -> dict[str, Any]:
    return {
        "attempts": len(entries),
        "tokens": sum(each.tokens for each in entries),
        "shared_tokens": sum(each.shared_tokens for each in entries),
        "evaluation_tokens": sum(each.evaluation_tokens for each in entries),
        "compute_tokens": sum(each.compute_tokens for each in entries),
    }


def _spent(plan: Plan, arm: str, stage: str, each: Progress) -> Spent:
    path = each.folder / "metrics.jsonl"
    records = read_metrics(path) if path.exists() else []
    shared = next((record for record in records if record.get("event") == SHARED), {"step": -1, "tokens": 0})
    own = [record for record in records if record.get("step", -1) > shared["step"]]
    trained = [record for record in own if record["kind"] == "train"]
    tokens = trained[-1]["tokens"] if trained else each.tokens if not records else shared["tokens"]
    here = tokens - shared["tokens"] + _in_vain(each.folder)
    return Spent(
        arm, stage, each.label, _kind(arm, stage, each, records), each.folder, recorded_start(each.folder),
        here, shared["tokens"], sum(_measured(plan, each, own)), sum(_seconds(trained, shared)),
    )  # fmt: skip


def _in_vain(folder: Path) -> int:
    """Tokens of the steps that rewinds gave up: they were fed, and no record is left of them."""
    attempt, rewinds = attempt_in(folder), read_rewinds(folder)
    return sum(attempt.tokens_at(each.last_step) - attempt.tokens_at(each.to_step) for each in rewinds if attempt)


def _measured(plan: Plan, each: Progress, records: Sequence[Record]) -> Iterator[int]:
    """Held-out tokens of the evaluations that were really made."""
    for record in records:
        if record["kind"] == "eval" and not record.get("measured_by"):
            yield sum(len(windows) for windows in record["windows"].values()) * plan.sequence_length
    if (each.folder / "manifest.json").exists():  # a base that was trained elsewhere, measured here
        given = read_manifest(each.folder)
        yield sum(len(found["windows"]) for found in given.evaluation.values()) * plan.sequence_length


def _seconds(trained: Sequence[Record], shared: Record) -> Iterator[float]:
    before = shared["tokens"]
    for record in trained:
        yield (record["tokens"] - before) / max(1.0, record["tokens_per_second"])
        before = record["tokens"]


def _kind(arm: str, stage: str, each: Progress, records: Sequence[Record]) -> str:
    if arm == PILOTS:
        return "pilot"
    if arm == BRANCHES or each.rung == COOLDOWN:
        return "cooldown"
    if arm != COOKBOOK:
        return "control"
    if stage == BASE:
        return "base"
    if each.accepted:
        return "kept"
    if each.outcome is None or each.waiting:
        return "unfinished"
    if each.outcome == NOT_NEEDED:
        return "not needed"
    stopped = any(record.get("event") == STOPPED_EARLY for record in records)
    return "stopped early" if stopped else "rejected"
