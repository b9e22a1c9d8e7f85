"""Whether a step is unstable: a loss or gradient that is not finite, or a loss far above those before it. A fold over
the records of the attempt, so that a run that goes on from a checkpoint finds what an unbroken one does.

The loss is held against the trained steps before it since the mix last changed (a new mix jumps by design), at most
`window_steps`, at least 32. Median and MAD do not move with a few outliers, as mean and deviation do; while the loss
falls fast, or LR warms up, both are wide, and little is found. The second bound is for mixes with a rare, hard part,
whose batches make a second hump that the MAD does not see. The norm of the gradient decides nothing unless it is not
finite: on ordinary training it jumps where the loss does not (docs/benchmarks.md).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from keepwarm.attempt.records import SKIPPED, Record, finite
from keepwarm.attempt.stability import Kind, Stability
from keepwarm.blend.stream import Segment
from keepwarm.plan.stability import LEAST_STEPS
from keepwarm.schedule.batch import Batches

DEVIATION_OF_MAD = 1.4826  # of a normal distribution: 1 / its third quartile
_LEAST_DEVIATION = 0.001  # of the median: below it a loss is as good as constant, and rounding must be no spike
_TIMES_LARGEST = 2.0
_IN_A_ROW = 3  # spikes that are no batch's fault


@dataclass(frozen=True, slots=True)
class Finding:
    """An unstable step. `text` says it with its numbers."""

    kind: Kind
    loss: float
    grad_norm: float
    text: str

    def numbers(self) -> Record:
        """What an event has of it; None is a number that is not finite."""
        return {"why": self.kind, "loss": finite(self.loss), "grad_norm": finite(self.grad_norm)}


class Recent:
    """The trained steps that the next one is held against. Made from all records of the attempt, then told each new one;
    O(window) a step."""

    def __init__(
        self, stability: Stability, cut: Batches, segments: Sequence[Segment], records: Iterable[Record]
    ) -> None:
        """`segments` as they are fed (steered ones too); a segment begins a window."""
        self._stability, self._cut = stability, cut
        self._firsts = [segment.first_sample for segment in segments]
        self._seen = deque[tuple[int, float]](maxlen=stability.window_steps)
        self._in_a_row = 0
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take in a record that was written: trained steps, and skipped spikes. Others say nothing here."""
        if record["kind"] == "train":
            self._seen.append((record["step"], record["loss"]))
            self._in_a_row = 0
        elif record.get("event") == SKIPPED and record["why"] == "spike":
            self._in_a_row += 1
            if self._in_a_row == _IN_A_ROW:
                self._seen.clear()

    def find(self, step: int, loss: float, grad_norm: float) -> Finding | None:
        """What is wrong with the step that would be number `step` (from 1), before its update; None where nothing is."""
        for name, value in (("loss", loss), ("gradient", grad_norm)):
            if not math.isfinite(value):
                kind: Kind = "non-finite loss" if name == "loss" else "non-finite gradient"
                return Finding(kind, loss, grad_norm, f"the {name} is not a finite number")
        if self._stability.spike == "off":
            return None
        begin = self.begin(step)
        losses = np.array([each for at, each in self._seen if at > begin])
        if len(losses) < LEAST_STEPS:
            return None
        typical = float(np.median(losses))
        mad = float(np.median(np.abs(losses - typical)))
        deviation = max(DEVIATION_OF_MAD * mad, _LEAST_DEVIATION * abs(typical))
        above, largest = loss - typical, float(losses.max()) - typical
        if above <= max(self._stability.threshold * deviation, _TIMES_LARGEST * largest):
            return None
        text = (
            f"the loss {loss:.3f} is {above / deviation:.0f} deviations above the {typical:.3f} of the last {len(losses)} "
            f"steps (gradient norm {grad_norm:.3g})"
        )
        return Finding("spike", loss, grad_norm, text)

    def begin(self, step: int) -> int:
        """The last step that was fed anything of an earlier mix than `step` is."""
        segment = bisect_left(self._firsts, self._cut.samples(step)) - 1
        return self._cut.steps(self._firsts[segment])
