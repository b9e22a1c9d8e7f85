"""From a plan's corpora to token files with holdouts: `RUN/tokens/`, made once, the same for the plan's whole life.

tokens/tokenizer.json         the tokenizer, frozen
tokens/CORPUS/train.*         text, tokenized (corpora that are given as .bin/.idx are used where they lie)
tokens/CORPUS/train.*         of a corpus that the base writes itself: sampled from it (generated.py)
tokens/CORPUS/holdout.*       held-out documents, and what tells their duplicates
tokens/CORPUS/kept-N.npy      what of token file N may be trained on (trainable.py)
tokens/CORPUS/corpus.json     the record of the corpus (record.py), written when its token files and its holdout are
                              there, and again with what was decided of each token file

Files may be added to a corpus at any time, and a list's weights may change: what was added is a source of its own, so
the old files keep their order and their place, and the next attempt draws on it. A file that a list no longer names is
not drawn on any more. What was fed never changes: a file that is not what it was is refused. Corpora may be added, too:
a holdout that is split when training has begun avoids what was fed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm import files
from keepwarm.corpora.arrays import load_array
from keepwarm.corpora.content import Bar
from keepwarm.corpora.duplicates import HELD
from keepwarm.corpora.evaluation import evaluation_record
from keepwarm.corpora.exclusions import Exclusion, by_file, excluded_spans, read_exclusions, refuse_foreign
from keepwarm.corpora.generated import MakeSampler
from keepwarm.corpora.given import Given, given, given_files
from keepwarm.corpora.making import Work, identity, make_holdout, make_source
from keepwarm.corpora.record import Record, fed_sources, touched_files, what_changed
from keepwarm.corpora.source import Source
from keepwarm.corpora.tokenize import Tell
from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.corpora.trainable import (
    Decision,
    LeftOut,
    decide,
    digest,
    duplicates_of,
    held_path,
    kept_path,
    left_out_of,
    with_later,
    words,
)
from keepwarm.corpora.vocabulary import check_vocabulary, tokenizer_of
from keepwarm.errors import DataError
from keepwarm.plan.corpus import StandIn
from keepwarm.plan.model import Plan


@dataclass(frozen=True, eq=False, slots=True)
class Corpus:
    """A corpus ready to be fed and measured. `weights` are exact and relative, by id of the sources drawn on now.

    A text that is only measured has no sources: nothing of it can be fed.
    """

    name: str
    sources: tuple[Source, ...]  # all that ever belonged to it
    weights: Mapping[str, Fraction]
    holdout_prefix: Path
    holdout_tokens: int
    holdout_text_bytes: int | None
    left_out: LeftOut
    stand_in: StandIn | None = None

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


def prepare(plan: Plan, tell: Tell, bar: Bar | None = None, sampler: MakeSampler | None = None) -> Prepared:
    """Tokenize and split what is not yet there; check that what is there still belongs to the plan's files.

    `sampler` gives what writes a generated corpus; without one, that must be there.
    """
    root = Path(plan.run.folder) / "tokens"
    named = {name: given(name, spec) for name, spec in plan.corpora.items()}  # all refusals before any work
    measured = {name: given_files(name, spec.files, f"evaluation.{name}") for name, spec in plan.evaluation.items()}
    listed = _listed(plan, root, named)
    tokenizer = tokenizer_of(plan, root, tell)
    check_vocabulary(plan, tokenizer)
    work = Work(plan, root, tokenizer, listed, fed_sources(Path(plan.run.folder)), tell, bar, sampler)
    records = {name: _record(work, name, items) for name, items in named.items()}
    _refuse_same(records)
    records = _decided(work, records | {name: evaluation_record(work, name, items) for name, items in measured.items()})
    duplicates = [each for name, record in records.items() for each in _duplicates(name, record)]
    return Prepared(tokenizer, {name: _opened(work, name, record) for name, record in records.items()}, duplicates)


def prepared_before(plan: Plan, names: Sequence[str]) -> Prepared | None:
    """Corpora as `prepare` left them, whatever the plan's files are by now; None where one, or its tokens, is not there.

    Reads only.
    """
    root = Path(plan.run.folder) / "tokens"
    if not all((root / name / "corpus.json").exists() for name in names) or not (root / "tokenizer.json").exists():
        return None
    records = {name: json.loads((root / name / "corpus.json").read_text(encoding="utf-8")) for name in names}
    drawn_on = [each for record in records.values() for each in record["sources"] if each["weight"] != "0"]
    if not all("decision" in each and Path(f"{each['prefix']}.bin").exists() for each in drawn_on):
        return None
    tokenizer = tokenizer_of(plan, root, tell=_unheard)
    work = Work(plan, root, tokenizer, {}, None, _unheard, None, None)
    return Prepared(tokenizer, {name: _opened(work, name, record) for name, record in records.items()})


def _unheard(text: str) -> None:
    """For what reads only: it has nothing to tell."""


def _listed(plan: Plan, root: Path, named: Mapping[str, Sequence[Given]]) -> dict[str, list[Exclusion]]:
    """What the plan's exclusion lists say, by file. A list may name the files of any corpus, and holds for all."""
    own = {}
    for name, items in named.items():
        if items[0].prefix is None:
            own[name] = root / name / "train"
            own |= {f"{name}:{path.stem}": path.with_suffix("") for path in (root / name).glob("train-*.idx")}
    prefixes = [item.prefix for items in named.values() for item in items if item.prefix is not None]
    found: list[Exclusion] = []
    excluding = [spec.files.exclude for spec in plan.corpora.values()]
    for path in dict.fromkeys(each for each in excluding if each is not None):
        found += read_exclusions(path, own)
    refuse_foreign(found, [*prefixes, *own.values()])
    return by_file(found)


