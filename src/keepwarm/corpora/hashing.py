"""Hashes that are the same on every machine and in every version: orders are drawn from these, never from numpy."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ALL_BITS = 2**64 - 1


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser: a fixed bijection of the 64-bit integers whose output bits look independent."""
    mixed = np.array(values, dtype=np.uint64)
    mix64_into(mixed, np.empty_like(mixed))
    return mixed


def mix64_into(values: NDArray[np.uint64], spare: NDArray[np.uint64]) -> None:
    """`mix64` of `values` in place; `spare`, of the same shape, is scribbled on. For the inner loop of an order."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(values, np.uint64(shift), out=spare)
        values ^= spare
        values *= np.uint64(factor)
    np.right_shift(values, np.uint64(31), out=spare)
    values ^= spare


def mix64_of_one(value: int) -> int:
    """`mix64` of one integer, modulo 2^64, without numpy's overhead."""
    value &= _ALL_BITS
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _ALL_BITS
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _ALL_BITS
    return value ^ value >> 31


def derive_key(*parts: str | int) -> int:
    """A 64-bit key from text and integers, the same on every machine: BLAKE2b of their unambiguous spelling."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def shuffled(count: int, *key: str | int) -> NDArray[np.int64]:
    """The numbers 0..count-1 in an order drawn by `key`."""
    numbers = np.arange(count, dtype=np.uint64) * _GOLDEN + np.uint64(derive_key(*key))
    return np.argsort(mix64(numbers), kind="stable").astype(np.int64)


def bytes_hash(data: bytes) -> int:
    """64-bit identity of a document's UTF-8 text: exact duplicates are equal."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def text_hash(text: str) -> int:
    """`bytes_hash` of a text."""
    return bytes_hash(text.encode("utf-8", "surrogatepass"))
