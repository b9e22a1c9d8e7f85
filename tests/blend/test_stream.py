import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm.blend.mixture import Mixture
from keepwarm.blend.stream import Segment, Stream, followed, next_segment
from keepwarm.corpora.source import Source
from keepwarm.errors import DataError, LineageError

SEQUENCE = 4
# windows an epoch: a 7, b 50, c 1, d 23
SOURCES = {
    name: Source(name, name, Path(name), np.array([[0, windows * SEQUENCE + 1]]))
    for name, windows in {"a": 7, "b": 50, "c": 1, "d": 23}.items()
}
MIXES = (
    Mixture((("a", 1), ("b", 19))),
    Mixture((("c", 3), ("b", 1), ("a", 4))),
    Mixture((("d", 1),)),
    Mixture((("d", 2), ("a", 5), ("c", 1))),
)


def build(starts: list[int], mixes: list[Mixture], seed: int = 1) -> Stream:
    stream = Stream([Segment(0, mixes[0], (("a", 5), ("gone", 9)))], SOURCES, seed, SEQUENCE)
    for start, mix in zip(starts, mixes[1:], strict=True):
        stream = Stream([*stream.segments, next_segment(stream, start, mix)], SOURCES, seed, SEQUENCE)
    return stream


THREE = build([40, 101], [MIXES[0], MIXES[1], MIXES[3]])


def records(stream: Stream, start: int, stop: int) -> list[tuple[str, int, int]]:
    found = stream.locate(start, stop)
    rows = zip(found.source_index.tolist(), found.epoch.tolist(), found.window.tolist(), strict=True)
    return [(found.source_ids[source], epoch, window) for source, epoch, window in rows]


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), min_size=2, max_size=12, unique=True).map(sorted))
def test_batch_boundaries_change_nothing(cuts: list[int]) -> None:
    pieces = [record for start, stop in pairwise(cuts) for record in records(THREE, start, stop)]
    assert pieces == records(THREE, cuts[0], cuts[-1])


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 12])
def test_world_size_changes_nothing(world: int) -> None:
    batch = 12
    share = batch // world
    fed = [
        record
        for step in range(10)
        for rank in range(world)
        for record in records(THREE, step * batch + rank * share, step * batch + (rank + 1) * share)
    ]
    assert fed == records(THREE, 0, 120)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 400), min_size=3, max_size=3, unique=True).map(sorted),
    st.permutations(range(4)),
    st.integers(401, 600),
)
def test_positions_have_no_gap_or_repeat_across_segments(starts: list[int], order: list[int], stop: int) -> None:
    stream = build(starts, [MIXES[k] for k in order])
    cursors = stream.cursors(stop)
    first = {"a": 5}
    fed = Counter((name, epoch, window) for name, epoch, window in records(stream, 0, stop))
    for name in "abcd":
        length = stream.windows(name)
        turns = Counter(epoch for source, epoch, _ in fed.elements() if source == name)
        assert sum(turns.values()) == cursors.get(name, 0) - first.get(name, 0)
        assert max((count for (source, _, _), count in fed.items() if source == name), default=1) == 1
        for epoch in list(turns)[1:-1]:
            assert turns[epoch] == length  # whole epochs between the first and the last
    assert cursors["gone"] == 9
    assert sum(cursors.values()) == stop + 5 + 9


def test_each_window_once_an_epoch_and_another_order_in_the_next() -> None:
    stream = Stream([Segment(0, MIXES[2])], SOURCES, 1, SEQUENCE)
    first, second = stream.locate(0, 23), stream.locate(23, 46)
    assert sorted(first.window.tolist()) == sorted(second.window.tolist()) == list(range(23))
    assert set(first.epoch.tolist()) == {0} and set(second.epoch.tolist()) == {1}
    assert first.window.tolist() != second.window.tolist()


def test_cursors_count_what_locate_gives_at_every_sample() -> None:
    count = Counter({"a": 5, "gone": 9})
    for n, (name, epoch, _) in enumerate(records(THREE, 0, 150)):
        assert {k: v for k, v in THREE.cursors(n).items() if v} == dict(count)
        assert epoch == count[name] // THREE.windows(name)
        count[name] += 1


