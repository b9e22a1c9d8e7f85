"""LINE.yaml: a line that was trained by hand, as `keepwarm adopt` is told of it. Strict, as the plan is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from keepwarm.errors import PlanError
from keepwarm.plan.load import Document, read_text, refusal_of
from keepwarm.plan.parts import Model, Name, Positive
from keepwarm.plan.values import Texts

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
CONFLICTS = ("lr", "samples", "tokens", "list", "finetune", "from-random")


class CheckpointSpec(Model):
    """One checkpoint, or a folder of several steps, with what its own state does not say."""

    folder: str = Field(description="a step, a folder of steps, or a Hugging Face folder")
    iteration: int | None = Field(None, ge=0, description="where it does not say; its logs then give the samples")
    samples: int | None = Field(None, ge=0, description="consumed in the stage's count, where it does not say")
    lr: Rate | None = Field(None, description="of the next step, where it does not say")
    phase: Literal["warming", "peak", "decaying", "cooled"] | None = Field(None, description="where it does not say")


def _checkpoint(value: Any) -> Any:
    return {"folder": value} if isinstance(value, str) else value


class AdoptedStage(Model):
    """One stage, in the order of training."""

    name: Name = Field(description="of its folder")
    new: str = Field(description="the corpus it taught")
    list: str = Field(description="the file list it was trained on")
    checkpoints: tuple[Annotated[CheckpointSpec, BeforeValidator(_checkpoint)], ...] = Field(
        min_length=1, description="folders: steps, folders of steps, or Hugging Face folders"
    )
    logs: Texts = Field((), description="the trainer's logs, or globs, in the order of training")
    lr: Rate | None = Field(None, description="of its checkpoints that do not say")
    lr_max: Rate | None = Field(None, description="LR_max, where its checkpoints and logs do not say")
    phase: Literal["warming", "peak", "decaying", "cooled"] | None = Field(
        None, description="of its checkpoints that do not say"
    )
    finetune: Literal["unknown"] | bool = Field("unknown", description="whether its data and position began at 0")
    start: int | None = Field(None, ge=0, description="iteration of the checkpoint it started from; the last before it")
    accept: Texts = Field((), description="kinds of conflict to go on with, the checkpoint's own word taken")

    @field_validator("accept")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in CONFLICTS:
                raise ValueError(f"{name!r} is not a kind of conflict; one of: {', '.join(CONFLICTS)}")
        return value


class AdoptedLine(Model):
    """A line that was trained elsewhere."""

    name: Name = Field(description="of the line")
    sequence_length: Positive | None = Field(None, description="tokens of a sample, where the checkpoints do not say")
    stages: tuple[AdoptedStage, ...] = Field(min_length=1, description="in order, the base first")


def load_line(path: Path) -> AdoptedLine:
    """The line in a file, its paths made absolute; PlanError with every problem and its place."""
    document = Document(read_text(path), str(path))
    try:
        line = AdoptedLine.model_validate(document.value)
    except ValidationError as error:
        raise refusal_of(document, error, AdoptedLine) from None
    names = [stage.name for stage in line.stages]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise PlanError(
                f"{document.at(('stages', index, 'name'))}  two stages are named {name}",
                "each has a folder of its own",
                f"name: {name}b",
            )
    return _absolute(line, path.resolve().parent)


def _absolute(line: AdoptedLine, folder: Path) -> AdoptedLine:
    def of(stage: AdoptedStage) -> AdoptedStage:
        update: Mapping[str, Any] = {
            "list": str(folder / stage.list),
            "logs": tuple(str(folder / each) for each in stage.logs),
            "checkpoints": tuple(
                each.model_copy(update={"folder": str(folder / each.folder)}) for each in stage.checkpoints
            ),
        }
        return stage.model_copy(update=update)

    return line.model_copy(update={"stages": tuple(map(of, line.stages))})
