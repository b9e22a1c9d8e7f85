"""Universal copies in the other formats. These are tasks of apart.py: they read pickled files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict

from keepwarm.attempt.model import Optimizer
from keepwarm.convert.hugging_face import save_model
from keepwarm.convert.llama import pieces, taken_apart
from keepwarm.convert.llama_config import model_of
from keepwarm.convert.universal import MOMENTS, Part, Universal, read_universal, steps, tensor
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine.model import architecture_sha256
from keepwarm.engine.optimizer import adamw
from keepwarm.engine.parallel import alone
from keepwarm.engine.weights import weights_sha256
from keepwarm.lineage.manifest import Manifest

_UNKNOWN = Optimizer((0.9, 0.95), 1e-8, 0.0, 1.0)  # the settings of a plan take its place whenever moments are loaded


def hugging_face(source: str, out: str, shown: str, dtype: str) -> dict[str, Any]:
    """Write config and weights into the folder `out`, called `shown` in refusals; the weights' hash before and after."""
    found = read_universal(Path(source))
    model = model_of(found.shape, _parts(found, "fp32"))
    before = weights_sha256(model.state_dict())
    if dtype == "bf16":
        model.to(torch.bfloat16)
    save_model(model, Path(out), Path(shown))
    return {"weights_sha256": before, "converted_sha256": weights_sha256(model.state_dict())}


def checkpoint(source: str, out: str, manifest: dict[str, Any], moments: bool) -> None:
    """Write a checkpoint of keepwarm as the new folder `out`, with moments unless they are not asked for."""
    found = read_universal(Path(source))
    model: Any = model_of(found.shape, _parts(found, "fp32"))
    settings = _settings(found)
    made = Manifest(**manifest | {
        "architecture_sha256": architecture_sha256(model.config), "vocab_size": found.shape.vocab_size,
        "optimizer": settings.to_dict() if settings is not None else {}, "optimizer_state": moments,
    })  # fmt: skip
    optimizers = [_optimizer(found, model, settings or _UNKNOWN)] if moments else []
    weights, states = get_state_dict(model, optimizers)
    state = {"model": weights} | ({"optimizer": states} if moments else {})
    checkpoints.write(Path(out), state, model.config, made, alone())


def _parts(found: Universal, part: Part) -> dict[str, torch.Tensor]:
    """All weights, or one moment of all, by Hugging Face's names."""
    return {
        name: each
        for piece in pieces(found.shape)
        for name, each in zip(
            piece.hugging_face, taken_apart(piece, tensor(found, piece, part), found.shape), strict=True
        )
    }


def _optimizer(found: Universal, model: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    optimizer, parameters = adamw(model, settings), dict(model.named_parameters())
    for part in MOMENTS:
        for name, each in _parts(found, part).items():
            optimizer.state[parameters[name]][part] = each
    for piece in pieces(found.shape):
        for name in piece.hugging_face:
            optimizer.state[parameters[name]]["step"] = torch.tensor(steps(found, piece), dtype=torch.float32)
    return optimizer


def _settings(found: Universal) -> Optimizer | None:
    """What the optimizer was; None where the copy does not say."""
    decaying = next((group for group in found.groups if group.get("wd_mult", 1.0)), {})
    if not {"betas", "eps", "weight_decay"} <= decaying.keys() or found.clip is None:
        return None
    return Optimizer(tuple(decaying["betas"]), decaying["eps"], decaying["weight_decay"], found.clip)
