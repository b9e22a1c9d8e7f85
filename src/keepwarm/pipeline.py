"""The whole story on one screen: for each stage, for each candidate of its ladder: attempt, train, judge, accept or climb.

The run folder is the only state. Every step first looks there for what is done, so the same command goes on after a
kill, a full disk or Ctrl-C, and a finished run is read, not repeated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from keepwarm import files
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.progress import EXHAUSTED, end_of
from keepwarm.attempt.records import Record, read_metrics, read_verdict, write_attempt, write_verdict
from keepwarm.attempt.resolve import (
    Feed,
    Line,
    base_attempt,
    cooldown_attempt,
    feed_of,
    open_stream,
    stage_attempt,
)  # fmt: skip
from keepwarm.blend.buffer import BufferVersion, fill, load_buffer
from keepwarm.blend.ledger import ledger
from keepwarm.corpora.prepare import Prepared, prepare
from keepwarm.errors import GuardError, KeepwarmError, LineageError, WorkFailed
from keepwarm.evaluate.references import header
from keepwarm.lineage.graph import all_manifests
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.cookbook import ladder_for
from keepwarm.plan.load import plan_document, plan_yaml
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.plan.rungs import Candidate, candidates
from keepwarm.strategy.ladder import Tried, skip_reason
from keepwarm.strategy.shift import Shift, grade
from keepwarm.strategy.verdict import judge

NO_REPLAY = "no-replay"


class Listener(Protocol):
    """Who is told what happens. Implemented by report.terminal; a test passes a list."""

    def say(self, text: str) -> None:
        """One line for people."""

    def begin(self, attempt: Attempt) -> None:
        """An attempt is about to be trained (or goes on)."""

    def record(self, record: Record) -> None:
        """A record was written to the attempt's metrics."""

    def judged(self, attempt: Attempt | None, folder: Path, verdict: Record) -> None:
        """A candidate came to an outcome, now or earlier."""


@dataclass(frozen=True, slots=True)
class Run:
    """What every step of the story needs."""

    plan: Plan
    plan_sha256: str
    folder: Path
    prepared: Prepared
    listener: Listener

    def feed(self) -> Feed:
        """Every source there is: the corpora's, and those of each version of B that is on disk."""
        found = (path for path in (self.folder / "buffer").glob("v*") if path.name[1:].isdigit())
        return feed_of(self.prepared, [load_buffer(path) for path in sorted(found)])


def run(plan: Plan, listener: Listener, *, until: str | None = None) -> None:
    """Bring `plan` to its end (or to the end of stage `until`). WorkFailed when a ladder is exhausted."""
    folder = Path(plan.run.folder)
    with files.run_lock(folder):
        _freeze(plan, folder)
        context = Run(plan, files.sha256_json(plan_document(plan)), folder, prepare(plan, listener.say), listener)
        files.write_json(folder / "resolved.json", _resolved(context), replace=True)
        base = _base(context)
        line, last = base, None
        for index, stage in enumerate(plan.stages):
            line, last = _climb(context, index, stage, line)
            if stage.name == until:
                return
        if last is not None:
            _cool(context, plan.stages[-1], last, line)
        for arm in plan.control:
            assert arm == NO_REPLAY, arm  # the plan refuses others by name
            _control(context, base)


def _freeze(plan: Plan, folder: Path) -> None:
    """Keep the plan in its run folder; an edited plan replaces it, the one before is kept beside it by its hash."""
    path, text = folder / "plan.yaml", plan_yaml(plan)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        before = path.read_bytes()
        files.write_bytes(folder / f"plan-{files.sha256_file(path)[:12]}.yaml", before)
    files.write_text(path, text, replace=True)


def _resolved(context: Run) -> dict[str, Any]:
    plan = context.plan
    return {
        "plan": context.plan_sha256,
        "step_tokens": plan.step_tokens,
        "tokenizer_sha256": context.prepared.tokenizer.sha256,
        "vocab_size": context.prepared.tokenizer.vocab_size,
        "corpora": {
            name: {
                "tokens": corpus.tokens,
                "sources": [{"id": s.id, "name": s.name, "tokens": s.tokens} for s in corpus.sources],
                "holdout_tokens": corpus.holdout_tokens,
                "holdout_text_bytes": corpus.holdout_text_bytes,
            }
            for name, corpus in context.prepared.corpora.items()
        },
    }


def _base(context: Run) -> Line:
    """Stage 1, trained here, or the checkpoint the plan gives."""
    plan = context.plan
    if plan.base.checkpoint is not None:
        end = _given(context)
    else:
        feed = context.feed()
        attempt = base_attempt(plan, feed)
        trained = _train(context, attempt, feed, None, ())
        if trained is None:
            raise WorkFailed("the base diverged: its loss is not a finite number; lower optimizer.lr_max")
        end = trained
    return Line("cookbook", end, None, ((plan.base.corpus, end),))


