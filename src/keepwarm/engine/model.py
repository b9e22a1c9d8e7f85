"""Models: any causal language model of `transformers`, from a folder, or new from a few numbers.

Weights are fp32. Nothing is downloaded here: a hub id is loaded only if the hub's own cache holds it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keepwarm import files
from keepwarm.errors import KeepwarmError

os.environ.setdefault("HF_HUB_OFFLINE", "1")

_SHORT_NAMES = {"layers": "num_hidden_layers", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads"}
_IDENTITY_IGNORES = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache", "architectures"}
_TEXT_ENDS = {"bos_token_id", "eos_token_id"}  # a converted checkpoint's are its run's, a config's that of its type


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
    settings.setdefault("pad_token_id", None)  # some types have one, and a padding token's embedding gets no gradient
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
        raise _not_loadable(path, error) from error
    model.config.use_cache = False  # type: ignore[union-attr]
    return model


def _not_loadable(path: str, error: Exception) -> KeepwarmError:
    return KeepwarmError(
        f"{path}: transformers can't load a causal language model from it ({' '.join(str(error).split())[:160]})",
        "the base's weights are needed",
        "name a folder with config.json and model.safetensors: model: {hf: FOLDER}",
    )


def load_config(path: str) -> Any:
    """The config of a local Hugging Face folder, or the hub's cache."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise _not_loadable(path, error) from error
    config.use_cache = False
    return config


def architecture_sha256(config: Any) -> str:
    """Identity of an architecture: the config without names, versions and caches."""
    return files.sha256_json(_identity(config))


def same_architecture(one: Any, other: Any) -> bool:
    """True for configs of one architecture, whichever tokens begin and end a text."""
    found, asked = ({k: v for k, v in _identity(each).items() if k not in _TEXT_ENDS} for each in (one, other))
    return found == asked


def _identity(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.to_diff_dict().items() if key not in _IDENTITY_IGNORES}


def is_hugging_face(path: Path) -> bool:
    """True for a folder with a transformers config and no manifest of ours."""
    return (path / "config.json").is_file() and not (path / "manifest.json").is_file()
