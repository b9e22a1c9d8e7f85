"""The replay buffer B: a sample of what the stages after the base were really fed, in immutable versions.

B of D_1..D_i holds, of each D_j, documents of which its stage was fed at least a token, and of those the fed parts
alone. Which windows were fed is arithmetic: the positions that the stage took a source through, put through its
permutation. Of the documents, those with the smallest keyed hashes of (source id, document number) are taken, until
the corpus's quota of tokens is full; the last one is cut to fit. The k smallest of a set are found in its parts one by
one and those of a smaller quota lie among those of a larger, so B can shrink an older corpus without its source.

Policy `proportional`: D_j gets budget_tokens * tokens its stage fed of it / tokens all stages fed of theirs.

    buffer/v2/STAGE.bin, .idx        the stored parts, each ending with EOD, in the order of their hashes
    buffer/v2/STAGE.provenance.npy   a row for each stored part (`PROVENANCE`)
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
from keepwarm.blend.permutation import permute, window_key
from keepwarm.corpora.arrays import load_array, save_array
from keepwarm.corpora.hashing import derive_key, mix64
from keepwarm.corpora.indexed import IndexedWriter, open_indexed, source_id
from keepwarm.corpora.source import Source
from keepwarm.errors import DataError, PlanError

POLICY = "proportional"
PROVENANCE = np.dtype(
    [
        ("source", "<i4"),  # number in the entry's sources
        ("document", "<i8"),  # sequence number in the source
        ("first_token", "<i8"),  # position in the source's .bin
        ("tokens", "<i8"),  # copied from there; an EOD is added where the part has none
        ("hash", "<u8"),
    ]
)
FedRange = tuple[Source, int, int]  # a source and the positions [from, to) that the stage took it through
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
    entries: tuple[BufferEntry, ...]

    @property
    def tokens(self) -> int:
        """Tokens stored in all."""
        return sum(entry.tokens for entry in self.entries)


def fed_windows(
    source: Source, first_position: int, last_position: int, seed: int, sequence_length: int
) -> NDArray[np.bool_]:
    """Which windows of `source`, (windows,), the positions [first_position, last_position) of a stream read."""
    length = source.windows(sequence_length)
    fed = np.zeros(length, dtype=np.bool_)
    if last_position - first_position >= length:
        fed[:] = True
        return fed
    while first_position < last_position:
        epoch, start = divmod(first_position, length)
        stop = min(length, start + last_position - first_position)
        fed[permute(np.arange(start, stop), length, window_key(seed, source.id, epoch))] = True
        first_position += stop - start
    return fed


def fed_documents(source: Source, fed: NDArray[np.bool_], sequence_length: int) -> NDArray[np.void]:
    """The parts of documents that lie in the windows `fed` of `source`: (parts,) of PROVENANCE, in file order.

    A document has a part for each unbroken run of its tokens that was fed; source and hash are left 0. Tokens outside
    `source.kept` (held-out documents) are in no window and so in no part.
    """
    indexed = open_indexed(source.prefix)
    starts = indexed.pointers // indexed.dtype.itemsize
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    stops = starts + indexed.lengths[order]
    spans = _real_spans(source, fed, sequence_length)
    first = np.searchsorted(stops, spans[:, 0], side="right")
    counts = np.maximum(0, np.searchsorted(starts, spans[:, 1], side="left") - first)
    of_span = np.repeat(np.arange(len(spans)), counts)
    document = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[of_span]
    parts = np.zeros(len(document), dtype=PROVENANCE)
    parts["document"] = order[document]
    parts["first_token"] = np.maximum(starts[document], spans[of_span, 0])
    parts["tokens"] = np.minimum(stops[document], spans[of_span, 1]) - parts["first_token"]
    return parts[parts["tokens"] > 0]


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
) -> BufferVersion:
    """Write the next version of B, `folder`/vN: `previous`, shrunk to its quotas, and the documents fed of `corpus`.

    `fed` names each source of the corpus with the positions that the accepted stage took it through; `stage_tokens`
    are the tokens it fed of the corpus. Raises KeepwarmError if the version exists, DataError if nothing was fed or
    the stage is in B already, PlanError if the budget leaves a corpus less than a token.
    """
    entries = previous.entries if previous else ()
    version, parent = (previous.version + 1, previous.version) if previous else (1, None)
    _refuse_again(stage, [entry.stage for entry in entries])
    quotas = _quotas([(entry.stage, entry.stage_tokens) for entry in entries] + [(stage, stage_tokens)], budget_tokens)
    rows = _smallest(fed, quotas[-1], seed, sequence_length)
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
        content = {"version": version, "parent": parent, "budget_tokens": budget_tokens, "policy": POLICY}
        files.write_json(aside / "manifest.json", {**content, "entries": items})
    return load_buffer(final)


def load_buffer(folder: Path) -> BufferVersion:
    """The version that `fill` wrote. Raises DataError if its manifest is missing or damaged."""
    folder = Path(folder)
    path = folder / "manifest.json"
    try:
        content = json.loads(path.read_bytes())
        entries = tuple(_entry(folder, item) for item in content["entries"])
        return BufferVersion(folder, content["version"], content["parent"], content["budget_tokens"], entries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not the manifest of a buffer version ({error})",
            "without it nobody knows what the buffer holds",
            f"restore the folder, or remove it and fill the buffer again: rm -r {folder}",
        ) from None


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


def _real_spans(source: Source, fed: NDArray[np.bool_], sequence_length: int) -> NDArray[np.int64]:
    """Token positions [start, stop) in `.bin` that the windows cover, ascending, disjoint, unbroken: (spans, 2)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], fed, [False]]).astype(np.int8))).reshape(-1, 2)
    virtual = edges * sequence_length + np.array([0, 1])  # runs of windows; the last window's last token is in
    ends = np.cumsum(source.kept[:, 1] - source.kept[:, 0])
    # cut the virtual runs where the kept spans join, then move each piece to where its kept span lies
    cuts = np.unique(np.concatenate([virtual.reshape(-1), ends]))
    start, stop = cuts[:-1], cuts[1:]
    run = np.searchsorted(virtual[:, 0], start, side="right") - 1
    inside = (run >= 0) & (start < np.append(virtual[:, 1], 0)[run])
    start, stop = start[inside], stop[inside]
    span = np.searchsorted(ends, start, side="right")
    shift = source.kept[span, 1] - ends[span]
    start, stop = start + shift, stop + shift
    apart = np.append(True, start[1:] != stop[:-1])[: len(start)]
    return np.stack([start[apart], stop[np.append(apart[1:], True)[: len(stop)]]], axis=1)


