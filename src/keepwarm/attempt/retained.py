"""A run folder as retention sees it, and the deleting itself (lineage/retention.py decides)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from keepwarm.attempt.line import ADOPTED, BASE, COOKBOOK, COOLDOWN
from keepwarm.attempt.progress import Progress, attempts_of
from keepwarm.attempt.records import attempt_in
from keepwarm.lineage.deletion import bytes_of, delete, deletion_of
from keepwarm.lineage.manifest import Manifest, checkpoints_of, read_manifest
from keepwarm.lineage.retention import Branch, Decision, decide
from keepwarm.plan.model import Plan
from keepwarm.plan.running import Keep
from keepwarm.units import format_bytes


def recorded_start(folder: Path) -> str | None:
    """What an attempt starts from, once it is settled."""
    made = attempt_in(folder)
    return made.start if made is not None else None


@dataclass(frozen=True, slots=True)
class Scope:
    """What a run folder holds: its stages with what each teaches, the base first, and its control arms."""

    name: str
    folder: Path
    stages: tuple[tuple[str, str], ...]
    control: tuple[str, ...]
    global_batch_size: int


def scope_of(plan: Plan) -> Scope:
    """A plan's run folder."""
    stages = ((BASE, plan.called(plan.base.corpus)), *((stage.name, stage.new) for stage in plan.stages))
    return Scope(plan.name, Path(plan.run.folder), stages, plan.control, plan.global_batch_size)


def branches_of(scope: Scope) -> list[Branch]:
    """Every attempt in the run folder, those of stages and arms that the plan no longer has included."""
    folders = sorted(path for path in (scope.folder / "arms").glob("*/*") if path.is_dir())
    return [
        _branch(scope, folder.parent.name, folder.name, progress)
        for folder in folders
        for progress in attempts_of(scope.folder, folder.parent.name, folder.name)
    ]


def _branch(scope: Scope, arm: str, stage: str, progress: Progress) -> Branch:
    places = {name: place for place, (name, _) in enumerate(scope.stages, start=-1)}
    given = (progress.folder / "manifest.json").exists()  # a base that was trained elsewhere
    whole = given or progress.rung == ADOPTED  # what others trained and nothing here goes on with
    saved = [progress.folder] if given else checkpoints_of(progress.folder)
    cooldown = progress.rung == COOLDOWN
    return Branch(
        label=progress.label,
        arm=arm,
        control=arm != COOKBOOK,
        stage_name=stage,
        stage=places.get(stage) if arm in (COOKBOOK, *scope.control) else None,
        cooldown=cooldown,
        start=recorded_start(progress.folder),
        checkpoints=tuple(read_manifest(path) for path in saved),
        finished=whole or (bool(progress.steps) and progress.step == progress.steps),
        accepted=progress.accepted or whole or (stage == BASE and not cooldown),
        outcome=progress.outcome,
        waiting=progress.waiting,
    )


def deleted_of(run_folder: Path, manifests: Sequence[Manifest]) -> set[str]:
    """Ids of the checkpoints whose tensors were deleted."""
    return {manifest.id for manifest in manifests if deletion_of(Path(run_folder) / manifest.id)}


def decisions_of(plan: Plan, policy: Keep) -> list[Decision]:
    """Keep or delete, for every checkpoint of the run that is not deleted yet."""
    branches = branches_of(scope_of(plan))
    manifests = [manifest for branch in branches for manifest in branch.checkpoints]
    return decide(plan, branches, deleted_of(Path(plan.run.folder), manifests), policy)


def half_deleted(plan: Plan) -> Iterator[tuple[Path, Manifest]]:
    """Checkpoints that are recorded as deleted and still have tensors: a kill came in between."""
    for branch in branches_of(scope_of(plan)):
        for manifest in branch.checkpoints:
            folder = Path(plan.run.folder) / manifest.id
            if deletion_of(folder) and bytes_of(folder, manifest.files):
                yield folder, manifest


def prune(plan: Plan, decisions: Sequence[Decision]) -> int:
    """Carry out the decisions, and finish what a kill interrupted; returns the bytes freed. The caller has the lock."""
    freed = sum(delete(folder, manifest.files, "") for folder, manifest in half_deleted(plan))
    for decision in decisions:
        if not decision.keep:
            folder = Path(plan.run.folder) / decision.checkpoint.id
            freed += delete(folder, decision.checkpoint.files, decision.reason)
    return freed


def retain(plan: Plan, say: Callable[[str], None]) -> int:
    """Apply the plan's policy after a stage was accepted; says what was freed, and returns its bytes."""
    if plan.run.keep == "all":
        return 0
    decisions = decisions_of(plan, plan.run.keep)
    freed = prune(plan, decisions)
    if freed:
        count = sum(not decision.keep for decision in decisions)
        say(f"keep: {plan.run.keep}: {count} of {len(decisions)} checkpoints deleted, {format_bytes(freed)} freed")
    return freed
