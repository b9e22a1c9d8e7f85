"""Documents of text corpora, one at a time: .txt (a document a file), .jsonl (key `text`), .parquet (column `text`),
each also as .gz or .zst. Files are read in the order of their names; memory holds one document.

`parts` divides the files into runs of about equal size, a large .jsonl or .parquet between documents, so that many
processes can read one corpus: a line belongs to the slice in which it begins, a row to its row group.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import importlib
import importlib.util
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from keepwarm.errors import DataError

_orjson = importlib.import_module("orjson") if importlib.util.find_spec("orjson") else None

KEY = "text"
PLAIN, LINES, COLUMNS = (".txt",), (".jsonl",), (".parquet",)
PART_BYTES, MOST_PARTS = 64 << 20, 512
_PACKED_BYTES = 4096  # decompressed at a time: at most 128 MB of text, of which ordinary text has some 20 kB


@dataclass(frozen=True, slots=True)
class Slice:
    """A file, or of a .jsonl the lines that begin in bytes [start, stop), of a .parquet the row groups [start, stop)."""

    path: Path
    start: int
    stop: int
    input_bytes: int  # on disk, for progress
    whole: bool


def text_files(patterns: Sequence[str]) -> list[Path]:
    """Files that the paths and globs name, sorted, each once; DataError for one that names nothing or a wrong kind.

    A name that a file has is that file, also where it could be read as a glob.
    """
    found = {path for pattern in patterns for path in _named(pattern)}
    for path in sorted(found):
        if _kind(path) not in PLAIN + LINES + COLUMNS:
            raise DataError(
                f"{path}: unknown kind of file",
                "guessing how to read it could train on rubbish",
                "give .jsonl (key text), .txt or .parquet (column text), plain or with .gz or .zst",
            )
    return sorted(found)


def parts(paths: Sequence[Path], part_bytes: int = PART_BYTES) -> list[tuple[Slice, ...]]:
    """The files in runs of about `part_bytes` (more where that would make over 512 runs); the same for the same files."""
    target = max(part_bytes, -(-sum(path.stat().st_size for path in paths) // MOST_PARTS))
    found: list[tuple[Slice, ...]] = []
    run: list[Slice] = []
    in_run = 0
    for piece in (piece for path in paths for piece in _slices(path, target)):
        if run and in_run + piece.input_bytes > target:
            found.append(tuple(run))
            run, in_run = [], 0
        run.append(piece)
        in_run += piece.input_bytes
    return [*found, tuple(run)] if run else found


def iter_documents(patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(text, place) of every document; DataError by file:line for what can't be read."""
    return read_files(text_files(patterns))


