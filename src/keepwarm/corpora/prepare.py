"""From a plan's corpora to token files with holdouts: `RUN/tokens/`, made once, the same for the plan's whole life.

tokens/tokenizer.json         the tokenizer, frozen
tokens/CORPUS/train.*         text, tokenized (corpora that are given as .bin/.idx are used where they lie)
tokens/CORPUS/holdout.*       held-out documents, and what tells their duplicates
tokens/CORPUS/kept-N.npy      what of token file N may be trained on (trainable.py)
tokens/CORPUS/corpus.json     the record of the corpus, written when its token files and its holdout are there

Files may be added to a corpus at any time, and a list's weights may change: what was added is a source of its own, so
the old files keep their order and their place, and the next attempt draws on it. A file that a list no longer names is
not drawn on any more. What was fed never changes: a file that is not what it was is refused.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from keepwarm import files
from keepwarm.corpora.arrays import load_array, save_array
from keepwarm.corpora.duplicates import held_documents
from keepwarm.corpora.exclusions import Exclusion, exclusions_of, read_exclusions, refuse_foreign
from keepwarm.corpora.given import Given, difference, fingerprints, given
from keepwarm.corpora.holdout import Holdout, split_holdout
from keepwarm.corpora.identity import hash_path
from keepwarm.corpora.indexed import bin_tokens, open_indexed, pair, read_sidecar, sidecar_path, source_id
from keepwarm.corpora.source import Source
from keepwarm.corpora.tokenize import Progress, Tell, is_tokenized, tokenize_corpus
from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.corpora.trainable import decide, held_path, kept_path, totals, words
from keepwarm.corpora.vocabulary import check_ids, check_vocabulary, tokenizer_of
from keepwarm.errors import DataError
from keepwarm.plan.model import Plan

Bar = Callable[[str], AbstractContextManager[tuple[Tell, Progress]]]  # shows how far something is, while it lasts


@dataclass(frozen=True, eq=False, slots=True)
class Corpus:
    """A corpus ready to be fed and measured. `weights` are exact and relative, by id of the sources drawn on now."""

    name: str
    sources: tuple[Source, ...]  # all that ever belonged to it
    weights: Mapping[str, Fraction]
    holdout_prefix: Path
    holdout_tokens: int
    holdout_text_bytes: int | None

    @property
    def tokens(self) -> int:
        """Tokens that may be trained on."""
        return sum(source.tokens for source in self.sources if source.id in self.weights)


@dataclass(frozen=True, eq=False, slots=True)
class Prepared:
    """Every corpus of a plan, the tokenizer they share, and duplicates between one's holdout and another's text."""

    tokenizer: Tokenizer
    corpora: Mapping[str, Corpus]
    duplicates: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class _Work:
    """What each step below needs."""

    plan: Plan
    root: Path
    tokenizer: Tokenizer
    tell: Tell
    bar: Bar | None


def prepare(plan: Plan, tell: Tell, bar: Bar | None = None) -> Prepared:
    """Tokenize and split what is not yet there; check that what is there still belongs to the plan's files."""
    root = Path(plan.run.folder) / "tokens"
    named = {name: given(name, spec) for name, spec in plan.corpora.items()}  # all refusals before any work
    exclusions = {name: _exclusions(plan, name, items) for name, items in named.items()}
    tokenizer = tokenizer_of(plan, root, tell)
    check_vocabulary(plan, tokenizer)
    work = _Work(plan, root, tokenizer, tell, bar)
    records = {name: _record(work, name, items, exclusions[name]) for name, items in named.items()}
    _refuse_same(records)
    _decide(work, records, exclusions)
    found = root / "duplicates.json"
    duplicates = json.loads(found.read_text(encoding="utf-8")) if found.exists() else []
    return Prepared(tokenizer, {name: _opened(root / name, name, records[name]) for name in named}, duplicates)


def _exclusions(plan: Plan, name: str, items: Sequence[Given]) -> tuple[Exclusion, ...]:
    path = plan.corpora[name].exclude
    if path is None:
        return ()
    found = read_exclusions(Path(path))
    own = Path(plan.run.folder) / "tokens" / name / "train"
    refuse_foreign(found, [item.prefix or own for item in items])
    return found


