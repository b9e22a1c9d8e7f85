"""What is written down of a corpus in `corpus.json`: the files it was made of, and whether they are still the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from keepwarm.corpora.content import unchanged
from keepwarm.corpora.exclusions import Exclusion, excluded_spans
from keepwarm.corpora.given import Given, difference, fingerprints
from keepwarm.corpora.indexed import pair, source_id
from keepwarm.corpora.tokenize import Tell
from keepwarm.corpora.trainable import digest
from keepwarm.errors import DataError

Record = dict[str, Any]


def token_file(prefix: Path, files: Sequence[Path], *, text: bool) -> Record:
    """The record of one token file, made from `text` or given; `files` are what it was made of, or its own two.

    One that was split off others, a holdout, has none.
    """
    return {"prefix": str(prefix), "id": source_id(prefix), "text": text, "files": fingerprints(files)}


def read_records(root: Path) -> dict[str, Record]:
    """Every corpus's record in a run's tokens folder, by name, those that the plan no longer names too."""
    return {path.parent.name: json.loads(path.read_text("utf-8")) for path in sorted(root.glob("*/corpus.json"))}


def fed_sources(run: Path) -> frozenset[str] | None:
    """The ids of the token files that an attempt of this run draws on; None if there is no attempt yet."""
    attempts = sorted((run / "arms").glob("*/*/*/attempt.json"))
    return frozenset(each for path in attempts for each in _sources(path)) if attempts else None


def what_changed(
    content: Record, identity: Mapping[str, Any], items: Sequence[Given], listed: Mapping[str, Sequence[Exclusion]],
    fed: frozenset[str] | None, tell: Tell,
) -> str | None:  # fmt: skip
    """What is not as it was, in words, or None. Token files that are no longer named may be gone.

    What is left out of a file may change as long as it was not trained on; before any training the holdout is then
    split again too.
    """
    changed = [key for key, value in identity.items() if content.get(key) != value]
    if changed:
        return f"{', '.join(changed)} changed"
    now = fingerprints([path for item in items for path in item.files])
    there = {print_["path"] for print_ in now}
    for source in content["sources"]:
        if not source["text"] and not any(print_["path"] in there for print_ in source["files"]):
            continue
        found = difference(source["files"], now, partial(unchanged, source, tell=tell))
        if found is None and (fed is None or source["id"] in fed):
            found = _other_spans(source, listed)
        if found is not None:
            return found
    holdout = content["holdout"]
    before = holdout.get("files", ())
    left = fingerprints([Path(print_["path"]) for print_ in before if Path(print_["path"]).is_file()])
    return difference(before, left, partial(unchanged, holdout, tell=tell))


def touched_files(record: Record) -> Record:
    """The record of a token file with the times of now: files that were only touched are not looked into again."""
    there = [Path(print_["path"]) for print_ in record.get("files", ()) if Path(print_["path"]).is_file()]
    now = {print_["path"]: print_ for print_ in fingerprints(there)}
    return {**record, "files": [now.get(print_["path"], print_) for print_ in record.get("files", ())]}


def _other_spans(source: Record, listed: Mapping[str, Sequence[Exclusion]]) -> str | None:
    prefix = Path(source["prefix"])
    now = digest(excluded_spans(prefix, listed))
    return f"what is excluded from {prefix} changed" if source.get("excluded", now) != now else None


def fed_files(root: Path, fed: frozenset[str]) -> Iterator[Path]:
    """The prefixes of the token files that are drawn on, as far as they are still there."""
    for record in read_records(root).values():
        for source in record["sources"]:
            if source["id"] in fed and pair(source["prefix"])[1].exists():
                yield Path(source["prefix"])


def _sources(path: Path) -> list[str]:
    try:
        return [source["id"] for source in json.loads(path.read_text(encoding="utf-8"))["sources"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: damaged ({error})", "it is the identity of the attempt",
            f"remove the attempt: rm -r {path.parent}",
        ) from None  # fmt: skip
