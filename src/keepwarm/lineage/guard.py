"""The cookbook's guards: refuse a start or a mix that would waste a run, and say what to write instead.

Each guard is one function that returns in silence or raises `GuardError`. `allow` is the plan's list of guards
overridden by name; `append-only` can't be. COOKBOOK, "Guards", gives their numbers and their reasons.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from keepwarm.blend.ledger import LedgerRow, over_cap
from keepwarm.errors import GuardError
from keepwarm.lineage.graph import newest_at_peak
from keepwarm.lineage.manifest import Manifest
from keepwarm.units import format_share

PEAK_TOLERANCE = 1e-6  # relative: what counts as LR == LR_max


def _allow(name: str) -> str:
    return f"or, to go on all the same and have it recorded, in the stage: allow: [{name}]"


def peak_start(start: Manifest, rung: str, others: Sequence[Manifest], allow: Collection[str], lr_max: float) -> None:
    """Guard 1: a rung that starts at peak needs a checkpoint whose LR is LR_max, after warm-up, before any decay."""
    at_peak = start.phase == "peak" and abs(start.lr - lr_max) <= PEAK_TOLERANCE * lr_max
    if at_peak or "peak-start" in allow:
        return
    best = newest_at_peak(others)
    instead = (
        f"start from {best.id} (LR {best.lr:g}, {best.line_tokens:,} tokens seen)" if best else "use a rewarm rung"
    )
    share = f"{start.lr / lr_max:.0%} of LR_max {lr_max:g}"
    raise GuardError(
        "peak-start",
        f"{rung} starts at peak, but {start.id} is {start.phase} at LR {start.lr:g} ({share})",
        "from a cooled or warming checkpoint the rate must be warmed again, which costs loss on the old data",
        f"{instead}; {_allow('peak-start')}",
    )


def not_converged(end: Manifest, rung: str, allow: Collection[str]) -> None:
    """Guard 2a: decay-then-introduce decays from LR_max; a line whose end is converged has no LR left to decay."""
    if end.phase != "cooled" or "phase-match" in allow:
        return
    raise GuardError(
        "phase-match",
        f"{rung} decays from LR_max, but the line's end {end.id} is converged (LR {end.lr:g})",
        "an earlier trunk lacks the data of the stages after it, and a converged model has no rate to decay",
        f"use rewarm-converged, special-continuation or incremental here; {_allow('phase-match')}",
    )


def converged_start(start: Manifest, rung: str, allow: Collection[str]) -> None:
    """Guard 2b: rewarming a converged model from a checkpoint that is at peak."""
    if start.phase == "cooled" or "phase-match" in allow:
        return
    raise GuardError(
        "phase-match",
        f"{rung} starts from a converged checkpoint, but {start.id} is {start.phase} at LR {start.lr:g}",
        "a checkpoint at peak needs no warm-up: continuing it keeps its moments and forgets less",
        f"use replay or replay-rewarm here; {_allow('phase-match')}",
    )


def decayed_end(start: Manifest, rung: str, allow: Collection[str]) -> None:
    """The special continuation goes on decaying, so the stage before must have ended by a decay, above LR 0."""
    if (start.rung in ("decay-then-introduce", "special-continuation") and start.lr > 0) or "phase-match" in allow:
        return
    raise GuardError(
        "phase-match",
        f"{rung} goes on from a stage that ended by decay-then-introduce, but {start.id} was made by {start.rung}",
        "there is no decay to continue",
        f"use another rung; {_allow('phase-match')}",
    )


def mixed_introduction(alpha_0: Fraction, rung: str, allow: Collection[str]) -> None:
    """Guard 3: the new data is introduced as a mix, never alone."""
    if alpha_0 > 0 or "mixed-introduction" in allow:
        return
    raise GuardError(
        "mixed-introduction",
        f"{rung} would introduce the new data alone (alpha_0 is 0)",
        "at a low rate the old data is lost all the same, and nothing brings it back",
        f"alpha_0: 0.6 (later practice: .6 to .8); {_allow('mixed-introduction')}",
    )


def optimizer_state(start: Manifest, rung: str, allow: Collection[str]) -> None:
    """Guard 7: starting at peak needs the optimizer's moments; no public model ships them."""
    if start.optimizer_state or "optimizer-state" in allow:
        return
    raise GuardError(
        "optimizer-state",
        f"{rung} starts at peak from {start.id}, which has no optimizer state",
        "AdamW with empty moments at LR_max takes steps of full size in noise directions",
        f"use a rewarm rung (ladder: [{{rung: rewarm-converged}}]); {_allow('optimizer-state')}",
    )


