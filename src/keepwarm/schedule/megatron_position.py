"""Where the reference stands: its samples and tokens after each optimizer step, and a checkpoint's learning rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.schedule.batch import Batches
from keepwarm.schedule.megatron_curve import Values, rates, warming


@dataclass(frozen=True, slots=True)
class Position:
    """Where the run stands after each optimizer step, counted in iterations of the whole run."""

    first_step: int
    first_samples: int  # num_steps of the scheduler after `first_step`
    first_tokens: int  # num_tokens there, one iteration behind
    sequence_length: int
    batches: Batches

    def samples(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The scheduler's num_steps after each of `steps` >= first_step, (N,)."""
        begin = self.batches.steps(self.first_samples)
        consumed = self.batches.samples_of(begin + steps - self.first_step)
        return self.first_samples + consumed - self.batches.samples(begin)

    def tokens(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The scheduler's num_tokens after each of `steps`, (N,): those of the iteration before."""
        if self.first_samples == 0:
            return self.samples(np.maximum(steps - 1, self.first_step)) * self.sequence_length
        size = self.batches.size(max(0, self.batches.steps(self.first_samples) - 1))
        consumed = self.first_tokens + size * self.sequence_length  # what the checkpoint's own count says
        since = self.samples(np.maximum(steps - 1, self.first_step)) - self.first_samples
        later = consumed + since * self.sequence_length
        return np.where(steps == self.first_step, self.first_tokens, later)


def checkpoint_lr(state: Mapping[str, Any]) -> float | None:
    """The LR in a checkpoint: as it says, or by the state's own curve; None where the state does not hold enough."""
    if "lr" in state:
        return float(state["lr"])
    style = state["lr_decay_style"]
    values = Values(
        style, state["max_lr"], state["min_lr"], 0.0, state["lr_warmup_steps"], state["lr_warmup_tokens"],
        state["lr_decay_steps"], state["lr_decay_tokens"], state["lr_decay_steps"], None, 0.0, 0.0, False, 0,
    )  # fmt: skip
    at = np.array([float(state["num_steps"])]), np.array([float(state["num_tokens"])])
    if values.infinite and not warming(values, *at)[0]:
        return None
    return float(rates(values, *at)[0])


def first_where(true: Callable[[NDArray[np.int64]], NDArray[np.bool_]], first: int) -> int:
    """The first step >= `first` from which `true` holds, by doubling and bisection."""
    low, high = first, first + 1
    while not true(np.array([high]))[0]:
        high = first + 2 * (high - first)
        assert high < 2**60, "a condition that never comes true"
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if true(np.array([middle]))[0] else (middle + 1, high)
    return low
