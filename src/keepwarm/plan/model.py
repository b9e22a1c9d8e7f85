"""The plan file: what is asked, as frozen data. Every key has a description; unknown keys are errors.

The vocabulary is the cookbook's: corpora D_0, D_1, ...; a base; stages that each teach one new corpus; a cookbook of
ladders; the buffer; the verdict's tolerance. Derived numbers (steps, epochs, rates) are computed, never typed.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, field_validator, model_validator

from keepwarm.plan.corpus import CorpusSpec, EvaluationField, HoldoutSpec, StandIn, called
from keepwarm.plan.judging import SearchSpec, VerdictSpec
from keepwarm.plan.parts import Allowed, Model, Name, Positive, listed
from keepwarm.plan.rungs import Rung
from keepwarm.plan.running import RunSpec
from keepwarm.plan.stability import StabilitySpec
from keepwarm.plan.values import Count, Length, LengthField, Rate, Ratio, Texts
from keepwarm.units import parse_lr

ARMS = ("no-replay", "d0-only")


class ModelSpec(Model):
    """The model: new from a config, or the weights of a Hugging Face folder."""

    config: dict[str, Any] | None = Field(
        None,
        description="type, hidden_size, layers, heads, kv_heads; other keys go to the transformers config as they are",
    )
    hf: str | None = Field(None, description="a local Hugging Face folder, or a hub id that is in the local cache")

    @model_validator(mode="after")
    def _one(self) -> ModelSpec:
        if (self.config is None) == (self.hf is None):
            raise ValueError("give exactly one of config and hf")
        for key in ("type", "hidden_size", "layers", "heads"):
            if self.config is not None and key not in self.config:
                raise ValueError(f"config lacks {key}")
        return self


class TrainTokenizer(Model):
    """A byte-level BPE tokenizer learned from text."""

    vocab_size: int = Field(ge=257, description="entries, the document end included")
    corpora: Texts | None = Field(None, description="text corpora to learn from; the base's when left out")


class TokenizerSpec(Model):
    """The tokenizer; left out, it is the one in the model's folder."""

    train: TrainTokenizer | None = Field(None, description="learn one")
    file: str | None = Field(None, description="a tokenizer.json, or a folder that holds one")
    eod: str | None = Field(None, description="the token that ends a document, when it can't be told from the files")

    @model_validator(mode="after")
    def _one(self) -> TokenizerSpec:
        if self.train is not None and self.file is not None:
            raise ValueError("give one of train and file")
        return self


class OptimizerSpec(Model):
    """AdamW."""

    lr_max: float = Field(gt=0, allow_inf_nan=False, description="LR_max, the plateau of the line")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay rates of the moments")
    eps: float = Field(1e-8, gt=0, description="added to the denominator")
    weight_decay: float = Field(0.1, ge=0, description="of all that `no_decay` does not name")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    no_decay: Texts = Field(
        ("vectors",),
        description="parameters without weight decay: vectors (norms and biases), embeddings, or patterns of their names",
    )
    lr_scaling: Literal["none", "sqrt", "linear"] | None = Field(
        None, description="of LR_max when a stage's batch is k times the one before: none, by sqrt(k), by k"
    )


class ScheduleSpec(Model):
    """Of the base (warm-up, then what its kind says) and of cooldown branches."""

    kind: Literal["wsd", "cosine", "infinite-cosine", "infinite-inv-sqrt"] = Field(
        "wsd", description="wsd: warm-up, constant, cooldown as a branch; infinite-*: with a first decay to constant_lr"
    )
    decay: LengthField | None = Field(
        None, description="infinite-*: share of the base's tokens, or tokens, that decays"
    )
    constant_lr: Rate | None = Field(None, description="infinite-*: the plateau behind that decay, such as lr_max/2")
    warmup: LengthField = Field(Length(Fraction(5, 100)), description="share of the base's tokens, or tokens")
    cooldown: LengthField = Field(Length(Fraction(20, 100)), description="share of a stage's tokens, or tokens; extra")
    cooldown_shape: Literal["1-sqrt", "linear", "cosine", "exponential"] = Field("1-sqrt", description="how it falls")
    lr_min: Rate = Field(0.0, description="where a cooldown or cosine ends: 0, 3e-5 or lr_max/100")

    @model_validator(mode="after")
    def _infinite(self) -> ScheduleSpec:
        infinite = self.kind.startswith("infinite-")
        if infinite != (self.decay is not None) or infinite != (self.constant_lr is not None):
            raise ValueError(
                "decay and constant_lr are given for infinite-cosine and infinite-inv-sqrt, and only there"
            )
        return self


