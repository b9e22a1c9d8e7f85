"""A learning rate by step, whatever it comes from: a plan's line, a schedule in words, the reference's flags."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keepwarm.errors import KeepwarmError, LineageError
from keepwarm.lineage.foreign_megatron import scheduler_state
from keepwarm.plan.model import Plan
from keepwarm.report.legs import legs, rates, total_steps
from keepwarm.schedule.megatron import Finding, parse_flags, reference_schedule
from keepwarm.schedule.named import Named, named_schedule


class Row(NamedTuple):
    """LR after `step` optimizer steps, which step + 1 uses, and the phase of a checkpoint taken there."""

    step: int
    lr: float
    phase: str
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """A learning rate over the steps `first_step` to `last_step`; `open_ended` if it can be asked beyond them."""

    title: str
    first_step: int
    last_step: int
    rows: Callable[[Sequence[int]], list[Row]]
    asked: str  # what it was made from
    open_ended: bool = False
    findings: tuple[Finding, ...] | None = None  # None: from a source that has none
    others: tuple[str, ...] = ()  # flags that do not concern it


def of_plan(plan: Plan) -> Curve:
    """The line of a plan, if each stage keeps the first rung that may start."""
    line = legs(plan)

    def rows(steps: Sequence[int]) -> list[Row]:
        return [Row(*each) for each in rates(line, steps)]

    return Curve(plan.name, 0, total_steps(line), rows, "")


def of_schedule(text: str) -> Curve:
    """A schedule in words."""
    named = named_schedule(text)

    def rows(steps: Sequence[int]) -> list[Row]:
        tokens = np.asarray(steps, dtype=np.int64) * named.step_tokens
        return _zipped(steps, named.schedule.lr(tokens), named.schedule.phases(tokens))

    return Curve(named.name, 0, steps_of(named), rows, text)


def steps_of(named: Named) -> int:
    """Optimizer steps of a schedule in words."""
    return named.schedule.tokens // named.step_tokens


def of_megatron(flags: str, state: Path | None) -> Curve:
    """What the reference does with `flags`, resuming from the scheduler state in `state`.

    Raises KeepwarmError where it would stop at start, or go on without its scheduler.
    """
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise KeepwarmError(
            f"--megatron: {error}", "the flags cannot be told apart", '--megatron "--lr 2e-4 --train-iters 2000"'
        ) from None
    parsed = parse_flags(words)
    found = reference_schedule(parsed, None if state is None else _state(state))
    if found.error is not None:
        raise found.error

    def rows(steps: Sequence[int]) -> list[Row]:
        return _zipped(steps, found.lr(steps), found.phases(steps))

    title = f"{found.values.style} by Megatron-DeepSpeed's flags"
    return Curve(
        title, found.first_step, max(found.first_step, found.last_step), rows, shlex.join(parsed.words()), True,
        found.findings, parsed.others,
    )  # fmt: skip


def _zipped(steps: Sequence[int], lr: Any, phases: Any) -> list[Row]:
    return [Row(int(step), float(rate), str(phase)) for step, rate, phase in zip(steps, lr, phases, strict=True)]


def _state(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return scheduler_state(path)
    why = "the checkpoint's place on its curve cannot be known"
    fix = "give the checkpoint's folder, or its lr_scheduler dict as JSON: --state state.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LineageError(f"--state {path}: {getattr(error, 'strerror', None) or error}", why, fix) from None
    if not isinstance(found, dict):
        raise LineageError(f"--state {path}: holds a {type(found).__name__}, not an object", why, fix)
    return found


def turning_points(curve: Curve, about: int) -> list[Row]:
    """About so many rows over the whole curve, and all those where its phase or stage changes or a finding stands."""
    length = curve.last_step - curve.first_step
    steps = np.unique(np.linspace(curve.first_step, curve.last_step, min(about, length) + 1).astype(np.int64))
    found = curve.rows([int(step) for step in steps])
    extra = []
    for left, right in pairwise(found):
        if (left.phase, left.stage) != (right.phase, right.stage):
            low, high = left.step, right.step
            while high - low > 1:
                middle = (low + high) // 2
                same = curve.rows([middle])[0][2:] == left[2:]
                low, high = (middle, high) if same else (low, middle)
            extra += [low, high]
    for finding in curve.findings or ():
        if finding.step is not None and curve.first_step < finding.step <= curve.last_step:
            extra += [finding.step - 1, finding.step]
    return curve.rows(sorted({*(row.step for row in found), *extra}))
