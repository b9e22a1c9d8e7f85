"""Token files opened to be compared: their documents without the document end, and equal documents taken once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.hashing import mix64
from keepwarm.corpora.identity import document_spans
from keepwarm.corpora.indexed import IndexedFile, Sidecar, open_indexed, pair, read_sidecar
from keepwarm.corpora.ngrams import ranges
from keepwarm.errors import DataError

_END_TOKENS = 16  # at each end: what tells documents of one length apart before all their tokens are read
_MAJORITY = 2 / 3  # of documents that end with a token: then it is the document end
_SAMPLED_TOKENS = 1 << 22  # at the beginning of each file: how often a token stands inside documents


@dataclass(frozen=True, eq=False, slots=True)
class TokenText:
    """An open token file and its documents that hold any token but their end, in the order of `.bin`."""

    prefix: Path
    tokens: NDArray[Any]  # the whole .bin
    documents: int  # that the .idx counts
    numbers: NDArray[np.int64]  # (rows,) each row's number in the .idx
    spans: NDArray[np.int64]  # (rows, 2): [start, stop) in .bin, without the document end that closes it
    eod: int | None


@dataclass(frozen=True, eq=False, slots=True)
class Distinct:
    """The documents of a token file, equal ones taken once: a row is their first in the order of `.bin`."""

    text: TokenText  # of the rows; `documents` counts all
    ends: NDArray[np.uint64]  # (rows,) a hash of length and ends
    whole: NDArray[np.uint64]  # (rows,) a hash of all tokens; 0 where `ends` says that no other document is equal
    members: NDArray[np.int64]  # numbers in the .idx, row by row, ascending in each
    starts: NDArray[np.int64]  # (rows + 1,) where the members of each row begin

    @property
    def counts(self) -> NDArray[np.int64]:
        """(rows,) how many documents are equal to each row."""
        return np.diff(self.starts)

    def numbers_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of all documents that are equal to the `rows`, row by row."""
        return self.members[ranges(self.starts[rows], self.counts[rows])]


def open_texts(prefixes: Sequence[Path]) -> list[TokenText]:
    """Open the holdout, named first, and the corpora; DataError if they can't be compared.

    One token ends the documents of all files: what the sidecars say, else what most documents end with.
    """
    opened = [open_indexed(prefix) for prefix in prefixes]
    sidecars = [read_sidecar(prefix) for prefix in prefixes]
    _refuse_twice(prefixes)
    _refuse_tokenizers(prefixes, sidecars)
    if opened[0].n_documents == 0:
        raise DataError(f"{prefixes[0]}: holds no documents", "there is nothing to look for", "name another holdout")
    texts = [_text(prefix, each) for prefix, each in zip(prefixes, opened, strict=True)]
    known = [sidecar.eod for sidecar in sidecars if sidecar is not None]
    common = known[0] if known else _document_end(texts)
    ends = [common if sidecar is None else sidecar.eod for sidecar in sidecars]
    return [_without_end(text, eod) for text, eod in zip(texts, ends, strict=True)]


def refuse_tokenizer(name: Path, sha256: str, prefixes: Sequence[Path]) -> None:
    """DataError if a sidecar says that a file was made with another tokenizer than the one to show text with."""
    for prefix in prefixes:
        sidecar = read_sidecar(prefix)
        if sidecar is not None and sidecar.tokenizer_sha256 not in ("", sha256):
            made_with = sidecar.tokenizer_sha256[:12]
            raise DataError(
                f"--tokenizer {name}: not the tokenizer of {prefix} ({sha256[:12]}, not {made_with})",
                "the text would be shown as gibberish",
                f"name the file that sha256sum gives {made_with}..., or leave --tokenizer out",
            )


def distinct(text: TokenText, others: NDArray[np.uint64] | None = None) -> Distinct:
    """Take equal documents once. All tokens are read of those that look like another of the file, or like one with a
    hash of `others`, the `ends` of another file; of all documents where that is None.

    Memory is some 100 bytes a document. Documents are equal if two hashes of 64 bits are.
    """
    ends = _ends_hash(text.tokens, text.spans)
    if others is None:
        alike = np.ones(len(ends), dtype=bool)
    else:
        _, place, times = np.unique(ends, return_inverse=True, return_counts=True)
        alike = (times[place] > 1) | np.isin(ends, others)
    whole = np.zeros(len(ends), dtype=np.uint64)
    whole[alike] = [_hash(text.tokens[start:stop]) for start, stop in text.spans[alike].tolist()]
    order = np.lexsort((whole, ends))  # stable: rows ascend among equal ones
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (ends[order][1:] != ends[order][:-1]) | (whole[order][1:] != whole[order][:-1])
    rows = np.sort(order[fresh])
    of = np.empty(len(order), dtype=np.int64)  # each document's row
    of[order] = np.searchsorted(rows, order[fresh])[np.cumsum(fresh) - 1]
    members = np.lexsort((text.numbers, of))
    starts = np.searchsorted(of[members], np.arange(len(rows) + 1)).astype(np.int64)
    firsts = replace(text, numbers=text.numbers[rows], spans=text.spans[rows])
    return Distinct(firsts, ends[rows], whole[rows], text.numbers[members], starts)


