"""A source: one indexed token file as the blend sees it, windows read straight from `.bin`.

A source may leave spans of its file out (held-out documents): `kept` lists what remains, and a window of
`sequence_length` + 1 tokens is cut from the concatenation of the kept spans without rewriting the file. Window w
covers virtual tokens [w*S, w*S + S + 1): it shares its last token with the next window, so that each token is a
target once an epoch.
"""

from __future__ import annotations

import os
from bisect import bisect_right
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

    Reading by offset costs what a mapped read costs the first time, and a file that is cut short while it is read gives
    an error that names it, where a mapping would kill the process; nor does resident memory grow with the pages that
    were touched. Tokens of int32 go from the system's cache straight to where the caller wants them.
    """

    def __init__(self, sources: Sequence[Source], sequence_length: int, open_files: int = OPEN_FILES) -> None:
        """Prepare to read windows of `sequence_length` + 1 tokens. No file is opened before it is read from."""
        self.sources = tuple(sources)
        self.sequence_length = sequence_length
        self._most = open_files
        self._layouts: dict[int, _Layout] = {}
        self._open: OrderedDict[int, int] = OrderedDict()  # descriptors, the least recently read first
        self._scratch: dict[np.dtype[Any], NDArray[Any]] = {}  # a window in a dtype that has to be widened

    def read(self, sources: NDArray[np.int64], windows: NDArray[np.int64], out: NDArray[np.int32]) -> None:
        """Put window windows[i] of source number sources[i] into out[i]; `out` is (N, sequence_length + 1), in one piece.

        Raises DataError if a file is gone or shorter than it was.
        """
        rows, size = out.data.cast("B"), out.strides[0]
        crowded = len(self.sources) > self._most
        places = (windows * self.sequence_length).tolist()
        for row, (source, place) in enumerate(zip(sources.tolist(), places, strict=True)):
            layout = self._layouts.get(source) or self._layout(source)
            descriptor = self._open.get(source)
            if descriptor is None:
                descriptor = self._descriptor(source, layout)
            elif crowded:
                self._open.move_to_end(source)
            if layout.dtype == out.dtype:
                layout.fill(descriptor, place, rows[row * size : (row + 1) * size])
            else:
                window = self._scratch.get(layout.dtype)
                if window is None:
                    self._scratch[layout.dtype] = window = np.empty(out.shape[1], dtype=layout.dtype)
                layout.fill(descriptor, place, window.data.cast("B"))
                out[row] = window

    def close(self) -> None:
        """Close every file."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _layout(self, source: int) -> _Layout:
        self._layouts[source] = found = _Layout.of(self.sources[source])
        return found

    def _descriptor(self, source: int, layout: _Layout) -> int:
        """Open the source's file; the one that was read from longest ago is closed if there are too many."""
        if len(self._open) >= self._most:
            os.close(self._open.popitem(last=False)[1])
        try:
            self._open[source] = descriptor = os.open(layout.path, os.O_RDONLY)
        except OSError as error:
            raise _gone(layout.path, (error.strerror or "can't be read").lower()) from None
        return descriptor


@dataclass(frozen=True, eq=False, slots=True)
class _Layout:
    """Where the tokens of a source lie, known once it was first read from; it stays when the file is closed."""

    path: str
    dtype: np.dtype[Any]
    size: int  # bytes of a token
    ends: memoryview  # (spans,) how many tokens the kept spans up to this one have
    shifts: memoryview  # (spans,) from a place in the kept spans in a row to the place in .bin

    @classmethod
    def of(cls, source: Source) -> _Layout:
        header = read_header(source.prefix)
        ends = np.cumsum(source.kept[:, 1] - source.kept[:, 0])
        path, dtype = str(pair(source.prefix)[0]), header.dtype
        return cls(path, dtype, dtype.itemsize, ends.data, (source.kept[:, 1] - ends).data)

    def fill(self, descriptor: int, first: int, view: memoryview) -> None:
        """Read the tokens from `first` on of the kept spans in a row, as many as `view` has bytes for."""
        size = self.size
        span, left = bisect_right(self.ends, first), len(view) // size
        while left:
            place, length = first + self.shifts[span], self.ends[span] - first
            part = view
            if length < left:  # the window goes on in the next span
                part, view = view[: length * size], view[length * size :]
            if os.preadv(descriptor, (part,), place * size) != len(part):
                stop = place + len(part) // size
                raise _gone(self.path, f"ends before token {stop:,}; it was longer when the run began")
            left, first, span = max(0, left - length), first + length, span + 1


def _gone(path: str, what: str) -> DataError:
    return DataError(
        f"{path}: {what}",
        "the order of data belongs to the files as they were, and nothing is left out silently",
        "restore the file from where it was made; the same command then goes on",
    )
