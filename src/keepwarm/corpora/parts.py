"""One part of a corpus as tokens: what a worker does, and how many work at once.

    FOLDER/00012.tokens        the documents' tokens, each document closed by its end
    FOLDER/00012.numbers.npy   (documents,) of NUMBERS
    FOLDER/00012.json          what the part was made of and by which library, and counts; removed first and written last,
                               so that a part with it is complete

A complete part of the same slices of the same files is not made again: work that was stopped goes on from there.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm import files, processes
from keepwarm.corpora import fast
from keepwarm.corpora.arrays import save_array
from keepwarm.corpora.documents import Slice, explained, read_slice
from keepwarm.corpora.hashing import bytes_hash
from keepwarm.corpora.indexed import best_dtype
from keepwarm.corpora.tokenizer import Tokenizer, load_tokenizer, spelled
from keepwarm.errors import DataError

BATCH_DOCUMENTS, BATCH_CHARACTERS = 4096, 1_000_000
NUMBERS = np.dtype([("tokens", "<i8"), ("hash", "<u8")])  # of a document: its length with its end, its text's hash
REFERENCE = "tokenizers"
COUNTS = ("documents", "tokens", "text_bytes", "empty_documents", "special_tokens_escaped")


@dataclass(frozen=True, slots=True)
class Settings:
    """What every part of a corpus is made with."""

    folder: Path
    tokenizer: Path
    tokenizer_sha256: str
    eod: str
    library: str


@dataclass(frozen=True, slots=True)
class Part:
    """A run of slices."""

    number: int
    slices: tuple[Slice, ...]

    @property
    def input_bytes(self) -> int:
        """Bytes on disk."""
        return sum(piece.input_bytes for piece in self.slices)


class Stopped(Exception):
    """The owner asked the workers to stop."""


Tick = Callable[[int], None]  # told how many bytes of input were just encoded; may raise Stopped


def path_of(folder: Path, number: int, ending: str) -> Path:
    """A file of a part."""
    return folder / f"{number:05d}.{ending}"


def record_of(part: Part, settings: Settings) -> dict[str, Any]:
    """What the `.json` of a complete part says."""
    record: dict[str, Any] = json.loads(path_of(settings.folder, part.number, "json").read_text(encoding="utf-8"))
    return record


def finished(part: Part, settings: Settings) -> bool:
    """True if a part is complete, and made of the files as they are by this library or by the reference."""
    if not path_of(settings.folder, part.number, "json").exists():
        return False
    record = record_of(part, settings)
    return record.get("library") in (settings.library, REFERENCE) and record["made_of"] == _made_of(part, settings)


def encode_part(part: Part, settings: Settings, tokenizer: Tokenizer, backend: Any, tick: Tick) -> None:
    """Tokenize a part. `backend` is the fast library's tokenizer, or None. Raises fast.Differs, DataError, Stopped."""
    dtype = best_dtype(tokenizer.vocab_size)
    made_of = _made_of(part, settings)
    count_spelled = spelled(tokenizer.special)
    counts = dict.fromkeys(COUNTS, 0)
    numbers: list[NDArray[np.void]] = []
    told = 0
    target, record = (path_of(settings.folder, part.number, ending) for ending in ("tokens", "json"))
    record.unlink(missing_ok=True)  # an older one would make what a kill leaves of this part look complete
    with files.explained(target), open(target, "wb") as out:
        for texts in _batches(part):
            tick(0)
            kept = [text for text in texts if text]
            counts["empty_documents"] += len(texts) - len(kept)
            if not kept:
                continue
            ids, ends = fast.encode(backend, kept) if backend is not None else tokenizer.encode(kept)
            if backend is not None:
                _check_some(kept, ids, ends, backend, tokenizer, counts["documents"])
            closed, lengths = _closed(ids, ends, tokenizer, target)
            out.write(closed.astype(dtype).data)
            encoded = [text.encode() for text in kept]
            numbers.append(_numbers(lengths, encoded))
            counts["documents"] += len(kept)
            counts["tokens"] += len(closed)
            counts["text_bytes"] += sum(map(len, encoded))
            counts["special_tokens_escaped"] += sum(map(count_spelled, kept))
            step = min(sum(map(len, encoded)), part.input_bytes - told)  # text may be longer than its file
            tick(step)
            told += step
        out.flush()
        os.fsync(out.fileno())
    table = np.concatenate([np.empty(0, NUMBERS), *numbers])
    save_array(path_of(settings.folder, part.number, "numbers.npy"), table, replace=True)
    files.write_json(record, {"made_of": made_of, "library": settings.library, "counts": counts})
    tick(part.input_bytes - told)


