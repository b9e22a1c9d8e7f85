"""`launch.json`: one launch of the trainer, exact and complete. Written before anything is submitted, never changed.

An attempt has one launch, or two where the trainer can't say it in one (decay-then-introduce). Its folders lie in the
attempt's, in the order they run: `launches/1-decay`, `launches/2-introduce`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from keepwarm import files
from keepwarm.errors import LineageError

RECORD = "launch.json"
LAUNCHES = "launches"
SAVED = "checkpoints-megatron"  # in an attempt's folder: what the trainer saves into
EVALUATIONS = "evaluations"  # in an attempt's folder: a file for each saved checkpoint that was measured
FORMAT = 1
# How the trainer begins: `trunk` random weights; `continue` new data at once, moments kept; `restart` the same from a
# copy without moments; `resume` the same run, its position kept; `cooldown` a resume with another schedule.
Begin = Literal["trunk", "continue", "restart", "resume", "cooldown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What is launched. Steps of the attempt are the trainer's iterations less `first_iteration`."""

    attempt: str  # SHA-256 of attempt.json
    name: str  # of its folder: `1-train`
    begins: Begin
    first_iteration: int  # the trainer's count before the attempt's first step: 0 unless it goes on in another's count
    begin_iteration: int  # the trainer's count at the first iteration of this launch, less one
    end_iteration: int  # and at its last
    train_iterations: int  # TRAIN_ITERS: what its data and schedule are built for, at least `end_iteration`
    load: str | None  # the folder that LOAD names at the launch's first job; None: random weights
    prepare: tuple[
        str, ...
    ]  # the command that makes LOAD from the start checkpoint before the first job; () = it is there
    save: str
    environment: Mapping[str, str]  # what train_alcf.sh reads
    arguments: tuple[str, ...]  # what stands behind `bash train_alcf.sh` in the launch's first job
    resume_arguments: tuple[str, ...] = ()  # and in every job behind it, which loads what SAVE holds
    trainer: str  # the folder that holds train_alcf.sh
    data_list: str
    data_list_sha256: str
    data_cache: str  # keyed by the list's content
    learning_rate: tuple[str, ...]  # flags that the reference's own schedule was verified with
    global_batch_size: int
    sequence_length: int
    padded_vocab_size: int  # rows of the embedding: the loss of random weights is its logarithm
    save_iterations: int
    world_size: int
    machine: str
    scheduler: Literal["pbs", "slurm", "none"]

    @property
    def steps(self) -> int:
        """Optimizer steps of this launch."""
        return self.end_iteration - self.begin_iteration


def write_launch(folder: Path, launch: Launch) -> None:
    """Write `folder/launch.json`."""
    files.write_json(folder / RECORD, {"format": FORMAT, **asdict(launch)})


def read_launch(folder: Path) -> Launch:
    """Read `folder/launch.json`; LineageError if it is missing or damaged."""
    path = Path(folder) / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError(f"this keepwarm reads format {FORMAT}")
        lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        return Launch(**content | lists)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise LineageError(
            f"{path}: can't be read ({error})",
            "it says what was launched, and which step of the attempt an iteration of the log is",
            "restore it, or remove the launch's folder and launch again",
        ) from error


def launches_of(attempt_folder: Path) -> list[tuple[Path, Launch]]:
    """The launches of an attempt with their folders, in the order they run; none before it was launched."""
    folder = Path(attempt_folder) / LAUNCHES
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [(path, read_launch(path)) for path in found if (path / RECORD).is_file()]
