"""A checkpoint in another format: which way leads from what a folder is to what is asked for.

Hugging Face folders hold weights; universal copies and keepwarm's checkpoints also moments. Whatever is pickled is read
only where it is trusted, in a process of its own (apart.py), by an allow-list (pickles.py).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch

from keepwarm import __version__, files
from keepwarm.convert import deepspeed, to_universal
from keepwarm.convert.apart import apart
from keepwarm.convert.hugging_face import published, to_hugging_face, trained_here
from keepwarm.convert.states import Position
from keepwarm.convert.universal import read_universal
from keepwarm.engine.weights import weights_sha256
from keepwarm.errors import KeepwarmError, LineageError
from keepwarm.lineage.converted import Converted, Dtype, Moments, write_record
from keepwarm.lineage.foreign import look_at
from keepwarm.lineage.foreign_facts import NO_MOMENTS, Foreign
from keepwarm.lineage.manifest import Manifest, Weights, read_manifest, verify_files

Target = Literal["hf", "universal", "dcp"]
POINTER = "latest_universal"
NO_TOKENIZER = "there is no tokenizer in it: put the trainer's tokenizer.json beside the weights"
NEEDS_FINETUNE = (
    "it holds no states of random numbers and no position in data: load it with --finetune --universal-checkpoint"
)
ZEROS = "its moments are zeros, as there were none: the optimizer begins anew"
PADDED = "whether its vocabulary is padded is not known: every row was taken for a token"
VERSIONS = {"keepwarm": __version__, "torch": torch.__version__}


def convert_folder(
    source: Path, out: Path, to: Target, *, dtype: Dtype | None = None, moments: Literal["keep", "reset"] | None = None,
    trust: bool = False,
) -> Converted | Manifest:  # fmt: skip
    """Write the checkpoint in `source` as the new folder `out`: what its keepwarm.json says, or its manifest (dcp).

    Beside a universal copy, `latest_universal` names it. Raises LineageError for what can't be read or is that format
    already, KeepwarmError if `out` exists or the disk refuses it.
    """
    _check_asked(to, dtype, moments)
    if (source / "arms").is_dir():
        trained_here(source)  # refuses it
    found = look_at(source)
    _check_moments(found, moments)
    if found.kind in ("universal", "megatron-deepspeed"):
        check_trusted(found, trust)
        return _of_trainer(found, out, to, dtype or "fp32", reset=moments == "reset")
    if to == "hf":
        return to_hugging_face(source, out, dtype or "fp32")
    if to == "dcp":
        raise _already(source, f"{found.words()} already, or is as good a base as one: base: {{checkpoint: {source}}}")
    return _as_universal(found, out, moments)


def check_trusted(found: Foreign, trust: bool) -> None:
    """LineageError unless the pickled files of a checkpoint may be read."""
    if trust:
        return
    path = next(iter(sorted(found.folder.glob("*.pt"))))
    raise LineageError(
        f"{path}: is a pickled file, as all of {found.folder} are",
        "such a file can name programs to run; keepwarm reads it by a list of what may be named, if you trust its maker",
        "the same command with --trust at its end",
    )


@contextlib.contextmanager
def as_universal(found: Foreign, scratch: Path) -> Iterator[tuple[Path, list[str]]]:
    """A trainer's checkpoint as a universal copy, made in the new folder `scratch` if it is none, and what to know."""
    if found.kind == "universal":
        yield found.folder, []
        return
    deepspeed.check_installed()
    try:
        yield scratch / "copy", apart("deepspeed", "universal", source=str(found.folder), out=str(scratch / "copy"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _of_trainer(found: Foreign, out: Path, to: Target, dtype: Dtype, *, reset: bool) -> Converted | Manifest:
    if to == "universal" and found.kind == "universal" and not reset:
        raise _already(found.folder, "a universal copy already")
    if to == "universal":
        _check_pointer(out)
    with files.new_folder(out) as aside, as_universal(found, aside / ".universal") as (copy, notes):
        if to == "dcp":
            return _as_checkpoint(found, copy, aside, out, reset)
        if to == "universal":
            record = _copied(found, copy, aside, reset, notes)
        else:
            record = _exported(found, copy, aside, out, dtype, notes)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(aside / ".universal")
        made = write_record(aside, record)
    if to == "universal":
        _point(out)
    return made


def _exported(found: Foreign, copy: Path, aside: Path, out: Path, dtype: Dtype, notes: list[str]) -> Converted:
    more = [NO_TOKENIZER] if read_universal(copy).padding_is_known else [PADDED, NO_TOKENIZER]
    sums = apart("from_universal", "hugging_face", source=str(copy), out=str(aside), shown=str(out), dtype=dtype)
    return replace(_record(found, dtype, "hugging-face", "none", [*notes, *more]), **sums)


def _copied(found: Foreign, copy: Path, aside: Path, reset: bool, notes: list[str]) -> Converted:
    """A universal copy of a step as it is, or with the optimizer begun anew."""
    if reset:
        apart("zeroed", "zeroed", source=str(copy), out=str(aside))
        (aside / "keepwarm.json").unlink(missing_ok=True)  # of the copy it was made from
    else:
        for path in copy.iterdir():
            path.rename(aside / path.name)
    kept: Moments = "kept" if found.moments else "none"
    return _record(found, "fp32", "universal", "reset" if reset else kept, notes)


def _as_checkpoint(found: Foreign, copy: Path, aside: Path, out: Path, reset: bool) -> Manifest:
    if found.lr is None:
        raise LineageError(
            f"{found.folder}: does not say at which learning rate it ended",
            "a checkpoint of keepwarm holds its rate, and it is never assumed",
            f"keepwarm convert {found.folder} FOLDER --to hf, and declare it: base: {{checkpoint: FOLDER, lr: ..., phase: ...}}",
        )
    moments, made = found.moments and not reset, aside / ".made/checkpoint"
    manifest = asdict(_manifest(found, out, found.lr))
    apart("from_universal", "checkpoint", source=str(copy), out=str(made), manifest=manifest, moments=moments)
    for path in made.iterdir():
        path.rename(aside / path.name)
    shutil.rmtree(made.parent)
    return read_manifest(aside)


def _as_universal(found: Foreign, out: Path, moments: Literal["keep", "reset"] | None) -> Converted:
    """A keepwarm checkpoint or a Hugging Face folder."""
    keepwarm = found.kind == "keepwarm"
    manifest = trained_here(found.folder) if keepwarm else None
    there = manifest is not None and manifest.optimizer_state
    _check_pointer(out)
    keep = there and moments != "reset"
    with files.new_folder(out) as aside:
        if manifest is not None:
            verify_files(found.folder, manifest, deep=True)
            source = to_universal.of_checkpoint(found.folder, manifest, keep)
        else:
            source = to_universal.of_model(published(found.folder))
        settings = manifest.optimizer if manifest is not None and keep else {}
        # The rate goes over the launch's own: it belongs to the moments, and to a restart 0.
        rate = found.lr if keep else 0.0 if there else None
        to_universal.write(aside, source, _position(found, settings, rate), found.folder)
        state: Moments = "kept" if keep else "reset" if there else "zero"
        record = _record(found, "fp32", "universal", state, [NEEDS_FINETUNE, *([] if there else [ZEROS])])
        sha256 = weights_sha256(source.weights)
        made = write_record(
            aside, replace(_of_manifest(record, manifest), weights_sha256=sha256, converted_sha256=sha256)
        )
    _point(out)
    return made


def _position(found: Foreign, settings: Mapping[str, Any], lr: float | None) -> Position:
    return Position(
        iteration=found.iteration or 0, samples=found.samples or 0, tokens=found.tokens or 0,
        lr=lr, lr_max=found.lr_max, global_batch_size=found.global_batch_size or 0,
        sequence_length=found.sequence_length or 0, optimizer=settings,
    )  # fmt: skip


def _record(found: Foreign, dtype: Dtype, written: Weights, moments: Moments, notes: list[str]) -> Converted:
    return Converted(
        checkpoint=str(found.folder.resolve()), manifest_sha256="", weights_sha256="", dtype=dtype, converted_sha256="",
        step=found.iteration or 0, samples=found.samples or 0, line_tokens=found.tokens or 0, lr=found.lr,
        lr_max=found.lr_max, phase=found.phase, global_batch_size=found.global_batch_size or 0,
        sequence_length=found.sequence_length or 0, document_mask=None, tokenizer_sha256="", versions=VERSIONS, files={},
        written=written, moments=moments, notes=tuple(notes),
    )  # fmt: skip


def _of_manifest(record: Converted, manifest: Manifest | None) -> Converted:
    if manifest is None:
        return record
    return replace(
        record, checkpoint=manifest.id, document_mask=manifest.document_mask, tokenizer_sha256=manifest.tokenizer_sha256,
    )  # fmt: skip


def _manifest(found: Foreign, out: Path, lr: float) -> Manifest:
    return Manifest(
        id=out.name, parent=None, arm="cookbook", stage="base", rung="given", attempt="", plan="",
        step=found.iteration or 0, samples=found.samples or 0, attempt_tokens=found.tokens or 0,
        line_tokens=found.tokens or 0, lr=lr, lr_max=found.lr_max or lr, phase=found.phase,
        global_batch_size=found.global_batch_size or 0, sequence_length=found.sequence_length or 0,
        unknown=tuple(each for each in found.unknown if each != NO_MOMENTS), versions=VERSIONS,
    )  # fmt: skip


def _check_asked(to: Target, dtype: Dtype | None, moments: str | None) -> None:
    """Refuse what has no meaning for a format."""
    if to == "hf" and moments is not None:
        raise KeepwarmError(
            f"--moments {moments}: a Hugging Face folder holds weights alone",
            "there would be no moments in it, whatever is asked",
            "leave --moments out; or --to universal, or --to dcp",
        )
    if to != "hf" and dtype == "bf16":
        raise KeepwarmError(
            f"--dtype bf16: the weights of --to {to} are fp32",
            "training goes on from them, and what rounding takes away does not come back",
            "leave --dtype out; or --to hf",
        )


def _check_moments(found: Foreign, moments: str | None) -> None:
    there = found.moments and found.kind != "hugging-face"
    if moments == "keep" and not there:
        raise LineageError(
            f"{found.folder}: holds no moments of an optimizer that can be kept",
            "the optimizer begins anew from it, whatever is asked",
            "leave --moments out",
        )


def _already(folder: Path, what: str) -> LineageError:
    return LineageError(
        f"{folder}: is {what}", "its weights need no conversion", f"use it as it is, or copy it: cp -r {folder} COPY"
    )


def _check_pointer(out: Path) -> None:
    pointer = out.parent / POINTER
    named = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else out.name
    if named != out.name:
        raise KeepwarmError(
            f"{pointer}: names {named} already",
            "the trainer loads what it names, and it names one",
            f"choose a folder of its own, {out.parent / 'restart' / out.name}; or let go of what it names: rm {pointer}",
        )


def _point(out: Path) -> None:
    """Let the trainer's loader find the copy: LOAD is the folder above it."""
    files.write_text(out.parent / POINTER, out.name)
