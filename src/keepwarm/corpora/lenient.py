"""A token file as far as it can be read: for diagnosis, where `open_indexed` would refuse.

The index gives parts and what is wrong with its header. The `.bin` is read once, in blocks, under several readings at a
time: as the index says, and as it would be if a certain thing had gone wrong.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.indexed import CODES, HEADER, MAGIC
from keepwarm.errors import DataError

BLOCK_BYTES = 8 << 20
Progress = Callable[[int, int], None]  # bytes that were just read, and bytes in all
Longs = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class RawIndex:
    """The parts of an `.idx`; a part that is not whole is None."""

    faults: tuple[str, ...]  # of the header, in words
    dtype: np.dtype[Any] | None  # None: the code is not an integer type of tokens
    lengths: Longs | None  # (sequences,) tokens
    pointers: Longs | None  # (sequences,) bytes into .bin
    documents: Longs | None  # (documents + 1,) sequences


@dataclass(frozen=True, eq=False, slots=True)
class Reading:
    """One way to read a `.bin`: its sequences lie one after the other unless `ends` says otherwise."""

    dtype: np.dtype[Any]
    lengths: Longs  # (sequences,) tokens, none negative
    documents: Longs  # (documents + 1,) from 0 to sequences, never falling
    ends: Longs  # (documents that have tokens,) position of their last token, rising
    span: int | None  # tokens from the first document to the end of the last; None: all, documents lie here and there
    clue: int | None = None  # position of a token that may be the document end; None: the end of the first document

    @property
    def bytes(self) -> int:
        """Bytes of `.bin` that this reading needs."""
        return int(self.lengths.sum()) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Seen:
    """What a `.bin` holds under one reading."""

    high: int | None  # the highest id; None: no token
    low: int | None
    foreign: int  # ids below 0, or not below the vocabulary's size
    first_foreign: int | None  # position of the first of them
    eod: int | None  # the token that is looked for at the documents' ends
    eods: int  # how often it occurs
    closed: int  # how many documents end with it


def read_raw(path: Path) -> RawIndex:
    """Read what is there of an `.idx`."""
    data = path.read_bytes()
    if len(data) < HEADER.size:
        return RawIndex((f"has {len(data):,} bytes, a header alone has {HEADER.size}",), None, None, None, None)
    magic, version, code, sequences, entries = HEADER.unpack_from(data)
    wanted = HEADER.size + 12 * sequences + 8 * entries
    faults = []
    if magic != MAGIC:
        old = " (an older format, TNTIDX)" if magic.startswith(b"TNTIDX") else ""
        faults.append(f"does not begin with MMIDIDX{old}")
    if version != 1:
        faults.append(f"says version {version}; version 1 is known")
    if code not in CODES:
        faults.append(f"says dtype code {code}, which is not an integer type of tokens")
    if len(data) != wanted:
        faults.append(f"has {len(data):,} bytes, its header promises {wanted:,}")
    trusted = magic == MAGIC or len(data) == wanted  # else the counts are no counts

    def part(dtype: str, count: int, start: int) -> Longs | None:
        whole = trusted and start + count * np.dtype(dtype).itemsize <= len(data)
        return np.frombuffer(data, dtype, count, start).astype(np.int64) if whole else None

    return RawIndex(
        tuple(faults),
        np.dtype(CODES[code]) if code in CODES else None,
        part("<i4", sequences, HEADER.size),
        part("<i8", sequences, HEADER.size + 4 * sequences),
        part("<i8", entries, HEADER.size + 12 * sequences),
    )


def reading(dtype: np.dtype[Any], lengths: Longs, documents: Longs) -> Reading:
    """The reading of sequences that lie one after the other."""
    edges = np.concatenate([[0], np.cumsum(lengths)])[documents]
    return Reading(dtype, lengths, documents, edges[1:][np.diff(edges) > 0] - 1, int(lengths.sum()))


def reading_by_pointers(dtype: np.dtype[Any], lengths: Longs, documents: Longs, pointers: Longs) -> Reading:
    """The reading of sequences that lie where the index says."""
    last = (documents[1:] - 1)[np.diff(documents) > 0]
    ends = pointers[last] // dtype.itemsize + lengths[last] - 1
    return Reading(dtype, lengths, documents, np.sort(ends), None)


def scan(
    path: Path,
    readings: Sequence[Reading],
    *,
    vocab_size: int | None,
    eod: int | None,
    progress: Progress | None = None,
) -> tuple[list[Seen], Any]:
    """Read `path` once under all `readings`; what each sees, and the running blake2b digest of the bytes.

    Without `eod` each reading looks for the token at its clue. DataError if the file shrinks.
    """
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        tallies = [_Tally(one, vocab_size, _target(file.fileno(), one, size, eod)) for one in readings]
        for done, block in _blocks(file.fileno(), size, path):
            digest.update(block.data)
            for tally in tallies:
                tally.add(block, done)
            if progress is not None:
                progress(len(block), size)
    return [tally.seen() for tally in tallies], digest


def places_of(path: Path, dtype: np.dtype[Any], token: int) -> Longs:
    """The positions at which `token` stands in a `.bin`, ascending. DataError if the file shrinks."""
    found = [np.empty(0, dtype=np.int64)]
    with open(path, "rb", buffering=0) as file:
        for done, block in _blocks(file.fileno(), os.fstat(file.fileno()).st_size, path):
            found.append(np.flatnonzero(_whole(block, dtype) == token) + done // dtype.itemsize)
    return np.concatenate(found)


def token_at(path: Path, dtype: np.dtype[Any], place: int) -> int:
    """The token at a position that the `.bin` has."""
    with open(path, "rb", buffering=0) as file:
        return _token(file.fileno(), dtype, place)


def _blocks(descriptor: int, size: int, path: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yields (bytes before, the next block); each block lies where the one before it lay."""
    buffer = np.empty(min(BLOCK_BYTES, max(size, 1)), dtype=np.uint8)
    for done in range(0, size, len(buffer)):
        block = buffer[: min(len(buffer), size - done)]
        _fill(descriptor, block, done, path)
        yield done, block


