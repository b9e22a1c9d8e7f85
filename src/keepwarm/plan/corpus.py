"""The plan's corpora: where they lie, and what of them is never trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from keepwarm.plan.parts import Model, Positive
from keepwarm.plan.values import Texts


class CorpusSpec(Model):
    """Where a corpus lies: text, a file list, or token files."""

    text: Texts | None = Field(None, description="paths or globs of .jsonl, .txt, .parquet (.gz, .zst)")
    list: str | None = Field(None, description="a file of `weight prefix corpus` lines")
    indexed: Texts | None = Field(None, description="prefixes of .bin/.idx token files")
    exclude: str | None = Field(
        None,
        description="a list of spans to leave out: lines `PREFIX document N` or `PREFIX tokens A:B` (of a text corpus its "
        "name for PREFIX), and `PREFIX content ID` to say which file they were made for",
    )

    @model_validator(mode="before")
    @classmethod
    def _not_yet(cls, value: Any) -> Any:
        for key in ("proxy", "generate"):
            if isinstance(value, Mapping) and key in value:
                raise ValueError(f"{key} (a stand-in for a D_0 that is not public) is not there yet in this version")
        return value

    @model_validator(mode="after")
    def _one(self) -> CorpusSpec:
        if sum(each is not None for each in (self.text, self.list, self.indexed)) != 1:
            raise ValueError("give exactly one of text, list and indexed")
        return self


class HoldoutSpec(Model):
    """What is never trained on, fixed for the plan's life."""

    tokens: Positive = Field(description="held-out tokens of each corpus")
    files: dict[str, str] = Field(default_factory=dict, description="ready holdouts by corpus: text or a token file")
    duplicates: Literal["exclude", "report"] = Field(
        "exclude", description="of held-out documents in other corpora: left out of training, or only reported"
    )