def _record(work: _Work, name: str, items: Sequence[Given], exclusions: Sequence[Exclusion]) -> dict[str, Any]:
    """The corpus's record: made, or read and held against the plan and its files, with what was added since."""
    plan, folder = work.plan, work.root / name
    path, listing = folder / "corpus.json", plan.corpora[name].exclude
    identity = {
        "tokenizer_sha256": work.tokenizer.sha256,
        "sequence_length": plan.sequence_length,
        "holdout_tokens": plan.holdout.tokens,
        "holdout_file": plan.holdout.files.get(name),
        "duplicates": plan.holdout.duplicates,
        "exclude": files.sha256_file(Path(listing)) if listing else None,
        "seed": plan.seed,
    }
    if not path.exists():
        return _made(work, name, items, exclusions, identity)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    changed = _what_changed(content, identity, items)
    if changed is None:
        return _with_added(work, name, content, items)
    if any((Path(plan.run.folder) / "arms").glob("*/*/*/attempt.json")):
        raise DataError(
            f"corpora.{name}: {changed} since it was tokenized into {folder}",
            "the order of data and every loss of this run belong to the files as they were",
            "put them back, or start anew: run: {folder: ...}",
        )
    work.tell(f"{name}: {changed}; nothing was trained yet, so it is made again")
    return _made(work, name, items, exclusions, identity)


def _what_changed(content: Mapping[str, Any], identity: Mapping[str, Any], items: Sequence[Given]) -> str | None:
    """What is not as it was, in words, or None. Token files that are no longer named may be gone."""
    changed = [key for key, value in identity.items() if content.get(key) != value]
    if changed:
        return f"{', '.join(changed)} changed"
    now = fingerprints([path for item in items for path in item.files])
    there = {print_["path"] for print_ in now}
    for source in content["sources"]:
        before = source["files"]
        if source["text"] or any(print_["path"] in there for print_ in before):
            found = difference(before, now)
            if found is not None:
                return found
    return None


def _made(
    work: _Work, name: str, items: Sequence[Given], exclusions: Sequence[Exclusion], identity: Mapping[str, Any]
) -> dict[str, Any]:
    folder = work.root / name
    for path in (folder / "corpus.json", *folder.glob("holdout.*"), *folder.glob("kept-*.npy")):
        path.unlink(missing_ok=True)  # left by a killed run, or of a plan that was changed before it began
    sources = [_source(work, item, folder / "train") for item in items]
    prefixes = [Path(source["prefix"]) for source in sources]
    holdout = _holdout(work, name, prefixes, exclusions)
    save_array(held_path(folder), holdout.held)
    content = {"name": name, "sources": sources, "holdout": _holdout_record(holdout), **identity}
    files.write_json(folder / "corpus.json", content)
    return content


def _holdout_record(holdout: Holdout) -> dict[str, Any]:
    return {
        "prefix": str(holdout.prefix),
        "tokens": holdout.tokens,
        "text_bytes": holdout.text_bytes,
        "documents": holdout.documents,
        "pieces": holdout.pieces,
    }


def _with_added(work: _Work, name: str, content: dict[str, Any], items: Sequence[Given]) -> dict[str, Any]:
    """The record with files that were added as further sources, and with the weights of now."""
    folder = work.root / name
    known = {print_["path"] for source in content["sources"] for print_ in source["files"]}
    sources = [dict(source) for source in content["sources"]]
    for item in items:
        new = tuple(path for path in item.files if str(path) not in known)
        if new:
            sources.append(
                _source(work, Given(item.name, new, item.prefix, item.weight), folder / f"train-{len(sources)}")
            )
            work.tell(f"{name}: {', '.join(map(str, new[:3]))} was added; the next attempt draws on it")
    weights = {str(item.prefix): item.weight for item in items if item.prefix is not None}
    for source in sources:
        if not source["text"] and source["prefix"] not in weights:
            source["weight"] = "0"
        elif weights.get(source["prefix"]) is not None:
            source["weight"] = str(weights[source["prefix"]])
    if sources == content["sources"]:
        return content
    content = {**content, "sources": sources}
    files.write_json(folder / "corpus.json", content, replace=True)
    return content


def _source(work: _Work, item: Given, prefix: Path) -> dict[str, Any]:
    """The record of one token file, made from text first where it is text. Damage and foreign ids are refused."""
    text = item.prefix is None
    if item.prefix is None:
        _tokenize(work, item.name, [glob.escape(str(path)) for path in item.files], prefix)
    else:
        prefix = item.prefix
        open_indexed(prefix)
    check_ids(prefix, work.tokenizer)
    weight = item.weight if item.weight is not None else Fraction(bin_tokens(prefix))
    return {
        "name": item.name if not text or prefix.name == "train" else f"{item.name}:{prefix.name}",
        "prefix": str(prefix), "id": source_id(prefix), "weight": str(weight), "text": text,
        "files": fingerprints(item.files),
    }  # fmt: skip