def _whole(block: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The tokens that a block holds in full."""
    return block[: len(block) // dtype.itemsize * dtype.itemsize].view(dtype)


def _token(descriptor: int, dtype: np.dtype[Any], place: int) -> int:
    return int(np.frombuffer(os.pread(descriptor, dtype.itemsize, place * dtype.itemsize), dtype)[0])


def _fill(descriptor: int, block: NDArray[np.uint8], place: int, path: Path) -> None:
    view = block.data
    while len(view):
        read = os.preadv(descriptor, [view], place)
        if not read:
            raise DataError(
                f"{path}: became shorter while it was read", "another program writes to it", f"ls -l {path}"
            )
        view, place = view[read:], place + read


def _target(descriptor: int, one: Reading, size: int, eod: int | None) -> int | None:
    clues = one.ends if one.clue is None else np.array([one.clue])
    clues = clues[(clues >= 0) & (clues < size // one.dtype.itemsize)]
    if eod is not None or not len(clues):
        return eod
    return _token(descriptor, one.dtype, int(clues[0]))


class _Tally:
    """Counts of one reading, block by block."""

    def __init__(self, one: Reading, vocab_size: int | None, eod: int | None) -> None:
        self.reading, self.vocab_size, self.eod = one, vocab_size, eod
        self.high: int | None = None
        self.low: int | None = None
        self.foreign = self.eods = self.closed = 0
        self.first_foreign: int | None = None

    def add(self, block: NDArray[np.uint8], place: int) -> None:
        dtype = self.reading.dtype
        first = place // dtype.itemsize
        tokens = _whole(block, dtype)
        if self.reading.span is not None:
            tokens = tokens[: max(0, self.reading.span - first)]  # what belongs to no document holds no ids
        if not len(tokens):
            return
        high = int(tokens.max())
        low = int(tokens.min()) if dtype.kind == "i" else 0
        self.high = high if self.high is None else max(self.high, high)
        self.low = low if self.low is None else min(self.low, low)
        if low < 0 or (self.vocab_size is not None and high >= self.vocab_size):
            wrong = tokens < 0
            if self.vocab_size is not None:
                wrong |= tokens >= self.vocab_size
            self.foreign += int(np.count_nonzero(wrong))
            self.first_foreign = first + int(wrong.argmax()) if self.first_foreign is None else self.first_foreign
        if self.eod is not None:
            self.eods += int(np.count_nonzero(tokens == self.eod))
            since, until = np.searchsorted(self.reading.ends, [first, first + len(tokens)])
            self.closed += int(np.count_nonzero(tokens[self.reading.ends[since:until] - first] == self.eod))

    def seen(self) -> Seen:
        return Seen(self.high, self.low, self.foreign, self.first_foreign, self.eod, self.eods, self.closed)
