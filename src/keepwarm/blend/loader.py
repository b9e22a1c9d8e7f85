"""Batches ahead of the trainer: one thread reads the next few while the model works on this one.

The order is the stream's, so reading ahead changes nothing but the time it takes. Memory is `ahead` + 2 batches, used
in turns, and the stream's open files, however many sources there are and however large they grow.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from keepwarm.blend.stream import Stream

Batch = tuple[NDArray[np.int32], NDArray[np.int64]]  # as of Stream.batch
AHEAD = 4


class Loader:
    """The batches of samples [begins(k), begins(k + 1)), from k = `first` to `last` - 1, in order; none is larger than
    the last."""

    def __init__(
        self, stream: Stream, begins: Callable[[int], int], first: int, last: int, ahead: int = AHEAD,
        part: Callable[[int], slice] = lambda rows: slice(0, rows),
    ) -> None:  # fmt: skip
        """Begin to read. `begins` gives the number of a batch's first sample, `part` the rows that are read of a batch of
        so many: one process's of several."""
        self._stream, self._begins, self._part = stream, begins, part
        largest = begins(last) - begins(last - 1)
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(ahead)
        # One batch is with the trainer, `ahead` wait, one is being read.
        self._memory = np.empty((ahead + 2, largest, stream.sequence_length + 1), dtype=np.int32)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(first, last), name="loader", daemon=True)
        self._thread.start()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading, wherever it stands, and close the files."""
        self._stopped.set()
        while not self._ready.empty():
            self._ready.get_nowait()
        self._thread.join()
        self._stream.close()

    def next(self) -> Batch:
        """The next batch, good until the next call. Raises what reading it raised (DataError for a file cut short)."""
        found = self._ready.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def _read(self, first: int, last: int) -> None:
        try:
            for number in range(first, last):
                begin, end = self._begins(number), self._begins(number + 1)
                out = self._memory[number % len(self._memory), : end - begin]
                self._offer(self._stream.batch(begin, end, out, self._part(end - begin)))
                if self._stopped.is_set():
                    return
        except BaseException as error:  # told to the trainer, in its own thread
            self._offer(error)

    def _offer(self, item: Batch | BaseException) -> None:
        while not self._stopped.is_set():
            try:
                return self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
