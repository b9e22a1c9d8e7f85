"""Which source feeds sample n: a balanced binary tree of exact two-way integer splits, with nothing stored per sample.

A node divides the n samples that reach it: its left child takes

    left(n) = (n * p + 2^63) >> 64        p = the left child's share of the node's weight, as a 64-bit integer

that is n * p / 2^64 rounded to the nearest integer, and sample n goes left exactly when left(n + 1) > left(n). Its
number among the left child's samples is then left(n), else n - left(n) among the right child's. As 0 < p < 2^64, left
never falls and rises by at most one, so the children count 0, 1, 2, ... without gap or repeat: at the leaf, the number
left over is the source's own sample number. The answer is a function of (weights, n): any n in any order costs
O(log K), and the counts of all K sources at any n cost K - 1 splits.

How far a source strays from its share. A split is wrong by at most 1/2, and an error of a node reaches its child
multiplied by the child's share of the node. So at every n, with w(A) the weight of node A,

    |count - n * share| <= 1/2 * sum over the nodes A from the leaf up to, not including, the root of w(leaf) / w(A)

(+ depth * n * 2^-65 for the rounding of p, below 1e-3 for n <= 2^48). Nodes are cut where the weights, sorted from
large to small, come nearest to halves. Then no inner node outweighs 2/3 of its parent: either the largest weight is at
least a third, and cutting behind it leaves at most 2/3, or every step of the running sum is below a third and one of
them lands within 1/6 of the middle. A leaf may outweigh 2/3, when only smaller ones share its parent; but then its
grandparent weighs at least twice the leaf: the parent's sibling either holds weights sorted before the leaf, or was
cut off behind the parent although a cut right behind the leaf was farther from the middle. The sum is then at most
1 + 1 + 1/2 * (1 + 2/3 + 4/9 + ...) = 3.5, and the deviation at most 1.75; without such a leaf 3, and 1.5. `bound` is
the right-hand side for the tree at hand.

The nested floor split is the idea of grain's MapDataset.mix, made exact, balanced and O(log K) here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

_LOW_32 = np.uint64(2**32 - 1)
_SHIFT_32 = np.uint64(32)
_HALF = np.uint64(2**63)
_SMALL = 2**31


class Interleave:
    """The order in which K sources of positive integer `weights` take turns."""

    def __init__(self, weights: Sequence[int]) -> None:
        """Build the tree: O(K log K), 16 bytes of state a source. Raises ValueError on no or non-positive weights."""
        if not weights or min(weights) < 1:
            raise ValueError(f"weights must be positive integers, got {list(weights)}")
        self.weights = tuple(weights)
        shares, children = self._grow()
        self.share_table = np.array(shares, dtype=np.uint64)  # of the left child, in 2^-64
        self.child_table = np.array(
            children, dtype=np.int32
        )  # of node k: left at 2k, right at 2k + 1; a leaf is -1 - leaf

    def _grow(self) -> tuple[list[int], list[int]]:
        """The nodes' shares and children, parents first."""
        shares, children = list[int](), list[int]()
        order = sorted(range(len(self.weights)), key=lambda leaf: -self.weights[leaf])  # stable: ties keep their order
        ends = [0, *accumulate(self.weights[leaf] for leaf in order)]
        todo = [(0, len(order), -1)]  # (first, stop) in `order`, and the slot of `children` to fill
        while todo:
            first, stop, slot = todo.pop()
            number = len(shares) if stop - first > 1 else -1 - order[first]
            if slot >= 0:
                children[slot] = number
            if number < 0:
                continue
            cut = _nearest_half(ends, first, stop)
            weight, left = ends[stop] - ends[first], ends[cut] - ends[first]
            share = ((left << 65) + weight) // (2 * weight)
            if not 0 < share < 1 << 64:
                raise ValueError(f"weights {min(left, weight - left)} of {weight}: below 2^-64 of what is beside it")
            shares.append(share)
            children += [0, 0]
            todo += [(cut, stop, 2 * number + 1), (first, cut, 2 * number)]
        return shares, children

    @property
    def bound(self) -> Fraction:
        """The most that any source can stray from its share, in samples, at every n (see the module's text)."""
        children = self.child_table.tolist()
        weight = [0] * len(self.share_table)
        for number in reversed(range(len(weight))):  # children before parents
            weight[number] = sum(
                weight[child] if child >= 0 else self.weights[-1 - child]
                for child in children[2 * number : 2 * number + 2]
            )
        above = [Fraction(0)] * len(weight)  # the sum of 1 / w(A) from a node up to, not including, the root
        bound = Fraction(0)
        for slot, child in enumerate(children):
            if child >= 0:
                above[child] = above[slot // 2] + Fraction(1, weight[child])
            else:
                own = self.weights[-1 - child]
                bound = max(bound, (above[slot // 2] * own + 1) / 2)
        return bound

    def locate(self, n: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source number and the source's own sample number of each sample in `n` (any shape (N,), each < 2^48)."""
        number = np.array(n, dtype=np.uint64)
        node = np.zeros(number.shape, dtype=np.int64)
        if not len(self.share_table) or not len(number):
            return node, number.astype(np.int64)
        local = np.empty_like(number)
        split = _split_small if number.max() < _SMALL else _split
        at, active = np.zeros(number.shape, dtype=np.int32), None  # None: all of them
        while True:
            left, goes_left = split(number, self.share_table.take(at))
            number = np.where(goes_left, left, number - left)
            at = self.child_table.take(2 * at + ~goes_left)
            arrived = at < 0
            if not arrived.any():
                continue
            place = np.flatnonzero(arrived) if active is None else active[arrived]
            node[place], local[place] = -1 - at[arrived], number[arrived]
            on_the_way = ~arrived
            active = np.flatnonzero(on_the_way) if active is None else active[on_the_way]
            if not len(active):
                return node, local.astype(np.int64)
            at, number = at[on_the_way], number[on_the_way]

    def counts(self, n: int) -> tuple[int, ...]:
        """Samples of each source among the first `n` of the blend, exact for any n."""
        if not len(self.share_table):
            return (n,)
        counts = [0] * len(self.weights)
        shares, children = self.share_table.tolist(), self.child_table.tolist()
        reaching = [n] + [0] * (len(shares) - 1)
        for number, share in enumerate(shares):
            left = (reaching[number] * share + (1 << 63)) >> 64
            for slot, count in ((2 * number, left), (2 * number + 1, reaching[number] - left)):
                child = children[slot]
                if child >= 0:
                    reaching[child] = count
                else:
                    counts[-1 - child] = count
        return tuple(counts)


def _nearest_half(ends: Sequence[int], first: int, stop: int) -> int:
    """The cut in (first, stop) whose running sum `ends` lies nearest to the middle; of two as near, the earlier."""
    middle = ends[first] + ends[stop]  # doubled
    cut = bisect_left(ends, middle, first + 1, stop - 1, key=lambda end: 2 * end)
    if cut - 1 > first and middle - 2 * ends[cut - 1] <= abs(2 * ends[cut] - middle):
        cut -= 1
    return cut


def _split_small(n: NDArray[np.uint64], share: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """`_split` for n < 2^31, where no sum of 32-bit products overflows."""
    left = share >> _SHIFT_32
    left *= n
    below = share & _LOW_32
    below *= n
    below >>= _SHIFT_32
    left += below
    left += np.uint64(2**31)
    left >>= _SHIFT_32
    np.multiply(n, share, out=below)
    below += _HALF
    return left, below > ~share


def _split(n: NDArray[np.uint64], share: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """left(n), and whether n goes left: whether one more share carries into the integer part."""
    left, low = _multiply(n, share)
    left += low >> np.uint64(63)  # + 2^63, carried
    return left, low + _HALF > ~share


def _multiply(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """High and low 64 bits of the 128-bit products a * b, by 32-bit halves."""
    a_high, a_low = a >> _SHIFT_32, a & _LOW_32
    b_high, b_low = b >> _SHIFT_32, b & _LOW_32
    middle = a_high * b_low + ((a_low * b_low) >> _SHIFT_32)
    crossed = a_low * b_high + (middle & _LOW_32)
    return a_high * b_high + (middle >> _SHIFT_32) + (crossed >> _SHIFT_32), a * b
