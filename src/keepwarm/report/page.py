"""What the report page shows, gathered from a run folder as data: no torch, no drawing, and it never writes.

Positions are tokens of the line (base included). Between the two ends of an attempt, losses are measured on a small
fixed subset of the held-out windows. What is shown there is corrected by the difference between all windows and the
subset, which is known at both ends and taken as linear in between, so that a curve does not jump at a stage's border.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keepwarm.attempt.line import BASE, COOKBOOK, COOLDOWN
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.progress import Progress, attempts_of, end_of
from keepwarm.attempt.records import Record, read_attempt, read_metrics
from keepwarm.attempt.steered import as_fed
from keepwarm.blend.buffer import BufferVersion
from keepwarm.errors import KeepwarmError
from keepwarm.evaluate.heldout import gap
from keepwarm.lineage.manifest import Manifest, checkpoints_of, read_manifest
from keepwarm.plan.model import Plan
from keepwarm.report.buffered import newest_buffer, text_samples
from keepwarm.report.status import accepted, base_manifest, status

Fate = Literal["kept", "rejected", "running", "skipped"]


@dataclass(frozen=True, slots=True)
class Leg:
    """An attempt on the line's token axis; `attempt` is None for a candidate that was never trained."""

    arm: str
    stage: str
    fate: Fate
    progress: Progress
    attempt: Attempt | None
    records: tuple[Record, ...]
    manifests: tuple[Manifest, ...]
    first_tokens: int

    @property
    def cooldown(self) -> bool:
        """Whether this is a cooldown branch."""
        return self.progress.rung == COOLDOWN

    @property
    def tokens(self) -> int:
        """Tokens it was fed so far, by its last record (a checkpoint may be older)."""
        return max([self.progress.tokens, *(int(record.get("tokens", 0)) for record in self.records)])


@dataclass(frozen=True, slots=True)
class Point:
    """A corpus's held-out loss, nats per token, at a position of the line."""

    tokens: int
    corpus: str
    loss: float
    taught: bool  # already, or by this attempt
    all_windows: bool


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """The line after a stage: each corpus's loss, and its change since the stage that taught it (None: not yet)."""

    after: str
    loss: Mapping[str, float]
    change: Mapping[str, float | None]
    taught: str | None  # the corpus that the stage taught; None for the cooldown branch


@dataclass(frozen=True, slots=True)
class FedRow:
    """One source in one attempt, in tokens; repeats, and epochs of the line before and after it, where known."""

    source: str
    corpus: str
    role: str
    asked_tokens: float
    fed_tokens: int
    repeated_tokens: int | None
    epochs: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Page:
    """All the report shows. `corpora` is D_0, then in the order they are taught, the rest, what is only measured."""

    plan: Plan
    found: dict[str, Any]
    corpora: tuple[str, ...]
    base: Manifest | None
    legs: tuple[Leg, ...]
    buffer: BufferVersion | None
    samples: Mapping[str, tuple[str, ...]]  # stage -> texts
    resolved: Mapping[str, Any]
    plan_text: str | None
    missing: tuple[str, ...]


def gather(plan: Plan) -> Page:
    """Read the run folder of `plan`; what is not there yet is said in `missing`."""
    folder = Path(plan.run.folder)
    found, base = status(plan), base_manifest(plan)
    legs = tuple(leg for arm in (COOKBOOK, *plan.control) for leg in _legs(plan, arm, base))
    buffer, missing = newest_buffer(folder), list(_missing(plan, found, base, legs))
    samples: dict[str, tuple[str, ...]] = {}
    if buffer is not None:
        try:
            samples = text_samples(plan, buffer)
        except KeepwarmError as error:
            missing.append(f"text samples of the buffer: {error.what}")
    record, text = folder / "resolved.json", folder / "plan.yaml"
    return Page(
        plan=plan,
        found=found,
        corpora=tuple(
            dict.fromkeys([plan.base.corpus, *(stage.new for stage in plan.stages), *plan.corpora, *plan.evaluation])
        ),
        base=base,
        legs=legs,
        buffer=buffer,
        samples=samples,
        resolved=json.loads(record.read_text(encoding="utf-8")) if record.exists() else {},
        plan_text=text.read_text(encoding="utf-8") if text.exists() else None,
        missing=tuple(missing),
    )


