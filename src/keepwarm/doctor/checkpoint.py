"""Traps of checkpoint folders: half-written steps, pointers to nothing, and what a conversion or another cut would change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from keepwarm.backends.megatron.machines import VOCABULARY_MULTIPLE
from keepwarm.doctor.loading import FROM_RANDOM
from keepwarm.doctor.trap import Sight, trap
from keepwarm.errors import LineageError
from keepwarm.lineage.foreign_megatron import is_step_folder, megatron, steps_in
from keepwarm.lineage.pickled import Tensor, attributes, read_pickled

_STATE = "mp_rank_00_model_states.pt"
_ZERO_ALIGNMENT = 2  # partitions are multiples of it (deepspeed stage_1_and_2.py, NCCL's start alignment)


@dataclass(frozen=True)
class Step:
    """One saved step."""

    folder: Path

    @property
    def universal(self) -> bool:
        """A universal copy."""
        return (self.folder / "zero").is_dir() or self.folder.name.endswith("_universal")

    @cached_property
    def error(self) -> LineageError | None:
        """Why it can't be loaded."""
        try:
            megatron(self.folder)
        except LineageError as error:
            return error
        return None

    @cached_property
    def state(self) -> Mapping[str, Any]:
        """What rank 0's model states say of themselves; nothing where they can't be read."""
        try:
            return attributes(read_pickled(self.folder / _STATE))
        except LineageError:
            return {}

    def whole(self, *keys: str) -> int | None:
        """A whole number of the state by its keys, through objects and dicts."""
        value: Any = self.state
        for key in keys:
            value = attributes(value).get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class Saved:
    """What a folder holds: steps, and the files that say which one is loaded. `tensor_parallel` of the launch that loads it."""

    folder: Path
    steps: tuple[Step, ...]
    pointers: Mapping[str, str]
    tensor_parallel: int | None = None


def read_saved(folder: Path, tensor_parallel: int | None = None) -> Saved:
    """A step's folder, or the one that holds steps."""
    if is_step_folder(folder):
        return Saved(folder, (Step(folder),), {}, tensor_parallel)
    pointers = {
        name: (folder / name).read_text(encoding="utf-8", errors="replace").strip()
        for name in ("latest", "latest_universal") if (folder / name).is_file()
    }  # fmt: skip
    return Saved(folder, tuple(Step(path) for _, path in steps_in(folder)), pointers, tensor_parallel)


@trap(
    "half-written",
    "checkpoint",
    "lost",
    seen="a step with files missing or cut short",
    source="golden/checkpoint/layout.json",
    harm="it can't be loaded: the trainer stops, or trains from the step before",
)
def half_written(saved: Saved) -> Iterator[Sight]:
    """A save that was killed."""
    for step in saved.steps:
        if step.error is not None:
            pointing = any(step.folder.name == name for name in saved.pointers.values())
            whole = [
                each.folder.name for each in saved.steps if each.error is None and each.universal == step.universal
            ]
            name = "latest_universal" if step.universal else "latest"
            fix = (
                f"printf {whole[-1]} > {saved.folder / name}"
                if pointing and whole
                else f"mv {step.folder} {step.folder}.broken"
            )
            yield Sight(str(step.folder), step.error.what, fix)


@trap(
    "no-pointer",
    "checkpoint",
    "silent",
    seen="steps, and no `latest` (or `latest_universal`) that says which one to load",
    harm="with the folder as LOAD the trainer trains random weights, with exit code 0; DeepSpeed refuses a universal one",
    source=FROM_RANDOM,
)
def no_pointer(saved: Saved) -> Iterator[Sight]:
    """One for each form that is there."""
    if len(saved.steps) == 1 and saved.steps[0].folder == saved.folder:
        return
    for universal, name in ((False, "latest"), (True, "latest_universal")):
        names = [step.folder.name for step in saved.steps if step.universal == universal]
        if names and name not in saved.pointers:
            yield Sight(
                str(saved.folder),
                f"no file `{name}`, steps up to {names[-1]}",
                f"printf {names[-1]} > {saved.folder / name}",
            )


