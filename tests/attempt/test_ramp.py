"""The road from one mix to the next."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.attempt.line import Role
from keepwarm.attempt.ramp import MOST_PIECES, ramped

D0 = {"a": Fraction(1), "b": Fraction(3)}
REPLAY = [Role("d0", Fraction(1, 4), D0), Role("new", Fraction(3, 4), {"n": Fraction(1)})]


def shares(roles: list[Role]) -> dict[str, Fraction]:
    return {role.name: role.share for role in roles}


def test_a_ramp_of_four_steps() -> None:
    mixes = ramped(D0, REPLAY, 4)
    assert [step for step, _ in mixes] == [0, 1, 2, 3, 4]
    assert [shares(roles)["new"] / Fraction(3, 4) for _, roles in mixes] == [Fraction(k, 8) for k in (1, 3, 5, 7, 8)]
    assert shares(mixes[0][1]) == {"previous": Fraction(7, 8), "d0": Fraction(1, 32), "new": Fraction(3, 32)}
    assert mixes[-1][1] == REPLAY


@given(st.integers(1, 500))
def test_the_ramp_as_a_whole_is_half_of_each(steps: int) -> None:
    mixes = ramped(D0, REPLAY, steps)
    starts = [step for step, _ in mixes]
    assert starts[-1] == steps and len(mixes) == min(steps, MOST_PIECES) + 1
    assert all(sum(shares(roles).values()) == 1 for _, roles in mixes)
    lengths = [stop - start for start, stop in pairwise(starts)]
    assert min(lengths) >= 1
    if steps % len(lengths) == 0:
        fed = sum(shares(roles)["previous"] * length for (_, roles), length in zip(mixes, lengths, strict=False))
        assert fed == Fraction(steps, 2)


@pytest.mark.parametrize("steps", [1, 7])
def test_replay_of_the_previous_mix_is_one_role(steps: int) -> None:
    roles = [Role("previous", Fraction(1, 10), D0), Role("new", Fraction(9, 10), {"n": Fraction(1)})]
    for _, mixed in ramped(D0, roles, steps):
        assert sorted(shares(mixed)) == ["new", "previous"] and sum(shares(mixed).values()) == 1