def _given(context: Run) -> Manifest:
    """The manifest of a base that was trained elsewhere, measured once and kept in the run folder."""
    from keepwarm.backends.native import adopt_base

    return adopt_base(context.plan, context.feed(), context.listener.say)


def _climb(context: Run, index: int, stage: StageSpec, line: Line) -> tuple[Line, Attempt]:
    """Try a stage's candidates in order until one is accepted."""
    shift = _shift(context, stage, line.taught[0][1])
    which, rungs = ladder_for(context.plan, index, shift.grade)
    context.listener.say(f"{stage.name}: shift {shift.words()} -> ladder {which}")
    (context.folder / "arms" / line.arm / stage.name / EXHAUSTED).unlink(missing_ok=True)
    tried: list[Tried] = []
    for number, candidate in enumerate(each for rung in rungs for each in candidates(rung)):
        verdict, attempt = _try(context, stage, line, number, candidate, tried)
        tried.append(Tried(candidate, verdict["outcome"]))
        if verdict["accepted"]:
            assert attempt is not None
            return _accept(context, stage, line, attempt), attempt
    raise _exhausted(context, index, stage, tried)


def _try(
    context: Run, stage: StageSpec, line: Line, number: int, candidate: Candidate, tried: list[Tried]
) -> tuple[Record, Attempt | None]:
    """One candidate: passed over, refused by a guard, or trained and judged. What is on record already stands."""
    folder = context.folder / "arms" / line.arm / stage.name / f"{number:02d}-{candidate.rung}"
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
    reason = skip_reason(candidate, tried)
    if reason is not None:
        return _pass_over(context, folder, candidate, "skipped", reason), None
    feed = context.feed()
    try:
        others = all_manifests(context.folder)
        attempt = stage_attempt(context.plan, stage, feed, line, number, candidate, others)
    except GuardError as error:
        return _pass_over(context, folder, candidate, "refused", f"{error.what}: {error.why}"), None
    if recorded is not None and recorded["outcome"] in ("skipped", "refused"):
        (folder / "verdict.json").unlink()  # it may start now: the plan was mended
    _train(context, attempt, feed, line.end, line.taught)
    verdict = _judged(context, attempt, feed, accept_any=False)
    return verdict, attempt


def _passed(folder: Path) -> bool:
    """True when a later candidate was trained: then what was refused stays refused, else it is looked at afresh."""
    return any(other.name > folder.name and (other / "attempt.json").exists() for other in folder.parent.iterdir())


def _pass_over(context: Run, folder: Path, candidate: Candidate, outcome: str, reason: str) -> Record:
    verdict = {"outcome": outcome, "accepted": False, "label": candidate.label, "reasons": [reason]}
    write_verdict(folder, verdict, replace=True)
    context.listener.judged(None, folder, verdict)
    return verdict


def _train(
    context: Run, attempt: Attempt, feed: Feed, start: Manifest | None, taught: tuple[tuple[str, Manifest], ...]
) -> Manifest | None:
    """Train an attempt to its end unless that is on disk; its last manifest, or None if it diverged."""
    folder = context.folder / attempt.folder
    write_attempt(context.folder, attempt)
    if read_verdict(folder) is None and end_of(folder) is None:
        from keepwarm.backends.native import train

        context.listener.begin(attempt)
        per_byte = {
            name: c.holdout_tokens / c.holdout_text_bytes if c.holdout_text_bytes else None
            for name, c in feed.corpora.items()
        }
        seen = [name for name in context.plan.holdout.files if context.plan.base.checkpoint is not None]
        threads = context.plan.run.threads or os.cpu_count() or 1
        first = header(attempt, taught, per_byte, threads, seen)
        train(context.plan, context.plan_sha256, attempt, first, feed, start, context.listener.record)
    return end_of(folder)


def _judged(context: Run, attempt: Attempt, feed: Feed, *, accept_any: bool) -> Record:
    """The verdict on a trained attempt, with its ledger; written once, then read."""
    folder = context.folder / attempt.folder
    verdict = read_verdict(folder)
    if verdict is None:
        found = judge(read_metrics(folder / "metrics.jsonl"))
        accepted = found.outcome == "recovered" or (accept_any and found.outcome != "diverged")
        verdict = {"label": attempt.label, "accepted": accepted, "attempt": attempt.sha256, **found.as_dict()}
        verdict |= {"fed": _fed(attempt, feed), "warnings": list(attempt.warnings)}
        verdict |= {"control": True} if accept_any else {}
        write_verdict(folder, verdict)
    context.listener.judged(attempt, folder, verdict)
    return verdict


def _fed(attempt: Attempt, feed: Feed) -> list[Mapping[str, Any]]:
    """Asked against fed, by source."""
    roles = {source.id: source for source in attempt.sources}
    rows = ledger(open_stream(attempt, feed), attempt.steps * attempt.global_batch_size)
    return [
        {
            "source": row.name, "corpus": roles[row.source_id].corpus, "role": roles[row.source_id].role,
            "asked_tokens": float(row.asked_tokens), "fed_tokens": row.fed_tokens,
            "epochs_before": float(row.epochs_before), "epochs_after": float(row.epochs_after),
        }
        for row in rows if row.source_id in roles
    ]  # fmt: skip


