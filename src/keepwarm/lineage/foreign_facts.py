"""What can be told of a checkpoint from its own files: the answer of foreign.py, whoever wrote the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from keepwarm.errors import LineageError, PlanError
from keepwarm.lineage.manifest import Phase

Kind = Literal["keepwarm", "hugging-face", "megatron-deepspeed", "universal"]
NO_LR = "the LR at which it ended: the folder keeps no state of its training"
NO_PHASE = "the phase: the folder keeps no state of its training"
NO_MOMENTS = "the optimizer's moments are not there"
LR_TOLERANCE = 1e-6  # relative: two rates are the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """The launch that saved a Megatron-DeepSpeed checkpoint, as far as the order of its data depends on it."""

    samples: int | None  # that the order was built for: iterations times global batch
    seed: int | None
    shuffled: bool  # within a corpus
    blended: bool  # a corpus's files take turns, where they follow each other otherwise
    list_path: str | None
    finetune: bool  # position, schedule and data began at 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A checkpoint's position, rate, phase and architecture. None, `unknown` and "" stand for what is not there."""

    kind: Kind
    folder: Path  # of the tensors
    iteration: int | None = None  # optimizer steps since training, or a finetune, began
    samples: int | None = None  # consumed since then
    tokens: int | None = None
    global_batch_size: int | None = None
    sequence_length: int | None = None
    lr: float | None = None  # of the next step
    lr_max: float | None = None
    lr_from: str = ""  # the state it was read from
    phase: Phase = "unknown"
    phase_from: str = ""
    moments: bool = False  # the optimizer's state is there
    architecture: Mapping[str, int | float] = field(default_factory=dict)
    launch: Launch | None = None
    unknown: tuple[str, ...] = ()  # what could not be established, in words

    def words(self) -> str:
        """What was found, in one line."""
        at = "at an unknown position" if self.iteration is None else f"of iteration {self.iteration:,}"
        rate = "an unknown LR" if self.lr is None else f"LR {self.lr:g}"
        phase = "phase unknown" if self.phase == "unknown" else f"phase {self.phase}"
        return f"a {self.kind} checkpoint {at}, {rate}, {phase}"


def same_rate(one: float, other: float) -> bool:
    """True for rates that differ by rounding only."""
    return abs(one - other) <= LR_TOLERANCE * max(abs(one), abs(other))


def half_written(folder: Path, what: str) -> LineageError:
    """The refusal of a checkpoint whose files are not all there."""
    return LineageError(
        f"{folder}: is half-written ({what})",
        "a job that is stopped while it saves leaves such a folder; weights loaded from it are partly others'",
        f"name the checkpoint saved before it, or copy it again from where it is whole: {folder}",
    )


def contradiction(place: str, declared: str, found: str, source: str = "the checkpoint's own state says") -> PlanError:
    """The refusal of a declared value that the checkpoint's state, or its log, contradicts."""
    return PlanError(
        f"{place}: {declared} was declared, {source} {found}",
        "what was recorded while it was trained is measured, and a declaration does not change it",
        "leave the declaration out, or name the checkpoint that it is true of",
    )
