"""Losses of the trainer's checkpoints: which saved steps were measured, and the file of each, `evaluations/iteration-N.json`.

A log has one loss, of whatever the mix is; what an attempt is judged by are the held-out windows of every corpus. They
are measured by `keepwarm eval`, in a job of its own. The trainer's embedding has rows for no token (its vocabulary is
padded to a multiple), and they take part in its softmax; a converted model has only the real ones, so its loss is a
little lower than the trainer's own: by nothing once the padding rows are as unlikely as training makes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from keepwarm import __version__, files
from keepwarm.backends.megatron.record import EVALUATIONS, SAVED
from keepwarm.errors import LineageError
from keepwarm.lineage.foreign_megatron import steps_in

FORMAT = 1
Losses: TypeAlias = Mapping[
    str, Mapping[str, Any]
]  # corpus -> {loss, windows, bits_per_byte}; None: not a finite number


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A checkpoint's losses over all held-out windows of every corpus, nats per token."""

    iteration: int  # the trainer's count; 0 of a checkpoint that does not say
    checkpoint: str
    kind: str  # of the folder, as lineage/foreign_facts.py calls it
    precision: str  # of the products
    holdout: Mapping[str, str]  # corpus -> id of its held-out token file
    losses: Losses
    padding: int = 0  # rows of the trainer's embedding for no token, which have no part in these losses
    keepwarm: str = __version__

    def as_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return {"format": FORMAT, **asdict(self)}


def evaluation_path(attempt_folder: Path, iteration: int) -> Path:
    """Where the losses of a saved step are kept."""
    return attempt_folder / EVALUATIONS / f"iteration-{iteration:09d}.json"


def write_evaluation(path: Path, evaluation: Evaluation, *, replace: bool = False) -> None:
    """Write losses as `path`, whole or not at all."""
    files.write_json(path, evaluation.as_dict(), replace=replace)


def read_evaluations(attempt_folder: Path, holdout: Mapping[str, str]) -> dict[int, Losses]:
    """An attempt's losses by iteration. LineageError for a damaged one, or one of other windows than `holdout`'s."""
    found: dict[int, Losses] = {}
    for path in sorted((attempt_folder / EVALUATIONS).glob("iteration-*.json")):
        evaluation = _read(path)
        other = [name for name, identity in holdout.items() if evaluation.holdout.get(name) != identity]
        if other or set(evaluation.losses) < set(holdout):
            raise LineageError(
                f"{path}: is of other held-out windows ({', '.join(other) or 'a corpus is missing'})",
                "losses are compared over the same windows only",
                f"measure the checkpoint again: rm {path}, then keepwarm eval PLAN",
            )
        found[evaluation.iteration] = evaluation.losses
    return found


def saved_steps(attempt_folder: Path) -> dict[int, Path]:
    """What the trainer has saved whole, by iteration: up to the step that `latest` names, which is written behind all of
    its files. Of a step and its universal copy, the copy."""
    folder = attempt_folder / SAVED
    named = [_number(folder / name) for name in ("latest", "latest_universal") if (folder / name).is_file()]
    whole = [(number, path) for number, path in steps_in(folder) if number <= max(named, default=-1)]
    return dict(sorted(whole, key=lambda each: (each[0], each[1].name)))


def to_evaluate(attempt_folder: Path) -> list[tuple[int, Path]]:
    """The saved steps that have no evaluation, with their folders, oldest first."""
    saved = saved_steps(attempt_folder).items()
    return [each for each in saved if not evaluation_path(attempt_folder, each[0]).exists()]


def _number(pointer: Path) -> int:
    match = re.match(r"global_step([0-9]+)", pointer.read_text(encoding="utf-8").strip())
    return int(match[1]) if match else -1


def _read(path: Path) -> Evaluation:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError(f"this keepwarm reads format {FORMAT}")
        found = Evaluation(**content)
        if evaluation_path(path.parent.parent, found.iteration) != path:
            raise ValueError(f"it says that it is of iteration {found.iteration}")
        for each in found.losses.values():
            each["loss"], each["windows"], each["bits_per_byte"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise LineageError(
            f"{path}: can't be read ({error})", "an attempt is judged by it",
            f"measure the checkpoint again: rm {path}, then keepwarm eval PLAN",
        ) from error  # fmt: skip
    return found
