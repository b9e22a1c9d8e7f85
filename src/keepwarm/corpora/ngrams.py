"""Which n-grams of some documents occur in a long row of tokens: hashes, a filter of bits, a sorted array.

An n-gram's hash is a polynomial of its mixed tokens modulo 2**64 (Karp and Rabin 1987), the same wherever the n-gram
stands. It is read off running sums, so a longer n costs no more. Two different n-grams share a hash with a chance of
about 2**-58: for a trillion tokens against a million n-grams, in fewer than ten places. A bitmap (a Bloom filter of
one hash, Bloom 1970) answers "no" for nearly all tokens before the sorted array is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.hashing import mix64_into
from keepwarm.corpora.pairs import Pairs

BLOCK = 1 << 16  # tokens hashed at a time: the working arrays fit the processor's own cache
_BASE = 0xD1342543DE82EF95  # odd, so that it has an inverse
_BITS_A_NGRAM = 32  # of the filter; one in 32 foreign n-grams passes it
_FEWEST_BITS, _MOST_BITS = 16, 31  # binary logarithms
_MOST_EXPANDED = 1 << 22  # (document, holder) in memory at a time

Tick = Callable[[int], None]  # tokens that were just read


@dataclass(frozen=True, eq=False, slots=True)
class Ngrams:
    """The distinct n-grams of some documents ("holders"), ready to be looked up."""

    n: int
    hashes: NDArray[np.uint64]  # (ngrams,) ascending, distinct
    holder_starts: NDArray[np.int64]  # (ngrams + 1,) where each one's holders begin
    holders: NDArray[np.int64]  # rows of the documents that have it
    counts: NDArray[np.int64]  # (documents,) distinct n-grams of each document
    bitmap: NDArray[np.uint8]  # bit h >> shift is 1 if an n-gram has the hash h
    shift: np.uint64


@dataclass(frozen=True, eq=False, slots=True)
class Cover:
    """What looking up every n-gram of a file's documents has shown."""

    occurs: NDArray[np.bool_]  # (ngrams,) looked-up n-grams that occur in the file
    touched: NDArray[np.int64]  # (k, 2): row of a document, how many of its n-grams (places) were found
    pairs: Pairs  # of a document and a holder it covers, with the share of the holder's distinct n-grams


def hashes_of(tokens: NDArray[Any], n: int, block: int = BLOCK) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """Yields (first position, hashes of the n-grams from there on), for all len(tokens) - n + 1 positions in turn.

    With B the base and m(t) a token's mixed value, the hash at i is the sum over j < n of m(t[i+j]) B**j: the
    difference of two running sums of m(t[k]) B**k, divided by B**i.
    """
    tokens, block = np.asarray(tokens), max(block, 2 * n)  # a mapping's own class would slow each step down
    powers, inverses = _powers(block)
    spare = np.empty(block, dtype=np.uint64)
    for first in range(0, len(tokens) - n + 1, block - n + 1):
        values = tokens[first : first + block].astype(np.uint64)
        size = len(values)
        mix64_into(values, spare[:size])
        values *= powers[:size]
        sums = np.cumsum(values, out=spare[:size])
        hashes = np.empty(size - n + 1, dtype=np.uint64)
        hashes[0] = sums[n - 1]
        np.subtract(sums[n:], sums[:-n], out=hashes[1:])
        hashes *= inverses[: len(hashes)]
        yield first, hashes


