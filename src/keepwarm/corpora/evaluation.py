"""Texts that are never trained on, only measured: tokenized and cut once, the same for the plan's whole life.

tokens/NAME/text.*        text, tokenized (token files that are given are used where they lie)
tokens/NAME/holdout.*     the pieces that are measured; what tells every document of the text is beside them, so that
                          training corpora leave all of its duplicates out
tokens/NAME/corpus.json   the record, without sources: nothing is drawn from it
"""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from keepwarm import files
from keepwarm.corpora.arrays import save_array
from keepwarm.corpora.content import unchanged
from keepwarm.corpora.given import Given, difference, fingerprints
from keepwarm.corpora.holdout import measured_part
from keepwarm.corpora.making import Work, check_given, identity, tokenized
from keepwarm.corpora.names import remove
from keepwarm.corpora.record import Record, token_file
from keepwarm.corpora.trainable import held_path
from keepwarm.corpora.vocabulary import check_ids
from keepwarm.errors import DataError


def evaluation_record(work: Work, name: str, items: Sequence[Given]) -> Record:
    """The record of a text that is only measured: made, or read and held against the plan and its files.

    DataError if it is another than it was and training has begun: every loss measured on it belongs to the text.
    """
    path = work.root / name / "corpus.json"
    made_with = {**identity(work, name), "paths": [str(file) for item in items for file in item.files]}
    if not path.exists():
        return _made(work, name, items, made_with)
    content: Record = json.loads(path.read_text(encoding="utf-8"))
    changed = _changed(work, content, made_with, items)
    if changed is None:
        return content
    if work.fed is not None:
        raise DataError(
            f"evaluation.{name}: {changed} since it was cut into {path.parent}",
            "every loss that was measured on it belongs to the text as it was",
            "put it back, or start anew: run: {folder: ...}",
        )
    work.tell(f"{name}: {changed}; nothing was trained yet, so it is cut again")
    return _made(work, name, items, made_with)


def _changed(work: Work, content: Record, made_with: Record, items: Sequence[Given]) -> str | None:
    other = [key for key, value in made_with.items() if content.get(key) != value]
    if other:
        return f"{', '.join(other)} changed"
    now = fingerprints([file for item in items for file in item.files])
    found = (difference(each["files"], now, partial(unchanged, each, tell=work.tell)) for each in content["texts"])
    return next((words for words in found if words is not None), None)


def _made(work: Work, name: str, items: Sequence[Given], made_with: Record) -> Record:
    folder = work.root / name
    (folder / "corpus.json").unlink(missing_ok=True)
    remove(folder / "holdout")
    texts = [_text(work, item, folder / "text") for item in items]
    found = measured_part(
        [Path(each["prefix"]) for each in texts], key=f"evaluation.{name}", tokens=work.plan.holdout.tokens,
        sequence_length=work.plan.sequence_length, eod=work.tokenizer.eod_id, out_prefix=folder / "holdout",
        tokenizer=work.tokenizer,
    )  # fmt: skip
    save_array(held_path(folder), found.held, replace=True)
    counts = {key: getattr(found, key) for key in ("tokens", "text_bytes", "documents", "pieces")}
    holdout = {**token_file(found.prefix, (), text=False), **counts}
    content = {"name": name, "sources": [], "texts": texts, "holdout": holdout, **made_with}
    files.write_json(folder / "corpus.json", content)
    work.tell(f"{name}: {found.tokens:,} tokens of it are measured, none is trained on")
    return content


def _text(work: Work, item: Given, prefix: Path) -> Record:
    """The record of the token file of a text, made first where it is text."""
    if item.prefix is None:
        tokenized(work, item.name, [glob.escape(str(path)) for path in item.files], prefix)
        check_ids(prefix, work.tokenizer)
        return token_file(prefix, item.files, text=True)
    check_given(work, item.prefix)
    return token_file(item.prefix, item.files, text=False)
