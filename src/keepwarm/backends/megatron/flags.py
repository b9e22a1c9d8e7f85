"""An attempt's learning rate in the words of train_alcf.sh, believed only after running the reference's own schedule.

The script always passes --lr, --lr-decay-style and --lr-warmup-fraction, from LR, LR_DECAY_STYLE and LR_WARMUP_FRAC (no
LR_WARMUP_FRACTION is read); what it has no variable for stands behind its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keepwarm.errors import PlanError
from keepwarm.schedule.megatron import parse_flags, reference_schedule, to_flags
from keepwarm.schedule.megatron_reverse import EVERY_STEP, SAME
from keepwarm.schedule.schedule import Schedule

OVERRIDE = "--override-opt_param-scheduler"
_BY_VARIABLE = {"lr", "lr_decay_style", "lr_warmup_fraction", "lr_warmup_iters", "lr_decay_iters", "train_iters",
                "global_batch_size", "override_opt_param_scheduler"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of the learning rate: variables, arguments, and the same as flags of the trainer."""

    environment: Mapping[str, str]
    arguments: tuple[str, ...]
    words: tuple[str, ...]


def said(schedule: Schedule, global_batch_size: int, sequence_length: int, after_steps: int = 0) -> Said:
    """How the schedule is said; behind `after_steps` iterations of the same run it overrides the checkpoint's.

    PlanError with the difference where the trainer's schedules cannot follow it.
    """
    words = to_flags(schedule, global_batch_size, sequence_length, after_steps)
    flags = parse_flags(words)
    iterations = flags.train_iters or 0
    decay = flags.lr_decay_iters or iterations
    warmup = flags.lr_warmup_fraction if flags.lr_warmup_fraction is not None else flags.lr_warmup_iters / decay
    environment = {
        "LR": repr(flags.lr), "LR_DECAY_STYLE": flags.lr_decay_style, "LR_WARMUP_FRAC": repr(warmup) if warmup else "0",
        "LR_DECAY_ITERS": str(decay),
    }  # fmt: skip
    rest = tuple(_others(words))
    if flags.override_opt_param_scheduler:
        environment["OVERRIDE_CKPT_OPT_PARAM"] = "1"
        rest = (OVERRIDE, *rest)
    return Said(environment, rest, tuple(words))


def _others(words: Sequence[str]) -> list[str]:
    """The flags without a variable, each with its value as one word, as --min-lr=2e-06."""
    found: list[str] = []
    named = {f"--{name.replace('_', '-')}" for name in _BY_VARIABLE} | {OVERRIDE}
    for word in words:
        if word.startswith("--"):
            found.append(word)
        else:
            found[-1] += f"={word}"
    return [each for each in found if each.partition("=")[0] not in named]


def saved_state(argv: Sequence[str], iteration: int) -> dict[str, Any]:
    """The scheduler's state in a checkpoint that a launch with `argv` saves after `iteration`."""
    flags = parse_flags(argv)
    built, batch = reference_schedule(flags).values, flags.global_batch_size or 0
    return {
        "max_lr": built.max_lr, "min_lr": built.min_lr, "lr_warmup_steps": built.warmup_samples, "lr_warmup_tokens": None,
        "lr_decay_steps": built.decay_samples, "lr_decay_tokens": None, "lr_decay_style": built.style,
        "num_steps": iteration * batch, "num_tokens": 0, "iteration": iteration,
    }  # fmt: skip


def foreign_state(lr: float, lr_max: float, iteration: int, samples: int) -> dict[str, Any]:
    """The state of a start checkpoint as far as it matters: at which LR it ended, and where it stands."""
    return {
        "max_lr": lr_max, "min_lr": 0.0, "lr_warmup_steps": 0, "lr_warmup_tokens": None, "lr_decay_steps": max(1, samples),
        "lr_decay_tokens": None, "lr_decay_style": "constant", "num_steps": samples, "num_tokens": 0,
        "iteration": iteration, "lr": lr,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a schedule that a launch follows: iterations after `begin` up to `end`, counted from `first`."""

    schedule: Schedule
    step_tokens: int
    first: int  # the trainer's count before the schedule's own first step
    begin: int
    end: int


def apart(argv: Sequence[str], state: Mapping[str, Any] | None, span: Span) -> float:
    """The largest difference between the trainer's LR and the schedule's over the span; PlanError where they differ."""
    found = reference_schedule(parse_flags(argv), state)
    if found.error is not None:
        raise found.error
    count = span.end - span.begin
    rows = np.unique(np.linspace(span.begin, span.end, min(count, EVERY_STEP) + 1).astype(np.int64))
    wanted = span.schedule.lr(np.minimum((rows - span.first) * span.step_tokens, span.schedule.tokens))
    difference = np.abs(found.lr(rows) - wanted)
    at, highest = int(np.argmax(difference)), max(max(p.lr_start, p.lr_end) for p in span.schedule.pieces)
    if found.last_step < span.end or not math.isfinite(difference[at]) or difference[at] > SAME * highest:
        raise PlanError(
            f"the trainer's LR of iteration {rows[at] + 1:,} would be {found.lr(rows[at : at + 1])[0]:.6g}, the attempt's is "
            f"{wanted[at]:.6g}",
            f"they differ by {difference[at]:.3g}, {100 * difference[at] / highest:.3g}% of the highest LR"
            + _first_word(found.first_lr, int(rows[at]), span.begin),
            "another rung, or a start whose optimizer is reset: its LR rises from 0",
        )
    return float(difference[at])


def _first_word(first_lr: float | None, at: int, begin: int) -> str:
    if first_lr is None or at != begin:
        return ""
    return "; with --universal-checkpoint the first step uses the LR that the checkpoint was saved at"
