"""What is fed: sample n of an attempt -> (source, epoch, window) -> tokens, a function of (segments, seed, n) alone.

An attempt's samples are numbered from 0. A segment begins at a sample with a mixture and with each source's cursor:
the samples which the whole line has consumed of it so far. In a segment the interleave (`interleave.py`) tells the
source of a sample and its number there; cursor + number is the source's position p, and with L windows an epoch p
reads window permute(p mod L) of epoch p // L (`permutation.py`). So a source's positions run 0, 1, 2, ... through all
segments and attempts of a line: nothing repeats before everything was read once, whatever is added, removed or
reweighted between. World size and batch size play no part, and the state to resume is n.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from keepwarm.blend.interleave import Interleave
from keepwarm.blend.mixture import Mixture
from keepwarm.blend.permutation import permute
from keepwarm.blend.scans import compiled_loops
from keepwarm.blend.turns import Turns
from keepwarm.corpora.hashing import derive_key
from keepwarm.corpora.source import Source, WindowReader
from keepwarm.errors import DataError, LineageError

_BLOCK_SAMPLES = 65536
_AHEAD_SAMPLES = 16384


@dataclass(frozen=True, slots=True)
class Segment:
    """From sample `first_sample` of the attempt on, feed `mixture`.

    `cursors`: the samples of each source that the line consumed before this segment; a source not named has 0.
    """

    first_sample: int
    mixture: Mixture
    cursors: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Located:
    """Where samples come from, arrays (N,): number in `source_ids`, epoch, and window within the epoch."""

    source_ids: tuple[str, ...]
    source_index: NDArray[np.int64]
    epoch: NDArray[np.int64]
    window: NDArray[np.int64]


class Stream:
    """The samples of one attempt. `source_ids` numbers the sources in order of first use; new segments append."""

    def __init__(
        self, segments: Sequence[Segment], sources: Mapping[str, Source], seed: int, sequence_length: int
    ) -> None:
        """Check the plan of feeding; no token file is opened before `batch`.

        Raises DataError for a source that is missing or has no window, LineageError for segments out of order or
        whose cursors are not those which the segment before leaves.
        """
        self.segments = tuple(segments)
        self.sources = dict(sources)
        self.seed = seed
        self.sequence_length = sequence_length
        _refuse_order(self.segments)
        self.source_ids = tuple(dict.fromkeys(name for s in self.segments for name in s.mixture.source_ids))
        windows = np.array([self._windows_of(source_id) for source_id in self.source_ids], dtype=np.int64)
        self._turns = Turns(self.source_ids, windows, seed)
        self._ahead: tuple[int, int, Located | None] = (0, 0, None)
        self._reader = WindowReader([self.sources[source_id] for source_id in self.source_ids], sequence_length)
        interleaves: dict[Mixture, Interleave] = {}
        self._interleaves = [interleaves.setdefault(s.mixture, _interleave(s.mixture)) for s in self.segments]
        self._numbers, self._bases = self._tables()
        self._refuse_cursors()

    def windows(self, source_id: str) -> int:
        """Samples in one epoch of a source of this stream."""
        return int(self._turns.lengths[self.source_ids.index(source_id)])

    def locate(self, start: int, stop: int) -> Located:
        """Source, epoch and window of the samples [start, stop)."""
        compiled = compiled_loops(stop - start)
        if compiled is not None:
            found = [self._scan(compiled, k, first, last) for k, first, last in self._pieces(start, stop)]
            return Located(self.source_ids, *(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
        placed = [self._positions(k, first, last) for k, first, last in self._pieces(start, stop)]
        source_index = np.concatenate([source for source, _ in placed])
        position = np.concatenate([position for _, position in placed])
        return Located(self.source_ids, source_index, *self._turns.locate(source_index, position))

    def batch(
        self, start: int, stop: int, out: NDArray[np.int32] | None = None, part: slice | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Tokens of the samples [start, stop), (N, sequence_length + 1), and the number of each in `source_ids`, (N,).

        They are int32, which holds every id that a file can have; a trainer widens them on its own device. They are put
        into `out` if it is given: memory that was used before is faster than new memory. With `part`, only the tokens of
        these rows are read and given.
        """
        located = self._located_ahead(start, stop)
        rows = part or slice(0, stop - start)
        count = rows.stop - rows.start
        tokens = np.empty((count, self.sequence_length + 1), dtype=np.int32) if out is None else out[:count]
        self._reader.read(located.source_index[rows], located.window[rows], tokens)
        return tokens, located.source_index

    def _located_ahead(self, start: int, stop: int) -> Located:
        """`locate`, of ever larger blocks: a batch alone pays numpy's overhead, a block of batches hides it."""
        first, last, block = self._ahead
        if block is None or not first <= start <= stop <= last:
            first, last = start, max(stop, start + min(_AHEAD_SAMPLES, 2 * (last - first)))
            block = self.locate(first, last)
            self._ahead = (first, last, block)
        part = slice(start - first, stop - first)
        return Located(self.source_ids, block.source_index[part], block.epoch[part], block.window[part])

    def close(self) -> None:
        """Close the token files that `batch` opened; it opens them again when it is asked again."""
        self._reader.close()

    def cursors(self, n: int) -> dict[str, int]:
        """Samples of each source that the line has consumed after `n` samples of this attempt, exact.

        Sources of earlier segments and attempts that are not fed now keep theirs.
        """
        return self._cursors_in(self._segment_of(n), n)

    def digest(self, start: int, stop: int) -> str:
        """Hex SHA-256 of the sequence (source id, epoch, window) of samples [start, stop).

        Two runs fed the same samples in the same order if and only if their digests agree.
        """
        names = np.array([derive_key("source", source_id) for source_id in self.source_ids], dtype="<u8")
        sha = hashlib.sha256()
        for first in range(start, stop, _BLOCK_SAMPLES):
            located = self.locate(first, min(stop, first + _BLOCK_SAMPLES))
            fields = [names[located.source_index], located.epoch.astype("<u8"), located.window.astype("<u8")]
            sha.update(np.stack(fields, axis=1).tobytes())
        return sha.hexdigest()

    def _windows_of(self, source_id: str) -> int:
        source = self.sources.get(source_id)
        if source is None:
            raise DataError(
                f"source {source_id} of the mixture was not opened",
                "its share of the samples would have nothing to read",
                "restore its token file, or leave the source out of the mix",
            )
        windows = source.windows(self.sequence_length)
        if not windows:
            raise DataError(
                f"{source.prefix}: {source.name} has {source.tokens} tokens to train on, fewer than one sample of "
                f"sequence_length {self.sequence_length} + 1",
                "a source without a whole window cannot be fed its share of the mix",
                "tokenize it together with more text, lower sequence_length, or leave it out of the mix",
            )
        return windows

    def _segment_of(self, n: int) -> int:
        assert n >= 0, n
        return max(k for k, segment in enumerate(self.segments) if segment.first_sample <= n)

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """(segment, first sample, stop) of the parts of [start, stop), each small enough for the processor's cache."""
        assert 0 <= start < stop, (start, stop)
        ends = [*(segment.first_sample for segment in self.segments[1:]), stop]
        return [
            (k, first, min(first + _BLOCK_SAMPLES, stop, end))
            for k, (segment, end) in enumerate(zip(self.segments, ends, strict=True))
            for first in range(max(start, segment.first_sample), min(stop, end), _BLOCK_SAMPLES)
        ]

    def _scan(self, compiled: ModuleType, k: int, start: int, stop: int) -> tuple[NDArray[np.int64], ...]:
        """Source number, epoch and window of samples [start, stop), all in segment k, by the compiled loop."""
        source, epoch, window = np.empty((3, stop - start), dtype=np.int64)
        turns, tree = self._turns, self._interleaves[k]
        compiled.locate(
            start - self.segments[k].first_sample, tree.share_table, tree.child_table, self._numbers[k], self._bases[k],
            turns.lengths, turns.first, turns.epoch, turns.key, source, epoch, window,
        )  # fmt: skip
        rest = np.flatnonzero(window < 0)
        if len(rest):
            keys = turns.keys(source[rest], epoch[rest])
            window[rest] = permute(-1 - window[rest], turns.lengths[source[rest]], keys)
        return source, epoch, window

    def _positions(self, k: int, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source number and position in the source of samples [start, stop), all in segment k."""
        first = self.segments[k].first_sample
        leaf, local = self._interleaves[k].locate(np.arange(start - first, stop - first, dtype=np.uint64))
        return self._numbers[k][leaf], self._bases[k][leaf] + local

    def _tables(self) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """For each segment, its leaves' numbers in `source_ids` and their cursors."""
        number = {source_id: at for at, source_id in enumerate(self.source_ids)}
        numbers, bases = [], []
        for segment in self.segments:
            cursors = dict(segment.cursors)
            numbers.append(np.array([number[name] for name in segment.mixture.source_ids], dtype=np.int64))
            bases.append(np.array([cursors.get(name, 0) for name in segment.mixture.source_ids], dtype=np.int64))
        return numbers, bases

    def _cursors_in(self, k: int, n: int) -> dict[str, int]:
        return _consumed(self.segments[k], self._interleaves[k], n)

    def with_segments(self, segments: Sequence[Segment]) -> Stream:
        """The same sources in the order of other segments."""
        return Stream(segments, self.sources, self.seed, self.sequence_length)

    def _refuse_cursors(self) -> None:
        for k, segment in enumerate(self.segments[1:]):
            left, taken = self._cursors_in(k, segment.first_sample), dict(segment.cursors)
            for source_id in left.keys() | taken.keys():
                if left.get(source_id, 0) != taken.get(source_id, 0):
                    raise LineageError(
                        f"the segment at sample {segment.first_sample} starts source {source_id} at "
                        f"{taken.get(source_id, 0)}; the segment before leaves it at {left.get(source_id, 0)}",
                        "samples would repeat or be left out",
                        "make the segment with next_segment(), or restore the attempt's record",
                    )


def next_segment(previous: Stream, at_sample: int, mixture: Mixture) -> Segment:
    """The segment that feeds `mixture` from sample `at_sample` of the same attempt on, cursors carried."""
    return Segment(at_sample, mixture, tuple(previous.cursors(at_sample).items()))


def followed(segments: Sequence[Segment], at_sample: int, mixture: Mixture) -> tuple[Segment, ...]:
    """The segments of an attempt and one more behind them, which feeds `mixture` from `at_sample` on."""
    last = segments[-1]
    cursors = _consumed(last, _interleave(last.mixture), at_sample)
    return (*segments, Segment(at_sample, mixture, tuple(cursors.items())))


def _interleave(mixture: Mixture) -> Interleave:
    return Interleave([weight for _, weight in mixture.weights])


def _consumed(segment: Segment, interleave: Interleave, n: int) -> dict[str, int]:
    """Samples of each source that the line has consumed after `n` samples of the attempt, n within the segment."""
    cursors = dict(segment.cursors)
    for source_id, count in zip(segment.mixture.source_ids, interleave.counts(n - segment.first_sample), strict=True):
        cursors[source_id] = cursors.get(source_id, 0) + count
    return cursors


def _refuse_order(segments: Sequence[Segment]) -> None:
    starts = [segment.first_sample for segment in segments]
    if not starts or starts[0] != 0 or any(b <= a for a, b in pairwise(starts)):
        raise LineageError(
            f"segments begin at samples {starts}, not at 0 and then ever later",
            "each sample of an attempt belongs to exactly one mixture",
            "restore the attempt's record, or make the attempt anew",
        )
