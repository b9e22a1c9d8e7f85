"""The model an attempt trains: the start checkpoint's own architecture, foreign weights, or new from the plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keepwarm.attempt.model import Attempt
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine import model as models
from keepwarm.engine.network import CrossEntropy, Network, cross_entropy, keeps_documents_apart
from keepwarm.engine.parallel import World, blocks, materialize, shard
from keepwarm.errors import GuardError, KeepwarmError, LineageError, PlanError
from keepwarm.evaluate.heldout import HeldOut, measure
from keepwarm.lineage import guard
from keepwarm.lineage.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Computing:
    """How an attempt is computed: decided before it begins, for it decides the last bits of its weights."""

    precision: str  # fp32 or bf16: of the products; weights and moments are fp32
    world_size: int
    compiled: bool = False
    recomputed: bool = False  # activations of a block, in the backward pass

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return {
            "precision": self.precision, "world_size": self.world_size, "compiled": self.compiled,
            "activation_checkpointing": self.recomputed,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A model that is not made yet: its config, and how all of it is made; `drawn`: its weights count for something."""

    config: Any
    whole: Callable[[], nn.Module]
    drawn: bool


def make_network(
    blueprint: Blueprint, world: World, how: Computing, document_eod: int | None, *, restored: bool
) -> Network:
    """The model in this world. Weights that were drawn or are foreign are in it, unless it will be `restored`; a
    keepwarm checkpoint's are loaded later."""
    dtype = torch.bfloat16 if how.precision == "bf16" else None
    alone = world.size == 1
    model = blueprint.whole().to(world.device) if alone else skeleton(blueprint.config)
    if how.recomputed:
        _recompute(model)
    if how.compiled:
        for block in blocks(model):
            block.compile()
    if not alone:
        shard(model, world, dtype)
        buffers = _buffers(blueprint.config)
        materialize(model, world, buffers, blueprint.whole if blueprint.drawn and not restored else None)
    losses: CrossEntropy = torch.compile(cross_entropy) if how.compiled else cross_entropy
    return Network(model, world, dtype if alone else None, document_eod, losses)


def _recompute(model: Any) -> None:
    try:
        model.activation_checkpointing_enable()
    except ValueError as error:
        raise PlanError(
            f"run.activation_checkpointing: {error}",
            "its blocks can't be computed again in the backward pass",
            "run: {activation_checkpointing: false}, and a smaller micro_batch_size where memory is short",
        ) from error


def skeleton(config: Any) -> nn.Module:
    """A model without storage."""
    with torch.device("meta"):
        return models.new_model(config, 0)


def _buffers(config: Any) -> dict[str, torch.Tensor]:
    """The buffers of a model: its own code computes them, and no checkpoint holds them all."""
    from transformers.initialization import no_init_weights

    with no_init_weights():  # parameters take address space alone: nothing is written to them
        return {name: buffer.clone() for name, buffer in models.new_model(config, 0).named_buffers()}


def blueprint_of(attempt: Attempt, run_folder: Path, start: Manifest | None) -> Blueprint:
    """What an attempt trains: its start's architecture, foreign weights (a Hugging Face folder), or new ones.

    GuardError if the start is of another architecture than the plan names, and that is not allowed by name.
    """
    if start is not None:
        folder = run_folder / start.id
        found = _foreign(folder) if models.is_hugging_face(folder) else _recorded(folder, start, attempt.seed)
        words = (attempt.model, attempt.vocab_size, attempt.sequence_length)
        refusal = architecture_refusal(start.id, found.config, *words)
        guard.enforce([refusal], {*attempt.allow, *start.allowed})
        return found
    if "hf" in attempt.model:
        return _foreign(Path(attempt.model["hf"]))
    config = models.new_config(attempt.model["config"], attempt.vocab_size, attempt.sequence_length)
    return Blueprint(config, partial(models.new_model, config, attempt.seed), True)


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
    same = models.same_architecture(config, asked)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What a given base is measured on, and what the plan says of its model: `words`, lengths, guards overridden."""

    heldout: Mapping[str, HeldOut]
    threads: int
    document_eod: int | None
    words: Mapping[str, Any]
    vocab_size: int
    sequence_length: int
    allow: Collection[str]


def measure_given(world: World, manifest: Manifest, asked: Measuring, how: Computing) -> Manifest:
    """The manifest of a given base with its losses over all held-out windows, and its architecture, filled in.

    GuardError if the plan names another architecture and does not allow that.
    """
    torch.set_num_threads(max(1, asked.threads // world.local_size))
    folder = Path(manifest.id)
    blueprint = _foreign(folder) if models.is_hugging_face(folder) else _recorded(folder, manifest, 0)
    words = (asked.words, asked.vocab_size, asked.sequence_length)
    refusal = architecture_refusal(manifest.id, blueprint.config, *words)
    overridden = guard.enforce([refusal], asked.allow)
    network = make_network(blueprint, world, how, asked.document_eod, restored=False)
    if not blueprint.drawn:
        checkpoints.load(folder, manifest, network.model, None, world)
    check_documents(network)
    evaluation = evaluated(network, asked.heldout)
    allowed = tuple(sorted({*manifest.allowed, *(refusal.guard for refusal in overridden)}))
    sha256 = models.architecture_sha256(network.model.config)
    return replace(manifest, evaluation=evaluation, architecture_sha256=sha256, allowed=allowed)


def evaluated(network: Network, heldout: Mapping[str, HeldOut]) -> dict[str, Any]:
    """A model's losses over all held-out windows, as a manifest holds them."""
    found = {name: measure(each, network.window_losses) for name, each in heldout.items()}
    return {name: {"loss": m.loss, "windows": list(m.windows)} for name, m in found.items()}


def check_documents(network: Network) -> None:
    """KeepwarmError if documents are to be kept apart and this architecture does not."""
    if network.document_eod is None or keeps_documents_apart(network):
        return
    raise KeepwarmError(
        f"document_mask: {type(network.model).__name__} does not keep documents apart by their positions",
        "tokens would attend to the documents before theirs, against what the plan says",
        "document_mask: false, or another architecture (llama, qwen3 and their kin do)",
    )


def empty_like(folder: Path, manifest: Manifest, seed: int) -> nn.Module:
    """The architecture of a checkpoint, its weights still drawn; LineageError if it is not what the manifest names."""
    return _recorded(folder, manifest, seed).whole()


def _recorded(folder: Path, manifest: Manifest, seed: int) -> Blueprint:
    config = models.load_config(str(folder))
    if models.architecture_sha256(config) != manifest.architecture_sha256:
        raise LineageError(
            f"{folder}/config.json: is not the architecture the manifest names",
            "the weights would land in another model",
            "restore the checkpoint's config.json",
        )
    return Blueprint(config, partial(models.new_model, config, seed), False)


def _foreign(folder: Path) -> Blueprint:
    return Blueprint(models.load_config(str(folder)), partial(models.load_pretrained, str(folder)), True)
