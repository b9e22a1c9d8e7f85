"""Contamination: which held-out documents occur in training corpora, and which corpus documents to leave out for it.

Everything is compared as tokens, so all files must come from one tokenizer. A document is a document of the `.idx`
without the document end that closes it, a token that is the same for all files; a keepwarm holdout's documents are
pieces of longer ones.

exact     The same tokens from end to end. Finds documents too short to hold an n-gram as well.
ngram     A held-out document is contaminated if at least `threshold` of its distinct n-grams occur somewhere in the
          corpora. n = 13 is GPT-3's choice (Brown et al. 2020, appendix C). A corpus document is to be left out if it
          alone has at least `threshold` of a held-out document's n-grams. The share is the held-out document's, not the
          corpus document's: a book that quotes a held-out page in full gives it away, however small a part of the book
          the page is, while a page that shares its licence header with a hundred others gives nothing away.
minhash   The Jaccard similarity of the two sets of n-grams, estimated (minhash.py). It asks whether two documents are
          versions of one another: a piece inside a long document is not found by it.

Equal documents are looked at once (texts.py), so a page that stands in a corpus ten thousand times costs what it costs
once. Memory is bounded by the holdout's n-grams, some 100 bytes a document, and the pairs kept for each corpus: the
2**20 with the largest shares (pairs.py). What is contaminated and what to leave out is complete all the same.

Every result depends on the files and the options alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.ngrams import BLOCK, Ngrams, Tick, collect, count_ngrams, cover, ranges
from keepwarm.corpora.pairs import Pairs
from keepwarm.corpora.texts import Distinct, TokenText, distinct, equal_rows, open_texts
from keepwarm.errors import KeepwarmError

Method = Literal["ngram", "minhash"]
LONGEST = 1 << 20  # tokens of an n-gram: the working arrays are as long
PAIR = np.dtype([("holdout", "<i8"), ("document", "<i8"), ("share", "<f8"), ("exact", "?")])


@dataclass(frozen=True, eq=False, slots=True)
class CorpusOverlap:
    """What one token file of a corpus shares with the holdout."""

    prefix: Path
    documents: int
    tokens: int
    shared: NDArray[np.int64]  # (holdout documents,) distinct n-grams of each that occur here; 0 with minhash
    touched: NDArray[np.int64]  # (k, 3): document, its n-grams that the holdout has, its n-grams; by places
    near: NDArray[Any]  # of PAIR, rows of `ours` and `theirs`: what reaches the threshold or is the same, largest first
    ours: Distinct
    theirs: Distinct
    contaminated: NDArray[np.bool_]  # (holdout documents,)
    explained: NDArray[np.bool_]  # (holdout documents,) that some document of the corpus gives away by itself
    excluded: NDArray[np.int64]  # numbers of the documents to leave out of training, ascending
    exact: int  # documents that are the same as a held-out one

    @property
    def pairs(self) -> NDArray[Any]:
        """The pairs as numbers of documents, of PAIR: of equal documents each with each, which may be very many."""
        ours, theirs = self.ours.counts[self.near["holdout"]], self.theirs.counts[self.near["document"]]
        pairs = np.repeat(self.near, ours * theirs)
        within = ranges(np.zeros(len(self.near), dtype=np.int64), ours * theirs)
        holder, document = np.divmod(within, np.repeat(theirs, ours * theirs))
        pairs["holdout"] = self.ours.members[self.ours.starts[pairs["holdout"]] + holder]
        pairs["document"] = self.theirs.members[self.theirs.starts[pairs["document"]] + document]
        return pairs[np.lexsort((pairs["document"], pairs["holdout"], ~pairs["exact"], -pairs["share"]))]


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
            explained |= corpus.explained
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
    held, *others = open_texts([holdout, *prefixes])
    ours = distinct(held)
    ticks = _ticks(others, progress)
    counts = np.zeros(held.documents, dtype=np.int64)
    if method == "minhash":
        from keepwarm.corpora.minhash import near_documents, sketch_of

        sketch = sketch_of(ours.text, n, threshold)
        corpora = []
        for text, tick in zip(others, ticks, strict=True):
            theirs = distinct(text, ours.ends)
            found = near_documents(sketch, len(ours.ends), theirs.text, tick)
            corpora.append(_corpus(ours, theirs, found, (counts, counts), np.zeros((0, 3), dtype=np.int64), threshold))
        return _report(held, method, n, threshold, counts, counts, corpora)
    ngrams = collect(held.tokens, ours.text.spans, n, held.eod, block)
    counts = _spread(ours, ngrams.counts)
    occurs = np.zeros(len(ngrams.hashes), dtype=bool)
    corpora = [
        _by_ngrams(ours, distinct(text, ours.ends), ngrams, threshold, block, tick, occurs)
        for text, tick in zip(others, ticks, strict=True)
    ]
    return _report(held, method, n, threshold, counts, _of_holders(ours, ngrams, occurs), corpora)


def _ticks(corpora: Sequence[TokenText], progress: Callable[[int, int], None] | None) -> Sequence[Tick | None]:
    """What tells `progress` about the tokens of each corpus, in bytes."""
    if progress is None:
        return [None] * len(corpora)
    total = sum(each.tokens.nbytes for each in corpora)

    def tick(size: int, tokens: int) -> None:
        progress(tokens * size, total)

    return [partial(tick, each.tokens.itemsize) for each in corpora]


def _by_ngrams(
    ours: Distinct, theirs: Distinct, ngrams: Ngrams, threshold: float, block: int, tick: Tick | None,
    occurs: NDArray[np.bool_],
) -> CorpusOverlap:  # fmt: skip
    """One corpus; `occurs` (ngrams,) collects what has occurred in any."""
    text = theirs.text
    found = cover(text.tokens, text.spans, ngrams, threshold, block=block, tick=tick)
    occurs |= found.occurs
    rows = found.touched[:, 0]
    in_all = [count_ngrams(text.tokens[slice(*text.spans[row])], ngrams.n, text.eod) for row in rows.tolist()]
    of_rows = np.stack([found.touched[:, 1], np.array(in_all, dtype=np.int64)], axis=1)
    touched = np.column_stack([theirs.numbers_of(rows), np.repeat(of_rows, theirs.counts[rows], axis=0)])
    touched = touched[np.argsort(touched[:, 0], kind="stable")]
    shares = _of_holders(ours, ngrams, found.occurs), _spread(ours, ngrams.counts)
    return _corpus(ours, theirs, found.pairs, shares, touched, threshold)


def _corpus(
    ours: Distinct, theirs: Distinct, found: Pairs, shares: tuple[NDArray[np.int64], NDArray[np.int64]],
    touched: NDArray[np.int64], threshold: float,
) -> CorpusOverlap:  # fmt: skip
    """Put together what was found in one corpus: by n-grams or signatures, and what is exactly the same.

    `shares` are each held-out document's n-grams that occur here, and all it has.
    """
    text, same = theirs.text, equal_rows(ours, theirs)
    found.holders[same[:, 0]] = found.rows[same[:, 1]] = True
    explained = _spread(ours, found.holders)
    contaminated = explained | _reach(*shares, threshold)
    excluded = np.sort(theirs.numbers_of(np.flatnonzero(found.rows)))
    near = _joined(found.largest(), same, len(text.spans))
    return CorpusOverlap(
        text.prefix, text.documents, len(text.tokens), shares[0], touched, near, ours, theirs, contaminated, explained,
        excluded, int(theirs.counts[same[:, 1]].sum()),
    )  # fmt: skip


def _joined(largest: NDArray[Any], same: NDArray[np.int64], rows: int) -> NDArray[Any]:
    """Pairs of rows as PAIR, those that are exactly the same among them, the largest share first."""
    keys = np.concatenate([largest["holder"], same[:, 0]]) * (rows + 1) + np.concatenate([largest["row"], same[:, 1]])
    every = np.concatenate([largest["share"], np.ones(len(same))])
    distinct_keys, place = np.unique(keys, return_inverse=True)
    pairs = np.zeros(len(distinct_keys), dtype=PAIR)
    np.maximum.at(pairs["share"], place, every)
    pairs["exact"][place[len(largest) :]] = True
    pairs["holdout"], pairs["document"] = np.divmod(distinct_keys, rows + 1)
    return pairs[np.lexsort((pairs["document"], pairs["holdout"], ~pairs["exact"], -pairs["share"]))]


def _spread(ours: Distinct, of_rows: NDArray[Any]) -> NDArray[Any]:
    """(holdout documents,): what is true of each document's row, 0 for a document that holds nothing."""
    spread = np.zeros(ours.text.documents, dtype=of_rows.dtype)
    spread[ours.members] = np.repeat(of_rows, ours.counts)
    return spread


