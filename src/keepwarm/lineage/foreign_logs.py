"""The training lines of Megatron-DeepSpeed's logs, in the three forms it has had: where a run was, and at which rate.

New and middle: `iteration=       1/      20 | consumed_samples=  8 | ... | learning_rate=0.0001 | ...`; old:
`iteration        1/  317892 | consumed samples:  96 | ... | learning rate: 3.000E-04 | ...`. Whatever stands before is a
launcher's or a logger's. The rate of line k is the one that step k + 1 uses, which is also what a checkpoint of
iteration k holds. A loss that is not printed means something (NaN, or a skipped step), so a line is read whole or not at
all: one that was cut, or that another process wrote into, is none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from keepwarm.errors import DataError

_TRAINING = re.compile(r"\biteration[= ] *([0-9]+)/ *([0-9]+) \|(.*)")
_FIELD = re.compile(r" *([a-z ]+?)(?: \([a-z]+\))? *[=:] *(\S+) *")
_ALWAYS = frozenset(
    {"learning rate", "number of skipped iterations", "number of nan iterations"}
)  # the last two come last
_NUMBERS = _ALWAYS | {
    "consumed samples", "consumed tokens", "elapsed time per iteration", "global batch size", "lm loss", "loss scale",
    "grad norm",
}  # fmt: skip
FROM_RANDOM = "will start from random"  # the trainer found nothing to load, and trains on from nothing
_NEW_DIGITS, _OLD_DIGITS = 6, 4  # %.6g and %.3E


@dataclass(frozen=True, slots=True)
class LogLine:
    """One iteration as it was logged."""

    place: str  # file:line
    iteration: int
    iterations: int  # that the launch was asked for
    samples: int | None  # consumed
    tokens: int | None  # consumed
    lr: float | None
    lr_digits: int  # significant
    global_batch_size: int | None
    loss: float | None  # None where it is not printed: NaN, not above 0, or the step was skipped
    grad_norm: float | None
    skipped: int  # iterations since the line before
    nans: int
    loss_scale: float | None = None
    seconds: float = 0.0  # of an iteration

    @property
    def not_finite(self) -> bool:
        """True of a loss that is no finite number. One that is not printed though no step was skipped was NaN (or not above
        0, which no text's is)."""
        if self.loss is None:
            return self.nans > 0 or not self.skipped
        return not math.isfinite(self.loss)

    def has_rate(self, lr: float) -> bool:
        """True if `lr` would have been printed as this line's."""
        return self.lr is not None and f"{lr:.{self.lr_digits - 1}e}" == f"{self.lr:.{self.lr_digits - 1}e}"


@dataclass(frozen=True, slots=True)
class Log:
    """The training lines of one stage's logs, in the order they were written."""

    lines: tuple[LogLine, ...]
    from_random: tuple[str, ...]  # file:line of launches that found no checkpoint

    @property
    def restarts(self) -> int:
        """How often training went back to an iteration that was logged before."""
        return sum(later.iteration <= line.iteration for line, later in pairwise(self.lines))

    def at(self, iteration: int) -> tuple[LogLine, ...]:
        """The lines of an iteration: one, or one for each time it was trained."""
        return tuple(line for line in self.lines if line.iteration == iteration)


def read_logs(paths: Sequence[Path]) -> Log:
    """The logs of a stage, one after the other; DataError if one can't be read, or none has a training line."""
    lines: list[LogLine] = []
    from_random: list[str] = []
    for path in paths:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                for number, text in enumerate(file, start=1):
                    if FROM_RANDOM in text:
                        from_random.append(f"{path}:{number}")
                    elif (line := training_line(text, f"{path}:{number}")) is not None:
                        lines.append(line)
        except OSError as error:
            raise DataError(
                f"{path}: {(error.strerror or 'can not be read').lower()}",
                "a stage's log is needed",
                f"ls {path.parent}",
            ) from None
    if paths and not lines:
        raise DataError(
            f"{', '.join(map(str, paths))}: no training line of Megatron-DeepSpeed",
            "nothing could be checked against it",
            "name the trainer's own output (lines `iteration=  1/  20 | consumed_samples= ...`), or leave logs out",
        )
    return Log(tuple(lines), tuple(from_random))


def training_line(text: str, place: str) -> LogLine | None:
    """A line of a log as an iteration; None of any other, and of one that is cut or mixed with another's words."""
    match = _TRAINING.search(text)
    if match is None:
        return None
    fields: dict[str, str] = {}
    for part in match[3].replace("_", " ").split("|"):
        field = _FIELD.fullmatch(part.rstrip())
        if field is not None:
            fields[field[1].removesuffix(" ms")] = field[2]
        elif any(name in part for name in _NUMBERS):
            return None
    found = {name: number(fields[name]) for name in _NUMBERS & fields.keys()}
    if not found.keys() >= _ALWAYS or None in found.values():
        return None
    return LogLine(
        place, int(match[1]), int(match[2]), _whole(fields.get("consumed samples")), _whole(fields.get("consumed tokens")),
        found["learning rate"], _OLD_DIGITS if "E" in fields["learning rate"] else _NEW_DIGITS,
        _whole(fields.get("global batch size")), found.get("lm loss"), found.get("grad norm"),
        _whole(fields["number of skipped iterations"]) or 0, _whole(fields["number of nan iterations"]) or 0,
        found.get("loss scale"), (found["elapsed time per iteration"] or 0.0) / 1000,
    )  # fmt: skip


def number(text: str | None) -> float | None:
    """A printed number, NaN and inf included; None of anything else."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
