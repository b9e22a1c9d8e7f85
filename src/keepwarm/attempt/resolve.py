"""From what a plan asks and where the line stands to an attempt in exact numbers, past the guards.

Pure: it reads manifests and ledgers that others have opened, and writes nothing. A guard that refuses raises
GuardError; the caller records the candidate as refused and goes on to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from keepwarm.attempt.model import Attempt, EvaluationPlan, FedSource, Judgement, Moments, Optimizer, Part
from keepwarm.attempt.timing import affordable
from keepwarm.blend.buffer import BufferVersion, buffer_sources, outside_kept
from keepwarm.blend.ledger import ledger
from keepwarm.blend.mixture import Mixture, combine
from keepwarm.blend.stream import Segment, Stream
from keepwarm.corpora.prepare import Corpus, Prepared
from keepwarm.corpora.source import Source
from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.errors import GuardError
from keepwarm.lineage import guard
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.plan.rungs import Candidate
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.schedule import Schedule
from keepwarm.units import format_share, parse_lr

BASE, COOLDOWN = "base", "cooldown"


@dataclass(frozen=True, slots=True)
class Line:
    """Where a line of accepted stages stands: its last checkpoint and all that the next stage may draw on."""

    arm: str
    end: Manifest
    begin: Manifest | None  # what the stage that made `end` started from: end - begin = its mix, as recorded
    taught: tuple[tuple[str, Manifest], ...]  # D_0 first: each corpus with the checkpoint that had just been taught it
    buffer: BufferVersion | None = None


@dataclass(frozen=True, slots=True)
class Role:
    """A role of a mix with the sources that play it, by relative weight."""

    name: str
    share: Fraction
    members: Mapping[str, Fraction]


@dataclass(frozen=True, slots=True)
class Feed:
    """Everything an attempt could be fed from: corpora, and by id every source with the corpus it belongs to."""

    tokenizer: Tokenizer
    corpora: Mapping[str, Corpus]
    sources: Mapping[str, tuple[Source, str]]


def feed_of(prepared: Prepared, versions: Sequence[BufferVersion]) -> Feed:
    """All sources of the corpora and of every buffer version."""
    corpora = prepared.corpora
    known = {source.id: (source, corpus.name) for corpus in corpora.values() for source in corpus.sources}
    for version in versions:
        for entry, source in zip(version.entries, buffer_sources(version), strict=True):
            known[source.id] = (source, entry.corpus)
    return Feed(prepared.tokenizer, corpora, known)


def identity(plan: Plan, feed: Feed) -> dict[str, object]:
    """What must be the same in every checkpoint of a line (guard 5); the architecture is checked where it is built."""
    return {
        "tokenizer_sha256": feed.tokenizer.sha256,
        "vocab_size": feed.tokenizer.vocab_size,
        "sequence_length": plan.sequence_length,
    }


def open_stream(attempt: Attempt, feed: Feed) -> Stream:
    """The attempt's order of data."""
    needed = {source.id for source in attempt.sources}
    sources = {name: source for name, (source, _) in feed.sources.items() if name in needed}
    return Stream(attempt.segments, sources, attempt.seed, attempt.sequence_length)


def base_attempt(plan: Plan, feed: Feed) -> Attempt:
    """Stage 1: the base is trained on D_0 alone, warm-up and constant, so that it ends at peak."""
    assert plan.base.tokens is not None
    corpus = feed.corpora[plan.base.corpus]
    steps = _steps(plan, plan.base.tokens)
    tokens = steps * plan.step_tokens
    warmup_tokens = plan.schedule.warmup.tokens_of(plan.base.tokens)
    lr_max = plan.optimizer.lr_max
    if plan.schedule.kind == "cosine":
        schedule = schedules.cosine(lr_max, warmup_tokens, tokens, _lr_min(plan))
    else:
        schedule = schedules.wsd(lr_max, warmup_tokens, tokens)
    roles = [Role("d0", Fraction(1), corpus.weights)]
    start = plan.model.hf if plan.model and plan.model.hf else None
    return _attempt(
        plan, feed, roles, arm="cookbook", stage=BASE, number=0, rung=BASE, label="train the base", new=None, old=(),
        start=start, moments="fresh", schedule=schedule, steps=steps, cursors={}, allow=(),
    )  # fmt: skip


