"""Where the samples of a batch lie, down to the documents: arithmetic on the order of data, read from the index alone.

So a batch that broke a step is traced to (source, document): words such as `papers document 17 (tokens 1,024-1,536)`,
the command that shows it, and the line of an exclusion list that leaves it out. Documents and tokens are counted from
0, a range of tokens is [first, end).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.blend.stream import Stream
from keepwarm.corpora.identity import document_spans
from keepwarm.corpora.indexed import open_indexed
from keepwarm.corpora.source import Source

_TOLD_DOCUMENTS, _TOLD_SAMPLES = 3, 16
_APART = 5.0  # robust deviations; of a batch's few samples, where one is told, not acted on
_DEVIATION_OF_MAD = 1.4826


@dataclass(frozen=True, slots=True)
class Part:
    """A run of a sample's tokens within one document. `document` is its number in PREFIX.idx."""

    document: int
    first_token: int  # within the document
    tokens: int
    bin_token: int  # where the run begins in .bin

    def words(self) -> str:
        """For people."""
        return f"document {self.document:,} (tokens {self.first_token:,}-{self.first_token + self.tokens:,})"


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: which window of which source it is, and the parts of documents that its sequence_length + 1 tokens are
    made of, in order."""

    sample: int
    source: str  # its name
    source_id: str
    prefix: Path
    epoch: int
    window: int
    parts: tuple[Part, ...]

    def words(self) -> str:
        """For people: the source and its documents, at most three by number."""
        told = ", ".join(part.words() for part in self.parts[:_TOLD_DOCUMENTS])
        more = len(self.parts) - _TOLD_DOCUMENTS
        return f"{self.source} {told}{f' and {more} documents more' if more > 0 else ''}"

    def commands(self) -> tuple[str, ...]:
        """What shows each of its documents."""
        documents = dict.fromkeys(part.document for part in self.parts)
        return tuple(f"keepwarm data show {quote(str(self.prefix))} --document {document}" for document in documents)

    def exclusions(self) -> tuple[str, ...]:
        """The lines that leave each of its documents out, of a list as `corpora: {NAME: {exclude: FILE}}` has it."""
        return tuple(f"{self.prefix} document {document}" for document in dict.fromkeys(p.document for p in self.parts))

    def to_dict(self, *, loss: float | None = None, culprit: bool = False) -> dict[str, Any]:
        """What an event has of it; `loss` of the sample where it was measured, None where it is not finite."""
        parts = [asdict(part) for part in self.parts]
        return {
            "sample": self.sample, "source": self.source, "source_id": self.source_id, "prefix": str(self.prefix),
            "epoch": self.epoch, "window": self.window, "parts": parts, "loss": loss, "culprit": culprit,
            "words": self.words(), "show": list(self.commands()),
        }  # fmt: skip


def located(stream: Stream, first_sample: int, end_sample: int) -> tuple[Sample, ...]:
    """Where the samples [first_sample, end_sample) of an attempt lie. DataError for a token file that is gone."""
    found = stream.locate(first_sample, end_sample)
    places = np.stack([found.source_index, found.epoch, found.window], axis=1).tolist()
    spans: dict[int, NDArray[np.int64]] = {}
    samples = []
    for number, (index, epoch, window) in enumerate(places, start=first_sample):
        source = stream.sources[stream.source_ids[index]]
        if index not in spans:
            spans[index] = document_spans(open_indexed(source.prefix))
        parts = _parts(source, spans[index], window * stream.sequence_length, stream.sequence_length + 1)
        samples.append(Sample(number, source.name, source.id, source.prefix, epoch, window, parts))
    return tuple(samples)


def culprits(losses: Sequence[float]) -> tuple[int, ...]:
    """Which samples of a batch stand out by their losses, by place: those that are not finite, else those more than 5
    robust deviations above the batch's median, the highest first; none where all are alike, also all not finite."""
    broken = tuple(place for place, loss in enumerate(losses) if not math.isfinite(loss))
    if broken or not losses:
        return broken if len(losses) == 1 or len(broken) < len(losses) else ()
    values = np.asarray(losses, dtype=np.float64)
    above = values - np.median(values)
    apart = np.flatnonzero(above > _APART * _DEVIATION_OF_MAD * np.median(np.abs(above)))
    return tuple(apart[np.argsort(-above[apart], kind="stable")].tolist())


def told(samples: Sequence[Sample], losses: Sequence[float]) -> list[dict[str, Any]]:
    """What an event has of a batch: its culprits, else its samples with the highest losses, at most 16 of them. The
    others can be `located` again from the event's numbers of samples."""
    assert len(samples) == len(losses), (len(samples), len(losses))
    found = culprits(losses)
    highest = sorted(
        range(len(losses)), key=lambda place: -losses[place] if math.isfinite(losses[place]) else -math.inf
    )
    return [
        samples[place].to_dict(loss=losses[place] if math.isfinite(losses[place]) else None, culprit=bool(found))
        for place in (found or highest)[:_TOLD_SAMPLES]
    ]


def _parts(source: Source, documents: NDArray[np.int64], first: int, tokens: int) -> tuple[Part, ...]:
    """The parts of documents, in order, that `tokens` tokens from place `first` of the kept spans in a row lie in."""
    ends = np.cumsum(source.kept[:, 1] - source.kept[:, 0])
    shifts = source.kept[:, 1] - ends
    order = np.argsort(documents[:, 0], kind="stable")
    order = order[documents[order, 1] > documents[order, 0]]
    starts, stops = documents[order, 0], documents[order, 1]
    parts, stop = [], first + tokens
    while first < stop:
        span = int(np.searchsorted(ends, first, side="right"))
        place, reach = int(first + shifts[span]), int(min(stop, ends[span]) + shifts[span])
        at = int(np.searchsorted(stops, place, side="right"))
        while at < len(order) and starts[at] < reach:
            begin, end = max(place, int(starts[at])), min(reach, int(stops[at]))
            parts.append(Part(int(order[at]), begin - int(starts[at]), end - begin, begin))
            at += 1
        first += reach - place
    return tuple(_joined(parts))


def _joined(parts: Sequence[Part]) -> list[Part]:
    """Neighbours of one document as one part: kept spans may join inside a document."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if last and last.document == part.document and last.bin_token + last.tokens == part.bin_token:
            found[-1] = Part(last.document, last.first_token, last.tokens + part.tokens, last.bin_token)
        else:
            found.append(part)
    return found
