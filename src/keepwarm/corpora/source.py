"""A source: one indexed token file as the blend sees it, windows read straight from `.bin`.

A source may leave spans of its file out (held-out documents): `kept` lists what remains, and a window of
`sequence_length` + 1 tokens is cut from the concatenation of the kept spans without rewriting the file. Window w
covers virtual tokens [w*S, w*S + S + 1): it shares its last token with the next window, so that each token is a
target once an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.indexed import open_indexed


@dataclass(frozen=True, eq=False, slots=True)
class Source:
    """One token file. `name` is for people, `id` (16 hex digits) is its content's identity and keys its order."""

    name: str
    id: str
    prefix: Path
    kept: NDArray[np.int64]  # (spans, 2): [start, stop) token positions in .bin, ascending and disjoint

    @property
    def tokens(self) -> int:
        """Tokens that may be trained on."""
        return int((self.kept[:, 1] - self.kept[:, 0]).sum())

    def windows(self, sequence_length: int) -> int:
        """Number of whole windows, the samples of one epoch."""
        return max(0, (self.tokens - 1) // sequence_length)


class WindowReader:
    """Reads windows of one source; opens the file at the first read and keeps the mapping."""

    def __init__(self, source: Source, sequence_length: int) -> None:
        """Prepare to read windows of `sequence_length` + 1 tokens."""
        self.source = source
        self.sequence_length = sequence_length
        self._ends = np.cumsum(source.kept[:, 1] - source.kept[:, 0])
        self._tokens: NDArray[np.generic] | None = None

    def read(self, window: int) -> NDArray[np.generic]:
        """Tokens of window `window`, shape (sequence_length + 1,), in the file's dtype."""
        if self._tokens is None:
            self._tokens = open_indexed(self.source.prefix).tokens
        start = window * self.sequence_length
        stop = start + self.sequence_length + 1
        assert start >= 0 and stop <= self._ends[-1], (self.source.name, window)
        span = int(np.searchsorted(self._ends, start, side="right"))
        pieces = []
        while start < stop:
            begin = int(self.source.kept[span, 1] - self._ends[span]) + start
            length = min(stop, int(self._ends[span])) - start
            pieces.append(self._tokens[begin : begin + length])
            start += length
            span += 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
