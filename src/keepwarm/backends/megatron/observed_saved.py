"""A saved step of an attempt as a manifest; that of its last step once it is logged, saved and measured.

Those before it are what a later rung may start from, as natively: they need no losses.
LR and phase are the checkpoint's own, read from its state and held against the attempt's schedule; what was fed follows
from the attempt, as natively, for its list names nothing else. The tensors stay where the trainer saved them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from keepwarm.attempt.model import Attempt
from keepwarm.attempt.point import manifest_at
from keepwarm.backends.megatron.evaluate import Losses
from keepwarm.backends.megatron.record import Launch
from keepwarm.blend.stream import Stream
from keepwarm.lineage.foreign_facts import Foreign, same_rate
from keepwarm.lineage.foreign_megatron import megatron
from keepwarm.lineage.manifest import Known, Manifest


def plain_of(step: Path) -> Path:
    """The step itself, of a universal copy beside it: it holds everything that a resume needs."""
    plain = step.with_name(step.name.removesuffix("_universal"))
    return plain if plain.is_dir() else step


def saved_at(
    attempt: Attempt, launch: Launch, step: int, start: Manifest | None, stream: Stream, checkpoint: Path, losses: Losses,
    plan_sha256: str, identity: Mapping[str, Any], skipped: int,
) -> Manifest | str:  # fmt: skip
    """The manifest of a step; or in what its checkpoint differs from what the attempt says, in words.

    `skipped`: steps before it without an update. The trainer's schedule stands still at them, so it may be as many late.
    """
    found = megatron(plain_of(checkpoint))
    differs = _differences(attempt, launch, step, found, skipped)
    if differs:
        return f"{found.folder}: {'; '.join(differs)}"
    evaluation = {name: {"loss": each["loss"], "windows": list(each["windows"])} for name, each in losses.items()}
    made = manifest_at(
        attempt, start, stream, step, plan_sha256, evaluation,
        architecture_sha256=start.architecture_sha256 if start else "", weights=found.kind, location=str(found.folder),
        unknown=found.unknown, optimizer_state=found.moments, world_size=launch.world_size,
        precision=launch.environment.get("DTYPE", "bf16"), **identity,
    )  # fmt: skip
    phase_is: Known = "declared" if found.phase == "unknown" else "measured"
    if found.lr is None:
        return replace(made, lr_is="declared", phase_is=phase_is)
    return replace(made, lr=found.lr, phase_is=phase_is)


def _differences(attempt: Attempt, launch: Launch, step: int, found: Foreign, skipped: int) -> list[str]:
    tokens, late = attempt.tokens_at(step), attempt.tokens_at(step - skipped)
    before = launch.first_iteration * launch.global_batch_size
    due, due_late = float(attempt.schedule.lr(tokens)), float(attempt.schedule.lr(late))
    said = {
        "iteration": (found.iteration, launch.first_iteration + step),
        "consumed samples": (found.samples, before + attempt.batches.samples(step)),
        "global batch size": (found.global_batch_size, launch.global_batch_size),
        "sequence length": (found.sequence_length, attempt.sequence_length),
    }
    differs = [f"{name} {its:,}, not {ours:,}" for name, (its, ours) in said.items() if its not in (None, ours)]
    at = "at its end" if step == attempt.steps else f"at step {step:,}"
    if found.lr is not None and not same_rate(found.lr, due) and not same_rate(found.lr, due_late):
        differs.append(f"LR {found.lr:g}, and the attempt's schedule has {due:g} {at}")
    if found.phase not in ("unknown", attempt.schedule.phase(tokens), attempt.schedule.phase(late)):
        differs.append(f"phase {found.phase}, and the attempt's schedule is {attempt.schedule.phase(tokens)} {at}")
    return differs
