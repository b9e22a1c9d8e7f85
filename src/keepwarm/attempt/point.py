"""What a point of an attempt is: its name in the run folder, and its manifest, whoever trained it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keepwarm import __version__
from keepwarm.attempt.line import cursors_at
from keepwarm.attempt.model import Attempt
from keepwarm.blend.stream import Stream
from keepwarm.lineage.manifest import Manifest, checkpoint_name


def line_tokens(attempt: Attempt, start: Manifest | None, step: int) -> int:
    """Tokens of the whole line after a step of the attempt."""
    return (start.line_tokens if start else 0) + attempt.tokens_at(step)


def checkpoint_id(attempt: Attempt, start: Manifest | None, step: int) -> str:
    """The id of the checkpoint after a step: its folder in the run folder."""
    phase = attempt.schedule.phase(attempt.tokens_at(step))
    return f"{attempt.folder}/checkpoints/{checkpoint_name(line_tokens(attempt, start, step), phase)}"


def manifest_at(
    attempt: Attempt, start: Manifest | None, stream: Stream, step: int, plan_sha256: str,
    evaluation: Mapping[str, Any], **more: Any,
) -> Manifest:  # fmt: skip
    """The manifest after a step: LR, phase, cursors and tokens fed as the attempt has them there.

    `evaluation`: corpus -> {loss, windows} over all of them; `more`: what it was computed by, and the line's identity.
    """
    samples, tokens = attempt.batches.samples(step), attempt.tokens_at(step)
    cursors, before = stream.cursors(samples), stream.cursors(0)
    fed = dict(start.source_tokens) if start else {}
    for source, position in cursors.items():
        if position > before.get(source, 0):
            fed[source] = fed.get(source, 0) + (position - before.get(source, 0)) * attempt.sequence_length
    return Manifest(
        id=checkpoint_id(attempt, start, step), parent=attempt.start, arm=attempt.arm, stage=attempt.stage,
        rung=attempt.rung, attempt=attempt.sha256, plan=plan_sha256, step=step, samples=samples,
        attempt_tokens=tokens, line_tokens=line_tokens(attempt, start, step),
        lr=float(attempt.schedule.lr(tokens)), lr_max=attempt.schedule.lr_max, phase=attempt.schedule.phase(tokens),
        global_batch_size=attempt.batches.size(max(0, step - 1)), schedule=attempt.schedule.to_dict(),
        cursors=(cursors_at(start, attempt.sequence_length) if start else {}) | cursors,
        source_tokens=fed,
        source_names=(dict(start.source_names) if start else {}) | {s.id: s.name for s in attempt.sources},
        evaluation=evaluation, allowed=tuple(sorted({*attempt.allow, *(start.allowed if start else ())})),
        **({"versions": {"keepwarm": __version__}} | more),
    )  # fmt: skip