def _record(work: Work, name: str, items: Sequence[Given]) -> Record:
    """The corpus's record: made, or read and held against the plan and its files, with what was added since."""
    folder, made_with = work.root / name, identity(work, name)
    path = folder / "corpus.json"
    if not path.exists():
        return _made(work, name, items, made_with)
    content: Record = json.loads(path.read_text(encoding="utf-8"))
    changed = what_changed(content, made_with, items, work.listed, work.fed, work.tell)
    if changed is None:
        return _with_added(work, name, content, items)
    if work.fed is not None:
        raise DataError(
            f"corpora.{name}: {changed} since it was tokenized into {folder}",
            "the order of data and every loss of this run belong to the files as they were",
            "put them back, or start anew: run: {folder: ...}",
        )
    work.tell(f"{name}: {changed}; nothing was trained yet, so it is made again")
    return _made(work, name, items, made_with)


def _made(work: Work, name: str, items: Sequence[Given], made_with: Mapping[str, Any]) -> Record:
    folder = work.root / name
    for path in (folder / "corpus.json", *folder.glob("holdout.*"), *folder.glob("kept-*.npy")):
        path.unlink(missing_ok=True)  # left by a killed run, or of a plan that was changed before it began
    sources = [make_source(work, item, folder / "train") for item in items]
    holdout = make_holdout(work, name, [Path(source["prefix"]) for source in sources])
    content = {"name": name, "sources": sources, "holdout": holdout, **made_with}
    generated = [source["generated"]["sampled_tokens"] for source in sources if "generated" in source]
    content |= {"generated_tokens": sum(generated)} if generated else {}
    files.write_json(folder / "corpus.json", content)
    return content


