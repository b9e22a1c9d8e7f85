import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.blend.mixture import Mixture, combine
from keepwarm.errors import PlanError

positive = st.fractions(min_value=Fraction(1, 50), max_value=50)


def test_parts_share_and_sources_divide() -> None:
    mixture = combine([(Fraction(1, 20), {"a": Fraction(1), "b": Fraction(3)}), (Fraction(19, 20), {"c": Fraction(7)})])
    assert mixture.weights == (("a", 1), ("b", 3), ("c", 76))
    assert [mixture.share(x) for x in "abc"] == [Fraction(1, 80), Fraction(3, 80), Fraction(19, 20)]
    assert mixture.share("d") == 0


def test_a_source_in_two_parts_gets_both() -> None:
    mixture = combine(
        [(Fraction(1, 2), {"a": Fraction(1), "b": Fraction(1)}), (Fraction(1, 2), {"b": Fraction(1), "c": Fraction(1)})]
    )
    assert mixture.weights == (("a", 1), ("b", 2), ("c", 1))


def test_weights_have_no_common_divisor() -> None:
    assert combine([(Fraction(1), {"a": Fraction(4), "b": Fraction(6)})]).weights == (("a", 2), ("b", 3))


def test_zero_shares_and_zero_weights_vanish() -> None:
    mixture = combine(
        [(Fraction(0), {"a": Fraction(1)}), (Fraction(1), {"b": Fraction(1), "c": Fraction(0)}), (Fraction(0), {})]
    )
    assert mixture.weights == (("b", 1),)


def test_json_is_exact() -> None:
    mixture = combine(
        [(Fraction(1, 3), {"a": Fraction("0.1")}), (Fraction(2, 3), {"b": Fraction("1e-7"), "c": Fraction(1)})]
    )
    assert combine([(Fraction(1), {"a": Fraction(1), "b": Fraction(19)})]).as_dict() == {"a": "1/20", "b": "19/20"}
    assert Mixture.from_dict(json.loads(json.dumps(mixture.as_dict()))) == mixture


@given(st.lists(st.tuples(positive, st.dictionaries(st.sampled_from("abcdef"), positive, min_size=1)), min_size=1))
def test_shares_sum_to_one_and_follow_the_parts(parts: list[tuple[Fraction, dict[str, Fraction]]]) -> None:
    whole = sum((share for share, _ in parts), Fraction(0))
    mixture = combine([(share / whole, inner) for share, inner in parts])
    for source in "abcdef":
        wanted = sum(
            (s / whole * inner.get(source, Fraction(0)) / sum(inner.values()) for s, inner in parts), Fraction(0)
        )
        assert mixture.share(source) == wanted
    assert sum(mixture.share(source) for source in mixture.source_ids) == 1
    assert Mixture.from_dict(mixture.as_dict()) == mixture


def test_shares_that_are_not_the_whole_are_refused_with_their_numbers() -> None:
    with pytest.raises(PlanError, match="1/20 \\+ 9/10 sum to 19/20, not 1"):
        combine([(Fraction(1, 20), {"a": Fraction(1)}), (Fraction(9, 10), {"b": Fraction(1)})])
    with pytest.raises(PlanError, match="empty mix sum to 0"):
        combine([])


def test_negative_weights_and_shares_are_refused() -> None:
    with pytest.raises(PlanError, match="part 1 of 1 of the mix: the weight of b is -1/10"):
        combine([(Fraction(1), {"a": Fraction(1), "b": Fraction(-1, 10)})])
    with pytest.raises(PlanError, match="the weight of part 1 of 2 of the mix is -1"):
        combine([(Fraction(-1), {"a": Fraction(1)}), (Fraction(2), {"b": Fraction(1)})])


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(PlanError, match="part 2 of 2 of the mix has share 1/2 and no source"):
        combine([(Fraction(1, 2), {"a": Fraction(1)}), (Fraction(1, 2), {"b": Fraction(0)})])


def test_a_weight_too_small_to_count_is_refused_by_name() -> None:
    assert combine([(Fraction(1), {"a": Fraction(2**32 - 1), "tiny": Fraction(1)})]).share("tiny") == Fraction(1, 2**32)
    with pytest.raises(PlanError, match=r"source tiny gets 2.33e-10"):
        combine([(Fraction(1), {"a": Fraction(2**32), "tiny": Fraction(1)})])


@pytest.mark.parametrize(
    ("shares", "text"),
    [({"a": "1/2"}, "sum to 1/2"), ({"a": "x"}, "Invalid literal"), ({"a": "2", "b": "-1"}, "weight of b is -1")],
)
def test_a_damaged_record_is_refused(shares: dict[str, str], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        Mixture.from_dict(shares)
