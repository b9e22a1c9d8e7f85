"""One stage of a line that was trained by hand: what its checkpoints, its logs and LINE.yaml say, held against each other.

What is declared and the state contradicts is refused. What a checkpoint and a log say differently is a conflict: the
stage is refused until its kind is named under `accept`, and then the checkpoint's own word is taken and recorded.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from keepwarm.attempt.adopted_line import AdoptedStage, CheckpointSpec
from keepwarm.errors import DataError, LineageError, PlanError
from keepwarm.lineage.foreign import look_at_all
from keepwarm.lineage.foreign_facts import NO_LR, NO_PHASE, Foreign, contradiction, same_rate
from keepwarm.lineage.foreign_logs import Log, LogLine, read_logs
from keepwarm.lineage.manifest import Known, Phase

_NOT_KNOWN = "which rungs may start from it depends on it, and it is never assumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A checkpoint of a stage. `..._from` names where a figure was read, "declared" what LINE.yaml says."""

    found: Foreign
    iteration: int | None
    samples: int  # consumed, in the trainer's own count
    samples_from: str
    sequence_length: int
    lr: float
    lr_from: str
    lr_max: float
    phase: Phase
    phase_from: str
    logged: int  # lines of the stage's logs that it was held against

    @property
    def unknown(self) -> tuple[str, ...]:
        """What its own state leaves open, less what the log or a declaration answers."""
        answered = {NO_LR, NO_PHASE} if self.phase != "unknown" else {NO_LR}
        return tuple(text for text in self.found.unknown if text not in answered)

    @property
    def lr_is(self) -> Known:
        """Measured, or declared."""
        return "declared" if self.lr_from == "declared" else "measured"

    @property
    def phase_is(self) -> Known:
        """Measured, or declared."""
        return "declared" if self.phase_from == "declared" else "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage, its points in the order of training."""

    spec: AdoptedStage
    log: Log
    points: tuple[Point, ...]
    parent: Point | None  # of the stage before
    parent_from: str
    restarted: bool | None  # data and position began at 0; None: not known
    restarted_from: str
    conflicts: tuple[tuple[str, str], ...]  # accepted: kind, what was found

    @property
    def first_sample(self) -> int:
        """Where the stage began in the trainer's count."""
        return 0 if self.restarted or self.parent is None else self.parent.samples


def look_at_stage(spec: AdoptedStage, sequence_length: int | None, before: Stage | None) -> Stage:
    """Everything that can be told of a stage; LineageError for conflicts that are not accepted."""
    log = read_logs(_logs(spec))
    points = _points(spec, sequence_length, log)
    parent, parent_from = _parent(spec, before, log)
    restarted, restarted_from, contradiction = _restarted(spec, points, log, parent)
    found = [*contradiction, *_conflicts(spec, points, log, parent)]
    refused = [(kind, text) for kind, text in found if kind not in spec.accept]
    if refused:
        kinds = ", ".join(dict.fromkeys(kind for kind, _ in refused))
        raise LineageError(
            f"{spec.name}: " + "\n       ".join(f"{text} (conflict: {kind})" for kind, text in refused),
            "one of the two is of another run, or a run did not do what it was told; a line built on it would be false",
            f"mend {spec.name}'s list, logs or checkpoints; or, to take the checkpoint's word and have it recorded: "
            f"accept: [{kinds}]",
        )
    return Stage(
        spec=spec, log=log, points=points, parent=parent, parent_from=parent_from, restarted=restarted,
        restarted_from=restarted_from, conflicts=tuple(found),
    )  # fmt: skip


def _logs(spec: AdoptedStage) -> list[Path]:
    found: list[Path] = []
    for pattern in spec.logs:
        paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
        if not paths:
            raise DataError(
                f"stages.{spec.name}.logs: no file matches {pattern}",
                "its checkpoints would be held against nothing",
                "name the trainer's output, or leave logs out",
            )
        found += [path for path in paths if path not in found]
    return found


def _points(spec: AdoptedStage, sequence_length: int | None, log: Log) -> tuple[Point, ...]:
    points: list[Point] = []
    for each in spec.checkpoints:
        found = look_at_all(Path(each.folder))
        if len(found) > 1 and each.model_fields_set - {"folder"}:
            raise PlanError(
                f"stages.{spec.name}.checkpoints: {each.folder} holds {len(found)} steps",
                "what is declared of one is not true of the others",
                f"name the step: {{folder: {found[-1].folder}, ...}}",
            )
        points += [_point(spec, each, one, sequence_length, log) for one in found]
    points.sort(key=lambda point: point.samples)
    for one, other in pairwise(points):
        if one.samples == other.samples:
            raise PlanError(
                f"stages.{spec.name}.checkpoints: {one.found.folder} and {other.found.folder} are the same position "
                f"({one.samples:,} samples)",
                "a position of a line has one checkpoint",
                "leave one of them out",
            )
    return tuple(points)


