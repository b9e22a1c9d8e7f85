"""Holdouts: what is never trained on, split off by document hash before anything else.

The documents with the smallest hashes are held out, whole, with all their exact duplicates, in every file of the
corpus. Of a long document only some pieces are measured, so that a holdout has at least 32 pieces from at least 8
documents; the rest of it stays out of training too. A piece has at most `sequence_length` tokens and ends with a
document end. Training then skips the held-out documents' spans (source.py); no file is rewritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.documents import iter_documents
from keepwarm.corpora.duplicates import held_documents
from keepwarm.corpora.hashing import text_hash
from keepwarm.corpora.identity import document_hashes, document_spans
from keepwarm.corpora.indexed import IndexedFile, IndexedWriter, Sidecar, open_indexed, source_id
from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.errors import DataError

FEWEST_PIECES, FEWEST_DOCUMENTS = 32, 8
FEWEST_IN_CORPUS = 2 * FEWEST_DOCUMENTS
TOKENIZER_TEXT_BYTES = 20_000_000
GENEROUS_BYTES_A_TOKEN = 8  # more text than a holdout can need: what a tokenizer is not trained on


@dataclass(frozen=True, eq=False, slots=True)
class Holdout:
    """A holdout's token file, and what tells its documents again: training must touch none of their duplicates."""

    prefix: Path
    documents: int
    pieces: int
    tokens: int
    text_bytes: int | None
    held: NDArray[np.void]  # (documents,) of duplicates.HELD


def split_holdout(
    prefixes: Sequence[Path],
    *,
    tokens: int,
    sequence_length: int,
    eod: int,
    out_prefix: Path,
    tokenizer: Tokenizer | None,
    excluded: Sequence[NDArray[np.int64]] = (),
) -> Holdout:
    """Choose held-out documents over all files of a corpus and write their pieces to `out_prefix`.

    `excluded` are spans (n, 2) of each file that can't be held out: a document that they touch is not chosen. Raises
    DataError if the rest is too small: fewer than 16 documents, or half of its tokens would be held out.
    """
    opened = [open_indexed(prefix) for prefix in prefixes]
    spans = [document_spans(each) for each in opened]
    hashes = [document_hashes(prefix) for prefix in prefixes]
    file_of = np.repeat(np.arange(len(opened)), [len(each) for each in spans])
    number_of = np.concatenate([np.arange(len(each)) for each in spans])
    sizes = np.concatenate([each[:, 1] - each[:, 0] for each in spans])
    for file, out in enumerate(excluded):
        sizes[file_of == file] *= ~touched(spans[file], out)
    all_hashes = np.concatenate(hashes)
    _refuse_few(int((sizes > 0).sum()), prefixes[0])
    chosen = held_out_first(all_hashes, sizes, tokens, sequence_length)
    held = np.isin(all_hashes, all_hashes[[row for row, _ in chosen]])
    if sizes[held].sum() * 2 > sizes.sum():
        raise _too_small(prefixes[0], int(sizes[held].sum()), int(sizes.sum()))
    pieces = [
        piece
        for row, count in chosen
        for piece in _pieces(opened[file_of[row]], spans[file_of[row]][number_of[row]], count, sequence_length, eod)
    ]
    written = _write(pieces, opened, prefixes, out_prefix, eod, tokenizer)
    rows = np.array([row for row, _ in chosen], dtype=np.int64)
    by_file = [held_documents(prefix, number_of[rows[file_of[rows] == file]]) for file, prefix in enumerate(prefixes)]
    return Holdout(
        out_prefix, len(chosen), len(pieces), written.tokens, written.text_bytes if tokenizer else None,
        np.concatenate(by_file),
    )  # fmt: skip


