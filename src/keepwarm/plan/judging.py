"""What a plan says of judging and of searching: tolerances, what the new data must gain, what the search may cost."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from keepwarm.plan.parts import AutoCount, Model
from keepwarm.plan.values import BudgetField, Ratio, Tolerance, ToleranceField


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


class SearchSpec(Model):
    """How each stage's ladder is searched."""

    order: Literal["promising", "written"] = Field(
        "promising",
        description="promising: as written, but what measurement says is needless or hopeless is put off until the rest "
        "has failed, and of one rung the cheaper comes first; written: as written",
    )
    budget: BudgetField | None = Field(
        None,
        description="most that a stage's search may cost, pilots, evaluations and failures counted: 3M tokens (one that "
        "is only measured counts a third) or 12 hours of training, added over what trains side by side",
    )
    choose: Literal["first", "best"] = Field(
        "first",
        description="first: the first candidate that is accepted; best: of all that are, the one with the lowest mean "
        "held-out loss over the old corpora and the new one, same phase with same phase",
    )
    side_by_side: int = Field(
        1, ge=1, le=16, description="candidates trained at the same time, in processes that share the threads"
    )
