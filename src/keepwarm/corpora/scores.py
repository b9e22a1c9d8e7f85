"""Scores of documents, given by the user: one number for each document of a token file, as a `.npy` array.

They order what the buffer keeps under `highest-loss` (blend/policy.py). A document's number is the one that
`keepwarm data show PREFIX --document N` takes; of a corpus given as text, the token file is RUN/tokens/CORPUS/train.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.indexed import read_header
from keepwarm.corpora.source import Source
from keepwarm.errors import DataError


def read_scores(corpus: str, paths: Sequence[str], sources: Sequence[Source]) -> tuple[NDArray[np.float64], ...]:
    """The scores (documents,) of each source of a corpus. DataError for what is missing, not finite or does not fit."""
    if len(paths) != len(sources):
        raise DataError(
            f"buffer.scores.{corpus}: {len(paths)} files for {len(sources)} token files",
            "each token file has documents of its own",
            f"one file for each, in this order: {', '.join(source.prefix.name for source in sources)}",
        )
    return tuple(_read(Path(path), source) for path, source in zip(paths, sources, strict=True))


def _read(path: Path, source: Source) -> NDArray[np.float64]:
    make = f"numpy.save({str(path)!r}, scores), an array of as many numbers as documents"
    try:
        scores = np.load(path, allow_pickle=False)
        found = np.asarray(scores, dtype=np.float64)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise DataError(
            f"{path}: no scores can be read ({' '.join(str(error).split())})", "B is to keep the highest", make
        ) from None
    documents = read_header(source.prefix).documents
    if found.shape != (documents,):
        raise DataError(
            f"{path}: holds an array of shape {found.shape}, {source.prefix} has {documents:,} documents",
            "a score would be taken for another document's",
            make,
        )
    if not np.isfinite(found).all():
        first = int(np.flatnonzero(~np.isfinite(found))[0])
        raise DataError(
            f"{path}: the score of document {first:,} is {found[first]}", "it has no place in the order", make
        )
    return found
