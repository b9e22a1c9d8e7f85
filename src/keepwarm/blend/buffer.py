"""The replay buffer B: a sample of what the stages after the base were really fed, in immutable versions.

B of D_1..D_i holds, of each D_j, documents of which its stage was fed at least a token, and of those the fed parts
alone (fed.py). Of the documents, the first in the policy's order are taken until the stage's quota of tokens is full
(policy.py); the last one is cut to fit. The first k of a set are found in its parts one by one and those of a smaller
quota lie among those of a larger, so B can shrink an older stage's entry without its source.

    buffer/v2/STAGE.bin, .idx        the stored parts, each ending with EOD, in the policy's order
    buffer/v2/STAGE.provenance.npy   a row for each stored part (`fed.PROVENANCE`)
    buffer/v2/manifest.json          version, parent, budget, policy, entries
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm import files
from keepwarm.blend import policy as policies
from keepwarm.blend.fed import PROVENANCE, FedRange, fed_documents, fed_windows
from keepwarm.corpora.arrays import load_array, save_array
from keepwarm.corpora.indexed import IndexedWriter, open_indexed, source_id
from keepwarm.corpora.source import Source
from keepwarm.errors import DataError, PlanError

StoredPart = tuple[np.void, NDArray[np.generic]]  # a provenance row and its tokens


@dataclass(frozen=True, slots=True)
class Origin:
    """A source that an entry's documents came from."""

    id: str
    name: str
    prefix: Path


@dataclass(frozen=True, slots=True)
class BufferEntry:
    """What B holds of one stage's new corpus. `id` is the stored token file's, as of any source."""

    stage: str
    corpus: str
    prefix: Path
    id: str
    documents: int
    tokens: int  # stored, EOD included
    stage_tokens: int  # that the stage fed of the corpus
    sources: tuple[Origin, ...]


@dataclass(frozen=True, slots=True)
class BufferVersion:
    """One immutable version of B, oldest stage first."""

    folder: Path
    version: int
    parent: int | None
    budget_tokens: int
    policy: str
    entries: tuple[BufferEntry, ...]

    @property
    def tokens(self) -> int:
        """Tokens stored in all."""
        return sum(entry.tokens for entry in self.entries)


def fill(
    previous: BufferVersion | None,
    stage: str,
    corpus: str,
    fed: Sequence[FedRange],
    budget_tokens: int,
    seed: int,
    sequence_length: int,
    folder: Path,
    eod: int,
    stage_tokens: int,
    policy: str = "proportional",
    scores: Sequence[NDArray[np.float64]] | None = None,
) -> BufferVersion:
    """Write the next version of B, `folder`/vN: `previous`, shrunk to its quotas, and the documents fed of `corpus`.

    `fed` names each source of the corpus with the positions that the accepted stage took it through; `stage_tokens`
    are the tokens it fed of the corpus; `scores`, for highest-loss, has for each source one of every document. Raises
    KeepwarmError if the version exists, DataError if nothing was fed or the stage is in B already, PlanError if the
    policy is another than B was filled by so far or the budget leaves a stage less than a token.
    """
    entries = previous.entries if previous else ()
    version, parent = (previous.version + 1, previous.version) if previous else (1, None)
    _refuse_again(stage, [entry.stage for entry in entries])
    _refuse_another_policy(previous, policy)
    stages = [(entry.stage, entry.stage_tokens) for entry in entries] + [(stage, stage_tokens)]
    quotas = policies.quotas(policy, stages, budget_tokens)
    rows = _first(fed, quotas[-1], seed, sequence_length, scores if policy == policies.HIGHEST_LOSS else None)
    _refuse_nothing(rows, stage, corpus)
    origins = [Origin(source.id, source.name, source.prefix) for source, _, _ in fed]
    dtype = np.result_type(*(open_indexed(origin.prefix).dtype for origin in origins))  # holds every source's ids
    final = Path(folder) / f"v{version}"
    with files.new_folder(final) as aside:
        items = []
        for entry, quota in zip(entries, quotas, strict=False):
            head = _head(entry.stage, entry.corpus, entry.stage_tokens, entry.sources)
            items.append(_store(aside, head, _stored(entry), open_indexed(entry.prefix).dtype, quota, eod))
        head = _head(stage, corpus, stage_tokens, origins)
        items.append(_store(aside, head, _read(rows, origins), dtype, quotas[-1], eod))
        content = {"version": version, "parent": parent, "budget_tokens": budget_tokens, "policy": policy}
        files.write_json(aside / "manifest.json", {**content, "entries": items})
    return load_buffer(final)


