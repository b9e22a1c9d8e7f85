"""A log of Megatron-DeepSpeed as points: what was trained and validated at which iteration.

Validation lines: `validation loss at iteration 20 | lm loss value=4.79lm loss PPL=120.6` (newer; nothing stands between
the two), `... | lm loss value: 4.79E+00 | lm loss PPL: ...` (older); behind the iteration may stand what was drawn. A
console is what a log says in the order it was written, and the places of what begins like a point and can't be read as
one. As points each iteration stands once: a restart repeats iterations, and the last time counts, as what came after it
was trained from there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from keepwarm.errors import DataError
from keepwarm.lineage.foreign_logs import FROM_RANDOM, LogLine, training_line

TEST = "test data"  # what the loss at the end of training is drawn from
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LIKE_TRAINING = re.compile(r"\biteration[= ] *[0-9]+/ *[0-9]*")
_LIKE_VALIDATION = re.compile(r"\bvalidation loss at (?:iteration|the end of training)")
_POINT = re.compile(f"{_LIKE_TRAINING.pattern}|{_LIKE_VALIDATION.pattern}")
_VALIDATION = re.compile(
    r"\bvalidation loss at (?:iteration ([0-9]+)|the end of training)(?: (?:on|for) ([^|]+?))? \|.*?\blm loss value *[=:] *"
    r"([-+]?(?:[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|nan|inf|NAN|INF)) *\|? *lm loss PPL"
)
_FAILURE = re.compile(r"^(?:\[rank[0-9]+\]:? *)?((?:[A-Za-z_]+\.)*[A-Z][A-Za-z]*(?:Error|Exception)\b.*)")
_LAUNCHER = "ChildFailedError"  # says that a process failed, not why


@dataclass(frozen=True, slots=True)
class Validation:
    """One validation loss, nats per token; `drawn` says of what, where the log does."""

    iteration: int
    drawn: str
    loss: float
    place: str = ""  # file:line


@dataclass(frozen=True, slots=True)
class Points:
    """What a log says, by iteration."""

    path: Path
    training: tuple[LogLine, ...]
    validation: tuple[Validation, ...]
    unparsed_lines: int
    restarts: int


@dataclass(frozen=True, slots=True)
class Console:
    """What a log says, in the order it was written. Places are file:line."""

    path: Path
    points: tuple[LogLine | Validation, ...]
    unread: tuple[str, ...]  # places of what begins like a point and can't be read as one
    cut: str | None  # place of a last line without an end that can't be read: still being written, or killed
    from_random: tuple[str, ...]  # places where the trainer found no checkpoint and began from random weights
    failure: str | None  # the last error that a process printed, with its place

    @property
    def training(self) -> tuple[LogLine, ...]:
        """The iterations, in the order they were written."""
        return tuple(point for point in self.points if isinstance(point, LogLine))


def read_console(path: Path, name: str | None = None) -> Console:
    """All of a log, which `name` stands for in places; DataError if it can't be read."""
    shown = str(path) if name is None else name
    points: list[LogLine | Validation] = []
    unread: list[str] = []
    from_random: list[str] = []
    cut = failure = None
    try:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            for number, raw in enumerate(file, start=1):
                place, text = f"{shown}:{number}", _COLOURS.sub("", raw) if "\x1b" in raw else raw
                if FROM_RANDOM in text:
                    from_random.append(place)
                elif (match := _FAILURE.match(text)) is not None and _LAUNCHER not in match[1]:
                    failure = f"{match[1].strip()} ({place})"
                for piece in _pieces(text):
                    point = training_line(piece, place) or _validation(piece, place, points)
                    if point is not None:
                        points.append(point)
                    elif raw.endswith("\n"):
                        unread.append(place)
                    else:
                        cut = place
    except OSError as error:
        raise DataError(
            f"{path}: {(error.strerror or 'can not be read').lower()}", "there is nothing to read", f"ls {path.parent}"
        ) from None  # fmt: skip
    return Console(path, tuple(points), tuple(unread), cut, tuple(from_random), failure)


def _pieces(text: str) -> Iterator[str]:
    """What begins like a point, up to the next that does: processes write into each other's lines."""
    starts = [match.start() for match in _POINT.finditer(text)]
    yield from (text[start:stop] for start, stop in pairwise([*starts, len(text)]))


def _validation(text: str, place: str, before: list[LogLine | Validation]) -> Validation | None:
    """A validation loss; that at the end of training is one of the last iteration `before` it."""
    match = _VALIDATION.search(text)
    if match is None or (match[1] is None and not before):
        return None
    iteration = before[-1].iteration if match[1] is None else int(match[1])
    return Validation(iteration, (match[2] or "").strip(), float(match[3]), place)


def read_points(path: Path) -> Points:
    """All points of a log; DataError if it can't be read or has none."""
    console = read_console(path)
    lines = console.training
    losses = {
        (point.iteration, point.drawn): point
        for point in console.points
        if isinstance(point, Validation) and point.drawn != TEST
    }
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
        len(console.unread) + (console.cut is not None),
        restarts,
    )
