"""Pairs of a corpus's documents and held-out ones that are alike: who is in any, and the pairs that are most so."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 1 << 20  # pairs kept for each corpus
NEAR = np.dtype([("row", "<i8"), ("holder", "<i8"), ("share", "<f8")])


class Pairs:
    """Takes pairs as they are found, each once. Memory holds a bit for each document and at most twice `MOST` pairs."""

    def __init__(self, rows: int, holders: int) -> None:
        self.rows = np.zeros(rows, dtype=bool)  # documents of the corpus that are in any pair
        self.holders = np.zeros(holders, dtype=bool)  # held-out documents that are in any pair
        self.count = 0
        self._kept = [np.zeros(0, dtype=NEAR)]
        self._held = 0

    def add(self, row: NDArray[np.int64], holder: NDArray[np.int64], share: NDArray[np.float64]) -> None:
        """Note pairs (p,)."""
        found = np.zeros(len(row), dtype=NEAR)
        found["row"], found["holder"], found["share"] = row, holder, share
        self.rows[row], self.holders[holder] = True, True
        self.count += len(row)
        self._kept.append(found)
        self._held += len(row)
        if self._held > 2 * MOST:
            self._kept = [self.largest()]
            self._held = len(self._kept[0])

    def largest(self) -> NDArray[Any]:
        """The pairs (of NEAR) with the largest shares, at most `MOST`, the largest first."""
        every = np.concatenate(self._kept)
        return every[np.lexsort((every["row"], every["holder"], -every["share"]))[:MOST]]
