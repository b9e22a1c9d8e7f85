"""The token files and the holdout of a corpus: made from text, or taken as they are and looked at once."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.arrays import save_array
from keepwarm.corpora.content import Bar, check_content
from keepwarm.corpora.documents import text_files
from keepwarm.corpora.duplicates import held_documents, shared
from keepwarm.corpora.exclusions import Exclusion, excluded_spans, joined
from keepwarm.corpora.generated import MakeSampler, write_generated
from keepwarm.corpora.given import Given
from keepwarm.corpora.holdout import Holdout, split_holdout
from keepwarm.corpora.identity import document_spans, hash_path
from keepwarm.corpora.indexed import bin_tokens, open_indexed, pair, read_sidecar, sidecar_path
from keepwarm.corpora.record import Record, fed_files, token_file
from keepwarm.corpora.tokenize import Tell, is_tokenized, tokenize_corpus
from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.corpora.trainable import digest, held_path
from keepwarm.corpora.vocabulary import check_ids, check_tokenizer
from keepwarm.errors import DataError
from keepwarm.plan.model import Plan


@dataclass(frozen=True, slots=True)
class Work:
    """What every step of preparing a plan's corpora needs."""

    plan: Plan
    root: Path
    tokenizer: Tokenizer
    listed: Mapping[str, Sequence[Exclusion]]  # what the plan's lists leave out, by file
    fed: frozenset[str] | None  # ids of the token files that attempts draw on; None before any training
    tell: Tell
    bar: Bar | None
    sampler: MakeSampler | None  # of text that the base writes; None where no model is at hand


def identity(work: Work, name: str) -> dict[str, Any]:
    """What a corpus's token files and its holdout are made with, beside its files."""
    plan = work.plan
    spec = plan.corpora.get(name)
    return {
        "tokenizer_sha256": work.tokenizer.sha256,
        "sequence_length": plan.sequence_length,
        "holdout_tokens": plan.holdout.tokens,
        "holdout_file": plan.holdout.files.get(name),
        "duplicates": plan.holdout.duplicates,
        "seed": plan.seed,
        "stand_in": spec.stand_in if spec else None,
        "generate": spec.generate.model_dump(mode="json") if spec and spec.generate else None,
    }


def make_source(work: Work, item: Given, prefix: Path) -> Record:
    """The record of one token file, made first where it is text or is to be written. Damage and foreign ids are refused."""
    text = item.prefix is None
    more = {}
    if item.generate is not None:
        seed = work.plan.seed
        facts = write_generated(
            item.name, item.generate, work.sampler, work.tokenizer, prefix, seed=seed, tell=work.tell
        )
        more = {"generated": facts}
    elif item.prefix is None:
        tokenized(work, item.name, [glob.escape(str(path)) for path in item.files], prefix)
        check_ids(prefix, work.tokenizer)
    else:
        prefix = item.prefix
        check_given(work, prefix)
    weight = item.weight if item.weight is not None else Fraction(bin_tokens(prefix))
    return {
        "name": item.name if not text or prefix.name == "train" else f"{item.name}:{prefix.name}",
        "weight": str(weight), "excluded": digest(excluded_spans(prefix, work.listed)),
        **token_file(prefix, item.files, text=text), **more,
    }  # fmt: skip


def check_given(work: Work, prefix: Path) -> None:
    """Refuse a token file that was not made here if it is damaged, of another tokenizer, or not what its sidecar says."""
    check_tokenizer(prefix, work.tokenizer)
    check_content(prefix, work.tell, work.bar)
    check_ids(prefix, work.tokenizer)


def tokenized(work: Work, name: str, patterns: Sequence[str], prefix: Path) -> None:
    """Text to a token file in the run's folder, unless it is there; goes on with what a stopped run has done."""
    seed = work.plan.seed
    if is_tokenized(patterns, work.tokenizer, prefix, seed):
        return
    for path in (*pair(prefix), hash_path(prefix), sidecar_path(prefix)):
        path.unlink(missing_ok=True)
    work.tell(f"tokenizing {name}")
    with work.bar(f"tokenizing {name}") if work.bar else nullcontext((None, None)) as (_, progress):
        tokenize_corpus(patterns, work.tokenizer, prefix, seed=seed, progress=progress)


def make_holdout(work: Work, name: str, prefixes: Sequence[Path]) -> Record:
    """The record of a corpus's holdout, split off or ready-made; what tells its documents is kept beside it."""
    plan, folder, named = work.plan, work.root / name, work.plan.holdout.files.get(name)
    if named is None:
        found = split_holdout(
            prefixes, tokens=plan.holdout.tokens, sequence_length=plan.sequence_length, eod=work.tokenizer.eod_id,
            out_prefix=folder / "holdout", tokenizer=work.tokenizer,
            excluded=[_not_held_out(work, prefix) for prefix in prefixes],
        )  # fmt: skip
        record = token_file(found.prefix, (), text=False)
    else:
        found, record = _ready_holdout(work, name, named)
    save_array(held_path(folder), found.held)
    counts = {key: getattr(found, key) for key in ("tokens", "text_bytes", "documents", "pieces")}
    return {**record, **counts}


def _not_held_out(work: Work, prefix: Path) -> NDArray[np.int64]:
    """(spans, 2): what is excluded of a token file, and documents that this run may have been trained on already."""
    documents = document_spans(open_indexed(prefix))
    fed = [documents[shared(prefix, other)] for other in fed_files(work.root, work.fed or frozenset())]
    return joined(np.concatenate([excluded_spans(prefix, work.listed), *fed]))


def _ready_holdout(work: Work, name: str, named: str) -> tuple[Holdout, Record]:
    prefix = Path(named).with_suffix("") if named.endswith((".bin", ".idx")) else Path(named)
    text = not Path(f"{prefix}.idx").exists()
    if text:
        prefix = work.root / name / "holdout"
        tokenized(work, f"{name}'s holdout", [named], prefix)
    check_given(work, prefix)
    opened, sidecar = open_indexed(prefix), read_sidecar(prefix)
    least = 32 * work.plan.sequence_length
    if opened.n_tokens <= least:
        raise DataError(
            f"holdout.files.{name}: {named} has {opened.n_tokens:,} tokens, fewer than 32 windows",
            "a verdict on fewer windows would be noise",
            f"give at least {least + 1:,} tokens",
        )
    held = held_documents(prefix, np.arange(opened.n_documents))
    text_bytes = sidecar.text_bytes if sidecar else None
    found = Holdout(prefix, opened.n_documents, opened.n_documents, opened.n_tokens, text_bytes, held)
    return found, token_file(prefix, text_files([named]) if text else pair(prefix), text=text)
