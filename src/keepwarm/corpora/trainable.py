"""What of each token file may be trained on: all but held-out documents, their duplicates, and excluded spans.

Decided for each file when the holdouts of all corpora are there, and kept as `kept-N.npy`: (spans, 2) token positions,
N the file's number in its corpus. It is decided again when a holdout or an exclusion changed, until the file is first
trained on: the order of data belongs to these spans, so they never change after.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.arrays import load_array, save_array
from keepwarm.corpora.duplicates import found_in
from keepwarm.corpora.exclusions import subtract
from keepwarm.corpora.holdout import kept_spans, touched
from keepwarm.corpora.identity import document_spans
from keepwarm.corpora.indexed import open_indexed
from keepwarm.errors import DataError

LEFT_OUT, REPORTED, TOO_LATE = "left out", "trained on", "trained on already"  # what duplicates across corpora are
_TOLD = {
    LEFT_OUT: "; left out",
    REPORTED: ", and trained on (holdout: {duplicates: exclude} leaves them out)",
    TOO_LATE: "; already in the order of this run, trained on",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided of a token file, in numbers, and the holdouts that it was decided by."""

    holdouts: Mapping[str, str]  # `digest` of what each corpus's holdout holds
    tokens: int  # that may be trained on
    held_out: int  # documents that its own corpus's holdout holds
    excluded_documents: int  # that excluded spans take a token of
    excluded_tokens: int
    duplicates: Mapping[str, int]  # by other corpus: documents that its holdout holds and the own one does not
    trained_on: Mapping[str, int] = field(default_factory=dict)  # the same of holdouts that came too late


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What of a corpus is not trained on: for people and for records."""

    exclude: str | None = None  # the list
    excluded_documents: int = 0
    excluded_tokens: int = 0
    held_out_documents: int = 0  # by its own holdout; what other holdouts take out is told apart

    def words(self, name: str, tokens: int) -> str:
        """One line, with the `tokens` that remain."""
        remain = f"held out, {tokens:,} tokens remain"
        if self.exclude is None:
            return f"{name}: {self.held_out_documents:,} documents {remain}"
        excluded = f"{self.excluded_documents:,} documents / {self.excluded_tokens:,} tokens excluded by {self.exclude}"
        return f"{name}: {excluded}, {self.held_out_documents:,} {remain}"


def held_path(folder: Path) -> Path:
    """Where a corpus's folder keeps what tells its held-out documents."""
    return folder / "holdout.held.npy"


def kept_path(folder: Path, number: int) -> Path:
    """Where a corpus's folder keeps the trainable spans of its token file `number`."""
    return folder / f"kept-{number}.npy"


def digest(array: NDArray[Any]) -> str:
    """16 hex digits that tell whether two arrays of one kind hold the same."""
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()


def decide(
    prefix: Path, path: Path, corpus: str, held: Mapping[str, NDArray[np.void]], excluded: NDArray[np.int64],
    *, holdouts: Mapping[str, str], exclude_duplicates: bool, final: bool,
) -> Decision:  # fmt: skip
    """Write the trainable spans of a token file of `corpus` to `path`.

    Documents of its own holdout are always left out; those of the other holdouts in `held` if `exclude_duplicates`.
    `holdouts` are the digests of `held`. If it is `final`, the file was trained on: DataError if what is at `path`
    would change.
    """
    found = {name: found_in(prefix, documents) for name, documents in held.items()}
    own, spans = found[corpus], document_spans(open_indexed(prefix))
    out = np.unique(np.concatenate(list(found.values()))) if exclude_duplicates else own
    kept = subtract(kept_spans(prefix, out), excluded)
    if final and not np.array_equal(load_array(path, np.int64), kept):
        raise DataError(
            f"{path}: what may be trained on of {prefix} would change",
            "it was trained on already, the order of data and every loss of this run belong to it",
            "put the exclusion list and the holdouts back as they were, or start anew: run: {folder: ...}",
        )
    save_array(path, kept, replace=True)
    others = {name: len(np.setdiff1d(found[name], own)) for name in held if name != corpus}
    return Decision(
        holdouts=holdouts,
        tokens=_tokens(kept),
        held_out=len(own),
        excluded_documents=int(np.count_nonzero(touched(spans, excluded))),
        excluded_tokens=_tokens(excluded),
        duplicates={name: count for name, count in others.items() if count},
    )


def with_later(
    decision: Decision, prefix: Path, path: Path, held: Mapping[str, NDArray[np.void]], holdouts: Mapping[str, str]
) -> Decision:
    """A decision that stands, with what holdouts made since then hold of the documents that are trained on."""
    later = {name: documents for name, documents in held.items() if name not in decision.holdouts}
    kept, spans = load_array(path, np.int64), document_spans(open_indexed(prefix))
    counts = {
        name: int(np.count_nonzero(touched(spans[found_in(prefix, documents)], kept)))
        for name, documents in later.items()
    }
    trained_on = {name: count for name, count in counts.items() if count}
    return replace(
        decision,
        holdouts={**holdouts, **decision.holdouts},
        trained_on={**decision.trained_on, **trained_on},
    )


def duplicates_of(corpus: str, decisions: Sequence[Decision], *, excluded: bool) -> list[Mapping[str, Any]]:
    """For records: how many documents of a corpus each other holdout holds, and what became of them."""
    known = LEFT_OUT if excluded else REPORTED
    found = Counter[tuple[str, str]]()
    for each in decisions:
        found.update({(name, known): count for name, count in each.duplicates.items()})
        found.update({(name, TOO_LATE): count for name, count in each.trained_on.items()})
    return [{"holdout": name, "corpus": corpus, "documents": n, "are": are} for (name, are), n in found.items()]


def words(found: Mapping[str, Any]) -> str:
    """What a person is told of duplicates across corpora."""
    what = f"{found['corpus']}: {found['documents']:,} documents are held out in {found['holdout']}"
    return what + _TOLD[found["are"]]


def left_out_of(decisions: Sequence[Decision], exclude: str | None) -> LeftOut:
    """The sums over a corpus's token files."""
    return LeftOut(
        exclude=exclude,
        excluded_documents=sum(each.excluded_documents for each in decisions),
        excluded_tokens=sum(each.excluded_tokens for each in decisions),
        held_out_documents=sum(each.held_out for each in decisions),
    )


def _tokens(spans: NDArray[np.int64]) -> int:
    return int((spans[:, 1] - spans[:, 0]).sum())
