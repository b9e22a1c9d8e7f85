"""`choices.jsonl` in a stage's folder: which candidate was tried when, and why, each written before it was begun.

A choice on record stands: a run that goes on makes it again, whatever the plan or the code would choose by now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keepwarm import files
from keepwarm.errors import LineageError

CHOICES = "choices.jsonl"
Recorded = Mapping[str, Any]  # candidate (its place in the ladder), label, why, put_off, spent_tokens, budget_tokens


def read_choices(stage_folder: Path) -> list[Recorded]:
    """The choices of a stage in the order they were made, of a candidate the last; none before the first."""
    path = Path(stage_folder) / CHOICES
    if not path.exists():
        return []
    found: dict[int, Recorded] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            choice = json.loads(line)
            place = int(choice["candidate"])
        except (ValueError, KeyError, TypeError) as error:
            raise LineageError(
                f"{path}:{number}: not a choice ({error})",
                "the order in which candidates were tried follows from it",
                f"remove the file; what was tried then counts in the order of the ladder: rm {path}",
            ) from error
        found.pop(place, None)
        found[place] = choice
    return list(found.values())


def record_choice(stage_folder: Path, choice: Recorded) -> None:
    """Write a choice behind those before it."""
    path = Path(stage_folder) / CHOICES
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    files.write_text(path, before + json.dumps(choice, ensure_ascii=False, allow_nan=False) + "\n", replace=True)


def places(stage_folder: Path) -> dict[int, int]:
    """When each candidate was tried, by its number; candidates that are not in it were not chosen yet."""
    return {int(choice["candidate"]): place for place, choice in enumerate(read_choices(stage_folder))}
