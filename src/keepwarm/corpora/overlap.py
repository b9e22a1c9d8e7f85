"""Contamination: which held-out documents occur in training corpora, and which corpus documents to leave out for it.

Everything is compared as tokens, so all files must come from one tokenizer. A document is a document of the `.idx`
without the document end that closes it; a keepwarm holdout's documents are pieces of longer ones.

exact     The same tokens from end to end. Finds documents too short to hold an n-gram as well.
ngram     A held-out document is contaminated if at least `threshold` of its distinct n-grams occur somewhere in the
          corpora. n = 13 is GPT-3's choice (Brown et al. 2020, appendix C). A corpus document is to be left out if it
          alone has at least `threshold` of a held-out document's n-grams. The share is the held-out document's, not the
          corpus document's: a book that quotes a held-out page in full gives it away, however small a part of the book
          the page is, while a page that shares its licence header with a hundred others gives nothing away.
minhash   The Jaccard similarity of the two sets of n-grams, estimated (minhash.py). It asks whether two documents are
          versions of one another: a piece inside a long document is not found by it.

Every result depends on the files and the options alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.hashing import mix64
from keepwarm.corpora.identity import document_spans
from keepwarm.corpora.indexed import IndexedFile, Sidecar, open_indexed, pair, read_sidecar
from keepwarm.corpora.ngrams import BLOCK, Ngrams, Tick, collect, count_ngrams, cover, join
from keepwarm.errors import DataError, KeepwarmError

Method = Literal["ngram", "minhash"]
PAIR = np.dtype([("holdout", "<i8"), ("document", "<i8"), ("share", "<f8"), ("exact", "?")])
_END_TOKENS = 16  # at each end: what tells documents of one length apart before all their tokens are compared


@dataclass(frozen=True, eq=False, slots=True)
class TokenText:
    """An open token file and its documents that hold any token, in the order of `.bin`."""

    prefix: Path
    tokens: NDArray[Any]  # the whole .bin
    documents: int  # that the .idx counts
    numbers: NDArray[np.int64]  # (rows,) each row's number in the .idx
    spans: NDArray[np.int64]  # (rows, 2): [start, stop) in .bin
    eod: int | None

    def contents(self) -> NDArray[np.int64]:
        """(rows, 2): the spans without the document end that closes them."""
        if self.eod is None or not len(self.spans):
            return self.spans
        closed = self.tokens[self.spans[:, 1] - 1] == self.eod
        return np.stack([self.spans[:, 0], self.spans[:, 1] - closed], axis=1)


@dataclass(frozen=True, eq=False, slots=True)
class CorpusOverlap:
    """What one token file of a corpus shares with the holdout."""

    prefix: Path
    documents: int
    tokens: int
    shared: NDArray[np.int64]  # (holdout documents,) distinct n-grams of each that occur here; 0 with minhash
    touched: NDArray[np.int64]  # (k, 3): document, its n-grams that the holdout has, its n-grams; by places
    pairs: NDArray[Any]  # of PAIR, the largest share first: what reaches the threshold, or is exactly the same
    contaminated: NDArray[np.bool_]  # (holdout documents,)

    @property
    def excluded(self) -> NDArray[np.int64]:
        """Numbers of the documents to leave out of training, ascending."""
        return np.unique(self.pairs["document"])


@dataclass(frozen=True, eq=False, slots=True)
class Overlap:
    """The report on a holdout, by corpus and over all of them."""

    holdout: Path
    method: Method
    n: int
    threshold: float
    documents: int
    ngrams: NDArray[np.int64]  # (holdout documents,) distinct n-grams of each; 0 with minhash
    shared: NDArray[np.int64]  # (holdout documents,) of these, how many occur in any corpus
    contaminated: NDArray[np.bool_]  # (holdout documents,)
    corpora: tuple[CorpusOverlap, ...]

    @property
    def shares(self) -> NDArray[np.float64]:
        """(holdout documents,): share of each one's n-grams that occur in any corpus; 0 where it has none."""
        return self.shared / np.maximum(self.ngrams, 1)

    @property
    def scattered(self) -> NDArray[np.int64]:
        """Contaminated documents that no single corpus document gives away: leaving documents out does not help."""
        explained = np.zeros(self.documents, dtype=bool)
        for corpus in self.corpora:
            explained[corpus.pairs["holdout"]] = True
        return np.flatnonzero(self.contaminated & ~explained)


