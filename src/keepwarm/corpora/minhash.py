"""Near duplicates by MinHash: signatures from the library rensa, candidates by banding, similarity by equal slots.

A signature's slots agree with the probability of the two sets' Jaccard similarity (Broder 1997); rensa's R-MinHash is
a fast form of it. With signatures cut into bands of r slots, documents that agree in any band are candidates
(Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4); r is chosen so that a pair at the threshold is
one with a probability of at least 99%. An estimate from 128 slots is off by 0.04 at most (one standard deviation).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.hashing import mix64
from keepwarm.corpora.ngrams import Tick, chunks, hashes_of, positions_inside, ranges
from keepwarm.corpora.pairs import Pairs
from keepwarm.corpora.texts import TokenText
from keepwarm.errors import KeepwarmError

SLOTS, SEED = 128, 1
_BATCH_TOKENS = 1 << 20
_LONGEST_BAND = 16
_FOUND_AT_THRESHOLD = 0.99
_MOST_EXPANDED = 1 << 22  # agreements of a band in memory at a time
_MOST_COMPARED = 1 << 15  # pairs of signatures in memory at a time


@dataclass(frozen=True, eq=False, slots=True)
class Sketch:
    """The signatures of a holdout's documents, ready to be looked up by their bands."""

    n: int
    threshold: float
    rows: NDArray[np.int64]  # (documents that have n-grams,)
    signatures: NDArray[np.uint32]  # (documents that have n-grams, SLOTS)
    keys: NDArray[np.uint64]  # of all their bands, ascending
    owners: NDArray[np.int64]  # places in `rows` of the documents that the bands are of


def sketch_of(holdout: TokenText, n: int, threshold: float) -> Sketch:
    """Signatures in some 2 KB a document. KeepwarmError if rensa is not installed."""
    parts = list(_signatures(holdout, n, _library(), None))
    rows = np.concatenate([np.empty(0, dtype=np.int64), *(part for part, _ in parts)])
    known = np.concatenate([np.empty((0, SLOTS), dtype=np.uint32), *(part for _, part in parts)])
    keys = _bands(known, band_slots(threshold))
    order = np.argsort(keys, axis=None, kind="stable")
    return Sketch(n, threshold, rows, known, keys.ravel()[order], order // keys.shape[1])


def near_documents(sketch: Sketch, holders: int, corpus: TokenText, tick: Tick | None) -> Pairs:
    """The pairs of the corpus's rows and the `holders` rows of the holdout whose estimated Jaccard similarity of n-grams
    is at least the threshold. Documents shorter than n tokens have no n-grams and are in no pair.

    Memory is bounded by a batch of tokens, `_MOST_EXPANDED` (or the bands of one document), and what Pairs keeps.
    """
    found, slots = Pairs(len(corpus.spans), holders), band_slots(sketch.threshold)
    for theirs, signatures in _signatures(corpus, sketch.n, _library(), tick):
        keys = _bands(signatures, slots)
        left = np.searchsorted(sketch.keys, keys, side="left")
        counts = np.searchsorted(sketch.keys, keys, side="right") - left
        for part in chunks(counts.sum(axis=1), _MOST_EXPANDED):
            of = np.repeat(np.arange(part.start, part.stop), counts[part].sum(axis=1))
            owners = sketch.owners[ranges(left[part].ravel(), counts[part].ravel())]
            pairs = np.unique(of * len(sketch.rows) + owners)  # once, however many bands agree
            for first in range(0, len(pairs), _MOST_COMPARED):
                other, ours = np.divmod(pairs[first : first + _MOST_COMPARED], len(sketch.rows))
                similarity = (sketch.signatures[ours] == signatures[other]).mean(axis=1)
                near = similarity >= sketch.threshold
                found.add(theirs[other[near]], sketch.rows[ours[near]], similarity[near])
    return found


def band_slots(threshold: float) -> int:
    """Slots in a band: the most with which a pair at the threshold agrees in a band with a probability of 99%."""
    for slots in range(_LONGEST_BAND, 1, -1):
        if 1 - (1 - threshold**slots) ** (SLOTS // slots) >= _FOUND_AT_THRESHOLD:
            return slots
    return 1


def _library() -> Any:
    try:
        from rensa import RMinHash
    except ImportError:
        raise KeepwarmError(
            "--method minhash: the library rensa is not installed",
            "it makes the signatures; --method ngram needs nothing more",
            "pip install 'keepwarm[dedupe]'",
        ) from None
    return RMinHash


def _signatures(
    text: TokenText, n: int, sketch: Any, tick: Tick | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint32]]]:
    """Yields (rows of documents that have n-grams, their signatures (rows, SLOTS)), a batch at a time."""
    first = told = 0
    while first < len(text.spans):
        begin = int(text.spans[first, 0])
        # Whole documents, at least one.
        last = max(first + 1, int(np.searchsorted(text.spans[:, 1], begin + _BATCH_TOKENS, side="right")))
        tokens = text.tokens[begin : int(text.spans[first:last, 1].max())]
        places, rows = positions_inside(tokens, text.spans[first:last] - begin, n, text.eod)
        if len(places):
            hashes = np.concatenate([found for _, found in hashes_of(tokens, n)])[places]
            having, starts = np.unique(rows, return_index=True)
            offsets = np.append(starts, len(rows)).astype(np.uint64)
            # A sketch takes the hashes for what they are, so they are mixed once more: their low bits are poorer.
            matrix = sketch.digest_matrix_from_flat_token_hashes(mix64(hashes), offsets, SLOTS, SEED)
            yield having + first, np.array(matrix.to_rows(), dtype=np.uint32)
        if tick is not None:
            tick(begin + len(tokens) - told)
            told = begin + len(tokens)
        first = last
    if tick is not None:
        tick(len(text.tokens) - told)


def _bands(signatures: NDArray[np.uint32], slots: int) -> NDArray[np.uint64]:
    """(documents, bands): a hash of each band's slots and of its number."""
    bands = SLOTS // slots
    parts = signatures[:, : bands * slots].reshape(len(signatures), bands, slots).astype(np.uint64)
    state = np.broadcast_to(mix64(np.arange(1, bands + 1, dtype=np.uint64)), parts.shape[:2])
    for slot in range(slots):
        state = mix64(state ^ parts[:, :, slot])
    return state
