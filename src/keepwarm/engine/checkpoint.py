"""Checkpoints on disk: torch's DCP format for weights, moments and random state, plus config and manifest.

Written aside and renamed whole (files.new_folder), never over an existing id: DCP itself destroys the good checkpoint
when killed while it overwrites one. A single process needs no process group; sharded runs read the same files.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_model_state_dict, set_state_dict

from keepwarm import files
from keepwarm.errors import LineageError
from keepwarm.lineage import guard
from keepwarm.lineage.manifest import Manifest, verify_files, write_manifest


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, manifest: Callable[[], Manifest]
) -> Manifest:
    """Save everything a bitwise resume needs into the new folder `folder`; returns the manifest written.

    Without an optimizer the weights alone: nothing can be resumed from them.
    """
    guard.enforce([guard.append_only(folder)], ())
    weights, moments = get_state_dict(model, optimizer if optimizer is not None else [])
    state: dict[str, Any] = {"model": weights}
    if optimizer is not None:
        state |= {"optimizer": moments, "rng": torch.get_rng_state()}
    with files.new_folder(folder) as aside:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*process group.*|.*torch.distributed.*|.*single process.*")
            try:
                state_dict_saver.save(state, checkpoint_id=aside / "state", no_dist=True)
            except CheckpointException as error:  # a BaseException; torch's writer hides the disk's own error in it
                raise _not_saved(folder, error) from None
        model.config.save_pretrained(aside)  # type: ignore[union-attr, operator]
        made = manifest()
        write_manifest(aside, made)
    return made


def _not_saved(folder: Path, error: CheckpointException) -> LineageError:
    reason = "; ".join(str(cause).splitlines()[0] for cause, _ in error.failures.values())
    free_bytes = shutil.disk_usage(folder.parent).free
    return LineageError(
        f"{folder}: can't be saved ({reason}; {free_bytes / 1e9:.1f} GB are free on its disk)",
        "the disk, a quota or the file size limit (ulimit -f) refused it; the checkpoints before it are whole",
        "make room, then the same command goes on from the last checkpoint",
    )


def load(folder: Path, manifest: Manifest, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """Restore weights, and with `optimizer` its moments and the random state, in place.

    Learning rates in the moments' groups are the schedule's to set, so what the file says about them is of no account.
    Raises LineageError when the files are not what the manifest lists.
    """
    verify_files(folder, manifest)
    weights, moments = get_state_dict(model, optimizer if optimizer is not None else [])
    state: dict[str, Any] = {"model": weights}
    if optimizer is not None:
        state |= {"optimizer": moments, "rng": torch.get_rng_state()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*process group.*|.*torch.distributed.*|.*single process.*")
            state_dict_loader.load(state, checkpoint_id=folder / "state", no_dist=True)
    except (CheckpointException, OSError, RuntimeError) as error:  # CheckpointException is a BaseException
        raise LineageError(
            f"{folder}: can't be loaded ({' '.join(str(error).split())[:160]})",
            "its tensors are damaged or are another architecture's",
            f"go on from another checkpoint; to make this one again: rm -r {folder}",
        ) from error
    if optimizer is None:
        set_model_state_dict(model, state["model"])
        return
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    torch.set_rng_state(state["rng"])
