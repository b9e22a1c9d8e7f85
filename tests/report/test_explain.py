"""Everything that has a name can be explained: what, formula, when, source; and the page of it is current."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepwarm.cli.main import main
from keepwarm.plan import rungs
from keepwarm.plan.cookbook import shipped
from keepwarm.plan.model import ScheduleSpec
from keepwarm.plan.parts import GUARDS
from keepwarm.report.explain import KINDS, Entry, entries, explain, markdown, parse
from keepwarm.schedule.curves import SHAPES
from keepwarm.schedule.schedule import BUILDERS
from keepwarm.strategy.verdict import OUTCOMES

PAGE = Path(__file__).parents[2] / "docs" / "explain.md"


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.kind} {entry.name}")
def test_every_name_has_its_parts(entry):
    assert entry.what and entry.when and entry.source, entry
    assert entry.formula or entry.kind not in ("schedule", "shape"), entry
    for part in (entry.what, entry.formula, entry.when, entry.source):
        assert not any(f"{label}:" in part for label in ("Formula", "When", "Source")), (
            part
        )  # no part swallowed another


def test_nothing_that_has_a_name_is_missing():
    found = {kind: {entry.name for entry in entries() if entry.kind == kind} for kind in KINDS}
    assert found == {
        "schedule": set(BUILDERS),
        "shape": set(SHAPES),
        "rung": {rungs.name_of(rung) for rung in rungs.ALL},
        "guard": set(GUARDS),
        "verdict": set(OUTCOMES),
        "trouble": {"forgetting", "under-adapting", "broken-optimisation", "data-bug"},
        "stability": {"non-finite", "spike", "rewind"},
        "shift": {"none", "weak", "strong", "language"},
        "cookbook": set(shipped()),
    }
    kinds = ScheduleSpec.model_json_schema()["properties"]["kind"]["enum"]
    assert set(kinds) <= found["schedule"]


def test_a_docstring_is_taken_apart_by_its_paragraphs():
    text = """What it is,
    on two lines.

    More of it: with a colon.

    Raises PlanError if it can't be.

    Formula: a = b
    + c

    When: never.

    Or: always.

    Source: nobody.
    """
    assert parse("x", "rung", text) == Entry(
        "x", "rung", "What it is, on two lines.\n\nMore of it: with a colon.", "a = b + c", "never.\n\nOr: always.", "nobody."
    )  # fmt: skip


def test_both_spellings_and_every_kind_of_a_name():
    assert explain("decay_then_introduce") == explain("decay-then-introduce")
    assert [entry.kind for entry in explain("decay-then-introduce")] == ["schedule", "rung"]
    assert [entry.kind for entry in explain("cosine")] == ["schedule", "shape"]


@pytest.mark.parametrize("spelling", ["peak_start", "Peak-Start", "peak start"])
def test_a_name_is_found_however_it_is_spaced_and_cased(spelling):
    assert explain(spelling) == explain("peak-start")


def test_settings_come_with_their_defaults():
    rung = explain("decay-then-introduce")[1]
    assert "  to: rates the decay ends at (default ['lr_max/100'])" in rung.more


def test_a_guard_of_several_parts_numbers_them(capsys):
    assert main(["explain", "phase-match"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "phase-match (guard)\n\nA rung starts from the phase it is made for.\n\n(1) decay-then-introduce "
    )
    assert "\nSource: (1) the cookbook, Guards, 2." in said
    assert said.endswith("To override it: keepwarm run PLAN --allow phase-match\n")
    assert main(["explain", "append-only"]) == 0
    assert "--allow" not in capsys.readouterr().out


def test_the_command(capsys):
    assert main(["explain"]) == 0
    said = capsys.readouterr().out
    assert "Rungs\n  naive                 The new data alone, from the checkpoint at peak, at LR_max.\n" in said
    assert max(map(len, said.splitlines())) <= 120
    assert main(["explain", "aurora-v1"]) == 0
    assert "For a weak shift:\n   1. replay 1%\n" in capsys.readouterr().out
    assert main(["explain", "not-recovering"]) == 0
    assert "\nFormula: loss - reference - tolerance > 0 for some old corpus" in capsys.readouterr().out
    assert main(["explain", "peak-strat"]) == 2
    assert "fix: keepwarm explain peak-start" in capsys.readouterr().err


def test_json(capsys):
    assert main(["explain", "naive", "--json"]) == 0
    (naive,) = json.loads(capsys.readouterr().out)
    assert list(naive) == ["name", "kind", "what", "formula", "when", "source", "more"]
    assert naive["formula"] == "(alpha_0, alpha_D, alpha_B) = (0, 1, 0)"
    assert main(["explain", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(entries())


def test_the_page_is_current(capsys):
    assert main(["explain", "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed == markdown()
    assert PAGE.read_text(encoding="utf-8") == printed, (
        "to write it again: keepwarm explain --markdown > docs/explain.md"
    )