def stage_attempt(
    plan: Plan, stage: StageSpec, feed: Feed, line: Line, number: int, candidate: Candidate, others: Sequence[Manifest]
) -> Attempt:
    """One candidate of a stage's ladder, from the line's end. `others` are named when the start does not qualify."""
    allow = stage.allow
    guard.peak_start(line.end, candidate.label, others, allow, plan.optimizer.lr_max)
    guard.optimizer_state(line.end, candidate.label, allow)
    guard.same_identity(line.end, identity(plan, feed), allow)
    roles = roles_of(candidate, plan, stage, feed, line)
    guard.shares_complete([(role.name, role.share) for role in roles], allow)
    if any(role.name == "buffer" for role in roles) and line.buffer is not None:
        held = {entry.corpus for entry in line.buffer.entries}
        held_out = outside_kept(line.buffer, {name: source for name, (source, _) in feed.sources.items()})
        guard.buffer_clean(held, stage.new, held_out, line.buffer.folder.name, allow)
    steps = _steps(plan, stage.tokens)
    schedule = schedules.constant(plan.optimizer.lr_max, steps * plan.step_tokens)
    warnings = []
    if candidate.mix is not None and candidate.mix[0] == 0:
        holds = ", ".join(entry.corpus for entry in line.buffer.entries) if line.buffer else "nothing"
        warnings.append(f"no D_0 in this mix, and B holds {holds} only: D_0 is forgotten as without replay")
    return _attempt(
        plan, feed, roles, arm=line.arm, stage=stage.name, number=number, rung=candidate.rung, label=candidate.label,
        new=stage.new, old=tuple(name for name, _ in line.taught), start=line.end.id,
        moments="keep" if line.end.optimizer_state else "reset", schedule=schedule, steps=steps,
        cursors=line.end.cursors, allow=allow, warnings=tuple(warnings),
    )  # fmt: skip


def cooldown_attempt(plan: Plan, trunk: Attempt, line: Line, tokens: int, feed: Feed, number: int) -> Attempt:
    """A cooldown branch off the line's end: the trunk's mix goes on while LR falls from LR_max to its minimum."""
    steps = _steps(plan, tokens)
    schedule = schedules.cooldown(
        plan.optimizer.lr_max, steps * plan.step_tokens, plan.schedule.cooldown_shape, _lr_min(plan)
    )
    cursors = tuple(sorted(line.end.cursors.items()))
    return replace(
        trunk, number=number, rung=COOLDOWN, label="cooldown branch", start=line.end.id, moments="keep", steps=steps,
        schedule=schedule, segments=(Segment(0, trunk.segments[-1].mixture, cursors),), new=None, old=(),
        evaluation=EvaluationPlan((), {}), judgement=Judgement({}, 0.0), warnings=(),
    )  # fmt: skip


def roles_of(candidate: Candidate, plan: Plan, stage: StageSpec, feed: Feed, line: Line) -> list[Role]:
    """The mix of a candidate by role (COOKBOOK, "Rungs"). A role with share 0 is left out."""
    d0, new = feed.corpora[plan.base.corpus].weights, feed.corpora[stage.new].weights
    if candidate.rung == "naive":
        return [Role("new", Fraction(1), new)]
    if candidate.share is not None:
        name, members = ("d0", d0) if candidate.rung == "replay" else ("previous", recorded_mix(line, d0))
        return [Role(name, candidate.share, members), Role("new", 1 - candidate.share, new)]
    assert candidate.mix is not None, candidate.rung
    alpha_0, alpha_new, alpha_buffer = candidate.mix
    roles = [Role("d0", alpha_0, d0), Role("new", alpha_new, new)]
    if alpha_buffer:
        if line.buffer is None:
            raise GuardError(
                "buffer-clean",
                f"{candidate.label} asks {format_share(alpha_buffer)} of the buffer B, which is empty",
                "B holds samples of D_1 and later, put there after their stages were accepted; none was yet",
                "use a rung without B here: replay, replay-previous-mix",
            )
        weights = {s.id: Fraction(s.tokens) for s in buffer_sources(line.buffer)}
        roles.append(Role("buffer", alpha_buffer, weights))
    return [role for role in roles if role.share]