def _point(
    spec: AdoptedStage, declared: CheckpointSpec, found: Foreign, sequence_length: int | None, log: Log
) -> Point:
    if found.kind == "keepwarm":
        raise PlanError(
            f"stages.{spec.name}.checkpoints: {found.folder} is a keepwarm checkpoint",
            "its manifest says already where it comes from",
            f"start from it as it is: base: {{checkpoint: {found.folder}, corpus: d0}}",
        )
    place = f"stages.{spec.name}: {found.folder}"
    for name in ("iteration", "samples"):
        said, state = getattr(declared, name), getattr(found, name)
        if said is not None and state is not None and said != state:
            raise contradiction(f"{place}: {name}", f"{said:,}", f"{state:,}")
    iteration = declared.iteration if found.iteration is None else found.iteration
    samples, samples_from = _samples(place, declared, found, iteration, log)
    lr, lr_from = _rate(place, declared.lr if declared.lr is not None else spec.lr, found, iteration, log)
    said = declared.phase or spec.phase
    if said is not None and found.phase not in ("unknown", said):
        raise contradiction(f"{place}: phase", said, found.phase)
    phase: Phase = said if found.phase == "unknown" and said is not None else found.phase
    phase_from = "declared" if found.phase == "unknown" and said is not None else found.phase_from
    return Point(
        found=found, iteration=iteration, samples=samples, samples_from=samples_from,
        sequence_length=_sequence_length(place, found, sequence_length), lr=lr, lr_from=lr_from,
        lr_max=_lr_max(place, spec, found, lr, phase, iteration, log), phase=phase, phase_from=phase_from,
        logged=len(log.at(iteration)) if iteration is not None else 0,
    )  # fmt: skip


def _samples(place: str, declared: CheckpointSpec, found: Foreign, iteration: int | None, log: Log) -> tuple[int, str]:
    if found.samples is not None:
        return found.samples, "its state"
    logged = (
        {line.samples for line in log.at(iteration) if line.samples is not None} if iteration is not None else set()
    )
    if declared.samples is not None:
        if logged and declared.samples not in logged:
            raise contradiction(f"{place}: samples", f"{declared.samples:,}", f"{logged.pop():,}", "its log says")
        return declared.samples, "declared"
    if len(logged) == 1:
        return logged.pop(), "the log"
    raise PlanError(
        f"{place}: nothing says how many samples it had consumed",
        "its place in the line, and what each corpus gave, follow from them",
        f"{{folder: {found.folder}, samples: N}}, or iteration: N with the stage's logs",
    )


def _rate(place: str, declared: float | None, found: Foreign, iteration: int | None, log: Log) -> tuple[float, str]:
    """LR of the next step: the state's, else the log's at that iteration, else declared."""
    if found.lr is not None:
        if declared is not None and not same_rate(declared, found.lr):
            raise contradiction(f"{place}: LR", f"{declared:g}", f"{found.lr:g}")
        return found.lr, found.lr_from
    lines = [line for line in log.at(iteration) if line.lr is not None] if iteration is not None else []
    if declared is not None:
        if lines and not any(line.has_rate(declared) for line in lines):
            raise contradiction(f"{place}: LR", f"{declared:g}", f"{lines[-1].lr:g}", f"{lines[-1].place} logs")
        return declared, "declared"
    if lines and len({line.lr for line in lines}) == 1 and lines[0].lr is not None:
        return lines[0].lr, lines[0].place
    raise PlanError(f"{place}: nothing says at which learning rate it ended", _NOT_KNOWN, "declare it: lr: 2e-4")


def _lr_max(
    place: str, spec: AdoptedStage, found: Foreign, lr: float, phase: Phase, iteration: int | None, log: Log
) -> float:
    """LR_max: the state's, else the LR of a checkpoint at peak, else declared, else the largest of a log from its start."""
    if found.lr_max is not None:
        if spec.lr_max is not None and not same_rate(spec.lr_max, found.lr_max):
            raise contradiction(f"{place}: LR_max", f"{spec.lr_max:g}", f"{found.lr_max:g}")
        return found.lr_max
    if phase == "peak":
        higher = [line for line in _until(log, iteration) if (line.lr or 0) > lr and not line.has_rate(lr)]
        if higher:
            raise contradiction(
                f"{place}: phase", f"peak at LR {lr:g}", f"{higher[-1].lr:g} before", f"{higher[-1].place} logs"
            )
        return lr
    if spec.lr_max is not None:
        return spec.lr_max
    if iteration is not None and log.at(1) and log.at(iteration):
        return max((line.lr for line in _until(log, iteration) if line.lr is not None), default=lr)
    raise PlanError(f"{place}: nothing says what LR_max was", _NOT_KNOWN, "declare it: lr_max: 2e-4")


def _until(log: Log, iteration: int | None) -> list[LogLine]:
    """The lines up to an iteration; none where it is not known."""
    return [line for line in log.lines if iteration is not None and line.iteration <= iteration]


