"""Text to token files: a document end after each document, documents shuffled once, reproducibly.

The text is divided into parts (documents.py), which workers encode (parts.py) beside the prefix; then the documents are
written to PREFIX.bin in an order drawn by the seed (shuffle.py). How many workers there are, whether the work was
stopped in between and which library encodes changes no byte. Nothing appears under the prefix before all of it is
there. PREFIX.hash.npy holds each document's text hash: holdouts are chosen by it, and exact duplicates share it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from keepwarm import files
from keepwarm.corpora import fast
from keepwarm.corpora.arrays import load_array
from keepwarm.corpora.documents import explained, read_files, text_files
from keepwarm.corpora.documents import parts as divided
from keepwarm.corpora.hashing import shuffled
from keepwarm.corpora.indexed import IndexedWriter, Sidecar, best_dtype, read_sidecar
from keepwarm.corpora.names import check_free, hash_path, pair
from keepwarm.corpora.parts import (
    COUNTS,
    NUMBERS,
    REFERENCE,
    Part,
    Settings,
    encode_parts,
    finished,
    path_of,
    record_of,
)
from keepwarm.corpora.shuffle import Run, write_shuffled
from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.errors import DataError, KeepwarmError

Facts = tuple[int, int]  # bytes of a file, and when it was modified, in nanoseconds
Tell = Callable[[str], None]
Progress = Callable[[int, int], None]  # bytes of input that were just encoded, and of input in all


def tokenize_corpus(
    patterns: Sequence[str], tokenizer: Tokenizer, prefix: Path, *, seed: int, workers: int | None = None,
    tell: Tell | None = None, progress: Progress | None = None,
) -> Sidecar:  # fmt: skip
    """Tokenize text files into `prefix`.bin/.idx with sidecar and hashes; goes on with what a stopped call has done.

    Raises DataError for text that can't be read or that changes meanwhile, for a corpus without text, and if the prefix
    is taken.
    """
    check_free([prefix], prefix)
    inputs = {path: _facts(path) for path in text_files(patterns)}
    work = [Part(number, slices) for number, slices in enumerate(divided(list(inputs)))]
    folder = prefix.with_name(prefix.name + ".parts.partial")
    choice = fast.choose(tokenizer.path, tokenizer.encode, _sample(inputs))
    with files.run_lock(folder):
        try:
            settings = _encode(work, folder, tokenizer, choice, workers, tell, progress)
            sidecar = _write(work, settings, inputs, tokenizer, prefix, seed)
        except KeepwarmError:
            if not any(folder.glob("*.json")):  # complete parts are kept for the next call
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder)
    return sidecar


def is_tokenized(patterns: Sequence[str], tokenizer: Tokenizer, prefix: Path, seed: int) -> bool:
    """True if `prefix` holds these very files' text: same tokenizer, seed, paths and sizes, none modified since."""
    if (
        not all(path.exists() for path in (*pair(prefix), hash_path(prefix)))
        or (sidecar := read_sidecar(prefix)) is None
    ):
        return False
    inputs = text_files(patterns)
    made = pair(prefix)[0].stat().st_mtime_ns
    return (
        sidecar.tokenizer_sha256 == tokenizer.sha256
        and sidecar.shuffled_with_seed == seed
        and [(item["path"], item["bytes"]) for item in sidecar.source_files]
        == [(str(path), path.stat().st_size) for path in inputs]
        and all(path.stat().st_mtime_ns < made for path in inputs)
    )


def _sample(inputs: Iterable[Path]) -> list[str]:
    """The first documents, about a megabyte of them."""
    used = 0

    def within(item: tuple[str, str]) -> bool:
        nonlocal used
        used += len(item[0])
        return used <= fast.SAMPLE_CHARACTERS or used == len(item[0])

    with suppress(DataError):  # what can't be read is told when its part is made
        return [fast.beginning(text) for text, _ in takewhile(within, read_files(inputs))]
    return []


def _encode(
    work: Sequence[Part], folder: Path, tokenizer: Tokenizer, choice: fast.Choice, workers: int | None,
    tell: Tell | None, progress: Progress | None,
) -> Settings:  # fmt: skip
    """Make every part that is not there yet; by the reference after all if the fast library differs on the way."""
    library = fast.LIBRARY if choice.backend is not None else REFERENCE
    settings = Settings(folder, tokenizer.path, tokenizer.sha256, tokenizer.eod_token, library)
    todo = [part for part in work if not finished(part, settings)]
    if tell is not None:
        tell(f"encoding with {library}: {choice.why}")
        if len(todo) < len(work):
            tell(f"going on: {len(work) - len(todo)} of {len(work)} parts are done")
    total = sum(part.input_bytes for part in work)
    if progress is not None:
        progress(total - sum(part.input_bytes for part in todo), total)
    tick = (lambda size: progress(size, total)) if progress is not None else None
    try:
        encode_parts(todo, settings, tokenizer, choice.backend, workers or os.cpu_count() or 1, tick)
    except fast.Differs:
        why = f"{fast.LIBRARY} gave other ids for a document of this text, so all of it is encoded again"
        return _encode(work, folder, tokenizer, fast.Choice(None, why), workers, tell, None)
    return settings


def _write(
    work: Sequence[Part],
    settings: Settings,
    inputs: Mapping[Path, Facts],
    tokenizer: Tokenizer,
    prefix: Path,
    seed: int,
) -> Sidecar:
    records = [record_of(part, settings) for part in work]
    counts = {name: sum(record["counts"][name] for record in records) for name in COUNTS}
    if not counts["documents"]:
        shutil.rmtree(settings.folder)  # there is nothing to go on with
        raise DataError(
            f"{next(iter(inputs))}: holds no text", "a corpus without text can't be fed", "name other files"
        )
    numbers = [load_array(path_of(settings.folder, part.number, "numbers.npy"), NUMBERS) for part in work]
    order = shuffled(counts["documents"], "documents", seed)
    runs = [
        Run(path_of(settings.folder, part.number, "tokens"), rows["tokens"])
        for part, rows in zip(work, numbers, strict=True)
    ]
    with IndexedWriter(prefix, best_dtype(tokenizer.vocab_size)) as writer:
        write_shuffled(runs, order, writer, settings.folder)
        writer.sidecar = Sidecar(
            tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, eod=tokenizer.eod_id,
            documents=counts["documents"], tokens=counts["tokens"], content_id=writer.content_id(),
            source_files=[_source_file(path, facts) for path, facts in inputs.items()],
            text_bytes=counts["text_bytes"], empty_documents=counts["empty_documents"],
            special_tokens_escaped=counts["special_tokens_escaped"], shuffled_with_seed=seed,
        )  # fmt: skip
        writer.hashes = np.concatenate([rows["hash"] for rows in numbers])[order]
    return writer.sidecar


def _facts(path: Path) -> Facts:
    with explained(path):
        facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _source_file(path: Path, before: Facts) -> dict[str, Any]:
    """What the sidecar says of an input; DataError if it is not what it was before it was read."""
    with explained(path):
        sha256 = files.sha256_file(path)
    if _facts(path) != before:
        raise DataError(
            f"{path}: changed while it was tokenized",
            "the tokens are neither those of the file as it was nor as it is",
            "give the same command again when nothing writes to it; files that did not change are not encoded again",
        )
    return {"path": str(path), "bytes": before[0], "sha256": sha256}
