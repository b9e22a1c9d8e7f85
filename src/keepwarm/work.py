"""The steps of the story: train an attempt, judge it, fill B, grade a shift.

Each looks at the run folder first: what is done there is read, not repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from keepwarm import files
from keepwarm.attempt.base import base_attempt
from keepwarm.attempt.kept import Row, resumed, started
from keepwarm.attempt.line import BASE, COOKBOOK, Feed, Line, cursors_at, feed_of, open_stream, threads_for
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.progress import end_of
from keepwarm.attempt.records import (
    MetricsWriter,
    Record,
    allowed_before,
    read_metrics,
    read_verdict,
    write_verdict,
)
from keepwarm.attempt.settle import settle_attempt
from keepwarm.blend.buffer import BufferVersion, fill, load_buffer
from keepwarm.blend.ledger import ledger
from keepwarm.corpora.prepare import Prepared
from keepwarm.corpora.scores import read_scores
from keepwarm.errors import KeepwarmError, WorkFailed
from keepwarm.evaluate.references import CooldownDrop, header
from keepwarm.lineage.manifest import Manifest, checkpoints_of, read_manifest
from keepwarm.plan.load import plan_yaml
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.strategy.shift import Shift, grade
from keepwarm.strategy.verdict import judge
from keepwarm.strategy.watch import watch

NO_REPLAY = "no-replay"
CONTROL_POLL_SECONDS = 0.2
Approve = Literal["never", "each-stage", "each-rung"]


class Listener(Protocol):
    """Who is told what happens. Implemented by report.terminal; a test passes a list."""

    def say(self, text: str) -> None:
        """One line for people."""

    def begin(self, attempt: Attempt, table: Sequence[Row]) -> None:
        """An attempt is about to be trained, or goes on; `table` is what it keeps and what is new."""

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
    approve: Approve = "never"
    control_failed: Callable[[], bool] | None = None  # asked while the no-replay arm is waited for; None: there is none
    keeps_plan: bool = True  # in the run folder, once something is begun under it; a branch leaves the run's own there

    def feed(self) -> Feed:
        """Every source there is: the corpora's, and those of each version of B that is on disk."""
        found = (path for path in (self.folder / "buffer").glob("v*") if path.name[1:].isdigit())
        return feed_of(self.prepared, [load_buffer(path) for path in sorted(found)])


def keep_plan(context: Run) -> None:
    """Keep the plan and its numbers in the run folder, when something is begun under it: one that is refused leaves
    those before. An edited plan replaces what is there; the one before is kept beside it by its hash."""
    folder, text = context.folder, plan_yaml(context.plan)
    path = folder / "plan.yaml"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        files.write_bytes(folder / f"plan-{files.sha256_file(path)[:12]}.yaml", path.read_bytes())
    files.write_text(path, text, replace=True)
    files.write_json(folder / "resolved.json", resolved(context), replace=True)


def resolved(context: Run) -> dict[str, Any]:
    """The plan's corpora in exact numbers, for `resolved.json`."""
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
                "left_out": asdict(corpus.left_out),
            }
            for name, corpus in context.prepared.corpora.items()
        },
        "duplicates_of_held_out_documents": list(context.prepared.duplicates),
    }


def given_base(context: Run) -> Manifest:
    """The manifest of a base that was trained elsewhere, measured once and kept in the run folder."""
    from keepwarm.backends.native import adopt_base

    return adopt_base(context.plan, context.feed(), context.listener.say)


def train(
    context: Run, attempt: Attempt, feed: Feed, start: Manifest | None, line: Line | None,
    drop: CooldownDrop | None = None, *, early: bool = False,
) -> Manifest | None:  # fmt: skip
    """Train a settled attempt to its end unless that is on disk; its last manifest, or None if it did not get there."""
    folder = context.folder / attempt.folder
    if read_verdict(folder) is None and end_of(folder) is None:
        from keepwarm.backends import native

        if context.keeps_plan:
            keep_plan(context)
        saved, table = checkpoints_of(folder), started(attempt, start)
        context.listener.begin(attempt, resumed(attempt, read_manifest(saved[-1])) if saved else table)
        per_byte = {
            name: c.holdout_tokens / c.holdout_text_bytes if c.holdout_text_bytes else None
            for name, c in feed.corpora.items()
        }
        seen = [name for name in context.plan.holdout.files if context.plan.base.checkpoint is not None]
        threads = threads_for(context.plan, attempt.stage)
        taught = line.taught if line else ()
        first = header(attempt, taught, line.end if line else None, drop, per_byte, threads, seen)
        first["kept"] = [row.as_dict() for row in table]
        tell = context.listener.record
        native.train(context.plan, context.plan_sha256, attempt, first, feed, start, tell, watch if early else None)
    return end_of(folder)


def judged(context: Run, attempt: Attempt, feed: Feed, *, accept_any: bool) -> Record:
    """The verdict on a trained attempt, with its ledger; written once, then read."""
    folder = context.folder / attempt.folder
    verdict = read_verdict(folder)
    if verdict is None:
        if not accept_any:
            _record_control(context, attempt)
        found = judge(read_metrics(folder / "metrics.jsonl"))
        accepted = found.outcome == "recovered" or (accept_any and found.outcome != "diverged")
        verdict = {"label": attempt.label, "accepted": accepted, "attempt": attempt.sha256, **found.as_dict()}
        verdict |= {"fed": _fed(attempt, feed), "warnings": list(attempt.warnings)}
        verdict |= {"control": True} if accept_any else {}
        write_verdict(folder, verdict)
    context.listener.judged(attempt, folder, verdict)
    return verdict


