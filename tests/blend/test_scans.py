"""The compiled loops, and the memory of where a source was last seen, change no answer."""

from collections.abc import Iterator
from math import gcd

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm.blend import scans
from keepwarm.blend.mixture import Mixture
from keepwarm.blend.stream import Located, Segment, Stream, next_segment
from keepwarm.corpora.source import Source

SEQUENCE = 4
WINDOWS = {"a": 7, "b": 50, "c": 1, "d": 23, "e": 100_003}
SOURCES = {name: Source(name, name, None, np.array([[0, w * SEQUENCE + 1]])) for name, w in WINDOWS.items()}  # type: ignore[arg-type]
weights = st.dictionaries(st.sampled_from(sorted(WINDOWS)), st.integers(1, 1000), min_size=1).map(
    lambda shares: Mixture(tuple((k, v // gcd(*shares.values())) for k, v in shares.items()))
)


def stream_of(mixes: list[Mixture], first: int) -> Stream:
    stream = Stream([Segment(0, mixes[0], (("a", first), ("e", first * 1000)))], SOURCES, 5, SEQUENCE)
    for number, mixture in enumerate(mixes[1:], start=1):
        stream = Stream([*stream.segments, next_segment(stream, number * 97, mixture)], SOURCES, 5, SEQUENCE)
    return stream


def columns(located: Located) -> list[list[int]]:
    return [located.source_index.tolist(), located.epoch.tolist(), located.window.tolist()]


@pytest.fixture(scope="module")
def always_compiled() -> Iterator[None]:
    pytest.importorskip("numba")
    before, scans.WORTH_SAMPLES = scans.WORTH_SAMPLES, 1
    yield
    scans.WORTH_SAMPLES = before


@settings(deadline=None, max_examples=60)
@given(st.lists(weights, min_size=1, max_size=3), st.integers(0, 10**9), st.integers(0, 2**40), st.integers(1, 400))
def test_compiled_and_numpy_agree(
    always_compiled: None, mixes: list[Mixture], first: int, start: int, count: int
) -> None:
    for begin in (0, start):
        compiled = stream_of(mixes, first).locate(begin, begin + count)
        scans.WORTH_SAMPLES = 10**9
        plain = stream_of(mixes, first).locate(begin, begin + count)
        scans.WORTH_SAMPLES = 1
        assert columns(compiled) == columns(plain)


@settings(deadline=None, max_examples=60)
@given(st.lists(weights, min_size=1, max_size=3), st.lists(st.integers(0, 2000), min_size=1, max_size=8))
def test_what_was_asked_before_changes_nothing(mixes: list[Mixture], places: list[int]) -> None:
    used = stream_of(mixes, 3)
    for place in places:
        found = used.locate(place, place + 30)
    assert columns(found) == columns(stream_of(mixes, 3).locate(places[-1], places[-1] + 30))


def test_the_compiled_loops_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPWARM_NUMBA", "0")
    assert scans.compiled_loops(10**9) is None
    monkeypatch.delenv("KEEPWARM_NUMBA")
    monkeypatch.setattr(scans, "find_spec", lambda name: None)
    scans._loaded.cache_clear()
    assert scans.compiled_loops(10**9) is None
    scans._loaded.cache_clear()
