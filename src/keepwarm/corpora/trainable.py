"""What of each token file may be trained on: all but held-out documents, their duplicates, and excluded spans.

Decided once for each file, when the holdouts of all corpora are there, and kept as `kept-N.npy`: (spans, 2) token
positions, N the file's number in its corpus. The order of data belongs to these spans, so they never change after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.arrays import load_array, save_array
from keepwarm.corpora.duplicates import HELD, found_in
from keepwarm.corpora.exclusions import Exclusion, exclusions_of, subtract
from keepwarm.corpora.holdout import kept_spans
from keepwarm.corpora.indexed import open_indexed


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Documents of a corpus that the holdout of another corpus holds."""

    holdout: str
    corpus: str
    documents: int


def held_path(folder: Path) -> Path:
    """Where a corpus's folder keeps what tells its held-out documents."""
    return folder / "holdout.held.npy"


def kept_path(folder: Path, number: int) -> Path:
    """Where a corpus's folder keeps the trainable spans of its token file `number`."""
    return folder / f"kept-{number}.npy"


def decide(
    root: Path, corpus: str, prefixes: Sequence[Path], others: Sequence[str], exclusions: Sequence[Exclusion],
    *, exclude_duplicates: bool,
) -> list[Duplicates]:  # fmt: skip
    """Write the trainable spans of those token files of `corpus` that have none yet.

    Documents of its own holdout are always left out; those of the holdouts of `others` if `exclude_duplicates`. Returns
    how many of the latter there are in the files that were decided now.
    """
    held = {name: load_array(held_path(root / name), HELD) for name in (corpus, *others)}
    counts = dict.fromkeys(others, 0)
    for number, prefix in enumerate(prefixes):
        if not kept_path(root / corpus, number).exists():
            found = {name: found_in(prefix, documents) for name, documents in held.items()}
            for name in others:
                counts[name] += len(np.setdiff1d(found[name], found[corpus]))
            out = np.concatenate(list(found.values())) if exclude_duplicates else found[corpus]
            kept = trainable(prefix, np.unique(out), exclusions)
            save_array(kept_path(root / corpus, number), kept)
    return [Duplicates(name, corpus, count) for name, count in counts.items() if count]


def trainable(prefix: Path, documents: NDArray[np.int64], exclusions: Sequence[Exclusion]) -> NDArray[np.int64]:
    """(spans, 2): the token file without `documents` and without its excluded spans."""
    kept = kept_spans(prefix, documents)
    return subtract(kept, exclusions_of(prefix, exclusions, open_indexed(prefix))) if exclusions else kept


def words(found: Duplicates, *, excluded: bool) -> str:
    """What a person is told of duplicates across corpora."""
    what = f"{found.corpus}: {found.documents:,} documents are held out in {found.holdout}"
    return (
        f"{what}; left out"
        if excluded
        else f"{what}, and trained on (holdout: {{duplicates: exclude}} leaves them out)"
    )


def totals(found: Sequence[Duplicates]) -> list[Mapping[str, object]]:
    """For records."""
    return [{"holdout": each.holdout, "corpus": each.corpus, "documents": each.documents} for each in found]