def find_overlap(
    holdout: Path, prefixes: Sequence[Path], *, n: int = 13, threshold: float = 0.5, method: Method = "ngram",
    block: int = BLOCK, progress: Callable[[int, int], None] | None = None,
) -> Overlap:  # fmt: skip
    """Compare a holdout with corpora, each a token file's prefix. `progress` is told bytes read, and all there are.

    The holdout's n-grams stay in memory (some 100 bytes a token while they are collected); a corpus is read once, in
    blocks of `block` tokens. Raises DataError for files that are missing, damaged or of different tokenizers, and
    KeepwarmError for an n or a threshold that can't be, and where the library of `minhash` is missing.
    """
    _refuse_options(n, threshold, method)
    ours, *others = open_texts([holdout, *prefixes])
    ticks = _ticks(others, progress)
    if method == "minhash":
        from keepwarm.corpora.minhash import near_documents

        near = near_documents(ours, others, n=n, threshold=threshold, ticks=ticks)
        none = np.zeros(ours.documents, dtype=np.int64)
        corpora = [_near(ours, each, pairs) for each, pairs in zip(others, near, strict=True)]
        return _report(ours, method, n, threshold, none, none, corpora)
    ngrams = collect(ours.tokens, ours.spans, n, ours.eod, block)
    occurs = np.zeros(len(ngrams.hashes), dtype=bool)
    corpora = [
        _by_ngrams(ours, each, ngrams, threshold, block, tick, occurs) for each, tick in zip(others, ticks, strict=True)
    ]
    counts = np.zeros(ours.documents, dtype=np.int64)
    counts[ours.numbers] = ngrams.counts
    return _report(ours, method, n, threshold, counts, _of_holders(ours, ngrams, occurs), corpora)


def open_texts(prefixes: Sequence[Path]) -> list[TokenText]:
    """Open the holdout, named first, and the corpora; DataError if they can't be compared."""
    opened = [open_indexed(prefix) for prefix in prefixes]
    sidecars = [read_sidecar(prefix) for prefix in prefixes]
    _refuse_twice(prefixes)
    _refuse_tokenizers(prefixes, sidecars)
    if opened[0].n_documents == 0:
        raise DataError(f"{prefixes[0]}: holds no documents", "there is nothing to look for", "name another holdout")
    texts = [_text(prefix, each) for prefix, each in zip(prefixes, opened, strict=True)]
    known = next((sidecar.eod for sidecar in sidecars if sidecar is not None), None)
    if known is None:
        known = _last_of_all(texts)
    ends = [sidecar.eod if sidecar is not None else known for sidecar in sidecars]
    return [
        replace(text, eod=_last_of_all([text]) if eod is None else eod) for text, eod in zip(texts, ends, strict=True)
    ]


def exact_duplicates(first: TokenText, second: TokenText) -> NDArray[np.int64]:
    """(p, 2): rows of the two whose documents hold the same tokens, document ends aside; empty ones are not counted."""
    ours, theirs = first.contents(), second.contents()
    our_sizes, their_sizes = ours[:, 1] - ours[:, 0], theirs[:, 1] - theirs[:, 0]
    rows = np.flatnonzero((our_sizes > 0) & np.isin(our_sizes, their_sizes))
    others = np.flatnonzero(np.isin(their_sizes, our_sizes[rows]))
    our_keys, their_keys = _ends_hash(first.tokens, ours[rows]), _ends_hash(second.tokens, theirs[others])
    order = np.argsort(our_keys, kind="stable")
    left, right = join(our_keys[order], their_keys)
    candidates = np.stack([rows[order[left]], others[right]], axis=1)
    same = [
        np.array_equal(first.tokens[slice(*ours[a])], second.tokens[slice(*theirs[b])]) for a, b in candidates.tolist()
    ]
    kept: NDArray[np.int64] = candidates[np.array(same, dtype=bool)]
    return kept


def _ticks(corpora: Sequence[TokenText], progress: Callable[[int, int], None] | None) -> Sequence[Tick | None]:
    """What tells `progress` about the tokens of each corpus, in bytes."""
    if progress is None:
        return [None] * len(corpora)
    total = sum(each.tokens.nbytes for each in corpora)

    def tick(size: int, tokens: int) -> None:
        progress(tokens * size, total)

    return [partial(tick, each.tokens.itemsize) for each in corpora]


