"""From a plan's corpora to token files with holdouts: `RUN/tokens/`, made once, the same for the plan's whole life.

tokens/tokenizer.json        the tokenizer, frozen
tokens/CORPUS/train.*        text, tokenized (corpora that are given as .bin/.idx are used where they lie)
tokens/CORPUS/holdout.*      held-out documents
tokens/CORPUS/excluded-N.npy document numbers that no training window may touch, one file a source
tokens/CORPUS/corpus.json    the above in one record, written last: a corpus with this file is complete
"""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from keepwarm import files
from keepwarm.corpora.arrays import load_array, save_array
from keepwarm.corpora.filelist import read_filelist
from keepwarm.corpora.holdout import Holdout, kept_spans, split_holdout, texts_for_tokenizer
from keepwarm.corpora.indexed import open_indexed, read_sidecar, source_id
from keepwarm.corpora.source import Source
from keepwarm.corpora.tokenize import tokenize_corpus
from keepwarm.corpora.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from keepwarm.errors import DataError, PlanError
from keepwarm.plan.model import CorpusSpec, Plan

Tell = Callable[[str], None]
SCANNED_TOKENS = 250_000_000  # token files up to this size are scanned whole for foreign ids, larger ones by sample


@dataclass(frozen=True, eq=False, slots=True)
class Corpus:
    """A corpus ready to be fed and measured. `weights` are exact and relative, by source id."""

    name: str
    sources: tuple[Source, ...]
    weights: Mapping[str, Fraction]
    holdout_prefix: Path
    holdout_tokens: int
    holdout_text_bytes: int | None

    @property
    def tokens(self) -> int:
        """Tokens that may be trained on."""
        return sum(source.tokens for source in self.sources)


@dataclass(frozen=True, eq=False, slots=True)
class Prepared:
    """Every corpus of a plan, and the tokenizer they share."""

    tokenizer: Tokenizer
    corpora: Mapping[str, Corpus]


def prepare(plan: Plan, tell: Tell) -> Prepared:
    """Tokenize and split what is not yet there; check that what is there still belongs to the plan's files."""
    folder = Path(plan.run.folder) / "tokens"
    inputs = {name: _inputs(name, spec) for name, spec in plan.corpora.items()}  # all refusals before any work
    tokenizer = _tokenizer(plan, folder, tell)
    check_vocabulary(plan, tokenizer)
    return Prepared(tokenizer, {name: _corpus(plan, name, inputs[name], tokenizer, folder, tell) for name in inputs})


def check_vocabulary(plan: Plan, tokenizer: Tokenizer) -> None:
    """Refuse a model whose vocabulary can't hold the tokenizer's ids."""
    if plan.model is None:
        return
    if plan.model.config is not None:
        size = plan.model.config.get("vocab_size", tokenizer.vocab_size)
    else:
        path = Path(str(plan.model.hf)) / "config.json"
        size = json.loads(path.read_text(encoding="utf-8")).get("vocab_size") if path.is_file() else None
    if isinstance(size, int) and size < tokenizer.vocab_size:
        raise PlanError(
            f"model: its vocabulary has {size:,} entries, the tokenizer {tokenizer.path} has {tokenizer.vocab_size:,}",
            "ids beyond the model's embedding would crash the training or, worse, train wrong rows",
            "use the model's own tokenizer (leave `tokenizer` out of the plan), or a model with a larger vocabulary",
        )


def _tokenizer(plan: Plan, folder: Path, tell: Tell) -> Tokenizer:
    path, spec = folder / "tokenizer.json", plan.tokenizer
    eod = spec.eod if spec else None
    if path.exists():
        return load_tokenizer(path, eod or _remembered_eod(folder))
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
        train_tokenizer(texts_for_tokenizer(globs, plan.holdout.tokens), spec.train.vocab_size, path)
        return load_tokenizer(path, eod)
    given = spec.file if spec is not None else _model_folder(plan)
    found = load_tokenizer(Path(str(given)), eod)
    files.write_json(folder / "tokenizer.eod.json", {"eod": found.eod_token}, replace=True)
    files.write_bytes(path, found.path.read_bytes())
    return load_tokenizer(path, found.eod_token)


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


def _inputs(name: str, spec: CorpusSpec) -> list[Path]:
    """The files a corpus is made of; DataError if one is missing."""
    if spec.list is not None:
        return [Path(spec.list), *(_bin(entry.path) for entry in read_filelist(Path(spec.list)))]
    if spec.indexed is not None:
        return [_bin(prefix) for prefix in spec.indexed]
    found = sorted({Path(path) for pattern in spec.text or () for path in glob.glob(pattern, recursive=True)})
    found = [path for path in found if path.is_file()]
    if not found:
        raise DataError(
            f"corpora.{name}.text: no file matches {', '.join(spec.text or ())}",
            "a corpus without text can't be fed",
            f"corpora: {{{name}: {{text: PATH-OR-GLOB}}}} with files ending in .jsonl, .txt or .parquet (.gz, .zst)",
        )
    return found


def _bin(prefix: str | Path) -> Path:
    opened = open_indexed(Path(prefix))  # refuses what is missing or damaged
    return Path(f"{opened.prefix}.bin")


