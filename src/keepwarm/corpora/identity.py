"""Documents of a token file: where they lie, and what tells that two are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.arrays import load_array
from keepwarm.corpora.hashing import mix64
from keepwarm.corpora.indexed import IndexedFile, open_indexed
from keepwarm.corpora.names import hash_path as hash_path

END_TOKENS = 64  # of a document without text: what its hash is made of


def document_hashes(prefix: Path) -> NDArray[np.uint64]:
    """A hash of each document, equal for duplicates: of its text where it is known, else of its length and ends."""
    return text_hashes(prefix) if hash_path(prefix).exists() else token_hashes(open_indexed(prefix))


def text_hashes(prefix: Path) -> NDArray[np.uint64]:
    """The hashes of the documents' texts; DataError if the file that holds them is damaged."""
    return load_array(hash_path(prefix), np.uint64)


def document_spans(opened: IndexedFile) -> NDArray[np.int64]:
    """(documents, 2): [start, stop) token positions in .bin. Sequences of a document follow each other."""
    starts = opened.pointers // opened.dtype.itemsize
    stops = starts + opened.lengths
    first, last = opened.document_indices[:-1], opened.document_indices[1:]
    empty = first == last
    safe_first = np.minimum(first, max(0, opened.n_sequences - 1))
    safe_last = np.maximum(last - 1, 0)
    if opened.n_sequences == 0:
        return np.zeros((len(first), 2), dtype=np.int64)
    begin = np.where(empty, 0, starts[safe_first])
    return np.stack([begin, np.where(empty, begin, stops[safe_last])], axis=1)


def token_hashes(opened: IndexedFile, documents: NDArray[np.int64] | None = None) -> NDArray[np.uint64]:
    """A hash of the length, first and last tokens of each document, or of `documents` only; equal ones are equal."""
    spans = document_spans(opened)
    spans = spans if documents is None else spans[documents]
    sizes = (spans[:, 1] - spans[:, 0]).astype(np.uint64)
    state = mix64(sizes + np.uint64(1))
    for offset in range(END_TOKENS):
        for place in (spans[:, 0] + offset, spans[:, 1] - 1 - offset):
            inside = (place >= spans[:, 0]) & (place < spans[:, 1])
            value = np.zeros(len(spans), dtype=np.uint64)
            value[inside] = opened.tokens[place[inside]].astype(np.uint64) + np.uint64(1)
            state = mix64(state ^ value)
    return state
