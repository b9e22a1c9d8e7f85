"""Hugging Face folders: a model that was published, or a checkpoint of a Trainer with the state of its training.

A model's folder says nothing of a learning rate. A Trainer's says the rate of its next step in `scheduler.pt`
(`_last_lr`) and what it was before in `trainer_state.json` (`log_history`); the phase follows from them only where
every curve they allow agrees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from keepwarm.errors import LineageError
from keepwarm.lineage.foreign_facts import NO_LR, NO_MOMENTS, NO_PHASE, Foreign, half_written, same_rate
from keepwarm.lineage.manifest import Phase
from keepwarm.lineage.pickled import attributes, read_pickled

_ARCHITECTURE = {
    "hidden_size": "hidden_size", "num_hidden_layers": "layers", "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads", "intermediate_size": "ffn_hidden_size", "vocab_size": "vocab_size",
    "rope_theta": "rope_theta", "max_position_embeddings": "max_position_embeddings",
}  # fmt: skip
_CONSTANT = {"constant", "constant_with_warmup"}


def hugging_face(folder: Path) -> Foreign:
    """What a folder with a config.json says of itself; LineageError if its weights are not there in full."""
    _check_weights(folder)
    config, trainer = _json(folder / "config.json"), _json(folder / "trainer_state.json")
    scheduler, optimizer = _attributes(folder / "scheduler.pt"), _attributes(folder / "optimizer.pt")
    lr, lr_max = _only(scheduler.get("_last_lr")), _only(scheduler.get("base_lrs"))
    phase, unknown = _phase(lr, lr_max, trainer, _schedule_type(folder))
    if lr is None:
        unknown = [NO_LR, NO_PHASE]
    moments = bool(optimizer.get("state"))
    if not moments:
        unknown.append(NO_MOMENTS)
    step = trainer.get("global_step")
    rope = config.get("rope_parameters")
    values = (rope if isinstance(rope, dict) else {}) | config
    return Foreign(
        kind="hugging-face", folder=folder, iteration=step if isinstance(step, int) else None, lr=lr, lr_max=lr_max,
        lr_from="scheduler.pt" if lr is not None else "", phase=phase,
        phase_from="scheduler.pt and trainer_state.json" if phase != "unknown" else "", moments=moments,
        architecture={name: values[key] for key, name in _ARCHITECTURE.items() if isinstance(values.get(key), int | float)},
        unknown=tuple(unknown),
    )  # fmt: skip


def _check_weights(folder: Path) -> None:
    """Refuse a folder without weights, or with shards that are missing or cut short."""
    for index in sorted(folder.glob("*.index.json")):
        wanted = sorted(set(attributes(_json(index).get("weight_map")).values()))
        lost = [name for name in wanted if not (folder / str(name)).is_file()]
        if lost:
            raise half_written(folder, f"{len(lost)} of the {len(wanted)} files that {index.name} names are missing")
    found = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    if not found:
        raise LineageError(
            f"{folder}: has a config.json and no weights (model.safetensors or pytorch_model.bin)",
            "there is nothing to go on from",
            "name the folder that save_pretrained wrote, or convert the weights to it",
        )
    for path in found:
        if path.suffix == ".safetensors" and (damage := _safetensors_damage(path)):
            raise half_written(folder, f"{path.name} {damage}")


def _safetensors_damage(path: Path) -> str | None:
    """What a safetensors file lacks of what its header promises: u64 length, JSON header, tensors."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if length > size:
            return "is cut short"
        try:
            header = json.loads(file.read(length))
            end = max((each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"), default=0)
        except (ValueError, TypeError, KeyError, AttributeError):
            return "has a damaged header"
    return "is cut short" if 8 + length + end > size else None


def _phase(
    lr: float | None, lr_max: float | None, trainer: Mapping[str, Any], schedule_type: str | None
) -> tuple[Phase, list[str]]:
    """The phase if every curve that fits the state has it there, else what is missing, in words."""
    if lr is None or lr_max is None:
        return "unknown", []
    logged = [each["learning_rate"] for each in _history(trainer)]
    step, most = trainer.get("global_step"), trainer.get("max_steps")
    ended = isinstance(step, int) and isinstance(most, int) and step >= most
    fell = next((number for number in range(1, len(logged)) if _below(logged[number], logged[number - 1])), None)
    if same_rate(lr, lr_max):
        if schedule_type in _CONSTANT or (logged and fell is None):
            return "peak", []
        return "unknown", ["the phase: its LR is the largest, and nothing says that it did not fall before"]
    reached = bool(logged) and same_rate(max(logged), lr_max)
    if reached and fell is not None and all(not _below(a, b) for a, b in pairwise(logged[fell - 1 :])):
        return ("cooled" if ended else "decaying"), []
    rising = bool(logged) and fell is None and not _below(lr, logged[-1])
    if rising and not ended:
        return "warming", []
    return "unknown", [
        f"the phase: its LR {lr:g} is below the largest, {lr_max:g}, and its log does not say how it got there"
    ]


def _below(one: float, other: float) -> bool:
    return one < other and not same_rate(one, other)


def _history(trainer: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The records of trainer_state.json that hold an LR, oldest first."""
    history = trainer.get("log_history")
    return [
        each for each in (history if isinstance(history, list) else [])
        if isinstance(each, dict) and isinstance(each.get("learning_rate"), int | float)
    ]  # fmt: skip


def _schedule_type(folder: Path) -> str | None:
    """`lr_scheduler_type` of training_args.bin: an enum, pickled as the call that makes it from its word."""
    asked = _attributes(folder / "training_args.bin").get("lr_scheduler_type")
    word = getattr(asked, "arguments", (asked,))
    return word[0] if word and isinstance(word[0], str) else None


def _attributes(path: Path) -> Mapping[str, Any]:
    return attributes(read_pickled(path)) if path.is_file() else {}


def _only(values: Any) -> float | None:
    """The rate of all groups; None if there is none, or they differ."""
    rates = set(values) if isinstance(values, list) and all(isinstance(each, int | float) for each in values) else set()
    return float(rates.pop()) if len(rates) == 1 else None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LineageError(
            f"{path}: not JSON ({error})", "it says what the checkpoint is", "restore it from where it was made"
        ) from None
    return content if isinstance(content, dict) else {}