def _record_control(context: Run, attempt: Attempt) -> None:
    """Put into the metrics how far the no-replay control came with the new corpus, once it is there: for the verdict."""
    path = context.folder / attempt.folder / "metrics.jsonl"
    records = read_metrics(path)
    before = records[0]["adaptation"]["before_at_peak"]
    if context.control_failed is None or before is None or any(r.get("event") == "control" for r in records):
        return
    control = context.folder / "arms" / NO_REPLAY / attempt.stage / "00-naive"
    while (end := end_of(control) if (control / "attempt.json").exists() else None) is None:
        if context.control_failed():
            raise WorkFailed(f"the control arm {NO_REPLAY} did not come to its end; what it said is above")
        time.sleep(CONTROL_POLL_SECONDS)
    gain = before - end.evaluation[str(attempt.new)]["loss"]
    writer = MetricsWriter(path)
    at = {"step": records[-1]["step"], "tokens": records[-1]["tokens"]}
    text = f"{attempt.new}: the no-replay control came {gain:.3f} nats below where this attempt started"
    writer.write({"kind": "event", **at, "event": "control", "gain": gain, "checkpoint": end.id, "text": text})
    writer.close()


def _fed(attempt: Attempt, feed: Feed) -> list[Mapping[str, Any]]:
    """Asked against fed, by source."""
    roles = {source.id: source for source in attempt.sources}
    rows = ledger(open_stream(attempt, feed), attempt.batches.samples(attempt.steps))
    return [
        {
            "source": row.name, "corpus": roles[row.source_id].corpus, "role": roles[row.source_id].role,
            "asked_tokens": float(row.asked_tokens), "fed_tokens": row.fed_tokens,
            "repeated_tokens": row.repeated_samples * attempt.sequence_length,
            "epochs_before": float(row.epochs_before), "epochs_after": float(row.epochs_after),
        }
        for row in rows if row.source_id in roles
    ]  # fmt: skip


def fill_buffer(context: Run, stage: StageSpec, line: Line, begin: Manifest, end: Manifest) -> BufferVersion:
    """The next version of B, with what the stage was fed of its new corpus; made once."""
    folder, plan = context.folder / "buffer", context.plan
    version = folder / f"v{line.buffer.version + 1 if line.buffer else 1}"
    if version.exists():
        return load_buffer(version)
    sources = context.prepared.corpora[stage.new].sources
    before = cursors_at(begin, plan.sequence_length)
    cursors = [(source, before.get(source.id, 0), end.cursors.get(source.id, 0)) for source in sources]
    fed = [each for each in cursors if each[2] > each[1]]
    scores = dict(zip([source.id for source in sources], scores_of(context, stage), strict=False))
    return fill(
        line.buffer, stage=stage.name, corpus=stage.new, fed=fed, budget_tokens=plan.buffer.tokens, seed=plan.seed,
        sequence_length=plan.sequence_length, folder=folder, eod=context.prepared.tokenizer.eod_id,
        stage_tokens=sum(stop - start for _, start, stop in fed) * plan.sequence_length, policy=plan.buffer.policy,
        scores=[scores[source.id] for source, _, _ in fed] if scores else None,
    )  # fmt: skip


def scores_of(context: Run, stage: StageSpec) -> tuple[NDArray[np.float64], ...]:
    """The scores of the stage's new corpus, by source; none where the policy uses none."""
    paths = context.plan.buffer.scores.get(stage.new)
    return read_scores(stage.new, paths, context.prepared.corpora[stage.new].sources) if paths else ()


def end_manifest(context: Run, attempt: Attempt) -> Manifest:
    """The manifest at the end of a finished attempt."""
    end = end_of(context.folder / attempt.folder)
    assert end is not None, f"{attempt.folder} was accepted before its end"
    return end


def start_of(context: Run, attempt: Attempt, line: Line) -> Manifest:
    """The manifest an attempt started from: the line's end, or an earlier or cooled checkpoint."""
    if attempt.start == line.end.id:
        return line.end
    return read_manifest(context.folder / str(attempt.start))


def measured_shift(context: Run, stage: StageSpec, base: Manifest) -> Shift:
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


def base_line(context: Run) -> Line:
    """Stage 1, trained here, or the checkpoint the plan gives."""
    plan = context.plan
    if plan.base.checkpoint is not None:
        end = given_base(context)
    else:
        feed = context.feed()
        allowed = allowed_before(context.folder / "arms" / COOKBOOK / BASE / f"00-{BASE}")
        attempt = settle_attempt(plan, base_attempt(plan.allowing(allowed, BASE), feed))
        trained = train(context, attempt, feed, None, None)
        if trained is None:
            raise WorkFailed("the base diverged: its loss is not a finite number; lower optimizer.lr_max")
        end = trained
    return Line("cookbook", end, None, ((plan.base.corpus, end),), None, frozenset({end.attempt}))