def read_files(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """(text, place) of the documents of files, in this order; DataError by file:line for what can't be read."""
    for path in paths:
        size = path.stat().st_size
        yield from read_slice(Slice(path, 0, size, size, True))


def read_slice(piece: Slice) -> Iterator[tuple[str, str]]:
    """(text, place) of the documents of a slice; DataError by file:line for what can't be read."""
    path = piece.path
    with explained(path):
        if _kind(path) in COLUMNS:
            yield from _parquet(piece)
            return
        with _open(path) as file:
            if _kind(path) in PLAIN:
                yield _decoded(file.read(), path, 1), str(path)
            elif piece.whole:
                yield from _jsonl(enumerate(file, start=1), path)
            else:
                yield from _jsonl_slice(file, piece)


def _named(pattern: str) -> list[Path]:
    literal = Path(pattern)
    found = [literal] if literal.is_file() else [Path(path) for path in glob.glob(pattern, recursive=True)]
    matches = [path for path in found if path.is_file()]
    if not matches and literal.is_dir():
        raise DataError(f"{pattern}: a folder", "text is read from files", f"name its files: {literal}/*.jsonl")
    if not matches:
        raise DataError(
            f"{pattern}: no such file", "there is no text to read", "name a file or glob of .jsonl, .txt or .parquet"
        )
    return matches


def _slices(path: Path, target: int) -> Iterator[Slice]:
    size = path.stat().st_size
    count = -(-size // target)
    if count > 1 and _kind(path) in COLUMNS:
        with explained(path):
            groups = _open_parquet(path).num_row_groups
        count = min(count, groups)
        for number in range(count):
            yield Slice(path, groups * number // count, groups * (number + 1) // count, size // count, False)
    elif count > 1 and path.suffix in LINES:
        for number in range(count):
            start, stop = size * number // count, size * (number + 1) // count
            yield Slice(path, start, stop, stop - start, False)
    else:
        yield Slice(path, 0, size, size, True)


def _lines_in(file: IO[bytes], piece: Slice, number: int) -> Iterator[tuple[int, bytes]]:
    """(line number, line) of the lines that begin in the slice, whose first line is number `number`."""
    file.seek(max(0, piece.start - 1))
    if piece.start:
        file.readline()  # the rest of a line that began before; just the byte that ends it, if one ends there
    while file.tell() < piece.stop and (line := file.readline()):
        yield number, line
        number += 1


def _lines_before(piece: Slice) -> int:
    """Lines of the file that begin before the slice."""
    with open(piece.path, "rb") as file:
        left, count = piece.start - 1, 0
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            count += block.count(b"\n")
            left -= len(block)
    return count + 1


def _kind(path: Path) -> str:
    suffixes = path.suffixes[-2:]
    return suffixes[0] if len(suffixes) == 2 and suffixes[1] in (".gz", ".zst") else path.suffix


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(path, "rb"))
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdFile(path), 1 << 20)
    return open(path, "rb")


class _ZstdFile(io.RawIOBase):
    """A .zst of one or more frames. EOFError where it ends inside a frame: zstandard's own reader just stops there."""

    def __init__(self, path: Path) -> None:
        self._decompressor = _library("zstandard", path).ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()
        self._file = open(path, "rb")
        self._text = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._text and self._more():
            pass
        size = min(len(buffer), len(self._text))
        buffer[:size] = self._text[:size]
        self._text = self._text[size:]
        return size

    def _more(self) -> bool:
        """Decompress a little more; False at the end of the file."""
        packed = self._frame.unused_data or self._file.read(_PACKED_BYTES)
        if packed:
            self._frame = self._decompressor.decompressobj() if self._frame.eof else self._frame
            self._text = memoryview(self._frame.decompress(packed))
        elif not self._frame.eof:
            raise EOFError("it ends inside a frame")
        return bool(packed)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the disk or a library refuses while `path` is read into a three-line error that names it."""
    try:
        yield
    except DataError:
        raise
    except PermissionError:
        raise DataError(
            f"{path}: permission denied", "part of the corpus would be missing", f"chmod u+r {path}"
        ) from None
    except FileNotFoundError:
        raise DataError(
            f"{path}: was removed while it was read",
            "part of the corpus would be missing",
            "put it back, or name other files",
        ) from None
    except Exception as error:
        library = type(error).__module__.partition(".")[0]
        if isinstance(error, (EOFError, OSError, UnicodeDecodeError, zlib.error)) or library in (
            "pyarrow",
            "zstandard",
        ):
            raise _cut(path, error) from None
        raise


def _cut(path: Path, error: BaseException) -> DataError:
    said = " ".join(str(error).split())
    return DataError(
        f"{path}: truncated or damaged ({said})", "part of the corpus would be missing, silently", f"copy {path} again"
    )


def _jsonl(lines: Iterable[tuple[int, bytes]], path: Path) -> Iterator[tuple[str, str]]:
    for number, line in lines:
        if not line.isspace():
            place = f"{path}:{number}"
            yield _text_of(line, path, number, place), place


def _jsonl_slice(file: IO[bytes], piece: Slice) -> Iterator[tuple[str, str]]:
    """Lines are numbered from the slice's first; where one is refused, it is found again by its number in the file."""
    try:
        yield from _jsonl(_lines_in(file, piece, 1), piece.path)
    except DataError:
        for _ in _jsonl(_lines_in(file, piece, _lines_before(piece) + 1 if piece.start else 1), piece.path):
            pass
        raise


def _text_of(line: bytes, path: Path, number: int, place: str) -> str:
    item = _fast_json(line)
    if item is None:
        item = _slow_json(line, path, number, place)
    text = item.get(KEY) if isinstance(item, dict) else None
    if isinstance(text, str):
        return text
    if isinstance(item, dict) and KEY in item:
        found, fix = (
            f"{KEY}: {json.dumps(item[KEY])[:40]}",
            f'write it in quotes: {{"{KEY}": "..."}}, or remove the line',
        )
    else:
        found = ", ".join(sorted(item)) if isinstance(item, dict) else f"a {type(item).__name__}"
        fix = f"rename the key to {KEY}"
    raise DataError(f"{place}: no string under the key {KEY!r} (found: {found})", "it is the document", fix)


def _fast_json(line: bytes) -> Any:
    """What orjson reads where it is installed; None where it is not or refuses, for json to read or to explain."""
    if _orjson is None:
        return None
    try:
        return _orjson.loads(line)
    except ValueError:
        return None


def _slow_json(line: bytes, path: Path, number: int, place: str) -> Any:
    text = _decoded(line, path, number)
    try:
        item = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(
            f"{place}: not JSON ({reason})", "every line holds one document", "mend the line, or remove it"
        ) from None
    try:
        str(item.get(KEY) if isinstance(item, dict) else "").encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{place}: holds half of a surrogate pair (\\ud800 to \\udfff)",
            "that is no character, and no tokenizer can read it",
            "mend the line, or remove it",
        ) from None
    return item


def _decoded(data: bytes, path: Path, line: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        at = line + data[: error.start].count(b"\n")
        raise DataError(
            f"{path}:{at}: not UTF-8 text", "its words would be learned as rubbish", f"iconv -f latin1 -t utf-8 {path}"
        ) from None


def _open_parquet(path: Path) -> Any:
    return _library("pyarrow.parquet", path).ParquetFile(path)


def _parquet(piece: Slice) -> Iterator[tuple[str, str]]:
    path = piece.path
    file = _open_parquet(path)
    if KEY not in file.schema_arrow.names:
        names = ", ".join(file.schema_arrow.names)
        raise DataError(
            f"{path}: no column {KEY!r} (found: {names})", "it is the document", f"rename the column to {KEY}"
        )
    first, last = (0, file.num_row_groups) if piece.whole else (piece.start, piece.stop)
    row = sum(file.metadata.row_group(group).num_rows for group in range(first))
    for batch in file.iter_batches(columns=[KEY], batch_size=1024, row_groups=list(range(first, last))):
        for value in batch.column(0).to_pylist():
            row += 1
            if not isinstance(value, str):
                raise DataError(f"{path}: row {row} has no text", "every row is one document", "remove empty rows")
            yield value, f"{path}:{row}"


def _library(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(
            f"{path}: reading it needs {name.partition('.')[0]}", "it is not installed", 'pip install "keepwarm[io]"'
        ) from None
