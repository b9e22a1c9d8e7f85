"""Universal copies of Megatron-DeepSpeed's checkpoints as they lie on disk: what they hold, and their tensors.

`zero/NAME/{fp32,exp_avg,exp_avg_sq}.pt` hold a parameter whole, whatever the number of ranks, the vocabulary without
its padding; `zero/NAME/step.pt` the updates it had. What the model is, the launch's arguments in
`mp_rank_00_model_states.pt` say; they are read without running anything (lineage/pickled.py), tensors by pickles.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from keepwarm.convert import pickles
from keepwarm.convert.llama import EMBEDDING, Piece, Shape, pieces
from keepwarm.errors import LineageError
from keepwarm.lineage.foreign_megatron import megatron
from keepwarm.lineage.pickled import Tensor, attributes, read_pickled

MODEL_STATES = "mp_rank_00_model_states.pt"
Part = Literal["fp32", "exp_avg", "exp_avg_sq"]
MOMENTS: Sequence[Part] = ("exp_avg", "exp_avg_sq")
PARTS: Sequence[Part] = ("fp32", *MOMENTS)
# What the trainer's arguments must be for its model to be Hugging Face's Llama; what is not named there is so.
_AS_LLAMA: Mapping[str, Any] = {
    "normalization": "rmsnorm", "swiglu": True, "use_rotary_position_embeddings": True, "rotary_percent": 1.0,
    "apply_layernorm_1p": False, "add_position_embedding": False, "num_experts": [1],
    "apply_residual_connection_post_layernorm": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Universal:
    """One universal copy. `padding_is_known`: the rows of its vocabulary are tokens, and none is padding."""

    folder: Path
    shape: Shape
    moments: bool
    padding_is_known: bool
    groups: Sequence[Mapping[str, Any]]  # of the optimizer: lr, betas, eps, weight_decay
    clip: float | None


def read_universal(folder: Path) -> Universal:
    """What a universal copy holds. LineageError if it is half-written, or is no Llama-like model."""
    moments = megatron(folder).moments  # refuses what is half-written
    state = attributes(read_pickled(folder / MODEL_STATES))
    args, info = attributes(state.get("args")), attributes(state.get("universal_checkpoint_info"))
    _check_llama(folder, args)
    optimizer = attributes(read_pickled(folder / "zero/optimizer_state.pt"))
    shape = _shape(args, _rows(folder))
    _check_names(folder, shape)
    groups = [attributes(each) for each in optimizer.get("param_groups") or ()]
    return Universal(folder, shape, moments, "original_vocab_size" in info, groups, optimizer.get("clip_grad"))


def tensor(found: Universal, piece: Piece, part: Part) -> torch.Tensor:
    """A parameter, or a moment of it, in fp32. Reads a pickled file; LineageError if it is another than the model's."""
    path = found.folder / "zero" / piece.megatron / f"{part}.pt"
    held = pickles.load(path)
    value = held.get("param") if isinstance(held, dict) else None
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32 or tuple(value.shape) != piece.shape:
        is_now = f"{tuple(value.shape)}, {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise LineageError(
            f"{path}: holds {is_now}; the launch's arguments make it {piece.shape}, torch.float32",
            "the weights would land in another model",
            "copy the checkpoint again from where it was made",
        )
    return value.detach()


def steps(found: Universal, piece: Piece) -> float:
    """Updates that a parameter had; 0 where no file says. Reads a pickled file."""
    path = found.folder / "zero" / piece.megatron / "step.pt"
    return float(pickles.load(path)) if path.is_file() else 0.0


def _check_llama(folder: Path, args: Mapping[str, Any]) -> None:
    if not args:
        raise LineageError(
            f"{folder / MODEL_STATES}: keeps no arguments of the launch",
            "how many heads and layers the model has stands nowhere else",
            "name a checkpoint that Megatron-DeepSpeed saved; its model_states hold `args`",
        )
    wrong = {key: args[key] for key, wanted in _AS_LLAMA.items() if key in args and args[key] != wanted}
    if wrong:
        told = ", ".join(f"{key} {value!r}" for key, value in wrong.items())
        raise LineageError(
            f"{folder / MODEL_STATES}: was launched with {told}",
            "Hugging Face's Llama has RMSNorm, SwiGLU and whole rotary embeddings; this model computes something else",
            "convert it to no other format: the trainer itself goes on with it as it is",
        )


def _shape(args: Mapping[str, Any], rows: int) -> Shape:
    heads = int(args["num_attention_heads"])
    return Shape(
        layers=int(args["num_layers"]), hidden_size=int(args["hidden_size"]), heads=heads,
        kv_heads=int(args.get("num_key_value_heads") or heads),
        head_dim=int(args.get("kv_channels") or int(args["hidden_size"]) // heads),
        ffn_hidden_size=int(args["ffn_hidden_size"]), vocab_size=rows, rope_theta=float(args.get("rope_theta") or 10000),
        norm_eps=float(args["layernorm_epsilon"]),
        max_positions=int(args.get("max_position_embeddings") or args["seq_length"]),
        init_std=float(args.get("init_method_std") or 0.02), tied=not args.get("untie_embeddings_and_output_weights"),
    )  # fmt: skip


def _rows(folder: Path) -> int:
    """Entries of the vocabulary, from the shape of its table."""
    path = folder / "zero" / EMBEDDING / "fp32.pt"
    if not path.is_file():
        raise _other_names(folder, f"there is no {EMBEDDING}")
    table = attributes(read_pickled(path)).get("param")
    if not isinstance(table, Tensor) or len(table.shape) != 2:
        raise _other_names(folder, f"{EMBEDDING} is no table")
    return table.shape[0]


def _check_names(folder: Path, shape: Shape) -> None:
    wanted = {piece.megatron for piece in pieces(shape)}
    there = {path.name for path in (folder / "zero").iterdir() if path.is_dir()}
    if lost := sorted(wanted - there):
        raise _other_names(folder, f"{len(lost)} of its parameters are missing, {lost[0]} first")
    if more := sorted(there - wanted):
        raise _other_names(folder, f"it holds {more[0]} too")


def _other_names(folder: Path, what: str) -> LineageError:
    return LineageError(
        f"{folder}/zero: is not the Llama-like model that the launch's arguments describe ({what})",
        "weights that no place is known for would be lost, or drawn at random",
        "save it by a launch with --no-pipeline-parallel (train_alcf.sh: PP=1), whose parameters have these names",
    )
