"""The plan's words on Megatron-DeepSpeed: the trainer, the machine, and how the model is cut over it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from keepwarm.plan.machines import MACHINES, MachineName, Scheduler
from keepwarm.plan.parts import Model
from keepwarm.plan.values import Texts
from keepwarm.units import parse_seconds

# What train_alcf.sh has numbers for; of any other name it makes a 7B without a word.
Architecture = Literal["AuroraGPT-2B", "AuroraGPT-3B", "AuroraGPT-7B", "AuroraGPT-70B"]
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BROKEN_UP = re.compile(
    r"[\s'\"`$\\;&|<>()*?\[\]#~!{}]"
)  # train_alcf.sh has its command line split by a shell once more


def _seconds(value: Any) -> int:
    if isinstance(value, int):
        raise ValueError(f"{value!r} has no unit; write 6h, 30 min or 06:00:00")
    return round(parse_seconds(value))


Seconds = Annotated[
    int, BeforeValidator(_seconds), Field(gt=0), PlainSerializer(lambda value: f"{value} s", return_type=str)
]


def one_word(value: str) -> str:
    """A value that the trainer's script hands on whole; ValueError of one that its second shell would break up."""
    found = _BROKEN_UP.search(value)
    if found or not value:
        raise ValueError(f"{value!r}: {'it is empty' if not found else f'{found[0]!r} in it'}; train_alcf.sh splits it")
    return value


OneWord = Annotated[str, BeforeValidator(lambda value: one_word(str(value)))]


class TrainerTokenizer(Model):
    """The tokenizer as the trainer opens it: for its vocabulary and its document end, the tokens are made already."""

    type: OneWord = Field(description="TOKENIZER_TYPE, such as Llama2Tokenizer or HFTokenizer")
    model: OneWord = Field(description="TOKENIZER_MODEL: its file, or a hub id")


class MegatronSpec(Model):
    """Megatron-DeepSpeed's train_alcf.sh under PBS or Slurm."""

    trainer: OneWord = Field(description="the folder that holds train_alcf.sh")
    machine: MachineName = Field("none", description="whose scheduler, GPUs a node, queue and file systems are taken")
    scheduler: Scheduler | None = Field(None, description="pbs, slurm or none; left out, the machine's")
    account: OneWord | None = Field(None, description="the project that pays")
    queue: OneWord | None = Field(None, description="left out, the machine's for production, where it is known")
    nodes: int = Field(ge=1, description="of a training job")
    walltime: Seconds | None = Field(None, description="of a job, such as 6h")
    stop_before: Seconds = Field(900, description="how long before a job's end the trainer saves and stops")
    evaluation_queue: OneWord | None = Field(None, description="of evaluation jobs, one node each; left out, queue")
    evaluation_walltime: Seconds | None = Field(None, description="of evaluation jobs; left out, walltime")
    filesystems: OneWord | None = Field(None, description="PBS's filesystems=, such as flare:home")
    constraint: str | None = Field(None, description="Slurm's -C")
    gpus_per_node: int | None = Field(None, ge=1, description="processes a node; left out, the machine's")
    architecture: Architecture = Field(description="MODEL_ARCH of train_alcf.sh")
    tokenizer: TrainerTokenizer
    micro_batch_size: int = Field(1, ge=1, description="sequences a process computes at a time")
    gradient_accumulation_steps: int | Literal["auto"] = Field(
        "auto", description="auto: what brings the processes to global_batch_size"
    )
    tensor_parallel: int | None = Field(
        None, ge=1, description="processes a layer is cut over; left out, the machine's"
    )
    pipeline_parallel: int = Field(1, ge=1, description="processes the layers are dealt to")
    zero_stage: Literal[1, 2, 3] = Field(1, description="how far DeepSpeed shards optimizer, gradients and weights")
    dtype: Literal["bf16", "fp16"] | None = Field(None, description="of the products; left out, the machine's")
    attempts_without_progress: int = Field(
        3, ge=1, description="jobs in a row that save nothing, after which no further one is submitted"
    )
    setup: Texts = Field((), description="lines of shell before the launch: modules, the environment of keepwarm")
    environment: dict[str, OneWord] = Field(
        default_factory=dict, description="further variables of train_alcf.sh; what keepwarm sets itself is refused"
    )

    @field_validator("environment")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an environment variable")
        return value

    @model_validator(mode="after")
    def _complete(self) -> MegatronSpec:
        known = MACHINES[self.machine]
        scheduled = (self.scheduler or known.scheduler) != "none"
        needed: dict[str, object] = {"gpus_per_node": self.gpus_per_node or known.gpus_per_node}
        if scheduled:
            needed |= {"account": self.account, "queue": self.queue or known.queue, "walltime": self.walltime}
        missing = [name for name, value in needed.items() if value is None]
        if missing:
            of = f"machine {self.machine}" if self.machine != "none" else "no machine named"
            raise ValueError(f"lacks {', '.join(missing)} ({of} does not say)")
        if scheduled and self.walltime is not None and self.stop_before >= self.walltime:
            raise ValueError(f"stop_before {self.stop_before} s leaves nothing of walltime {self.walltime} s")
        return self
