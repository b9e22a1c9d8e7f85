"""Caps by reweighting: parts keep their shares, sources their rooms, the rest its proportions."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.blend.caps import STRAY_SAMPLES, reweighted, room_samples
from keepwarm.blend.ledger import ledger
from keepwarm.blend.mixture import combine
from keepwarm.blend.stream import Segment, Stream, next_segment
from keepwarm.corpora.source import Source


def shares(members):
    whole = sum(members.values())
    return {source: Fraction(weight) / whole for source, weight in members.items()}


def test_room_is_what_the_cap_leaves_less_what_counts_may_stray():
    assert room_samples(Fraction(4), 100, 250, 1) == 148
    assert room_samples(Fraction(3, 2), 101, 0, 3) == 151 - 3 * STRAY_SAMPLES
    assert room_samples(Fraction(1), 10, 25, 1) == 0


def test_what_is_within_its_room_is_given_back_as_it_is():
    part = (Fraction(1), {"a": Fraction(1), "b": Fraction(3)})
    assert reweighted([(100, [part])], {"a": 25, "b": 75}) == [[part[1]]]


def test_the_one_that_lacks_room_gives_it_all_and_the_others_keep_their_proportions():
    part = (Fraction(1), {"a": Fraction(1), "b": Fraction(1), "c": Fraction(2)})
    ((members,),) = reweighted([(400, [part])], {"a": 10, "b": 1000, "c": 1000})
    assert shares(members) == {"a": Fraction(10, 400), "b": Fraction(130, 400), "c": Fraction(260, 400)}


def test_one_that_fills_up_by_what_others_lack_is_capped_too():
    part = (Fraction(1), {"a": Fraction(1), "b": Fraction(1), "c": Fraction(2)})
    ((members,),) = reweighted([(400, [part])], {"a": 10, "b": 110, "c": 1000})
    assert members == {"a": 10, "b": 110, "c": 280}


def test_a_source_without_room_vanishes_and_other_parts_stay():
    new, old = {"n": Fraction(1)}, {"a": Fraction(1), "b": Fraction(1)}
    ((first, second),) = reweighted([(100, [(Fraction(9, 10), new), (Fraction(1, 10), old)])], {"a": 0, "b": 10})
    assert first is new and shares(second) == {"b": 1}


def test_room_is_divided_among_pieces_by_what_they_would_feed():
    part = (Fraction(1), {"a": Fraction(1), "b": Fraction(1)})
    first, second = reweighted([(100, [part]), (300, [part])], {"a": 40, "b": 1000})
    assert [shares(piece[0])["a"] for piece in (first, second)] == [Fraction(10, 100), Fraction(30, 300)]


@pytest.mark.parametrize(("room", "wanted"), [({"a": 10, "b": 30}, (1, 3)), ({"a": 0, "b": 0}, (1, 1))])
def test_a_part_that_holds_too_little_is_weighed_by_what_it_holds(room, wanted):
    part = (Fraction(1), {"a": Fraction(1), "b": Fraction(1)})
    ((members,),) = reweighted([(100, [part])], room)
    assert shares(members) == {"a": Fraction(wanted[0], sum(wanted)), "b": Fraction(wanted[1], sum(wanted))}


SEQUENCE = 4
parts = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 50).map(Fraction), min_size=1)


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=4), parts, parts, st.integers(1, 99),
    st.lists(st.integers(1, 400), min_size=6, max_size=6), st.integers(1, 12).map(lambda k: Fraction(k, 3)),
    st.lists(st.integers(0, 200), min_size=6, max_size=6),
)  # fmt: skip
def test_the_stream_stays_within_the_cap_to_the_window_wherever_it_can(lengths, one, two, percent, windows, cap, begun):
    share = Fraction(percent, 100)
    pieces = [(samples, [(share, one), (1 - share, two)]) for samples in lengths]
    cursors = dict(zip("abcdef", begun, strict=True))
    sizes = dict(zip("abcdef", windows, strict=True))
    room = {name: room_samples(cap, sizes[name], cursors[name], len(pieces)) for name in "abcdef"}
    found = reweighted(pieces, room)
    total = {name: Fraction(0) for name in "abcdef"}
    for (samples, asked), members in zip(pieces, found, strict=True):
        for (part_share, _), each in zip(asked, members, strict=True):
            assert min(each.values()) > 0
            for name, fraction in shares(each).items():
                total[name] += samples * part_share * fraction
    if any(total[name] > room[name] for name in "abcdef"):
        return  # a part holds too little: the guard's business
    sources = {n: Source(n, n, Path(n), np.array([[0, sizes[n] * SEQUENCE + 1]])) for n in "abcdef"}
    stream, at = None, 0
    for (samples, asked), members in zip(pieces, found, strict=True):
        mixture = combine([(part_share, each) for (part_share, _), each in zip(asked, members, strict=True)])
        if stream is None:
            segments = [Segment(0, mixture, tuple(cursors.items()))]
        else:
            segments = [*stream.segments, next_segment(stream, at, mixture)]
        stream, at = Stream(segments, sources, 1, SEQUENCE), at + samples
    assert all(row.epochs_after <= cap or not row.samples for row in ledger(stream, at))


@given(parts, st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 60)), st.integers(1, 200))
def test_one_part_is_filled_by_level(members, room, samples):
    rooms = {name: room.get(name, 10**6) for name in members}
    if sum(rooms.values()) < samples:
        return
    ((found,),) = reweighted([(samples, [(Fraction(1), members)])], rooms)
    given_samples = {name: samples * shares(found).get(name, 0) for name in members}
    assert all(given_samples[name] <= rooms[name] for name in members)
    levels = {given_samples[name] / members[name] for name in members if given_samples[name] < rooms[name]}
    assert len(levels) <= 1
    level = max(levels, default=0)
    assert all(
        rooms[name] <= level * members[name] for name in members if given_samples[name] == rooms[name] and levels
    )
