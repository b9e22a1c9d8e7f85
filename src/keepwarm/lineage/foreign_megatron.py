"""Checkpoints of Megatron-DeepSpeed (`global_stepN`) and their universal copies (`global_stepN_universal`).

`mp_rank_00_model_states.pt` of either holds the scheduler's state, the launch's arguments and the position. The rate
that the next step uses lies with the optimizer: in `zero_pp_rank_0_mp_rank_00_optim_states.pt`, or in the copy's
`zero/optimizer_state.pt`. The phase is what the reference's own schedule gives at that position.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from keepwarm.errors import KeepwarmError, LineageError
from keepwarm.lineage.foreign_facts import NO_MOMENTS, Foreign, Launch, half_written, same_rate
from keepwarm.lineage.manifest import Phase
from keepwarm.lineage.pickled import Tensor, attributes, is_whole, read_pickled
from keepwarm.schedule.megatron import flags_of_args, reference_schedule

_STEP = re.compile(r"global_step([0-9]+)(_universal)?")
_MODEL_STATES = re.compile(r"mp_rank_([0-9]+)_model_states\.pt")
_OPTIMIZER_STATES = re.compile(r"(?:bf16_)?zero_pp_rank_([0-9]+)_mp_rank_([0-9]+)_optim_states\.pt")
_ARCHITECTURE = {
    "hidden_size": "hidden_size", "num_layers": "layers", "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads", "ffn_hidden_size": "ffn_hidden_size", "vocab_size": "vocab_size",
    "padded_vocab_size": "padded_vocab_size", "rope_theta": "rope_theta",
}  # fmt: skip
# What a saved state holds is the schedule's own, whatever the launch that saved it had asked about an earlier one.
_AS_SAVED = {
    "use_checkpoint_opt_param_scheduler": True, "override_opt_param_scheduler": False, "finetune": False,
    "universal_checkpoint": False, "load": None,
}  # fmt: skip


def steps_in(folder: Path) -> list[tuple[int, Path]]:
    """The steps saved in a folder, with their iterations, in order."""
    found = [(_STEP.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(match[1]), path) for match, path in found if match and path.is_dir())


def is_step_folder(folder: Path) -> bool:
    """True for one step: by its name, or by the files in it."""
    return folder.is_dir() and bool(_STEP.fullmatch(folder.name) or _matches(folder, _MODEL_STATES))


def named_step(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The step that `latest` names (else `latest_universal`), and what is odd about it, in words; LineageError if none."""
    steps = [path for _, path in steps_in(folder)]
    names = {name: folder / name for name in ("latest", "latest_universal") if (folder / name).is_file()}
    if not names and not steps:
        raise LineageError(
            f"{folder}: holds no checkpoint, neither global_step<N> nor a file that names one",
            "there is nothing to go on from",
            "name the folder that the trainer saved into",
        )
    if not names:
        copies = all(path.name.endswith("_universal") for path in steps)
        missing = "latest_universal" if copies else "latest"
        harm = (
            "DeepSpeed refuses to load it"
            if copies
            else "the trainer would start from random weights, with exit code 0"
        )
        raise LineageError(
            f"{folder}: has steps, but no file `{missing}` that says which one to load",
            harm,
            f"name the step itself: {steps[-1]}",
        )
    found = {}
    for name, path in names.items():
        found[name] = _pointed(path)
        if not is_step_folder(found[name]):
            there = f"name a step that is there: {steps[-1]}" if steps else "copy the checkpoint again"
            raise LineageError(
                f"{path}: names {found[name].name!r}, and there is no such step",
                "the trainer would start from random weights, with exit code 0",
                there,
            )
    chosen = found.get("latest") or found["latest_universal"]
    other = found.get("latest_universal", chosen)
    odd = _number(chosen) is not None and _number(other) is not None and _number(other) != _number(chosen)
    return chosen, (
        f"latest names {chosen.name}, latest_universal {other.name}: the former was looked at",
    ) if odd else ()