def positions_inside(
    tokens: NDArray[Any], spans: NDArray[np.int64], n: int, eod: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(positions, rows): where an n-gram lies in one of the `spans` (ascending), and holds no document end."""
    starts = [np.arange(start, stop - n + 1) for start, stop in spans.tolist()]
    counts = [len(each) for each in starts]
    positions = np.concatenate([np.empty(0, dtype=np.int64), *starts])
    rows = np.repeat(np.arange(len(spans)), counts)
    if eod is not None and len(positions):
        ends = np.concatenate([[0], np.cumsum(tokens == eod)])
        whole = ends[positions + n] == ends[positions]
        positions, rows = positions[whole], rows[whole]
    return positions, rows


def count_ngrams(tokens: NDArray[Any], n: int, eod: int | None) -> int:
    """Places in a document where an n-gram stands that holds no document end."""
    ends = np.flatnonzero(tokens == eod) if eod is not None else np.empty(0, dtype=np.int64)
    lengths = np.diff(np.concatenate([[-1], ends, [len(tokens)]])) - 1
    return int(np.maximum(lengths - n + 1, 0).sum())


def collect(tokens: NDArray[Any], spans: NDArray[np.int64], n: int, eod: int | None, block: int = BLOCK) -> Ngrams:
    """The n-grams of the documents `spans` (documents, 2), ascending; documents shorter than n have none."""
    positions, rows = positions_inside(tokens, spans, n, eod)
    every = np.concatenate([np.empty(0, dtype=np.uint64), *(found for _, found in hashes_of(tokens, n, block))])
    hashes = every[positions]
    order = np.lexsort((rows, hashes))
    hashes, rows = hashes[order], rows[order]
    fresh = np.ones(len(hashes), dtype=bool)
    fresh[1:] = (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1])
    hashes, rows = hashes[fresh], rows[fresh]
    distinct, starts = np.unique(hashes, return_index=True)
    bits = int(np.clip(int(_BITS_A_NGRAM * len(distinct)).bit_length(), _FEWEST_BITS, _MOST_BITS))
    shift = np.uint64(64 - bits)
    bitmap = np.zeros(1 << (bits - 3), dtype=np.uint8)
    places = distinct >> shift
    np.bitwise_or.at(bitmap, (places >> np.uint64(3)).astype(np.int64), _bit(places))
    counts = np.bincount(rows, minlength=len(spans)).astype(np.int64)
    return Ngrams(n, distinct, np.append(starts, len(rows)).astype(np.int64), rows, counts, bitmap, shift)


def look_up(ngrams: Ngrams, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(places in `hashes`, numbers of the n-grams that stand there), places ascending."""
    bits = hashes >> ngrams.shift
    passed = np.flatnonzero(ngrams.bitmap[(bits >> np.uint64(3)).view(np.int64)] & _bit(bits))
    if not len(passed) or not len(ngrams.hashes):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    wanted = hashes[passed]
    numbers = np.minimum(np.searchsorted(ngrams.hashes, wanted), len(ngrams.hashes) - 1)
    same = ngrams.hashes[numbers] == wanted
    return passed[same], numbers[same]


def cover(
    tokens: NDArray[Any], spans: NDArray[np.int64], ngrams: Ngrams, threshold: float, *, block: int = BLOCK,
    tick: Tick | None = None,
) -> Cover:  # fmt: skip
    """Look up every n-gram of the documents `spans` (documents, 2), ascending, in one pass.

    A pair is a document that has at least `threshold` of a holder's distinct n-grams. An n-gram across a document's
    border counts nowhere; one that holds a document end is no holder's, so it is not found. Memory is bounded by the
    block, `_MOST_EXPANDED` and what Pairs keeps, besides 16 bytes a document that has any.
    """
    occurs, index = np.zeros(len(ngrams.hashes), dtype=bool), _Index.of(ngrams, threshold)
    touched, pairs = [np.empty((0, 2), dtype=np.int64)], Pairs(len(spans), len(ngrams.counts))
    pending = np.empty(0, dtype=np.int64)  # row * ngrams + number, distinct
    scale = max(1, len(ngrams.hashes))
    for first, hashes in hashes_of(tokens, ngrams.n, block):
        places, numbers = look_up(ngrams, hashes)
        if tick is not None:
            tick(len(hashes))
        if not len(places):
            continue
        positions = places + first
        rows = np.searchsorted(spans[:, 0], positions, side="right") - 1
        inside = (rows >= 0) & (positions + ngrams.n <= spans[rows, 1])
        rows, numbers = rows[inside], numbers[inside]
        occurs[numbers] = True
        touched.append(np.stack(np.unique(rows, return_counts=True), axis=1))
        pending = np.unique(np.concatenate([pending, rows * scale + numbers]))
        # The last document may go on in the next block; those before it are complete.
        complete = int(np.searchsorted(pending, pending[-1] // scale * scale)) if len(pending) else 0
        _add_pairs(pairs, pending[:complete], ngrams, index, threshold)
        pending = pending[complete:]
    _add_pairs(pairs, pending, ngrams, index, threshold)
    return Cover(occurs, _summed(np.concatenate(touched)), pairs)


def ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """starts[0], starts[0] + 1, ... counts[0] of them, then those of the next."""
    ends = np.cumsum(counts)
    shifts: NDArray[np.int64] = np.repeat(starts - (ends - counts), counts)
    return shifts + np.arange(len(shifts))


def chunks(sizes: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Pieces in a row whose sizes come to `most` at most, of one item at least."""
    ends, first = np.cumsum(sizes), 0
    while first < len(sizes):
        before = int(ends[first] - sizes[first])
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield slice(first, last)
        first = last


def longest_shared(first: NDArray[Any], second: NDArray[Any], n: int) -> tuple[int, int]:
    """[start, stop) in `first`: its longest run of n-grams that `second` has too; (0, 0) if there is none."""
    both = [
        np.concatenate([np.empty(0, np.uint64), *(found for _, found in hashes_of(each, n))])
        for each in (first, second)
    ]
    change = np.diff(np.concatenate([[0], np.isin(both[0], both[1]).astype(np.int8), [0]]))
    starts, stops = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    if not len(starts):
        return 0, 0
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]), int(stops[longest]) + n - 1


@lru_cache(maxsize=2)
def _powers(size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """B**i and B**-i modulo 2**64 for i < size."""
    tables = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        table = np.full(size, base, dtype=np.uint64)
        table[0] = 1
        tables.append(np.multiply.accumulate(table))
    return tables[0], tables[1]


def _bit(places: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The bit of its byte that stands for each place."""
    bits: NDArray[np.uint8] = np.left_shift(np.uint8(1), places.astype(np.uint8) & np.uint8(7))
    return bits


def _summed(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(row, count) lines with the counts of a row added up."""
    rows, places = np.unique(counts[:, 0], return_inverse=True)
    sums = np.zeros(len(rows), dtype=np.int64)
    np.add.at(sums, places, counts[:, 1])
    return np.stack([rows, sums], axis=1)


@dataclass(frozen=True, eq=False, slots=True)
class _Index:
    """What finds the holders that a document covers, without counting every holder of every n-gram they share.

    A document with k of a holder's G n-grams has at least one of any G - k + 1 of them ("prefix filtering", Chaudhuri,
    Ganti, Kaushik 2006). So only the G - k + 1 that the fewest holders have lead to it: a licence header that hundreds
    of holders share leads to none of them, unless it is most of what they are.
    """

    starts: NDArray[np.int64]  # (ngrams + 1,) where the holders begin that an n-gram leads to
    holders: NDArray[np.int64]
    owned: NDArray[np.int64]  # n-gram * documents + holder for all that belong together, ascending

    @classmethod
    def of(cls, ngrams: Ngrams, threshold: float) -> _Index:
        spread = np.diff(ngrams.holder_starts)
        numbers = np.repeat(np.arange(len(spread)), spread)
        owned = numbers * len(ngrams.counts) + ngrams.holders
        needed = np.ceil(threshold * ngrams.counts).astype(np.int64)
        needed -= (needed - 1) / np.maximum(ngrams.counts, 1) >= threshold  # where the product was rounded up
        leading = (ngrams.counts - needed + 1)[ngrams.holders]
        order = np.lexsort((numbers, spread[numbers], ngrams.holders))
        begins = np.cumsum(ngrams.counts) - ngrams.counts
        chosen = np.sort(order[np.arange(len(order)) - begins[ngrams.holders[order]] < leading[order]])
        starts = np.searchsorted(numbers[chosen], np.arange(len(spread) + 1))
        return cls(starts.astype(np.int64), ngrams.holders[chosen], owned)


def _add_pairs(pairs: Pairs, keys: NDArray[np.int64], ngrams: Ngrams, index: _Index, threshold: float) -> None:
    """Find what complete documents cover, whose (document, n-gram) `keys` ascend: some documents at a time."""
    if not len(keys):
        return
    rows, numbers = np.divmod(keys, len(ngrams.hashes))
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    sizes = np.add.reduceat(index.starts[numbers + 1] - index.starts[numbers], starts)
    edges = np.append(starts, len(rows))
    for part in chunks(sizes, _MOST_EXPANDED):
        some = slice(edges[part.start], edges[part.stop])
        _add_some(pairs, rows[some], numbers[some], ngrams, index, threshold)


def _add_some(
    pairs: Pairs, rows: NDArray[np.int64], numbers: NDArray[np.int64], ngrams: Ngrams, index: _Index, threshold: float
) -> None:
    sizes, documents = index.starts[numbers + 1] - index.starts[numbers], len(ngrams.counts)
    led = [
        np.unique(
            np.repeat(rows[part], sizes[part]) * documents
            + index.holders[ranges(index.starts[numbers[part]], sizes[part])]
        )
        for part in chunks(sizes, _MOST_EXPANDED)
    ]
    row, holder = np.divmod(np.unique(np.concatenate(led)), documents)
    first = np.searchsorted(rows, row, side="left")
    counts = np.searchsorted(rows, row, side="right") - first
    for part in chunks(counts, _MOST_EXPANDED):
        wanted = numbers[ranges(first[part], counts[part])] * documents + np.repeat(holder[part], counts[part])
        place = np.minimum(np.searchsorted(index.owned, wanted), len(index.owned) - 1)
        pair = np.repeat(np.arange(part.stop - part.start), counts[part])
        shared = np.bincount(pair[index.owned[place] == wanted], minlength=part.stop - part.start)
        share = shared / ngrams.counts[holder[part]]
        covered = share >= threshold
        pairs.add(row[part][covered], holder[part][covered], share[covered])
