"""The model an attempt trains: the start checkpoint's own architecture, foreign weights, or new from the plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
from keepwarm.lineage import guard
from keepwarm.lineage.manifest import Manifest


def make_model(attempt: Attempt, run_folder: Path, start: Manifest | None) -> nn.Module:
    """The architecture of the attempt; weights are loaded here only where they are foreign (a Hugging Face folder)."""
    model = _architecture(attempt, run_folder, start)
    _check_documents(model, attempt.document_eod)
    return model


def _architecture(attempt: Attempt, run_folder: Path, start: Manifest | None) -> nn.Module:
    if start is not None:
        folder = run_folder / start.id
        foreign = models.is_hugging_face(folder)
        model = models.load_pretrained(str(folder)) if foreign else empty_like(folder, start, attempt.seed)
        refusal = architecture_refusal(
            start.id, model.config, attempt.model, attempt.vocab_size, attempt.sequence_length
        )
        guard.enforce([refusal], {*attempt.allow, *start.allowed})
        return model
    if "hf" in attempt.model:
        return models.load_pretrained(attempt.model["hf"])
    config = models.new_config(attempt.model["config"], attempt.vocab_size, attempt.sequence_length)
    return models.new_model(config, attempt.seed)


def architecture_refusal(
    checkpoint: str, config: Any, words: Mapping[str, Any], vocab_size: int, sequence_length: int
) -> GuardError | None:
    """Guard 5: the architecture of a start against the plan's own words for its model, where it has some."""
    if "config" in words:
        asked = models.new_model(models.new_config(words["config"], vocab_size, sequence_length), 0).config
    elif "hf" in words:
        asked = models.load_config(words["hf"])
    else:
        return None
    same = models.architecture_sha256(config) == models.architecture_sha256(asked)
    return None if same else guard.another_architecture(checkpoint, f"model.{next(iter(words))}")


def given_model(manifest: Manifest, threads: int) -> nn.Module:
    """A given base with its weights, to be used with `threads`: a Hugging Face folder, or a keepwarm checkpoint."""
    torch.set_num_threads(threads)
    folder = Path(manifest.id)
    if models.is_hugging_face(folder):
        return models.load_pretrained(str(folder))
    model = empty_like(folder, manifest, 0)
    checkpoints.load(folder, manifest, model, None)
    return model


def measure_given(
    manifest: Manifest, heldout: Mapping[str, HeldOut], threads: int, document_eod: int | None,
    words: Mapping[str, Any], vocab_size: int, sequence_length: int, allow: Collection[str],
) -> Manifest:  # fmt: skip
    """The manifest of a given base with its losses over all held-out windows, and its architecture, filled in.

    `words` are the plan's for its model; GuardError if it names another one and `allow` does not say so.
    """
    model = given_model(manifest, threads)
    refusal = architecture_refusal(manifest.id, model.config, words, vocab_size, sequence_length)
    overridden = guard.enforce([refusal], allow)
    _check_documents(model, document_eod)
    evaluation = evaluated(model, heldout, document_eod)
    allowed = tuple(sorted({*manifest.allowed, *(refusal.guard for refusal in overridden)}))
    sha256 = models.architecture_sha256(model.config)
    return replace(manifest, evaluation=evaluation, architecture_sha256=sha256, allowed=allowed)


def evaluated(model: nn.Module, heldout: Mapping[str, HeldOut], document_eod: int | None) -> dict[str, Any]:
    """A model's losses over all held-out windows, as a manifest holds them."""
    found = {name: measure(each, models.losses_of(model, document_eod)) for name, each in heldout.items()}
    return {name: {"loss": m.loss, "windows": list(m.windows)} for name, m in found.items()}


def _check_documents(model: nn.Module, document_eod: int | None) -> None:
    if document_eod is None or models.keeps_documents_apart(model, document_eod):
        return
    raise KeepwarmError(
        f"document_mask: {type(model).__name__} does not keep documents apart by their positions",
        "tokens would attend to the documents before theirs, against what the plan says",
        "document_mask: false, or another architecture (llama, qwen3 and their kin do)",
    )


def empty_like(folder: Path, manifest: Manifest, seed: int) -> nn.Module:
    """The architecture of a checkpoint, its weights still drawn; LineageError if it is not what the manifest names."""
    from transformers import AutoConfig

    model = models.new_model(AutoConfig.from_pretrained(folder), seed)
    if models.architecture_sha256(model.config) != manifest.architecture_sha256:
        raise LineageError(
            f"{folder}/config.json: is not the architecture the manifest names",
            "the weights would land in another model",
            "restore the checkpoint's config.json",
        )
    return model