def _tokenize(work: _Work, name: str, patterns: Sequence[str], prefix: Path) -> None:
    """Text to a token file in the run's folder, unless it is there; goes on with what a stopped run has done."""
    seed = work.plan.seed
    if is_tokenized(patterns, work.tokenizer, prefix, seed):
        return
    for path in (*pair(prefix), hash_path(prefix), sidecar_path(prefix)):
        path.unlink(missing_ok=True)
    work.tell(f"tokenizing {name}")
    with work.bar(f"tokenizing {name}") if work.bar else nullcontext((None, None)) as (_, progress):
        tokenize_corpus(patterns, work.tokenizer, prefix, seed=seed, progress=progress)


def _refuse_same(records: Mapping[str, Mapping[str, Any]]) -> None:
    """A token file that stands twice would be one source under two names."""
    places: dict[str, str] = {}
    for name, record in records.items():
        for source in record["sources"]:
            place = f"corpora.{name}: {source['prefix']}"
            if source["id"] in places:
                raise DataError(
                    f"{place} has the same content as {places[source['id']]}",
                    "one text can't be old and new, or two sources of one mix: its ledger would count both",
                    "leave one of them out",
                )
            places[source["id"]] = place


def _decide(
    work: _Work, records: Mapping[str, Mapping[str, Any]], exclusions: Mapping[str, Sequence[Exclusion]]
) -> None:
    """What may be trained on, of each token file that is new, now that all holdouts are there."""
    exclude = work.plan.holdout.duplicates == "exclude"
    found = []
    for name, record in records.items():
        prefixes = [Path(source["prefix"]) for source in record["sources"]]
        others = [other for other in records if other != name]
        found += decide(work.root, name, prefixes, others, exclusions[name], exclude_duplicates=exclude)
    if found:
        for each in found:
            work.tell(words(each, excluded=exclude))
        path = work.root / "duplicates.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        files.write_json(path, [*before, *totals(found)], replace=True)


def _holdout(work: _Work, name: str, prefixes: Sequence[Path], exclusions: Sequence[Exclusion]) -> Holdout:
    plan, tokenizer, folder = work.plan, work.tokenizer, work.root / name
    named = plan.holdout.files.get(name)
    if named is None:
        return split_holdout(
            prefixes, tokens=plan.holdout.tokens, sequence_length=plan.sequence_length, eod=tokenizer.eod_id,
            out_prefix=folder / "holdout", tokenizer=tokenizer,
            excluded=[exclusions_of(prefix, exclusions, open_indexed(prefix)) for prefix in prefixes if exclusions],
        )  # fmt: skip
    prefix = Path(named).with_suffix("") if named.endswith((".bin", ".idx")) else Path(named)
    if not Path(f"{prefix}.idx").exists():
        prefix = folder / "holdout"
        _tokenize(work, f"{name}'s holdout", [named], prefix)
    opened, sidecar = open_indexed(prefix), read_sidecar(prefix)
    check_ids(prefix, tokenizer)
    if opened.n_tokens <= 32 * plan.sequence_length:
        raise DataError(
            f"holdout.files.{name}: {named} has {opened.n_tokens:,} tokens, fewer than 32 windows",
            "a verdict on fewer windows would be noise",
            f"give at least {32 * plan.sequence_length + 1:,} tokens",
        )
    documents = len(opened.document_indices) - 1
    text_bytes = sidecar.text_bytes if sidecar else None
    held = held_documents(prefix, np.arange(documents))
    return Holdout(prefix, documents, documents, opened.n_tokens, text_bytes, held)


def _opened(folder: Path, name: str, content: Mapping[str, Any]) -> Corpus:
    sources = tuple(
        Source(item["name"], item["id"], Path(item["prefix"]), load_array(kept_path(folder, number), np.int64))
        for number, item in enumerate(content["sources"])
    )
    weights = {item["id"]: Fraction(item["weight"]) for item in content["sources"]}
    holdout = content["holdout"]
    return Corpus(
        name, sources, {each: weight for each, weight in weights.items() if weight}, Path(holdout["prefix"]),
        holdout["tokens"], holdout["text_bytes"],
    )  # fmt: skip