def _legs(plan: Plan, arm: str, base: Manifest | None) -> Iterator[Leg]:
    for stage in (BASE, *(each.name for each in plan.stages)):
        for progress in attempts_of(Path(plan.run.folder), arm, stage):
            if stage != BASE or progress.steps:  # a given base is no attempt
                yield _leg(plan, arm, stage, progress, base)


def _leg(plan: Plan, arm: str, stage: str, progress: Progress, base: Manifest | None) -> Leg:
    folder = progress.folder
    records = tuple(read_metrics(folder / "metrics.jsonl")) if (folder / "metrics.jsonl").exists() else ()
    attempt = as_fed(read_attempt(folder), records) if progress.steps else None
    manifests = tuple(read_manifest(path) for path in checkpoints_of(folder))
    ended = progress.accepted or (progress.verdict is None and progress.steps > 0 and progress.step == progress.steps)
    fate: Fate = "kept" if ended else "rejected" if progress.outcome is not None else "running"
    if attempt is None:
        fate = "skipped"
    first = 0
    if manifests:
        first = manifests[0].line_tokens - manifests[0].attempt_tokens
    elif attempt is not None and attempt.start is not None:
        start = Path(plan.run.folder) / attempt.start
        known = base if base is not None and attempt.start == base.id else None
        known = known or (read_manifest(start) if (start / "manifest.json").exists() else None)
        first = known.line_tokens if known else 0
    return Leg(arm, stage, fate, progress, attempt, records, manifests, first)


def d0_words(page: Page) -> str:
    """D_0 by its name, or what stands in for it, which is not D_0."""
    corpus = page.plan.base.corpus
    return page.plan.called(corpus) if corpus in page.plan.stand_ins else f"{corpus} (D_0)"


def _missing(plan: Plan, found: Mapping[str, Any], base: Manifest | None, legs: tuple[Leg, ...]) -> Iterator[str]:
    if base is None:
        yield "the base is not there yet: there is nothing to compare with"
    elif not any(leg.stage == BASE for leg in legs):
        yield f"the base was given, not trained here: its phase {base.phase} is {base.phase_is}, its curve is not known"
    for corpus in plan.stand_ins:
        yield f"D_0's own data: {plan.called(corpus)} stands in for it, and what is forgotten of D_0 is measured on that"
    for stage in found["stages"]:
        if stage["state"] == "pending":
            yield f"{stage['name']} has not begun"
        elif stage["state"] == "running":
            yield f"{stage['name']} is not finished: its numbers may still change"
        elif stage["state"] == "exhausted":
            yield f"{stage['name']} exhausted its ladder: no candidate was accepted, and the line ends before it"
    if not plan.control:
        yield "no control arm was asked for: what would be forgotten without replay was not measured"
    for arm in plan.control:
        if not any(leg.arm == arm for leg in legs):
            yield f"the control arm {arm} has not begun"


def points(leg: Leg, taught: Mapping[str, str]) -> Iterator[Point]:
    """Held-out losses of an attempt; `taught`: corpus -> the stage that teaches it, for those taught up to here."""
    evaluations = [record for record in leg.records if record["kind"] == "eval"]
    full = [record for record in evaluations if record["full"]]
    for record in evaluations:
        for corpus, loss in record["loss"].items():
            if loss is None:
                continue
            if not record["full"] and full:
                loss += _correction(full, record, corpus)
            position = leg.first_tokens + int(record["tokens"])
            yield Point(position, corpus, loss, corpus in taught, bool(record["full"]))


def _correction(full: Sequence[Record], now: Record, corpus: str) -> float:
    """All windows less the subset measured now: known where all were measured, linear in tokens in between."""
    known = [record for record in full if record["loss"][corpus] is not None]
    if not known:
        return 0.0
    size = len(now["windows"][corpus])
    gaps = [gap(np.array(record["windows"][corpus], dtype=np.float64), size) for record in known]
    return float(np.interp(int(now["tokens"]), [int(record["tokens"]) for record in known], gaps))


