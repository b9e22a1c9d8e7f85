"""The model an attempt trains: the start checkpoint's own architecture, foreign weights, or new from the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keepwarm.attempt.model import Attempt
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine import model as models
from keepwarm.errors import GuardError, KeepwarmError, LineageError
from keepwarm.evaluate.heldout import HeldOut, measure
from keepwarm.lineage.manifest import Manifest


def make_model(attempt: Attempt, run_folder: Path, start: Manifest | None) -> nn.Module:
    """The architecture of the attempt; weights are loaded here only where they are foreign (a Hugging Face folder)."""
    model = _architecture(attempt, run_folder, start)
    _check_documents(model, attempt.document_eod)
    return model


def _architecture(attempt: Attempt, run_folder: Path, start: Manifest | None) -> nn.Module:
    if start is not None:
        folder = run_folder / start.id
        if models.is_hugging_face(folder):
            return models.load_pretrained(str(folder))
        model = _empty_like(folder, start, attempt.seed)
        _check_config(attempt, model)
        return model
    if "hf" in attempt.model:
        return models.load_pretrained(attempt.model["hf"])
    config = models.new_config(attempt.model["config"], attempt.vocab_size, attempt.sequence_length)
    return models.new_model(config, attempt.seed)


def measure_given(
    manifest: Manifest, heldout: Mapping[str, HeldOut], threads: int, document_eod: int | None
) -> Manifest:
    """The manifest of a given base with its losses over all held-out windows, and its architecture, filled in."""
    torch.set_num_threads(threads)
    folder = Path(manifest.id)
    if models.is_hugging_face(folder):
        model = models.load_pretrained(str(folder))
    else:
        model = _empty_like(folder, manifest, 0)
        checkpoints.load(folder, manifest, model, None)
    _check_documents(model, document_eod)
    found = {name: measure(each, models.losses_of(model, document_eod)) for name, each in heldout.items()}
    evaluation: dict[str, Any] = {name: {"loss": m.loss, "windows": list(m.windows)} for name, m in found.items()}
    return replace(manifest, evaluation=evaluation, architecture_sha256=models.architecture_sha256(model.config))


def _check_documents(model: nn.Module, document_eod: int | None) -> None:
    if document_eod is None or models.keeps_documents_apart(model, document_eod):
        return
    raise KeepwarmError(
        f"document_mask: {type(model).__name__} does not keep documents apart by their positions",
        "tokens would attend to the documents before theirs, against what the plan says",
        "document_mask: false, or another architecture (llama, qwen3 and their kin do)",
    )


def _empty_like(folder: Path, manifest: Manifest, seed: int) -> nn.Module:
    from transformers import AutoConfig

    model = models.new_model(AutoConfig.from_pretrained(folder), seed)
    if models.architecture_sha256(model.config) != manifest.architecture_sha256:
        raise LineageError(
            f"{folder}/config.json: is not the architecture the manifest names",
            "the weights would land in another model",
            "restore the checkpoint's config.json",
        )
    return model


def _check_config(attempt: Attempt, model: nn.Module) -> None:
    """Guard 5: a checkpoint of another architecture than the plan's config."""
    if "config" not in attempt.model or "budget-and-identity" in attempt.allow:
        return
    config = models.new_config(attempt.model["config"], attempt.vocab_size, attempt.sequence_length)
    if models.architecture_sha256(models.new_model(config, 0).config) != models.architecture_sha256(model.config):
        raise GuardError(
            "budget-and-identity",
            f"{attempt.start} has another architecture than the plan's model.config",
            "only data and learning rate change between stages",
            "leave `model` out of the plan (the checkpoint's own is used), or name the same config",
        )
