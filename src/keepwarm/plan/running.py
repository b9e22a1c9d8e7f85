"""The plan's words on where and how it runs: speed and safety, nothing that decides what is learned."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from keepwarm.plan.megatron import MegatronSpec
from keepwarm.plan.parts import AutoCount, Model, listed

Keep = Literal["all", "peak-before-each-cooldown", "needed"]
Tracker = Literal["tensorboard", "trackio", "wandb", "mlflow"]


class RunSpec(Model):
    """Where and how it runs."""

    folder: str = Field(description="the run folder: all state is in there")
    backend: Literal["native", "megatron"] = Field(
        "native", description="native: this machine; megatron: Megatron-DeepSpeed, by jobs that keepwarm launch writes"
    )
    megatron: MegatronSpec | None = Field(None, description="of the backend megatron")
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

    @model_validator(mode="after")
    def _of_backend(self) -> RunSpec:
        if self.backend == "megatron" and self.megatron is None:
            raise ValueError("backend megatron needs megatron: {trainer: ..., machine: ..., nodes: ..., ...}")
        if self.backend != "megatron" and self.megatron is not None:
            raise ValueError("megatron is given, and the backend is native: leave it out, or say backend: megatron")
        if self.backend == "megatron" and (self.trackers or self.compile != "auto"):
            raise ValueError("trackers and compile belong to the backend native; the trainer has its own TensorBoard")
        if self.backend == "megatron" and self.keep != "all":
            raise ValueError("keep belongs to the backend native: what the trainer has saved is never deleted here")
        return self
