"""How far two corpora's training tokens lie apart, without a model: Jensen-Shannon divergence and tokens per byte.

Each side is a fixed set of short windows, evenly spread over all that may be trained on, so a huge token file is never
read through. The divergence of finite samples is above 0 even where there is no shift (of bigrams by a lot), so it is
read beside its null: two disjoint parts of D_0, each of the same size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.hashing import derive_key
from keepwarm.corpora.prepare import Corpus
from keepwarm.corpora.source import WindowReader
from keepwarm.corpora.tokenizer import Tokenizer

SAMPLE_TOKENS = 150_000  # of a side at most, as where the borders come from
WINDOW_TOKENS = 128  # short, so that many documents are looked into
FEWEST_WINDOWS = 32  # of a side; fewer are noise
STRETCHES = 16  # that a file's sample is dealt in, in turn, to the two parts of D_0

Windows = NDArray[np.int32]  # (windows, WINDOW_TOKENS + 1) token ids


@dataclass(frozen=True, slots=True)
class Divergence:
    """A new corpus against D_0: bits, each beside its null; tokens a byte of text; all at `sample_tokens` a side."""

    js_unigram: float
    js_unigram_null: float
    js_bigram: float
    js_bigram_null: float
    new_tokens_per_byte: float
    base_tokens_per_byte: float
    sample_tokens: int


def divergence(new: Corpus, base: Corpus, tokenizer: Tokenizer, seed: int) -> Divergence | None:
    """Measure `new` against `base`; None where either has too little text: 32 windows of the new one, twice that of D_0.

    A pure function of the seed and the corpora.
    """
    wanted = SAMPLE_TOKENS // WINDOW_TOKENS
    ours, _ = sample(new, wanted, seed)
    old, parts = sample(base, 2 * wanted, seed)
    first, second = old[parts == 0], old[parts == 1]
    count = min(len(ours), len(first), len(second))
    if count < FEWEST_WINDOWS:
        return None
    ours, first, second = (_thinned(each, count) for each in (ours, first, second))
    return Divergence(
        jensen_shannon(unigrams(ours), unigrams(first)), jensen_shannon(unigrams(second), unigrams(first)),
        jensen_shannon(bigrams(ours), bigrams(first)), jensen_shannon(bigrams(second), bigrams(first)),
        tokens_per_byte(ours, tokenizer), tokens_per_byte(first, tokenizer), count * WINDOW_TOKENS,
    )  # fmt: skip


def jensen_shannon(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Jensen-Shannon divergence of two samples of symbols, (n,) and (m,), in bits: 0 where alike, 1 where disjoint.

    JS = H((P + Q) / 2) - (H(P) + H(Q)) / 2, with P and Q as counted (Lin 1991).
    """
    symbols, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    p = np.bincount(places[: len(first)], minlength=len(symbols)) / len(first)
    q = np.bincount(places[len(first) :], minlength=len(symbols)) / len(second)
    return min(1.0, max(0.0, _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2))


def _entropy(shares: NDArray[np.float64]) -> float:
    there = shares[shares > 0]
    return float(-(there * np.log2(there)).sum())


def unigrams(windows: Windows) -> NDArray[np.int64]:
    """Every token of the windows, but for the last one of each, which the next window begins with."""
    return windows[:, :-1].ravel().astype(np.int64)


def bigrams(windows: Windows) -> NDArray[np.int64]:
    """Every pair of neighbours within a window, as one number each; as many as there are unigrams."""
    return ((windows[:, :-1].astype(np.int64) << 32) + windows[:, 1:]).ravel()


def tokens_per_byte(windows: Windows, tokenizer: Tokenizer) -> float:
    """Fertility: tokens a byte of their text."""
    tokens = windows[:, :-1].ravel()
    return len(tokens) / max(1, tokenizer.text_bytes(tokens.tolist()))


def sample(corpus: Corpus, count: int, seed: int) -> tuple[Windows, NDArray[np.int64]]:
    """At most `count` windows of a corpus, by the weights of its sources, and for each the part (0 or 1) it belongs to.

    Within a file they are evenly spread from a place drawn by the seed. Stretches of neighbouring windows go to one part,
    so that one document's text is rarely in both.
    """
    sources = [source for source in corpus.sources if source.id in corpus.weights]
    weights = np.array([float(corpus.weights[source.id]) for source in sources])
    # Rounding the running sum gives many small sources their share in turn, where each alone would round to none.
    wanted = np.diff(np.floor(np.cumsum(weights) / weights.sum() * count + 1e-9), prepend=0).astype(np.int64)
    owners, places, stretches = [], [], [np.zeros(0, dtype=np.int64)]
    for number, source in enumerate(sources):
        there = source.windows(WINDOW_TOKENS)
        taken = min(int(wanted[number]), there)
        if not taken:
            continue
        begin = derive_key(seed, "sample", source.id) % there
        steps = np.arange(taken, dtype=np.int64)
        owners.append(np.full(taken, number, dtype=np.int64))
        places.append((steps * there + begin) // taken)
        stretches.append(stretches[-1].max(initial=-1) + 1 + steps * min(STRETCHES, taken) // taken)
    out = np.empty((sum(map(len, places)), WINDOW_TOKENS + 1), dtype=np.int32)
    if places:
        reader = WindowReader(sources, WINDOW_TOKENS)
        try:
            reader.read(np.concatenate(owners), np.concatenate(places), out)
        finally:
            reader.close()
    return out, np.concatenate(stretches) % 2


def _thinned(windows: Windows, count: int) -> Windows:
    return windows[np.arange(count, dtype=np.int64) * len(windows) // count]
