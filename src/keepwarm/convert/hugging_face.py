"""A checkpoint as a Hugging Face folder: weights, config, tokenizer and what generation needs, usable alone.

In fp32 every parameter and buffer keeps its bits; in bf16 each is rounded to the nearest, ties to even.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from keepwarm import __version__, files
from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.corpora.vocabulary import frozen_tokenizer
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine.build import empty_like
from keepwarm.engine.model import load_pretrained
from keepwarm.engine.weights import weights_sha256
from keepwarm.errors import LineageError
from keepwarm.lineage.converted import Converted, Dtype, write_record
from keepwarm.lineage.deletion import refuse_deleted
from keepwarm.lineage.foreign import look_at
from keepwarm.lineage.manifest import Manifest, read_manifest, verify_files


def to_hugging_face(checkpoint: Path, out: Path, dtype: Dtype) -> Converted:
    """Write `checkpoint` as the new folder `out`, which transformers loads; returns what its keepwarm.json says.

    One copy of the weights is held. Raises LineageError for what is no whole checkpoint of keepwarm with its weights, or
    lies outside its run, whose tokenizer it needs; KeepwarmError if `out` exists or the disk refuses it.
    """
    manifest = trained_here(checkpoint)
    tokenizer = _tokenizer(checkpoint, manifest)
    verify_files(checkpoint, manifest, deep=True)
    with files.new_folder(out) as aside:
        model = empty_like(checkpoint, manifest, 0)
        checkpoints.load(checkpoint, manifest, model, None)
        if dtype == "bf16":
            model.to(torch.bfloat16)
        _prepare_to_generate(model, tokenizer)
        save_model(model, aside, out)
        _save_tokenizer(model.config, tokenizer, aside)
        return write_record(aside, _record(checkpoint, manifest, model, dtype))


def trained_here(folder: Path) -> Manifest:
    """The manifest of a checkpoint whose weights lie in its own folder, in our own format; LineageError if it is none."""
    if (folder / "arms").is_dir():
        raise LineageError(
            f"{folder}: is a run's folder",
            "one checkpoint of a run is converted at a time",
            f"name one of them: ls -d {folder}/arms/*/*/*/checkpoints/*",
        )
    found = look_at(folder)
    if found.kind == "keepwarm":
        manifest = read_manifest(folder)
        refuse_deleted(folder)
        if manifest.location is None and not Path(manifest.id).is_absolute():
            return manifest
        weights = manifest.location or manifest.id
        raise LineageError(
            f"{folder}: is the record of a checkpoint, whose weights lie in {weights}",
            "there are no weights in it to convert",
            f"keepwarm lineage {weights}  # what it is: a Hugging Face folder needs no conversion",
        )
    raise LineageError(
        f"{folder}: is a Hugging Face folder already",
        "its weights need no conversion",
        f"use it as it is, or copy it: cp -r {folder} COPY",
    )


def published(folder: Path) -> nn.Module:
    """The model of a Hugging Face folder, in fp32."""
    _quietly()
    return load_pretrained(str(folder))


def _tokenizer(folder: Path, manifest: Manifest) -> Tokenizer:
    """The tokenizer in the run's folder, of which the checkpoint's id is the rest of the path."""
    where, inside = folder.resolve().parts, Path(manifest.id).parts
    run = Path(*where[: -len(inside)])
    if where[-len(inside) :] != inside or not (run / "tokens/tokenizer.json").is_file():
        raise LineageError(
            f"{folder}: the tokenizer of its run, RUN/tokens/tokenizer.json, is not to be found from here",
            "a model without its tokenizer reads and writes other words than it was taught",
            f"name the checkpoint where its run left it: RUN/{manifest.id}",
        )
    tokenizer = frozen_tokenizer(run / "tokens")
    if tokenizer.sha256 != manifest.tokenizer_sha256:
        raise LineageError(
            f"{tokenizer.path}: is {tokenizer.sha256[:12]}, the checkpoint was trained with "
            f"{manifest.tokenizer_sha256[:12]}",
            "the same token means another word in it",
            f"put the run's tokenizer back as it was: {tokenizer.path}",
        )
    return tokenizer


def _prepare_to_generate(model: nn.Module, tokenizer: Tokenizer) -> None:
    """Config and generation config name the run's document end, and keys and values are cached again.

    A document begins as the model's own special token says, where it has one, else after the end of the one before.
    """
    from transformers import GenerationConfig

    config: Any = model.config
    config.bos_token_id = next(iter(tokenizer.special_ids(config.bos_token_id)), tokenizer.eod_id)
    config.eos_token_id = tokenizer.eod_id
    config.use_cache = True
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": tokenizer.eod_id, "pad_token_id": tokenizer.eod_id}
    model.generation_config = GenerationConfig(**ids)  # type: ignore[no-untyped-call, assignment]


def _quietly() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def save_model(model: nn.Module, aside: Path, out: Path) -> None:
    """Weights and config into the folder `aside`, which becomes `out`. LineageError where the disk refuses them."""
    _quietly()
    try:
        model.save_pretrained(aside)  # type: ignore[operator]
    except SafetensorError as error:  # no OSError, whatever the disk says
        free_bytes = shutil.disk_usage(aside).free
        raise LineageError(
            f"{out}: can't be written ({' '.join(str(error).split())[:160]}; {free_bytes / 1e9:.1f} GB are free on its disk)",
            "the disk, a quota or the file size limit (ulimit -f) refused it; nothing of it is left",
            "make room, or choose a folder on another disk",
        ) from error
    for path in aside.glob("*.safetensors"):  # safetensors lets its owner alone read it
        path.chmod((aside / "config.json").stat().st_mode)


def _save_tokenizer(config: Any, tokenizer: Tokenizer, aside: Path) -> None:
    """The run's own tokenizer.json, byte for byte, and what transformers needs beside it."""
    files.write_bytes(aside / "tokenizer.json", tokenizer.path.read_bytes())
    longest = getattr(config, "max_position_embeddings", None)
    more = {"model_max_length": longest} if isinstance(longest, int) else {}
    begin = tokenizer.backend.id_to_token(config.bos_token_id)
    files.write_json(
        aside / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": tokenizer.eod_token,
            "clean_up_tokenization_spaces": False, **more,
        },
    )  # fmt: skip


def _record(folder: Path, manifest: Manifest, model: nn.Module, dtype: Dtype) -> Converted:
    return Converted(
        checkpoint=manifest.id, manifest_sha256=files.sha256_file(folder / "manifest.json"),
        weights_sha256=manifest.weights_sha256, dtype=dtype, converted_sha256=weights_sha256(model.state_dict()),
        step=manifest.step, samples=manifest.samples, line_tokens=manifest.line_tokens, lr=manifest.lr,
        lr_max=manifest.lr_max, phase=manifest.phase, global_batch_size=manifest.global_batch_size,
        sequence_length=manifest.sequence_length, document_mask=manifest.document_mask,
        tokenizer_sha256=manifest.tokenizer_sha256, files={},
        versions={"keepwarm": __version__, "torch": torch.__version__},
    )  # fmt: skip
