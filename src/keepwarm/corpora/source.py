"""A source: one indexed token file as the blend sees it, windows read straight from `.bin`.

A source may leave spans of its file out (held-out documents): `kept` lists what remains, and a window of
`sequence_length` + 1 tokens is cut from the concatenation of the kept spans without rewriting the file. Window w
covers virtual tokens [w*S, w*S + S + 1): it shares its last token with the next window, so that each token is a
target once an epoch.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.indexed import pair, read_header
from keepwarm.errors import DataError

OPEN_FILES = 256


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
    """Reads windows of many sources with at most `open_files` of them open, and no mapping.

    Reading by offset costs what a mapped read costs, and a file that is cut short while it is read gives an error that
    names it, where a mapping would kill the process; nor does resident memory grow with the pages that were touched.
    """

    def __init__(self, sources: Sequence[Source], sequence_length: int, open_files: int = OPEN_FILES) -> None:
        """Prepare to read windows of `sequence_length` + 1 tokens. No file is opened before it is read from."""
        self.sources = tuple(sources)
        self.sequence_length = sequence_length
        self._ends = [np.cumsum(source.kept[:, 1] - source.kept[:, 0]) for source in self.sources]
        self._most = open_files
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()  # the least recently read first

    def read_into(self, source: int, window: int, out: NDArray[np.int64]) -> None:
        """Put window `window` of source number `source` into `out`, (sequence_length + 1,).

        Raises DataError if the file is gone or shorter than it was.
        """
        file = self._file(source)
        kept, ends = self.sources[source].kept, self._ends[source]
        first, done = window * self.sequence_length, 0
        span = int(ends.searchsorted(first, side="right"))
        while done < len(out):
            assert span < len(ends), (self.sources[source].name, window)
            length = min(len(out) - done, int(ends[span]) - first)
            out[done : done + length] = file.read(int(kept[span, 1] - ends[span]) + first, length)
            done, first, span = done + length, first + length, span + 1

    def close(self) -> None:
        """Close every file."""
        while self._open:
            os.close(self._open.popitem()[1].descriptor)

    def _file(self, source: int) -> _OpenFile:
        file = self._open.get(source)
        if file is not None:
            self._open.move_to_end(source)
            return file
        if len(self._open) >= self._most:
            os.close(self._open.popitem(last=False)[1].descriptor)
        self._open[source] = file = _OpenFile.of(self.sources[source].prefix, self.sequence_length + 1)
        return file


@dataclass(frozen=True, eq=False, slots=True)
class _OpenFile:
    path: Path
    descriptor: int
    buffer: NDArray[Any]  # one window in the file's own dtype
    view: memoryview  # the buffer's bytes

    @classmethod
    def of(cls, prefix: Path, tokens: int) -> _OpenFile:
        path = pair(prefix)[0]
        buffer = np.empty(tokens, dtype=read_header(prefix).dtype)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise _gone(path, (error.strerror or "can't be read").lower()) from None
        return cls(path, descriptor, buffer, buffer.data.cast("B"))

    def read(self, first: int, length: int) -> NDArray[Any]:
        size = self.buffer.itemsize
        part = self.view[: length * size]
        if os.preadv(self.descriptor, [part], first * size) != len(part):
            raise _gone(self.path, f"ends before token {first + length:,}; it was longer when the run began")
        return self.buffer[:length]


def _gone(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: {what}",
        "the order of data belongs to the files as they were, and nothing is left out silently",
        "restore the file from where it was made; the same command then goes on",
    )
