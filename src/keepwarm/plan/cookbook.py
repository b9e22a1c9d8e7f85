"""Cookbooks: ladders as data, one for each kind of stage (COOKBOOK, "Ladders").

A file holds a ladder for a `weak` shift, a `strong` one, and the `last` stage of several (the seed's 1->2, 2->3, 3->4).
"""

from __future__ import annotations

from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keepwarm.errors import PlanError
from keepwarm.plan.load import Document, read_text, refusal_of
from keepwarm.plan.model import Plan
from keepwarm.plan.rungs import Rung

Ladder = tuple[Any, ...]  # of Rung


class Cookbook(BaseModel):
    """Ladders by the kind of stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    about: str = Field("", description="what it is, with paragraphs When: and Source:, for keepwarm explain")
    weak: tuple[Rung, ...] = Field(min_length=1, description="for a weak shift: the seed's 1->2")
    strong: tuple[Rung, ...] = Field(min_length=1, description="for a strong shift: the seed's 2->3")
    last: tuple[Rung, ...] = Field(min_length=1, description="for the last stage of several: the seed's 3->4")


def shipped() -> list[str]:
    """Names of the cookbooks that come with keepwarm."""
    folder = resources("keepwarm.plan") / "cookbooks"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def load_cookbook(name_or_path: str) -> Cookbook:
    """A shipped cookbook by name, or a file's. PlanError with its problems and their places."""
    if name_or_path.endswith((".yaml", ".yml")):
        document = Document(read_text(Path(name_or_path)), name_or_path)
    elif name_or_path in shipped():
        file = resources("keepwarm.plan") / "cookbooks" / f"{name_or_path}.yaml"
        document = Document(file.read_text(encoding="utf-8"), f"{name_or_path}.yaml")
    else:
        raise PlanError(
            f"cookbook: {name_or_path!r} is neither a shipped cookbook nor a .yaml file",
            "there is no ladder to climb",
            f"cookbook: {shipped()[0]} (shipped: {', '.join(shipped())})",
        )
    try:
        return Cookbook.model_validate(document.value)
    except ValidationError as error:
        raise refusal_of(document, error) from None


def ladder_for(plan: Plan, stage_index: int, shift_grade: str) -> tuple[str, Ladder]:
    """The ladder of a stage and which it is: its own, the cookbook's `last`, or by the grade of its shift."""
    stage = plan.stages[stage_index]
    if stage.ladder is not None:
        return "own", stage.ladder
    cookbook = load_cookbook(plan.cookbook)
    if stage_index == len(plan.stages) - 1 and len(plan.stages) > 1:
        return "last", cookbook.last
    if shift_grade in ("none", "weak"):
        return "weak", cookbook.weak
    return "strong", cookbook.strong
