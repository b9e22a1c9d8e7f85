"""The attempt's samples as the trainer's files, copied in exact order: for a mix that changes on the way.

A list mixes its lines by the same weights from beginning to end, so here the mixing is done already: one corpus, a line
for each shard, and every sample of the attempt drawn when the attempt says. For the trainer shuffles a corpus as a whole
(blend/trainer_order.py): the shards take turns as that shuffle has it, a shard's `.bin` holds its samples in the order
in which they are drawn, and its `.idx` puts them where they are drawn. With one shard the `.bin` is the attempt, sample by
sample.

    OUT/samples-00000.bin, .idx ...   the samples, `sequence_length` tokens each, then 1 % more that the trainer validates on
    OUT/data-list.txt                 the list
    OUT/meta.json                     which attempt, which samples, for which run of the trainer
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from keepwarm import files
from keepwarm.attempt.line import Feed, open_stream
from keepwarm.attempt.model import Attempt
from keepwarm.backends.megatron.view_files import runs_index
from keepwarm.backends.megatron.views import TRAINER_SEED, Reading, reading_of, refuse_spaces
from keepwarm.blend.blendcorpus import BlendCorpus
from keepwarm.blend.stream import Stream
from keepwarm.blend.trainer_order import FEWEST_TRAINING, SPLIT, drawn, shuffled_file, validating_for
from keepwarm.corpora.filelist import Entry
from keepwarm.corpora.indexed import read_header
from keepwarm.errors import KeepwarmError, PlanError
from keepwarm.units import format_bytes

CORPUS, LIST, META = "samples", "data-list.txt", "meta.json"
_BLOCK_TOKENS = 1 << 22
Progress = Callable[[int, int], None]  # bytes that were just written, and bytes in all


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of samples. The trainer gives it `given` samples; `samples` of them are read."""

    prefix: Path
    given: int
    samples: int

    @property
    def windows(self) -> int:
        """Sequences of its training part."""
        return max(self.given + 1, FEWEST_TRAINING)

    @property
    def validating(self) -> int:
        """And behind it."""
        return validating_for(self.windows)


@dataclass(frozen=True, slots=True)
class MaterializedList:
    """A list of shards in `folder`."""

    folder: Path
    text: str
    shards: tuple[Shard, ...]
    reading: Reading


def materialized_list(
    attempt: Attempt, folder: Path, *, first_sample: int = 0, last_sample: int | None = None, skipped_samples: int = 0,
    built_samples: int | None = None, shard_samples: int | None = None, seed: int = TRAINER_SEED,
) -> MaterializedList:  # fmt: skip
    """The list, with shards in `folder`, for a launch that feeds the attempt's samples [first_sample, last_sample).

    As views.list_of; shards of about `shard_samples`, by default one. PlanError if the mix is decided while it is fed.
    """
    reading = reading_of(attempt, first_sample, last_sample, skipped_samples, built_samples, seed)
    refuse_spaces(folder)
    if attempt.steering is not None:
        raise PlanError(
            f"{attempt.folder}: its mix is decided while it is trained",
            "its samples are known when they were fed, not before",
            "give the stage a rung of a fixed mix, such as {rung: replay, shares: [25%]}",
        )
    count = 1 if shard_samples is None else math.ceil(reading.samples / shard_samples)
    prefixes = [folder / f"samples-{number:05d}" for number in range(count)]
    text = "".join(f"1 {prefix} {CORPUS}\n" for prefix in prefixes)
    entries = [Entry(Fraction(1), "1", str(prefix), CORPUS, LIST) for prefix in prefixes]
    order = BlendCorpus(entries, reading.built, seed, shuffled=True, blended=False)
    given = order.given(CORPUS) // count
    file, _ = _drawn(given, count, reading)
    read = np.bincount(file, minlength=count).tolist()
    shards = tuple(Shard(prefix, given, samples) for prefix, samples in zip(prefixes, read, strict=True))
    return MaterializedList(folder, text, shards, reading)


def write_materialized(attempt: Attempt, feed: Feed, data: MaterializedList, progress: Progress | None = None) -> None:
    """Write the folder of a list's shards whole: aside, then by one rename; a folder that holds the same stays.

    Raises KeepwarmError if the folder holds something else or the disk has too little room, DataError for a source that
    is gone. After Ctrl-C nothing is left, after a kill the next call begins anew.
    """
    if data.folder.exists():
        return _refuse_other(attempt, data)
    stream = open_stream(attempt, feed)
    try:
        _refuse_full(data, bytes_of(attempt, feed, data))
        with files.new_folder(data.folder) as aside:
            digests = _write_tokens(attempt, stream, data, aside, _dtype(stream), progress)
            for number, shard in enumerate(data.shards):
                files.write_bytes(aside / f"{shard.prefix.name}.idx", _index(attempt, data, number, _dtype(stream)))
            files.write_text(aside / LIST, data.text)
            files.write_json(aside / META, facts(attempt, data) | {"sha256": digests})
    finally:
        stream.close()


