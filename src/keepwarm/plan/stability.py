"""The plan's words on unstable training: what is done at a loss that is not finite or that jumps, and how often."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from pydantic import Field, model_validator

from keepwarm.plan.parts import Model
from keepwarm.plan.values import Share

Response = Literal["skip", "rewind", "stop"]
LEAST_STEPS = 32  # a window of fewer has no median and deviation to speak of


class StabilitySpec(Model):
    """What is done when training becomes unstable. Part of the attempt: it decides the weights."""

    non_finite: Response = Field(
        "skip",
        description="at a loss or gradient that is not finite. skip: no update by that step, its batch counts as fed; "
        "rewind: back to a checkpoint before it, and on without the batches up to it; stop: the attempt ends, diverged",
    )
    spike: Literal["off", "skip", "rewind", "stop"] = Field(
        "skip", description="at a loss far above those of the steps before: as non_finite, or off: it is trained on"
    )
    threshold: float = Field(
        10.0,
        ge=3,
        allow_inf_nan=False,
        description="a spike lies more than this many robust deviations (1.4826 MAD) above the median of the window",
    )
    window_steps: int = Field(
        64, ge=LEAST_STEPS, description="trained steps that a loss is held against, of the same mix"
    )
    rewind_steps: int = Field(
        16, ge=1, description="steps that a rewind passes over, up to the one that was found; it goes back before them"
    )
    most_skipped: Share = Field(
        Fraction(5, 100), description="most of an attempt's steps that are skipped; one more ends it, diverged"
    )
    most_rewinds: int = Field(3, ge=0, description="most rewinds of an attempt; one more ends it, diverged")

    @model_validator(mode="after")
    def _used(self) -> StabilitySpec:
        responses = {self.non_finite, self.spike}
        for used, keys, when in (
            (self.spike != "off", ("threshold", "window_steps"), "spike is off"),
            ("rewind" in responses, ("rewind_steps", "most_rewinds"), "nothing is answered by a rewind"),
            ("skip" in responses, ("most_skipped",), "nothing is answered by skip"),
        ):
            for key in keys:
                if not used and getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} is given, and {when}: it would not be used")
        return self