def megatron(folder: Path, remarks: Sequence[str] = ()) -> Foreign:
    """What one step says of itself; LineageError if it is half-written."""
    ranks = _matches(folder, _MODEL_STATES)
    if not ranks:
        raise half_written(folder, "there is no mp_rank_00_model_states.pt")
    state = attributes(read_pickled(folder / ranks[0]))
    args, scheduler = attributes(state.get("args")), attributes(state.get("lr_scheduler"))
    universal = (folder / "zero").is_dir() or folder.name.endswith("_universal")
    _check_model_states(folder, ranks, state)
    optimizer, moments = (_universal if universal else _partitions)(folder, state)
    iteration = _whole(state.get("iteration"))
    unknown = [*remarks, *_split(ranks), *_unpointed(folder, universal)]
    rate, rate_from, phase, phase_from, lr_max = _schedule(args, scheduler, iteration or 0, optimizer, unknown)
    if not args:
        unknown.append("the launch's arguments: none are kept in the checkpoint, so the order of its data is not known")
    if not moments:
        unknown.append(NO_MOMENTS)
    return Foreign(
        kind="universal" if universal else "megatron-deepspeed", folder=folder, iteration=iteration,
        samples=_whole(args.get("consumed_train_samples")),
        tokens=_whole(args.get("consumed_train_tokens"), state.get("tokens")),
        global_batch_size=_whole(args.get("global_batch_size")), sequence_length=_whole(args.get("seq_length")),
        lr=rate, lr_max=lr_max, lr_from=rate_from, phase=phase, phase_from=phase_from, moments=moments,
        architecture=_architecture(args, attributes(state.get("universal_checkpoint_info"))),
        launch=_launch(args) if args else None, unknown=tuple(unknown),
    )  # fmt: skip


def scheduler_state(folder: Path) -> dict[str, Any]:
    """What the trainer restores of a learning-rate schedule from a step, with its iteration and the LR in use.

    `folder` is a step, or holds several, one of which is named. Raises LineageError if it is none, or keeps no state.
    """
    step = folder if is_step_folder(folder) else named_step(folder)[0]
    ranks = _matches(step, _MODEL_STATES)
    if not ranks:
        raise half_written(step, "there is no mp_rank_00_model_states.pt")
    state = attributes(read_pickled(step / ranks[0]))
    scheduler = attributes(state.get("lr_scheduler"))
    if not scheduler:
        raise LineageError(
            f"{step}: keeps no state of a learning-rate schedule",
            "where its run stood on its curve is not known",
            "name a step that was saved with its optimizer",
        )
    universal = (step / "zero").is_dir() or step.name.endswith("_universal")
    optimizer, _ = (_universal if universal else _partitions)(step, state)
    found = _numbers(scheduler) | {"iteration": _whole(state.get("iteration")), "lr": _rate(optimizer)}
    return {key: value for key, value in found.items() if key not in ("iteration", "lr") or value is not None}


def _number(folder: Path) -> int | None:
    match = _STEP.fullmatch(folder.name)
    return int(match[1]) if match else None


def _matches(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if pattern.fullmatch(path.name))


def _check_model_states(folder: Path, names: Sequence[str], state: Mapping[str, Any]) -> None:
    wanted = _whole(state.get("mp_world_size")) or 1
    if len(names) < wanted:
        raise half_written(folder, f"{len(names)} of {wanted} mp_rank_*_model_states.pt are there")
    cut = [name for name in names if not is_whole(folder / name)]
    if cut:
        raise half_written(folder, f"{cut[0]} is cut short")


