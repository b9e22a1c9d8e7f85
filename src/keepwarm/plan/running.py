"""The plan's words on where and how it runs: speed and safety, nothing that decides what is learned."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from keepwarm.plan.parts import AutoCount, Model

Keep = Literal["all", "peak-before-each-cooldown", "needed"]


class RunSpec(Model):
    """Where and how it runs."""

    folder: str = Field(description="the run folder: all state is in there")
    backend: Literal["native"] = Field("native", description="native: this machine")
    threads: int | None = Field(None, ge=1, description="CPU threads; all cores when left out")
    save_every: AutoCount = Field("auto", description="tokens between checkpoints; auto: four an attempt")
    keep: Keep = Field(
        "all",
        description="checkpoints whose tensors are kept once a stage is accepted. peak-before-each-cooldown: the end of "
        "each accepted stage, and what a rung of the plan may still start from; needed: the latter alone",
    )

    @field_validator("backend", mode="before")
    @classmethod
    def _not_yet(cls, value: Any) -> Any:
        if value == "megatron":
            raise ValueError("the megatron backend is not there yet in this version; use native")
        return value
