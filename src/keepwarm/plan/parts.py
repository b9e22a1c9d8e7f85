"""What all parts of a plan are made of: frozen data without unknown keys, and the fields that several parts have."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from keepwarm.plan.values import Count, Texts
from keepwarm.units import parse_count

GUARDS = ("peak-start", "phase-match", "mixed-introduction", "buffer-clean", "budget-and-identity", "append-only",
          "optimizer-state")  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Model(BaseModel):
    """Base of all parts of a plan: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


def _name(value: Any) -> Any:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name: letters, digits, '-', '_' and '.', for it becomes a folder's name")
    return value


def _count_or_auto(value: Any) -> Any:
    return value if value == "auto" else parse_count(value)


def listed(value: Any) -> Any:
    """A word as a list of one; the word none as an empty list."""
    words = tuple(value) if isinstance(value, list | tuple) else (value,)
    return () if words == ("none",) else words


def _guards(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        if name == "append-only":
            raise ValueError("append-only can't be overridden: lineage that is overwritten makes its records false")
        if name not in GUARDS:
            raise ValueError(f"{name!r} is not a guard; one of: {', '.join(GUARDS)}")
    return tuple(dict.fromkeys(value))


Name = Annotated[str, BeforeValidator(_name)]
Allowed = Annotated[Texts, AfterValidator(_guards)]
Positive = Annotated[Count, Field(gt=0)]
AutoCount = Annotated[int | Literal["auto"], BeforeValidator(_count_or_auto)]