def equal_rows(first: Distinct, second: Distinct) -> NDArray[np.int64]:
    """(p, 2): rows of the two that hold the same tokens, each at most once."""
    _, ours, theirs = np.intersect1d(first.whole, second.whole, return_indices=True)
    same = [
        np.array_equal(first.text.tokens[slice(*first.text.spans[a])], second.text.tokens[slice(*second.text.spans[b])])
        for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)
    ]
    kept: NDArray[np.int64] = np.stack([ours, theirs], axis=1)[np.array(same, dtype=bool)].astype(np.int64)
    return kept


def _text(prefix: Path, opened: IndexedFile) -> TokenText:
    spans = document_spans(opened)
    numbers = np.flatnonzero(spans[:, 1] > spans[:, 0])
    numbers = numbers[np.argsort(spans[numbers, 0], kind="stable")]
    return TokenText(prefix, np.asarray(opened.tokens), opened.n_documents, numbers, spans[numbers], None)


def _without_end(text: TokenText, eod: int | None) -> TokenText:
    closed = _last(text) == eod if eod is not None else np.zeros(len(text.spans), dtype=bool)
    spans = np.stack([text.spans[:, 0], text.spans[:, 1] - closed], axis=1)
    holding = spans[:, 1] > spans[:, 0]
    return replace(text, numbers=text.numbers[holding], spans=spans[holding], eod=eod)


def _last(text: TokenText) -> NDArray[np.int64]:
    return text.tokens[text.spans[:, 1] - 1].astype(np.int64)


def _document_end(texts: Sequence[TokenText]) -> int | None:
    """The token that ends documents where no sidecar says it: a clear majority of all ends with it, else of one file.

    A token that often stands inside documents, as a line's end does, is none.
    """
    every = [_last(text) for text in texts]
    for last in (np.concatenate(every), *every):
        found, times = np.unique(last, return_counts=True)
        if len(last) > 1 and times.max() >= _MAJORITY * len(last):
            end = int(found[times.argmax()])
            if _ends_only(texts, end):
                return end
    return None


def _ends_only(texts: Sequence[TokenText], token: int) -> bool:
    """At the files' beginnings the token stands inside documents at most as often as at their ends."""
    stands = ends = 0
    for text in texts:
        stands += int(np.count_nonzero(text.tokens[:_SAMPLED_TOKENS] == token))
        ends += int(np.count_nonzero(_last(text)[text.spans[:, 1] <= _SAMPLED_TOKENS] == token))
    return stands <= 2 * ends


def _hash(tokens: NDArray[Any]) -> int:
    """A hash of tokens, whatever their dtype; never 0."""
    digest = hashlib.blake2b(tokens.astype("<i8").data, digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def _ends_hash(tokens: NDArray[Any], spans: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(documents,): a hash of each span's length and of the tokens at its ends. None of the spans is empty."""
    state = mix64((spans[:, 1] - spans[:, 0]).astype(np.uint64) + np.uint64(1))
    for offset in range(_END_TOKENS):
        for place in (
            np.minimum(spans[:, 0] + offset, spans[:, 1] - 1),
            np.maximum(spans[:, 1] - 1 - offset, spans[:, 0]),
        ):
            state = mix64(state ^ (tokens[place].astype(np.uint64) + np.uint64(1)))
    return state


def _refuse_twice(prefixes: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for prefix in prefixes:
        name = os.path.realpath(pair(prefix)[0])
        if name in seen:
            raise DataError(
                f"{prefix}: named twice" if seen[name] != prefixes[0] else f"{prefix}: the holdout itself",
                "it would be reported as a copy of itself" if seen[name] == prefixes[0] else "it would count twice",
                "name each file once: keepwarm data overlap HOLDOUT PREFIX...",
            )
        seen[name] = prefix


def _refuse_tokenizers(prefixes: Sequence[Path], sidecars: Sequence[Sidecar | None]) -> None:
    first: tuple[Path, str] | None = None
    for prefix, sidecar in zip(prefixes, sidecars, strict=True):
        if sidecar is None or not sidecar.tokenizer_sha256:
            continue
        if first is None:
            first = prefix, sidecar.tokenizer_sha256
        elif first[1] != sidecar.tokenizer_sha256:
            raise DataError(
                f"{prefix}: of another tokenizer than {first[0]} "
                f"({sidecar.tokenizer_sha256[:12]}, not {first[1][:12]})",
                "the same text has other tokens there, so no overlap would be found",
                f"tokenize it with the other's tokenizer: keepwarm tokenize TEXT --tokenizer FILE --output {prefix}-again",
            )
