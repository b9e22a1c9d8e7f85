"""Models: any causal language model of `transformers`, from a folder, or new from a few numbers.

Weights are fp32. Nothing is downloaded here: a hub id is loaded only if the hub's own cache holds it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from keepwarm import files
from keepwarm.blend.boundaries import document_positions
from keepwarm.errors import KeepwarmError
from keepwarm.evaluate.heldout import Losses

os.environ.setdefault("HF_HUB_OFFLINE", "1")

DOCUMENTS_APART_NATS = 1e-3  # rounding, where a leak between documents would show in the first digits
LOSS_BATCH = 32  # windows measured at a time: bounds the memory of the logits
_SHORT_NAMES = {"layers": "num_hidden_layers", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads"}
_IDENTITY_IGNORES = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache", "architectures"}


def new_config(spec: Mapping[str, Any], vocab_size: int, sequence_length: int) -> Any:
    """Transformers config of a plan's `model.config`: its short names, and what follows from the rest of the plan.

    The feed-forward width defaults to 8/3 hidden_size rounded up to a multiple of 32, embeddings are tied unless
    `tie_word_embeddings: false`. Raises KeepwarmError for a type or numbers transformers does not take.
    """
    from transformers import AutoConfig

    settings = {_SHORT_NAMES.get(key, key): value for key, value in spec.items() if key != "type"}
    hidden_size = int(settings["hidden_size"])
    settings.setdefault("intermediate_size", -(-hidden_size * 8 // (3 * 32)) * 32)
    settings.setdefault("tie_word_embeddings", True)
    settings.setdefault("max_position_embeddings", sequence_length)
    try:
        config = AutoConfig.for_model(spec["type"], vocab_size=vocab_size, use_cache=False, **settings)
    except (ValueError, TypeError, KeyError) as error:
        raise KeepwarmError(
            f"model.config: transformers refuses it ({' '.join(str(error).split())[:200]})",
            "the model can't be built",
            "model: {config: {type: llama, hidden_size: 128, layers: 4, heads: 4, kv_heads: 4}}",
        ) from error
    return config


def new_model(config: Any, seed: int) -> nn.Module:
    """A model with random weights, the same for the same seed."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return model


def load_pretrained(path: str) -> nn.Module:
    """A causal LM from a local Hugging Face folder (or the hub's cache), in fp32."""
    from transformers import AutoModelForCausalLM

    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise KeepwarmError(
            f"{path}: transformers can't load a causal language model from it ({' '.join(str(error).split())[:160]})",
            "the base's weights are needed",
            "name a folder with config.json and model.safetensors: model: {hf: FOLDER}",
        ) from error
    model.config.use_cache = False  # type: ignore[union-attr]
    return model


def load_config(path: str) -> Any:
    """The config of a local Hugging Face folder, or the hub's cache."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(path)


def architecture_sha256(config: Any) -> str:
    """Identity of an architecture: the config without names, versions and caches."""
    content = {key: value for key, value in config.to_diff_dict().items() if key not in _IDENTITY_IGNORES}
    return files.sha256_json(content)


def weights_sha256(model: nn.Module) -> str:
    """Identity of weights: SHA-256 over name, dtype, shape and bytes of every parameter and buffer, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def token_losses(model: nn.Module, windows: torch.Tensor, eod: int | None = None) -> torch.Tensor:
    """Cross-entropy in nats of every predicted token. windows (batch, S + 1) -> (batch, S).

    With `eod`, attention stays within a document and positions restart after each document end: transformers reads both
    off `position_ids`.
    """
    inputs = windows[:, :-1]
    more = {} if eod is None else {"position_ids": torch.from_numpy(document_positions(inputs.numpy(), eod))}
    logits = model(input_ids=inputs, **more).logits  # (batch, S, vocabulary)
    flat = nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), windows[:, 1:].reshape(-1), reduction="none"
    )
    return flat.reshape(windows.shape[0], -1)


@torch.no_grad()
def window_losses(
    model: nn.Module, windows: NDArray[np.int64], batch: int, eod: int | None = None
) -> NDArray[np.float64]:
    """Mean loss of each window in evaluation mode, shape (windows,). The model's mode is put back."""
    training = model.training
    model.eval()
    found = [
        token_losses(model, torch.from_numpy(windows[i : i + batch]), eod).double().mean(dim=1)
        for i in range(0, len(windows), batch)
    ]
    model.train(training)
    return torch.cat(found).numpy()


def losses_of(model: nn.Module, eod: int | None = None) -> Losses:
    """The model as the callable that held-out evaluation takes; `eod` as for `token_losses`."""
    return lambda windows: window_losses(model, windows, LOSS_BATCH, eod)


def keeps_documents_apart(model: nn.Module, eod: int) -> bool:
    """True if the losses of a second document in a window are those it has alone: not every architecture does it."""
    config: Any = model.config
    ids = np.arange(16, dtype=np.int64) * 7 % config.vocab_size
    ids[ids == eod] = (eod + 1) % config.vocab_size
    ids[6] = eod
    alone = window_losses(model, ids[None, 7:], 1)[0]
    training = model.training
    model.eval()
    with torch.no_grad():
        packed = token_losses(model, torch.from_numpy(ids[None]), eod)[0, 7:].double().mean().item()
    model.train(training)
    return bool(abs(packed - alone) < DOCUMENTS_APART_NATS)


def is_hugging_face(path: Path) -> bool:
    """True for a folder with a transformers config and no manifest of ours."""
    return (path / "config.json").is_file() and not (path / "manifest.json").is_file()
