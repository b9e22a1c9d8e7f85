"""A base that was trained elsewhere, as the plan gives it: LR and phase from its own state, declared only where it has none.

The native backend loads tensors of its own checkpoints and of Hugging Face folders, and of adopted checkpoints whose
weights lie in one; Megatron-DeepSpeed also those of its own, with their moments. What the plan declares and the state
contradicts is refused.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.errors import PlanError
from keepwarm.lineage.foreign import look_at
from keepwarm.lineage.foreign_facts import Foreign, contradiction, same_rate
from keepwarm.lineage.manifest import Known, Manifest, Phase, read_manifest
from keepwarm.plan.model import Plan
from keepwarm.schedule.batch import scaled_lr

_NO_MOMENTS = "its optimizer's state is not loaded: this backend reads the moments of its own checkpoints only"


def given(plan: Plan, tokenizer: Tokenizer) -> Manifest:
    """The manifest of `base.checkpoint`, its losses not yet measured.

    Its LR_max is the plan's, at the batch it was trained with: the line goes on there, and guard 1 holds its LR to it.
    Raises LineageError for a folder that is no whole checkpoint, PlanError for one whose tensors can't be loaded here,
    whose LR or phase is not known, or is another than the plan says.
    """
    folder = Path(str(plan.base.checkpoint))
    found = look_at(folder)
    if found.kind == "keepwarm":
        manifest = _recorded(plan, tokenizer, folder, found, read_manifest(folder))
        batch = manifest.global_batch_size or plan.global_batch_size
        scale = scaled_lr(1.0, batch, plan.global_batch_size, plan.optimizer.lr_scaling or "none")
        return replace(manifest, lr_max=plan.plateau_lr / scale)
    _check_loadable(plan, found, found.words())
    lr, lr_is, phase, phase_is = _ended(plan, found)
    moments = found.moments and _has_moments(plan, found)
    return Manifest(
        id=str(folder.resolve()), parent=None, arm="cookbook", stage="base", rung="given", attempt="", plan="",
        step=found.iteration or 0, samples=0, attempt_tokens=0, line_tokens=0, lr=lr,
        lr_max=plan.plateau_lr, phase=phase, phase_is=phase_is,
        lr_is=lr_is, weights=found.kind, unknown=_unknown(found.unknown, found.moments and not moments),
        optimizer_state=moments, sequence_length=plan.sequence_length, vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
    )  # fmt: skip


def _recorded(plan: Plan, tokenizer: Tokenizer, folder: Path, found: Foreign, manifest: Manifest) -> Manifest:
    """A keepwarm checkpoint, or an adopted one: then its weights are loaded from where they lie."""
    lr, lr_is, phase, phase_is = _ended(plan, found, manifest)
    if manifest.location is None:
        known = manifest.tokenizer_sha256 or tokenizer.sha256  # one that was converted does not say
        return replace(manifest, id=str(folder.resolve()), parent=None, tokenizer_sha256=known)
    weights = look_at(Path(manifest.location))
    _check_loadable(plan, weights, f"the record of {weights.words()} in {manifest.location}")
    moments = manifest.optimizer_state and _has_moments(plan, weights)
    return replace(
        manifest, id=str(weights.folder.resolve()), parent=None, lr=lr, lr_is=lr_is, phase=phase, phase_is=phase_is,
        unknown=_unknown(manifest.unknown, manifest.optimizer_state and not moments), optimizer_state=moments,
        sequence_length=manifest.sequence_length or plan.sequence_length,
        vocab_size=tokenizer.vocab_size, tokenizer_sha256=manifest.tokenizer_sha256 or tokenizer.sha256,
    )  # fmt: skip


def _ended(plan: Plan, found: Foreign, manifest: Manifest | None = None) -> tuple[float, Known, Phase, Known]:
    """LR and phase of a checkpoint, each measured or declared."""
    base, folder = plan.base, plan.base.checkpoint
    if base.lr is not None and found.lr is not None and not same_rate(base.lr, found.lr):
        raise contradiction("base.lr", f"{base.lr:g}", f"{found.lr:g}")
    if base.phase is not None and found.phase not in ("unknown", base.phase):
        raise contradiction("base.phase", base.phase, found.phase)
    lr = base.lr if found.lr is None else found.lr
    phase = base.phase if found.phase == "unknown" else found.phase
    if lr is None or phase is None:
        lost = "at which learning rate it ended, nor in which phase" if lr is None and phase is None else (
            "at which learning rate it ended" if lr is None else "in which phase it ended"
        )  # fmt: skip
        raise PlanError(
            f"base: {folder} does not say {lost}",
            "which rungs may start from it depends on both, and they are never assumed",
            f"base: {{checkpoint: {folder}, corpus: {base.corpus}, lr: {lr or 3e-4:g}, phase: {phase or 'cooled'}}}",
        )
    lr_is: Known = "declared" if found.lr is None else manifest.lr_is if manifest is not None else "measured"
    measured: Known = manifest.phase_is if manifest is not None else "measured"
    return lr, lr_is, phase, "declared" if found.phase == "unknown" else measured


def _has_moments(plan: Plan, found: Foreign) -> bool:
    """True where the plan's backend goes on with the moments that lie beside the weights."""
    return plan.run.backend == "megatron" and found.kind in ("megatron-deepspeed", "universal")


def _check_loadable(plan: Plan, found: Foreign, words: str) -> None:
    if found.kind == "hugging-face" or plan.run.backend == "megatron":
        return
    raise PlanError(
        f"base.checkpoint: {found.folder} is {words}; its tensors can't be loaded here",
        "the native backend reads its own checkpoints and Hugging Face folders",
        f"keepwarm convert {found.folder} FOLDER --to hf --trust, and name that: base: {{checkpoint: FOLDER, corpus: d0, "
        f"lr: {found.lr or 3e-4:g}, phase: {found.phase if found.phase in ('peak', 'cooled') else 'cooled'}}}",
    )


def _unknown(unknown: tuple[str, ...], moments: bool) -> tuple[str, ...]:
    return (*unknown, _NO_MOMENTS) if moments else unknown