def buffer_clean(
    buffer_corpora: Collection[str], new: str, held_out: int, version: str, allow: Collection[str] = ()
) -> None:
    """Guard 4: B holds no document of the stage's own new corpus and none (`held_out` counts them) of a holdout."""
    if "buffer-clean" in allow or (new not in buffer_corpora and not held_out):
        return
    what = f"documents of {new} itself" if new in buffer_corpora else f"{held_out} held-out documents"
    raise GuardError(
        "buffer-clean",
        f"the buffer {version} holds {what}",
        "replaying the new data hides forgetting, replaying held-out data makes every verdict a lie",
        f"use the buffer version from before {new} was taught; {_allow('buffer-clean')}",
    )


def shares_complete(parts: Sequence[tuple[str, Fraction]], allow: Collection[str] = ()) -> None:
    """Guard 5a: the shares of a mix add up to exactly 1."""
    total = sum((share for _, share in parts), Fraction(0))
    if total == 1 or "budget-and-identity" in allow:
        return
    words = " + ".join(f"{name} {format_share(share)}" for name, share in parts)
    raise GuardError(
        "budget-and-identity",
        f"shares add up to {float(total):g}, they must add up to 1 ({words})",
        "a mix that is silently normalised is not the mix that was asked for",
        f"mixes: [[...]] with shares that add up to 1 (these need {float(1 - total):+g})",
    )


def within_epochs(rows: Sequence[LedgerRow], max_epochs: Fraction, allow: Collection[str]) -> list[str]:
    """Guard 5b: no source repeats more than `max_epochs` over the line. Returns warnings for those above 1."""
    over = [row for row in over_cap(rows, max_epochs) if row.samples]
    if over and "budget-and-identity" not in allow:
        row = max(over, key=lambda each: each.epochs_after)
        raise GuardError(
            "budget-and-identity",
            f"{row.name} would be repeated {float(row.epochs_after):.2f} times, max_epochs is {float(max_epochs):g}",
            "the share asked of it is more than the source holds; repeated text is memorised, not learned",
            f"ask a smaller share or fewer tokens, add text to the corpus, or: max_epochs: {math.ceil(row.epochs_after)}; "
            f"where its role has other sources: over_max_epochs: reweight; {_allow('budget-and-identity')}",
        )
    return [
        f"{row.name}: {float(row.epochs_after):.2f} epochs over the line"
        for row in rows
        if row.samples and row.epochs_after > 1
    ]


def same_identity(start: Manifest, expected: Mapping[str, object], allow: Collection[str]) -> None:
    """Guard 5c: tokenizer, vocabulary, sequence length and architecture are the start checkpoint's own."""
    for name, value in expected.items():
        found = getattr(start, name)
        if found == value or "budget-and-identity" in allow:
            continue
        words = name.replace("_sha256", "").replace("_", " ")
        raise GuardError(
            "budget-and-identity",
            f"{start.id} has {words} {str(found)[:16]}, this plan has {str(value)[:16]}",
            "only data and learning rate change between stages; another model's weights mean nothing here",
            f"use the {words} the checkpoint was trained with; {_allow('budget-and-identity')}",
        )


def append_only(folder: Path) -> None:
    """Guard 6: a checkpoint or buffer version that exists is never written again."""
    if not folder.exists():
        return
    raise GuardError(
        "append-only",
        f"{folder} exists already",
        "lineage is append-only: a checkpoint or buffer that is overwritten makes every record about it false",
        "use another run folder: run: {folder: ...}",
    )
