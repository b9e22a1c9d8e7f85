"""Checkpoints as the trainer writes and reads them: DeepSpeed's ZeRO-1 partitions, and universal copies to load.

It writes `global_stepN` and `latest`, as the real one does; a universal copy is made by another program.
"""

from __future__ import annotations

import dataclasses
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import torch

GROUPS = ("wd_no_scale_lr", "no_wd_no_scale_lr")
VOCABULARY = ("language_model.embedding.word_embeddings.weight", "language_model.output_layer.weight")


@dataclasses.dataclass
class fragment_address:  # noqa: N801 - DeepSpeed's name, under which it is pickled
    numel: int
    start: int


fragment_address.__module__ = "deepspeed.utils.tensor_fragment"


class _Inert:
    """What stands for a class that is not imported."""

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, state):
        pass


class Unpickler(pickle.Unpickler):
    """Reads what other programs wrote, without their packages."""

    def find_class(self, module, name):
        if name == "fragment_address":
            return fragment_address
        if module.partition(".")[0] in ("deepspeed", "megatron", "ezpz"):
            return type(name, (_Inert,), {})
        return super().find_class(module, name)


load = pickle.load


def read(path: Path):
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=sys.modules[__name__])


def groups_of(weights) -> list[list[str]]:
    """Names of the parameters with and without weight decay."""
    return [
        [name for name in weights if weights[name].dim() > 1],
        [name for name in weights if weights[name].dim() == 1],
    ]


def save(folder: Path, iteration: int, weights, optimizer, state: dict, ranks: int) -> None:
    step = folder / f"global_step{iteration}"
    step.mkdir(parents=True, exist_ok=True)
    module: dict = {"language_model": {"embedding": {"word_embeddings": {}}, "encoder": {}, "output_layer": {}}}
    inner = module["language_model"]
    for name, value in weights.items():
        value = value.detach().clone()
        if name == VOCABULARY[0]:
            inner["embedding"]["word_embeddings"]["weight"] = value
        elif name == VOCABULARY[1]:
            inner["output_layer"]["weight"] = value
        else:
            inner["encoder"][name.removeprefix("language_model.encoder.")] = value
    groups = groups_of(weights)
    shapes = [OrderedDict((name, weights[name].shape) for name in group) for group in groups]
    torch.save({"module": module, "param_shapes": shapes, **state}, step / "mp_rank_00_model_states.pt")
    fakes = {name: types.ModuleType(name) for name in
             ("deepspeed", "deepspeed.utils", "deepspeed.utils.tensor_fragment")}  # fmt: skip
    fakes["deepspeed.utils.tensor_fragment"].fragment_address = fragment_address
    sys.modules.update(fakes)
    for rank in range(ranks):
        content = {"optimizer_state_dict": _partition(weights, optimizer, groups, rank, ranks), "ds_version": "0.17.5"}
        torch.save(content, step / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    for name in fakes:
        del sys.modules[name]
    (folder / "latest_checkpointed_iteration.txt").write_text(str(iteration))
    aside = folder / "latest.aside"
    aside.write_text(step.name)
    aside.rename(folder / "latest")


def _partition(weights, optimizer, groups, rank: int, ranks: int) -> dict:
    fp32, paddings, mappings, moments = [], [], [], {}
    for number, names in enumerate(groups):
        flat = torch.cat([weights[name].detach().flatten() for name in names])
        size = -(-len(flat) // (2 * ranks)) * 2
        first, last = rank * size, min((rank + 1) * size, len(flat))
        fp32.append(flat[first:last].clone())
        paddings.append(size * ranks - len(flat) if rank == ranks - 1 else 0)
        both = {}
        for key in ("exp_avg", "exp_avg_sq"):
            whole = torch.cat([optimizer.state[weights[name]][key].flatten() for name in names])
            both[key] = torch.nn.functional.pad(whole, (0, size * ranks - len(whole)))[first : first + size].clone()
        moments[number] = {"step": optimizer.state[weights[names[0]]]["step"].clone(), **both}
        at, mapping = 0, OrderedDict()
        for name in names:
            begin, end = max(at, first), min(at + weights[name].numel(), last)
            if begin < end:
                mapping[name] = fragment_address(end - begin, begin - first)
            at += weights[name].numel()
        mappings.append(mapping)
    return {
        "loss_scaler": None, "dynamic_loss_scale": False, "overflow": False, "clip_grad": 1.0,
        "base_optimizer_state": {"state": moments, "param_groups": _param_groups(optimizer)},
        "single_partition_of_fp32_groups": fp32, "zero_stage": 1, "group_paddings": paddings,
        "partition_count": [ranks] * len(groups), "ds_version": "0.17.5", "param_slice_mappings": mappings,
    }  # fmt: skip


def _param_groups(optimizer) -> list[dict]:
    keys = ("lr", "betas", "eps", "weight_decay")
    return [
        {"name": name, "wd_mult": float(number == 0), "lr_mult": 1.0, **{key: group[key] for key in keys}, "params": [number]}
        for number, (name, group) in enumerate(zip(GROUPS, optimizer.param_groups, strict=True))
    ]  # fmt: skip


def read_step(step: Path, padded: int, ranks: int):
    """(weights, moments, step count, LR of the optimizer's groups, model states) of a step or a universal copy."""
    states = read(step / "mp_rank_00_model_states.pt")
    return (*(_universal(step, padded) if (step / "zero").is_dir() else _partitions(step, states, ranks)), states)


def _universal(step: Path, padded: int):
    weights, moments, count = {}, {"exp_avg": {}, "exp_avg_sq": {}}, 0.0
    for folder in (step / "zero").iterdir():
        if not folder.is_dir():
            continue
        for key, target in (("fp32", weights), *moments.items()):
            value = read(folder / f"{key}.pt")["param"].detach().clone()
            if folder.name in VOCABULARY and len(value) < padded:
                value = torch.nn.functional.pad(value, (0, 0, 0, padded - len(value)))
            target[folder.name] = value
        count = float(read(folder / "step.pt"))
    rate = float(read(step / "zero" / "optimizer_state.pt")["param_groups"][0]["lr"])
    return weights, moments, count, rate


def _partitions(step: Path, states, ranks: int):
    files = sorted(
        step.glob("*zero_pp_rank_*_optim_states.pt"), key=lambda path: int(path.name.split("_rank_")[1].split("_")[0])
    )
    if len(files) != ranks:
        raise RuntimeError(
            f"ZeRORuntimeException: The checkpoint being loaded used a DP world size of {len(files)} but the current world "
            f"size is {ranks}. Automatic adjustment of ZeRO's optimizer state partitioning with a new world size is not "
            "currently supported."
        )
    parts = [read(path)["optimizer_state_dict"] for path in files]
    weights, moments = {}, {"exp_avg": {}, "exp_avg_sq": {}}
    for number, shapes in enumerate(states["param_shapes"]):
        total = sum(shape.numel() for shape in shapes.values())
        flat = torch.cat([part["single_partition_of_fp32_groups"][number] for part in parts])[:total]
        both = {
            key: torch.cat([part["base_optimizer_state"]["state"][number][key] for part in parts])[:total]
            for key in moments
        }
        at = 0
        for name, shape in shapes.items():
            cut = slice(at, at + shape.numel())
            weights[name] = flat[cut].view(shape).clone()
            for key, value in both.items():
                moments[key][name] = value[cut].view(shape).clone()
            at += shape.numel()
    first = parts[0]["base_optimizer_state"]
    return weights, moments, float(first["state"][0]["step"]), float(first["param_groups"][0]["lr"])