class BatchRampSpec(Model):
    """The batch of the base grows to global_batch_size in equal steps."""

    start: int = Field(ge=1, description="sequences of the first optimizer step")
    increment: int = Field(ge=1, description="sequences it grows by; global_batch_size - start is a multiple of it")
    tokens: Positive = Field(description="tokens after which global_batch_size is reached")


class BaseSpec(Model):
    """Stage 1: trained here, or given."""

    corpus: str = Field(description="D_0")
    tokens: Positive | None = Field(None, description="train it on this many tokens of D_0")
    batch_ramp: BatchRampSpec | None = Field(None, description="smaller batches at its beginning")
    checkpoint: str | None = Field(None, description="or start from this keepwarm checkpoint or Hugging Face folder")
    lr: float | None = Field(None, gt=0, description="LR at which a given checkpoint ended, where it does not say")
    phase: Literal["peak", "cooled"] | None = Field(None, description="and its phase, where it does not say")
    allow: Allowed = Field((), description="guards overridden by name")

    @model_validator(mode="after")
    def _one(self) -> BaseSpec:
        if (self.tokens is None) == (self.checkpoint is None):
            raise ValueError("give exactly one of tokens (to train it) and checkpoint (it is there)")
        if self.tokens is not None and (self.lr is not None or self.phase is not None):
            raise ValueError("lr and phase are declared of a given checkpoint only")
        if self.tokens is None and self.batch_ramp is not None:
            raise ValueError("batch_ramp belongs to a base that is trained here")
        return self


class StageSpec(Model):
    """One stage: a new corpus to teach without losing the old ones."""

    name: Name = Field(description="of its folder")
    new: str = Field(description="the new corpus D_i")
    tokens: Positive = Field(description="tokens the trunk is fed, old data included; a cooldown comes on top")
    ramp: LengthField | None = Field(
        None,
        description="share of its tokens, or tokens, over which rungs at LR_max move from the recorded mix to theirs",
    )
    global_batch_size: int | None = Field(
        None,
        ge=1,
        description="sequences an optimizer step, where not the plan's; optimizer.lr_scaling says what LR does",
    )
    shift: Literal["auto", "weak", "strong"] = Field("auto", description="distance of D_i from D_0; auto measures it")
    ladder: tuple[Rung, ...] | None = Field(
        None, min_length=1, description="its own ladder, in place of the cookbook's"
    )
    allow: Allowed = Field((), description="guards overridden by name")

    @field_validator("name")
    @classmethod
    def _not_base(cls, value: str) -> str:
        if value == "base":
            raise ValueError("'base' is stage 1's name")
        return value


Guarded = TypeVar("Guarded", BaseSpec, StageSpec)


def allowing(part: Guarded, names: Iterable[str]) -> Guarded:
    """The base or a stage, with more guards overridden."""
    return part.model_copy(update={"allow": tuple(dict.fromkeys((*part.allow, *names)))})


class BufferSpec(Model):
    """The replay buffer B of D_1..D_{i-1}."""

    tokens: Count = Field(0, description="in all; 0 keeps none")
    policy: Literal["proportional", "newest-heavy", "highest-loss"] = Field(
        "proportional",
        description="how B is divided among D_1..D_{i-1}: by the tokens their stages fed, or each stage twice the one "
        "before; highest-loss: by tokens, and the documents with the highest scores are kept",
    )
    scores: dict[str, Texts] = Field(
        default_factory=dict,
        description="for highest-loss, by corpus: a .npy of one number a document for each of its token files",
    )
    storage: Literal["copy"] = Field("copy", description="copy: own token files")

    @field_validator("storage", mode="before")
    @classmethod
    def _not_yet(cls, value: Any) -> Any:
        if value == "reference":
            raise ValueError(f"{value} is not there yet in this version")
        return value


