"""The plan's corpora: where they lie, what stands in for one that is not there, and what is never trained on."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from keepwarm.plan.parts import Model, Positive
from keepwarm.plan.values import Texts

StandIn = Literal["proxy", "generated"]  # what a corpus is where D_0's own data is not there


def called(corpus: str, stand_in: str | None) -> str:
    """A corpus's name for people: with what it is where it stands in for another, as `d0 (proxy)`."""
    return corpus if stand_in is None else f"{corpus} ({stand_in})"


def _text_path(value: Any) -> Any:
    return {"text": value} if isinstance(value, str | list | tuple) else value


class FilesSpec(Model):
    """Files of a corpus: text, a file list, or token files."""

    text: Texts | None = Field(None, description="paths or globs of .jsonl, .txt, .parquet (.gz, .zst)")
    list: str | None = Field(None, description="a file of `weight prefix corpus` lines")
    indexed: Texts | None = Field(None, description="prefixes of .bin/.idx token files")
    exclude: str | None = Field(
        None,
        description="a list of spans to leave out: lines `PREFIX document N` or `PREFIX tokens A:B` (of a text corpus its "
        "name for PREFIX), and `PREFIX content ID` to say which file they were made for",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(each is not None for each in (self.text, self.list, self.indexed)) != 1:
            raise ValueError("give exactly one of text, list and indexed")
        return self


class GenerateSpec(Model):
    """Text that the base writes itself, in place of a D_0 whose data is not there (2605.26097)."""

    tokens: Positive = Field(description="tokens to sample, in all")
    temperature: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="1: what the model believes; below, its usual words come more often"
    )
    top_p: float = Field(1.0, gt=0, le=1, description="sample from the most probable tokens that sum up to this")
    begin: str | None = Field(
        None, description="the token that a document begins after; left out, the model's own, else the document end"
    )
    document_tokens: Positive | None = Field(None, description="longest document; sequence_length when left out")
    batch: int = Field(16, ge=1, description="documents sampled at a time; a kill loses one batch at most")


class CorpusSpec(FilesSpec):
    """Where a corpus lies: its files; of a D_0 whose data is not there, a stand-in's, or none: the base writes it."""

    proxy: Annotated[FilesSpec | None, BeforeValidator(_text_path)] = Field(
        None, description="files that stand in for D_0's own, or a path of text"
    )
    generate: GenerateSpec | None = Field(None, description="D_0 is sampled from the base itself")

    @model_validator(mode="after")
    def _one(self) -> Self:
        there = [key for key in ("text", "list", "indexed", "proxy", "generate") if getattr(self, key) is not None]
        if len(there) != 1:
            raise ValueError(
                "give exactly one of text, list and indexed; of a D_0 that is not there: proxy or generate"
            )
        if self.exclude is not None and there[0] in ("proxy", "generate"):
            raise ValueError(f"exclude leaves spans of files out: {_EXCLUDE_FIX[there[0]]}")
        return self

    @property
    def files(self) -> FilesSpec:
        """Where its files are named: here, or below `proxy`."""
        return self.proxy or self

    @property
    def stand_in(self) -> StandIn | None:
        """What stands in for D_0's own data; None of a corpus that is what it is called."""
        return "proxy" if self.proxy is not None else "generated" if self.generate is not None else None


_EXCLUDE_FIX = {"proxy": "write it below proxy", "generate": "a generated corpus has none yet"}


class EvaluationSpec(Model):
    """A text that is never trained on, only measured: like an old corpus that the base knew."""

    text: Texts | None = Field(None, description="paths or globs of .jsonl, .txt, .parquet (.gz, .zst)")
    indexed: Texts | None = Field(None, description="prefixes of .bin/.idx token files")

    @model_validator(mode="after")
    def _one(self) -> EvaluationSpec:
        if (self.text is None) == (self.indexed is None):
            raise ValueError("give exactly one of text and indexed, or a path of text")
        return self

    @property
    def files(self) -> FilesSpec:
        """Its files, as those of a corpus."""
        return FilesSpec(text=self.text, indexed=self.indexed)


EvaluationField = Annotated[EvaluationSpec, BeforeValidator(_text_path)]


class HoldoutSpec(Model):
    """What is never trained on, fixed for the plan's life."""

    tokens: Positive = Field(description="held-out tokens of each corpus")
    files: dict[str, str] = Field(default_factory=dict, description="ready holdouts by corpus: text or a token file")
    duplicates: Literal["exclude", "report"] = Field(
        "exclude", description="of held-out documents in other corpora: left out of training, or only reported"
    )
