"""Exact duplicates of held-out documents: wherever they lie, training on them would spoil what the holdout measures.

Two documents are the same if their texts are, where both files were made from text here; else if their tokens are, by
length and both ends (identity.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.identity import hash_path, text_hashes, token_hashes
from keepwarm.corpora.indexed import open_indexed

HELD = np.dtype([("tokens", "<u8"), ("text", "<u8"), ("has_text", "?")])  # hashes of a held-out document


def held_documents(prefix: Path, documents: NDArray[np.int64]) -> NDArray[np.void]:
    """What tells the `documents` (N,) of a token file again: (N,) of HELD."""
    held = np.zeros(len(documents), dtype=HELD)
    held["tokens"] = token_hashes(open_indexed(prefix), documents)
    if hash_path(prefix).exists():
        held["text"], held["has_text"] = text_hashes(prefix)[documents], True
    return held


def found_in(prefix: Path, held: NDArray[np.void]) -> NDArray[np.int64]:
    """The documents of a token file that are equal to a held-out one, ascending."""
    by_text = hash_path(prefix).exists()
    found = [np.zeros(0, dtype=np.int64)]
    if by_text:
        found.append(np.flatnonzero(np.isin(text_hashes(prefix), held["text"][held["has_text"]])))
    others = held[~held["has_text"]] if by_text else held
    if len(others):
        found.append(np.flatnonzero(np.isin(token_hashes(open_indexed(prefix)), others["tokens"])))
    return np.unique(np.concatenate(found)).astype(np.int64)


def shared(prefix: Path, other: Path) -> NDArray[np.int64]:
    """The documents of a token file that another one holds too, ascending."""
    if hash_path(prefix).exists() and hash_path(other).exists():
        return np.flatnonzero(np.isin(text_hashes(prefix), text_hashes(other)))
    ours, theirs = (token_hashes(open_indexed(each)) for each in (prefix, other))
    return np.flatnonzero(np.isin(ours, theirs))
