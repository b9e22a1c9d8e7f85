"""Batch size: constant, or ramped up in steps while training begins; and what LR does when a batch is scaled.

Positions are counted in samples, so the order of data, LR (a function of tokens) and resume do not depend on how the
samples were cut into steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepwarm.errors import PlanError

LrScaling = Literal["none", "sqrt", "linear"]


@dataclass(frozen=True, slots=True)
class BatchRamp:
    """The batch grows from `start` by `increment` at equal distances over `ramp_samples`, to the global batch size.

    The rule is that of Megatron-LM's `--rampup-batch-size START INCREMENT SAMPLES` (used by GPT-3 2005.14165, table 2.1
    and appendix B): after n samples the batch is start + increment * floor(n * increments / ramp_samples), with as many
    increments as lead to the global batch size, and from there on the global batch size.
    """

    start: int
    increment: int
    ramp_samples: int

    def to_dict(self) -> dict[str, int]:
        """JSON value."""
        return {"start": self.start, "increment": self.increment, "ramp_samples": self.ramp_samples}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> BatchRamp:
        """The ramp that `to_dict` wrote."""
        return cls(int(value["start"]), int(value["increment"]), int(value["ramp_samples"]))


@dataclass(frozen=True, slots=True)
class Batches:
    """How samples are cut into optimizer steps: `(first step, first sample, batch size)` of each stretch, in order."""

    stretches: tuple[tuple[int, int, int], ...]
    ramp: BatchRamp | None = None  # which it was made from

    @property
    def largest(self) -> int:
        """The global batch size that the ramp ends at, or the only one."""
        return self.stretches[-1][2]

    def size(self, step: int) -> int:
        """Samples of the step that follows `step` finished ones."""
        return next(size for first, _, size in reversed(self.stretches) if step >= first)

    def samples(self, steps: int) -> int:
        """Samples that `steps` steps consume."""
        first, before, size = next(each for each in reversed(self.stretches) if steps >= each[0])
        return before + (steps - first) * size

    def samples_of(self, steps: ArrayLike) -> NDArray[np.int64]:
        """`samples` of many, (N,)."""
        firsts, before, sizes = np.array(self.stretches, dtype=np.int64).T
        at = np.asarray(steps, dtype=np.int64)
        number = np.searchsorted(firsts, at, side="right") - 1
        consumed: NDArray[np.int64] = before[number] + (at - firsts[number]) * sizes[number]
        return consumed

    def steps(self, samples: int) -> int:
        """The least number of steps that consume at least `samples`."""
        first, before, size = next(each for each in reversed(self.stretches) if samples >= each[1])
        return first - (before - samples) // size


def batches(global_batch_size: int, ramp: BatchRamp | None = None) -> Batches:
    """The stretches of a run: one without a ramp, else one for each batch size on the way up.

    Raises PlanError on a ramp that does not lead to `global_batch_size`.
    """
    if ramp is None:
        return Batches(((0, 0, global_batch_size),))
    _refuse(global_batch_size, ramp)
    increments = (global_batch_size - ramp.start) // ramp.increment
    stretches, step, sample = [], 0, 0
    for number in range(increments):
        size = ramp.start + number * ramp.increment
        border = -(-(number + 1) * ramp.ramp_samples // increments)  # first sample count at which it grows
        steps = max(0, -(-(border - sample) // size))
        if steps:
            stretches.append((step, sample, size))
        step, sample = step + steps, sample + steps * size
    return Batches((*stretches, (step, sample, global_batch_size)), ramp)


def scaled_lr(lr: float, before: int, after: int, rule: LrScaling) -> float:
    """LR when the batch goes from `before` to `after` samples.

    Formula: lr sqrt(k) or lr k, k = after / before

    Source: linear: Goyal et al. 1706.02677, section 2.1, for SGD; sqrt: Malladi et al. 2205.10287, for Adam.
    """
    k = Fraction(after, before)
    return lr * {"none": 1.0, "sqrt": math.sqrt(k), "linear": float(k)}[rule]


def _refuse(global_batch_size: int, ramp: BatchRamp) -> None:
    rise = global_batch_size - ramp.start
    if min(ramp.start, ramp.increment, ramp.ramp_samples) < 1 or rise < ramp.increment or rise % ramp.increment:
        raise PlanError(
            f"a batch that starts at {ramp.start} and grows by {ramp.increment} over {ramp.ramp_samples:,} samples does not "
            f"come to global_batch_size {global_batch_size}",
            "the batch would jump, or never be what the plan says",
            f"choose start and increment so that {global_batch_size} - start is a multiple of the increment",
        )