def load_buffer(folder: Path) -> BufferVersion:
    """The version that `fill` wrote. Raises DataError if its manifest is missing or damaged."""
    folder = Path(folder)
    path = folder / "manifest.json"
    try:
        content = json.loads(path.read_bytes())
        entries = tuple(_entry(folder, item) for item in content["entries"])
        return BufferVersion(
            folder, content["version"], content["parent"], content["budget_tokens"], content["policy"], entries
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not the manifest of a buffer version ({error})",
            "without it nobody knows what the buffer holds",
            f"restore the folder, or remove it and fill the buffer again: rm -r {folder}",
        ) from None


def load_buffers(folder: Path) -> list[BufferVersion]:
    """Every version of B that is on disk, in RUN/buffer."""
    return [load_buffer(path) for path in sorted(Path(folder).glob("v*")) if path.name[1:].isdigit()]


def provenance(entry: BufferEntry) -> NDArray[np.void]:
    """Where each stored part of an entry came from: (parts,) of PROVENANCE, in stored order."""
    return load_array(entry.prefix.with_name(f"{entry.prefix.name}.provenance.npy"), PROVENANCE)


def buffer_sources(version: BufferVersion) -> list[Source]:
    """A source for each entry, in the order of the entries.

    Its name does not say the version: an entry that the next version keeps as it is has the same id, and goes on there.
    """
    return [
        Source(f"buffer/{entry.stage}", entry.id, entry.prefix, np.array([[0, entry.tokens]]))
        for entry in version.entries
    ]


def outside_kept(version: BufferVersion, sources: Mapping[str, Source]) -> int:
    """Stored parts that lie outside of what their source (by id) may be trained on, that is, held-out text."""
    count = 0
    for entry in version.entries:
        rows = provenance(entry)
        for number, origin in enumerate(entry.sources):
            if origin.id not in sources:
                continue
            kept, mine = sources[origin.id].kept, rows[rows["source"] == number]
            span = np.searchsorted(kept[:, 0], mine["first_token"], side="right") - 1
            inside = (span >= 0) & (mine["first_token"] + mine["tokens"] <= kept[np.maximum(span, 0), 1])
            count += int((~inside).sum())
    return count


def _first(
    fed: Sequence[FedRange], quota_tokens: int, seed: int, sequence_length: int,
    scores: Sequence[NDArray[np.float64]] | None,
) -> NDArray[np.void]:  # fmt: skip
    """The fed parts in the policy's order of their documents, enough to fill the quota."""
    chosen = np.zeros(0, dtype=PROVENANCE)
    for number, (source, first, last) in enumerate(fed):
        parts = fed_documents(source, fed_windows(source, first, last, seed, sequence_length), sequence_length)
        parts["source"] = number
        if scores is None:
            parts["order"] = policies.random_order(parts["document"], seed, source.id)
        else:
            parts["order"] = policies.highest_first(scores[number][parts["document"]])
        pool = np.concatenate([chosen, parts])
        pool = pool[np.lexsort([pool[name] for name in ("first_token", "document", "source", "order")])]
        least = pool["tokens"] - 1  # a part that is an EOD alone is not stored
        chosen = pool[np.cumsum(least) - least < quota_tokens]
    return chosen


