"""Repetition caps met by reweighting: a source gives no more than it may, and its part's other sources give the rest.

A part (a role of a mix, a corpus of a list) keeps its share of the tokens: that is the strategy. Inside of it, T samples
are divided in proportion to the weights as far as each source's room allows. With rooms c and weights w the source k
gets min(c_k, L * w_k), where the level L is the one at which they sum to T (water-filling): nobody who has room gets
less than its proportion, and what the others lack is shared in proportion to the weights.

A source that is fed in several pieces of an attempt (a mix that changes), or in several parts, divides its room among
them in proportion to what they would have fed of it. Counts stray from shares by less than two samples in each piece
(interleave.py), and so much is kept back of every room: the cap then holds to the window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

STRAY_SAMPLES = 2  # of each piece, from what a source's share gives

Members = Mapping[str, Fraction]  # relative weights by source id
Part = tuple[Fraction, Members]  # share of the piece's samples
Piece = tuple[int, Sequence[Part]]  # samples


def room_samples(max_epochs: Fraction, windows: int, cursor: int, pieces: int) -> int:
    """Samples that a source may still be fed in so many pieces, when the line has taken it to `cursor`."""
    return max(0, int(max_epochs * windows) - cursor - STRAY_SAMPLES * pieces)


def reweighted(pieces: Sequence[Piece], room: Mapping[str, int]) -> list[list[Members]]:
    """New members of each part of each piece, so that no source of `room` (samples by source id) is asked for more.

    Parts that lack nothing are given back as they are. Where all sources of a part together have too little room, they
    are weighed by it (by what was asked, if none has any): too much of each is then fed, for the caller to refuse.
    """
    asked: dict[str, Fraction] = {}
    for samples, parts in pieces:
        for part in parts:
            for source, amount in _proportional(samples, part).items():
                asked[source] = asked.get(source, Fraction(0)) + amount
    over = {source for source, amount in asked.items() if amount > room.get(source, amount)}
    found = []
    for samples, parts in pieces:
        members = []
        for part in parts:
            wanted = _proportional(samples, part)
            rooms = {source: wanted[source] * room[source] / asked[source] for source in wanted if source in room}
            members.append(_filled(wanted, rooms) if over & wanted.keys() else part[1])
        found.append(members)
    return found


def _proportional(samples: int, part: Part) -> dict[str, Fraction]:
    share, members = part
    whole = sum(members.values(), Fraction(0))
    return {source: samples * share * weight / whole for source, weight in members.items() if share and weight}


def _filled(wanted: Mapping[str, Fraction], rooms: Mapping[str, Fraction]) -> dict[str, Fraction]:
    """min(room, level * wanted) of each source, in samples, summing to the sum of `wanted` where the rooms allow it."""
    left = weight = sum(wanted.values(), Fraction(0))  # to be divided, among sources that would have got so much
    found = {}
    for source in sorted(rooms, key=lambda each: rooms[each] / wanted[each]):  # the first to be full first
        if left * wanted[source] <= rooms[source] * weight:
            break
        found[source] = rooms[source]
        left, weight = left - rooms[source], weight - wanted[source]
    level = left / weight if weight else Fraction(0)
    filled = {source: found.get(source, level * each) for source, each in wanted.items()}
    return {source: samples for source, samples in filled.items() if samples} or dict(wanted)
