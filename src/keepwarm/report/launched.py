"""`keepwarm launch` for people, and as JSON: everything that would be written, and why it does what it says."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keepwarm.attempt.kept import started
from keepwarm.attempt.model import Attempt
from keepwarm.backends.megatron.launches import PlannedLaunch
from keepwarm.backends.megatron.lists import LIST, Data
from keepwarm.backends.megatron.script import EVALUATE, JOB, TRAIN
from keepwarm.backends.megatron.verbatim import Verbatim
from keepwarm.backends.megatron.views import DataList
from keepwarm.backends.megatron.write import Submitted
from keepwarm.lineage.manifest import Manifest
from keepwarm.report.learning_rate import plot
from keepwarm.report.lr_curve import Curve, Row
from keepwarm.report.table import aligned
from keepwarm.report.terminal import print_json, table_lines

MOST_LINES = 12  # of a list that are printed


@dataclass(frozen=True, slots=True)
class Look:
    """What is shown: an attempt with its launches, and what became of them."""

    attempt: Attempt
    start: Manifest | None
    why: str
    planned: Sequence[PlannedLaunch]
    written: bool
    submitted: Submitted | None
    rate: float | None  # tokens a second


@dataclass(frozen=True, slots=True)
class Cost:
    """What a launch takes at a rate: hours of training, node-hours, and jobs of the walltime."""

    hours: float
    node_hours: float
    jobs: int | None  # None: no walltime


def cost_of(planned: PlannedLaunch, rate: float) -> Cost:
    """At `rate` tokens a second; a job trains until it saves and stops."""
    launch, spec = planned.launch, planned.site.spec
    seconds = launch.steps * launch.global_batch_size * launch.sequence_length / rate
    jobs = math.ceil(seconds / (spec.walltime - spec.stop_before)) if spec.walltime else None
    return Cost(seconds / 3600, seconds / 3600 * spec.nodes, jobs)


def print_launched(look: Look) -> None:
    """Everything of every launch; then where it lies, or how it would be written."""
    attempt = look.attempt
    print(f"{attempt.stage}: {attempt.label}, {attempt.steps:,} steps = {attempt.tokens:,} tokens ({look.why})")
    print("\n".join(table_lines([row.as_dict() for row in started(attempt, look.start)])))
    for warning in attempt.warnings:
        print(f"note: {warning}")
    print(plot(_curve(attempt)))
    for planned in look.planned:
        print("\n".join(_launch_lines(planned, look.rate, in_full=not look.written)))
    print("\n".join(_ending(look)))


def launched_json(look: Look) -> dict[str, Any]:
    """The same as data."""
    return {
        "attempt": look.attempt.sha256, "stage": look.attempt.stage, "label": look.attempt.label,
        "rung": look.attempt.rung, "steps": look.attempt.steps, "tokens": look.attempt.tokens, "why": look.why,
        "kept": [row.as_dict() for row in started(look.attempt, look.start)],
        "launches": [_json_of(planned, look.rate) for planned in look.planned],
        "written": look.written, "submitted": look.submitted.as_dict() if look.submitted else None,
    }  # fmt: skip


def _json_of(planned: PlannedLaunch, rate: float | None) -> dict[str, Any]:
    return asdict(planned.launch) | {
        "folder": str(planned.folder), "files": dict(planned.files), "lr_difference": planned.difference,
        "sources": _sources(planned.data), "notes": list(planned.notes),
        "cost": asdict(cost_of(planned, rate)) if rate else None,
    }  # fmt: skip


def _curve(attempt: Attempt) -> Curve:
    def rows(steps: Sequence[int]) -> list[Row]:
        tokens = np.asarray(steps, dtype=np.int64) * attempt.step_tokens
        rates, phases = attempt.schedule.lr(tokens), attempt.schedule.phases(tokens)
        return [Row(int(n), float(lr), str(phase)) for n, lr, phase in zip(steps, rates, phases, strict=True)]

    return Curve(attempt.label, 0, attempt.steps, rows, "")


def _launch_lines(planned: PlannedLaunch, rate: float | None, *, in_full: bool) -> Iterator[str]:
    """`in_full`: the scripts too, which are not on disk."""
    launch = planned.launch
    yield f"\n== {launch.name}: {_BEGINS[launch.begins]}, iterations {launch.begin_iteration + 1:,} to {launch.end_iteration:,}"
    nodes = planned.site.spec.nodes
    yield f"machine {launch.machine}, scheduler {launch.scheduler}: {nodes:,} nodes, {launch.world_size:,} processes"
    yield f"LR: the trainer's own schedule is the attempt's within {planned.difference:.2g} on every step"
    yield _cost_words(planned, rate)
    yield from (f"note: {note}" for note in planned.notes)
    yield f"\n-- {LIST} (SHA-256 {launch.data_list_sha256[:12]}, index cache {launch.data_cache})"
    lines = planned.files[LIST].splitlines()
    yield from lines[:MOST_LINES]
    if len(lines) > MOST_LINES:
        yield f"... and {len(lines) - MOST_LINES:,} more"
    yield from aligned(_read_rows(planned.data)[: MOST_LINES + 1], {1, 2})
    for name in (TRAIN, JOB, EVALUATE) if in_full else ():
        yield f"\n-- {name}\n{planned.files[name].rstrip()}"


def _read_rows(data: Data) -> list[list[str]]:
    if isinstance(data, DataList):
        rows = [[view.corpus, f"{view.windows:,}", f"{view.first_position:,}"] for view in data.views]
        return [["corpus", "samples read", "from its own sample"], *rows]
    shards = [[shard.prefix.name, f"{shard.samples:,}", ""] for shard in data.shards]
    return [["shard", "samples read", ""], *shards]


def _sources(data: Data) -> list[dict[str, Any]]:
    found = data.views if isinstance(data, DataList) else data.shards
    return [{**asdict(each), "prefix": str(each.prefix)} for each in found]


def _cost_words(planned: PlannedLaunch, rate: float | None) -> str:
    if rate is None:
        return "cost: not known before a first job; say tokens a second with --rate"
    cost = cost_of(planned, rate)
    jobs = "" if cost.jobs is None else f", {cost.jobs:,} job{'s' if cost.jobs != 1 else ''}"
    return f"cost at {rate:,.0f} tokens/s: {cost.hours:,.1f} h, {cost.node_hours:,.0f} node-hours{jobs}"


def _ending(look: Look) -> Iterator[str]:
    first = look.planned[0]
    if look.submitted is not None:
        yield f"\nsubmitted: {look.submitted.job_id} ({shlex.join(look.submitted.command)} in {look.submitted.folder})"
    elif look.written:
        command = {"pbs": "qsub", "slurm": "sbatch", "none": "bash"}[first.launch.scheduler]
        yield f"\nwritten: {first.folder.parent.parent}\nto submit it: cd {first.folder} && {command} {JOB}"
    else:
        yield f"\nnothing was written. --write writes {first.folder.parent.parent}; --submit also submits its first job"


_BEGINS = {
    "trunk": "from random weights", "continue": "new data at once, moments kept",
    "restart": "new data at once, moments, step and LR reset", "resume": "the same run, its position kept",
    "cooldown": "the same run, its position kept, with another schedule",
}  # fmt: skip


def print_verbatim(found: Verbatim) -> None:
    """The command, then each of its traps."""
    print(found.command)
    for trap in found.traps:
        print(f"\nwarning: {trap.part}: {trap.does}\n  seen: {trap.evidence}\n  keepwarm launch says: {trap.instead}")


def show(value: Look | Verbatim, *, as_json: bool) -> None:
    """Print what `keepwarm launch` found."""
    if as_json:
        print_json(value.as_dict() if isinstance(value, Verbatim) else launched_json(value))
    elif isinstance(value, Verbatim):
        print_verbatim(value)
    else:
        print_launched(value)
