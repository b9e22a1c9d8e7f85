"""What a plan says of judging: the verdict's tolerances and what the new data must gain."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from keepwarm.plan.parts import AutoCount, Model
from keepwarm.plan.values import Ratio, Tolerance, ToleranceField


def _tolerances(value: Any) -> Any:
    return value if isinstance(value, Mapping) else {"default": value}


class VerdictSpec(Model):
    """What a stage is judged by."""

    tolerance: Annotated[dict[str, ToleranceField], BeforeValidator(_tolerances)] = Field(
        default_factory=lambda: {"default": Tolerance(Fraction(5, 100), "relative")},
        description="forgetting allowed: 0.3 nats or 5%; a corpus may have its own: {d0: 0.2 nats, default: 5%}",
    )
    adaptation: Ratio = Field(Fraction(7, 10), le=1, description="least gain, of what the no-replay control gained")
    evaluate_every: AutoCount = Field(
        "auto", description="tokens between evaluations, or auto: at most 15 % of compute"
    )

    def tolerance_of(self, corpus: str) -> Tolerance:
        """The tolerance of one corpus."""
        own = self.tolerance.get(corpus) or self.tolerance.get("default")
        return own or Tolerance(Fraction(5, 100), "relative")
