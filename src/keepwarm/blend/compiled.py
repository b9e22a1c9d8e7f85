"""What interleave.py with turns.py and greedy.py compute, as compiled loops: for scans over millions of samples.

Imports numba (extra `[numba]`), so it is imported only where a scan repays that (scans.py). The answers are
the same to the bit. numba makes a float of a signed and an unsigned integer: so every constant is wrapped.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from keepwarm.blend.permutation import GOLDEN, ROUNDS

_ONE, _32, _LOW_32, _HALF = np.uint64(1), np.uint64(32), np.uint64(2**32 - 1), np.uint64(2**63)
_27, _30, _31, _63 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(63)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(GOLDEN)


@numba.njit(cache=True, nogil=True)
def locate(
    first_sample: int,
    shares: NDArray[np.uint64], children: NDArray[np.int64],
    numbers: NDArray[np.int64], bases: NDArray[np.int64],
    lengths: NDArray[np.int64], firsts: NDArray[np.int64], epochs: NDArray[np.int64], keys: NDArray[np.uint64],
    source: NDArray[np.int64], epoch: NDArray[np.int64], window: NDArray[np.int64],
) -> None:  # fmt: skip
    """Fill source, epoch and window (N,) of a segment's samples first_sample, first_sample + 1, ...

    The tables are Interleave's (shares, children), the segment's (numbers, bases: by leaf) and Turns's (by source). A
    sample whose epoch is not the one at hand gets window -1 - its index in the epoch.
    """
    for i in range(len(source)):
        number, node = np.uint64(first_sample + i), 0
        if not len(shares):
            node = -1
        while node >= 0:
            left, goes_left = _split(number, shares[node])
            number = left if goes_left else number - left
            node = children[2 * node + (0 if goes_left else 1)]
        at = numbers[-1 - node]
        position = bases[-1 - node] + np.int64(number)
        index = position - firsts[at]
        source[i] = at
        if 0 <= index < lengths[at]:
            epoch[i] = epochs[at]
            window[i] = _permuted(np.uint64(index), np.uint64(lengths[at]), keys[at])
        else:
            epoch[i] = position // lengths[at]
            window[i] = -1 - position % lengths[at]


@numba.njit(cache=True, nogil=True)
def greedy(
    weights: NDArray[np.float64], counts: NDArray[np.int64], first_sample: int, source: NDArray[np.int64],
    number: NDArray[np.int64],
) -> None:  # fmt: skip
    """Fill source and number (N,) of the samples from `first_sample` on in the reference's order; counts go on."""
    for i in range(len(source)):
        sample = np.float64(max(first_sample + i, 1))
        most, worst = 0, weights[0] * sample - counts[0]
        for k in range(1, len(weights)):
            lag = weights[k] * sample - counts[k]
            if lag > worst:
                most, worst = k, lag
        source[i], number[i] = most, counts[most]
        counts[most] += 1


@numba.njit(cache=True, nogil=True)
def _split(n: np.uint64, share: np.uint64) -> tuple[np.uint64, np.bool]:
    n_high, n_low, high, low = n >> _32, n & _LOW_32, share >> _32, share & _LOW_32
    middle = n_high * low + ((n_low * low) >> _32)
    crossed = n_low * high + (middle & _LOW_32)
    product = n * share
    left = n_high * high + (middle >> _32) + (crossed >> _32) + (product >> _63)
    return left, product + _HALF > ~share


@numba.njit(cache=True, nogil=True)
def _permuted(value: np.uint64, length: np.uint64, key: np.uint64) -> np.uint64:
    bits, rest = np.uint64(0), length - _ONE
    while rest:
        bits += _ONE
        rest >>= _ONE
    low_bits = (bits + _ONE) >> _ONE
    low_mask, high_mask = (_ONE << low_bits) - _ONE, (_ONE << (bits - low_bits)) - _ONE
    while True:
        low, high, turn_key = value & low_mask, value >> low_bits, key
        for turn in range(ROUNDS):
            turn_key += _GOLDEN
            if turn % 2 == 0:
                low ^= _mixed(turn_key + high) & low_mask
            else:
                high ^= _mixed(turn_key + low) & high_mask
        value = high << low_bits | low
        if value < length:
            return value


@numba.njit(cache=True, nogil=True)
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> _30)) * _A
    value = (value ^ (value >> _27)) * _B
    return value ^ (value >> _31)
