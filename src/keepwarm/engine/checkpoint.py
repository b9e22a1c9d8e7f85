"""Checkpoints on disk: torch's DCP format for weights and moments, plus config and manifest.

Written aside and renamed whole (files.new_folder), never over an existing id: DCP itself destroys the good checkpoint
when killed while it overwrites one. A single process needs no process group; sharded runs write and read the same files.
Training goes on while a checkpoint is written: the step waits for a copy of the state only.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_state_dict, set_model_state_dict, set_state_dict
from torch.serialization import get_crc32_options, set_crc32_options

from keepwarm import files
from keepwarm.engine.parallel import World
from keepwarm.engine.weights import sha256_of, sums_of
from keepwarm.errors import LineageError
from keepwarm.lineage import guard
from keepwarm.lineage.manifest import Manifest, listed, verify_files, write_record

_ALONE = World(0, 1, 1, torch.device("cpu"), None, None)


class Saver:
    """Saves checkpoints of one model, one at a time, beside the training. Every process has one and calls it alike."""

    def __init__(self, world: World) -> None:
        """Nothing is saved yet."""
        self._world = world
        cuda = world.device.type == "cuda"
        # The copy's memory stays between checkpoints: new memory costs more than the copying.
        self._stager = DefaultStager(StagingOptions(cuda, False, False, cuda))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._running: Future[float] | None = None
        self.slowest_seconds = 0.0  # of the checkpoints so far, from the copy to the rename

    def save(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, manifest: Manifest) -> None:
        """Begin to save all that a bitwise resume needs into the new folder `folder`; waits for the one before.

        `manifest` lacks the hashes. What goes wrong is raised by the next call, or by `wait`.
        """
        self.wait()
        if self._world.leads:
            guard.enforce([guard.append_only(folder)], ())
        weights, moments = get_state_dict(model, optimizer)
        staged = self._stager.stage({"model": weights, "optimizer": moments})
        assert not isinstance(staged, Future)
        config: Any = model.config
        self._running = self._thread.submit(_timed, folder, staged, config, manifest, self._world)

    def wait(self) -> None:
        """Until the checkpoint that is being saved is on disk, for every process. Raises LineageError if it failed."""
        if self._running is not None:
            running, self._running = self._running, None
            self.slowest_seconds = max(self.slowest_seconds, running.result())
            self._world.wait_for_all()

    def check(self) -> None:
        """Raise what went wrong, where saving has failed; does not wait."""
        if self._running is not None and self._running.done() and self._running.exception() is not None:
            self.wait()

    def close(self) -> None:
        """End the thread. What it is writing it finishes, unless the process is killed."""
        self._thread.shutdown()
        self._stager.close()


def _timed(folder: Path, state: Mapping[str, Any], config: Any, manifest: Manifest, world: World) -> float:
    began = time.perf_counter()
    write(folder, state, config, manifest, world)
    return time.perf_counter() - began


def save_weights(folder: Path, model: nn.Module, manifest: Manifest) -> Manifest:
    """Save a whole model without an optimizer, from which nothing can be resumed; the manifest as it was written."""
    guard.enforce([guard.append_only(folder)], ())
    config: Any = model.config
    return write(folder, {"model": get_state_dict(model, [])[0]}, config, manifest, _ALONE)


def write(folder: Path, state: Mapping[str, Any], config: Any, manifest: Manifest, world: World) -> Manifest:
    """Write a state dict, by every process its shards; the leader adds config and manifest and renames. The manifest."""
    if not world.leads:
        _write_own(files.aside(folder), folder, state, world)
        return manifest
    with files.new_folder(folder) as aside:
        sha256, facts = _write_own(aside, folder, state, world)
        config.save_pretrained(aside)
        made = replace(manifest, weights_sha256=sha256, files={**listed(aside, facts), **facts})
        write_record(aside, made)
    return made


def _write_own(aside: Path, folder: Path, state: Mapping[str, Any], world: World) -> tuple[str, dict[str, Any]]:
    """Every process writes, hashes and syncs what it holds; the hash of the weights and the facts of all files by name."""
    world.gather_saved(None)  # the leader has made the folder
    own, whole = aside / "state" / f"__{world.rank}_0.distcp", threading.Event()
    with ThreadPoolExecutor(2) as beside:
        hashed = beside.submit(files.facts_while, own, whole)
        try:
            _write_shards(aside / "state", folder, state, world)
        finally:
            whole.set()
        sums = beside.submit(sums_of, state["model"])  # a third at once would slow the writing
        if own.exists():  # a process may hold nothing
            files.fsync_file(own)
        facts = hashed.result()
        together = world.gather_saved((sums.result(), {f"state/{own.name}": facts} if facts is not None else {}))
    sha256 = sha256_of(state["model"], [each for each, _ in together])
    return sha256, {name: found for _, each in together for name, found in each.items()}


def _write_shards(where: Path, folder: Path, state: Mapping[str, Any], world: World) -> None:
    writer = FileSystemWriter(where, sync_files=False)  # synced while hashed; more threads would swallow a disk's error
    with warnings.catch_warnings(), _without_crc32():
        warnings.filterwarnings("ignore", message=".*process group.*|.*torch.distributed.*|.*single process.*")
        try:
            state_dict_saver.save(
                dict(state), storage_writer=writer, process_group=world.saves, no_dist=world.size == 1
            )  # fmt: skip
        except CheckpointException as error:  # a BaseException; torch's writer hides the disk's own error in it
            raise _not_saved(folder, error) from None


@contextlib.contextmanager
def _without_crc32() -> Iterator[None]:
    """torch's files without checksums of their own, which cost as much as the writing: the manifest has SHA-256s."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)


def _not_saved(folder: Path, error: CheckpointException) -> LineageError:
    reason = "; ".join(str(cause).splitlines()[0] for cause, _ in error.failures.values())
    free_bytes = shutil.disk_usage(folder.parent).free
    return LineageError(
        f"{folder}: can't be saved ({reason}; {free_bytes / 1e9:.1f} GB are free on its disk)",
        "the disk, a quota or the file size limit (ulimit -f) refused it; the checkpoints before it are whole",
        "make room, then the same command goes on from the last checkpoint",
    )


def load(
    folder: Path, manifest: Manifest, model: nn.Module, optimizer: torch.optim.Optimizer | None, world: World = _ALONE
) -> None:
    """Restore weights, and with `optimizer` its moments, in place: each process reads what it holds.

    The groups' settings are the optimizer's own, those of the plan: what the file says about them is of no account.
    Raises LineageError when the files are not what the manifest lists.
    """
    verify_files(folder, manifest)
    weights, moments = get_state_dict(model, optimizer if optimizer is not None else [])
    state: dict[str, Any] = {"model": weights} | ({"optimizer": moments} if optimizer is not None else {})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*process group.*|.*torch.distributed.*|.*single process.*")
            state_dict_loader.load(
                state, checkpoint_id=folder / "state", process_group=world.words, no_dist=world.size == 1
            )  # fmt: skip
    except (CheckpointException, OSError, RuntimeError) as error:  # CheckpointException is a BaseException
        raise LineageError(
            f"{folder}: can't be loaded ({' '.join(str(error).split())[:160]})",
            "its tensors are damaged or are another architecture's",
            f"go on from another checkpoint; to make this one again: rm -r {folder}",
        ) from error
    if optimizer is None:
        set_model_state_dict(model, state["model"])
        return
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