def _accept(context: Run, stage: StageSpec, line: Line, attempt: Attempt) -> Line:
    """The stage moves the line: its end becomes the next start, and B is filled from what was fed of D_i."""
    end = end_of(context.folder / attempt.folder)
    assert end is not None
    buffer = _fill_buffer(context, stage, line, end) if context.plan.buffer.tokens else None
    return Line(line.arm, end, line.end, (*line.taught, (stage.new, end)), buffer)


def _fill_buffer(context: Run, stage: StageSpec, line: Line, end: Manifest) -> BufferVersion:
    folder, plan = context.folder / "buffer", context.plan
    version = folder / f"v{line.buffer.version + 1 if line.buffer else 1}"
    if version.exists():
        return load_buffer(version)
    corpus = context.prepared.corpora[stage.new]
    fed = [(s, line.end.cursors.get(s.id, 0), end.cursors.get(s.id, 0)) for s in corpus.sources]
    return fill(
        line.buffer, stage=stage.name, corpus=stage.new, fed=fed, budget_tokens=plan.buffer.tokens, seed=plan.seed,
        sequence_length=plan.sequence_length, folder=folder, eod=context.prepared.tokenizer.eod_id,
        stage_tokens=sum(stop - start for _, start, stop in fed) * plan.sequence_length,
    )  # fmt: skip


def _cool(context: Run, stage: StageSpec, trunk: Attempt, line: Line) -> None:
    """The cooldown branch at the end of a line: extra tokens, booked apart, giving a converged model."""
    tokens = context.plan.schedule.cooldown.tokens_of(stage.tokens)
    if not tokens or line.end.phase != "peak":
        return
    feed = context.feed()
    attempt = cooldown_attempt(context.plan, trunk, line, tokens, feed, trunk.number + 1)
    if _train(context, attempt, feed, line.end, ()) is None:
        raise WorkFailed(f"{attempt.folder}: the cooldown diverged")


def _control(context: Run, base: Line) -> None:
    """The no-replay arm: from the same base, each stage continues its own previous one on the new data alone."""
    line, attempt = replace(base, arm=NO_REPLAY), None
    naive = Candidate("naive", "naive", {})
    for stage in context.plan.stages:
        feed = context.feed()
        attempt = stage_attempt(context.plan, stage, feed, line, 0, naive, [])
        if _train(context, attempt, feed, line.end, line.taught) is None:
            raise WorkFailed(f"{attempt.folder}: the control arm diverged")
        _judged(context, attempt, feed, accept_any=True)
        end = end_of(context.folder / attempt.folder)
        assert end is not None
        line = Line(line.arm, end, line.end, (*line.taught, (stage.new, end)))
    assert attempt is not None
    _cool(context, context.plan.stages[-1], attempt, line)


def _shift(context: Run, stage: StageSpec, base: Manifest) -> Shift:
    """The plan's grade, or the measured one: the base's bits per byte on the new corpus over those on D_0."""
    if stage.shift != "auto":
        return Shift(stage.shift, False)
    per_byte = []
    for name in (stage.new, context.plan.base.corpus):
        corpus = context.prepared.corpora[name]
        if not corpus.holdout_text_bytes:
            raise KeepwarmError(
                f"stages.{stage.name}.shift: auto needs the bytes of text in {name}'s holdout, which are not known",
                "bits per byte is what the shift is graded by",
                f"say it yourself: {{name: {stage.name}, shift: strong}} (or weak)",
            )
        per_byte.append(base.evaluation[name]["loss"] * corpus.holdout_tokens / corpus.holdout_text_bytes)
    nats_per_bit = 0.6931471805599453
    return grade(per_byte[0] / nats_per_bit, per_byte[1] / nats_per_bit)


def _exhausted(context: Run, index: int, stage: StageSpec, tried: list[Tried]) -> Exception:
    """Exit 1 with what was tried; exit 2 when nothing of the first stage's ladder could even start."""
    words = "; ".join(f"{each.candidate.label}: {each.outcome}" for each in tried)
    if index == 0 and all(each.outcome in ("refused", "skipped") for each in tried):
        folder = context.folder / "arms/cookbook" / stage.name
        reasons = [read_verdict(path) for path in sorted(folder.iterdir())]
        first = next((r["reasons"][0] for r in reasons if r and r["outcome"] == "refused"), words)
        return KeepwarmError(
            f"stages.{stage.name}: nothing of its ladder can start ({words})", first,
            "mend what the first refusal names, or give the stage another ladder: [...]",
        )  # fmt: skip
    record = {"stage": stage.name, "tried": [{"label": t.candidate.label, "outcome": t.outcome} for t in tried]}
    files.write_json(context.folder / "arms/cookbook" / stage.name / EXHAUSTED, record, replace=True)
    return WorkFailed(f"{stage.name}: the ladder is exhausted, no candidate was accepted ({words})")
