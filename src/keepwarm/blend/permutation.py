"""Which window: a keyed bijection of [0, length), computed for any index alone, with no table and no shuffle.

A Feistel network permutes [0, 2^b), the smallest such domain that holds `length`: the number's lower and upper bits,
halves of b as equal as can be, are `ROUNDS` times in turn exclusive-ored with a hash of the other, splitmix64's
finaliser at the point key + round * golden ratio + half (no two rounds share a point). An output outside [0, length) is
sent through again until it falls inside (cycle walking), which keeps the map a bijection; the domain is below
2 * length, so that takes fewer than two passes on average.

Sources: Luby and Rackoff 1988 (four rounds suffice against any test); Black and Rogaway 2002 (cycle walking); Steele,
Lea and Flood 2014 (splitmix64). Six rounds, because with the few bits of a short file four are not many.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.hashing import derive_key, mix64_into, mix64_of_one

ROUNDS = 6
GOLDEN = 0x9E3779B97F4A7C15
_FEW = 12


@lru_cache(maxsize=65536)
def window_key(seed: int, source_id: str, epoch: int) -> int:
    """The key of the order in which epoch `epoch` of a source is read."""
    return derive_key("windows", seed, source_id, epoch)


def permute(
    index: NDArray[np.int64], length: NDArray[np.int64] | int, key: NDArray[np.uint64] | int
) -> NDArray[np.int64]:
    """Image of each `index` (N,) in [0, length) under the permutation `key`; `length` and `key` scalars or (N,).

    Lengths are below 2^53.
    """
    lengths = np.broadcast_to(np.asarray(length, dtype=np.uint64), np.shape(index))
    keys = np.broadcast_to(np.asarray(key, dtype=np.uint64), np.shape(index))
    values = np.array(index, dtype=np.uint64)
    assert np.all(values < lengths), "index outside [0, length)"
    bits = bit_lengths(lengths - np.uint64(1))
    values = _feistel(values, bits, keys)
    outside = np.flatnonzero(values >= lengths)
    while len(outside) > _FEW:
        values[outside] = again = _feistel(values[outside], bits[outside], keys[outside])
        outside = outside[again >= lengths[outside]]
    for at in outside.tolist():
        values[at] = _walk(int(values[at]), int(lengths[at]), int(bits[at]), int(keys[at]))
    return values.astype(np.int64)


def _walk(value: int, length: int, bits: int, key: int) -> int:
    """One cycle walk to its end in python's integers: for the last few, numpy would cost more than they do."""
    low_bits = (bits + 1) // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << bits - low_bits) - 1
    while value >= length:
        low, high = value & low_mask, value >> low_bits
        for turn in range(1, ROUNDS + 1):
            if turn % 2:
                low ^= mix64_of_one(key + turn * GOLDEN + high) & low_mask
            else:
                high ^= mix64_of_one(key + turn * GOLDEN + low) & high_mask
        value = high << low_bits | low
    return value


def bit_lengths(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The bits that each of `values` (N,) needs: b such that [0, 2^b) is the smallest domain that holds it."""
    return np.frexp(values.astype(np.float64))[1].astype(np.uint64)  # exact below 2^53


def _feistel(values: NDArray[np.uint64], bits: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    one = np.uint64(1)
    low_bits = (bits + one) >> one
    low_mask, high_mask = (one << low_bits) - one, (one << (bits - low_bits)) - one
    low: NDArray[np.uint64] = values & low_mask
    high: NDArray[np.uint64] = values >> low_bits
    mixed, spare = np.empty_like(low), np.empty_like(low)
    for turn in range(1, ROUNDS + 1):
        other, half, mask = (high, low, low_mask) if turn % 2 else (low, high, high_mask)
        np.add(keys, np.uint64(turn * GOLDEN % 2**64), out=mixed)
        mixed += other
        mix64_into(mixed, spare)
        mixed &= mask
        half ^= mixed
    high <<= low_bits
    return high | low
