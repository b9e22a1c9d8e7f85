"""`keepwarm.json`: what a checkpoint was before it was converted, beside its weights in another format.

Its rate and phase hold for the weights that it was written with, and for no others: their hashes are compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from keepwarm import files
from keepwarm.errors import LineageError
from keepwarm.lineage.foreign_facts import NO_LR, NO_MOMENTS, NO_PHASE, Foreign
from keepwarm.lineage.manifest import Phase, Weights, listed

RECORD = "keepwarm.json"
ZERO_MOMENTS = "the optimizer's moments are zeros: it begins anew"
_WEIGHTS = (".safetensors", ".pt")
FORMAT = 1
Dtype = Literal["fp32", "bf16"]
Moments = Literal[
    "none", "kept", "reset", "zero"
]  # reset: there were some; zero: there were none, and the format has them


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """Where converted weights came from. What a manifest holds too has the manifest's name."""

    checkpoint: str  # its id, or its folder where it was trained elsewhere
    manifest_sha256: str  # "": it has none
    weights_sha256: str  # the checkpoint's; "": of an architecture that was not looked into
    dtype: Dtype  # of the weights here
    converted_sha256: str  # as weights_sha256, of the weights here
    step: int
    samples: int
    line_tokens: int
    lr: float | None
    lr_max: float | None
    phase: Phase
    global_batch_size: int
    sequence_length: int
    document_mask: bool | None
    tokenizer_sha256: str
    versions: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]]  # name -> {bytes, sha256}
    written: Weights = "hugging-face"  # the format here
    moments: Moments = "none"  # of the optimizer, here
    notes: tuple[str, ...] = ()  # what to know before it is used


def write_record(folder: Path, record: Converted) -> Converted:
    """Write `folder/keepwarm.json`, listing every file in the folder; returns the record as written."""
    complete = replace(record, files=listed(folder))
    files.write_json(folder / RECORD, {"format": FORMAT, **asdict(complete)})
    return complete


def read_record(folder: Path) -> Converted:
    """Read `folder/keepwarm.json`; LineageError if it is damaged or of another format."""
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError(f"this keepwarm reads format {FORMAT}")
        return Converted(**content | {"notes": tuple(content.get("notes", ()))})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LineageError(
            f"{path}: can't be read ({error})",
            "it says at which rate and in which phase the weights beside it ended",
            f"restore it; or declare base: {{lr: ..., phase: ...}} and remove it: rm {path}",
        ) from error


def with_record(found: Foreign) -> Foreign:
    """What is known of a folder together with what its keepwarm.json says, where it has one.

    Raises LineageError if the record is damaged, or was written with other weights.
    """
    if not (found.folder / RECORD).is_file():
        return found
    record = read_record(found.folder)
    _check_weights(found.folder, record)
    return replace(
        found, iteration=record.step, samples=record.samples, tokens=record.line_tokens,
        global_batch_size=record.global_batch_size or None, sequence_length=record.sequence_length or None,
        lr=record.lr, lr_max=record.lr_max, lr_from=RECORD if record.lr is not None else "", phase=record.phase,
        phase_from=RECORD if record.phase != "unknown" else "", moments=record.moments == "kept",
        unknown=tuple(_unknown(record)),
    )  # fmt: skip


def _unknown(record: Converted) -> Iterator[str]:
    """What neither the folder nor the checkpoint that it was converted from says."""
    if record.lr is None:
        yield NO_LR
    if record.phase == "unknown":
        yield NO_PHASE
    if record.moments != "kept":
        yield NO_MOMENTS if record.moments == "none" else ZERO_MOMENTS


def _check_weights(folder: Path, record: Converted) -> None:
    for name, facts in record.files.items():
        path = folder / name
        if path.suffix not in _WEIGHTS or (path.is_file() and files.sha256_file(path) == facts["sha256"]):
            continue
        raise LineageError(
            f"{path}: {'has other weights than' if path.is_file() else 'is missing, and was there by'} {RECORD}",
            "the rate and the phase on record are those of the weights that were converted",
            f"convert the checkpoint again; or, if the weights were trained on: rm {folder / RECORD}, and declare "
            "base: {lr: ..., phase: ...}",
        )
