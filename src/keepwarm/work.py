"""The steps of the story: train an attempt, judge it, fill B.

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
from keepwarm.attempt.line import (
    BASE,
    COOKBOOK,
    Feed,
    Line,
    cursors_at,
    feed_of,
    identity,
    open_stream,
    threads_for,
)
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.passed_over import broken_words
from keepwarm.attempt.progress import end_of
from keepwarm.attempt.records import (
    MetricsWriter,
    Record,
    Watch,
    allowed_before,
    read_metrics,
    read_verdict,
    write_verdict,
)
from keepwarm.attempt.settle import settle_attempt
from keepwarm.attempt.shared import take_over
from keepwarm.attempt.steered import as_fed
from keepwarm.blend.buffer import BufferVersion, fill, load_buffer, load_buffers
from keepwarm.blend.ledger import ledger
from keepwarm.corpora.generated import MakeSampler, Sampler
from keepwarm.corpora.prepare import Prepared
from keepwarm.corpora.scores import read_scores
from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.errors import PlanError, WorkFailed
from keepwarm.evaluate.control import control_curve
from keepwarm.evaluate.references import CooldownDrop, gain_of_control, header, more_of_d0
from keepwarm.exits import ToSubmit
from keepwarm.lineage.manifest import Manifest, checkpoints_of, read_manifest
from keepwarm.plan.corpus import GenerateSpec
from keepwarm.plan.load import plan_yaml
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.strategy.thermostat import steered
from keepwarm.strategy.verdict import judge
from keepwarm.strategy.watch import watch

NO_REPLAY, D0_ONLY = "no-replay", "d0-only"
CONTROL_RUNGS = {NO_REPLAY: "naive", D0_ONLY: "d0-only"}  # what each control arm does at every stage
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
    control_failed: Callable[[], bool] | None = None  # asked while a control arm is waited for; None: none runs beside
    submit: bool = False  # on a cluster: submit what is launched
    keeps_plan: bool = True  # in the run folder, once something is begun under it; a branch leaves the run's own there

    def feed(self) -> Feed:
        """Every source there is: the corpora's, and those of each version of B that is on disk."""
        return feed_of(self.prepared, load_buffers(self.folder / "buffer"))


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
                "stand_in": corpus.stand_in,
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


def sampler_of(plan: Plan) -> MakeSampler:
    """What makes the writer of a plan's generated corpus: its base, loaded when it is needed."""

    def make(spec: GenerateSpec, tokenizer: Tokenizer) -> Sampler:
        from keepwarm.backends.writer import Writer

        return Writer(plan, spec, tokenizer)

    return make


def given_base(context: Run) -> Manifest:
    """The manifest of a base that was trained elsewhere, measured once and kept in the run folder."""
    if context.plan.run.backend == "megatron":
        from keepwarm.backends.megatron.given_base import adopt_base

        keep_plan(context)  # the evaluation job reads it
        return adopt_base(context.plan, context.feed(), context.listener.say)
    from keepwarm.backends import native

    return native.adopt_base(context.plan, context.feed(), context.listener.say)


def train(
    context: Run, attempt: Attempt, feed: Feed, start: Manifest | None, line: Line | None,
    drop: CooldownDrop | None = None, *, early: bool = False,
) -> Manifest | None:  # fmt: skip
    """Train a settled attempt to its end unless that is on disk; its last manifest, or None if it did not get there.

    On a cluster it is launched, and its logs are looked at: raises ToSubmit while jobs have still to run.
    """
    folder = context.folder / attempt.folder
    if read_verdict(folder) is None and end_of(folder) is None:
        watching = watch if early else steered if attempt.steering else None  # steered it is, whoever trains it
        trainer = _train_by_jobs if context.plan.run.backend == "megatron" else _train_here
        trainer(context, attempt, feed, start, first_record(context, attempt, feed, start, line, drop), watching)
    return end_of(folder)


def first_record(
    context: Run, attempt: Attempt, feed: Feed, start: Manifest | None, line: Line | None, drop: CooldownDrop | None
) -> Record:
    """The header of an attempt's metrics, but for how it is computed."""
    per_byte = {
        name: c.holdout_tokens / c.holdout_text_bytes if c.holdout_text_bytes else None
        for name, c in feed.corpora.items()
    }
    seen = [name for name in context.plan.holdout.files if context.plan.base.checkpoint is not None]
    threads = threads_for(context.plan, attempt.stage)
    taught = line.taught if line else ()
    first = header(attempt, taught, line.end if line else None, drop, per_byte, threads, seen)
    first["stand_in"] = dict(context.plan.stand_ins)
    first["kept"] = [row.as_dict() for row in started(attempt, start)]
    curve = control_curve(_without_replay(context, attempt), attempt)
    first["adaptation"] |= {"control": curve} if curve is not None else {}
    return first


def _train_here(
    context: Run, attempt: Attempt, feed: Feed, start: Manifest | None, first: Record, watching: Watch | None
) -> None:
    from keepwarm.backends import native

    how = native.computing(context.plan, attempt, start, context.listener.say)  # refuses what this run can't go on with
    if context.keeps_plan:
        keep_plan(context)
    saved = checkpoints_of(context.folder / attempt.folder)
    table = resumed(attempt, read_manifest(saved[-1])) if saved else started(attempt, start)
    context.listener.begin(attempt, table)
    first |= how.to_dict()
    shared = take_over(context.folder, attempt, first, context.plan_sha256, start)
    if shared is not None:
        context.listener.record(shared)
    native.train(context.plan, context.plan_sha256, attempt, first, feed, start, how, context.listener.record, watching)


