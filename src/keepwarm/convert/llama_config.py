"""Hugging Face's side of a Llama-like model: its config, and a model around given tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from keepwarm.convert.llama import Shape
from keepwarm.engine.build import skeleton
from keepwarm.errors import LineageError

_AS_MEGATRON: dict[str, Any] = {
    "model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False
}  # fmt: skip


def config_of(shape: Shape) -> Any:
    """A LlamaConfig. Which tokens begin and end a text is not known to the trainer."""
    from transformers import LlamaConfig

    rope = {"rope_type": "default", "rope_theta": shape.rope_theta}
    return LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, intermediate_size=shape.ffn_hidden_size,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=shape.max_positions, initializer_range=shape.init_std,
        rms_norm_eps=shape.norm_eps, rope_parameters=rope, tie_word_embeddings=shape.tied, bos_token_id=None,
        eos_token_id=None, pad_token_id=None,
    )  # fmt: skip


def shape_of(config: Any, folder: object) -> Shape:
    """The shape of a config's model; LineageError if it is none that Megatron-DeepSpeed's Llama-like models can be."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    found = {key: getattr(config, key, None) for key in _AS_MEGATRON} | {"rope_type": rope.get("rope_type")}
    wrong = {key: found[key] for key, value in (_AS_MEGATRON | {"rope_type": "default"}).items() if found[key] != value}
    if wrong:
        told = ", ".join(f"{key} {value!r}" for key, value in wrong.items())
        raise LineageError(
            f"{folder}: its config.json has {told}",
            "Megatron-DeepSpeed's Llama-like models have model_type llama, hidden_act silu, no biases and rope_type default",
            "convert a Llama, such as one of a plan with model: {config: {type: llama, ...}}",
        )
    return Shape(
        layers=config.num_hidden_layers, hidden_size=config.hidden_size, heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads, head_dim=config.head_dim, ffn_hidden_size=config.intermediate_size,
        vocab_size=config.vocab_size, rope_theta=float(rope["rope_theta"]), norm_eps=config.rms_norm_eps,
        max_positions=config.max_position_embeddings, init_std=config.initializer_range,
        tied=bool(config.tie_word_embeddings),
    )  # fmt: skip


def model_of(shape: Shape, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """A model that has these tensors as its weights; they are not copied."""
    model = skeleton(config_of(shape))
    model.load_state_dict(dict(state), assign=True, strict=not shape.tied)
    if shape.tied:
        model.tie_weights()  # type: ignore[operator]
    return model
