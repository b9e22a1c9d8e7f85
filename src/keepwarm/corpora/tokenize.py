"""Text to token files: documents in batches, a document end after each, shuffled once, reproducibly.

Tokens go to a temporary file in the order of the text, then to PREFIX.bin in an order drawn by the seed, so memory
holds one batch and a few numbers a document. Nothing appears under the prefix before all of it is there.
PREFIX.hash.npy holds each document's text hash: holdouts are chosen by it, and exact duplicates share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keepwarm import files
from keepwarm.corpora.documents import iter_documents, text_files
from keepwarm.corpora.hashing import mix64, shuffled, text_hash
from keepwarm.corpora.indexed import IndexedFile, IndexedWriter, Sidecar, best_dtype, open_indexed, pair
from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.errors import DataError

BATCH_DOCUMENTS, BATCH_CHARACTERS = 512, 4_000_000
END_TOKENS = 64  # of a document without text: what its hash is made of


def tokenize_corpus(
    patterns: Sequence[str],
    tokenizer: Tokenizer,
    prefix: Path,
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Sidecar:
    """Tokenize text files into `prefix`.bin/.idx with sidecar and hashes. `progress` is told the documents done.

    Raises DataError for text that can't be read, for a corpus without text, and if the prefix is taken.
    """
    for path in pair(prefix):
        if path.exists():
            raise DataError(f"{path}: exists already", "token files are never overwritten", f"rm {path}")
    inputs = text_files(patterns)
    lengths, hashes, facts = [], [], {"text_bytes": 0, "empty_documents": 0, "special_tokens_escaped": 0}
    scratch = prefix.with_name(prefix.name + ".scratch.partial")
    dtype = best_dtype(tokenizer.vocab_size)
    try:
        with files.explained(scratch):
            scratch.parent.mkdir(parents=True, exist_ok=True)
            with open(scratch, "wb", buffering=1 << 20) as out:
                for texts in _batches(patterns):
                    kept = [text for text in texts if text]
                    facts["empty_documents"] += len(texts) - len(kept)
                    for text, ids in zip(kept, tokenizer.encode(kept), strict=True):
                        assert not (ids == tokenizer.eod_id).any(), "text was encoded as a document end"
                        out.write(np.append(ids, tokenizer.eod_id).astype(dtype).tobytes())
                        lengths.append(len(ids) + 1)
                        hashes.append(text_hash(text))
                        facts["text_bytes"] += len(text.encode())
                        facts["special_tokens_escaped"] += tokenizer.escaped(text)
                    if progress is not None:
                        progress(len(lengths))
        if not lengths:
            raise DataError(f"{inputs[0]}: holds no text", "a corpus without text can't be fed", "name other files")
        return _write(scratch, dtype, lengths, hashes, facts, inputs, tokenizer, prefix, seed)
    finally:
        scratch.unlink(missing_ok=True)


def document_hashes(prefix: Path) -> NDArray[np.uint64]:
    """A hash of each document, equal for duplicates: of its text where it is known, else of its length and ends."""
    path = _hash_path(prefix)
    if path.exists():
        found: NDArray[np.uint64] = np.load(path)
        return found
    opened = open_indexed(prefix)
    return _hash_tokens(opened)


def document_spans(opened: IndexedFile) -> NDArray[np.int64]:
    """(documents, 2): [start, stop) token positions in .bin. Sequences of a document follow each other."""
    starts = opened.pointers // opened.dtype.itemsize
    stops = starts + opened.lengths
    first, last = opened.document_indices[:-1], opened.document_indices[1:]
    empty = first == last
    safe_first = np.minimum(first, max(0, opened.n_sequences - 1))
    safe_last = np.maximum(last - 1, 0)
    if opened.n_sequences == 0:
        return np.zeros((len(first), 2), dtype=np.int64)
    begin = np.where(empty, 0, starts[safe_first])
    return np.stack([begin, np.where(empty, begin, stops[safe_last])], axis=1)


def _batches(patterns: Sequence[str]) -> Iterator[list[str]]:
    texts = (text for text, _ in iter_documents(patterns))
    while batch := list(islice(texts, 1)):
        characters = len(batch[0])
        while len(batch) < BATCH_DOCUMENTS and characters < BATCH_CHARACTERS and (more := list(islice(texts, 1))):
            characters += len(more[0])
            batch += more
        yield batch


def _write(
    scratch: Path, dtype: np.dtype[np.generic], lengths: list[int], hashes: list[int], facts: dict[str, int],
    inputs: Sequence[Path], tokenizer: Tokenizer, prefix: Path, seed: int,
) -> Sidecar:  # fmt: skip
    stream = np.memmap(scratch, dtype=dtype, mode="r")
    sizes = np.array(lengths, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    order = shuffled(len(sizes), "documents", seed)
    final_hashes = np.array(hashes, dtype=np.uint64)[order]
    with IndexedWriter(prefix, dtype) as writer:
        for number in order.tolist():
            writer.add(stream[starts[number] : starts[number] + sizes[number]])
        sidecar = Sidecar(
            tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, eod=tokenizer.eod_id,
            documents=len(sizes), tokens=int(sizes.sum()), content_id=writer.content_id(), shuffled_with_seed=seed,
            source_files=[
                {"path": str(p), "bytes": p.stat().st_size, "sha256": files.sha256_file(p)} for p in inputs
            ],
            text_bytes=facts["text_bytes"], empty_documents=facts["empty_documents"],
            special_tokens_escaped=facts["special_tokens_escaped"],
        )  # fmt: skip
        writer.sidecar = sidecar
        _save_hashes(prefix, final_hashes)
    return sidecar


def _save_hashes(prefix: Path, hashes: NDArray[np.uint64]) -> None:
    path = _hash_path(prefix)
    aside = path.with_name(path.name + ".partial.npy")
    with files.explained(path):
        np.save(aside, hashes)
        files.fsync_file(aside)
        aside.replace(path)


def _hash_path(prefix: Path) -> Path:
    return Path(str(pair(prefix)[0])[:-4] + ".hash.npy")


def _hash_tokens(opened: IndexedFile) -> NDArray[np.uint64]:
    """Without text: a hash of each document's length, first and last tokens. Equal documents are equal."""
    spans = document_spans(opened)
    sizes = (spans[:, 1] - spans[:, 0]).astype(np.uint64)
    state = mix64(sizes + np.uint64(1))
    for offset in range(END_TOKENS):
        for place in (spans[:, 0] + offset, spans[:, 1] - 1 - offset):
            inside = (place >= spans[:, 0]) & (place < spans[:, 1])
            value = np.zeros(len(spans), dtype=np.uint64)
            value[inside] = opened.tokens[place[inside]].astype(np.uint64) + np.uint64(1)
            state = mix64(state ^ value)
    return state