def encode_parts(
    todo: Sequence[Part], settings: Settings, tokenizer: Tokenizer, backend: Any, workers: int, progress: Tick | None
) -> None:
    """Tokenize parts, `workers` at a time in processes of their own; one worker is this process."""
    if min(workers, len(todo)) <= 1:
        for part in todo:
            encode_part(part, settings, tokenizer, backend, progress or (lambda _: None))
        return
    spawn = multiprocessing.get_context("spawn")
    done_bytes, stop = spawn.Value("q", 0), spawn.Event()
    with ProcessPoolExecutor(min(workers, len(todo)), spawn, _begin, (settings, done_bytes, stop)) as pool:
        with processes.ignoring_ctrl_c():
            pending = {pool.submit(_work, part) for part in todo}
        told = 0
        try:
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if progress is not None:
                    progress(done_bytes.value - told)
                    told = done_bytes.value
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_worker: dict[str, Any] = {}  # what a worker process holds between its parts


def _begin(settings: Settings, done_bytes: Any, stop: Any) -> None:
    processes.die_with_owner()
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}  # the workers share the processors
    _worker["settings"], _worker["done_bytes"], _worker["stop"] = settings, done_bytes, stop
    _worker["tokenizer"] = load_tokenizer(settings.tokenizer, settings.eod)
    _worker["backend"] = fast.load(settings.tokenizer) if settings.library == fast.LIBRARY else None


def _work(part: Part) -> None:
    def tick(size: int) -> None:
        if _worker["stop"].is_set():
            raise Stopped
        with _worker["done_bytes"].get_lock():
            _worker["done_bytes"].value += size

    encode_part(part, _worker["settings"], _worker["tokenizer"], _worker["backend"], tick)


def _batches(part: Part) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for piece in part.slices:
        for text, _ in read_slice(piece):
            batch.append(text)
            characters += len(text)
            if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch


def _check_some(
    texts: Sequence[str], ids: NDArray[np.uint32], ends: NDArray[np.int64], backend: Any, tokenizer: Tokenizer,
    before: int,
) -> None:  # fmt: skip
    """Hold one document in a thousand of the part against the reference; of a long one its beginning, by itself."""
    for number in range(-before % fast.CHECKED_EVERY, len(texts), fast.CHECKED_EVERY):
        text = fast.beginning(texts[number])
        whole = len(text) == len(texts[number])
        mine = ids[ends[number - 1] if number else 0 : ends[number]] if whole else fast.encode(backend, [text])[0]
        fast.check((mine, ends[:0]), (tokenizer.encode([text])[0], ends[:0]))


def _numbers(lengths: NDArray[np.int64], encoded: Sequence[bytes]) -> NDArray[np.void]:
    rows = np.empty(len(encoded), dtype=NUMBERS)
    rows["tokens"] = lengths
    rows["hash"] = [bytes_hash(data) for data in encoded]
    return rows


def _closed(
    ids: NDArray[np.uint32], ends: NDArray[np.int64], tokenizer: Tokenizer, target: Path
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The ids with a document end after each document, and the documents' lengths with it."""
    assert not (ids == tokenizer.eod_id).any(), "text was encoded as a document end"
    if len(ids) and ids.max() >= tokenizer.vocab_size:
        raise DataError(
            f"{target}: the tokenizer gave id {int(ids.max()):,}, and counts {tokenizer.vocab_size:,} entries",
            "the id fits neither the token file nor a model of that vocabulary",
            f"mend the ids in {tokenizer.path}: they must run from 0 without holes",
        )
    lengths = np.diff(ends, prepend=0) + 1
    closed = np.full(len(ids) + len(ends), tokenizer.eod_id, dtype=np.uint32)
    inside = np.ones(len(closed), dtype=np.bool_)
    inside[np.cumsum(lengths) - 1] = False
    closed[inside] = ids
    return closed, lengths


def _made_of(part: Part, settings: Settings) -> dict[str, Any]:
    slices = []
    for piece in part.slices:
        with explained(piece.path):
            facts = piece.path.stat()
        slices.append([str(piece.path.resolve()), facts.st_size, facts.st_mtime_ns, piece.start, piece.stop])
    return {
        "slices": slices,
        "tokenizer_sha256": settings.tokenizer_sha256,
        "eod": settings.eod,
    }
