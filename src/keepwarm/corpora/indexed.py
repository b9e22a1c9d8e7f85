"""Megatron's token files, byte for byte: `.bin` (raw little-endian tokens) and `.idx` (MMIDIDX version 1).

.idx: 9 bytes b"MMIDIDX\\0\\0" | u64 version 1 | u8 dtype code | u64 sequences n | u64 document entries d (documents + 1)
      | i32 lengths[n] in tokens | i64 pointers[n] in bytes | i64 document_indices[d], from 0 to n.
`PREFIX.meta.json` beside them says what the two can't: which tokenizer, how much text; `PREFIX.hash.npy` holds a hash of
each document's text. Both are optional. With `PREFIX.view.json` the `.idx` is a view: it holds part of the `.bin`.

A pair is written aside and named `.bin` first, then what lies beside it, `.idx` last: a prefix that has an `.idx` is
whole (names.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from keepwarm import __version__, files
from keepwarm.corpora import names
from keepwarm.corpora.arrays import save_array
from keepwarm.corpora.names import hash_path, view_path
from keepwarm.corpora.names import pair as pair
from keepwarm.corpora.names import sidecar_path as sidecar_path
from keepwarm.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
CODES: dict[int, str] = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # 6 and 7 are floats: not tokens
UINT16_VOCABULARY = 65500  # the reference's border
_SAMPLED_BLOCKS, _BLOCK_BYTES = 64, 4096


@dataclass(frozen=True, eq=False, slots=True)
class IndexedFile:
    """An open pair. Arrays keep their mapping alive, so nothing dangles after the file object is gone."""

    prefix: Path
    dtype: np.dtype[Any]
    lengths: NDArray[np.int32]  # (sequences,) tokens
    pointers: NDArray[np.int64]  # (sequences,) bytes into .bin
    document_indices: NDArray[np.int64]  # (documents + 1,) first sequence of each document
    tokens: NDArray[Any]  # (tokens,) the whole .bin, mapped

    @property
    def n_tokens(self) -> int:
        """Tokens that the index counts."""
        return int(self.lengths.sum(dtype=np.int64))

    @property
    def n_sequences(self) -> int:
        """Number of sequences."""
        return len(self.lengths)

    @property
    def n_documents(self) -> int:
        """Number of documents; one may hold several sequences."""
        return len(self.document_indices) - 1

    def sequence(self, number: int) -> NDArray[Any]:
        """A copy of one sequence's tokens."""
        start = int(self.pointers[number]) // self.dtype.itemsize
        return np.array(self.tokens[start : start + int(self.lengths[number])])

    def document(self, number: int) -> NDArray[Any]:
        """A copy of one document's tokens."""
        first, last = (int(i) for i in self.document_indices[number : number + 2])
        parts = [self.sequence(i) for i in range(first, last)]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)


@dataclass(frozen=True, slots=True)
class Header:
    """The first bytes of an `.idx`."""

    dtype: np.dtype[Any]
    sequences: int
    documents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What a token file was made of. `content_id` identifies its tokens and documents (16 hex digits)."""

    tokenizer_sha256: str
    vocab_size: int
    eod: int
    documents: int
    tokens: int
    text_bytes: int  # UTF-8 bytes of the text, document ends not counted
    content_id: str
    source_files: list[dict[str, Any]] = field(default_factory=list)  # path, bytes, sha256
    empty_documents: int = 0  # left out
    special_tokens_escaped: int = 0
    shuffled_with_seed: int | None = None
    keepwarm: str = __version__


def best_dtype(vocab_size: int | None) -> np.dtype[Any]:
    """The reference's choice: uint16 below 65,500 entries, else int32."""
    return np.dtype("<u2" if vocab_size is not None and vocab_size < UINT16_VOCABULARY else "<i4")


def open_indexed(prefix: Path | str) -> IndexedFile:
    """Open a pair; DataError for what is missing, foreign, truncated or does not fit together."""
    binary, index = _existing(prefix)
    dtype, lengths, pointers, document_indices = _read_index(index)
    size = binary.stat().st_size
    _check_fit(binary, index, size, dtype, lengths, pointers, document_indices)
    tokens = np.memmap(binary, dtype=dtype, mode="r") if size else np.empty(0, dtype)
    return IndexedFile(Path(str(binary)[:-4]), dtype, lengths, pointers, document_indices, tokens)


def read_header(prefix: Path | str) -> Header:
    """The header alone, whatever the size of the index; DataError if the pair is missing, foreign or cut short."""
    binary, index = _existing(prefix)
    with open(index, "rb") as file:
        header = _header(index, file.read(HEADER.size), index.stat().st_size)
        if header.sequences:
            file.seek(HEADER.size + 4 * (header.sequences - 1))
            length = int.from_bytes(file.read(4), "little")
            file.seek(HEADER.size + 12 * header.sequences - 8)
            end = int.from_bytes(file.read(8), "little") + length * header.dtype.itemsize
            if end > (size := binary.stat().st_size):
                raise _damaged(binary, f"truncated: {size:,} bytes, the index points to byte {end:,}")
    return header


