"""Traps of the trainer's data cache: a corpus's order, kept under a name that says too little of what it was made from.

`HASH.dsc` says what `HASH_index.npy` is: the corpus, how many samples, two flags; not which files, nor their weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keepwarm.blend.blendcorpus import SPARE
from keepwarm.doctor.lists import FileList
from keepwarm.doctor.trap import Sight, trap

_CORPUS = re.compile(r"([^\n]+)\n ([0-9]+) \+ blend_sample_in_corpus: (\w+)\+ shuffle_sample_in_corpus: (\w+)\s*")
_MOST = 10**13  # samples; no run is longer


@dataclass(frozen=True, slots=True)
class Kept:
    """The order of one corpus: how many of its samples come from each file, by the file's place in the list."""

    index: Path
    corpus: str
    samples: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache folder and the list that is used with it."""

    folder: Path
    kept: tuple[Kept, ...]
    listed: FileList


def is_cache(folder: Path) -> bool:
    """True for a folder with descriptions of kept orders."""
    return folder.is_dir() and next(folder.glob("*.dsc"), None) is not None


def read_cache(folder: Path, listed: FileList) -> Cache:
    """The corpora's orders that a folder keeps."""
    found = []
    for path in sorted(folder.glob("*.dsc")):
        match = _CORPUS.fullmatch(path.read_text(encoding="utf-8", errors="replace"))
        index = path.with_name(f"{path.stem}_index.npy")
        if match is None or match[3] != "False" or not index.is_file():
            continue
        try:
            order = np.load(index, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError):
            continue
        if order.ndim == 1 and order.size and np.issubdtype(order.dtype, np.integer) and int(order.min()) >= 0:
            found.append(Kept(index, match[1], int(match[2]), tuple(int(n) for n in np.bincount(order))))
    return Cache(folder, tuple(found), listed)


@trap(
    "stale-cache",
    "cache",
    "silent",
    seen="a kept order of a corpus with the name and size of this list's, made from other weights",
    harm="the trainer takes it: samples come from the wrong files, or raise an IndexError in the middle of training",
    source="golden/data/cache_collision.json",
)
def stale_cache(cache: Cache) -> Iterator[Sight]:
    """A kept order is read where the list gives the corpus exactly its number of samples; the files' counts must fit too."""
    weights = [line.weight or 0.0 for line in cache.listed.entries]
    for kept in cache.kept:
        own = [at for at, line in enumerate(cache.listed.entries) if line.fields[2] == kept.corpus]
        if not own or not math.isfinite(sum(weights)) or not sum(weights):
            continue
        wanted = _counts(weights, own, kept.samples)
        if wanted and kept.counts != wanted:
            first = cache.listed.entries[own[0]]
            yield Sight(
                str(kept.index), f"corpus {kept.corpus}, {kept.samples:,} samples: the cache has {_files(kept.counts)} by file, "
                f"{first.place} asks for {_files(wanted)}", f"rm -r {cache.folder}, or another SAVE: the cache lies in it",
            )  # fmt: skip


def _files(counts: tuple[int, ...]) -> str:
    shown = ", ".join(f"{count:,}" for count in counts[:4])
    return f"{shown}, .." if len(counts) > 4 else shown


def _counts(weights: list[float], own: list[int], samples: int) -> tuple[int, ...]:
    """The files' counts of a corpus that gets exactly `samples`, at whatever length of run; () where none gives it that many.

    Each count rises with the length, so there is one vector of counts for a sum.
    """
    whole = 0.0
    for weight in weights:  # the trainer's own float sum, in the list's order
        whole += weight

    def counts(run: int) -> tuple[int, ...]:
        return tuple(math.ceil(run * (weights[at] / whole) * SPARE) for at in own)

    low, high = 0, 1
    while sum(counts(high)) < samples and high < _MOST:
        high *= 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if sum(counts(middle)) >= samples else (middle + 1, high)
    return _trimmed(counts(low)) if sum(counts(low)) == samples else ()


def _trimmed(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Without files at the end that have no sample, as a count of what is there has none."""
    last = max((at for at, count in enumerate(counts) if count), default=-1)
    return counts[: last + 1]


@trap(
    "shared-cache",
    "cache",
    "silent",
    seen="one cache folder that keeps two orders of different files under one corpus's name",
    harm="lists that give a corpus the same number of samples read each other's order",
    source="golden/data/cache_collision.json",
)
def shared_cache(cache: Cache) -> Iterator[Sight]:
    """The blends' descriptions name the files; a file of a corpus that this list does not have was another list's."""
    names = {line.fields[1].removesuffix(".bin") for line in cache.listed.entries}
    for path in sorted(cache.folder.glob("*.dsc")):
        text = path.read_text(encoding="utf-8", errors="replace")
        found = re.findall(r"CorpusDataset:([^\n]*),-[0-9]+-", text)
        foreign = [prefix for group in found for prefix in group.split(",") if prefix and prefix not in names]
        if foreign:
            yield Sight(
                str(path),
                f"made for another list: {foreign[0]} is not in {cache.listed.path}",
                "a cache folder for each list",
            )
            return
