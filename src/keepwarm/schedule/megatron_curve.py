"""The reference scheduler's arithmetic: LR and phase at a position, and where its code raises instead of answering.

Positions are samples (its `num_steps`) and tokens (its `num_tokens`). The formulas were recorded from Megatron-DeepSpeed
ffa3456d, megatron/optimizer_param_scheduler.py, and are kept in its order of operations, for the last digits' sake.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keepwarm.schedule.megatron_flags import INFINITE

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
TIMESCALE = 10.0  # the trainer never hands --timescale on


@dataclass(frozen=True, slots=True)
class Values:
    """What the scheduler computes with. Lengths in samples, or in tokens where the name says so."""

    style: str
    max_lr: float
    min_lr: float
    constant_lr: float
    warmup_samples: float  # not rounded
    warmup_tokens: int | None
    decay_samples: int
    decay_tokens: int | None
    end_samples: int  # decay_samples when it was built; a loaded state leaves it
    end_tokens: int | None
    infinite_cooldown_samples: float
    infinite_constant_samples: float
    cools: bool  # constant style with a cooldown at its end
    cooldown_samples: int
    switch_tokens: int | None = None  # where a warm-up by samples handed over to a decay by tokens

    @property
    def by_tokens(self) -> bool:
        """True if the decay is counted in tokens."""
        return self.decay_tokens is not None

    @property
    def infinite(self) -> bool:
        """True for the two styles with a plateau in the middle."""
        return self.style in INFINITE

    @property
    def plateau(self) -> float:
        """The LR that counts as peak."""
        return self.constant_lr if self.infinite else self.max_lr

    @property
    def decay_from_tokens(self) -> int | None:
        """Where a decay by tokens begins, once that is known."""
        return self.switch_tokens if self.warmup_tokens is None else self.warmup_tokens


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception that the scheduler's code raises behind the warm-up, or in the last annealing only."""

    error: str
    line: int
    annealing: bool = False


def fault_of(v: Values) -> Fault | None:
    """What goes wrong behind the warm-up with these values, if the run gets there."""
    if v.infinite:
        if v.constant_lr <= v.min_lr:
            return Fault("AssertionError (constant LR <= minimum LR)", 192)
        if v.constant_lr > v.max_lr:
            return Fault("AssertionError (constant LR > maximum LR)", 193)
        if v.by_tokens:
            return Fault("AttributeError (it has no attribute 'constant_tokens')", 240)
        if v.min_lr == 0:
            return Fault("ValueError (math domain error: the logarithm of a minimum LR of 0)", 232, annealing=True)
    if v.style == "constant" and v.cools and v.by_tokens:
        if v.end_tokens is None:
            return Fault("TypeError (there is no --train-tokens)", 157)
        return Fault("AttributeError (it has no attribute 'lr_constant_plus_cooldown_tokens')", 159)
    if v.style in ("linear", "cosine") and v.by_tokens and v.decay_from_tokens is None:
        return Fault("TypeError (--lr-warmup-tokens is None)", 285)
    return None


def warming(v: Values, samples: Floats, tokens: Floats) -> Mask:
    """Where LR is still on its way up, the end of the warm-up included."""
    if v.warmup_tokens is None:
        return (samples <= v.warmup_samples) & (v.warmup_samples > 0)
    return (tokens <= v.warmup_tokens) & (v.warmup_tokens > 0)


def beyond(v: Values, samples: Floats, tokens: Floats) -> Mask:
    """Where the decay is over and LR is the minimum; never in the constant style."""
    if v.style == "constant":
        return np.zeros(samples.shape, dtype=bool)
    return samples > v.decay_samples if v.decay_tokens is None else tokens > v.decay_tokens


def raises(v: Values, fault: Fault, samples: Floats, tokens: Floats) -> Mask:
    """Where `fault` is raised."""
    found = ~warming(v, samples, tokens) & ~beyond(v, samples, tokens)
    if fault.annealing:
        found &= samples - v.warmup_samples - v.infinite_cooldown_samples > v.infinite_constant_samples
    return found


