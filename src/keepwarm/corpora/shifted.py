"""Documents cut at wrong places: where the document ends of a `.bin` stand, held against the lengths in its `.idx`.

The reference tokenizer's --append-eod writes document ends that it does not count. Merged with files whose ends are
counted, some documents are a token longer than the index says, and every one behind them is shifted. Sizes alone show
some bytes too many at the end, or nothing, once those were cut off; the document ends show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keepwarm.corpora.lenient import Longs, Reading, Seen, places_of, reading, token_at

_FEWEST = 10  # documents: fewer may be as they are by chance


@dataclass(frozen=True, eq=False, slots=True)
class Shift:
    """A document end that stands about once for each document, and not where the documents end."""

    eod: int
    eods: int  # how often it occurs in the whole .bin
    closed: int  # how many documents end with it as the index cuts them
    late: int  # how many end with it a token or more later, if lengths may be one token short
    reading: Reading | None  # where all documents end with it; None: it can't be told
    by_lengths: bool  # the lengths say so too, but for the ends that they do not count


def whole(binary: Path, size: int, declared: Reading, eod: int | None) -> Reading | None:
    """The reading that looks at all of `.bin` for the document end: if none is known, for the token behind the first
    document, which is its end if that is not counted. None where the declared reading shows all that this would.
    """
    tokens = size // declared.dtype.itemsize
    if declared.span is None or not tokens or not len(declared.ends):
        return None
    if declared.span >= tokens and (eod is not None or _alike(binary, declared, tokens)):
        return None
    return Reading(declared.dtype, declared.lengths, declared.documents, declared.ends, None, int(declared.ends[0]) + 1)


def find_shift(binary: Path, size: int, declared: Reading, seen: Seen, *, known: bool) -> Shift | None:
    """The shift of a pair whose documents lie one after the other, or None. `known`: the document end is no guess.

    `seen` is of the whole `.bin`. The file is read once more where the document end occurs about once for each
    document, and documents end without it; at most two positions for each document are kept in memory.
    """
    documents, tokens = len(declared.ends), size // declared.dtype.itemsize
    open_ended, extra = documents - seen.closed, tokens - int(declared.lengths.sum())
    about_once = documents <= 2 * seen.eods and seen.eods <= 2 * documents
    if seen.eod is None or not about_once or open_ended < (_FEWEST if extra == 0 else 1):
        return None
    places = places_of(binary, declared.dtype, seen.eod)
    ends = _followed(declared, places)
    late = int(np.count_nonzero(ends != declared.ends[: len(ends)]))
    to_the_end = size % declared.dtype.itemsize == 0 and len(places) > 0 and int(places[-1]) == tokens - 1
    by_lengths = len(ends) == documents > (0 if known else 1) and to_the_end and ends[-1] == places[-1]
    if by_lengths:
        return Shift(seen.eod, len(places), seen.closed, late, _closed_at(declared, ends), True)
    follow = late >= _FEWEST and 2 * late >= open_ended
    hardly_any = known and open_ended >= _FEWEST and 10 * seen.closed <= documents
    if _begins_documents(declared, places) or not (follow or hardly_any):
        return None
    by_number = to_the_end and len(places) == documents
    return Shift(seen.eod, len(places), seen.closed, late, _cut_at(declared, places) if by_number else None, False)


def _alike(binary: Path, declared: Reading, tokens: int) -> bool:
    """The first document ends with the token that the `.bin` ends with."""
    first = int(declared.ends[0])
    return first < tokens and token_at(binary, declared.dtype, first) == token_at(binary, declared.dtype, tokens - 1)


def _sizes(declared: Reading) -> Longs:
    """(documents,) tokens of each document."""
    edges: Longs = np.concatenate([[0], np.cumsum(declared.lengths)])[declared.documents]
    return np.diff(edges)


def _followed(declared: Reading, places: Longs) -> Longs:
    """The ends of the documents from the first on, each where its length says or one token behind, until one is not."""
    ends: list[int] = []
    stands, place, start = places.tolist(), 0, 0
    for size in _sizes(declared)[_sizes(declared) > 0].tolist():
        while place < len(stands) and stands[place] < start + size - 1:
            place += 1
        if place == len(stands) or stands[place] > start + size:
            break
        ends.append(stands[place])
        start = stands[place] + 1
    return np.array(ends, dtype=np.int64)


def _closed_at(declared: Reading, ends: Longs) -> Reading:
    """The reading whose documents end at `ends`: where a document is longer than it was, its last sequence is."""
    sizes = _sizes(declared)
    last = (declared.documents[1:] - 1)[sizes > 0]
    lengths = declared.lengths.copy()
    lengths[last] += np.diff(ends, prepend=-1) - sizes[sizes > 0]
    return reading(declared.dtype, lengths, declared.documents)


def _cut_at(declared: Reading, ends: Longs) -> Reading:
    """The reading of one sequence a document, that ends at `ends`; empty documents stay where they are."""
    sizes = _sizes(declared)
    sizes[sizes > 0] = np.diff(ends, prepend=-1)
    return reading(declared.dtype, sizes, np.arange(len(sizes) + 1, dtype=np.int64))


def _begins_documents(declared: Reading, places: Longs) -> bool:
    """The token stands where documents begin, the first of them too: it is meant so."""
    begins = np.isin(declared.ends[:-1] + 1, places)
    return len(places) > 0 and places[0] == 0 and 2 * int(begins.sum()) >= len(begins)
