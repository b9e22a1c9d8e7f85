"""The table of troubles: what old and new data say together, and which rungs help."""

from __future__ import annotations

import pytest

from keepwarm.plan import rungs
from keepwarm.strategy.trouble import TROUBLES, explained, helps, trouble_of


@pytest.mark.parametrize(
    ("outcome", "learning", "kind"),
    [
        ("recovered", True, None),
        ("recovering", True, None),
        ("recovering", False, None),
        ("undecided", False, None),
        ("not-recovering", True, "forgetting"),
        ("not-recovering", False, "broken optimisation"),  # another mix will not mend it
        ("under-adapting", False, "under-adapting"),
        ("diverged", True, "broken optimisation"),
        ("diverged", False, "broken optimisation"),
    ],
)
def test_the_trouble_is_read_off_both_domains(outcome, learning, kind):
    assert trouble_of(outcome, learning=learning) == kind
    assert (helps(kind) is None) == (kind is None)


@pytest.mark.parametrize(
    ("kind", "old", "new", "helping"),
    [
        (
            "forgetting", "beyond tolerance", "learned",
            ["replay", "replay-previous-mix", "buffer-mix", "thermostat", "merge"],
        ),
        ("under-adapting", "within tolerance", "gained too little", ["naive", "replay", "replay-rewarm", "rewarm-converged"]),
        ("broken optimisation", "beyond tolerance", "got worse, or training did", ["decay-then-introduce"]),
        ("data bug", "jumped far beyond what no replay costs", "any", []),
    ],
)  # fmt: skip
def test_every_row_and_the_rungs_that_help(kind, old, new, helping):
    row = TROUBLES[kind]
    assert (row.old, row.new, list(row.rungs)) == (old, new, helping)
    assert helps(kind).endswith(": " + ", ".join(helping) if helping else "tokenizer, document ends, packing")


def test_the_rungs_are_rungs():
    known = {rungs.name_of(rung) for rung in rungs.ALL}
    assert {rung for row in TROUBLES.values() for rung in row.rungs} <= known


def test_what_cures_one_trouble_is_not_the_cure_of_its_opposite():
    """More old data against forgetting, less against under-adapting; a broken optimisation is mended by no mix."""
    assert "more old data" in helps("forgetting") and "less replay" in helps("under-adapting")
    mixes = {"naive", "replay", "replay-previous-mix", "buffer-mix", "thermostat"}
    assert not mixes & {*TROUBLES["broken optimisation"].rungs, *TROUBLES["data bug"].rungs}


def test_in_words():
    assert explained()["broken-optimisation"] == (
        "Old data beyond tolerance; new data got worse, or training did.\n\n"
        "When: half the learning rate, a longer warm-up; look at the training loss of each source: decay-then-introduce.\n\n"
        "Source: the cookbook, The verdict and Rungs."
    )
