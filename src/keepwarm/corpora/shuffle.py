"""Documents in an order drawn by a seed, written once, in bounded memory and with sequential reading.

Tokens lie in part files in the order of the text. Small corpora are read whole. Of larger ones each part is dealt out
to buckets, as much at a time as a bucket holds, where bucket b is to hold the documents of rank b*k to b*k + k - 1 in
the final order; then one bucket at a time is read and put in order. The order is the same either way, and each token is
read twice, never at random places of a file that does not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keepwarm import files
from keepwarm.corpora.indexed import IndexedWriter

BUCKET_BYTES, MOST_BUCKETS = 64 << 20, 1024
_BLOCK_DOCUMENTS, _BLOCK_TOKENS = 4096, 4 << 20


@dataclass(frozen=True, eq=False, slots=True)
class Run:
    """A file of documents' tokens, one after the other, and their lengths (documents,) in tokens."""

    path: Path
    lengths: NDArray[np.int64]


def write_shuffled(
    runs: Sequence[Run], order: NDArray[np.int64], writer: IndexedWriter, folder: Path, bucket_bytes: int = BUCKET_BYTES
) -> None:
    """Add the runs' documents to `writer`: first document order[0] of all, counted through the runs, then order[1] ...

    `folder` is for the buckets, which are removed.
    """
    lengths = np.concatenate([run.lengths for run in runs])
    total_bytes = int(lengths.sum()) * writer.dtype.itemsize
    count = max(1, min(MOST_BUCKETS, -(-total_bytes // bucket_bytes), len(order)))
    if count == 1:
        _emit(_read(runs, int(lengths.sum()), writer.dtype), lengths, order, writer)
        return
    edges = np.arange(count + 1) * len(order) // count
    buckets = [folder / f"bucket-{number:05d}" for number in range(count)]
    try:
        _deal(runs, order, edges, buckets, writer.dtype, -(-total_bytes // count) // writer.dtype.itemsize)
        for first, last, path in zip(edges[:-1].tolist(), edges[1:].tolist(), buckets, strict=True):
            arrived = np.sort(order[first:last])  # a bucket's documents lie in the order of the text
            tokens = np.fromfile(path, dtype=writer.dtype)
            _emit(tokens, lengths[arrived], np.searchsorted(arrived, order[first:last]), writer)
            path.unlink()
    finally:
        for path in buckets:
            path.unlink(missing_ok=True)


def _read(runs: Sequence[Run], total: int, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    tokens = np.empty(total, dtype=dtype)
    view = tokens.data.cast("B")
    for run in runs:
        with open(run.path, "rb", buffering=0) as file:
            while read := file.readinto(view):
                view = view[read:]
    assert not len(view), "a part is shorter than its lengths"
    return tokens


def _deal(
    runs: Sequence[Run], order: NDArray[np.int64], edges: NDArray[np.int64], buckets: Sequence[Path],
    dtype: np.dtype[np.generic], most_tokens: int,
) -> None:  # fmt: skip
    """Append every document to the bucket of its rank; about `most_tokens` are held at a time."""
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    bucket_of = np.searchsorted(edges, rank, side="right") - 1
    for path in buckets:
        path.unlink(missing_ok=True)
    before = 0
    for run in runs:
        with open(run.path, "rb") as file:
            for first, last in _spans(run.lengths, most_tokens, len(run.lengths)):
                lengths = run.lengths[first:last]
                tokens = np.fromfile(file, dtype=dtype, count=int(lengths.sum()))
                _append(tokens, lengths, bucket_of[before + first : before + last], buckets)
        before += len(run.lengths)


def _append(
    tokens: NDArray[np.generic], lengths: NDArray[np.int64], bucket_of: NDArray[np.int64], buckets: Sequence[Path]
) -> None:
    by_bucket = np.argsort(bucket_of, kind="stable")
    starts = np.searchsorted(bucket_of[by_bucket], np.arange(len(buckets) + 1))
    for number in np.unique(bucket_of).tolist():
        with files.explained(buckets[number]), open(buckets[number], "ab") as out:
            for block, _ in _gathered(tokens, lengths, by_bucket[starts[number] : starts[number + 1]]):
                out.write(block.data)


def _emit(
    tokens: NDArray[np.generic], lengths: NDArray[np.int64], order: NDArray[np.int64], writer: IndexedWriter
) -> None:
    for block, sizes in _gathered(tokens, lengths, order):
        writer.add_documents(block, sizes)


def _gathered(
    tokens: NDArray[np.generic], lengths: NDArray[np.int64], order: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.generic], NDArray[np.int64]]]:
    """The documents `order` of `tokens`, in blocks: their tokens in a row, and their lengths."""
    stops = np.cumsum(lengths)
    starts = stops - lengths
    for first, last in _spans(lengths[order], _BLOCK_TOKENS, _BLOCK_DOCUMENTS):
        chosen = order[first:last]
        spans = zip(starts[chosen].tolist(), stops[chosen].tolist(), strict=True)
        yield np.concatenate([tokens[start:stop] for start, stop in spans]), lengths[chosen]


def _spans(lengths: NDArray[np.int64], most_tokens: int, most_documents: int) -> Iterator[tuple[int, int]]:
    """[first, last) of the documents, divided where either limit is reached; a longer document is alone."""
    stops = np.cumsum(lengths)
    first, before = 0, 0
    while first < len(lengths):
        fitting = int(np.searchsorted(stops, before + most_tokens, side="right"))
        last = max(first + 1, min(fitting, first + most_documents))
        yield first, last
        first, before = last, int(stops[last - 1])
