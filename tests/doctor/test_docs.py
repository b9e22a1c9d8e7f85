"""The page on traps names every one that is looked for, in its own words."""

from __future__ import annotations

import json
import re
from pathlib import Path

from keepwarm.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"


def test_the_page_has_every_trap_and_no_other(capsys):
    assert main(["doctor", "--list", "--json"]) == 0
    traps = json.loads(capsys.readouterr().out)
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| [a-z ]+ \| `", line)]
    assert len(rows) == len(traps) > 80
    for trap in traps:
        assert any(f"`{trap['name']}`" in row and trap["harm"] in row and trap["grade"] in row for row in rows), trap[
            "name"
        ]
