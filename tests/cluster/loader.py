"""What the reference's loader reads of a file list, written anew from its recordings: the data of the stub trainer.

It knows nothing of keepwarm. tests/cluster/test_loader.py holds it against what the real one gave.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
SPARE = 1.005


class File:
    """A pair: its sequences as the index says."""

    def __init__(self, prefix: str) -> None:
        index = Path(prefix + ".idx").read_bytes()
        assert index[:9] == b"MMIDIDX\x00\x00" and int.from_bytes(index[9:17], "little") == 1, prefix
        dtype, count = np.dtype(DTYPES[index[17]]), int.from_bytes(index[18:26], "little")
        self.sizes = np.frombuffer(index, "<i4", count, 34)
        self.pointers = np.frombuffer(index, "<i8", count, 34 + 4 * count)
        self.tokens = np.fromfile(prefix + ".bin", dtype)
        self.width = dtype.itemsize

    def sequence(self, number: int) -> np.ndarray:
        start = int(self.pointers[number]) // self.width
        return self.tokens[start : start + int(self.sizes[number])]


def split_at(split: str, count: int) -> list[int]:
    """Where the training, validating and testing sequences of a file begin, and the end."""
    shares = [float(each) for each in split.split(",")]
    ends = [0]
    for share in shares:
        ends.append(ends[-1] + round(share / sum(shares) * float(count)))
    return [0, *(end - (ends[-1] - count) for end in ends[1:])]


class Samples:
    """The samples of one part of one file, shuffled as a run that asks for `asked` of them does."""

    def __init__(self, file: File, documents: np.ndarray, asked: int, length: int, seed: int) -> None:
        tokens, epochs = int(file.sizes[documents].sum()), 1
        while (epochs * tokens - 1) // length < asked:
            epochs += 1
        before, a_turn = ((epochs - 1) * tokens - 1) // length, (tokens - 1) // length
        apart = epochs > 1 and asked - before < int(0.80 * a_turn)
        random = np.random.RandomState(seed)
        turns = [epochs - 1, 1] if apart else [epochs]
        row = []
        for each in turns:
            part = np.tile(documents, each)
            random.shuffle(part)
            row.append(part)
        self.row = np.concatenate([file.sequence(number) for number in np.concatenate(row)])
        count = (epochs * tokens - 1) // length
        first = np.arange(before if apart else count)
        random.shuffle(first)
        last = np.arange(len(first), count)
        if len(last):
            random.shuffle(last)
        self.order, self.length, self.epochs = np.concatenate([first, last]), length, epochs

    def __getitem__(self, number: int) -> np.ndarray:
        start = int(self.order[number]) * self.length
        return np.array(self.row[start : start + self.length + 1], dtype=np.int64)


class Blend:
    """The training (part 0) or validating (part 1) samples of a list for a run of `samples`."""

    def __init__(
        self, listing: Path, samples: int, length: int, *, part: int = 0, seed: int = 1234, split: str = "990,10,0",
        shuffled: bool = True,
    ) -> None:  # fmt: skip
        lines = [line.split() for line in Path(listing).read_text().splitlines()]
        assert all(len(line) == 3 for line in lines), "exactly weight, prefix and corpus"
        weights = [float(weight) for weight, _, _ in lines]
        whole = 0.0
        for weight in weights:
            whole += weight
        corpora: dict[str, list[tuple[Samples | None, int]]] = {}
        for (_, prefix, corpus), weight in zip(lines, weights, strict=True):
            asked, file = math.ceil(samples * (weight / whole) * SPARE), File(prefix)
            begins = split_at(split, len(file.sizes))
            documents = np.arange(begins[part], begins[part + 1])
            there = Samples(file, documents, asked, length, seed) if len(documents) else None
            corpora.setdefault(corpus, []).append((there, asked))
        self.names = sorted(corpora)
        self.corpora = [_Corpus(corpora[name], seed, shuffled) for name in self.names]
        total = sum(corpus.size for corpus in self.corpora)
        shares = np.array([corpus.size / total for corpus in self.corpora])
        self.shares, self.size = shares / shares.sum(), total
        self.turns = self._turns(samples)

    def _turns(self, samples: int) -> np.ndarray:
        """(samples, 2): corpus and number in the corpus of each sample."""
        counts, found = np.zeros(len(self.shares)), np.empty((samples, 2), dtype=np.int64)
        for n in range(samples):
            corpus = int(np.argmax(self.shares * max(n, 1) - counts))
            found[n] = corpus, counts[corpus]
            counts[corpus] += 1
        return found

    def __getitem__(self, number: int) -> np.ndarray:
        corpus, at = self.turns[number]
        return self.corpora[corpus][at]


class _Corpus:
    def __init__(self, files: list[tuple[Samples | None, int]], seed: int, shuffled: bool) -> None:
        self.files, self.size = files, sum(asked for _, asked in files)
        self.places = [(file, number) for file, (_, asked) in enumerate(files) for number in range(asked)]
        self.order = np.arange(self.size)
        if shuffled:
            np.random.RandomState(seed).shuffle(self.order)

    def __getitem__(self, number: int) -> np.ndarray:
        file, at = self.places[self.order[number]]
        samples = self.files[file][0]
        assert samples is not None, "a file without sequences in this part"
        return samples[at]
