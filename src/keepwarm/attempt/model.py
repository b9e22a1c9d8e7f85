"""An attempt: one try at one stage, in exact numbers. Its JSON is its identity: `attempt.json` never changes.

Start checkpoint + blend + schedule + optimizer state + budget. Everything that decides the weights is in here; what
only decides speed or safety (threads, save interval) is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

from keepwarm import files
from keepwarm.attempt.stability import STANDARD, Stability
from keepwarm.attempt.steering import Steering
from keepwarm.blend.mixture import Mixture
from keepwarm.blend.stream import Segment
from keepwarm.plan.model import OptimizerSpec
from keepwarm.schedule.batch import Batches, BatchRamp, batches
from keepwarm.schedule.schedule import Schedule

Moments = Literal["keep", "reset", "fresh"]  # of AdamW: go on with them, drop them, or there are none yet


@dataclass(frozen=True, slots=True)
class Part:
    """One role of the mix as it was asked: D_0, the new data, the buffer, or the previous stage's mix."""

    role: str
    share: Fraction


@dataclass(frozen=True, slots=True)
class FedSource:
    """A token file that is fed: where it lies (relative to the run folder where it is inside) and for which role."""

    id: str
    name: str
    corpus: str
    role: str


@dataclass(frozen=True, slots=True)
class Optimizer:
    """AdamW as the plan says; learning rates come from the schedule."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip: float
    no_decay: tuple[str, ...] = ("vectors",)  # words or patterns of parameter names (engine/optimizer.py)

    @classmethod
    def of(cls, asked: OptimizerSpec) -> Optimizer:
        """As a plan asks for it."""
        return cls(asked.betas, asked.eps, asked.weight_decay, asked.clip, asked.no_decay)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return {
            "betas": list(self.betas), "eps": self.eps, "weight_decay": self.weight_decay, "clip": self.clip,
            "no_decay": list(self.no_decay),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Optimizer:
        """The inverse of `to_dict`."""
        lists: dict[str, Any] = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        return cls(**{**content, **lists})


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """When held-out losses are measured: on `subset` windows a corpus after `steps`, on all windows at the end."""

    steps: tuple[int, ...]
    subset: Mapping[str, int]  # corpus -> windows


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the verdict is decided by: tolerance (value and unit, nats or relative) of each old corpus, adaptation."""

    tolerance: Mapping[str, tuple[float, str]]
    adaptation: float


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try. `start` is a checkpoint's id in the run folder, a folder of foreign weights, or None (random)."""

    arm: str
    stage: str
    number: int
    rung: str
    label: str
    new: str | None
    old: tuple[str, ...]
    start: str | None
    moments: Moments
    parts: tuple[Part, ...]
    sources: tuple[FedSource, ...]
    segments: tuple[Segment, ...]
    schedule: Schedule
    optimizer: Optimizer
    seed: int
    sequence_length: int
    global_batch_size: int
    micro_batch_size: int
    steps: int
    max_epochs: Fraction
    evaluation: EvaluationPlan
    judgement: Judgement
    model: Mapping[str, Any]  # the plan's own words: a folder, or a config
    tokenizer_sha256: str
    vocab_size: int
    batch_ramp: BatchRamp | None = None  # None: every step has global_batch_size samples
    document_eod: int | None = None  # attention and positions end at this token; None: they run through a window
    allow: tuple[
        str, ...
    ] = ()  # guards that would have refused and were overridden by name; `warnings` has their words
    warnings: tuple[str, ...] = ()
    steering: Steering | None = None  # how the last of `segments` may change on the way; `parts` is then as it starts
    stability: Stability = STANDARD

    @property
    def folder(self) -> str:
        """The attempt's folder inside the run folder."""
        return f"arms/{self.arm}/{self.stage}/{self.number:02d}-{self.rung}"

    @cached_property
    def batches(self) -> Batches:
        """How its samples are cut into optimizer steps."""
        return batches(self.global_batch_size, self.batch_ramp)

    @property
    def step_tokens(self) -> int:
        """Tokens an optimizer step is fed (once a batch ramp is over)."""
        return self.global_batch_size * self.sequence_length

    def tokens_at(self, step: int) -> int:
        """Tokens the attempt has been fed after `step` optimizer steps."""
        return self.batches.samples(step) * self.sequence_length

    @property
    def tokens(self) -> int:
        """Tokens the attempt is fed in all."""
        return self.tokens_at(self.steps)

    @cached_property
    def sha256(self) -> str:
        """Identity of the attempt."""
        return files.sha256_json(to_json(self))


def to_json(attempt: Attempt) -> dict[str, Any]:
    """The attempt as JSON-able content; fractions as exact text."""
    content = {item.name: getattr(attempt, item.name) for item in fields(attempt)}
    steering, stability = content.pop("steering"), content.pop("stability")  # left out where there is nothing to say
    return (
        content
        | ({"steering": steering.to_dict()} if steering else {})
        | ({"stability": stability.to_dict()} if stability != STANDARD else {})
        | {
            "old": list(attempt.old),
            "allow": list(attempt.allow),
            "warnings": list(attempt.warnings),
            "max_epochs": str(attempt.max_epochs),
            "parts": [{"role": part.role, "share": str(part.share)} for part in attempt.parts],
            "sources": [{"id": s.id, "name": s.name, "corpus": s.corpus, "role": s.role} for s in attempt.sources],
            "segments": [
                {"first_sample": s.first_sample, "mixture": s.mixture.as_dict(), "cursors": dict(s.cursors)}
                for s in attempt.segments
            ],
            "schedule": attempt.schedule.to_dict(),
            "batch_ramp": attempt.batch_ramp.to_dict() if attempt.batch_ramp else None,
            "optimizer": attempt.optimizer.to_dict(),
            "evaluation": {"steps": list(attempt.evaluation.steps), "subset": dict(attempt.evaluation.subset)},
            "judgement": {
                "tolerance": {name: list(value) for name, value in attempt.judgement.tolerance.items()},
                "adaptation": attempt.judgement.adaptation,
            },
        }
    )


def from_json(content: Mapping[str, Any]) -> Attempt:
    """The inverse of `to_json`."""
    judgement = content["judgement"]
    return Attempt(
        **{
            **content,
            "old": tuple(content["old"]),
            "allow": tuple(content["allow"]),
            "warnings": tuple(content["warnings"]),
            "max_epochs": Fraction(content["max_epochs"]),
            "parts": tuple(Part(part["role"], Fraction(part["share"])) for part in content["parts"]),
            "sources": tuple(FedSource(**source) for source in content["sources"]),
            "segments": tuple(
                Segment(s["first_sample"], Mixture.from_dict(s["mixture"]), tuple(s["cursors"].items()))
                for s in content["segments"]
            ),
            "schedule": Schedule.from_dict(content["schedule"]),
            "batch_ramp": BatchRamp.from_dict(content["batch_ramp"]) if content.get("batch_ramp") else None,
            "optimizer": Optimizer.from_dict(content["optimizer"]),
            "evaluation": EvaluationPlan(tuple(content["evaluation"]["steps"]), content["evaluation"]["subset"]),
            "judgement": Judgement(
                {name: (value, unit) for name, (value, unit) in judgement["tolerance"].items()}, judgement["adaptation"]
            ),
            "steering": Steering.from_dict(content["steering"]) if "steering" in content else None,
            "stability": Stability.from_dict(content["stability"]) if "stability" in content else STANDARD,
        }
    )