def _partitions(folder: Path, state: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The first partition of the optimizer (empty if none is there), and whether it holds moments."""
    names = _matches(folder, _OPTIMIZER_STATES)
    if not names:
        return attributes(state.get("optimizer")), bool(attributes(state.get("optimizer")).get("state"))
    first = next((name for name in names if "zero_pp_rank_0_mp_rank_00_" in name), None)
    if first is None:
        raise half_written(folder, "the optimizer's partition of rank 0 is missing")
    whole = attributes(attributes(read_pickled(folder / first)).get("optimizer_state_dict"))
    counts = whole.get("partition_count")
    parts = _whole(counts[0] if isinstance(counts, list) and counts else None, state.get("dp_world_size")) or 1
    wanted = parts * (_whole(state.get("mp_world_size")) or 1)
    if len(names) < wanted:
        raise half_written(folder, f"{len(names)} of {wanted} partitions of the optimizer are there")
    cut = [name for name in names if not is_whole(folder / name)]
    if cut:
        raise half_written(folder, f"{cut[0]} is cut short")
    base = attributes(whole.get("base_optimizer_state"))
    return base or whole, bool(base.get("state", whole.get("base_optimizer_state")))


def _universal(folder: Path, state: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The optimizer's state of a universal copy, and whether every parameter has its moments."""
    zero = folder / "zero"
    if not (zero / "optimizer_state.pt").is_file():
        raise half_written(folder, "zero/optimizer_state.pt is missing")
    shapes = state.get("param_shapes")
    listed = [name for group in shapes if isinstance(group, dict) for name in group] if isinstance(shapes, list) else []
    names = listed or [path.name for path in zero.iterdir() if path.is_dir()]
    if not names:
        raise half_written(folder, "zero/ holds no parameter")
    lost = [name for name in names if not (zero / name / "fp32.pt").is_file()]
    if lost:
        raise half_written(folder, f"{len(lost)} of {len(names)} parameters are missing, {lost[0]} first")
    held = [all((zero / name / f"{each}.pt").is_file() for each in ("exp_avg", "exp_avg_sq")) for name in names]
    if any(held) and not all(held):
        raise half_written(folder, f"the moments of {names[held.index(False)]} are missing")
    return attributes(read_pickled(zero / "optimizer_state.pt")), all(held)


def _split(ranks: Sequence[str]) -> list[str]:
    """Tensors that lie in parts, told from rank 0's own."""
    if len(ranks) == 1:
        return []
    return [f"the tensors are split over {len(ranks)} tensor-parallel ranks; the facts here are rank 0's"]


def _unpointed(folder: Path, universal: bool) -> list[str]:
    """What the trainer would do with this step's parent as LOAD, where nothing there names a step that is there."""
    pointer = folder.parent / ("latest_universal" if universal else "latest")
    harm = (
        "DeepSpeed refuses to load from there" if universal else "a launch with it as LOAD starts from random weights"
    )
    if not _STEP.fullmatch(folder.name) or (pointer.is_file() and _pointed(pointer).is_dir()):
        return []
    if not pointer.is_file():
        return [f"{folder.parent} has no file `{pointer.name}`: {harm}"]
    return [f"{pointer} names {_pointed(pointer).name}, which is not there: {harm}"]


def _pointed(pointer: Path) -> Path:
    return pointer.parent / pointer.read_text(encoding="utf-8", errors="replace").strip()


def _schedule(
    args: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    iteration: int,
    optimizer: Mapping[str, Any],
    unknown: list[str],
) -> tuple[float | None, str, Phase, str, float | None]:
    """LR and phase with the state each was read from, and LR_max; what does not follow is added to `unknown`."""
    used = _rate(optimizer)
    used_from = "the optimizer's state" if used is not None else ""
    if not args or not scheduler:
        unknown.append("the phase: the checkpoint keeps no state of a learning-rate schedule")
        return used, used_from, "unknown", "", None
    try:
        schedule = reference_schedule(
            flags_of_args(dict(args) | _AS_SAVED), _numbers(scheduler) | {"iteration": iteration}
        )
        due, phase = float(schedule.lr([schedule.first_step])[0]), cast(Phase, schedule.phase(schedule.first_step))
    except KeepwarmError as error:
        unknown.append(f"the phase: {error.what}")
        return used, used_from, "unknown", "", None
    if used is None:
        return due, "the scheduler's state", phase, "the scheduler's state", schedule.lr_max
    if not same_rate(used, due):
        unknown.append(f"the phase: the optimizer's LR is {used:g}, its schedule gives {due:g} at this position")
        return used, used_from, "unknown", "", schedule.lr_max
    return used, used_from, phase, "the scheduler's state", schedule.lr_max


def _numbers(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler's state without what is no number; its two styles are words."""
    return {
        key: value for key, value in scheduler.items()
        if isinstance(value, str if key.endswith("style") else int | float | None)
    }  # fmt: skip


def _rate(optimizer: Mapping[str, Any]) -> float | None:
    """The LR of the groups that take it as it is (lr_mult 1); None if there is none, or they differ."""
    groups = optimizer.get("param_groups")
    found = [attributes(each) for each in groups] if isinstance(groups, list) else []
    rates = {
        each.get("lr") for each in found if each.get("lr_mult", 1.0) == 1.0 and not isinstance(each.get("lr"), Tensor)
    }
    rate = rates.pop() if len(rates) == 1 else None
    return float(rate) if isinstance(rate, int | float) else None


def _architecture(args: Mapping[str, Any], universal: Mapping[str, Any]) -> Mapping[str, int | float]:
    values = dict(args) | (
        {"vocab_size": universal["original_vocab_size"]} if "original_vocab_size" in universal else {}
    )
    found = {name: values.get(key) for key, name in _ARCHITECTURE.items()}
    return {name: value for name, value in found.items() if isinstance(value, int | float) and value}


def _launch(args: Mapping[str, Any]) -> Launch:
    iterations, batch = _whole(args.get("train_iters")), _whole(args.get("global_batch_size"))
    built_for = iterations * batch if iterations is not None and batch is not None else None
    listing = args.get("data_file_list")
    return Launch(
        samples=_whole(args.get("train_samples"), built_for), seed=_whole(args.get("seed")),
        shuffled=args.get("shuffle_sample_in_corpus") is True, blended=args.get("blend_sample_in_corpus") is True,
        list_path=listing if isinstance(listing, str) else None, finetune=args.get("finetune") is True,
    )  # fmt: skip


def _whole(*values: Any) -> int | None:
    """The first that is a whole number."""
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)
