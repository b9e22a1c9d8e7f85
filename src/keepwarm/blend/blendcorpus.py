"""What BlendCorpus fed: the reference loader's own two levels, by corpus and by file, without its index arrays.

A list's weights are normalised by their float sum and each file is given ceil(N * weight * 1.005) samples, N what the
run was launched for. Corpora take turns, in the order of their names, in the greedy order of their sizes (greedy.py).
Within a corpus its files follow each other in the list's order, shuffled as a whole by NumPy's RandomState of the run's
seed. So every count is exact where seed and N are known; the greedy order is exact at any N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keepwarm.blend.greedy import Greedy
from keepwarm.corpora.filelist import Entry

SPARE = 1.005  # of the samples each file is given
MOST_SHUFFLED = 1 << 25  # samples of a corpus that are shuffled here: 128 MiB for a second or two


@dataclass(frozen=True, slots=True)
class FileFed:
    """Samples that one file of the list gave. `exact` is False for an expected share."""

    entry: Entry
    samples: int
    exact: bool


@dataclass(frozen=True, slots=True)
class CorpusFed:
    """Samples that a corpus gave, and its files."""

    name: str
    samples: int
    exact: bool
    files: tuple[FileFed, ...]


class BlendCorpus:
    """The order of a list for a run of `samples` in all; without them, weights stand for sizes and no count is exact.

    `seed` None: the shuffle is not known. `shuffled` and `blended` are the run's --shuffle-sample-in-corpus and
    --blend-sample-in-corpus; how files take turns within a blended corpus is not emulated.
    """

    def __init__(
        self, entries: Sequence[Entry], samples: int | None, seed: int | None, *, shuffled: bool, blended: bool
    ) -> None:
        self.exact = samples is not None
        self._known = not blended and (seed is not None or not shuffled)
        self._seed, self._shuffled = seed, shuffled
        weights = [float(entry.text) for entry in entries]
        whole = sum(weights)
        self._files: dict[str, list[tuple[Entry, int]]] = {}
        for entry, weight in zip(entries, weights, strict=True):
            given = math.ceil((samples or 1 << 40) * (weight / whole) * SPARE)
            self._files.setdefault(entry.corpus, []).append((entry, given))
        self.names = sorted(self._files)
        sizes = [self.given(name) for name in self.names]
        shares = np.array([size / sum(sizes) for size in sizes])
        self._greedy = Greedy((shares / np.sum(shares)).tolist())  # the reference divides twice: ties hang on last bits

    def fed(self, start: int, stop: int) -> tuple[CorpusFed, ...]:
        """What samples [start, stop) of the run took from each corpus, in the order of their names, and from its files."""
        before, after = self._greedy.counts(start), self._greedy.counts(stop)
        return tuple(
            CorpusFed(name, b - a, self.exact, self._within(name, a, b))
            for name, a, b in zip(self.names, before, after, strict=True)
        )

    def counts(self, n: int) -> dict[str, int]:
        """Samples of each corpus among the first `n` of the run."""
        return dict(zip(self.names, self._greedy.counts(n), strict=True))

    def given(self, name: str) -> int:
        """Samples that the files of a corpus are given, in all."""
        return sum(given for _, given in self._files[name])

    def _within(self, name: str, start: int, stop: int) -> tuple[FileFed, ...]:
        """Samples [start, stop) of a corpus by file: counted where the order is known, else by expected shares."""
        files, size = self._files[name], self.given(name)
        whole = start == 0 and stop == size
        few = not self._shuffled or size <= MOST_SHUFFLED
        if len(files) == 1:
            counts = [stop - start]
        elif self.exact and whole:
            counts = [given for _, given in files]
        elif self.exact and self._known and few:
            counts = self._counted([given for _, given in files], start, stop)
        else:
            counts = shared_out(stop - start, [given for _, given in files])
            return tuple(FileFed(entry, count, False) for (entry, _), count in zip(files, counts, strict=True))
        return tuple(FileFed(entry, count, self.exact) for (entry, _), count in zip(files, counts, strict=True))

    def _counted(self, given: Sequence[int], start: int, stop: int) -> list[int]:
        if not self._shuffled:
            ends = np.cumsum(given)
            return [int(n) for n in (np.minimum(stop, ends) - np.clip(start, ends - given, ends)).clip(0)]
        order = np.repeat(np.arange(len(given), dtype=np.int32), given)
        np.random.RandomState(self._seed).shuffle(order)
        return [int(n) for n in np.bincount(order[start:stop], minlength=len(given))]


def shared_out(total: int, sizes: Sequence[int]) -> list[int]:
    """`total` in whole parts proportional to `sizes`, the largest remainders rounded up; they add up to it."""
    whole = sum(sizes)
    parts = [total * size // whole if whole else 0 for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: (-(total * sizes[i] % whole) if whole else 0, i))
    for i in order[: total - sum(parts)]:
        parts[i] += 1
    return parts
