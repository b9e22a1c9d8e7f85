"""ZeRO-1/2 checkpoints of DeepSpeed as universal copies, by DeepSpeed's own converter. A task of apart.py.

Three things of its 0.19.8 are put right in the process that runs it. It unpickles whatever a file names: here by the
allow-list. It takes a group's whole padding off one rank, where at many ranks it lies on several (348 elements, 1,024
of padding: narrow() fails): here nothing is taken off, for what it extracts is addressed element by element. And it
takes every entry of a model's `module` for a tensor, where Megatron's is nested.
"""

from __future__ import annotations

import importlib.util
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from keepwarm.convert import pickles
from keepwarm.convert.universal import MODEL_STATES
from keepwarm.errors import KeepwarmError, LineageError
from keepwarm.lineage.pickled import attributes, read_pickled

INFO = "universal_checkpoint_info"
INJECTED = (
    f"the checkpoint has no {INFO}: DeepSpeed's converter put an empty one in its place, so padding of the vocabulary, "
    "if there is any, is still there"
)


def check_installed() -> None:
    """KeepwarmError where there is no DeepSpeed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise KeepwarmError(
            "DeepSpeed is not installed",
            "a ZeRO checkpoint is put together by DeepSpeed's own converter",
            "pip install 'keepwarm[deepspeed]'",
        )


def universal(source: str, out: str) -> list[str]:
    """Write the universal copy of a step as the new folder `out`; what to know of it, in words.

    Every file is checked against the allow-list before the converter begins. LineageError for one that is not on it,
    and for what the converter itself refuses.
    """
    files = sorted(Path(source).glob("*.pt"))
    for path in files:
        pickles.check(path)
    lacks = INFO not in attributes(read_pickled(Path(source) / MODEL_STATES))
    if lacks and (Path(source) / MODEL_STATES.replace("00", "01")).exists():
        raise LineageError(
            f"{source}: is split over tensor-parallel ranks, and has no {INFO}",
            "how the parts of a matrix go together stands there alone",
            f"save it by a trainer that writes {INFO}, as Megatron-DeepSpeed does",
        )
    _convert(Namespace(
        input_folder=source, output_folder=out, num_extract_workers=1, num_merge_workers=1, keep_temp_folder=False,
        strict=False, inject_missing_state=lacks,
    ))  # fmt: skip
    checked = f"its {len(files)} pickled files were checked before DeepSpeed read them: they name nothing that is not on the list"
    return [checked, INJECTED] if lacks else [checked]


def _convert(asked: Namespace) -> None:
    torch.load = _load  # type: ignore[assignment]
    from deepspeed.checkpoint import ds_to_universal, zero_checkpoint

    for kind in vars(zero_checkpoint).values():
        if hasattr(kind, "_strip_tensor_paddings"):
            kind._strip_tensor_paddings = lambda self, state: None
    try:
        ds_to_universal.main(asked)
    except (AssertionError, RuntimeError, ValueError, KeyError, OSError, NotImplementedError) as error:
        if isinstance(error, KeepwarmError):
            raise
        raise LineageError(
            f"{asked.input_folder}: DeepSpeed's converter can't ({' '.join(str(error).split())[:200]})",
            "nothing was written",
            "check that the step's files are whole; ZeRO-1 and ZeRO-2 with a torch optimizer can be converted",
        ) from error


def _load(path: Any, *_: Any, **__: Any) -> Any:
    """What stands for torch.load: by the allow-list, and with Megatron's module as one dict of tensors."""
    found = pickles.load(path)
    if isinstance(found, dict) and isinstance(found.get("module"), dict):
        found["module"] = dict(_flat(found["module"], ""))
    return found


def _flat(module: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name, each in module.items():
        if isinstance(each, Mapping):
            yield from _flat(each, f"{prefix}{name}.")
        elif isinstance(each, torch.Tensor):
            yield f"{prefix}{name}", each
