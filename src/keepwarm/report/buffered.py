"""What the buffer B holds: its shares, where each stage's documents came from, and how they read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keepwarm.blend.buffer import BufferEntry, BufferVersion, load_buffer, provenance
from keepwarm.corpora.indexed import open_indexed
from keepwarm.corpora.tokenizer import load_tokenizer
from keepwarm.errors import DataError, KeepwarmError
from keepwarm.plan.model import Plan
from keepwarm.report.table import aligned

SAMPLES = 2  # of each stage
_SAMPLE_TOKENS = 120
_HEAD = ("stage", "corpus", "documents", "tokens", "of B", "stage fed", "kept of it", "from")
_ORIGINS = 3  # named in a row
_LOOKED_AT = 40  # of the first parts, the longest are shown: a cut part says little


def newest_buffer(run_folder: Path) -> BufferVersion | None:
    """The last version in a run folder, or None."""
    numbers = _versions(run_folder)
    return load_buffer(run_folder / "buffer" / f"v{numbers[-1]}") if numbers else None


def buffer_version(plan: Plan, number: int | None) -> BufferVersion:
    """Version `number` of a plan's buffer, or the newest; KeepwarmError if there is none."""
    folder = Path(plan.run.folder)
    numbers = _versions(folder)
    if not numbers:
        keeps = plan.buffer.tokens > 0
        raise KeepwarmError(
            f"{folder}/buffer: holds no version of B",
            "it is filled when the first stage is accepted" if keeps else "the plan keeps none: buffer.tokens is 0",
            "keepwarm run PLAN" if keeps else "buffer: {tokens: 400k}",
        )
    if number is not None and number not in numbers:
        raise KeepwarmError(
            f"--version {number}: there is no such version of B",
            f"there are {', '.join(map(str, numbers))}; a version is filled when a stage is accepted",
            f"--version {numbers[-1]}",
        )
    return load_buffer(folder / "buffer" / f"v{numbers[-1] if number is None else number}")


def text_samples(plan: Plan, version: BufferVersion, each: int = SAMPLES) -> dict[str, tuple[str, ...]]:
    """By stage, the beginnings of a few stored parts as text. DataError if the run's tokenizer can't be read."""
    eod = plan.tokenizer.eod if plan.tokenizer is not None else None
    tokenizer = load_tokenizer(Path(plan.run.folder) / "tokens" / "tokenizer.json", eod)
    found = {}
    for entry in version.entries:
        indexed = open_indexed(entry.prefix)
        longest_first = np.argsort(-provenance(entry)["tokens"][: max(_LOOKED_AT, each)], kind="stable")
        heads = [indexed.sequence(int(number))[:_SAMPLE_TOKENS] for number in longest_first[:each]]
        kept = [[int(token) for token in head if token != tokenizer.eod_id] for head in heads]
        found[entry.stage] = tuple(str(tokenizer.backend.decode(ids)).strip() for ids in kept)
    return found


def facts(version: BufferVersion) -> dict[str, Any]:
    """All about a version as data; shares are of the tokens that B holds."""
    return {
        "version": version.version,
        "parent": version.parent,
        "policy": version.policy,
        "budget_tokens": version.budget_tokens,
        "tokens": version.tokens,
        "entries": [_entry(entry, version) for entry in version.entries],
    }


def lines(version: BufferVersion, samples: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """The version for a terminal: a table, then text."""
    found = facts(version)
    yield (
        f"B version {version.version}: {version.tokens:,} of {version.budget_tokens:,} tokens, {version.policy}; "
        f"{version.folder}"
    )
    yield ""
    yield from aligned([_HEAD, *map(_row, found["entries"])], right=range(2, 7))
    for stage, texts in samples.items():
        for text in texts:
            yield ""
            yield f"{stage}:"
            yield from (f"  | {line}" for line in text.splitlines())


def file_list(version: BufferVersion) -> str:
    """B as a list of `weight prefix corpus` lines, as the lab's tools read it: a line a stage, weighed by its tokens."""
    return "".join(
        f"{entry.tokens / version.tokens!r} {entry.prefix.absolute()} buffer.{entry.stage}\n"
        for entry in version.entries
    )


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    sources = entry["sources"]
    origins = ", ".join(f"{source['name']} {source['documents']:,}" for source in sources[:_ORIGINS])
    return (
        entry["stage"], entry["corpus"], f"{entry['documents']:,}", f"{entry['tokens']:,}", f"{entry['share']:.1%}",
        f"{entry['stage_tokens']:,}", f"{entry['kept']:.1%}",
        origins + (f" and {len(sources) - _ORIGINS:,} more" if len(sources) > _ORIGINS else ""),
    )  # fmt: skip


def _entry(entry: BufferEntry, version: BufferVersion) -> dict[str, Any]:
    rows = provenance(entry)
    sources: list[dict[str, Any]] = []
    for number, origin in enumerate(entry.sources):
        mine = rows[rows["source"] == number]
        documents, tokens = len(np.unique(mine["document"])), int(mine["tokens"].sum())
        known = {"id": origin.id, "name": origin.name, "prefix": str(origin.prefix)}
        sources.append({**known, "documents": documents, "tokens": tokens})
    if sum(source["documents"] for source in sources) != entry.documents:
        raise DataError(
            f"{entry.prefix}.provenance.npy: names other documents than {version.folder}/manifest.json counts",
            "it says where each stored document came from",
            f"restore the folder: {version.folder}",
        )
    return {
        "stage": entry.stage, "corpus": entry.corpus, "documents": entry.documents, "tokens": entry.tokens,
        "share": entry.tokens / max(1, version.tokens), "stage_tokens": entry.stage_tokens,
        "kept": entry.tokens / max(1, entry.stage_tokens), "id": entry.id, "sources": sources,
    }  # fmt: skip


def _versions(run_folder: Path) -> list[int]:
    found = (path.parent.name[1:] for path in (run_folder / "buffer").glob("v*/manifest.json"))
    return sorted(int(number) for number in found if number.isdigit())
