"""What `keepwarm data overlap` says: a table by corpus, the worst pairs with their text, what to do about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.indexed import open_indexed
from keepwarm.corpora.ngrams import longest_shared
from keepwarm.corpora.overlap import CorpusOverlap, Overlap
from keepwarm.corpora.texts import Distinct
from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.report.table import aligned

WORST = 5
_LONGEST_TEXT = 160  # characters of a shared passage
_TEXT_WIDTH = 96


def facts(found: Overlap) -> dict[str, Any]:
    """The whole report as data: shares are of a held-out document's distinct n-grams, or Jaccard estimates."""
    return {
        "holdout": str(found.holdout),
        "method": found.method,
        "ngram": found.n,
        "threshold": found.threshold,
        "documents": found.documents,
        "contaminated": np.flatnonzero(found.contaminated).tolist(),
        "scattered": found.scattered.tolist(),
        "shares": found.shares.tolist() if found.method == "ngram" else None,
        "corpora": [_corpus_facts(corpus, found) for corpus in found.corpora],
    }


def lines(found: Overlap, tokenizer: Tokenizer | None = None) -> Iterator[str]:
    """The report in lines for a terminal. Text of the worst pairs is shown if there is a tokenizer."""
    yield f"{found.holdout}: {found.documents:,} documents, method {found.method}, {found.n}-grams, {_rule(found)}"
    yield ""
    yield from _table(found)
    yield ""
    yield from _verdict(found)
    worst = sorted(
        ((_pair_facts(corpus, pair), corpus) for corpus in found.corpora for pair in corpus.near[:WORST]),
        key=lambda item: (-item[0]["share"], not item[0]["exact"]),
    )[:WORST]
    if worst:
        yield ""
        yield "the closest, by number (counted from 0):"
    for pair, corpus in worst:
        yield (
            f"  {_degree(pair, found)}: document {pair['holdout']:,} of the holdout{_others(pair['holdouts'])} in "
            f"document {pair['document']:,} of {corpus.prefix}{_others(pair['documents'])}"
        )
        if tokenizer is not None:
            yield from _wrapped(_passage(found, corpus, pair, tokenizer))


def advice(found: Overlap, listing: Path | None) -> Iterator[str]:
    """What to do next: with the list that was written, or how to get one."""
    documents = sum(len(corpus.excluded) for corpus in found.corpora)
    if listing is not None:
        yield f"{listing}: {documents:,} documents to leave out of training; in a plan:"
        yield f"  corpora: {{NAME: {{..., exclude: {listing}}}}}"
    elif documents:
        yield f"to leave the {documents:,} documents out of training, write a list of them: --exclude FILE, as in"
        prefixes = [corpus.prefix for corpus in found.corpora]
        asked = _command(found.holdout, prefixes, found.method, found.n, found.threshold)
        yield f"  {asked} --exclude {found.holdout.name}.exclude"


def reason(holdout: Path, prefixes: Sequence[Path], method: str, n: int, threshold: float) -> str:
    """Why a list leaves documents out, for its header: the command, on which alone a list depends."""
    return f"why: {_command(holdout, prefixes, method, n, threshold)}"


def _command(holdout: Path, prefixes: Sequence[Path], method: str, n: int, threshold: float) -> str:
    words = [
        "keepwarm data overlap",
        holdout,
        *prefixes,
        "--method",
        method,
        "--ngram",
        n,
        "--threshold",
        f"{threshold:g}",
    ]
    return " ".join(map(str, words))


def _rule(found: Overlap) -> str:
    what = "of a document's distinct n-grams" if found.method == "ngram" else "Jaccard similarity of n-grams"
    return f"contaminated from {found.threshold:g} {what} on"


