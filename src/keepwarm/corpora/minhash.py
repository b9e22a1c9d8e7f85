"""Near duplicates by MinHash: signatures from the library rensa, candidates by banding, similarity by equal slots.

A signature's slots agree with the probability of the two sets' Jaccard similarity (Broder 1997); rensa's R-MinHash is
a fast form of it. With signatures cut into bands of r slots, documents that agree in any band are candidates
(Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4); r is chosen so that a pair at the threshold is
one with a probability of at least 99%. An estimate from 128 slots is off by 0.04 at most (one standard deviation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.hashing import mix64
from keepwarm.corpora.ngrams import Tick, hashes_of, join, positions_inside
from keepwarm.errors import KeepwarmError

if TYPE_CHECKING:
    from keepwarm.corpora.overlap import TokenText

SLOTS, SEED = 128, 1
_BATCH_TOKENS = 1 << 20
_LONGEST_BAND = 16
_FOUND_AT_THRESHOLD = 0.99

Near = tuple[NDArray[np.int64], NDArray[np.float64]]  # (p, 2) rows of the holdout and the corpus; (p,) similarity


def near_documents(
    holdout: TokenText, corpora: Sequence[TokenText], *, n: int, threshold: float, ticks: Sequence[Tick | None]
) -> list[Near]:
    """Per corpus the pairs whose estimated Jaccard similarity of n-grams is at least `threshold`.

    Documents shorter than n tokens have no n-grams and are in no pair. KeepwarmError if rensa is not installed.
    """
    sketch = _library()
    band = band_slots(threshold)
    parts = list(_signatures(holdout, n, sketch, None))
    rows = np.concatenate([np.empty(0, dtype=np.int64), *(part for part, _ in parts)])
    known = np.concatenate([np.empty((0, SLOTS), dtype=np.uint32), *(part for _, part in parts)])
    keys = _bands(known, band)
    order = np.argsort(keys, axis=None, kind="stable")
    ascending, owners = keys.ravel()[order], order // keys.shape[1]
    found = []
    for corpus, tick in zip(corpora, ticks, strict=True):
        pairs, similarities = [np.empty((0, 2), dtype=np.int64)], [np.empty(0)]
        for theirs, signatures in _signatures(corpus, n, sketch, tick):
            left, right = join(ascending, _bands(signatures, band).ravel())
            ours, other = np.unique(np.stack([owners[left], right // keys.shape[1]]), axis=1)
            similarity = (known[ours] == signatures[other]).mean(axis=1)
            near = similarity >= threshold
            pairs.append(np.stack([rows[ours[near]], theirs[other[near]]], axis=1))
            similarities.append(similarity[near])
        found.append((np.concatenate(pairs), np.concatenate(similarities)))
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
    first = 0
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
            tick(len(tokens))
        first = last


def _bands(signatures: NDArray[np.uint32], slots: int) -> NDArray[np.uint64]:
    """(documents, bands): a hash of each band's slots and of its number."""
    bands = SLOTS // slots
    parts = signatures[:, : bands * slots].reshape(len(signatures), bands, slots).astype(np.uint64)
    state = np.broadcast_to(mix64(np.arange(1, bands + 1, dtype=np.uint64)), parts.shape[:2])
    for slot in range(slots):
        state = mix64(state ^ parts[:, :, slot])
    return state
