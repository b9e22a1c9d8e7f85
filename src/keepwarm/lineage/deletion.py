"""Deleting a checkpoint's tensors, safe against a kill at any moment: `deleted.json` first, then the files.

The manifest and the small JSON files stay, for lineage is append-only. A checkpoint with a `deleted.json` counts as
deleted from that moment on; what a kill left of its tensors goes when it is deleted again.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from keepwarm import files
from keepwarm.errors import LineageError

RECORD = "deleted.json"


@dataclass(frozen=True, slots=True)
class Deletion:
    """When a checkpoint's tensors were deleted (UTC), why, and how many bytes they took."""

    when: str
    why: str
    bytes: int


def deletion_of(folder: Path) -> Deletion | None:
    """The record in a checkpoint's folder; None while the checkpoint is whole. LineageError if it is damaged."""
    path = Path(folder) / RECORD
    try:
        return Deletion(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise LineageError(
            f"{path}: damaged ({error})",
            "it says that the checkpoint's tensors are gone, and why",
            f"remove the checkpoint's folder: rm -r {folder}",
        ) from error


def refuse_deleted(folder: Path) -> None:
    """LineageError, with the recorded reason, where a checkpoint's tensors were deleted."""
    deletion = deletion_of(folder)
    if deletion is None:
        return
    raise LineageError(
        f"{folder}: its tensors were deleted on {deletion.when} ({deletion.why})",
        "only its record is left; nothing can start from it or go on from it",
        "start from a checkpoint that is kept; keepwarm lineage RUN_FOLDER lists them",
    )


def tensors_of(folder: Path, listed: Collection[str]) -> list[Path]:
    """Of the files that a manifest lists, those that are not small JSON and are still there."""
    found = (Path(folder) / name for name in listed if not name.endswith(".json"))
    return [path for path in found if path.is_file()]


def bytes_of(folder: Path, listed: Collection[str]) -> int:
    """Bytes that a checkpoint's tensors take on the disk now."""
    return sum(path.stat().st_size for path in tensors_of(folder, listed))


def delete(folder: Path, listed: Collection[str], why: str) -> int:
    """Delete a checkpoint's tensors, or finish doing so; returns the bytes freed."""
    tensors = tensors_of(folder, listed)
    freed = sum(path.stat().st_size for path in tensors)
    with files.explained(Path(folder), "delete"):
        if deletion_of(folder) is None:
            when = datetime.now(UTC).isoformat(timespec="seconds")
            files.write_json(Path(folder) / RECORD, asdict(Deletion(when, why, freed)))
        for path in tensors:
            path.unlink()
        for parent in {(Path(folder) / name).parent for name in listed} - {Path(folder)}:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
    return freed