def recorded_mix(line: Line, d0: Mapping[str, Fraction]) -> Mapping[str, Fraction]:
    """D_{i-1}^CPT: the sources the line's last stage was really fed, weighed by tokens; D_0 where there is no record."""
    before = line.begin.source_tokens if line.begin else {}
    fed = {source: tokens - before.get(source, 0) for source, tokens in line.end.source_tokens.items()}
    return {source: Fraction(tokens) for source, tokens in fed.items() if tokens > 0} or d0


def _attempt(
    plan: Plan, feed: Feed, roles: Sequence[Role], *, arm: str, stage: str, number: int, rung: str, label: str,
    new: str | None, old: tuple[str, ...], start: str | None, moments: Moments, schedule: Schedule, steps: int,
    cursors: Mapping[str, int], allow: tuple[str, ...], warnings: tuple[str, ...] = (),
) -> Attempt:  # fmt: skip
    mixture = combine([(role.share, role.members) for role in roles])
    attempt = Attempt(
        arm=arm, stage=stage, number=number, rung=rung, label=label, new=new, old=old, start=start, moments=moments,
        parts=tuple(Part(role.name, role.share) for role in roles), sources=_fed_sources(mixture, roles, feed),
        segments=(Segment(0, mixture, tuple(sorted(cursors.items()))),), schedule=schedule,
        optimizer=Optimizer(plan.optimizer.betas, plan.optimizer.eps, plan.optimizer.weight_decay, plan.optimizer.clip),
        seed=plan.seed, sequence_length=plan.sequence_length, global_batch_size=plan.global_batch_size,
        micro_batch_size=plan.micro_batch_size or plan.global_batch_size, steps=steps,
        max_epochs=Fraction(plan.max_epochs), evaluation=_evaluation(plan, feed, steps, new, old),
        judgement=_judgement(plan, old), model=_model_words(plan), tokenizer_sha256=feed.tokenizer.sha256,
        vocab_size=feed.tokenizer.vocab_size, allow=allow, warnings=warnings,
    )  # fmt: skip
    rows = ledger(open_stream(attempt, feed), steps * plan.global_batch_size)
    repeated = guard.within_epochs(rows, attempt.max_epochs, allow)
    return replace(attempt, warnings=(*warnings, *repeated))


def _fed_sources(mixture: Mixture, roles: Sequence[Role], feed: Feed) -> tuple[FedSource, ...]:
    role_of = {source: role.name for role in reversed(roles) for source in role.members}
    return tuple(
        FedSource(source, feed.sources[source][0].name, feed.sources[source][1], role_of[source])
        for source, _ in mixture.weights
    )


def _evaluation(plan: Plan, feed: Feed, steps: int, new: str | None, old: Sequence[str]) -> EvaluationPlan:
    windows = {n: (c.holdout_tokens - 1) // plan.sequence_length for n, c in feed.corpora.items()}
    watched = [*old, new] if new else [plan.base.corpus]
    points, size = affordable(steps, plan.step_tokens, plan.sequence_length, windows, watched)
    if plan.verdict.evaluate_every != "auto":
        every = max(1, round(int(plan.verdict.evaluate_every) / plan.step_tokens))
        points = tuple(range(every, steps, every))
        size = size or {name: windows[name] for name in watched}
    return EvaluationPlan(points, size)


def _judgement(plan: Plan, old: Sequence[str]) -> Judgement:
    tolerances = {name: plan.verdict.tolerance_of(name) for name in old}
    return Judgement({name: (float(t.value), t.unit) for name, t in tolerances.items()}, float(plan.verdict.adaptation))


def _model_words(plan: Plan) -> Mapping[str, Any]:
    if plan.model is None:
        return {"checkpoint": plan.base.checkpoint}
    return {"hf": plan.model.hf} if plan.model.hf else {"config": dict(plan.model.config or {})}


def _steps(plan: Plan, tokens: int) -> int:
    """Whole optimizer steps that feed at least `tokens`."""
    return -(-tokens // plan.step_tokens)


def _lr_min(plan: Plan) -> float:
    text = plan.schedule.lr_min
    return 0.0 if str(text) in ("0", "0.0") else parse_lr(text, plan.optimizer.lr_max)
