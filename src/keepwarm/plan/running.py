"""The plan's words on where and how it runs: speed and safety, nothing that decides what is learned."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from keepwarm.plan.parts import AutoCount, Model, listed

Keep = Literal["all", "peak-before-each-cooldown", "needed"]
Tracker = Literal["tensorboard", "trackio", "wandb", "mlflow"]


class RunSpec(Model):
    """Where and how it runs."""

    folder: str = Field(description="the run folder: all state is in there")
    backend: Literal["native"] = Field("native", description="native: this machine")
    threads: int | None = Field(None, ge=1, description="CPU threads; all cores when left out")
    compile: Literal["auto", "always", "never"] = Field(
        "auto", description="torch.compile of the decoder blocks; auto: where the attempt is long enough to pay it back"
    )
    activation_checkpointing: bool = Field(
        False, description="compute a block's activations again in the backward pass: less memory, a third more time"
    )
    save_every: AutoCount = Field("auto", description="tokens between checkpoints; auto: four an attempt")
    keep: Keep = Field(
        "all",
        description="checkpoints whose tensors are kept once a stage is accepted. peak-before-each-cooldown: the end of "
        "each accepted stage, and what a rung of the plan may still start from; needed: the latter alone",
    )

    trackers: Annotated[tuple[Tracker, ...], BeforeValidator(listed)] = Field(
        (),
        description="which get copies of the metrics, below folder/trackers: tensorboard, trackio, wandb (offline), mlflow",
    )

    @field_validator("trackers")
    @classmethod
    def _once(cls, value: tuple[Tracker, ...]) -> tuple[Tracker, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("backend", mode="before")
    @classmethod
    def _not_yet(cls, value: Any) -> Any:
        if value == "megatron":
            raise ValueError("the megatron backend is not there yet in this version; use native")
        return value