class Plan(Model):
    """A line of continual pre-training: base, stages, and what to try when the loss does not come back."""

    name: Name = Field(description="of the line")
    seed: int = Field(0, ge=0, description="of weights, order of data, and everything else that is drawn")
    model: ModelSpec | None = Field(None, description="left out, it is the given base checkpoint's")
    tokenizer: TokenizerSpec | None = Field(None, description="left out, it is the model's own")
    sequence_length: int = Field(ge=2, description="tokens of a sample")
    global_batch_size: int = Field(ge=1, description="sequences an optimizer step")
    micro_batch_size: int | None = Field(
        None, ge=1, description="sequences computed at a time; divides the global batch"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="of the products; weights and moments are fp32. auto: bf16 where a matrix product, timed once a run, is "
        "1.5 times as fast in it",
    )
    document_mask: bool = Field(False, description="attention stays within a document, positions restart after its end")
    optimizer: OptimizerSpec
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec)
    corpora: dict[Name, CorpusSpec] = Field(min_length=1, description="every corpus by name; D_0 is base.corpus")
    evaluation: dict[Name, EvaluationField] = Field(
        default_factory=dict,
        description="texts that are only measured, by name: never trained on, judged as corpora that the base knew",
    )
    holdout: HoldoutSpec
    base: BaseSpec
    stages: tuple[StageSpec, ...] = Field(min_length=1, description="in order")
    cookbook: str = Field("aurora-v1", description="a shipped cookbook's name, or a file")
    buffer: BufferSpec = Field(default_factory=BufferSpec)
    max_epochs: Ratio = Field(Fraction(4), gt=0, description="how often a source may be read in a line")
    over_max_epochs: Literal["error", "reweight"] = Field(
        "error", description="a source that would be read more often: refused, or given less and its role's others more"
    )
    verdict: VerdictSpec = Field(default_factory=VerdictSpec)
    search: SearchSpec = Field(default_factory=SearchSpec)
    stability: StabilitySpec = Field(default_factory=StabilitySpec)
    control: Annotated[tuple[str, ...], BeforeValidator(listed)] = Field(
        (), description="arms without the cookbook, from the same base: none, no-replay, d0-only, or a list"
    )
    run: RunSpec

    @property
    def step_tokens(self) -> int:
        """Tokens an optimizer step is fed."""
        return self.global_batch_size * self.sequence_length

    def whole_steps(self, tokens: int) -> int:
        """Tokens of the whole optimizer steps that feed at least `tokens`."""
        return -(-tokens // self.step_tokens) * self.step_tokens

    @property
    def plateau_lr(self) -> float:
        """LR_max of the line: optimizer.lr_max, or the rate behind the first decay of an infinite schedule."""
        lr_max, constant_lr = self.optimizer.lr_max, self.schedule.constant_lr
        return lr_max if constant_lr is None else parse_lr(constant_lr, lr_max)

    @property
    def stand_ins(self) -> dict[str, StandIn]:
        """The corpora whose own data is not there, and what stands in for each."""
        return {name: spec.stand_in for name, spec in self.corpora.items() if spec.stand_in is not None}

    @property
    def known_by_base(self) -> tuple[str, ...]:
        """What the base's loss is the reference of: D_0, and the texts that are only measured."""
        return (self.base.corpus, *self.evaluation)

    def called(self, corpus: str) -> str:
        """A corpus's name for people, by what the plan says of it."""
        return called(corpus, self.stand_ins.get(corpus))

    def of_stage(self, stage: StageSpec) -> Plan:
        """The plan with the batch of one stage."""
        return self.with_batch(stage.global_batch_size or self.global_batch_size)

    def allow_of(self, stage: str) -> tuple[str, ...]:
        """Guards overridden by name for a stage, or for the base by its name."""
        return next((each.allow for each in self.stages if each.name == stage), self.base.allow)

    def allowing(self, names: Iterable[str], stage: str | None = None) -> Plan:
        """The plan with more guards overridden: for the base and every stage, or for the one that `stage` names."""
        found = tuple(names)
        stages = tuple(allowing(each, found) if stage in (None, each.name) else each for each in self.stages)
        base = allowing(self.base, found) if stage in (None, "base") else self.base
        return self.model_copy(update={"base": base, "stages": stages})

    def with_batch(self, global_batch_size: int) -> Plan:
        """The plan with another batch."""
        return self.model_copy(update={"global_batch_size": global_batch_size})

    @field_validator("control")
    @classmethod
    def _known_arms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in ARMS:
                raise ValueError(f"{name!r} is not a control arm; one of: none, {', '.join(ARMS)}")
        return tuple(dict.fromkeys(value))
