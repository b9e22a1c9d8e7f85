"""Retention: which checkpoints' tensors may be deleted, decided over manifests and the plan alone, with the reason.

Never what a rung of the plan may still need. The ladder of every stage that is not accepted yet is asked, in each grade
that its shift might get, for every LR_max that the line might have by then. How far back a rung reaches from the line's
end is the rung's own function (schedule/introduction.py). The line's end moves on, except where a stage is accepted that
began at an earlier checkpoint, so every later stage is asked from the least tokens that its line can have.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keepwarm.errors import GuardError, PlanError
from keepwarm.lineage.graph import newest_at_peak
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.cookbook import ladder_for
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.plan.rungs import Candidate, candidates
from keepwarm.plan.running import Keep
from keepwarm.schedule.batch import scaled_lr
from keepwarm.schedule.introduction import introduction
from keepwarm.units import lr_of

BASE = -1  # the base's place among the stages
Kept = Iterator[tuple[str, str]]  # a checkpoint's id and why it is kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """An attempt as retention sees it."""

    label: str
    arm: str
    control: bool  # the arm follows no ladder
    stage_name: str
    stage: int | None  # its place in the plan, BASE for the base; None for a stage or arm that the plan does not have
    cooldown: bool  # a cooled branch off the line, not a part of it
    start: str | None
    checkpoints: tuple[Manifest, ...]  # oldest first
    finished: bool  # the last of them is its end
    accepted: bool
    outcome: str | None = None  # None until it is judged
    waiting: bool = False  # for a person's word

    @property
    def words(self) -> str:
        """Its name in a sentence."""
        return f"{self.stage_name} {self.label}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one checkpoint's tensors, and why."""

    checkpoint: Manifest
    keep: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """An arm's accepted attempts, base first, and the place of the first stage that has none."""

    branches: tuple[Branch, ...]
    following: int

    @property
    def end(self) -> Manifest:
        """Its last checkpoint."""
        return self.branches[-1].checkpoints[-1]


def decide(plan: Plan, branches: Sequence[Branch], deleted: Collection[str], policy: Keep) -> list[Decision]:
    """Keep or delete, for every checkpoint of `branches` that is not among the `deleted` yet."""
    everything = [(branch, manifest) for branch in branches for manifest in branch.checkpoints]
    whole = [(branch, manifest) for branch, manifest in everything if manifest.id not in deleted]
    if policy == "all":
        return [Decision(manifest, True, "the plan keeps all") for _, manifest in whole]
    lines = {arm: line for arm in {each.arm for each in branches} if (line := accepted_line(branches, arm)) is not None}
    kept: dict[str, str] = {}
    for identity, reason in _kept(plan, branches, lines, deleted, policy):
        kept.setdefault(identity, reason)
    return [
        Decision(manifest, manifest.id in kept, kept.get(manifest.id) or _unneeded(branch, manifest, lines, policy))
        for branch, manifest in whole
    ]


def _kept(
    plan: Plan, branches: Sequence[Branch], lines: Mapping[str, Accepted], deleted: Collection[str], policy: Keep
) -> Kept:
    """All that is kept; the first reason counts."""
    for branch in branches:
        yield from _of_itself(branch, lines.get(branch.arm))
    for line in lines.values():
        yield line.branches[0].checkpoints[-1].id, "the base"
        yield line.end.id, f"the end of the {line.branches[-1].arm} line"
        yield from _cooled(branches, line)
        if not line.branches[-1].control:
            yield from _reachable(plan, line, deleted)
            if policy == "peak-before-each-cooldown":
                ends = [branch.checkpoints[-1] for branch in line.branches]
                yield from ((end.id, f"the end of {end.stage}, at peak") for end in ends if end.phase == "peak")


def accepted_line(branches: Sequence[Branch], arm: str) -> Accepted | None:
    """The line of an arm, which begins with the base that all share; None before the base is finished."""
    found: list[Branch] = []
    for place in range(BASE, max((each.stage for each in branches if each.stage is not None), default=BASE) + 1):
        of_stage = [each for each in branches if each.stage == place and (each.arm == arm or place == BASE)]
        accepted = [each for each in of_stage if each.accepted and each.finished and not each.cooldown]
        if not accepted:
            break
        found.append(accepted[0])
    return Accepted(tuple(found), BASE + len(found)) if found else None


