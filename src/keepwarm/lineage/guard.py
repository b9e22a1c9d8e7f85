"""The cookbook's guards: refuse a start or a mix that would waste a run, and say what to write instead.

Each guard is a pure function that gives a refusal, a `GuardError` that is not raised yet, or None. `enforce` raises
the first that is not allowed and gives those that were overridden, for the record: a name that is allowed and refused
nothing leaves no trace. `append-only` can't be allowed. COOKBOOK, "Guards", gives their numbers.

A docstring's paragraphs `Formula:`, `When:` and `Source:` are what `keepwarm explain` shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from keepwarm.blend.ledger import LedgerRow, over_cap
from keepwarm.errors import GuardError
from keepwarm.lineage.graph import newest_at_peak
from keepwarm.lineage.manifest import Manifest
from keepwarm.schedule.schedule import PEAK_TOLERANCE
from keepwarm.units import format_share

CONVERGED = ("cooled", "merged")  # an average of weights stands in for a cooldown, and has no moments to keep
_UNMEASURED = {"declared": " (declared)", "measured": ""}


def enforce(found: Iterable[GuardError | None], allow: Collection[str]) -> tuple[GuardError, ...]:
    """Raise the first refusal that `allow` does not name; returns those that it does."""
    refusals = tuple(refusal for refusal in found if refusal is not None)
    for refusal in refusals:
        if refusal.guard not in allow:
            raise refusal
    return refusals


def _refusal(guard: str, what: str, why: str, fix: str) -> GuardError:
    """A refusal whose fix ends with how to override it."""
    allow = f"--allow {guard} (or in the plan, in the stage or the base: allow: [{guard}])"
    return GuardError(guard, what, why, f"{fix}; or, to go on all the same and have it recorded: {allow}")


def at_peak(start: Manifest, lr_max: float) -> bool:
    """Whether LR == LR_max at a checkpoint, after warm-up and before any decay."""
    return start.phase == "peak" and abs(start.lr - lr_max) <= PEAK_TOLERANCE * lr_max


def state(start: Manifest) -> str:
    """Phase and LR of a checkpoint in words; what a person declared is marked."""
    return f"{start.phase}{_UNMEASURED[start.phase_is]} at LR {start.lr:g}{_UNMEASURED[start.lr_is]}"


def peak_start(start: Manifest, rung: str, others: Sequence[Manifest], lr_max: float) -> GuardError | None:
    """A rung that starts at peak needs a checkpoint whose LR is LR_max, after warm-up and before any decay.

    One that is cooled, warming, decaying or merged, or whose phase is not known, is refused, and the newest that
    qualifies is named. A phase that was declared for a foreign checkpoint stays marked `declared`.

    Formula: |LR - LR_max| <= 1e-6 LR_max, and phase == peak

    When: where it refuses, start from the checkpoint it names, or take a rung that warms LR up again. Override it only
    where the record of the phase is wrong.

    Source: the cookbook, Guards, 1; the seed, "start from a checkpoint at LR_max".
    """
    if at_peak(start, lr_max):
        return None
    best = newest_at_peak(others)
    instead = "start from a checkpoint at peak"
    if best is not None:
        instead = f"start from {best.id} (LR {best.lr:g}, {best.line_tokens:,} tokens seen)"
    elif start.phase in CONVERGED:
        instead = "use a rewarm rung: ladder: [{rung: rewarm-converged}]"
    elif start.phase == "peak":
        instead = f"go on at the checkpoint's own rate: optimizer: {{lr_max: {start.lr:g}}}"
    share = f"{start.lr / lr_max:.0%} of LR_max {lr_max:g}"
    return _refusal(
        "peak-start",
        f"{rung} starts at peak, but {start.id} is {state(start)} ({share})",
        "from a checkpoint that is not at peak the rate must be warmed again, which costs loss on the old data",
        instead,
    )


def not_converged(end: Manifest, rung: str) -> GuardError | None:
    """decay-then-introduce decays from LR_max; a line whose end is converged has no LR left to decay.

    When: where it refuses, take rewarm-converged, special-continuation or incremental. It does not apply to the special
    continuation, which goes on from where a decay ended.

    Source: the cookbook, Guards, 2.
    """
    if end.phase not in CONVERGED:
        return None
    return _refusal(
        "phase-match",
        f"{rung} decays from LR_max, but the line's end {end.id} is {state(end)}: converged",
        "an earlier trunk lacks the data of the stages after it, and a converged model has no rate to decay",
        "use rewarm-converged, special-continuation or incremental here",
    )


def converged_start(start: Manifest, rung: str) -> GuardError | None:
    """A rung that rewarms a converged model needs a checkpoint that is cooled, or an average of weights.

    When: where it refuses, take replay or replay-rewarm from a checkpoint at peak; they keep what a cooldown would end.

    Source: the cookbook, Guards, 2.
    """
    if start.phase in CONVERGED:
        return None
    peak = start.phase == "peak"
    return _refusal(
        "phase-match",
        f"{rung} starts from a converged checkpoint, but {start.id} is {state(start)}",
        "a checkpoint at peak needs no warm-up: continuing it keeps its moments and forgets less"
        if peak
        else "it is neither converged nor at peak: what a warm-up does to it was never measured",
        "use replay or replay-rewarm here" if peak else "start from a checkpoint at peak, or from a cooled one",
    )


def decayed_end(start: Manifest, rung: str) -> GuardError | None:
    """The special continuation goes on decaying, so the stage before must have ended by a decay, above LR 0.

    When: where it refuses, take another rung of the ladder.

    Source: the cookbook, Rungs, special continuation.
    """
    if start.rung in ("decay-then-introduce", "special-continuation") and start.lr > 0:
        return None
    return _refusal(
        "phase-match",
        f"{rung} goes on from a stage that ended by decay-then-introduce above LR 0, but {start.id} was made by "
        f"{start.rung} and is {state(start)}",
        "there is no decay to continue",
        "use another rung",
    )


def mixed_introduction(alpha_0: Fraction, rung: str) -> GuardError | None:
    """decay-then-introduce and the special continuation bring in the new data as a mix, never alone.

    Formula: alpha_0 > 0

    When: where it refuses, give D_0 a share of the new mix; later practice takes .6 to .8.

    Source: the cookbook, Guards, 3; the seed, step c.
    """
    if alpha_0 > 0:
        return None
    return _refusal(
        "mixed-introduction",
        f"{rung} would introduce the new data alone (alpha_0 is 0)",
        "at a low rate the old data is lost all the same, and nothing brings it back",
        "alpha_0: 0.6 (later practice: .6 to .8)",
    )


def optimizer_state(start: Manifest, rung: str) -> GuardError | None:
    """A rung that keeps the optimizer's moments needs them; no public model ships them, and no average has them.

    When: where it refuses, take a rewarm rung, which begins with fresh moments at LR 0: replay-rewarm from a checkpoint at
    peak, rewarm-converged from a cooled one.

    Source: the cookbook, Guards, 7.
    """
    if start.optimizer_state:
        return None
    rewarm = "replay-rewarm" if start.phase == "peak" else "rewarm-converged"
    return _refusal(
        "optimizer-state",
        f"{rung} goes on with the optimizer's moments, but {start.id} has no optimizer state",
        f"AdamW with empty moments at LR {start.lr:g} takes steps of full size in noise directions",
        f"use a rewarm rung: ladder: [{{rung: {rewarm}}}]",
    )


def buffer_clean(held: Collection[str], new: str, held_out: int, version: str) -> GuardError | None:
    """B holds no document of the stage's own new corpus and none of a holdout.

    `held` names the corpora that B holds documents of, `held_out` counts held-out ones. One text under two names is
    refused before anything is trained.

    When: where it refuses, use the version of B from before the corpus was taught, or another rung.

    Source: the cookbook, Guards, 4, and Words, B.
    """
    if new not in held and not held_out:
        return None
    what = f"documents of {new} itself" if new in held else f"{held_out} held-out documents"
    return _refusal(
        "buffer-clean",
        f"the buffer {version} holds {what}",
        "replaying the new data hides forgetting, replaying held-out data makes every verdict a lie",
        f"use the buffer version from before {new} was taught, or a rung without B: replay, replay-previous-mix",
    )


def shares_complete(parts: Sequence[tuple[str, Fraction]]) -> GuardError | None:
    """The shares of a mix add up to exactly 1.

    Formula: alpha_0 + alpha_D + alpha_B = 1

    When: where it refuses, mend the shares; a plan whose mixes do not add up is not even read.

    Source: the cookbook, Guards, 5, and Words, alpha.
    """
    total = sum((share for _, share in parts), Fraction(0))
    if total == 1:
        return None
    words = " + ".join(f"{name} {format_share(share)}" for name, share in parts)
    return _refusal(
        "budget-and-identity",
        f"shares add up to {float(total):g}, they must add up to 1 ({words})",
        "a mix that is silently normalised is not the mix that was asked for",
        f"mixes: [[...]] with shares that add up to 1 (these need {float(1 - total):+g})",
    )


def within_epochs(rows: Sequence[LedgerRow], max_epochs: Fraction) -> GuardError | None:
    """No source is read more than `max_epochs` times (4, if the plan does not say) over the line.

    Formula: epochs = samples that the line was fed of the source / windows that the source holds

    When: where it refuses, ask a smaller share or fewer tokens, or add text. Above one epoch the number is said, without a
    refusal.

    Source: the cookbook, Guards, 5; Muennighoff et al. 2305.16264: up to 4 epochs are almost as good as new text.
    """
    over = [row for row in over_cap(rows, max_epochs) if row.samples]
    if not over:
        return None
    row = max(over, key=lambda each: each.epochs_after)
    return _refusal(
        "budget-and-identity",
        f"{row.name} would be repeated {float(row.epochs_after):.2f} times, max_epochs is {float(max_epochs):g}",
        "the share asked of it is more than the source holds; repeated text is memorised, not learned",
        f"ask a smaller share or fewer tokens, add text to the corpus, or: max_epochs: {math.ceil(row.epochs_after)}; "
        "where its role has other sources: over_max_epochs: reweight",
    )


def repeats(rows: Sequence[LedgerRow]) -> tuple[str, ...]:
    """What to say of the sources that are read more than once."""
    read_again = [row for row in rows if row.samples and row.epochs_after > 1]
    return tuple(f"{row.name}: {float(row.epochs_after):.2f} epochs over the line" for row in read_again)


def same_identity(start: Manifest, expected: Mapping[str, Any]) -> GuardError | None:
    """Tokenizer, vocabulary, sequence length, document mask, architecture, optimizer and evaluation sets are the start
    checkpoint's.

    Of a checkpoint that was trained elsewhere only what it says of itself is compared.

    When: where it refuses, put back what the checkpoint was trained with; override it to change the optimizer, the
    sequence length or an evaluation set on purpose, from a stage on.

    Source: the cookbook, Guards, 5, and Words: "only data and LR change between stages".
    """
    different = list(_differences(start, expected))
    if not different:
        return None
    both = "; ".join(f"{words} {str(found)[:16]}, this plan has {str(asked)[:16]}" for words, found, asked in different)
    return _refusal(
        "budget-and-identity",
        f"{start.id} has {both}",
        "only data and learning rate change between stages, else what a stage did can't be told from the change",
        f"use the {' and the '.join(words for words, _, _ in different)} the checkpoint was trained with",
    )


def _differences(start: Manifest, expected: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What is known of a checkpoint and is another: words, the checkpoint's, the plan's."""
    for name, value in expected.items():
        found = getattr(start, name)
        if isinstance(value, Mapping):
            pairs = [(_words(name, key), found[key], value[key]) for key in value if key in found]
        else:
            pairs = [(name.replace("_sha256", "").replace("_", " "), found, value)]
        yield from (each for each in pairs if each[1] is not None and each[1] != each[2])


