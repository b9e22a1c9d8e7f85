"""Tensors of Megatron-DeepSpeed's Llama-like models and of Hugging Face's Llama, each out of the other.

Megatron holds queries, keys and values in one matrix, in turns by key-value head: the queries of the heads that share
it, its key, its value; and the two halves of SwiGLU in another, gate first. The rotary embedding is the same half
rotation in both, so no row is permuted. Every number is moved as it is, so moments go the same way as weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

EMBEDDING, HEAD = "language_model.embedding.word_embeddings.weight", "language_model.output_layer.weight"
_LAYER = "language_model.encoder.layers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What both sides must agree on. `tied`: the embedding is the output layer too."""

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_hidden_size: int
    vocab_size: int  # without padding
    rope_theta: float
    norm_eps: float
    max_positions: int
    init_std: float
    tied: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of Megatron, with its shape, and those of Hugging Face that it is made of."""

    megatron: str
    hugging_face: tuple[str, ...]
    shape: tuple[int, ...]
    kind: Literal["whole", "vocabulary", "halves", "attention"] = "whole"


def pieces(shape: Shape) -> Iterator[Piece]:
    """Every tensor of the model, in the order of its modules."""
    hidden, width = shape.hidden_size, shape.head_dim
    table = (shape.vocab_size, hidden)
    yield Piece(EMBEDDING, ("model.embed_tokens.weight",), table, "vocabulary")
    for layer in range(shape.layers):
        theirs, ours = f"{_LAYER}.{layer}", f"model.layers.{layer}"
        yield Piece(f"{theirs}.input_layernorm.weight", (f"{ours}.input_layernorm.weight",), (hidden,))
        names = tuple(f"{ours}.self_attn.{each}_proj.weight" for each in "qkv")
        rows = (shape.heads + 2 * shape.kv_heads) * width
        yield Piece(f"{theirs}.self_attention.query_key_value.weight", names, (rows, hidden), "attention")
        size = (hidden, shape.heads * width)
        yield Piece(f"{theirs}.self_attention.dense.weight", (f"{ours}.self_attn.o_proj.weight",), size)
        norm = "post_attention_layernorm.weight"
        yield Piece(f"{theirs}.{norm}", (f"{ours}.{norm}",), (hidden,))
        names = (f"{ours}.mlp.gate_proj.weight", f"{ours}.mlp.up_proj.weight")
        yield Piece(f"{theirs}.mlp.dense_h_to_4h.weight", names, (2 * shape.ffn_hidden_size, hidden), "halves")
        size = (hidden, shape.ffn_hidden_size)
        yield Piece(f"{theirs}.mlp.dense_4h_to_h.weight", (f"{ours}.mlp.down_proj.weight",), size)
    yield Piece("language_model.encoder.final_layernorm.weight", ("model.norm.weight",), (hidden,))
    if not shape.tied:
        yield Piece(HEAD, ("lm_head.weight",), table, "vocabulary")


def taken_apart(piece: Piece, tensor: torch.Tensor, shape: Shape) -> tuple[torch.Tensor, ...]:
    """Megatron's tensor as Hugging Face's, in the order of `piece.hugging_face`."""
    if piece.kind == "halves":
        return tuple(half.contiguous() for half in tensor.chunk(2))
    if piece.kind == "attention":
        width, group = shape.head_dim, shape.heads // shape.kv_heads
        parts = tensor.view(shape.kv_heads, group + 2, width, shape.hidden_size).tensor_split((group, group + 1), dim=1)
        return tuple(part.reshape(-1, shape.hidden_size) for part in parts)
    return (tensor,)


def put_together(piece: Piece, tensors: Sequence[torch.Tensor], shape: Shape) -> torch.Tensor:
    """The inverse of `taken_apart`."""
    if piece.kind == "halves":
        return torch.cat(list(tensors))
    if piece.kind == "attention":
        size = (shape.kv_heads, -1, shape.head_dim, shape.hidden_size)
        return torch.cat([each.view(size) for each in tensors], dim=1).reshape(-1, shape.hidden_size)
    return tensors[0]