def test_an_extension_does_not_change_the_past() -> None:
    longer = Stream([*THREE.segments, next_segment(THREE, 200, MIXES[2])], SOURCES, 1, SEQUENCE)
    assert records(longer, 0, 200) == records(THREE, 0, 200)
    assert longer.digest(0, 200) == THREE.digest(0, 200)
    assert longer.source_ids[: len(THREE.source_ids)] == THREE.source_ids


def test_the_next_attempt_goes_on_where_the_last_ended() -> None:
    once = Stream([Segment(0, MIXES[2])], SOURCES, 1, SEQUENCE)
    again = Stream([Segment(0, MIXES[2], tuple(once.cursors(30).items()))], SOURCES, 1, SEQUENCE)
    assert records(again, 0, 50) == records(once, 30, 80)


def test_seed_changes_the_windows_and_not_the_sources() -> None:
    other = build([40, 101], [MIXES[0], MIXES[1], MIXES[3]], seed=2)
    assert np.array_equal(other.locate(0, 200).source_index, THREE.locate(0, 200).source_index)
    assert records(other, 0, 200) != records(THREE, 0, 200)


def test_digest_is_of_the_records_and_pinned() -> None:
    blocks = hashlib.sha256()
    for name, epoch, window in records(THREE, 3, 9):
        key = hashlib.blake2b(repr(("source", name)).encode(), digest_size=8).digest()
        blocks.update(key + epoch.to_bytes(8, "little") + window.to_bytes(8, "little"))
    assert THREE.digest(3, 9) == blocks.hexdigest()
    assert THREE.digest(0, 1000) == "9c3e51393efea1c14a36977f65a098fad8ceb4e58b10d5ca55c8d5705d92ed01"


def test_batch_reads_the_located_windows(make_source) -> None:  # type: ignore[no-untyped-def]
    sources = [make_source("x", [range(0, 9), range(9, 21)]), make_source("y", [range(1000, 1041)], dtype=np.int32)]
    x, y = sources
    stream = Stream([Segment(0, Mixture(((x.id, 1), (y.id, 2))))], {s.id: s for s in sources}, 3, SEQUENCE)
    tokens, source_index = stream.batch(5, 35)
    assert tokens.shape == (30, SEQUENCE + 1) and tokens.dtype == np.int32
    for row, (name, _, window), source in zip(tokens.tolist(), records(stream, 5, 35), source_index, strict=True):
        first = window * SEQUENCE + (0 if name == x.id else 1000)
        assert row == list(range(first, first + SEQUENCE + 1))
        assert stream.source_ids[source] == name


def test_a_source_shorter_than_a_window_is_refused_by_name() -> None:
    short = Source("tiny.txt", "t", Path("tokens/tiny"), np.array([[0, SEQUENCE]]))
    with pytest.raises(DataError, match=r"tokens/tiny: tiny.txt has 4 tokens .*sequence_length 4"):
        Stream([Segment(0, Mixture((("t", 1),)))], {"t": short}, 1, SEQUENCE)


def test_a_missing_source_is_refused() -> None:
    with pytest.raises(DataError, match="source z of the mixture was not opened"):
        Stream([Segment(0, Mixture((("z", 1),)))], SOURCES, 1, SEQUENCE)


@pytest.mark.parametrize("starts", [[], [1], [0, 0], [0, 9, 5]])
def test_segments_out_of_order_are_refused(starts: list[int]) -> None:
    with pytest.raises(LineageError, match="segments begin at samples"):
        Stream([Segment(start, MIXES[2]) for start in starts], SOURCES, 1, SEQUENCE)


def test_cursors_that_would_repeat_samples_are_refused() -> None:
    with pytest.raises(LineageError, match="starts source d at 3; the segment before leaves it at 10"):
        Stream([Segment(0, MIXES[2]), Segment(10, MIXES[3], (("d", 3),))], SOURCES, 1, SEQUENCE)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 400), min_size=3, max_size=3, unique=True).map(sorted), st.permutations(range(4)))
def test_segments_can_be_followed_without_the_sources(starts: list[int], order: list[int]) -> None:
    mixes = [MIXES[k] for k in order]
    segments = build([], mixes[:1]).segments
    for start, mix in zip(starts, mixes[1:], strict=True):
        segments = followed(segments, start, mix)
    assert segments == build(starts, mixes).segments
    assert THREE.with_segments(segments).digest(0, 600) == build(starts, mixes).digest(0, 600)