def _corpus_facts(corpus: CorpusOverlap, found: Overlap) -> dict[str, Any]:
    by_ngrams = found.method == "ngram"
    return {
        "prefix": str(corpus.prefix),
        "documents": corpus.documents,
        "tokens": corpus.tokens,
        "contaminated": np.flatnonzero(corpus.contaminated).tolist(),
        "exact": corpus.exact,
        "shared_ngrams": int(corpus.touched[:, 1].sum()) if by_ngrams else None,
        "touched": [
            {"document": document, "shared_ngrams": shared, "ngrams": ngrams, "share": shared / ngrams}
            for document, shared, ngrams in corpus.touched.tolist()
        ]
        if by_ngrams
        else None,
        "pairs": [_pair_facts(corpus, pair) for pair in corpus.near],
        "exclude": corpus.excluded.tolist(),
    }


def _pair_facts(corpus: CorpusOverlap, pair: NDArray[Any]) -> dict[str, Any]:
    """A pair by the first of the documents that are equal, and how many of them there are on either side."""
    ours, theirs = int(pair["holdout"]), int(pair["document"])
    return {
        "holdout": _number(corpus.ours, ours),
        "document": _number(corpus.theirs, theirs),
        "share": float(pair["share"]),
        "exact": bool(pair["exact"]),
        "holdouts": int(corpus.ours.counts[ours]),
        "documents": int(corpus.theirs.counts[theirs]),
    }


def _number(text: Distinct, row: int) -> int:
    return int(text.members[text.starts[row]])


def _table(found: Overlap) -> Iterator[str]:
    head = ("corpus", "documents", "tokens", "n-grams found", "contaminated", "exact", "to leave out")
    rows: list[tuple[str, ...]] = [head]
    for corpus in found.corpora:
        shared = f"{int(corpus.touched[:, 1].sum()):,}" if found.method == "ngram" else "-"
        counts = (corpus.contaminated.sum(), corpus.exact, len(corpus.excluded))
        cells = (f"{int(count):,}" for count in counts)
        rows.append((str(corpus.prefix), f"{corpus.documents:,}", f"{corpus.tokens:,}", shared, *cells))
    yield from aligned(rows, right=range(1, len(head)))


def _verdict(found: Overlap) -> Iterator[str]:
    count, scattered = int(found.contaminated.sum()), len(found.scattered)
    yield f"contaminated: {count:,} of {found.documents:,} held-out documents"
    if found.method != "ngram":
        return
    if scattered:
        yield (
            f"  {scattered:,} of them by pieces in many documents, none of which holds enough to be left out: "
            "hold out others instead"
        )
    if not count:
        yield f"  the most that any shares is {found.shares.max():.1%} of its n-grams"
    if short := int((found.ngrams == 0).sum()):
        yield f"  {short:,} are shorter than {found.n} tokens and were compared whole only"


def _others(count: int) -> str:
    return f" (and {count - 1:,} equal)" if count > 1 else ""


def _wrapped(passage: str) -> Iterator[str]:
    """A passage as one string literal, in lines that fit a terminal."""
    text = repr(passage)
    for first in range(0, len(text), _TEXT_WIDTH):
        yield f"    {text[first : first + _TEXT_WIDTH]}"


def _degree(pair: dict[str, Any], found: Overlap) -> str:
    if pair["exact"]:
        return "the same, token for token"
    share = pair["share"]
    return f"{share:.1%} of its n-grams" if found.method == "ngram" else f"Jaccard about {share:.2f}"


def _passage(found: Overlap, corpus: CorpusOverlap, pair: dict[str, Any], tokenizer: Tokenizer) -> str:
    """The longest passage of the held-out document that the other has too, shortened in the middle."""
    ours = open_indexed(found.holdout).document(pair["holdout"])
    theirs = open_indexed(corpus.prefix).document(pair["document"])
    start, stop = longest_shared(ours, theirs, found.n)
    ids = (ours if stop == start else ours[start:stop]).tolist()
    text = str(tokenizer.backend.decode([each for each in ids if each != tokenizer.eod_id], skip_special_tokens=False))
    half = _LONGEST_TEXT // 2
    return text if len(text) <= _LONGEST_TEXT else f"{text[:half]} ... {text[-half:]}"
