"""Token files put together and taken apart, whole documents, tokens in their order, in bounded memory.

What comes out is byte for byte what IndexedWriter writes when it is given the same documents: sequences of a document
stay apart and empty documents stay. Nothing appears unless all of it is written.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm import __version__
from keepwarm.corpora.arrays import load_array
from keepwarm.corpora.indexed import IndexedFile, IndexedWriter, Sidecar, index_bytes, open_indexed, read_sidecar
from keepwarm.corpora.names import check_free, hash_path, pair, remove, sidecar_path, stem
from keepwarm.errors import DataError

MOST_PARTS = 100_000  # of five digits
_BLOCK_TOKENS = 1 << 20
Progress = Callable[[int, int], None]  # bytes of tokens that were just written, and bytes in all


@dataclass(frozen=True, slots=True)
class Written:
    """A pair that was written, and why something that may lie beside a pair does not."""

    prefix: Path
    documents: int
    tokens: int
    notes: tuple[str, ...] = ()


class _Joiner(IndexedWriter):
    """A writer that takes documents of any number of sequences, in bulk."""

    def __enter__(self) -> _Joiner:
        return self

    def extend(self, blocks: Iterator[NDArray[Any]], lengths: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """Append sequences of `lengths` tokens; `stops` (documents,) is where documents end, in sequences."""
        before, expected = len(self._lengths), self._tokens + int(lengths.sum())
        for block in blocks:
            self._write(block)
        assert self._tokens == expected, (self._tokens, expected)
        self._lengths.frombytes(lengths.astype(np.int64).tobytes())
        self._documents.frombytes((stops + before).astype(np.int64).tobytes())


def merge(prefixes: Sequence[Path | str], out: Path | str, *, progress: Progress | None = None) -> Written:
    """Write the documents of `prefixes`, one file after the other, as one pair `out`.

    The sidecar is merged where every file has one, the documents' hashes likewise. Raises DataError for fewer than two
    files, a file named twice, one that can't be read, dtypes, tokenizers or document ends that differ, and if `out` is
    taken; nothing is written then.
    """
    opened = [open_indexed(prefix) for prefix in prefixes]
    _check_alike(opened)
    _check_other(opened, out)
    check_free([out], out)
    sidecars = [read_sidecar(one.prefix) for one in opened]
    _check_same_tokenizer(opened, sidecars)
    hashes = _merged_hashes(opened)
    total = sum(one.n_tokens for one in opened) * opened[0].dtype.itemsize
    tick = None if progress is None else lambda size: progress(size, total)
    with _Joiner(out, opened[0].dtype) as writer:
        for one in opened:
            lengths = one.lengths.astype(np.int64)
            writer.extend(_blocks(one, 0, one.n_sequences, tick), lengths, one.document_indices[1:])
        documents = sum(one.n_documents for one in opened)
        whole = [sidecar for sidecar in sidecars if sidecar is not None]
        if len(whole) == len(opened):
            writer.sidecar = _merged_sidecar(whole, documents, writer.tokens, writer.content_id())
        writer.hashes = hashes
    notes = [f"no {sidecar_path(out).name}: {sidecar_path(one.prefix)} is missing" for one, sidecar
             in zip(opened, sidecars, strict=True) if sidecar is None]  # fmt: skip
    notes += [f"no {hash_path(Path(out)).name}: {hash_path(one.prefix)} is missing" for one in opened
              if not hash_path(one.prefix).exists()]  # fmt: skip
    return Written(stem(out), documents, writer.tokens, tuple(notes))


def split(prefix: Path | str, parts: int, out: Path | str, *, progress: Progress | None = None) -> list[Written]:
    """Write the documents of `prefix`, in their order, as `parts` pairs OUT-00000, OUT-00001, ...

    Each part holds at least one document and ends with the one whose end lies nearest to its equal share of tokens.
    Hashes go along; a sidecar does not, because nobody knows how much text a part was made of. Parts that a killed call
    wrote already, found to be the same byte for byte, are kept. Raises DataError for a number of parts that can't be, a
    file that can't be read, and if a name is taken; nothing is written then.
    """
    opened = open_indexed(prefix)
    edges = _edges(opened, parts)
    hashes = _hashes_of(opened)
    pieces = [
        _Piece(Path(f"{stem(out)}-{number:05d}"), opened, first, last, None if hashes is None else hashes[first:last])
        for number, (first, last) in enumerate(pairwise(edges))
    ]
    total = opened.n_tokens * opened.dtype.itemsize
    tick = None if progress is None else lambda size: progress(size, total)
    todo = [piece for piece in pieces if not _is_there(piece, tick)]
    check_free([piece.target for piece in todo], out)
    made: list[Path] = []
    with _all_or_nothing(made):
        for piece in todo:
            with _Joiner(piece.target, opened.dtype) as writer:
                writer.extend(_blocks(opened, *piece.sequences, tick), piece.lengths, piece.stops)
                writer.hashes = piece.hashes
            made.append(piece.target)
    return [Written(piece.target, piece.last - piece.first, int(piece.lengths.sum())) for piece in pieces]


@dataclass(frozen=True, eq=False, slots=True)
class _Piece:
    """Documents first ... last - 1 of a token file, and the prefix that they are written under."""

    target: Path
    opened: IndexedFile
    first: int
    last: int
    hashes: NDArray[np.uint64] | None

    @property
    def sequences(self) -> tuple[int, int]:
        since, until = self.opened.document_indices[[self.first, self.last]].tolist()
        return since, until

    @property
    def lengths(self) -> NDArray[np.int64]:
        since, until = self.sequences
        return self.opened.lengths[since:until].astype(np.int64)

    @property
    def stops(self) -> NDArray[np.int64]:
        return self.opened.document_indices[self.first + 1 : self.last + 1] - self.sequences[0]


def _is_there(piece: _Piece, tick: Callable[[int], None] | None) -> bool:
    """True if just what would be written is there already."""
    (binary, index), beside = pair(piece.target), hash_path(piece.target)
    if not binary.is_file() or not index.is_file() or sidecar_path(piece.target).exists():
        return False
    if index.read_bytes() != index_bytes(piece.opened.dtype, piece.lengths.tolist(), [0, *piece.stops.tolist()]):
        return False
    if beside.exists() != (piece.hashes is not None):
        return False
    if piece.hashes is not None and not np.array_equal(load_array(beside, np.uint64), piece.hashes):
        return False
    blocks = _blocks(piece.opened, *piece.sequences, tick)
    with open(binary, "rb") as file:
        return all(file.read(block.nbytes) == block.tobytes() for block in blocks) and not file.read(1)


@contextlib.contextmanager
def _all_or_nothing(made: Sequence[Path]) -> Iterator[None]:
    """Remove the prefixes that the block made, and notes in `made`, unless it ends well."""
    try:
        yield
    except BaseException:
        for prefix in made:
            remove(prefix)
        raise


def _edges(opened: IndexedFile, parts: int) -> list[int]:
    """(parts + 1,) first document of each part."""
    documents = opened.n_documents
    if not documents:
        raise DataError(f"{opened.prefix}: has no documents", "there is nothing to split", "name another file")
    if not 1 <= parts <= min(documents, MOST_PARTS):
        raise DataError(
            f"--parts {parts}: {opened.prefix} has {documents:,} documents",
            f"each part holds at least one whole document, and there are at most {MOST_PARTS:,} parts",
            f"--parts {max(1, min(documents, MOST_PARTS))}",
        )
    before = np.concatenate([[0], np.cumsum(opened.lengths, dtype=np.int64)])[opened.document_indices]
    edges = [0]
    for number in range(1, parts):
        wanted = int(before[-1]) * number / parts
        right = int(np.searchsorted(before, wanted))
        nearest = right - 1 if right and wanted - before[right - 1] <= before[right] - wanted else right
        edges.append(min(max(nearest, edges[-1] + 1), documents - parts + number))
    return [*edges, documents]


def _blocks(opened: IndexedFile, first: int, last: int, tick: Callable[[int], None] | None) -> Iterator[NDArray[Any]]:
    """Tokens of the sequences first ... last - 1 in their order: as long as they lie in a row, read in a row."""
    width = opened.dtype.itemsize
    starts = opened.pointers[first:last] // width
    stops = starts + opened.lengths[first:last]
    breaks = np.flatnonzero(starts[1:] != stops[:-1]) + 1
    edges = [0, *breaks.tolist(), len(starts)] if len(starts) else [0]
    with open(f"{opened.prefix}.bin", "rb") as file:
        for since, until in pairwise(edges):
            place, stop = int(starts[since]), int(stops[until - 1])
            file.seek(place * width)
            while place < stop:
                block = np.fromfile(file, dtype=opened.dtype, count=min(_BLOCK_TOKENS, stop - place))
                if not len(block):
                    raise DataError(
                        f"{opened.prefix}.bin: became shorter while it was read",
                        "another program writes to it",
                        f"ls -l {opened.prefix}.bin",
                    )
                place += len(block)
                yield block
                if tick is not None:
                    tick(block.nbytes)


def _check_alike(opened: Sequence[IndexedFile]) -> None:
    if len(opened) < 2:
        raise DataError(
            "one file is named" if opened else "no file is named", "merging takes at least two",
            "keepwarm data merge FIRST SECOND --output OUT",
        )  # fmt: skip
    for path, count in Counter(one.prefix.resolve() for one in opened).items():
        if count > 1:
            raise DataError(
                f"{path}: named {count} times",
                "its documents would be in the file more than once",
                "name it once, and repeat by weight: keepwarm mix --inputs WEIGHT LIST ...",
            )
    first = opened[0]
    for one in opened[1:]:
        if one.dtype != first.dtype:
            raise DataError(
                f"{first.prefix}.idx holds {first.dtype.name}, {one.prefix}.idx {one.dtype.name}",
                "one file has one dtype; different ones come of different tokenizers, or one of them is wrong",
                f"keepwarm data verify {first.prefix} {one.prefix}; if both are well, train on both unmerged (keepwarm "
                "mix), or tokenize them again with one tokenizer",
            )


def _check_other(opened: Sequence[IndexedFile], out: Path | str) -> None:
    for one in opened:
        if one.prefix.resolve() == stem(out).resolve():
            raise DataError(
                f"--output {out}: is one of the files to merge",
                "token files are never overwritten, and it is still to be read",
                f"--output {stem(out)}-merged",
            )


def _check_same_tokenizer(opened: Sequence[IndexedFile], sidecars: Sequence[Sidecar | None]) -> None:
    known = [(one.prefix, sidecar) for one, sidecar in zip(opened, sidecars, strict=True) if sidecar is not None]
    for prefix, sidecar in known[1:]:
        first_prefix, first = known[0]
        for what, one, other in (
            ("tokenizer", first.tokenizer_sha256, sidecar.tokenizer_sha256),
            ("vocabulary size", first.vocab_size, sidecar.vocab_size),
            ("document end", first.eod, sidecar.eod),
        ):
            if one != other:
                raise DataError(
                    f"{first_prefix} and {prefix}: the {what} differs ({one} and {other})",
                    "the same token would mean different words in one file",
                    "tokenize both with the same tokenizer: keepwarm tokenize TEXT --tokenizer FILE --output PREFIX",
                )


def _merged_sidecar(sidecars: Sequence[Sidecar], documents: int, tokens: int, content_id: str) -> Sidecar:
    return replace(
        sidecars[0],
        documents=documents,
        tokens=tokens,
        content_id=content_id,
        text_bytes=sum(one.text_bytes for one in sidecars),
        source_files=[source for one in sidecars for source in one.source_files],
        empty_documents=sum(one.empty_documents for one in sidecars),
        special_tokens_escaped=sum(one.special_tokens_escaped for one in sidecars),
        shuffled_with_seed=None,  # each part was, the whole is not
        keepwarm=__version__,
    )


def _hashes_of(opened: IndexedFile) -> NDArray[np.uint64] | None:
    path = hash_path(opened.prefix)
    if not path.exists():
        return None
    hashes: NDArray[np.uint64] = load_array(path, np.uint64)
    if hashes.shape != (opened.n_documents,):
        raise DataError(
            f"{path}: holds {len(hashes):,} hashes, {opened.prefix} has {opened.n_documents:,} documents",
            "documents would be taken for others",
            f"it is another file's; remove it: rm {path}",
        )
    return hashes


def _merged_hashes(opened: Sequence[IndexedFile]) -> NDArray[np.uint64] | None:
    if not all(hash_path(one.prefix).exists() for one in opened):
        return None
    return np.concatenate([hashes for one in opened if (hashes := _hashes_of(one)) is not None])