def facts(attempt: Attempt, data: MaterializedList) -> dict[str, Any]:
    """What decides every byte of the folder."""
    return {
        "format": 1, "attempt": attempt.sha256, "folder": attempt.folder, "label": attempt.label,
        "sequence_length": attempt.sequence_length, "split": SPLIT, **asdict(data.reading),
        "shards": [{"prefix": shard.prefix.name, "samples": shard.samples} for shard in data.shards],
    }  # fmt: skip


def bytes_of(attempt: Attempt, feed: Feed, data: MaterializedList) -> int:
    """What the tokens take, those that validate too."""
    ids = {source for segment in attempt.segments for source in segment.mixture.source_ids}
    dtype = np.result_type(*(read_header(feed.sources[each][0].prefix).dtype for each in ids if each in feed.sources))
    windows = sum(shard.samples + shard.validating for shard in data.shards)
    return windows * attempt.sequence_length * dtype.itemsize


def _drawn(given: int, count: int, reading: Reading) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Shard and number in the shard of each sample that the launch reads, (samples,)."""
    file, number = drawn([given] * count, reading.seed)
    part = slice(reading.skipped, reading.skipped + reading.samples)
    return file[part], number[part]


def _dtype(stream: Stream) -> np.dtype[Any]:
    """One that holds every source's tokens."""
    return np.result_type(*(read_header(source.prefix).dtype for source in _fed(stream)))


def _fed(stream: Stream) -> Iterator[Any]:
    return (stream.sources[each] for each in stream.source_ids)


def _write_tokens(
    attempt: Attempt, stream: Stream, data: MaterializedList, folder: Path, dtype: np.dtype[Any],
    progress: Progress | None,
) -> dict[str, str]:  # fmt: skip
    """Each shard's `.bin`: its samples as they are drawn, then those that validate. SHA-256 by name."""
    shards, last = data.shards, data.reading.first_sample + data.reading.samples
    file, _ = _drawn(shards[0].given, len(shards), data.reading)
    behind = np.repeat(np.arange(len(shards)), [shard.validating for shard in shards])
    file, total = np.concatenate([file, behind]), (len(file) + len(behind)) * attempt.sequence_length * dtype.itemsize
    digests = [hashlib.sha256() for _ in shards]
    with ExitStack() as stack:
        outs: list[IO[bytes]] = [
            stack.enter_context(open(folder / f"{shard.prefix.name}.bin", "wb")) for shard in shards
        ]
        block = max(1, _BLOCK_TOKENS // attempt.sequence_length)
        for first in range(0, len(file), block):
            part = file[first : first + block]
            start = data.reading.first_sample + first
            tokens = stream.batch(start, start + len(part))[0][:, :-1].astype(dtype)
            for number in np.unique(part).tolist():
                content = np.ascontiguousarray(tokens[part == number]).data.cast("B")
                digests[number].update(content)
                outs[number].write(content)
            if progress is not None:
                progress(tokens.nbytes, total)
    assert start + len(part) == last + len(behind), (start, last)
    return {shard.prefix.name: digest.hexdigest() for shard, digest in zip(shards, digests, strict=True)}


def _index(attempt: Attempt, data: MaterializedList, number: int, dtype: np.dtype[Any]) -> bytes:
    """A shard's `.idx`: each sample where it is drawn, and where none of them is, samples again."""
    shard, length = data.shards[number], attempt.sequence_length
    file, place = _drawn(shard.given, len(data.shards), data.reading)
    sequence, window = shuffled_file(shard.windows, shard.windows, data.reading.seed)
    row = np.arange(shard.windows) % max(1, shard.samples)
    row[window[place[file == number]]] = np.arange(shard.samples)
    laid = np.empty(shard.windows, dtype=np.int64)
    laid[sequence] = row
    laid = np.concatenate([laid, shard.samples + np.arange(shard.validating)])
    return runs_index(dtype, np.stack([laid * length, np.full(len(laid), length)], axis=1))


def _refuse_full(data: MaterializedList, needed: int) -> None:
    parent = next(path for path in data.folder.parents if path.exists())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise KeepwarmError(
            f"{data.folder}: {format_bytes(needed)} are needed, {format_bytes(free)} are free on {parent}",
            "the samples are copied, and nothing was written",
            "free some space, choose a folder on another disk, or take fewer samples: --samples 0:1000",
        )


def _refuse_other(attempt: Attempt, data: MaterializedList) -> None:
    path = data.folder / META
    there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    there.pop("sha256", None)
    if there != facts(attempt, data):
        raise KeepwarmError(
            f"{data.folder}: exists already, and holds something else",
            "a trainer that reads from it would read other data in the middle of its run",
            f"choose another name, or end what was launched from it, then: rm -r {os.fspath(data.folder)}",
        )
