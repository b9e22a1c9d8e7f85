"""From one mix to the next in short pieces, instead of at once: a stage's `ramp`.

Shares move in a straight line from what the line was fed last, as recorded, to the stage's mix; each piece has the
line's value in its middle, so the ramp as a whole is fed half of each. The cursors go on through every piece
(blend/stream.py), so nothing repeats or is left out however many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from keepwarm.attempt.line import Mixes, Role

MOST_PIECES = 20
BEFORE = "previous"


def ramped(before: Mapping[str, Fraction], roles: Sequence[Role], ramp_steps: int) -> Mixes:
    """The mixes of an attempt whose first `ramp_steps` steps go from the sources `before`, by weight, to `roles`."""
    pieces = min(MOST_PIECES, ramp_steps)
    starts = [number * ramp_steps // pieces for number in range(pieces)]
    mixes = [
        (start, _between(before, roles, Fraction(2 * number + 1, 2 * pieces))) for number, start in enumerate(starts)
    ]
    return [*mixes, (ramp_steps, list(roles))]


def _between(before: Mapping[str, Fraction], roles: Sequence[Role], way: Fraction) -> list[Role]:
    """`way` of the road to `roles`."""
    left = Role(BEFORE, 1 - way, before)
    towards = [Role(role.name, role.share * way, role.members) for role in roles]
    same = next((role for role in towards if role.name == BEFORE), None)
    if same is None:
        return [left, *towards]
    others = [role for role in towards if role is not same]
    return [Role(BEFORE, left.share + same.share, before), *others]  # both are the recorded mix