def _read(rows: NDArray[np.void], origins: Sequence[Origin]) -> Iterator[StoredPart]:
    tokens = [open_indexed(origin.prefix).tokens for origin in origins]
    for row in rows:
        first = int(row["first_token"])
        yield row, tokens[row["source"]][first : first + int(row["tokens"])]


def _stored(entry: BufferEntry) -> Iterator[StoredPart]:
    """What an entry holds, from its own file: its sources may be gone."""
    indexed = open_indexed(entry.prefix)
    for number, row in enumerate(provenance(entry)):
        yield row, indexed.sequence(number)


def _fit(parts: Iterable[StoredPart], quota_tokens: int, eod: int) -> Iterator[StoredPart]:
    """The parts as they are stored, each ending with EOD, the last one cut so that the quota is full."""
    left = quota_tokens
    for row, tokens in parts:
        if len(tokens) == 1 and tokens[0] == eod:
            continue
        whole = tokens if tokens[-1] == eod else np.append(tokens, np.array(eod, dtype=tokens.dtype))
        if len(whole) > left:
            if left > 1:
                row = row.copy()
                row["tokens"] = left - 1
                yield row, np.append(tokens[: left - 1], np.array(eod, dtype=tokens.dtype))
            return
        left -= len(whole)
        yield row, whole


def _store(
    folder: Path, head: dict[str, Any], parts: Iterator[StoredPart], dtype: np.dtype[Any], quota_tokens: int, eod: int
) -> dict[str, Any]:
    """Write one entry's files into `folder`; its part of the manifest."""
    prefix, rows, stored = folder / head["stage"], [], 0
    with IndexedWriter(prefix, dtype) as writer:
        for row, tokens in _fit(parts, quota_tokens, eod):
            writer.add(tokens)
            rows.append(row)
            stored += len(tokens)
    table = np.array(rows, dtype=PROVENANCE)
    save_array(folder / f"{head['stage']}.provenance.npy", table)
    return {
        **head,
        "id": source_id(prefix),
        "documents": len(np.unique(table[["source", "document"]])),
        "tokens": stored,
    }


def _head(stage: str, corpus: str, stage_tokens: int, sources: Sequence[Origin]) -> dict[str, Any]:
    origins = [{"id": origin.id, "name": origin.name, "prefix": str(origin.prefix)} for origin in sources]
    return {"stage": stage, "corpus": corpus, "prefix": stage, "stage_tokens": stage_tokens, "sources": origins}


def _entry(folder: Path, item: dict[str, Any]) -> BufferEntry:
    origins = tuple(Origin(each["id"], each["name"], Path(each["prefix"])) for each in item["sources"])
    plain = {name: item[name] for name in ("stage", "corpus", "id", "documents", "tokens", "stage_tokens")}
    return BufferEntry(prefix=folder / item["prefix"], sources=origins, **plain)


def _refuse_again(stage: str, held: Sequence[str]) -> None:
    if stage in held:
        raise DataError(
            f"the buffer holds stage {stage} already",
            "its documents would be replayed twice as often as planned",
            "fill the buffer once for each accepted stage",
        )


def _refuse_another_policy(previous: BufferVersion | None, policy: str) -> None:
    if previous is not None and previous.policy != policy:
        raise PlanError(
            f"buffer.policy is {policy}, and B was filled by {previous.policy} up to {previous.folder}",
            "the older stages' documents were chosen by that policy, and what it left out can't be drawn again",
            f"buffer: {{policy: {previous.policy}, ...}}, or start anew: run: {{folder: ...}}",
        )


def _refuse_nothing(rows: NDArray[np.void], stage: str, corpus: str) -> None:
    if not len(rows):
        raise DataError(
            f"stage {stage} was fed no window of {corpus}",
            "B is to hold what was really fed, and there is nothing",
            "fill the buffer after the stage was trained on its new data",
        )
