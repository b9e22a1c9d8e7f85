"""The trainer's file list and what its lines name: views, an `.idx` of a source's next windows beside a link to its `.bin`.

A line is `weight prefix corpus`, one corpus a source, so that a source is drawn as often as its weight says. Its view
holds, as sequences of `sequence_length` tokens, the windows that a launch reads of the source: from its cursor on, in
keepwarm's own order, laid out so that the trainer's shuffles draw them in that order (blend/trainer_order.py). Nothing
that is held out or left out is in it, nothing that was fed before in this epoch, and nothing is copied. A window that
goes on behind a span that is left out is two sequences, which the layout keeps in a row.

The trainer asks for more than it reads: 0.5 % of the samples, those that a resume skips, one window for the last
sample's last target, and 1 % to validate on. There a view has the windows that come next; they are trained on only if
the trainer is started with another seed or length than the list was made for, and then each once.

A sample's last target is the first token of the window behind it in the trainer's row, not of its own text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from keepwarm.attempt.model import Attempt
from keepwarm.blend.blendcorpus import BlendCorpus
from keepwarm.blend.stream import Segment, followed
from keepwarm.blend.trainer_order import SEED, SPLIT
from keepwarm.corpora.filelist import Entry
from keepwarm.errors import PlanError

TRAINER_SEED = SEED
APART_SAMPLES = 3  # what the trainer draws of a source and the attempt's own count may differ by: their orders' bounds
_ROUNDS = 8
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a launch reads of a list: the samples [skipped, skipped + samples) of a run that is built for `built`.

    They are the attempt's samples [first_sample, first_sample + samples). `seed` is the trainer's.
    """

    first_sample: int
    samples: int
    skipped: int
    built: int
    seed: int


