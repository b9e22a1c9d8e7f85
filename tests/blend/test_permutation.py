from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm.blend.permutation import permute, window_key
from keepwarm.corpora.hashing import derive_key, mix64


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 16, 17, 100, 9973, 1000003])
@pytest.mark.parametrize("key", [0, 1, 2**64 - 1])
def test_bijective_at_every_length(length: int, key: int) -> None:
    image = permute(np.arange(length), length, key)
    assert np.array_equal(np.sort(image), np.arange(length))


@settings(deadline=None)
@given(st.integers(1, 2**45), st.integers(0, 2**64 - 1), st.integers(0, 2**45))
def test_an_index_alone_stays_in_range(length: int, key: int, index: int) -> None:
    (image,) = permute(np.array([index % length]), length, key)
    assert 0 <= image < length


def test_lengths_and_keys_may_differ_by_element() -> None:
    lengths, keys = np.array([7, 100, 1, 9973]), np.array([3, 2**63, 5, 0], dtype=np.uint64)
    index = np.array([6, 50, 0, 9000])
    one_by_one = [int(permute(np.array([i]), int(n), int(k))[0]) for i, n, k in zip(index, lengths, keys, strict=True)]
    assert permute(index, lengths, keys).tolist() == one_by_one


def test_looks_random_over_many_keys() -> None:
    length, index = 2003, np.arange(2003)
    images = [permute(index, length, derive_key("test", k)) for k in range(300)]
    to_index = np.array([np.corrcoef(index, image)[0, 1] for image in images]) * length**0.5
    to_next = np.array([np.corrcoef(image[:-1], image[1:])[0, 1] for image in images]) * length**0.5
    for z in (to_index, to_next):  # of a random permutation: mean 0 +- 0.06, deviation 1 +- 0.04
        assert abs(z.mean()) < 0.25 and 0.85 < z.std() < 1.15
    other_epoch = np.mean([np.mean(a == b) for a, b in pairwise(images)])
    assert other_epoch * length == pytest.approx(1.0, abs=0.3)  # two orders agree in one place on average


def test_every_order_of_three_is_as_likely() -> None:
    seen: dict[tuple[int, ...], int] = {}
    for k in range(3000):
        order = tuple(permute(np.arange(3), 3, derive_key("test", k)).tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 6 and min(seen.values()) > 400 and max(seen.values()) < 600


def test_keys_differ_by_seed_source_and_epoch() -> None:
    keys = {window_key(seed, source, epoch) for seed in (0, 1) for source in ("a", "b") for epoch in (0, 1)}
    assert len(keys) == 8
    assert derive_key("a", "b") != derive_key("ab") and derive_key("1") != derive_key(1)


def test_mix64_is_splitmix64() -> None:
    """The first published outputs of splitmix64 seeded with 0: its state goes up by the golden ratio each time."""
    states = np.array([0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], dtype=np.uint64)
    assert mix64(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_the_order_is_pinned() -> None:
    """The order of data is part of every record: these values must never change."""
    assert window_key(1, "0123456789abcdef", 2) == 15422290802633960016
    assert permute(np.arange(10), 10, 42).tolist() == [9, 7, 2, 1, 5, 6, 4, 3, 8, 0]
    assert permute(np.array([0, 1, 999_999, 123_456]), 10**6, 2**63 + 5).tolist() == [376173, 468347, 580746, 246805]
    assert permute(np.array([0, 10**12]), 10**12 + 39, 7).tolist() == [100878834072, 48478921989]
