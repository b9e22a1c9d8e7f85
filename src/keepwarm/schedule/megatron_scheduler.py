"""The reference's scheduler emulated: from flags, and a checkpoint's state, to the LR of every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepwarm.errors import LineageError, PlanError
from keepwarm.schedule.batch import Batches
from keepwarm.schedule.megatron_build import SCHEDULER, build, crash, cut, last_step, load, refuse_state
from keepwarm.schedule.megatron_curve import Fault, Values, beyond, fault_of, phases, raises, rates
from keepwarm.schedule.megatron_faults import swallowed
from keepwarm.schedule.megatron_findings import Finding, findings_of
from keepwarm.schedule.megatron_flags import Flags
from keepwarm.schedule.megatron_position import Position, checkpoint_lr, first_where
from keepwarm.schedule.piece import Phase


@dataclass(frozen=True, slots=True)
class ReferenceSchedule:
    """LR by optimizer step of the whole run: row k is the rate after k steps, which step k + 1 uses."""

    flags: Flags
    values: Values
    position: Position
    last_step: int
    fault: Fault | None = None
    frozen_from: int | None = None  # the first iteration whose scheduler step raises; LR stays what it was before
    first_lr: float | None = None  # what the first step uses in place of the curve's value
    findings: tuple[Finding, ...] = ()

    @property
    def lr_max(self) -> float:
        """The plateau that counts as peak: for the infinite styles the constant LR."""
        return self.values.plateau

    @property
    def first_step(self) -> int:
        """The step that the run starts behind: 0, or where the checkpoint stands."""
        return self.position.first_step

    @property
    def error(self) -> PlanError | None:
        """What the trainer swallows while it goes on without a scheduler; None if the scheduler works to the end."""
        if self.frozen_from is None or self.frozen_from > self.last_step or self.fault is None:
            return None
        frozen = float(self.lr(np.array([self.frozen_from]))[0])
        return swallowed(self.flags, self.values, self.fault, self.frozen_from, frozen)

    def lr(self, steps: ArrayLike) -> NDArray[np.float64]:
        """LR after each of `steps` >= first_step, (N,); beyond last_step the reference's own continuation."""
        at = np.asarray(steps, dtype=np.int64).reshape(-1)
        lr = rates(self.values, *self._where(self._awake(at)))
        if self.first_lr is not None:
            lr[at == self.first_step] = self.first_lr
        return lr

    def phases(self, steps: ArrayLike) -> NDArray[np.str_]:
        """Phases of the checkpoints taken after each of `steps`, (N,)."""
        return phases(self.values, *self._where(self._awake(np.asarray(steps, dtype=np.int64).reshape(-1))))

    def phase(self, step: int) -> Phase:
        """Phase of the checkpoint taken after `step`."""
        return str(self.phases([step])[0])  # type: ignore[return-value]

    def between(self, steps: NDArray[np.int64], share: NDArray[np.float64]) -> NDArray[np.float64]:
        """LR a `share` of a step behind each of `steps`: the curve itself, with no regard to steps, (N,)."""
        before, after = self._where(steps), self._where(steps + 1)
        samples, tokens = ((1 - share) * low + share * high for low, high in zip(before, after, strict=True))
        return rates(self.values, samples, tokens)

    def past(self, steps: NDArray[np.int64]) -> NDArray[np.bool_]:
        """True where the decay is over."""
        return beyond(self.values, *self._where(steps))

    def _awake(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The last step at which the scheduler answered, for each of `steps`."""
        assert np.all(steps >= self.first_step), "the run starts behind its first step"
        if self.fault is None or self.frozen_from is None:
            return steps
        return np.where(raises(self.values, self.fault, *self._where(steps)), self.frozen_from - 1, steps)

    def _where(self, steps: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.position.samples(steps).astype(float), self.position.tokens(steps).astype(float)


def reference_schedule(flags: Flags, state: Mapping[str, Any] | None = None) -> ReferenceSchedule:
    """The curve that the trainer really follows with `flags`, resuming from the scheduler state of a checkpoint.

    `state` is the checkpoint's `lr_scheduler` dict; it may also hold `iteration` and `lr` (that of the optimizer's
    parameter groups). Raises PlanError where the trainer stops at start. What it swallows is `.error`; what differs
    from what the flags seem to say is `.findings`.
    """
    built = build(flags)
    if state is not None:
        refuse_state(state)
    cuts = cut(flags)
    resumed = state is not None and not flags.finetune
    sequence = flags.seq_length or 0
    start = ReferenceSchedule(flags, built, Position(0, 0, 0, sequence, cuts), last_step(flags, cuts))
    found = _with_fault(_with_switch(start))
    if resumed and state is not None:
        samples = state["num_steps"]
        first = state["iteration"] if "iteration" in state else _iteration(samples, cuts.steps(samples), cuts)
        position = Position(first, samples, state["num_tokens"], sequence, cuts)
        found = _with_fault(_with_switch(replace(start, values=load(built, flags, state), position=position)))
    if state is not None and flags.finetune and flags.universal_checkpoint:
        found = replace(found, first_lr=checkpoint_lr(state))
    return replace(found, findings=findings_of(found, built, state))


def _with_switch(found: ReferenceSchedule) -> ReferenceSchedule:
    """Behind a warm-up by samples a decay by tokens begins at the step that meets its end exactly, or never."""
    v = found.values
    if not v.by_tokens or v.warmup_tokens is not None or v.warmup_samples <= 0:
        return found
    step = first_where(lambda k: found.position.samples(k) >= v.warmup_samples, found.first_step)
    if float(found.position.samples(np.array([step]))[0]) != v.warmup_samples:
        return found
    tokens = int(found.position.tokens(np.array([step]))[0])
    return replace(found, values=replace(v, switch_tokens=tokens))


def _with_fault(found: ReferenceSchedule) -> ReferenceSchedule:
    fault = fault_of(found.values)
    if fault is None:
        return found
    where = replace(found, fault=fault)

    def begun(steps: NDArray[np.int64]) -> NDArray[np.bool_]:
        at = where._where(steps)
        return raises(where.values, fault, *at) | beyond(where.values, *at)

    step = first_where(begun, found.first_step)
    if not raises(found.values, fault, *where._where(np.array([step])))[0]:
        return found
    if step == found.first_step:
        crash(
            f"{fault.error}: the scheduler is stepped once before training", f"{SCHEDULER}:{fault.line}",
            swallowed(found.flags, found.values, fault, step, 0.0).fix,
        )  # fmt: skip
    return replace(where, frozen_from=step)


def _iteration(samples: int, steps: int, cuts: Batches) -> int:
    if cuts.samples(steps) != samples:
        raise LineageError(
            f"the scheduler state is at sample {samples:,}, which is no whole number of these flags' steps",
            "at which iteration the run goes on cannot be known",
            f'add the checkpoint\'s iteration to the file, for example "iteration": {steps}',
        )
    return steps
