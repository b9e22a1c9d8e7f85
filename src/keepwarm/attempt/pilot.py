"""A pilot: the first steps of an attempt in small, repeating every source as often as the whole attempt would.

A scarce source is read several times over in the end, and a pilot of 2 % would see each of its windows once: it would
forecast for fresh text what will be learned from repeated text (2606.07597). So a pilot draws on a part of every source
that the whole attempt repeats, in proportion to what it reads of it, and the line's cursor is moved into that part.
Which of the part's windows the line has read before is not kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from keepwarm.attempt.line import Feed, open_stream
from keepwarm.attempt.model import Attempt, EvaluationPlan
from keepwarm.attempt.timing import FEWEST_WINDOWS, FORWARD_COST
from keepwarm.blend.ledger import ledger
from keepwarm.blend.mixture import Mixture
from keepwarm.blend.stream import Segment
from keepwarm.corpora.source import Source
from keepwarm.schedule.schedule import constant

RUN_WINDOWS = 8  # taken in a row: where a part's runs meet, one target is another text's
FEWEST_POINTS, MOST_POINTS = 8, 16
EVALUATION_SHARE = 0.5  # of a pilot's training compute, that its evaluations may cost beyond the fewest


@dataclass(frozen=True, slots=True)
class Part:
    """A source of which a pilot reads a part: windows of all there are."""

    source: Source
    name: str
    windows: int
    of_windows: int


def pilot_of(full: Attempt, feed: Feed, steps: int, arm: str, number: int) -> tuple[Attempt, Feed, tuple[Part, ...]]:
    """The pilot of `steps` optimizer steps of an attempt with one mix, what it is fed from, and the sources it thins."""
    (segment,) = full.segments
    parts = _parts(full, feed, full.batches.samples(steps))
    cursors = dict(segment.cursors)
    renamed = {old: part.source.id for old, (part, _) in parts.items()}
    weights = tuple((renamed.get(name, name), weight) for name, weight in segment.mixture.weights)
    moved = {renamed.get(name, name): parts[name][1] if name in parts else at for name, at in cursors.items()}
    moved |= {part.source.id: at for part, at in parts.values()}
    pilot = replace(
        full, arm=arm, number=number, label=f"pilot, {full.label}", steps=steps,
        schedule=constant(full.schedule.lr_max, full.tokens_at(steps)), evaluation=_evaluation(full, feed, steps),
        segments=(Segment(0, Mixture(weights), tuple(sorted(moved.items()))),),
        sources=tuple(
            replace(each, id=parts[each.id][0].source.id, name=parts[each.id][0].name) if each.id in parts else each
            for each in full.sources
        ),
        warnings=(*full.warnings, *(f"reads {part.windows} of {part.of_windows} windows of {each}, as often as the "
                                    f"whole attempt reads all" for each, part in _named(parts, feed))),
    )  # fmt: skip
    sources = {part.source.id: (part.source, feed.sources[old][1]) for old, (part, _) in parts.items()}
    return pilot, replace(feed, sources={**feed.sources, **sources}), tuple(part for part, _ in parts.values())


def thinned(source: Source, windows: int, sequence_length: int) -> Source:
    """A part of a source: so many of its windows, in runs spread evenly over it; the same ones every time."""
    total = source.windows(sequence_length)
    assert 0 < windows <= total, (windows, total)
    runs = -(-windows // RUN_WINDOWS)
    number = np.arange(runs)
    firsts, lengths = number * total // runs, (number + 1) * windows // runs - number * windows // runs
    starts, stops = firsts * sequence_length, (firsts + lengths) * sequence_length
    stops[-1] += 1  # the last window's last target
    ends = np.cumsum(source.kept[:, 1] - source.kept[:, 0])
    shifts = source.kept[:, 1] - ends
    kept = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        span = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            end = min(stop, int(ends[span]))
            kept.append((start + shifts[span], end + shifts[span]))
            start, span = end, span + 1
    name = hashlib.sha256(f"{source.id} {windows} of {total}".encode()).hexdigest()[:16]
    return Source(f"{source.name} ({windows} of {total} windows)", name, source.prefix, _joined(kept))


def _joined(spans: list[tuple[int, int]]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Spans that touch are one."""
    joined = [list(spans[0])]
    for start, stop in spans[1:]:
        if start == joined[-1][1]:
            joined[-1][1] = stop
        else:
            joined.append([start, stop])
    return np.array(joined, dtype=np.int64)


def _parts(full: Attempt, feed: Feed, samples: int) -> dict[str, tuple[Part, int]]:
    """By source that the whole attempt takes beyond one reading: the pilot's part of it, and the line's cursor in it."""
    stream, whole = open_stream(full, feed), full.batches.samples(full.steps)
    short = {row.source_id: row for row in ledger(stream, samples)}
    found = {}
    for row in ledger(stream, whole):
        read, source = short[row.source_id].samples, feed.sources[row.source_id][0]
        if row.epochs_after > 1 and read:
            windows = max(1, round(stream.windows(row.source_id) * read / row.samples))
            part = thinned(source, windows, full.sequence_length)
            cursor = round(row.epochs_before * windows)
            found[row.source_id] = (Part(part, part.name, windows, stream.windows(row.source_id)), cursor)
    return found


def _named(parts: Mapping[str, tuple[Part, int]], feed: Feed) -> list[tuple[str, Part]]:
    return [(feed.sources[old][0].name, part) for old, (part, _) in parts.items()]


def _evaluation(full: Attempt, feed: Feed, steps: int) -> EvaluationPlan:
    """Points that become sparser, at least `FEWEST_POINTS`; all held-out windows where they are cheap, else a subset."""
    watched = [name for name in (*full.old, full.new) if name]
    windows = {name: (feed.corpora[name].holdout_tokens - 1) // full.sequence_length for name in watched}
    budget = EVALUATION_SHARE * full.tokens_at(steps) / (FORWARD_COST * full.sequence_length)  # windows
    each = sum(windows.values())
    count = int(np.clip(budget // each, FEWEST_POINTS, MOST_POINTS))
    share = min(1.0, budget / (count * each))
    size = {name: min(many, max(FEWEST_WINDOWS, int(share * many))) for name, many in windows.items()}
    points = {max(1, round(steps * (number / (count + 1)) ** 1.3)) for number in range(1, count + 1)}
    return EvaluationPlan(tuple(sorted(point for point in points if point < steps)), size)
