"""Position in a source -> (epoch, window): which windows a source's samples read, in turns through all of them.

With L windows an epoch, position p reads window permute(p mod L) of epoch p // L, in the order of that epoch's key.
Samples that are asked for together mostly lie in one epoch of each source, so the key of the epoch that each source was
last seen in is kept at hand: it saves a division and a hash a sample, and changes no answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keepwarm.blend.permutation import permute, window_key


class Turns:
    """The turns of some sources. `lengths` (sources,) are their windows, the samples of one epoch."""

    def __init__(self, source_ids: Sequence[str], lengths: NDArray[np.int64], seed: int) -> None:
        """Begin with every source in its first epoch: 32 bytes of state a source."""
        self.source_ids, self.lengths, self.seed = tuple(source_ids), lengths, seed
        self.epoch = np.zeros(len(lengths), dtype=np.int64)  # that each source was last seen in
        self.first = np.zeros(len(lengths), dtype=np.int64)  # that epoch's first position
        self.key = np.array([window_key(seed, source_id, 0) for source_id in source_ids], dtype=np.uint64)

    def locate(self, source: NDArray[np.int64], position: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Epoch and window of the positions (N,) in the sources (N,) numbered as in `source_ids`."""
        length = self.lengths.take(source)
        index = position - self.first.take(source)
        epoch, key = self.epoch.take(source), self.key.take(source)
        elsewhere = np.flatnonzero((index < 0) | (index >= length))
        if len(elsewhere):
            epoch[elsewhere], index[elsewhere] = np.divmod(position[elsewhere], length[elsewhere])
            key[elsewhere] = self.keys(source[elsewhere], epoch[elsewhere])
        return epoch, permute(index, length, key)

    def keys(self, source: NDArray[np.int64], epoch: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The keys of epochs (N,) of the sources (N,); the latest of each source is kept at hand."""
        orders, at = np.unique(epoch * len(self.source_ids) + source, return_inverse=True)
        turns, numbers = np.divmod(orders, len(self.source_ids))
        pairs = zip(numbers.tolist(), turns.tolist(), strict=True)
        keys = np.array(
            [window_key(self.seed, self.source_ids[number], turn) for number, turn in pairs], dtype=np.uint64
        )
        self.epoch[numbers], self.key[numbers] = turns, keys  # rising epochs: a source's last one stays
        self.first[numbers] = turns * self.lengths[numbers]
        return keys[at]
