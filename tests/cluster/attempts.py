"""Attempts and token files small enough to check by hand, without a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from keepwarm.attempt.line import Feed
from keepwarm.attempt.model import Attempt, EvaluationPlan, FedSource, Judgement, Optimizer, Part
from keepwarm.blend.mixture import combine
from keepwarm.blend.stream import Segment, followed
from keepwarm.corpora.indexed import IndexedWriter, source_id
from keepwarm.corpora.source import Source
from keepwarm.schedule.schedule import constant


def token_file(
    prefix: Path, tokens: int, *, first: int, left_out: Sequence[tuple[int, int]] = (), name: str | None = None
) -> Source:
    """A token file of the ids first, first + 1, ..., in documents of 10, without the spans `left_out`."""
    with IndexedWriter(prefix, np.dtype("<i4")) as writer:
        for start in range(0, tokens, 10):
            writer.add(np.arange(first + start, first + min(start + 10, tokens), dtype=np.int32))
    borders = [0, *(edge for span in left_out for edge in span), tokens]
    kept = np.array(borders, dtype=np.int64).reshape(-1, 2)
    return Source(name or prefix.name, source_id(prefix), prefix, kept[kept[:, 1] > kept[:, 0]])


def feed_of(sources: Mapping[str, Source]) -> Feed:
    """A feed of nothing but sources, by role."""
    return Feed(None, {}, {source.id: (source, role) for role, source in sources.items()})  # type: ignore[arg-type]


def attempt_of(
    sources: Mapping[str, Source], segments: Sequence[tuple[int, Mapping[str, Fraction]]], *, steps: int, batch: int,
    length: int, cursors: Mapping[str, int] | None = None, roles: Mapping[str, str] | None = None, seed: int = 7,
) -> Attempt:  # fmt: skip
    """An attempt fed by role's `sources`, in `segments` of (first sample, share by role)."""
    ids = {role: source.id for role, source in sources.items()}
    mixes = [combine([(share, {ids[role]: Fraction(1)}) for role, share in mix.items()]) for _, mix in segments]
    made: tuple[Segment, ...] = (Segment(0, mixes[0], tuple((ids[r], n) for r, n in (cursors or {}).items())),)
    for (first, _), mix in zip(segments[1:], mixes[1:], strict=True):
        made = followed(made, first, mix)
    return Attempt(
        arm="cookbook", stage="stage2", number=0, rung="replay", label="replay 5 %", new="d1", old=("d0",), start=None,
        moments="keep", parts=(Part("new", Fraction(1)),),
        sources=tuple(FedSource(s.id, s.name, role, (roles or {}).get(role, role)) for role, s in sources.items()),
        segments=made, schedule=constant(1e-3, steps * batch * length), optimizer=Optimizer((0.9, 0.95), 1e-8, 0.1, 1.0),
        seed=seed, sequence_length=length, global_batch_size=batch, micro_batch_size=batch, steps=steps,
        max_epochs=Fraction(9), evaluation=EvaluationPlan((), {}), judgement=Judgement({}, 0.2), model={},
        tokenizer_sha256="", vocab_size=30_000,
    )  # fmt: skip
