"""A launch that keepwarm writes has none of the traps that a doctor knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepwarm.cli.main import main

ROOT = "run/arms/cookbook"


def traps(capsys, *things: object) -> list[dict]:
    capsys.readouterr()
    code = main(["doctor", *map(str, things), "--json"])
    found = [trap for looked in json.loads(capsys.readouterr().out) for trap in looked["traps"]]
    assert code == int(bool(found))
    return found


def test_the_base_is_clean(line, capsys):
    assert traps(capsys, f"{ROOT}/base/00-base/launches/1-train") == []


@pytest.mark.parametrize("rung", ["replay", "replay-rewarm", "decay-then-introduce", "cooldown"])
def test_every_rung_is_clean_in_all_its_launches(line, capsys, rung):
    stage = ["--stage", "stage2", "--rung", rung] if rung != "cooldown" else ["--stage", "base", "--rung", "cooldown"]
    assert main(["launch", "plan.yaml", *stage, "--write"]) == 0
    attempts = sorted(path.parent for path in Path(ROOT).glob("*/*/launches") if path.parent.name != "00-base")
    assert len(attempts) == 1
    assert traps(capsys, attempts[0]) == []


def test_slurm_is_clean_too(line, capsys):
    assert (
        main(
            [
                "launch",
                "plan.yaml",
                "--stage",
                "stage2",
                "--machine",
                "perlmutter",
                "--set",
                "global_batch_size=8",
                "--write",
            ]
        )
        == 0
    )
    attempts = sorted(path.parent for path in Path(ROOT).glob("stage2/*/launches"))
    assert len(attempts) == 1
    assert traps(capsys, attempts[0]) == []