def _train_by_jobs(
    context: Run, attempt: Attempt, feed: Feed, start: Manifest | None, first: Record, watching: Watch | None
) -> None:
    from keepwarm.backends.megatron.by_jobs import bring_on
    from keepwarm.backends.megatron.observe import Asked

    if context.keeps_plan:
        keep_plan(context)
    listener = context.listener
    bring_on(
        Asked(
            run_folder=context.folder, plan_sha256=context.plan_sha256, attempt=attempt, header=first, start=start,
            feed=feed, identity=identity(context.plan, feed),
        ), context.plan, listener.say, lambda: listener.begin(attempt, started(attempt, start)), watching,
        submitting=context.submit,
    )  # fmt: skip


def _without_replay(context: Run, attempt: Attempt) -> list[Path]:
    """Attempts that teach the same data alone: the control arm's, then those of the stage's own ladder."""
    arms = context.folder / "arms"
    own = sorted((context.folder / attempt.folder).parent.glob(f"*-{CONTROL_RUNGS[NO_REPLAY]}"))
    return [arms / NO_REPLAY / attempt.stage / f"00-{CONTROL_RUNGS[NO_REPLAY]}", *own]


def judged(context: Run, attempt: Attempt, feed: Feed, *, accept_any: bool = False, compared: bool = False) -> Record:
    """The verdict on a trained attempt, with its ledger; written once, then read.

    `accept_any`: of a control arm, accepted unless it diverged. `compared`: of a search for the best, which accepts one
    when all are judged.
    """
    folder = context.folder / attempt.folder
    verdict = read_verdict(folder)
    if verdict is None:
        if not accept_any:
            _record_controls(context, attempt)
        records = read_metrics(folder / "metrics.jsonl")
        found = judge(records)
        accepted = (found.outcome == "recovered" and not compared) or (accept_any and found.outcome != "diverged")
        verdict = {"label": attempt.label, "accepted": accepted, "attempt": attempt.sha256, **found.as_dict()}
        verdict |= {"fed": _fed(as_fed(attempt, records), feed, found.step), "warnings": list(attempt.warnings)}
        verdict |= {"control": True} if accept_any else {}
        write_verdict(folder, verdict)
    context.listener.judged(attempt, folder, verdict)
    return verdict


def _record_controls(context: Run, attempt: Attempt) -> None:
    """Put into the metrics what the control arms say of an attempt, once they are there: for the verdict.

    no-replay: how far it came with the new corpus. d0-only: the old corpora's losses where more D_0 alone came, of an
    attempt that has come to its end (one that was stopped has no equal there).
    """
    if context.control_failed is None:
        return
    path, end = context.folder / attempt.folder / "metrics.jsonl", end_of(context.folder / attempt.folder)
    records = read_metrics(path)
    told = {record["event"] for record in records if record["kind"] == "event"}
    at = {"kind": "event", "step": records[-1]["step"], "tokens": records[-1]["tokens"]}
    found: list[Record] = []
    before = records[0]["adaptation"]["before_at_peak"]
    if NO_REPLAY in context.plan.control and before is not None and "control" not in told:
        found.append(gain_of_control(records[0], _control_end(context, NO_REPLAY, attempt.stage)))
    if D0_ONLY in context.plan.control and end is not None and "regret" not in told:
        found.append(more_of_d0(records[0], end, _control_end(context, D0_ONLY, attempt.stage)))
    writer = MetricsWriter(path)
    for event in found:
        writer.write({**at, **event})
    writer.close()


def _control_end(context: Run, arm: str, stage: str) -> Manifest:
    """Where a control arm came at a stage; waits for it while it runs beside."""
    folder = context.folder / "arms" / arm / stage / f"00-{CONTROL_RUNGS[arm]}"
    while (end := end_of(folder) if (folder / "attempt.json").exists() else None) is None:
        if context.plan.run.backend == "megatron":
            raise ToSubmit(
                f"{stage} waits for the control arm {arm}, whose jobs are named above", ("keepwarm run PLAN",)
            )
        if context.control_failed is not None and context.control_failed():
            raise WorkFailed(f"the control arm {arm} did not come to its end; what it said is above")
        time.sleep(CONTROL_POLL_SECONDS)
    return end


def _fed(attempt: Attempt, feed: Feed, step: int) -> list[Mapping[str, Any]]:
    """Asked against fed, by source, up to `step`: an attempt that was stopped was not fed the rest."""
    roles = {source.id: source for source in attempt.sources}
    rows = ledger(open_stream(attempt, feed), attempt.batches.samples(step))
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
            why = broken_words(read_metrics(context.folder / attempt.folder / "metrics.jsonl"))
            raise WorkFailed(f"the base diverged: {why}; where no document is to blame, lower optimizer.lr_max")
        end = trained
    for name in plan.evaluation:
        if name not in end.evaluation:
            raise PlanError(
                f"evaluation.{name}: the base {end.id} was not measured on it",
                "its loss at the base is the reference that forgetting is measured from",
                f"leave {name} out, or start anew with it: run: {{folder: ...}}",
            )
    taught = tuple((name, end) for name in plan.known_by_base)
    return Line("cookbook", end, None, taught, None, frozenset({end.attempt}))