def _smallest(fed: Sequence[FedRange], quota_tokens: int, seed: int, sequence_length: int) -> NDArray[np.void]:
    """The fed parts in the order of their documents' hashes, enough to fill the quota."""
    chosen = np.zeros(0, dtype=PROVENANCE)
    for number, (source, first, last) in enumerate(fed):
        parts = fed_documents(source, fed_windows(source, first, last, seed, sequence_length), sequence_length)
        key = np.uint64(derive_key("buffer", seed, source.id))
        parts["source"] = number
        parts["hash"] = mix64(mix64(parts["document"].astype(np.uint64)) + key)
        pool = np.concatenate([chosen, parts])
        pool = pool[np.lexsort([pool[name] for name in ("first_token", "document", "source", "hash")])]
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


def _quotas(stages: Sequence[tuple[str, int]], budget_tokens: int) -> list[int]:
    total = sum(tokens for _, tokens in stages)
    quotas = []
    for name, tokens in stages:
        quota = budget_tokens * tokens // total if tokens > 0 else 0
        if quota < 2:
            raise PlanError(
                f"a buffer of {budget_tokens} tokens leaves {quota} for stage {name}, which fed {tokens} of {total}",
                "a token of text and its EOD are the least that can be replayed",
                "raise buffer.tokens in the plan",
            )
        quotas.append(quota)
    return quotas


def _refuse_again(stage: str, held: Sequence[str]) -> None:
    if stage in held:
        raise DataError(
            f"the buffer holds stage {stage} already",
            "its documents would be replayed twice as often as planned",
            "fill the buffer once for each accepted stage",
        )


def _refuse_nothing(rows: NDArray[np.void], stage: str, corpus: str) -> None:
    if not len(rows):
        raise DataError(
            f"stage {stage} was fed no window of {corpus}",
            "B is to hold what was really fed, and there is nothing",
            "fill the buffer after the stage was trained on its new data",
        )
