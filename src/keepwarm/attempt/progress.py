"""What is on disk of a run: attempts, how far each came, and how it ended. Reads only; no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwarm.attempt.choices import places
from keepwarm.attempt.line import COOLDOWN
from keepwarm.attempt.records import attempt_in, read_attempt, read_verdict
from keepwarm.lineage.manifest import Manifest, checkpoints_of, read_manifest

EXHAUSTED = "exhausted.json"  # in a stage's folder: its ladder ended without an accepted candidate
WAITING = "waiting.json"  # in an attempt's folder: the run stopped for a person's word on it
_NAME = re.compile(r"([0-9]{2})-([a-z0-9-]+)")


@dataclass(frozen=True, slots=True)
class Progress:
    """One attempt on disk. `outcome` is None while it runs (or was stopped); steps are 0 of what never started.

    One that waits for a person's word is not accepted yet, whatever its verdict says.
    """

    folder: Path
    number: int
    rung: str
    label: str
    outcome: str | None
    accepted: bool
    step: int
    steps: int
    tokens: int
    verdict: dict[str, Any] | None
    waiting: bool  # for a person's word


def attempts_of(run_folder: Path, arm: str, stage: str) -> list[Progress]:
    """The attempts of one stage in the order they were tried; a cooldown branch behind the attempt it branches off."""
    folder = Path(run_folder) / "arms" / arm / stage
    matches = [match for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))] if folder.is_dir() else []
    found, tried = [(int(match[1]), match[2]) for match in matches], places(folder)

    def order(named: tuple[int, str]) -> tuple[int, int, int]:
        number, rung = named
        of = number - 1 if rung == COOLDOWN else number
        return tried.get(of, len(tried)), of, number

    return [_progress(folder / f"{number:02d}-{rung}", number, rung) for number, rung in sorted(found, key=order)]


def _progress(folder: Path, number: int, rung: str) -> Progress:
    verdict = read_verdict(folder)
    attempt = attempt_in(folder)
    saved = checkpoints_of(folder)
    last = read_manifest(saved[-1]) if saved else None
    label = attempt.label if attempt else (verdict or {}).get("label", rung)
    waiting = verdict is not None and "decision" not in verdict and (folder / WAITING).exists()
    return Progress(
        folder, number, rung, label, verdict["outcome"] if verdict else None,
        bool(verdict and verdict["accepted"]) and not waiting, last.step if last else 0,
        attempt.steps if attempt else 0, last.attempt_tokens if last else 0, verdict, waiting,
    )  # fmt: skip


def end_of(folder: Path) -> Manifest | None:
    """The manifest of a finished attempt's last checkpoint; None while the attempt has not come to its end."""
    saved = checkpoints_of(folder)
    if not saved:
        return None
    manifest = read_manifest(saved[-1])
    return manifest if manifest.step == read_attempt(folder).steps else None