def _sequence_length(place: str, found: Foreign, declared: int | None) -> int:
    if found.sequence_length is None:
        if declared is None:
            raise PlanError(
                f"{place}: nothing says how many tokens a sample had",
                "samples are counted in tokens by it",
                "sequence_length: 4096",
            )
        return declared
    if declared is not None and declared != found.sequence_length:
        raise contradiction(f"{place}: sequence_length", f"{declared:,}", f"{found.sequence_length:,}")
    return found.sequence_length


def _parent(spec: AdoptedStage, before: Stage | None, log: Log) -> tuple[Point | None, str]:
    """The checkpoint a stage started from: the one named, else the one whose next step its log begins with, else the last."""
    if before is None:
        needless = {"start": spec.start is not None, "finetune": spec.finetune is False}
        key = next((key for key, said in needless.items() if said), None)
        if key is not None:
            raise PlanError(
                f"stages.{spec.name}.{key}: there is no stage before {spec.name}",
                "the first stage of a line starts from nothing that the line knows, and its samples are counted from 0",
                f"leave {key} out, or put the stage that it started from before it",
            )
        return None, ""
    if spec.start is not None:
        named = [point for point in before.points if point.iteration == spec.start]
        if not named:
            there = ", ".join(str(point.iteration) for point in before.points)
            raise PlanError(
                f"stages.{spec.name}.start: {before.spec.name} has no checkpoint of iteration {spec.start}",
                "a stage starts from a checkpoint of the stage before it",
                f"one of: {there}",
            )
        return named[0], "declared"
    for point in before.points:
        if log.lines and point.iteration is not None and _follows(log, point):
            return point, log.lines[0].place
    only = len(before.points) == 1
    return before.points[-1], "the only one of the stage before" if only else "taken as the last of the stage before"


def _follows(log: Log, point: Point) -> bool:
    """True if a log's first line is the step after a checkpoint."""
    first = log.lines[0]
    batch = first.global_batch_size
    return (
        first.iteration == (point.iteration or 0) + 1 and batch is not None and first.samples == point.samples + batch
    )


def _restarted(
    spec: AdoptedStage, points: Sequence[Point], log: Log, parent: Point | None
) -> tuple[bool | None, str, list[tuple[str, str]]]:
    """Whether data and position began at 0, what says so, and the conflict where that is not what was declared."""
    if parent is None:
        return True, "it is the first stage", []
    first = log.at(1)
    launched = next((point for point in points if point.found.launch is not None and point.found.launch.finetune), None)
    found: bool | None = None
    reason = ""
    if first:
        found, reason = True, f"{first[0].place} is iteration 1"
    elif points[0].samples <= parent.samples:
        found, reason = True, f"its first checkpoint has {points[0].samples:,} samples, its start {parent.samples:,}"
    elif launched is not None:
        found, reason = True, f"{launched.found.folder} was launched with --finetune"
    elif log.lines and _follows(log, parent):
        found, reason = False, f"{log.lines[0].place} goes on after iteration {parent.iteration:,}"
    if spec.finetune == "unknown":
        return found, reason, []
    if found is None:
        return bool(spec.finetune), "declared", []
    if found is spec.finetune:
        return found, reason, []
    return found, reason, [("finetune", f"finetune: {str(spec.finetune).lower()} was declared, but {reason}")]


def _conflicts(spec: AdoptedStage, points: Sequence[Point], log: Log, parent: Point | None) -> list[tuple[str, str]]:
    """What the checkpoints say otherwise than the logs and the list."""
    found: list[tuple[str, str]] = []
    if parent is not None and log.from_random:
        found.append(("from-random", f"{log.from_random[0]}: found no checkpoint and started from random weights"))
    for point in points:
        lines = log.at(point.iteration) if point.iteration is not None else ()
        rates = [line for line in lines if line.lr is not None]
        if rates and point.found.lr is not None and not any(line.has_rate(point.lr) for line in rates):
            found.append(("lr", f"{point.found.folder} holds LR {point.lr:g}, {rates[-1].place} logs {rates[-1].lr:g}"))
        counts = [line for line in lines if line.samples is not None]
        if counts and all(line.samples != point.samples for line in counts):
            logged = f"{counts[-1].place} logs {counts[-1].samples:,}"
            found.append(("samples", f"{point.found.folder} had consumed {point.samples:,} samples, {logged}"))
        tokens = point.samples * point.sequence_length
        if point.found.tokens not in (None, tokens):
            text = f"{point.found.folder} counts {point.found.tokens:,} tokens, its samples make {tokens:,}"
            found.append(("tokens", text))
        launch = point.found.launch
        own = Path(launch.list_path) if launch is not None and launch.list_path is not None else None
        if own is not None and own.is_file() and own.read_bytes() != Path(spec.list).read_bytes():
            found.append(("list", f"{point.found.folder} was trained on {own}, {spec.list} differs"))
    return found