@trap(
    "dangling-pointer",
    "checkpoint",
    "silent",
    seen="a `latest` that names a step which is not there",
    harm="with the folder as LOAD the trainer trains random weights, with exit code 0, or stops",
    source=FROM_RANDOM,
)
def dangling_pointer(saved: Saved) -> Iterator[Sight]:
    """As a copy of one step leaves it."""
    for name, target in saved.pointers.items():
        if target and (saved.folder / target).is_dir():
            continue
        names = [step.folder.name for step in saved.steps if step.universal == (name == "latest_universal")]
        fix = (
            f"printf {names[-1]} > {saved.folder / name}"
            if names
            else f"copy {target} too, or rm {saved.folder / name}"
        )
        yield Sight(str(saved.folder / name), f"names {target or 'nothing'}, which is not there", fix)


@trap(
    "pointers-differ",
    "checkpoint",
    "silent",
    seen="`latest` and `latest_universal` that name different steps",
    harm="--universal-checkpoint decides which of two steps is loaded",
    source="lineage of converted checkpoints",
)
def pointers_differ(saved: Saved) -> Iterator[Sight]:
    """A copy that was not made anew."""
    plain, universal = saved.pointers.get("latest"), saved.pointers.get("latest_universal")
    if plain and universal and universal.removesuffix("_universal") != plain and (saved.folder / plain).is_dir():
        yield Sight(
            str(saved.folder), f"latest names {plain}, latest_universal {universal}",
            f"keepwarm convert {saved.folder / plain} {saved.folder / plain}_universal --to universal --trust",
        )  # fmt: skip


@trap(
    "zero-padding",
    "checkpoint",
    "stops",
    seen="a group of parameters whose padding is larger than a ZeRO partition",
    harm="deepspeed's own ds_to_universal.py takes all of it off one rank: narrow(): length must be non-negative",
    source="golden/checkpoint/padding_bug.json",
)
def zero_padding(saved: Saved) -> Iterator[Sight]:
    """From the numbers of elements and of data-parallel ranks; the tensors are not read."""
    for step in saved.steps:
        ranks = step.whole("dp_world_size")
        groups = step.state.get("param_shapes")
        if step.universal or not ranks or not isinstance(groups, list):
            continue
        for number, group in enumerate(groups):
            elements = sum(math.prod(shape_of(shape)) for shape in attributes(group).values())
            partition, padding = partition_of(elements, ranks)
            if padding > partition:
                yield Sight(
                    str(step.folder), f"group {number}, {elements:,} elements over {ranks:,} ranks: partitions of {partition:,}, "
                    f"padding {padding:,}, left {partition - padding:,}",
                    f"keepwarm convert {step.folder} {step.folder}_universal --to universal --trust",
                )  # fmt: skip


def shape_of(value: Any) -> Sequence[int]:
    """A shape, however torch kept it."""
    return value.shape if isinstance(value, Tensor) else tuple(value) if isinstance(value, tuple | list) else (0,)


def partition_of(elements: int, ranks: int) -> tuple[int, int]:
    """(elements of a rank's partition, padding behind the last) of a flat group under ZeRO 1 or 2."""
    partition = math.ceil(elements / (_ZERO_ALIGNMENT * ranks)) * _ZERO_ALIGNMENT
    return partition, partition * ranks - elements


@trap(
    "padded-vocabulary",
    "checkpoint",
    "silent",
    seen="a vocabulary that is no multiple of 128 x tensor parallelism",
    harm="padded rows join the softmax, and a universal copy fills them with zeros: the loss jumps at the resume",
    source="golden/runs/universalD_tp2_padded256.log",
)
def padded_vocabulary(saved: Saved) -> Iterator[Sight]:
    """With zeros for logits in place of trained ones; the rows a launch would have, by its tensor parallelism."""
    for step in saved.steps:
        words = step.whole("universal_checkpoint_info", "original_vocab_size")
        saved_rows = step.whole("universal_checkpoint_info", "padded_vocab_size") or step.whole(
            "args", "padded_vocab_size"
        )
        parallel = saved.tensor_parallel or step.whole("args", "tensor_model_parallel_size") or 1
        if not words or not saved_rows:
            continue
        rows = math.ceil(words / (VOCABULARY_MULTIPLE * parallel)) * VOCABULARY_MULTIPLE * parallel
        if rows != words or (saved.tensor_parallel and rows != saved_rows):
            yield Sight(
                str(step.folder), f"{words:,} words, {saved_rows:,} rows as saved, {rows:,} at tensor parallelism {parallel}: "
                f"{rows - words:,} rows of zeros after a universal resume; random weights begin at ln {rows:,} = "
                f"{math.log(rows):.4f}",
                "expect the loss a little off after a universal resume; load the plain step where the cut is the same",
            )  # fmt: skip
