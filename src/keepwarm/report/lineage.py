"""The lineage of a run as data: every checkpoint, what made it, what started from it, and what of it is left.

Read from the run folder alone; no torch, and it never writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwarm.attempt.adopt import adopted_record
from keepwarm.attempt.line import COOKBOOK
from keepwarm.attempt.retained import Scope, branches_of, scope_of
from keepwarm.errors import KeepwarmError
from keepwarm.lineage.deletion import Deletion, bytes_of, deletion_of
from keepwarm.lineage.graph import ancestors
from keepwarm.lineage.manifest import Manifest
from keepwarm.lineage.retention import BASE, Branch, accepted_line
from keepwarm.plan.load import load_plan
from keepwarm.plan.model import Plan


@dataclass(frozen=True, slots=True)
class Lineage:
    """A run's attempts and their checkpoints."""

    scope: Scope
    branches: tuple[Branch, ...]
    deleted: Mapping[str, Deletion]  # by checkpoint
    line: tuple[str, ...]  # ids of the checkpoints that the cookbook's line has gone through, oldest first

    @property
    def checkpoints(self) -> dict[str, tuple[Branch, Manifest]]:
        """Every checkpoint by id, with the attempt that made it."""
        return {manifest.id: (branch, manifest) for branch in self.branches for manifest in branch.checkpoints}

    def users(self, identity: str) -> list[Branch]:
        """The attempts that started from a checkpoint, in order."""
        return [branch for branch in self.branches if origin(branch) == identity]


def plan_at(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """The plan in a file, or the one that a run folder holds (wherever the folder has been moved to)."""
    if not path.is_dir():
        return load_plan(path, overrides)
    if not (path / "plan.yaml").exists():
        raise KeepwarmError(
            f"{path}: holds no plan.yaml, so it is no run folder",
            "the plan says what the run's stages and arms are",
            "name the plan file, or the folder that its run: {folder: ...} names",
        )
    plan = load_plan(path / "plan.yaml", overrides)
    return plan.model_copy(update={"run": plan.run.model_copy(update={"folder": str(path.resolve())})})


def scope_at(path: Path, overrides: Sequence[str] = ()) -> Scope:
    """The run folder of the plan in a file, a run folder itself, or the folder of a line that was adopted."""
    record = adopted_record(path) if path.is_dir() and not (path / "plan.yaml").exists() else None
    if record is None or overrides:
        return scope_of(plan_at(path, overrides))
    stages = tuple((str(stage["name"]), str(stage["new"])) for stage in record["stages"])
    return Scope(str(record["name"]), path, stages, (), 0)


def lineage_of(scope: Scope, arm: str | None = None) -> Lineage:
    """The lineage in a run folder; of one arm and the base only, if `arm` names it."""
    folder = scope.folder
    branches = branches_of(scope)
    arms = list(dict.fromkeys(branch.arm for branch in branches))
    if arm is not None and arm not in arms:
        raise KeepwarmError(f"--arm {arm}: {folder} has no such arm", "nothing is shown", f"one of: {', '.join(arms)}")
    manifests = [manifest for branch in branches for manifest in branch.checkpoints]
    deleted = {m.id: found for m in manifests if (found := deletion_of(folder / m.id)) is not None}
    line, end = accepted_line(branches, COOKBOOK), None
    if line is not None:
        cooled = [each for each in branches if each.cooldown and each.finished and each.start == line.end.id]
        end = cooled[-1].checkpoints[-1] if line.end.rung == "balance" and cooled else line.end
    chain = (*(each.id for each in reversed(ancestors(end, manifests))), end.id) if end else ()
    shown = tuple(each for each in branches if arm in (None, each.arm) or each.stage == BASE)
    return Lineage(scope, shown, deleted, chain)


def origin(branch: Branch) -> str | None:
    """The checkpoint an attempt started from; of a merged one the last of those it was made of."""
    if branch.start is not None or not branch.checkpoints:
        return branch.start
    first = branch.checkpoints[0]
    return first.parent or (first.merged_from[-1] if first.merged_from else None)


def fate(branch: Branch) -> str:
    """Accepted, rejected, control, running, waiting, trained (what is not judged), or a branch that was asked for."""
    if branch.control:
        return "control" if branch.stage is not None else "branch"
    if branch.accepted or (branch.finished and branch.outcome is None):
        return "accepted" if branch.accepted and branch.outcome is not None else "trained"
    if branch.waiting:
        return "waiting"
    return "running" if branch.outcome is None else "rejected"


def stopped_early(branch: Branch) -> bool:
    """Whether it was judged before its end."""
    return branch.outcome not in (None, "diverged") and not branch.finished


def facts(found: Lineage) -> dict[str, Any]:
    """All of it for a script."""
    rows = [_facts(found, branch, manifest) for branch, manifest in found.checkpoints.values()]
    return {"name": found.scope.name, "folder": str(found.scope.folder), "checkpoints": rows, "line": list(found.line)}


def _facts(found: Lineage, branch: Branch, manifest: Manifest) -> dict[str, Any]:
    keys = (
        "id", "parent", "arm", "stage", "rung", "step", "attempt_tokens", "line_tokens", "phase", "phase_is", "lr", "lr_is",
        "lr_max", "optimizer_state", "allowed", "weights", "weights_sha256", "location", "global_batch_size",
    )  # fmt: skip
    deletion = found.deleted.get(manifest.id)
    users = [{"arm": b.arm, "stage": b.stage_name, "label": b.label} for b in found.users(manifest.id)]
    return {key: getattr(manifest, key) for key in keys} | {
        "label": branch.label,
        "merged_from": list(manifest.merged_from),
        "unknown": list(manifest.unknown),
        "deleted": {"when": deletion.when, "why": deletion.why, "bytes": deletion.bytes} if deletion else None,
        "outcome": branch.outcome or ("running" if fate(branch) == "running" else "trained"),
        "accepted": branch.accepted,
        "waiting": branch.waiting,
        "stopped_early": stopped_early(branch),
        "end": branch.finished and manifest is branch.checkpoints[-1],
        "used_by": users,
        "bytes": bytes_of(found.scope.folder / manifest.id, manifest.files),
    }
