"""Everything that has a name can be explained, with its source."""

from __future__ import annotations

import pytest

from keepwarm.cli.main import main
from keepwarm.plan.model import GUARDS
from keepwarm.report.explain import explain, names


@pytest.mark.parametrize("name", [each for kind in ("rungs", "guards", "verdicts") for each in names()[kind]])
def test_every_rung_guard_and_verdict_names_its_source(name):
    text = explain(name)
    assert name in text.splitlines()[0] and "Source: " in text and len(text) > 80


@pytest.mark.parametrize("name", names()["schedules"])
def test_every_schedule_is_explained(name):
    assert explain(name).startswith(f"{name} (schedule)") and len(explain(name)) > 45


def test_all_guards_have_functions():
    assert names()["guards"] == list(GUARDS)


def test_settings_come_with_their_defaults():
    assert "to: rates the decay ends at (default ['lr_max/100'])" in explain("decay-then-introduce")


def test_the_command(capsys):
    assert main(["explain"]) == 0
    assert "rungs: naive, replay" in capsys.readouterr().out
    assert main(["explain", "aurora-v1"]) == 0
    assert "1. replay 1%" in capsys.readouterr().out
    assert main(["explain", "peak-strat"]) == 2
    assert "keepwarm explain peak-start" in capsys.readouterr().err