def rates(v: Values, samples: Floats, tokens: Floats) -> Floats:
    """LR at each position, (N,); without meaning where the scheduler raises."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        after = _after_warmup(v, samples, tokens)
        rising = (
            v.max_lr * samples / v.warmup_samples if v.warmup_tokens is None else v.max_lr * tokens / v.warmup_tokens
        )
        lr = np.where(beyond(v, samples, tokens), v.min_lr, after)
        found: Floats = np.where(warming(v, samples, tokens), rising, lr)
    return found


def _after_warmup(v: Values, samples: Floats, tokens: Floats) -> Floats:
    if v.style == "constant":
        return _constant(v, samples)
    if v.style == "inverse-square-root":
        by_tokens = v.decay_from_tokens is not None
        at, warmup = (tokens, v.decay_from_tokens or 0) if by_tokens else (samples, v.warmup_samples)
        fall: Floats = v.max_lr * max(warmup, 1) ** 0.5 / np.maximum(at, 1) ** 0.5
        return np.maximum(v.min_lr, fall)
    if v.infinite:
        return _infinite(v, samples)
    if v.by_tokens:
        begin = v.decay_from_tokens or 0
        ratio = (tokens - begin) / ((v.decay_tokens or 0) - begin)
    else:
        ratio = (samples - v.warmup_samples) / (v.decay_samples - v.warmup_samples)
    left = 1.0 - ratio if v.style == "linear" else 0.5 * (np.cos(np.pi * ratio) + 1.0)
    return v.min_lr + left * (v.max_lr - v.min_lr)


def _constant(v: Values, samples: Floats) -> Floats:
    if not v.cools:
        return np.full(samples.shape, v.max_lr)
    at, total = samples - v.warmup_samples, v.end_samples - v.warmup_samples
    begin = total - v.cooldown_samples
    cooled = v.min_lr + (v.max_lr - v.min_lr) * (1.0 - np.sqrt(np.maximum(at - begin, 0) / max(v.cooldown_samples, 1)))
    return np.select([at >= total, at < begin], [v.min_lr, v.max_lr], cooled)


def _infinite(v: Values, samples: Floats) -> Floats:
    at, cooldown, flat = samples - v.warmup_samples, v.infinite_cooldown_samples, v.infinite_constant_samples
    drop, x = v.max_lr - v.constant_lr, at / cooldown
    if v.style == "infinite-cosine":
        first = v.constant_lr + drop * (0.5 * (np.cos(np.pi * x) + 1.0))
    else:
        first = v.max_lr - drop * ((1 / np.sqrt(1 + TIMESCALE * x) - 1) / (1 / math.sqrt(1 + TIMESCALE) - 1))
    if v.min_lr > 0:
        rate = -math.log(v.min_lr / v.constant_lr) / (v.end_samples - v.warmup_samples - cooldown - flat or math.nan)
        anneal = v.constant_lr * np.exp(-rate * (at - cooldown - flat))
    else:
        anneal = np.full(at.shape, math.nan)
    lr: Floats = np.select([at <= cooldown, at - cooldown <= flat], [first, np.full(at.shape, v.constant_lr)], anneal)
    return np.maximum(lr, v.min_lr)


def phases(v: Values, samples: Floats, tokens: Floats) -> NDArray[np.str_]:
    """Phases of the checkpoints taken at each position, in keepwarm's words (see schedule.py)."""
    at = samples - v.warmup_samples
    if v.warmup_tokens is None:
        rising = samples < v.warmup_samples
    else:
        rising = tokens < v.warmup_tokens
    if v.style == "constant":
        total = v.end_samples - v.warmup_samples
        peak = at <= total - v.cooldown_samples if v.cools else np.ones(at.shape, dtype=bool)
        done = at >= total if v.cools else ~peak
    else:
        past = v.infinite_cooldown_samples + v.infinite_constant_samples
        flat = (at >= v.infinite_cooldown_samples) & (at <= past)
        start = at <= 0 if v.warmup_tokens is None else tokens <= v.warmup_tokens
        if v.warmup_tokens is None and v.switch_tokens is not None:
            start = tokens <= v.switch_tokens
        peak = flat if v.infinite else start
        done = samples >= v.decay_samples if v.decay_tokens is None else tokens >= v.decay_tokens
        if v.infinite:
            done &= ~flat | beyond(v, samples, tokens)  # a plateau that fills the run is left one step behind its end
    return np.select([rising, done, peak], ["warming", "cooled", "peak"], "decaying")
