"""What a universal copy holds beside its parameters, made new for weights that Megatron-DeepSpeed did not train.

DeepSpeed puts every key of `param_groups` over the launch's own, also with --finetune. So what is not known of the
weights' training is left out there, and the launch's flags hold.
"""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from keepwarm.convert.llama import EMBEDDING, HEAD, Piece, Shape
from keepwarm.convert.pickles import stand_in

DIVISIBLE_BY = 128  # make_vocab_size_divisible_by, which train_alcf.sh does not change
LAYOUT = "0.17.5"  # the DeepSpeed whose files these are like
UNIVERSAL_VERSION, CHECKPOINT_VERSION = 0.2, 3.0
GATED = r"language_model.encoder.layers.\d+.mlp.dense_h_to_4h.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where the training of the weights stood. Zeros, None and empty: not known."""

    iteration: int = 0
    samples: int = 0
    tokens: int = 0
    lr: float | None = None
    lr_max: float | None = None
    global_batch_size: int = 0
    sequence_length: int = 0
    optimizer: Mapping[str, Any] = field(default_factory=dict)  # betas, eps, weight_decay, clip


def padded(vocab_size: int) -> int:
    """Rows of the trainer's tables: the vocabulary up to the next multiple, for one tensor-parallel rank."""
    return -(-vocab_size // DIVISIBLE_BY) * DIVISIBLE_BY


def parameter(piece: Piece, value: torch.Tensor) -> dict[str, Any]:
    """The content of `fp32.pt`, `exp_avg.pt` or `exp_avg_sq.pt`."""
    kinds: dict[str, dict[str, Any]] = {"vocabulary": {"vocab_tensor": True}, "halves": {"param_n_sub_params": 2}}
    more = kinds.get(piece.kind, {})
    return {"cat_dim": 0, **more, "param": value}


def model_states(shape: Shape, at: Position, named: Sequence[tuple[Piece, torch.Tensor]]) -> dict[str, Any]:
    """The content of `mp_rank_00_model_states.pt`. There are no states of random numbers: load it with --finetune."""
    groups: list[OrderedDict[str, Any]] = [OrderedDict(), OrderedDict()]  # what decays, and vectors
    for piece, _ in named:
        size = (padded(shape.vocab_size), shape.hidden_size) if piece.kind == "vocabulary" else piece.shape
        groups[len(size) == 1][piece.megatron] = torch.Size(size)
    return {
        "module": _module(shape, named), "buffer_names": ["language_model.rotary_pos_emb.inv_freq"], "optimizer": None,
        "param_shapes": groups, "frozen_param_shapes": None, "shared_params": {}, "frozen_param_fragments": None,
        "lr_scheduler": _scheduler(at), "data_sampler": None, "random_ltd": None, "sparse_tensor_module_names": set(),
        "skipped_steps": 0, "global_steps": at.iteration, "global_samples": at.samples, "dp_world_size": 1,
        "mp_world_size": 1, "ds_config": {}, "ds_version": LAYOUT, "args": _args(shape, at),
        "checkpoint_version": CHECKPOINT_VERSION, "iteration": at.iteration, "tokens": at.tokens,
        "universal_checkpoint_info": {
            "universal_checkpoint_version": UNIVERSAL_VERSION, "original_vocab_size": shape.vocab_size,
            "padded_vocab_size": padded(shape.vocab_size),
            "vocabulary_parameter_patterns": [EMBEDDING] if shape.tied else [EMBEDDING, HEAD],
            "parameter_with_2_sub_params_cat_dim_0": [GATED],
        },
    }  # fmt: skip


def optimizer_state(at: Position) -> dict[str, Any]:
    """The content of `zero/optimizer_state.pt`: one group that decays and one that does not."""
    scaler: Any = stand_in("deepspeed.runtime.fp16.loss_scaler", "LossScaler")()
    scaler.__setstate__({"cur_scale": 1.0, "dynamic": False})
    state = {
        "loss_scaler": scaler, "dynamic_loss_scale": False, "overflow": False,
        "zero_stage": stand_in("deepspeed.runtime.zero.config", "ZeroStageEnum")(1), "group_paddings": [0, 0],
        "partition_count": [1, 1], "ds_version": LAYOUT, "param_groups": [_group(at, True), _group(at, False)],
    }  # fmt: skip
    return state | {"clip_grad": at.optimizer["clip"]} if at.optimizer else state


def _group(at: Position, decays: bool) -> dict[str, Any]:
    group: dict[str, Any] = {
        "name": f"{'' if decays else 'no_'}wd_no_scale_lr", "wd_mult": float(decays), "lr_mult": 1.0,
        "params": [int(not decays)],
    }  # fmt: skip
    if at.lr is not None:
        group["lr"] = at.lr
    if at.optimizer:
        group |= {"betas": tuple(at.optimizer["betas"]), "eps": at.optimizer["eps"]}
        group["weight_decay"] = at.optimizer["weight_decay"] if decays else 0.0
    return group


def _module(shape: Shape, named: Sequence[tuple[Piece, torch.Tensor]]) -> dict[str, Any]:
    """The weights as the trainer's module nests them, its tables padded with zeros."""
    found: dict[str, Any] = {"embedding": {}, "encoder": OrderedDict()}
    for piece, value in named:
        if piece.kind == "vocabulary":
            value = torch.nn.functional.pad(value, (0, 0, 0, padded(shape.vocab_size) - len(value)))
        if piece.megatron == EMBEDDING:
            found["embedding"]["word_embeddings"] = OrderedDict(weight=value)
        elif piece.megatron == HEAD:
            found["output_layer"] = OrderedDict(weight=value)
        else:
            found["encoder"][piece.megatron.removeprefix("language_model.encoder.")] = value
    return {"language_model": found}


def _scheduler(at: Position) -> dict[str, Any]:
    """A constant rate: the launch that goes on has a schedule of its own."""
    rate = at.lr_max or at.lr or 0.0
    return {
        "max_lr": rate, "lr_warmup_steps": 0, "lr_warmup_tokens": None, "num_steps": at.samples, "num_tokens": at.tokens,
        "lr_decay_style": "constant", "lr_decay_steps": max(1, at.samples), "lr_decay_tokens": None, "min_lr": 0.0,
        "start_wd": at.optimizer.get("weight_decay", 0.0), "end_wd": at.optimizer.get("weight_decay", 0.0),
        "wd_incr_style": "constant", "wd_incr_steps": max(1, at.samples),
    }  # fmt: skip


def _args(shape: Shape, at: Position) -> Namespace:
    """The launch's arguments that the trainer compares with its own, and those that say what the model is."""
    return Namespace(
        num_layers=shape.layers, encoder_num_layers=shape.layers, hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        kv_channels=shape.head_dim, max_position_embeddings=shape.max_positions, seq_length=at.sequence_length,
        use_rotary_position_embeddings=True, rope_theta=shape.rope_theta, rotary_percent=1.0,
        add_position_embedding=False, make_vocab_size_divisible_by=DIVISIBLE_BY, vocab_size=shape.vocab_size,
        padded_vocab_size=padded(shape.vocab_size), normalization="rmsnorm", layernorm_epsilon=shape.norm_eps,
        apply_layernorm_1p=False, swiglu=True, add_bias_linear=False, num_experts=[1],
        untie_embeddings_and_output_weights=not shape.tied, init_method_std=shape.init_std,
        tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_random_init=False,
        params_dtype=torch.float32, global_batch_size=at.global_batch_size, iteration=at.iteration,
        consumed_train_samples=at.samples, consumed_valid_samples=0, consumed_train_tokens=at.tokens,
    )  # fmt: skip
