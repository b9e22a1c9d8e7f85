"""What an attempt answers to an unstable step, within its bounds; its policy as part of its identity."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import pytest

from keepwarm.attempt.model import from_json, to_json
from keepwarm.attempt.records import read_attempt
from keepwarm.attempt.shared import shared_steps
from keepwarm.attempt.stability import STANDARD, Stability
from keepwarm.cli.main import main

REWINDS = replace(STANDARD, non_finite="rewind", spike="rewind")


@pytest.mark.parametrize(("steps", "most"), [(1, 1), (20, 1), (21, 2), (160, 8), (100_000, 5_000)])
def test_the_most_that_is_skipped_is_a_share_rounded_up(steps, most):
    assert STANDARD.most_skipped_steps(steps) == most
    assert replace(STANDARD, most_skipped=Fraction(0)).most_skipped_steps(steps) == 0


def test_it_answers_as_asked_up_to_its_bounds():
    assert STANDARD.answer("spike", steps=40, skipped=1, rewinds=0) == ("skip", "")
    assert STANDARD.answer("non-finite loss", steps=40, skipped=2, rewinds=0) == (
        "stop", "2 steps skipped already, most_skipped: 5%",
    )  # fmt: skip
    assert REWINDS.answer("non-finite gradient", steps=40, skipped=9, rewinds=2) == ("rewind", "")
    assert REWINDS.answer("spike", steps=40, skipped=0, rewinds=3) == ("stop", "3 rewinds already, most_rewinds: 3")
    none = replace(REWINDS, most_rewinds=0)
    assert none.answer("spike", steps=40, skipped=0, rewinds=0) == ("stop", "0 rewinds already, most_rewinds: 0")
    stops = replace(STANDARD, non_finite="stop")
    assert stops.answer("non-finite loss", steps=40, skipped=0, rewinds=0) == ("stop", "")
    assert stops.answer("spike", steps=40, skipped=0, rewinds=0) == ("skip", "")


def test_it_is_json_and_back():
    other = replace(REWINDS, most_skipped=Fraction(1, 3), threshold=6.5)
    assert other.to_dict()["most_skipped"] == "1/3"
    assert Stability.from_dict(json.loads(json.dumps(other.to_dict()))) == other


@pytest.fixture(scope="module")
def base(searched):
    return read_attempt(searched / "run/arms/cookbook/base/00-base")


def test_an_attempt_of_a_plan_that_says_nothing_is_recorded_as_before(base):
    assert base.stability == STANDARD and "stability" not in to_json(base)
    other = replace(base, stability=REWINDS)
    assert from_json(json.loads(json.dumps(to_json(other)))) == other and other.sha256 != base.sha256


def test_two_attempts_with_another_policy_share_nothing(base):
    assert shared_steps(base, base) == base.steps
    assert shared_steps(base, replace(base, stability=REWINDS)) == 0


def test_another_policy_is_refused_in_the_middle_and_kept_at_the_end(workplace, edit_plan, capsys):
    edit_plan(("run: {folder", "stability: {spike: off}\nrun: {folder"))
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    before = (workplace / "run/arms/cookbook/base/00-base/attempt.json").read_text()
    assert json.loads(before)["stability"]["spike"] == "off"
    edit_plan(("stability: {spike: off}\n", ""))  # what is finished keeps its own, the next stage has the new one
    capsys.readouterr()
    assert main(["run", "plan.yaml", "--stage", "stage3"]) == 0
    assert (workplace / "run/arms/cookbook/base/00-base/attempt.json").read_text() == before
    third = workplace / "run/arms/cookbook/stage3/00-replay-previous-mix"
    assert "stability" not in json.loads((third / "attempt.json").read_text())
    (third / "verdict.json").unlink()
    for checkpoint in (third / "checkpoints").iterdir():
        (checkpoint / "manifest.json").unlink()
    edit_plan(("run: {folder", "stability: {non_finite: stop}\nrun: {folder"))
    assert main(["run", "plan.yaml", "--stage", "stage3"]) == 2
    assert "attempt.json: was made with other stability" in capsys.readouterr().err