def measured_part(
    prefixes: Sequence[Path], *, key: str, tokens: int, sequence_length: int, eod: int, out_prefix: Path,
    tokenizer: Tokenizer,
) -> Holdout:  # fmt: skip
    """Of files that are never trained on, the pieces that are measured: `tokens` of them or all, evenly spaced.

    All their documents are told again, not the measured ones alone. DataError with the plan's `key` if there are fewer
    than 32 pieces.
    """
    opened = [open_indexed(prefix) for prefix in prefixes]
    spans = [document_spans(each) for each in opened]
    file_of = np.repeat(np.arange(len(opened)), [len(each) for each in spans])
    whole = np.concatenate(spans)
    pieces_of = -(-(whole[:, 1] - whole[:, 0]) // (sequence_length - 1))
    total, wanted = int(pieces_of.sum()), max(FEWEST_PIECES, -(-tokens // sequence_length))
    if total < FEWEST_PIECES:
        raise DataError(
            f"{key}: {total} pieces of at most {sequence_length} tokens, fewer than {FEWEST_PIECES}",
            "a loss over fewer would be noise",
            "give it more text, or leave it out",
        )
    count = min(total, wanted)
    owners = np.repeat(np.arange(len(whole)), pieces_of)[np.arange(count) * total // count]
    rows, counts = np.unique(owners, return_counts=True)
    pieces = [
        piece
        for row, number in zip(rows.tolist(), counts.tolist(), strict=True)
        for piece in _pieces(opened[file_of[row]], whole[row], number, sequence_length, eod)
    ]
    written = _write(pieces, opened, prefixes, out_prefix, eod, tokenizer)
    held = [held_documents(each, np.arange(len(there))) for each, there in zip(prefixes, spans, strict=True)]
    return Holdout(out_prefix, len(rows), len(pieces), written.tokens, written.text_bytes, np.concatenate(held))


def held_out_first(
    hashes: NDArray[np.uint64], sizes: NDArray[np.int64], need: int, piece: int
) -> list[tuple[int, int]]:
    """(document, pieces to take of it) by rising hash until `need` is reached; duplicates count once.

    `sizes`, `need` and `piece` are in one unit, tokens or bytes.
    """
    wanted_pieces = max(FEWEST_PIECES, -(-need // piece))
    most_a_document = -(-wanted_pieces // FEWEST_DOCUMENTS)
    found: list[tuple[int, int]] = []
    have = pieces = 0
    seen: set[int] = set()
    for row in np.argsort(hashes, kind="stable").tolist():
        if have >= need and pieces >= FEWEST_PIECES and len(found) >= FEWEST_DOCUMENTS:
            break
        if int(hashes[row]) in seen or sizes[row] < 2:
            continue
        seen.add(int(hashes[row]))
        count = min(most_a_document, -(-int(sizes[row]) // piece))
        found.append((row, count))
        have += min(int(sizes[row]), count * piece)
        pieces += count
    return found


def kept_spans(prefix: Path, excluded: NDArray[np.int64]) -> NDArray[np.int64]:
    """(spans, 2): what of a file may be trained on, ascending and disjoint, neighbours joined."""
    spans = document_spans(open_indexed(prefix))
    kept = np.delete(spans, excluded, axis=0)
    kept = kept[kept[:, 1] > kept[:, 0]]
    kept = kept[np.argsort(kept[:, 0], kind="stable")]
    if not len(kept):
        return np.zeros((0, 2), dtype=np.int64)
    breaks = np.flatnonzero(kept[1:, 0] != kept[:-1, 1]) + 1
    starts = kept[np.concatenate([[0], breaks]), 0]
    stops = kept[np.concatenate([breaks - 1, [len(kept) - 1]]), 1]
    return np.stack([starts, stops], axis=1)


def touched(spans: NDArray[np.int64], out: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the documents' `spans` (N, 2) the spans `out` (n, 2), ascending and disjoint, take a token of; (N,)."""
    first = np.searchsorted(out[:, 1], spans[:, 0], side="right")
    return np.searchsorted(out[:, 0], spans[:, 1], side="left") > first


def texts_for_tokenizer(patterns: Sequence[str], holdout_tokens: int) -> Iterator[str]:
    """Text to learn a tokenizer from: up to 20 MB, without the documents that a holdout could choose."""
    seen = [(text_hash(text), len(text.encode())) for text, _ in iter_documents(patterns)]
    hashes, sizes = np.array([h for h, _ in seen], dtype=np.uint64), np.array([s for _, s in seen], dtype=np.int64)
    need = holdout_tokens * GENEROUS_BYTES_A_TOKEN
    avoided = {int(hashes[row]) for row, _ in held_out_first(hashes, sizes, need, -(-need // FEWEST_PIECES))}
    if sum(size for each, size in seen if each in avoided) * 2 > sizes.sum():
        avoided = set()  # so small a corpus is refused when its holdout is split off
    used = 0
    for text, _ in iter_documents(patterns):
        if text_hash(text) in avoided:
            continue
        used += len(text.encode())
        yield text
        if used >= TOKENIZER_TEXT_BYTES:
            return


def _pieces(
    opened: IndexedFile, span: NDArray[np.int64], count: int, sequence_length: int, eod: int
) -> Iterator[NDArray[np.int64]]:
    """`count` pieces of a document, evenly spaced, each closed by a document end."""
    tokens = np.asarray(opened.tokens[span[0] : span[1]], dtype=np.int64)
    tokens = tokens[:-1] if len(tokens) and tokens[-1] == eod else tokens
    length = sequence_length - 1
    total = max(1, -(-len(tokens) // length))
    for place in np.unique(np.arange(min(count, total)) * total // min(count, total)).tolist():
        yield np.append(tokens[place * length : (place + 1) * length], eod)


def _write(
    pieces: Sequence[NDArray[np.int64]], opened: Sequence[IndexedFile], prefixes: Sequence[Path], out_prefix: Path,
    eod: int, tokenizer: Tokenizer | None,
) -> Sidecar:  # fmt: skip
    with IndexedWriter(out_prefix, np.result_type(*(each.dtype for each in opened))) as writer:
        for piece in pieces:
            writer.add(piece)
        writer.sidecar = Sidecar(
            tokenizer_sha256=tokenizer.sha256 if tokenizer else "",
            vocab_size=tokenizer.vocab_size if tokenizer else 0,
            eod=eod,
            documents=len(pieces),
            tokens=writer.tokens,
            text_bytes=sum(tokenizer.text_bytes(piece.tolist()) for piece in pieces) if tokenizer else 0,
            content_id=writer.content_id(),
            source_files=[{"path": str(prefix), "content_id": source_id(prefix)} for prefix in prefixes],
        )
        return writer.sidecar


def _refuse_few(documents: int, prefix: Path) -> None:
    if documents < FEWEST_IN_CORPUS:
        raise DataError(
            f"{prefix}: {documents} documents, too small for its holdout",
            f"a holdout takes at least {FEWEST_DOCUMENTS} documents, and as many must be left to train on; what is "
            "excluded, or in what this run was trained on already, does not count",
            f"give the corpus at least {FEWEST_IN_CORPUS} documents (in .txt, a file is one document), "
            "or a ready holdout: holdout: {files: {NAME: FILE}}",
        )


def _too_small(prefix: Path, held: int, total: int) -> DataError:
    return DataError(
        f"{prefix}: too small for its holdout: {held:,} of its {total:,} tokens would be held out",
        "less than half would be left to train on",
        "give the corpus more text, or hold out less: holdout: {tokens: ...}",
    )
