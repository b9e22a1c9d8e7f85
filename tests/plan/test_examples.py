"""The plans in examples/ load as they stand, and what stands in them is what their pages say."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from keepwarm.plan.load import load_plan

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "stand_in", "evaluation"),
    [("smollm2.yaml", "generated", ["speeches", "python"]), ("smollm2-german.yaml", "proxy", ["speeches"])],
)
def test_an_example_continues_a_cooled_base_whose_data_is_not_there(name, stand_in, evaluation):
    plan = load_plan(EXAMPLES / name)
    assert (plan.base.checkpoint, plan.base.phase) == ("smollm2", "cooled")
    assert plan.stand_ins == {"d0": stand_in}
    assert list(plan.evaluation) == evaluation
    (stage,) = plan.stages
    (rung,) = stage.ladder
    assert (rung.rung, rung.shares, plan.control) == ("rewarm-converged", (Fraction(1, 4),), ("no-replay",))


def test_every_example_is_checked():
    assert {path.name for path in EXAMPLES.glob("*.yaml")} == {"smollm2.yaml", "smollm2-german.yaml"}