def _fingerprint(inputs: Sequence[Path]) -> list[dict[str, Any]]:
    return [{"path": str(path), "bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns} for path in inputs]


def _corpus(plan: Plan, name: str, inputs: list[Path], tokenizer: Tokenizer, root: Path, tell: Tell) -> Corpus:
    folder = root / name
    identity = {
        "inputs": _fingerprint(inputs),
        "tokenizer_sha256": tokenizer.sha256,
        "sequence_length": plan.sequence_length,
        "holdout_tokens": plan.holdout.tokens,
        "holdout_file": plan.holdout.files.get(name),
        "seed": plan.seed,
    }
    record = folder / "corpus.json"
    if not record.exists():
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left half-made
        files.write_json(record, {**_make(plan, name, tokenizer, folder, tell), **identity})
    content = json.loads(record.read_text(encoding="utf-8"))
    changed = [key for key, value in identity.items() if content.get(key) != value]
    if changed:
        raise DataError(
            f"corpora.{name}: {_what_changed(changed, content, identity)} since it was tokenized into {folder}",
            "the order of data and every loss of this run belong to the files as they were",
            "put them back, or start anew: run: {folder: ...}",
        )
    return _opened(name, content, folder)


def _what_changed(changed: Sequence[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if "inputs" not in changed:
        return f"{', '.join(changed)} changed"
    old = {item["path"]: item for item in before["inputs"]}
    for item in now["inputs"]:
        if old.get(item["path"]) != item:
            return f"{item['path']} changed" if item["path"] in old else f"{item['path']} was added"
    return "a file was removed"


def _make(plan: Plan, name: str, tokenizer: Tokenizer, folder: Path, tell: Tell) -> dict[str, Any]:
    spec = plan.corpora[name]
    named: list[tuple[str, Path, Fraction]]
    if spec.list is not None:
        entries = read_filelist(Path(spec.list))
        named = [(f"{name}:{entry.path.name}", entry.path, entry.weight) for entry in entries]
    elif spec.indexed is not None:
        prefixes = [open_indexed(Path(prefix)).prefix for prefix in spec.indexed]
        named = [(f"{name}:{p.name}", p, Fraction(open_indexed(p).n_tokens)) for p in prefixes]
    else:
        tell(f"tokenizing {name}")
        tokenize_corpus(spec.text or (), tokenizer, folder / "train", seed=plan.seed)
        named = [(name, folder / "train", Fraction(1))]
    for _, prefix, _ in named:
        _check_ids(prefix, tokenizer)
    holdout = _holdout(plan, name, [prefix for _, prefix, _ in named], tokenizer, folder)
    for number, documents in enumerate(holdout.excluded):
        save_array(folder / f"excluded-{number}.npy", documents, replace=True)
    return {
        "name": name,
        "sources": [
            {"name": words, "prefix": str(prefix), "id": source_id(prefix), "weight": str(weight)}
            for words, prefix, weight in named
        ],
        "holdout": {
            "prefix": str(holdout.prefix),
            "tokens": holdout.tokens,
            "text_bytes": holdout.text_bytes,
            "documents": holdout.documents,
            "pieces": holdout.pieces,
        },
    }


def _holdout(plan: Plan, name: str, prefixes: list[Path], tokenizer: Tokenizer, folder: Path) -> Holdout:
    given = plan.holdout.files.get(name)
    if given is None:
        return split_holdout(
            prefixes, tokens=plan.holdout.tokens, sequence_length=plan.sequence_length, eod=tokenizer.eod_id,
            out_prefix=folder / "holdout", tokenizer=tokenizer,
        )  # fmt: skip
    prefix = Path(given).with_suffix("") if given.endswith((".bin", ".idx")) else Path(given)
    if not Path(f"{prefix}.idx").exists():
        prefix = folder / "holdout"
        tokenize_corpus([given], tokenizer, prefix, seed=plan.seed)
    opened, sidecar = open_indexed(prefix), read_sidecar(prefix)
    _check_ids(prefix, tokenizer)
    if opened.n_tokens <= 32 * plan.sequence_length:
        raise DataError(
            f"holdout.files.{name}: {given} has {opened.n_tokens:,} tokens, fewer than 32 windows",
            "a verdict on fewer windows would be noise",
            f"give at least {32 * plan.sequence_length + 1:,} tokens",
        )
    nothing = tuple(np.empty(0, dtype=np.int64) for _ in prefixes)
    documents = len(opened.document_indices) - 1
    text_bytes = sidecar.text_bytes if sidecar else None
    return Holdout(prefix, documents, documents, opened.n_tokens, text_bytes, nothing)


def _check_ids(prefix: Path, tokenizer: Tokenizer) -> None:
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


def _opened(name: str, content: Mapping[str, Any], folder: Path) -> Corpus:
    sources = []
    for number, item in enumerate(content["sources"]):
        excluded = folder / f"excluded-{number}.npy"
        prefix = Path(item["prefix"])
        kept = kept_spans(prefix, load_array(excluded, np.int64))
        sources.append(Source(item["name"], item["id"], prefix, kept))
    holdout = content["holdout"]
    return Corpus(
        name, tuple(sources), {item["id"]: Fraction(item["weight"]) for item in content["sources"]},
        Path(holdout["prefix"]), holdout["tokens"], holdout["text_bytes"],
    )  # fmt: skip
