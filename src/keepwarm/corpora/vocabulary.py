"""One vocabulary for all of a run: the plan's tokenizer, frozen in the run folder, and what it must agree with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from keepwarm import files
from keepwarm.corpora.holdout import texts_for_tokenizer
from keepwarm.corpora.indexed import open_indexed, read_sidecar
from keepwarm.corpora.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from keepwarm.errors import DataError, PlanError
from keepwarm.plan.model import Plan

LEARNED_AS = "tokenizer.learned.json"  # beside the tokenizer: what it was learned with
SCANNED_TOKENS = 250_000_000  # token files up to this size are scanned whole for foreign ids, larger ones by sample


def tokenizer_of(plan: Plan, folder: Path, tell: Callable[[str], None]) -> Tokenizer:
    """The tokenizer in `folder`; put there when it is first asked for: learned, or a copy of the one that is named.

    PlanError if the plan asks for another one by now.
    """
    path, spec = folder / "tokenizer.json", plan.tokenizer
    eod = spec.eod if spec else None
    if path.exists():
        kept = frozen_tokenizer(folder, eod)
        _refuse_another(plan, folder, kept)
        return kept
    if spec is not None and spec.train is not None:
        names = spec.train.corpora or (plan.base.corpus,)
        globs = [pattern for name in names for pattern in plan.corpora[name].text or ()]
        if not globs:
            raise PlanError(
                f"tokenizer.train: none of {', '.join(names)} is given as text",
                "a tokenizer is learned from text, not from token files",
                "tokenizer: {file: tokenizer.json}, or name a text corpus: tokenizer: {train: {corpora: [d0], ...}}",
            )
        tell(f"training a tokenizer of {spec.train.vocab_size:,} entries on {', '.join(names)}")
        files.write_json(folder / LEARNED_AS, _learned_as(plan), replace=True)
        train_tokenizer(texts_for_tokenizer(globs, plan.holdout.tokens), spec.train.vocab_size, path)
        return load_tokenizer(path, eod)
    given = spec.file if spec is not None else _model_folder(plan)
    found = load_tokenizer(Path(str(given)), eod)
    files.write_json(folder / "tokenizer.eod.json", {"eod": found.eod_token}, replace=True)
    files.write_bytes(path, found.path.read_bytes())
    return load_tokenizer(path, found.eod_token)


def frozen_tokenizer(folder: Path, eod: str | None = None) -> Tokenizer:
    """The tokenizer that a run keeps in `folder`, with the document end it has there unless `eod` names one.

    Raises as `load_tokenizer`.
    """
    return load_tokenizer(folder / "tokenizer.json", eod or _remembered_eod(folder))


def _learned_as(plan: Plan) -> dict[str, object]:
    """What decides a tokenizer that is learned, but for the texts themselves."""
    assert plan.tokenizer is not None and plan.tokenizer.train is not None
    asked = plan.tokenizer.train
    return {"vocab_size": asked.vocab_size, "corpora": list(asked.corpora or (plan.base.corpus,))}


def _refuse_another(plan: Plan, folder: Path, kept: Tokenizer) -> None:
    """The run's token files were made with the tokenizer in its folder: it stays what it is."""
    spec = plan.tokenizer
    if spec is not None and spec.train is not None:
        record = folder / LEARNED_AS
        asked = _learned_as(plan)
        before = json.loads(record.read_text(encoding="utf-8")) if record.exists() else asked
        if before == asked:
            return
        what = f"tokenizer.train: the plan asks for {asked}, {kept.path} was learned with {before}"
    else:
        given = Path(str(spec.file if spec is not None else _model_folder(plan)))
        given = given / "tokenizer.json" if given.is_dir() else given
        if not given.exists() or given.read_bytes() == kept.path.read_bytes():
            return
        what = f"tokenizer: {given} is another one than {kept.path}, which this run began with"
    raise PlanError(
        what,
        "the run's token files and checkpoints hold the ids of the one it began with",
        "put the plan's tokenizer back as it was, or start anew: run: {folder: ...}",
    )


def check_vocabulary(plan: Plan, tokenizer: Tokenizer) -> None:
    """Refuse a model or a given base whose vocabulary can't hold the tokenizer's ids."""
    for key, size in _vocabularies(plan):
        if isinstance(size, int) and size < tokenizer.vocab_size:
            raise PlanError(
                f"{key}: its vocabulary has {size:,} entries, the tokenizer {tokenizer.path} has {tokenizer.vocab_size:,}",
                "ids beyond the model's embedding would crash the training or, worse, train wrong rows",
                "use the model's own tokenizer (leave `tokenizer` out of the plan), or a model with a larger vocabulary",
            )


def _vocabularies(plan: Plan) -> Iterator[tuple[str, object]]:
    """The entries of each model that the plan names, where it or its folder says them."""
    if plan.model is not None and plan.model.config is not None:
        yield "model", plan.model.config.get("vocab_size")
    for key, folder in (("model", plan.model.hf if plan.model else None), ("base.checkpoint", plan.base.checkpoint)):
        path = Path(str(folder)) / "config.json"
        if folder is not None and path.is_file():
            yield key, json.loads(path.read_text(encoding="utf-8")).get("vocab_size")


def check_tokenizer(prefix: Path, tokenizer: Tokenizer) -> None:
    """Refuse a token file whose sidecar names another tokenizer or document end: its ids may all be in range."""
    sidecar = read_sidecar(prefix)
    if sidecar is None:
        return
    if sidecar.tokenizer_sha256 not in ("", tokenizer.sha256):  # "": its writer did not know it
        what = f"the tokenizer {sidecar.tokenizer_sha256[:12]}", f"{tokenizer.path} is {tokenizer.sha256[:12]}"
    elif sidecar.eod != tokenizer.eod_id:
        what = f"the document end {sidecar.eod}", f"{tokenizer.path} has {tokenizer.eod_token!r}, {tokenizer.eod_id}"
    else:
        return
    raise DataError(
        f"{prefix}: was made with {what[0]}, {what[1]}",
        "the same token means another word in it than in the other corpora",
        f"keepwarm tokenize TEXT --tokenizer {tokenizer.path} --output {prefix}-again",
    )


def check_ids(prefix: Path, tokenizer: Tokenizer) -> None:
    """Refuse a token file that holds ids the tokenizer does not know: it was made with another one."""
    tokens = open_indexed(prefix).tokens
    if len(tokens) <= SCANNED_TOKENS:
        highest = int(tokens.max()) if len(tokens) else 0
    else:
        starts = np.linspace(0, len(tokens) - 4096, 4096).astype(np.int64)
        highest = max(int(tokens[start : start + 4096].max()) for start in starts)
    if highest >= tokenizer.vocab_size:
        raise DataError(
            f"{prefix}.bin: holds token id {highest:,}, the tokenizer {tokenizer.path} has {tokenizer.vocab_size:,} ids",
            "the file was made with another tokenizer, its tokens mean other words here",
            "name the tokenizer it was made with: tokenizer: {file: ...}, or tokenize the text again",
        )


def _remembered_eod(folder: Path) -> str | None:
    path = folder / "tokenizer.eod.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["eod"]) if path.exists() else None


def _model_folder(plan: Plan) -> str:
    for given in (plan.model.hf if plan.model else None, plan.base.checkpoint):
        if given is not None and (Path(given) / "tokenizer.json").is_file():
            return given
    raise PlanError(
        "tokenizer: none is named, and the model's folder has no tokenizer.json",
        "text can't be turned into tokens",
        "tokenizer: {file: tokenizer.json}, or learn one: tokenizer: {train: {vocab_size: 32000}}",
    )
