"""A keepwarm checkpoint or a Hugging Face folder as a universal copy, from which Megatron-DeepSpeed goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keepwarm.attempt.model import Optimizer
from keepwarm.convert import pickles
from keepwarm.convert.llama import Piece, pieces, put_together
from keepwarm.convert.llama_config import shape_of
from keepwarm.convert.states import Position, model_states, optimizer_state, parameter
from keepwarm.convert.universal import MODEL_STATES, PARTS, Part
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine.build import empty_like
from keepwarm.engine.optimizer import adamw
from keepwarm.lineage.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Source:
    """Weights, config and moments by Hugging Face's names; no moments: they are written as zeros."""

    config: Any
    weights: Mapping[str, torch.Tensor]
    states: Mapping[str, Mapping[str, torch.Tensor]]  # {step, exp_avg, exp_avg_sq}

    def tensor(self, name: str, part: Part) -> torch.Tensor:
        """A parameter, or a moment of it, in fp32."""
        if part == "fp32":
            return self.weights[name].detach().float()
        return self.states[name][part] if self.states else torch.zeros_like(self.tensor(name, "fp32"))

    def step(self, name: str) -> torch.Tensor:
        """Updates that a parameter had."""
        return self.states[name]["step"].clone() if self.states else torch.zeros(())


def of_model(model: nn.Module) -> Source:
    """A model without an optimizer."""
    return Source(model.config, model.state_dict(), {})


def of_checkpoint(folder: Path, manifest: Manifest, moments: bool) -> Source:
    """A keepwarm checkpoint, whose files were verified."""
    model = empty_like(folder, manifest, 0)
    if not moments:
        checkpoints.load(folder, manifest, model, None)
        return of_model(model)
    optimizer = adamw(model, Optimizer.from_dict(manifest.optimizer))
    checkpoints.load(folder, manifest, model, optimizer)
    states = {name: optimizer.state[each] for name, each in model.named_parameters()}
    return Source(model.config, model.state_dict(), states)


def write(aside: Path, source: Source, at: Position, name: object) -> None:
    """Fill the folder `aside`. LineageError if the model, called `name`, is none that the trainer knows."""
    shape = shape_of(source.config, name)
    weights: list[tuple[Piece, torch.Tensor]] = []
    for piece in pieces(shape):
        folder = aside / "zero" / piece.megatron
        for part in PARTS:
            value = put_together(piece, [source.tensor(each, part) for each in piece.hugging_face], shape)
            pickles.save(parameter(piece, value), folder / f"{part}.pt")
            if part == "fp32":
                weights.append((piece, value))
        pickles.save(source.step(piece.hugging_face[0]), folder / "step.pt")
    pickles.save(optimizer_state(at), aside / "zero/optimizer_state.pt")
    pickles.save(model_states(shape, at, weights), aside / MODEL_STATES)
