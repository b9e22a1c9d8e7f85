"""The plans in examples/ load as they stand, and what stands in them is what their pages say."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from keepwarm.backends.megatron.emulated import PRESETS
from keepwarm.backends.megatron.machines import site_of
from keepwarm.plan.load import load_plan

EXAMPLES = Path(__file__).parents[2] / "examples"
AURORA = "aurora-megatron.yaml"


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


def test_the_line_on_aurora_fits_its_machine():
    plan = load_plan(EXAMPLES / AURORA)
    site = site_of(plan)
    assert (site.scheduler, site.queue, site.filesystems, site.world_size) == ("pbs", "prod", "flare:home", 3072)
    assert site.accumulation(plan.global_batch_size) == 1
    preset = PRESETS[site.spec.architecture]
    assert (plan.sequence_length, plan.model.config["layers"]) == (preset.sequence_length, preset.layers)


def test_every_example_is_checked():
    assert {path.name for path in EXAMPLES.glob("*.yaml")} == {"smollm2.yaml", "smollm2-german.yaml", AURORA}