def _with_added(work: Work, name: str, content: Record, items: Sequence[Given]) -> Record:
    """The record with files that were added as further sources, and with the weights of now."""
    folder = work.root / name
    known = {print_["path"] for source in content["sources"] for print_ in source["files"]}
    sources = [touched_files(source) for source in content["sources"]]
    for item in items:
        new = tuple(path for path in item.files if str(path) not in known)
        if new:
            sources.append(
                make_source(work, Given(item.name, new, item.prefix, item.weight), folder / f"train-{len(sources)}")
            )
            work.tell(f"{name}: {', '.join(map(str, new[:3]))} was added; the next attempt draws on it")
    weights = {str(item.prefix): item.weight for item in items if item.prefix is not None}
    for source in sources:
        if not source["text"] and source["prefix"] not in weights:
            source["weight"] = "0"
        elif weights.get(source["prefix"]) is not None:
            source["weight"] = str(weights[source["prefix"]])
    return _written(work, name, content, {**content, "sources": sources, "holdout": touched_files(content["holdout"])})


def _written(work: Work, name: str, before: Record, now: Record) -> Record:
    if now != before:
        files.write_json(work.root / name / "corpus.json", now, replace=True)
    return now


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


def _decided(work: Work, records: Mapping[str, Record]) -> dict[str, Record]:
    """The records with what may be trained on of each token file, now that all holdouts are there.

    What was decided by other holdouts or exclusions is decided again where the file was not trained on yet.
    """
    held = {name: load_array(held_path(work.root / name), HELD) for name in records}
    holdouts = {name: digest(documents) for name, documents in held.items()}
    found = {}
    for name, record in records.items():
        numbered = enumerate(record["sources"])
        sources = [_with_decision(work, name, number, source, held, holdouts) for number, source in numbered]
        found[name] = now = _written(work, name, record, {**record, "sources": sources})
        if now != record:
            tokens = sum(each.tokens for each in _decisions(now))
            work.tell(_left_out(work, name, now).words(name, tokens))
            for each in _duplicates(name, now):
                work.tell(words(each))
    return found


def _with_decision(
    work: Work, name: str, number: int, source: Record,
    held: Mapping[str, NDArray[np.void]], holdouts: Mapping[str, str],
) -> Record:  # fmt: skip
    prefix, path = Path(source["prefix"]), kept_path(work.root / name, number)
    before = Decision(**source["decision"]) if "decision" in source else None
    if before is not None and source["weight"] == "0":
        return source  # not drawn on any more; the file may be gone
    spans = excluded_spans(prefix, work.listed)
    if before is not None and before.holdouts == holdouts and source["excluded"] == digest(spans):
        return source
    final = work.fed is not None and source["id"] in work.fed
    if before is not None and final:
        return {**source, "decision": asdict(with_later(before, prefix, path, held, holdouts))}
    exclude = work.plan.holdout.duplicates == "exclude"
    decision = decide(
        prefix, path, name, held, spans, holdouts=holdouts, exclude_duplicates=exclude, final=final
    )  # fmt: skip
    return {**source, "excluded": digest(spans), "decision": asdict(decision)}


def _decisions(record: Record) -> list[Decision]:
    """Of the token files that are drawn on."""
    return [Decision(**source["decision"]) for source in record["sources"] if source["weight"] != "0"]


def _left_out(work: Work, name: str, record: Record) -> LeftOut:
    spec = work.plan.corpora.get(name)
    return left_out_of(_decisions(record), spec.files.exclude if spec else None)


def _duplicates(name: str, record: Record) -> list[Mapping[str, Any]]:
    return duplicates_of(name, _decisions(record), excluded=record["duplicates"] == "exclude")


def _opened(work: Work, name: str, record: Record) -> Corpus:
    folder = work.root / name
    sources = tuple(
        Source(item["name"], item["id"], Path(item["prefix"]), load_array(kept_path(folder, number), np.int64))
        for number, item in enumerate(record["sources"])
    )
    weights = {item["id"]: Fraction(item["weight"]) for item in record["sources"]}
    holdout = record["holdout"]
    return Corpus(
        name, sources, {each: weight for each, weight in weights.items() if weight}, Path(holdout["prefix"]),
        holdout["tokens"], holdout["text_bytes"], _left_out(work, name, record), record.get("stand_in"),
    )  # fmt: skip
