"""The reference's Llama, tiny, with its names: queries, keys and values in one matrix in turns by key-value head."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional

EMBEDDING, HEAD = "language_model.embedding.word_embeddings.weight", "language_model.output_layer.weight"
FINAL, LAYER = "language_model.encoder.final_layernorm.weight", "language_model.encoder.layers"


def shapes(args) -> dict[str, tuple[int, ...]]:
    """Every parameter in the order of the trainer's modules."""
    hidden, width = args.hidden_size, args.hidden_size // args.num_attention_heads
    rows = (args.num_attention_heads + 2 * args.num_key_value_heads) * width
    found = {EMBEDDING: (args.padded_vocab_size, hidden)}
    for layer in range(args.num_layers):
        name = f"{LAYER}.{layer}"
        found |= {
            f"{name}.input_layernorm.weight": (hidden,),
            f"{name}.self_attention.query_key_value.weight": (rows, hidden),
            f"{name}.self_attention.dense.weight": (hidden, hidden),
            f"{name}.post_attention_layernorm.weight": (hidden,),
            f"{name}.mlp.dense_h_to_4h.weight": (2 * args.ffn_hidden_size, hidden),
            f"{name}.mlp.dense_4h_to_h.weight": (hidden, args.ffn_hidden_size),
        }
    return found | {FINAL: (hidden,), HEAD: (args.padded_vocab_size, hidden)}


def new_weights(args) -> dict[str, torch.nn.Parameter]:
    torch.manual_seed(args.seed)
    found = {}
    for name, shape in shapes(args).items():
        value = torch.ones(shape) if len(shape) == 1 else torch.randn(shape) * args.init_method_std
        found[name] = torch.nn.Parameter(value)
    return found


def loss(weights: dict[str, torch.Tensor], tokens: torch.Tensor, args) -> torch.Tensor:
    """Mean cross entropy of `tokens` (N, S + 1), padded rows of the vocabulary in the softmax."""
    x = functional.embedding(tokens[:, :-1], weights[EMBEDDING])
    turn = _rotation(x.shape[1], args)
    for layer in range(args.num_layers):
        mine = {key: weights[f"{LAYER}.{layer}.{key}.weight"] for key in (
            "input_layernorm", "self_attention.query_key_value", "self_attention.dense", "post_attention_layernorm",
            "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")}  # fmt: skip
        x = x + _attention(_norm(x, mine["input_layernorm"]), mine, turn, args)
        gate, up = (_norm(x, mine["post_attention_layernorm"]) @ mine["mlp.dense_h_to_4h"].T).chunk(2, dim=-1)
        x = x + (functional.silu(gate) * up) @ mine["mlp.dense_4h_to_h"].T
    logits = _norm(x, weights[FINAL]) @ weights[HEAD].T
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def _norm(x, weight, eps=1e-5):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def _rotation(length, args):
    width = args.hidden_size // args.num_attention_heads
    rates = 1.0 / args.rotary_position_embeddings_theta ** (torch.arange(0, width, 2).float() / width)
    angles = torch.outer(torch.arange(length).float(), rates).repeat(1, 2)
    return angles.cos(), angles.sin()


def _attention(x, mine, turn, args):
    count, length, hidden = x.shape
    heads, groups = args.num_attention_heads, args.num_key_value_heads
    width, each = hidden // heads, heads // groups
    mixed = (x @ mine["self_attention.query_key_value"].T).view(count, length, groups, each + 2, width)
    query = mixed[..., :each, :].reshape(count, length, heads, width).transpose(1, 2)
    key, value = (mixed[..., each + k, :].repeat_interleave(each, dim=2).transpose(1, 2) for k in (0, 1))
    query, key = (each_ * turn[0] + _half(each_) * turn[1] for each_ in (query, key))
    scores = query @ key.transpose(-1, -2) / math.sqrt(width)
    scores = scores + torch.full((length, length), -torch.inf).triu(1)
    return (scores.softmax(-1) @ value).transpose(1, 2).reshape(count, length, hidden) @ mine["self_attention.dense"].T


def _half(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
