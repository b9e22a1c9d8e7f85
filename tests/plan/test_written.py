"""Candidates written as a plan's ladder: what is pasted is tried again exactly as it was."""

from __future__ import annotations

from fractions import Fraction

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from keepwarm.plan.rungs import ALL, Candidate, Rung, candidates, name_of
from keepwarm.plan.written import ladder_of, ladder_yaml, written

RUNG = TypeAdapter(Rung)
OTHERS = {
    "replay": {"shares": ["1%", "5%"]},
    "buffer-mix": {"mixes": [["5%", "48%", "47%"], ["0%", "10%", "90%"]], "search": 2},
    "rewarm-converged": {"lr": ["lr_max/2", 2e-3], "shares": ["25%"], "optimizer": "keep"},
    "decay-then-introduce": {"decay": ["cosine", "1-sqrt"], "to": ["lr_max/10"], "introduce_at": "lr_max/3"},
    "thermostat": {"start": "10%", "most": "40%"},
}


def made(rung: str, **settings) -> list[Candidate]:
    return candidates(RUNG.validate_python({"rung": rung, **settings}))


def read(entries) -> list[Candidate]:
    return [each for entry in entries for each in candidates(RUNG.validate_python(entry))]


ONE = ("share", "mix", "lr", "decay", "to")  # what one value of a list is called
EVERY = [*made("naive"), *(each for rung, settings in OTHERS.items() for each in made(rung, **settings))]


def as_written(candidate: Candidate) -> str:
    """A mix that a search found is written as the mix it is."""
    return candidate.label.removesuffix(" (search)")


@pytest.mark.parametrize("rung", [name_of(rung) for rung in ALL])
def test_every_candidate_is_read_back(rung):
    for candidate in made(rung, **OTHERS.get(rung, {})):
        (back,) = read([written(candidate)])
        assert back.label == as_written(candidate)
        assert {key: back.parameters[key] for key in ONE if key in back.parameters} == {
            key: candidate.parameters[key] for key in ONE if key in candidate.parameters
        }


def test_values_are_as_a_person_writes_them():
    assert written(made("replay", shares=["5%"])[0]) == {"rung": "replay", "shares": ["5%"]}
    assert written(made("naive")[0]) == {"rung": "naive"}
    assert written(made("thermostat", most="40%")[0]) == {"rung": "thermostat", "most": "40%"}


def test_neighbours_of_a_rung_are_one_item():
    one, five = made("replay", shares=["1%", "5%"])
    assert ladder_of([one, five]) == [{"rung": "replay", "shares": ["1%", "5%"]}]
    assert ladder_of([one, *made("naive"), five]) == [
        {"rung": "replay", "shares": ["1%"]}, {"rung": "naive"}, {"rung": "replay", "shares": ["5%"]},
    ]  # fmt: skip


@given(st.permutations(EVERY))
def test_any_order_is_tried_in_that_order(order):
    back = read(yaml.safe_load(ladder_yaml(ladder_of(order)))["ladder"])
    assert [each.label for each in back] == [as_written(each) for each in order]


def test_shares_that_are_no_decimals_stay_exact():
    third = Candidate("replay", "replay 1/3", {"share": Fraction(1, 3)})
    assert read([written(third)])[0].parameters["share"] == Fraction(1, 3)