def _reach(shared: NDArray[np.int64], counts: NDArray[np.int64], threshold: float) -> NDArray[np.bool_]:
    """(holdout documents,): who shares at least `threshold` of its n-grams."""
    reach: NDArray[np.bool_] = (counts > 0) & (shared / np.maximum(counts, 1) >= threshold)
    return reach


def _of_holders(ours: Distinct, ngrams: Ngrams, occurs: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(holdout documents,): how many of each one's n-grams occur."""
    counted = np.repeat(occurs, np.diff(ngrams.holder_starts))
    return _spread(ours, np.bincount(ngrams.holders[counted], minlength=len(ours.ends)).astype(np.int64))


def _report(
    held: TokenText, method: Method, n: int, threshold: float, counts: NDArray[np.int64], shared: NDArray[np.int64],
    corpora: Sequence[CorpusOverlap],
) -> Overlap:  # fmt: skip
    contaminated = _reach(shared, counts, threshold)
    for corpus in corpora:
        contaminated |= corpus.contaminated
    return Overlap(held.prefix, method, n, threshold, held.documents, counts, shared, contaminated, tuple(corpora))


def _refuse_options(n: int, threshold: float, method: str) -> None:
    if n < 1:
        raise KeepwarmError(f"--ngram {n}", "an n-gram has at least one token", "--ngram 13")
    if n > LONGEST:
        raise KeepwarmError(f"--ngram {n}", f"an n-gram has at most {LONGEST:,} tokens", "--ngram 13")
    if not 0 < threshold <= 1:
        why = "it is a share: above 0, or everything would be contaminated, and at most 1"
        raise KeepwarmError(f"--threshold {threshold:g}", why, "--threshold 0.5")
    assert method in ("ngram", "minhash"), method