def _words(group: str, key: str) -> str:
    return f"holdout of {key}" if group == "holdout" else key.replace("_", " ")


def another_architecture(checkpoint: str, key: str) -> GuardError:
    """A base that is given has the architecture of the plan's `model`, where the plan names one.

    When: where it refuses, leave `model` out of the plan, then the checkpoint's own is used.

    Source: the cookbook, Guards, 5.
    """
    return _refusal(
        "budget-and-identity",
        f"{checkpoint} has another architecture than the plan's {key}",
        "only data and learning rate change between stages",
        "leave `model` out of the plan (the checkpoint's own is used), or name the same one",
    )


def append_only(folder: Path) -> GuardError | None:
    """A checkpoint or a version of the buffer that exists is never written again. It can't be overridden.

    When: where it refuses, use another run folder.

    Source: the cookbook, Guards, 6.
    """
    if not folder.exists():
        return None
    return GuardError(
        "append-only",
        f"{folder} exists already",
        "lineage is append-only: a checkpoint or buffer that is overwritten makes every record about it false",
        "use another run folder: run: {folder: ...}",
    )


BY_NAME: dict[str, tuple[str, tuple[Callable[..., GuardError | None], ...]]] = {  # in a sentence, and its parts
    "peak-start": ("", (peak_start,)),
    "phase-match": ("A rung starts from the phase it is made for.", (not_converged, converged_start, decayed_end)),
    "mixed-introduction": ("", (mixed_introduction,)),
    "buffer-clean": ("", (buffer_clean,)),
    "budget-and-identity": (
        "Only data and LR change between stages, and no source is read too often.",
        (shares_complete, within_epochs, same_identity, another_architecture),
    ),
    "append-only": ("", (append_only,)),
    "optimizer-state": ("", (optimizer_state,)),
}