def taught_by(page: Page) -> dict[str, str]:
    """Corpus -> the stage that teaches it; D_0 by the base, which knew what is only measured too."""
    return dict.fromkeys(page.plan.known_by_base, BASE) | {
        stage.new: stage.name for stage in reversed(page.plan.stages)
    }


def taught_until(page: Page, stage: str) -> dict[str, str]:
    """`taught_by` of the corpora taught by `stage` or earlier."""
    order = [BASE, *(each.name for each in page.plan.stages)]
    return {corpus: by for corpus, by in taught_by(page).items() if order.index(by) <= order.index(stage)}


def matrix(page: Page, arm: str) -> list[MatrixRow]:
    """Loss and forgetting of every corpus after every stage of an arm's line, then after its cooldown branch."""
    if page.base is None or not page.base.evaluation:
        return []
    ends: list[tuple[str, str | None, Manifest]] = [(BASE, page.plan.base.corpus, page.base)]
    for stage in page.plan.stages:
        kept = accepted(page.plan, arm, stage.name)
        end = end_of(kept.folder) if kept else None
        if end is None:
            break
        ends.append((stage.name, stage.new, end))
    branches = [leg for leg in page.legs if leg.arm == arm and leg.cooldown and leg.fate == "kept"]
    if branches:
        ends.append(("cooldown", None, branches[-1].manifests[-1]))
    known = [name for name in page.plan.known_by_base if name in page.base.evaluation]
    reference = {name: float(page.base.evaluation[name]["loss"]) for name in known}
    rows = []
    for after, new, manifest in ends:
        losses = {name: float(found["loss"]) for name, found in manifest.evaluation.items()}
        if new in losses:
            reference.setdefault(new, losses[new])
        change = {name: loss - reference[name] if name in reference else None for name, loss in losses.items()}
        rows.append(MatrixRow(after, losses, change, new))
    return rows


def fed_rows(page: Page, leg: Leg) -> list[FedRow]:
    """Asked and fed tokens of each source: of the verdict where there is one, else counted from the records."""
    verdict = leg.progress.verdict or {}
    if "fed" in verdict:
        return [
            FedRow(
                row["source"], row["corpus"], row["role"], row["asked_tokens"], row["fed_tokens"],
                row.get("repeated_tokens"), (row["epochs_before"], row["epochs_after"]),
            )
            for row in verdict["fed"]
        ]  # fmt: skip
    if leg.attempt is None:
        return []
    samples: dict[str, int] = {}
    for record in leg.records:
        for source, count in record["samples"].items() if record["kind"] == "train" else ():
            samples[source] = samples.get(source, 0) + count
    total = sum(samples.values())
    mixture, length = leg.attempt.segments[0].mixture, leg.attempt.sequence_length
    one_mix = len(leg.attempt.segments) == 1
    rows = []
    for source in leg.attempt.sources:
        fed = samples.get(source.id, 0) * length
        share = float(mixture.share(source.id)) if source.id in mixture.source_ids else 0.0
        asked = share * total * length if one_mix else float(fed)
        rows.append(FedRow(source.name, source.corpus, source.role, asked, fed, None, None))
    return rows


def old_shares(leg: Leg) -> list[tuple[int, int, dict[str, float]]]:
    """(first token, last token, share by old role) of each stretch of an attempt; the new data is left out."""
    if leg.attempt is None or leg.stage == BASE:
        return []
    attempt = leg.attempt
    starts = [segment.first_sample * attempt.sequence_length for segment in attempt.segments]
    role = {source.id: source.role for source in attempt.sources}
    found = []
    for segment, first, last in zip(attempt.segments, starts, [*starts[1:], attempt.tokens], strict=True):
        shares: dict[str, float] = {}
        for source in segment.mixture.source_ids:
            if role[source] != "new":
                shares[role[source]] = shares.get(role[source], 0.0) + float(segment.mixture.share(source))
        found.append((leg.first_tokens + first, leg.first_tokens + last, shares))
    return found