def _of_itself(branch: Branch, line: Accepted | None) -> Kept:
    """What an attempt's own state keeps."""
    for manifest in branch.checkpoints:
        if manifest.location is not None or Path(manifest.id).is_absolute():
            yield manifest.id, "its tensors lie outside of the run folder"
        elif manifest.phase == "merged":
            yield manifest.id, "merged from others, which may be gone"
        elif branch.stage is None:
            yield manifest.id, f"outside of the plan's stages and arms ({manifest.arm} {manifest.stage})"
        elif line is None:
            yield manifest.id, "the base is not finished"
        elif branch.stage >= line.following:
            yield manifest.id, f"{manifest.stage} is not accepted yet: any of its attempts may still be"
    if not branch.finished and branch.outcome is None:
        if branch.checkpoints:
            yield branch.checkpoints[-1].id, f"{branch.words} is not finished: it goes on from here"
        elif branch.start is not None:
            yield branch.start, f"{branch.words} is not finished: it starts from here"


def _cooled(branches: Sequence[Branch], line: Accepted) -> Kept:
    """The cooled branch off the line's end: what rewarm-converged starts from, and in the end the product."""
    for branch in branches:
        if branch.cooldown and branch.finished and branch.start == line.end.id:
            yield branch.checkpoints[-1].id, "the end of the line, cooled"


def _reachable(plan: Plan, line: Accepted, deleted: Collection[str]) -> Kept:
    """What the ladders of the stages to come may start from, of all that the line has been through."""
    trunk = [m for branch in line.branches for m in branch.checkpoints if m.id not in deleted]
    at_peak = [manifest for manifest in trunk if manifest.phase == "peak" and manifest.optimizer_state]
    lowest_tokens, rates = line.end.line_tokens, {line.end.lr_max, *(manifest.lr for manifest in at_peak)}
    batch = line.end.global_batch_size or plan.global_batch_size
    for index in range(line.following, len(plan.stages)):
        stage, of_stage = plan.stages[index], plan.of_stage(plan.stages[index])
        scale = scaled_lr(1.0, batch, of_stage.global_batch_size, plan.optimizer.lr_scaling or "none")
        rates, batch = {rate * scale for rate in rates}, of_stage.global_batch_size
        ladder, lowest_after = _ladder(plan, index), lowest_tokens
        for candidate in ladder:
            words = f"{stage.name} {candidate.label}"
            if candidate.rung == "merge":
                yield from ((manifest.id, f"{words} may take any checkpoint of the line") for manifest in trunk)
            for back_tokens, tokens in _decays(of_stage, stage, candidate, rates):
                start = newest_at_peak(trunk, lowest_tokens - back_tokens)
                begin_tokens = start.line_tokens if start else 0
                lowest_after = min(lowest_after, begin_tokens + tokens)
                reason = f"{words} may start {back_tokens:,} tokens before the line's end"
                yield from ((manifest.id, reason) for manifest in at_peak if manifest.line_tokens >= begin_tokens)
        lowest_tokens, rates = lowest_after, rates | _rates_after(ladder, rates)


def _ladder(plan: Plan, index: int) -> list[Candidate]:
    """Every candidate a stage may come to try, whatever the grade of its shift."""
    shift = plan.stages[index].shift
    found: list[Candidate] = []
    for grade in ("weak", "strong") if shift == "auto" else (shift,):
        tried = (each for rung in ladder_for(plan, index, grade)[1] for each in candidates(rung))
        found += [each for each in tried if each not in found]
    return found


def _decays(plan: Plan, stage: StageSpec, candidate: Candidate, rates: Collection[float]) -> Iterator[tuple[int, int]]:
    """Of decay-then-introduce: how far before the line's end it starts, and its own length, at each LR_max; tokens."""
    if candidate.rung != "decay-then-introduce":
        return
    for lr_max in rates:
        try:
            schedule, switch_step = introduction(plan, stage, candidate, lr_max)
        except (GuardError, PlanError):
            continue  # so will the rung be refused
        yield switch_step * plan.step_tokens, schedule.tokens


def _rates_after(ladder: Sequence[Candidate], rates: Collection[float]) -> set[float]:
    """Each LR_max a line may have behind a stage, beside what it had: a rewarm's plateau, or where a decay ended."""
    texts = {each.parameters[key] for each in ladder for key in ("lr", "to") if key in each.parameters}
    found = {lr_of(text, rate) for text in texts for rate in rates}
    return {rate for rate in found if 0 < rate < math.inf}


def _unneeded(branch: Branch, manifest: Manifest, lines: Mapping[str, Accepted], policy: Keep) -> str:
    """Why nothing needs a checkpoint any more."""
    line = lines[branch.arm].branches
    if branch.cooldown:
        return (
            "cooled off the line where it no longer ends" if manifest is branch.checkpoints[-1] else "on the way down"
        )
    if branch not in line:
        kept = next(each for each in line if each.stage == branch.stage)
        return f"{branch.outcome or 'not accepted'}; {manifest.stage} went on with {kept.label}"
    if manifest is branch.checkpoints[-1]:
        return f"the {branch.arm} line went on from it" + (
            f", and the policy is {policy}" if not branch.control else ""
        )
    return "on the way; no rung of the plan goes back to it"
