"""The reference trainer's greedy order, bit for bit, without its index arrays.

Megatron and BlendCorpus give sample n to the source that lags most, argmax over k of w_k * max(n, 1) - count_k, in
64-bit floats, ties to the lowest k; samples 0 and 1 both count as the first. The order depends on the counts alone, so
they are streamed: a place is reached from the nearest snapshot before it, and snapshots are kept every 2^20 samples (8
bytes a source each). This tells what such a run was fed, or would be; keepwarm's own order is interleave.py's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keepwarm.blend.scans import compiled_loops

SNAPSHOT_SAMPLES = 1 << 20


class Greedy:
    """The order in which sources of float `weights` take turns. Normalise them as the trainer does before."""

    def __init__(self, weights: Sequence[float]) -> None:
        """Begin at sample 0. Raises ValueError for weights that are none, negative, not finite or all zero."""
        self.weights = np.array(weights, dtype=np.float64)
        if not len(self.weights) or not np.isfinite(self.weights).all() or self.weights.min() < 0 or not any(weights):
            raise ValueError(f"weights must be finite, none negative and not all zero, got {list(weights)}")
        self._snapshots = [np.zeros(len(self.weights), dtype=np.int64)]

    def counts(self, n: int) -> tuple[int, ...]:
        """Samples of each source among the first `n`."""
        number = min(n // SNAPSHOT_SAMPLES, len(self._snapshots) - 1)
        counts = self._snapshots[number].copy()
        at = number * SNAPSHOT_SAMPLES
        while at < n:
            stop = min(n, at + SNAPSHOT_SAMPLES)
            self._fill(counts, at, stop)
            at = stop
            if at == len(self._snapshots) * SNAPSHOT_SAMPLES:
                self._snapshots.append(counts.copy())
        return tuple(counts.tolist())

    def locate(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source number and the source's own sample number of the samples [start, stop)."""
        return self._fill(np.array(self.counts(start), dtype=np.int64), start, stop)

    def _fill(self, counts: NDArray[np.int64], start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`locate` from the counts at `start`, which become those at `stop`."""
        source, number = np.empty((2, stop - start), dtype=np.int64)
        compiled = compiled_loops(stop - start)
        if compiled is not None:
            compiled.greedy(self.weights, counts, start, source, number)
            return source, number
        for i in range(stop - start):
            k = int(np.argmax(self.weights * float(max(start + i, 1)) - counts))
            source[i], number[i] = k, counts[k]
            counts[k] += 1
        return source, number
