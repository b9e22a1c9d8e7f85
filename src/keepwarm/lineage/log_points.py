"""A log of Megatron-DeepSpeed as points: what was trained and validated at which iteration, each once.

A restart repeats iterations; the last time counts, as what came after it was trained from there. Validation lines:
`validation loss at iteration 20 | lm loss value=4.79lm loss PPL=120.6` (newer; nothing stands between the two),
`... | lm loss value: 4.79E+00 | lm loss PPL: ...` (older); behind the iteration may stand what was drawn. A line that
begins like a point and can't be read as one is counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from keepwarm.errors import DataError
from keepwarm.lineage.foreign_logs import LogLine, training_line

_LIKE_TRAINING = re.compile(r"\biteration[= ] *[0-9]+/ *[0-9]*")
_LIKE_VALIDATION = re.compile(r"\bvalidation loss at iteration")  # not "at the end of training", a test
_VALIDATION = re.compile(
    r"\bvalidation loss at iteration ([0-9]+)(?: on ([^|]+?))? \|.*?\blm loss value *[=:] *"
    r"([-+]?(?:[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|nan|inf|NAN|INF))"
)


@dataclass(frozen=True, slots=True)
class Validation:
    """One validation loss, nats per token; `drawn` says of what, where the log does."""

    iteration: int
    drawn: str
    loss: float


@dataclass(frozen=True, slots=True)
class Points:
    """What a log says, by iteration."""

    path: Path
    training: tuple[LogLine, ...]
    validation: tuple[Validation, ...]
    unparsed_lines: int
    restarts: int


def read_points(path: Path) -> Points:
    """All points of a log; DataError if it can't be read or has none."""
    lines: list[LogLine] = []
    losses: dict[tuple[int, str], Validation] = {}
    unparsed = 0
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for place, text in enumerate(file, start=1):
                if (line := training_line(text, f"{path}:{place}")) is not None:
                    lines.append(line)
                elif (match := _VALIDATION.search(text)) is not None:
                    found = Validation(int(match[1]), (match[2] or "").strip(), float(match[3]))
                    losses[found.iteration, found.drawn] = found
                else:
                    unparsed += bool(_LIKE_TRAINING.search(text) or _LIKE_VALIDATION.search(text))
    except OSError as error:
        raise DataError(
            f"{path}: {(error.strerror or 'can not be read').lower()}", "there is nothing to judge", f"ls {path.parent}"
        ) from None
    if not lines and not losses:
        raise DataError(
            f"{path}: neither a metrics.jsonl of keepwarm nor a log of Megatron-DeepSpeed",
            "no training or validation line was found in it, so nothing could be judged",
            "name the attempt's metrics.jsonl, or the trainer's own output (`iteration=  1/  20 | ... lm loss=...`)",
        )
    restarts = sum(later.iteration <= line.iteration for line, later in pairwise(lines))
    by_iteration = {line.iteration: line for line in lines}
    return Points(
        path,
        tuple(by_iteration[iteration] for iteration in sorted(by_iteration)),
        tuple(losses[key] for key in sorted(losses)),
        unparsed,
        restarts,
    )
