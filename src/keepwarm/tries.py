"""A candidate of a ladder as it is tried: where it lies, what it may cost, resolved past the guards, and trained."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from keepwarm.attempt.candidates import resolve
from keepwarm.attempt.line import COOLDOWN, Line
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.planned import candidate_schedule
from keepwarm.attempt.progress import attempts_of
from keepwarm.attempt.records import allowed_before
from keepwarm.attempt.resolve import Request
from keepwarm.attempt.retained import deleted_of, recorded_start
from keepwarm.attempt.settle import settle_attempt
from keepwarm.attempt.timing import COMPUTE_SHARE, FORWARD_COST
from keepwarm.branches import converged
from keepwarm.errors import KeepwarmError
from keepwarm.evaluate.references import CooldownDrop, cooldown_drop
from keepwarm.lineage.deletion import refuse_deleted
from keepwarm.lineage.graph import all_manifests
from keepwarm.lineage.guard import CONVERGED
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.model import StageSpec, allowing
from keepwarm.plan.rungs import Candidate
from keepwarm.strategy.ladder import TRAINABLE
from keepwarm.work import Run, train


@dataclass(frozen=True, slots=True)
class Try:
    """One candidate at its place in a stage's ladder, from where the line stands."""

    stage: StageSpec
    line: Line
    number: int
    candidate: Candidate
    best_replay: Fraction | None = None  # of the replay candidates tried before, the one that forgot least

    @property
    def folder(self) -> str:
        """Where its attempt lies in the run folder."""
        return f"arms/{self.line.arm}/{self.stage.name}/{self.number:02d}-{self.candidate.rung}"


def past_guards(context: Run, asked: Try) -> tuple[Attempt, Manifest, Manifest | None]:
    """The attempt, its start, and the line's end cooled where the attempt starts from that: trained once, if need be."""
    cooled = converged(context, asked.line) if asked.candidate.rung == "rewarm-converged" else None
    attempt, start = guarded(context, asked, cooled)
    return attempt, start, cooled


def guarded(context: Run, asked: Try, cooled: Manifest | None) -> tuple[Attempt, Manifest]:
    """The attempt and its start; `cooled`: the line's end converged, of a rung that starts from that."""
    line, folder = asked.line, context.folder / asked.folder
    trunk = [manifest for manifest in all_manifests(context.folder) if manifest.attempt in line.attempts]
    recorded, stage = recorded_start(folder), allowing(asked.stage, allowed_before(folder))
    deleted = deleted_of(context.folder, trunk) - {recorded}  # what an attempt started from is its start for good
    request = Request(
        context.plan, stage, context.feed(), line, asked.number, asked.candidate, trunk, cooled, asked.best_replay, deleted
    )  # fmt: skip
    attempt, start = resolve(request)
    if recorded is None:
        refuse_deleted(context.folder / start.id)
    return attempt, start


def resolved(context: Run, asked: Try) -> tuple[Attempt, Manifest, CooldownDrop | None]:
    """The attempt, its start, and what a cooldown of the line's end buys where the attempt will end cooled."""
    attempt, start, cooled = past_guards(context, asked)
    line = asked.line
    if attempt.schedule.phase(attempt.tokens) != "cooled" or line.end.phase in CONVERGED:
        return attempt, start, None
    return attempt, start, cooldown_drop(line.end, cooled or converged(context, line))


def trained(context: Run, asked: Try, attempt: Attempt, start: Manifest, drop: CooldownDrop | None) -> Attempt:
    """The attempt as it is on disk, trained to its end or to where it was stopped early."""
    settled = settle_attempt(context.plan, attempt)
    train(context, settled, context.feed(), start, asked.line, drop, early=True)
    return settled


def cost_tokens(context: Run, stage: StageSpec, line: Line, candidate: Candidate) -> int:
    """The most that a candidate may cost: its tokens, held-out ones at a third, and the cooldown branches it needs.

    0 of one that is never trained. What it may share with others, and an early stop, only make it cheaper.
    """
    if candidate.rung not in TRAINABLE:
        return 0
    own, cooled = context.plan.of_stage(stage), line.end.phase in CONVERGED
    try:
        schedule = candidate_schedule(own, stage, candidate, line.end.lr_max, cooled=cooled)
    except KeepwarmError:
        return 0  # so will the rung be refused
    tokens, cooldown = schedule.tokens, context.plan.schedule.cooldown
    if candidate.rung == "balance":
        tokens += cooldown.tokens_of(tokens)
    elif schedule.phase(schedule.tokens) == "cooled" and not cooled and not _has_cooldown(context, line):
        tokens += cooldown.tokens_of(line.end.attempt_tokens)
    return tokens + round(_measured_tokens(context, schedule.tokens) * FORWARD_COST)


def _has_cooldown(context: Run, line: Line) -> bool:
    found = attempts_of(context.folder, line.arm, line.end.stage)
    return any(each.rung == COOLDOWN and recorded_start(each.folder) == line.end.id for each in found)


def _measured_tokens(context: Run, tokens: int) -> float:
    """The most held-out tokens that evaluations of an attempt measure (attempt/timing.py)."""
    corpora, every = context.feed().corpora.values(), context.plan.verdict.evaluate_every
    everything = sum(corpus.holdout_tokens for corpus in corpora)
    if every != "auto":
        return everything * (2 + tokens / int(every))
    return max(float(everything), tokens * COMPUTE_SHARE / FORWARD_COST) + everything
