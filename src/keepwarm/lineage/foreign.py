"""Checkpoints that were trained elsewhere: what kind a folder is, and what its own state says. Nothing is assumed.

No torch is needed, no tensor is read, and nothing that a file says is run (pickled.py).
"""

from __future__ import annotations

from pathlib import Path

from keepwarm.errors import LineageError
from keepwarm.lineage.converted import with_record
from keepwarm.lineage.foreign_facts import Foreign
from keepwarm.lineage.foreign_hugging_face import hugging_face
from keepwarm.lineage.foreign_megatron import is_step_folder, megatron, named_step, steps_in
from keepwarm.lineage.manifest import Manifest, read_manifest


def is_checkpoint(folder: Path) -> bool:
    """True for a folder that `look_at` knows how to read, whole or not."""
    named = ("manifest.json", "config.json", "latest", "latest_universal")
    return any((folder / name).is_file() for name in named) or is_step_folder(folder) or bool(steps_in(folder))


def look_at(folder: Path) -> Foreign:
    """What `folder` is and what it says of itself.

    A folder of several Megatron-DeepSpeed steps is followed to the one that its `latest` or `latest_universal` names.
    LineageError for a folder that is no checkpoint, is half-written, or points nowhere.
    """
    if (folder / "manifest.json").is_file():
        return of_manifest(folder, read_manifest(folder))
    if (folder / "config.json").is_file():
        return with_record(hugging_face(folder))
    if is_step_folder(folder):
        return with_record(megatron(folder))
    if steps_in(folder) or (folder / "latest").exists() or (folder / "latest_universal").exists():
        return with_record(megatron(*named_step(folder)))
    there = "there is no such folder" if not folder.is_dir() else "neither a keepwarm checkpoint (manifest.json), a "
    if folder.is_dir():
        there += "Hugging Face folder (config.json) nor a Megatron-DeepSpeed checkpoint (global_stepN)"
    raise LineageError(f"{folder}: {there}", "there are no weights to go on from", "name the folder of a checkpoint")


def look_at_all(folder: Path) -> tuple[Foreign, ...]:
    """Every checkpoint of a folder, oldest first: itself, or all of its steps; of a step and its universal copy, the copy.

    Raises LineageError as `look_at`.
    """
    steps = [] if is_step_folder(folder) else steps_in(folder)
    if not steps:
        return (look_at(folder),)
    newest = {}
    for number, step in sorted(steps, key=lambda each: (each[0], each[1].name.endswith("_universal"))):
        newest[number] = step
    return tuple(megatron(step) for step in newest.values())


def of_manifest(folder: Path, manifest: Manifest) -> Foreign:
    """A checkpoint of our own, or one that was adopted: what its manifest says."""
    known = manifest.phase != "unknown"
    return Foreign(
        kind="keepwarm", folder=folder, iteration=manifest.step, samples=manifest.samples,
        tokens=manifest.line_tokens, global_batch_size=manifest.global_batch_size or None,
        sequence_length=manifest.sequence_length or None, lr=manifest.lr, lr_max=manifest.lr_max,
        lr_from=f"manifest.json ({manifest.lr_is})", phase=manifest.phase,
        phase_from=f"manifest.json ({manifest.phase_is})" if known else "", moments=manifest.optimizer_state,
        architecture={"vocab_size": manifest.vocab_size} if manifest.vocab_size else {}, unknown=manifest.unknown,
    )  # fmt: skip