def _by_ngrams(
    ours: TokenText, corpus: TokenText, ngrams: Ngrams, threshold: float, block: int, tick: Tick | None,
    occurs: NDArray[np.bool_],
) -> CorpusOverlap:  # fmt: skip
    """One corpus; `occurs` (ngrams,) collects what has occurred in any."""
    found = cover(corpus.tokens, corpus.spans, ngrams, threshold, block=block, tick=tick)
    occurs |= found.occurs
    rows, counts = found.touched[:, 0], found.touched[:, 1]
    in_all = [count_ngrams(corpus.tokens[slice(*corpus.spans[row])], ngrams.n, corpus.eod) for row in rows.tolist()]
    touched = np.stack([corpus.numbers[rows], counts, np.array(in_all, dtype=np.int64)], axis=1)
    covered, holders, shared = found.pairs.T
    pairs = _pairs(ours, corpus, holders, covered, shared / np.maximum(ngrams.counts[holders], 1))
    of_holders = _of_holders(ours, ngrams, found.occurs)
    counts_of = np.zeros(ours.documents, dtype=np.int64)
    counts_of[ours.numbers] = ngrams.counts
    contaminated = (counts_of > 0) & (of_holders / np.maximum(counts_of, 1) >= threshold)
    contaminated[pairs["holdout"]] = True
    touched = touched[np.argsort(touched[:, 0], kind="stable")]
    return CorpusOverlap(corpus.prefix, corpus.documents, len(corpus.tokens), of_holders, touched, pairs, contaminated)


def _near(ours: TokenText, corpus: TokenText, near: tuple[NDArray[np.int64], NDArray[np.float64]]) -> CorpusOverlap:
    rows, estimates = near
    pairs = _pairs(ours, corpus, rows[:, 0], rows[:, 1], estimates)
    contaminated = np.zeros(ours.documents, dtype=bool)
    contaminated[pairs["holdout"]] = True
    none = np.zeros(ours.documents, dtype=np.int64)
    touched = np.zeros((0, 3), dtype=np.int64)
    return CorpusOverlap(corpus.prefix, corpus.documents, len(corpus.tokens), none, touched, pairs, contaminated)


def _pairs(
    ours: TokenText, corpus: TokenText, holders: NDArray[np.int64], rows: NDArray[np.int64], shares: NDArray[np.float64]
) -> NDArray[Any]:
    """Pairs of rows as PAIR, joined by those that are exactly the same, the largest share first."""
    same = exact_duplicates(ours, corpus)
    keys = np.concatenate([holders, same[:, 0]]) * (len(corpus.spans) + 1) + np.concatenate([rows, same[:, 1]])
    every = np.concatenate([shares, np.ones(len(same))])
    distinct, place = np.unique(keys, return_inverse=True)
    pairs = np.zeros(len(distinct), dtype=PAIR)
    np.maximum.at(pairs["share"], place, every)
    pairs["exact"][place[len(holders) :]] = True
    holder, row = np.divmod(distinct, len(corpus.spans) + 1)
    pairs["holdout"], pairs["document"] = ours.numbers[holder], corpus.numbers[row]
    order = np.lexsort((pairs["document"], pairs["holdout"], ~pairs["exact"], -pairs["share"]))
    return pairs[order]


def _of_holders(ours: TokenText, ngrams: Ngrams, occurs: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(holdout documents,): how many of each one's n-grams occur."""
    counted = np.repeat(occurs, np.diff(ngrams.holder_starts))
    shared = np.zeros(ours.documents, dtype=np.int64)
    shared[ours.numbers] = np.bincount(ngrams.holders[counted], minlength=len(ours.numbers))
    return shared


def _report(
    ours: TokenText, method: Method, n: int, threshold: float, counts: NDArray[np.int64], shared: NDArray[np.int64],
    corpora: Sequence[CorpusOverlap],
) -> Overlap:  # fmt: skip
    contaminated = (counts > 0) & (shared / np.maximum(counts, 1) >= threshold)
    for corpus in corpora:
        contaminated |= corpus.contaminated
    return Overlap(ours.prefix, method, n, threshold, ours.documents, counts, shared, contaminated, tuple(corpora))


def _text(prefix: Path, opened: IndexedFile) -> TokenText:
    spans = document_spans(opened)
    numbers = np.flatnonzero(spans[:, 1] > spans[:, 0])
    numbers = numbers[np.argsort(spans[numbers, 0], kind="stable")]
    return TokenText(prefix, np.asarray(opened.tokens), opened.n_documents, numbers, spans[numbers], None)


def _last_of_all(texts: Sequence[TokenText]) -> int | None:
    """The token that all documents end with, if there is one and more than one document: where no sidecar says what
    ends a document, it is that.
    """
    last = np.concatenate([each.tokens[each.spans[:, 1] - 1].astype(np.int64) for each in texts])
    return int(last[0]) if len(last) > 1 and (last == last[0]).all() else None


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


def _refuse_options(n: int, threshold: float, method: str) -> None:
    if n < 1:
        raise KeepwarmError(f"--ngram {n}", "an n-gram has at least one token", "--ngram 13")
    if not 0 < threshold <= 1:
        why = "it is a share: above 0, or everything would be contaminated, and at most 1"
        raise KeepwarmError(f"--threshold {threshold:g}", why, "--threshold 0.5")
    assert method in ("ngram", "minhash"), method


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
