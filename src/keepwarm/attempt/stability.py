"""What an attempt does when training becomes unstable: the plan's `stability` as part of its identity, and what it
answers to a finding (spikes.py).

A finding is made before the update, so whatever is answered, the weights are those of the last good step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from keepwarm.plan.stability import Response, StabilitySpec
from keepwarm.plan.values import decimal_text

Kind = Literal["non-finite loss", "non-finite gradient", "spike"]
EXPLAINED = {
    "non-finite": """A loss or a gradient norm that is NaN or infinite. The step makes no update.

    When: `stability: {non_finite: skip}` passes its batch over and goes on, `rewind` goes back to a checkpoint, `stop` ends
    the attempt as diverged. The record names the documents of the batch: keepwarm data show PREFIX --document N.

    Source: the reference stack skips such a step too, and counts it.""",
    "spike": """A loss far above those of the steps before it, of the same mix. It is held against the last trained steps'
    median in robust deviations (MAD), and against the largest of them: a corpus that is rare in the mix is no spike. The
    gradient's norm alone is no sign: on ordinary training it jumps without the loss.

    Formula: loss - median > max(threshold * 1.4826 MAD, 2 (largest - median)), over the last window_steps trained steps,
    at least 32, since the mix began

    When: `stability: {spike: skip}` makes no update by such a batch. Three in a row are no batch's fault: the loss itself has
    moved, so the steps are trained on and the window begins anew. Choose rewind for a large model, where a spike comes of
    the weights and lasts.

    Source: OLMo 2 2501.00656 counts losses beyond 7 deviations of the last 1,000 steps; ZClip 2504.02507 holds the
    gradient's norm against its own past.""",
    "rewind": """Back to the newest checkpoint that lies before the last rewind_steps steps, then the same way again without
    their batches: no update by them, while schedule and data go on. What is passed over stays so, however often the way is
    gone; so no rewind can meet the same failure again.

    Formula: steps n - rewind_steps + 1 .. n are passed over, for a finding at step n

    When: a spike that lasts, or a gradient that breaks again and again: what was learned just before is suspect. It costs
    the steps since that checkpoint; run: {save_every: ...} says how far apart they are.

    Source: PaLM 2204.02311, section 5.1: back by about 100 steps, 200 to 500 batches left out; the same batches did no harm
    from other weights.""",
}


@dataclass(frozen=True, slots=True)
class Stability:
    """As the plan says (plan/stability.py). `most_skipped` is a share of the attempt's steps."""

    non_finite: Response
    spike: Literal["off", "skip", "rewind", "stop"]
    threshold: float
    window_steps: int
    rewind_steps: int
    most_skipped: Fraction
    most_rewinds: int

    @classmethod
    def of(cls, spec: StabilitySpec) -> Stability:
        """What the plan says."""
        return cls(**{name: getattr(spec, name) for name in cls.__slots__})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content; the share as exact text."""
        return asdict(self) | {"most_skipped": str(self.most_skipped)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Stability:
        """The inverse of `to_dict`."""
        return cls(**{**content, "most_skipped": Fraction(content["most_skipped"])})

    def most_skipped_steps(self, steps: int) -> int:
        """How many steps of an attempt of `steps` may be skipped: its share, rounded up."""
        return -(-self.most_skipped * steps // 1)

    def answer(self, kind: Kind, *, steps: int, skipped: int, rewinds: int) -> tuple[Response, str]:
        """What is done about a finding in an attempt of `steps`, after so many skipped ones and rewinds; and why it is
        given up where that is not what the plan asks for first, else empty."""
        asked = self.spike if kind == "spike" else self.non_finite
        assert asked != "off", kind
        most = self.most_skipped_steps(steps)
        if asked == "skip" and skipped >= most:
            return "stop", f"{_times(skipped, 'step')} skipped already, most_skipped: {decimal_text(self.most_skipped)}"
        if asked == "rewind" and rewinds >= self.most_rewinds:
            return "stop", f"{_times(rewinds, 'rewind')} already, most_rewinds: {self.most_rewinds}"
        return asked, ""


STANDARD = Stability.of(StabilitySpec())  # of plans that say nothing, and of attempts from before it was recorded


def _times(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
