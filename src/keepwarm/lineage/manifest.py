"""The manifest: what a checkpoint is, written beside its weights, the only record lineage rests on.

A checkpoint is a folder `checkpoints/TOKENS-PHASE/` with `state/` (the tensors), `config.json` (the architecture)
and `manifest.json`, made aside and renamed in one step, so a folder with a manifest is whole. Parents are named by
their id (the path inside the run folder), and nothing is ever rewritten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from keepwarm import files
from keepwarm.errors import LineageError
from keepwarm.lineage.deletion import refuse_deleted

Phase = Literal["warming", "peak", "decaying", "cooled", "merged", "unknown"]
Known = Literal["measured", "declared"]  # read from a checkpoint's own state, or a person's word
Weights = Literal["dcp", "hugging-face", "megatron-deepspeed", "universal"]  # the format of the tensors
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A checkpoint's identity, position and provenance. Tokens are counted over the whole line, base included."""

    id: str  # path of the checkpoint's folder inside the run folder
    parent: str | None  # id of the checkpoint its attempt started from
    arm: str
    stage: str
    rung: str
    attempt: str  # SHA-256 of attempt.json
    plan: str  # SHA-256 of the plan
    step: int  # optimizer steps in the attempt
    samples: int  # samples in the attempt
    attempt_tokens: int
    line_tokens: int
    lr: float  # the rate the next step would use
    lr_max: float
    phase: Phase
    phase_is: Known = "measured"
    lr_is: Known = "measured"
    merged_from: tuple[str, ...] = ()  # ids of the checkpoints whose weights were averaged
    weights: Weights = "dcp"
    location: str | None = None  # the folder of the tensors, where it is not the manifest's own
    global_batch_size: int = 0  # sequences of the step that ended here; 0: not known
    unknown: tuple[str, ...] = ()  # what could not be established of a checkpoint that was trained elsewhere
    schedule: Mapping[str, Any] | None = None
    optimizer_state: bool = True
    sequence_length: int = 0
    vocab_size: int = 0
    tokenizer_sha256: str = ""
    document_mask: bool | None = None  # attention stays within a document; None: not known
    optimizer: Mapping[str, Any] = field(default_factory=dict)  # betas, eps, weight_decay, clip; empty: not known
    holdout: Mapping[str, str] = field(default_factory=dict)  # corpus -> id of its held-out token file
    architecture_sha256: str = ""
    weights_sha256: str = ""
    cursors: Mapping[str, int] = field(default_factory=dict)  # source id -> samples the line has consumed
    source_tokens: Mapping[str, int] = field(default_factory=dict)  # source id -> tokens the line was fed
    source_names: Mapping[str, str] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # corpus -> {loss, windows} over all held-out windows
    allowed: tuple[str, ...] = ()  # guards that refused on the way here and were overridden by name
    versions: Mapping[str, str] = field(default_factory=dict)
    threads: int = 0
    world_size: int = 1  # processes that computed it together
    precision: str = "fp32"  # of the products; weights and moments are always fp32
    compiled: bool = False
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # name -> {bytes, sha256}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder/manifest.json`, listing size and SHA-256 of every file in the folder."""
    write_record(folder, replace(manifest, files=listed(folder)))


def listed(folder: Path, known: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below `folder` that is not `known`, by its path in there: {bytes, sha256}."""
    paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: files.facts(path) for name, path in paths.items() if name not in known}


def write_record(folder: Path, manifest: Manifest) -> None:
    """Write `folder/manifest.json` as it stands: for a checkpoint whose files lie elsewhere."""
    files.write_json(folder / "manifest.json", {"format": FORMAT, **asdict(manifest)})


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/manifest.json`; LineageError if it is missing, damaged or of another format."""
    path = Path(folder) / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format")
        if version != FORMAT:
            raise ValueError(f"format {version}, this keepwarm reads format {FORMAT}")
        tuples = {name: tuple(content.get(name, ())) for name in ("allowed", "merged_from", "unknown")}
        return Manifest(**content | tuples)
    except FileNotFoundError:
        raise LineageError(
            f"{path}: no such file", "without its manifest nobody knows what a checkpoint is", f"ls {Path(folder)}"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LineageError(
            f"{path}: not a keepwarm manifest ({error})",
            "lineage rests on manifests; a damaged one can't be trusted",
            "restore the file, or remove the checkpoint's folder and run again",
        ) from error


def verify_files(folder: Path, manifest: Manifest, *, deep: bool = False) -> None:
    """Check that the checkpoint's files are there in full (`deep`: and hash to what the manifest says).

    LineageError where they are not, with the recorded reason where they were deleted.
    """
    refuse_deleted(folder)
    for name, facts in manifest.files.items():
        path = Path(folder) / name
        size = path.stat().st_size if path.exists() else None
        damage = "is missing" if size is None else f"has {size} bytes, not {facts['bytes']}"
        if size == facts["bytes"]:
            if not deep or files.sha256_file(path) == facts["sha256"]:
                continue
            damage = "has other content than when it was saved"
        raise LineageError(
            f"{path}: {damage}",
            "a checkpoint that is not whole must not be trained on",
            f"restore it, or remove the checkpoint and run again: rm -r {folder}",
        )


def checkpoint_name(line_tokens: int, phase: Phase) -> str:
    """Folder name `TOKENS-PHASE`; zero-padded so that names sort by position."""
    return f"{line_tokens:015d}-{phase}"


def is_checkpoint_name(name: str) -> bool:
    """True for a finished checkpoint's folder name (what is still being written has a suffix)."""
    return re.fullmatch(r"[0-9]{15}-[a-z]+", name) is not None


def checkpoints_of(attempt_folder: Path) -> list[Path]:
    """Finished checkpoints of one attempt, oldest first."""
    folder = attempt_folder / "checkpoints"
    found = [path for path in folder.iterdir() if is_checkpoint_name(path.name)] if folder.is_dir() else []
    return sorted(path for path in found if (path / "manifest.json").is_file())
