"""`over_max_epochs: reweight`: an attempt's mixes, with less of the sources that would repeat too often.

The roles keep their shares, for those are the strategy; inside a role the other sources give more (blend/caps.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from keepwarm.attempt.line import Feed, Mixes, Role
from keepwarm.blend.caps import reweighted, room_samples
from keepwarm.plan.model import Plan
from keepwarm.schedule.batch import Batches


def within_caps(
    plan: Plan, feed: Feed, mixes: Mixes, cut: Batches, steps: int, cursors: Mapping[str, int]
) -> tuple[Mixes, tuple[str, ...]]:
    """The mixes within `plan.max_epochs` as far as their roles can be, and what was lowered, in words.

    `cursors` are the samples of each source that the line was fed before the attempt.
    """
    borders = [cut.samples(step) for step in (*(first for first, _ in mixes), steps)]
    pieces = [
        (borders[k + 1] - borders[k], [(role.share, role.members) for role in roles])
        for k, (_, roles) in enumerate(mixes)
    ]
    known = {source for _, roles in mixes for role in roles for source in role.members}
    room = {
        source: room_samples(
            plan.max_epochs, feed.sources[source][0].windows(plan.sequence_length), cursors.get(source, 0), len(mixes)
        )
        for source in known
    }
    found = [
        (first, [replace(role, members=members) for role, members in zip(roles, of_piece, strict=True)])
        for (first, roles), of_piece in zip(mixes, reweighted(pieces, room), strict=True)
    ]
    return found, _lowered(feed, mixes, found)


def _lowered(feed: Feed, before: Mixes, after: Mixes) -> tuple[str, ...]:
    """Each source whose share of a role fell; of a ramp, in its last piece."""
    found: dict[str, str] = {}
    for (_, asked), (_, given) in zip(before, after, strict=True):
        for one, other in zip(asked, given, strict=True):
            for source in one.members:
                wanted, gets = _share(one, source), _share(other, source)
                if gets < wanted:
                    name = feed.sources[source][0].name
                    found[source] = (
                        f"{name}: {float(gets):.2%} of the role {one.name} instead of {float(wanted):.2%}, so that it "
                        "stays within max_epochs"
                    )
    return tuple(found.values())


def _share(role: Role, source: str) -> Fraction:
    whole: Fraction = sum(role.members.values(), Fraction(0))
    return Fraction(role.members.get(source, 0)) / whole if whole else Fraction(0)