@dataclass(frozen=True, slots=True)
class View:
    """A line of the list, and the view that it names.

    Of the source's own order the launch reads the `windows` windows from `first_position` on. The trainer gives the
    file `given` samples, of which it draws `skipped` before this launch.
    """

    source_id: str
    role: str
    name: str  # the source's
    corpus: str  # the line's third field, and the view's name
    prefix: Path
    weight: str
    first_position: int
    windows: int
    skipped: int
    given: int

    @property
    def line(self) -> str:
        """As the list has it."""
        return f"{self.weight} {self.prefix} {self.corpus}\n"

    def to_json(self, attempt: Attempt, reading: Reading) -> dict[str, Any]:
        """`NAME.view.json`: decides every byte of the view."""
        return {
            "format": 1, "source": self.source_id, "name": self.name, "first_position": self.first_position,
            "windows": self.windows, "skipped": self.skipped, "given": self.given, "built_samples": reading.built,
            "sequence_length": attempt.sequence_length, "order_seed": attempt.seed, "trainer_seed": reading.seed,
            "split": SPLIT,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class DataList:
    """A list of views in `folder`. `left_out`: a sentence for each source whose share comes to no sample."""

    folder: Path
    text: str
    views: tuple[View, ...]
    left_out: tuple[str, ...]
    reading: Reading


def list_of(
    attempt: Attempt, folder: Path, *, first_sample: int = 0, last_sample: int | None = None, skipped_samples: int = 0,
    built_samples: int | None = None, seed: int = TRAINER_SEED,
) -> DataList:  # fmt: skip
    """The list, with views in `folder`, for a launch that feeds the attempt's samples [first_sample, last_sample).

    `skipped_samples` are those of the list that a resume passes over in front, `built_samples` what the trainer builds
    the list for: its iterations in all, times the batch. Weights are the mix's shares; where the trainer's rounding up,
    file by file, would draw something else by more than its order does, they are mended. Pure. PlanError if the mix
    changes inside of the range, or may change while it is fed.
    """
    reading = reading_of(attempt, first_sample, last_sample, skipped_samples, built_samples, seed)
    segment, after = _segment(attempt, reading)
    refuse_spaces(folder)
    before = dict(segment.cursors)
    wanted = {source: after[source] - before.get(source, 0) for source in segment.mixture.source_ids}
    ids = [source for source, count in wanted.items() if count]
    weights = [float(segment.mixture.share(source)) for source in ids]
    found: list[tuple[int, list[View]]] = []
    for _ in range(_ROUNDS):
        views = _views(attempt, segment, dict(zip(ids, weights, strict=True)), folder, reading)
        drawn = [view.windows for view in views]
        found.append((max(abs(count - wanted[source]) for source, count in zip(ids, drawn, strict=True)), views))
        if found[-1][0] <= APART_SAMPLES:
            break
        weights = [
            weight * wanted[source] / max(count, 0.5) for source, weight, count in zip(ids, weights, drawn, strict=True)
        ]
    views = min(found, key=lambda each: each[0])[1]
    left_out = [_nothing(attempt, segment, source, reading) for source, count in wanted.items() if not count]
    return DataList(folder, "".join(view.line for view in views), tuple(views), tuple(left_out), reading)


def reading_of(
    attempt: Attempt, first_sample: int, last_sample: int | None, skipped: int, built: int | None, seed: int
) -> Reading:
    """What a launch reads, with what it leaves open filled in."""
    last = attempt.batches.samples(attempt.steps) if last_sample is None else last_sample
    built = skipped + last - first_sample if built is None else built
    assert 0 <= first_sample < last and skipped >= 0 and skipped + last - first_sample <= built, (first_sample, last)
    return Reading(first_sample, last - first_sample, skipped, built, seed)


def refuse_spaces(folder: Path) -> None:
    """PlanError for a folder that a line of the list can't name."""
    if not folder.is_absolute() or len(str(folder).split()) != 1 or ".bin" in str(folder):
        raise PlanError(
            f"run.folder: the trainer's list can't name {folder}",
            "its lines are divided at spaces, it cuts a path at .bin, and it is read from another folder",
            "choose a run folder with an absolute path without spaces",
        )


def _segment(attempt: Attempt, reading: Reading) -> tuple[Segment, dict[str, int]]:
    """What is fed in the range, as one segment that begins with it, and the cursors behind it."""
    first, last = reading.first_sample, reading.first_sample + reading.samples
    number = max(k for k, each in enumerate(attempt.segments) if each.first_sample <= first)
    inside = [each.first_sample for each in attempt.segments[number + 1 :] if each.first_sample < last]
    if inside or attempt.steering is not None:
        raise PlanError(
            f"{attempt.folder}: its mix changes " + (f"at sample {inside[0]:,}" if inside else "while it is fed"),
            "the trainer mixes the lines of a list by the same weights from beginning to end",
            "give it the samples themselves: keepwarm data materialize PLAN OUT",
        )
    fed = attempt.segments[: number + 1]
    return Segment(first, fed[-1].mixture, _cursors(fed, first)), dict(_cursors(fed, last))


def _cursors(segments: Sequence[Segment], sample: int) -> tuple[tuple[str, int], ...]:
    """What the line has consumed of each source when the attempt comes to a sample of its last segment."""
    last = segments[-1]
    return last.cursors if sample == last.first_sample else followed(segments, sample, last.mixture)[-1].cursors


def _views(
    attempt: Attempt, segment: Segment, weights: Mapping[str, float], folder: Path, reading: Reading
) -> list[View]:
    """A view for each of the sources that weigh something, with what the trainer's own order would draw of it."""
    fed, cursors = {source.id: source for source in attempt.sources}, dict(segment.cursors)
    names = _names([f"{fed[source].role}.{Path(fed[source].name).name}" for source in weights])
    texts = [repr(weight) for weight in weights.values()]  # they survive being read back, to the last bit
    entries = [
        Entry(Fraction(text), text, str(folder / name), name, "data-list.txt")
        for text, name in zip(texts, names, strict=True)
    ]
    order = BlendCorpus(entries, reading.built, reading.seed, shuffled=True, blended=False)
    skipped, stop = order.counts(reading.skipped), order.counts(reading.skipped + reading.samples)
    return [
        View(
            source_id=source, role=fed[source].role, name=fed[source].name, corpus=name, prefix=folder / name,
            weight=weight, first_position=cursors.get(source, 0), windows=stop[name] - skipped[name],
            skipped=skipped[name], given=order.given(name),
        )
        for source, name, weight in zip(weights, names, texts, strict=True)
    ]  # fmt: skip


def _nothing(attempt: Attempt, segment: Segment, source_id: str, reading: Reading) -> str:
    name = next(source.name for source in attempt.sources if source.id == source_id)
    share = segment.mixture.share(source_id)
    return f"{name}: left out, its share {float(share):.3g} of {reading.samples:,} samples comes to none"


def _names(wanted: Sequence[str]) -> list[str]:
    """Each as one word, none twice."""
    found: dict[str, None] = {}
    for text in wanted:
        name = base = _NOT_IN_NAMES.sub("-", text)
        number = 1
        while name in found:
            number += 1
            name = f"{base}.{number}"
        found[name] = None
    return list(found)