def bin_tokens(prefix: Path | str) -> int:
    """Tokens that `.bin` holds, told by its size: nothing is read but the header."""
    header = read_header(prefix)
    return pair(prefix)[0].stat().st_size // header.dtype.itemsize


def _existing(prefix: Path | str) -> tuple[Path, Path]:
    binary, index = pair(prefix)
    for path in (index, binary):
        if not path.is_file():
            raise DataError(
                f"{path}: no such file", "a token file is a .bin and an .idx together", f"ls {str(binary)[:-4]}*"
            )
    return binary, index


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: {what}",
        "tokens read through it would be the wrong ones",
        f"keepwarm data verify {str(path)[:-4]} --repair",
    )


def _read_index(path: Path) -> tuple[np.dtype[Any], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    data = path.read_bytes()
    header = _header(path, data[: HEADER.size], len(data))
    sequences = header.sequences
    lengths = np.frombuffer(data, "<i4", sequences, HEADER.size)
    pointers = np.frombuffer(data, "<i8", sequences, HEADER.size + 4 * sequences)
    documents = np.frombuffer(data, "<i8", header.documents + 1, HEADER.size + 12 * sequences)
    return header.dtype, lengths, pointers, documents


def _header(path: Path, data: bytes, size: int) -> Header:
    if len(data) < HEADER.size:
        raise _damaged(path, f"truncated: {size} bytes, a header alone has {HEADER.size}")
    magic, version, code, sequences, entries = HEADER.unpack(data)
    if magic != MAGIC:
        raise _damaged(path, "not an MMIDIDX index (wrong magic)")
    if version != 1:
        raise _damaged(path, f"version {version}; version 1 is known")
    if code not in CODES:
        raise _damaged(path, f"dtype code {code} is not an integer type of tokens")
    wanted = HEADER.size + 12 * sequences + 8 * entries
    if size != wanted:
        raise _damaged(path, f"{size:,} bytes, its header promises {wanted:,}")
    return Header(np.dtype(CODES[code]), sequences, entries - 1)


def _check_fit(
    binary: Path, index: Path, size: int, dtype: np.dtype[Any], lengths: NDArray[np.int32],
    pointers: NDArray[np.int64], documents: NDArray[np.int64],
) -> None:  # fmt: skip
    counted = int(lengths.sum(dtype=np.int64)) * dtype.itemsize
    ends = pointers + lengths.astype(np.int64) * dtype.itemsize
    if len(lengths) and (lengths.min() < 0 or pointers.min() < 0 or (pointers % dtype.itemsize).any()):
        raise _damaged(index, "negative lengths, or pointers that are not at a token")
    if not len(documents) or documents[0] != 0 or documents[-1] != len(lengths) or (np.diff(documents) < 0).any():
        raise _damaged(index, "its document boundaries do not rise from 0 to the number of sequences")
    if len(ends) and ends.max() > size:
        raise _damaged(binary, f"truncated: {size:,} bytes, the index points to byte {int(ends.max()):,}")
    if view_path(index).exists():
        return
    extra = (size - counted) // dtype.itemsize
    if extra and extra == len(lengths):
        raise DataError(
            f"{binary}: holds exactly one token per document more than {index} counts ({extra:,} documents)",
            "the reference tokenizer's --append-eod wrote document ends that it did not count: every document is shifted",
            f"keepwarm data verify {str(binary)[:-4]} --repair",
        )
    if size != counted and (ends.max(initial=0) != size or size % dtype.itemsize):
        raise _damaged(binary, f"{size:,} bytes, the index counts {counted:,}")


class IndexedWriter:
    """Writes a pair: `add` documents inside a `with` block; nothing appears under the prefix unless it ends well.

    Set `sidecar` and `hashes` (documents,), if there are any, before the block ends.
    """

    def __init__(self, prefix: Path | str, dtype: DTypeLike) -> None:
        """Own `PREFIX.bin.partial`; DataError if the prefix is taken, or if another writer is at work on it."""
        self.binary, self.index = pair(prefix)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._limits = np.iinfo(self.dtype)
        with files.explained(self.binary):
            self._file = names.claim(prefix)
        self._tokens = 0
        self._lengths = array("q")  # 8 bytes a sequence
        self._documents = array("q", [0])
        self._digest = hashlib.blake2b(digest_size=8)
        self.sidecar: Sidecar | None = None
        self.hashes: NDArray[np.uint64] | None = None

    def add(self, tokens: NDArray[Any], *, end_document: bool = True) -> None:
        """Append one sequence, by default a whole document. DataError for ids that the dtype can't hold."""
        self._write(tokens)
        self._lengths.append(len(tokens))
        if end_document:
            self._documents.append(len(self._lengths))

    def add_documents(self, tokens: NDArray[Any], lengths: NDArray[np.int64]) -> None:
        """Append documents of one sequence each: `lengths` (documents,) in tokens, `tokens` all of theirs in a row."""
        assert int(lengths.sum()) == len(tokens), (int(lengths.sum()), len(tokens))
        self._write(tokens)
        first = len(self._lengths)
        self._lengths.extend(lengths.tolist())
        self._documents.extend(range(first + 1, first + len(lengths) + 1))

    def _write(self, tokens: NDArray[Any]) -> None:
        if len(tokens) and (tokens.min() < self._limits.min or tokens.max() > self._limits.max):
            raise DataError(
                f"{self.binary}: token id {int(tokens.max()):,} does not fit {self.dtype.name}",
                "it would wrap around to another word, silently",
                "write the file with int32 tokens",
            )
        data = np.ascontiguousarray(tokens, dtype=self.dtype).data.cast("B") if len(tokens) else b""
        self._digest.update(data)
        with files.explained(self.binary):
            self._file.write(data)
        self._tokens += len(tokens)

    @property
    def tokens(self) -> int:
        """Tokens added so far."""
        return self._tokens

    def content_id(self) -> str:
        """Identity of what was added: its tokens and where documents end."""
        digest = self._digest.copy()
        digest.update(np.frombuffer(self._lengths, "<i8").tobytes() + np.frombuffer(self._documents, "<i8").tobytes())
        return digest.hexdigest()

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        whole = False
        try:
            if kind is None:
                self._finish()
                whole = True
        finally:
            names.release(self.binary, self._file, whole=whole)

    def _finish(self) -> None:
        with files.explained(self.binary):
            self._file.flush()
            os.fsync(self._file.fileno())
            names.give(self.binary)
        if self.sidecar is not None:
            write_sidecar(self.binary, self.sidecar)
        if self.hashes is not None:
            save_array(hash_path(self.binary), self.hashes)
        files.write_bytes(self.index, index_bytes(self.dtype, self._lengths, self._documents))


def index_bytes(
    dtype: np.dtype[Any], lengths: Sequence[int] | NDArray[np.int64], documents: Sequence[int] | NDArray[np.int64],
    pointers: NDArray[np.int64] | None = None,
) -> bytes:  # fmt: skip
    """The content of an `.idx` whose sequences begin at `pointers` (bytes), by default one after the other.

    DataError for a sequence of over 2^31 - 1 tokens.
    """
    code = next(code for code, name in CODES.items() if np.dtype(name) == dtype)
    sizes = np.asarray(lengths, dtype="<i8")
    if sizes.max(initial=0) > np.iinfo("<i4").max:
        raise DataError(
            f"sequence {int(sizes.argmax()):,} has {int(sizes.max()):,} tokens",
            "an index holds lengths of up to 2,147,483,647: this one would wrap around to another, silently",
            "cut that document into shorter ones",
        )
    if pointers is None:
        pointers = (np.cumsum(sizes) - sizes) * dtype.itemsize
    header = HEADER.pack(MAGIC, 1, code, len(lengths), len(documents))
    arrays = (sizes.astype("<i4"), pointers.astype("<i8"), np.asarray(documents, dtype="<i8"))
    return header + b"".join(bytes(array.tobytes()) for array in arrays)


def write_sidecar(prefix: Path | str, sidecar: Sidecar) -> None:
    """Write the sidecar of a prefix."""
    files.write_json(sidecar_path(prefix), {"format": 1, **asdict(sidecar)})


def read_sidecar(prefix: Path | str) -> Sidecar | None:
    """The sidecar, or None where there is none; DataError if it is damaged."""
    path = sidecar_path(prefix)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("format")
        return Sidecar(**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path}: damaged ({error})", "it says which tokenizer made the file", f"remove it: rm {path}"
        ) from error


def source_id(prefix: Path | str) -> str:
    """16 hex digits that identify a token file: its sidecar's, else of `.idx`, the size of `.bin` and sampled blocks."""
    sidecar = read_sidecar(prefix)
    if sidecar is not None:
        return sidecar.content_id
    binary, index = pair(prefix)
    size = binary.stat().st_size
    digest = hashlib.blake2b(index.read_bytes() + size.to_bytes(8, "little"), digest_size=8)
    with open(binary, "rb") as file:
        for place in np.linspace(0, max(0, size - _BLOCK_BYTES), _SAMPLED_BLOCKS).astype(np.int64).tolist():
            file.seek(place)
            digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()
