"""What a start keeps of the checkpoint it starts from, what it changes, and what begins anew; and what a resume keeps.

Two verbs that are never confused. A *start* makes a new attempt from a checkpoint: weights and perhaps moments go on,
the schedule is its own. A *resume* goes on with the same attempt: everything is restored, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from keepwarm.attempt.model import Attempt
from keepwarm.lineage import guard
from keepwarm.lineage.manifest import Manifest
from keepwarm.schedule.schedule import PEAK_TOLERANCE, Schedule

How = Literal["kept", "changed", "reset", "new"]
MOMENTS: Mapping[str, tuple[How, str]] = {
    "keep": ("kept", "AdamW goes on with the checkpoint's"),
    "reset": ("reset", "AdamW begins without any"),
    "fresh": ("new", "AdamW begins without any"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that a start or a resume takes over, or does not, with its numbers."""

    what: str
    how: How
    numbers: str

    def as_dict(self) -> dict[str, str]:
        """JSON-able content."""
        return asdict(self)


def started(attempt: Attempt, start: Manifest | None) -> tuple[Row, ...]:
    """The table of an attempt that begins. `start` is None where there is no manifest: new weights, or a model's folder."""
    return (
        _weights(attempt, start),
        Row("optimizer moments", *MOMENTS[attempt.moments]),
        lr_row(attempt.schedule, start.lr if start else None, guard.state(start) if start else ""),
        *([] if start is None else batch_row(start.global_batch_size, attempt.batches.size(0))),
        *_cursors(attempt),
        random_row(attempt.seed),
        _windows(attempt, start),
    )


def resumed(attempt: Attempt, saved: Manifest) -> tuple[Row, ...]:
    """The table of an attempt that goes on from its own checkpoint `saved`: all of it, from that step."""
    lr = float(attempt.schedule.lr(saved.attempt_tokens))
    at = f"step {saved.step:,} of {attempt.steps:,}"
    return (
        Row("weights", "kept", f"of {at}, bit for bit"),
        Row("optimizer moments", "kept", "as they were saved"),
        Row("LR", "kept", f"{lr:g}, the schedule goes on at token {saved.attempt_tokens:,} of {attempt.tokens:,}"),
        Row("data", "kept", f"goes on at sample {saved.samples:,} of the attempt"),
        Row("random state", "kept", f"of every step from seed {attempt.seed}"),
        Row("evaluation", "kept", "what was measured up to there stays"),
    )


def lr_row(schedule: Schedule, before: float | None, state: str) -> Row:
    """From the checkpoint's LR, `state` in words, to the first and last of the attempt; `before` None: no checkpoint."""
    first, last = float(schedule.lr(0)), float(schedule.lr(schedule.tokens))
    warmup_tokens = sum(piece.tokens for piece in schedule.pieces if piece.phase == "warming")
    up = f"warm-up over {warmup_tokens:,} tokens to {schedule.lr_max:g}" if warmup_tokens else "no warm-up"
    words = f"{first:g}, {up} -> {last:g} ({schedule.phase(schedule.tokens)})"
    if before is None:
        return Row("LR", "new", words)
    same = abs(first - before) <= PEAK_TOLERANCE * before and not warmup_tokens
    return Row("LR", "kept" if same else "changed", f"{state} -> {words}")


def batch_row(before: int, now: int) -> Iterator[Row]:
    """The batch, where it is another than the checkpoint's (0: not known)."""
    if before not in (0, now):
        yield Row("batch size", "changed", f"{before:,} -> {now:,} sequences")


def random_row(seed: int) -> Row:
    """What is drawn in a step (dropout) follows from the seed and the step alone."""
    return Row("random state", "new", f"of every step from seed {seed}, as the order of data")


def _weights(attempt: Attempt, start: Manifest | None) -> Row:
    if start is not None:
        return Row("weights", "kept", f"{start.id}, {start.line_tokens:,} tokens of the line")
    if attempt.start is not None:
        return Row("weights", "kept", attempt.start)
    return Row("weights", "new", f"random, seed {attempt.seed}")


def _cursors(attempt: Attempt) -> Iterator[Row]:
    """One row for each corpus in each role, in the order of the mix."""
    cursors = dict(attempt.segments[0].cursors)
    read: dict[str, list[int]] = {}
    for source in attempt.sources:
        name = source.corpus if source.role in ("d0", "new") else f"{source.corpus} ({source.role})"
        read.setdefault(name, []).append(cursors.get(source.id, 0))
    for name, places in read.items():
        begun = sum(1 for place in places if place)
        of_files = f", in {begun} of {len(places)} files" if len(places) > 1 and begun else ""
        where = f"goes on at sample {sum(places):,}{of_files}" if begun else "starts at 0"
        yield Row(f"data: {name}", "kept" if begun else "new", where)


def _windows(attempt: Attempt, start: Manifest | None) -> Row:
    counts = {name: len(found["windows"]) for name, found in (start.evaluation if start else {}).items()}
    words = f"at both ends {_counts(counts) if counts else 'all'}"
    if attempt.evaluation.steps:
        words += f"; {len(attempt.evaluation.steps)} times on the way {_counts(attempt.evaluation.subset)}"
    return Row("evaluation windows", "kept" if counts else "new", words)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
