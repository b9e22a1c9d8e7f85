"""Documents of text corpora, one at a time: .txt (a document a file), .jsonl (key `text`), .parquet (column `text`),
each also as .gz or .zst. Files are read in the order of their names; memory holds one document.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from keepwarm.errors import DataError

KEY = "text"
PLAIN, LINES, COLUMNS = (".txt",), (".jsonl",), (".parquet",)


def text_files(patterns: Sequence[str]) -> list[Path]:
    """Files that the paths and globs name, sorted, each once; DataError for one that names nothing or a wrong kind."""
    found: set[Path] = set()
    for pattern in patterns:
        matches = {Path(path) for path in glob.glob(pattern, recursive=True) if Path(path).is_file()}
        if not matches:
            raise DataError(
                f"{pattern}: no such file",
                "there is no text to read",
                "name a file or glob of .jsonl, .txt or .parquet",
            )
        found |= matches
    for path in sorted(found):
        if _kind(path) not in PLAIN + LINES + COLUMNS:
            raise DataError(
                f"{path}: unknown kind of file",
                "guessing how to read it could train on rubbish",
                "give .jsonl (key text), .txt or .parquet (column text), plain or with .gz or .zst",
            )
    return sorted(found)


def iter_documents(patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(text, place) of every document; DataError by file:line for what can't be read."""
    for path in text_files(patterns):
        if _kind(path) in COLUMNS:
            yield from _parquet(path)
            continue
        with _explained(path), _open(path) as file:
            if _kind(path) in PLAIN:
                yield _decoded(file.read(), path, 1), str(path)
            else:
                yield from _jsonl(file, path)


def _kind(path: Path) -> str:
    suffixes = path.suffixes[-2:]
    return suffixes[0] if len(suffixes) == 2 and suffixes[1] in (".gz", ".zst") else path.suffix


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(path, "rb"))
    if path.suffix == ".zst":
        zstandard = _library("zstandard", path)
        stream = zstandard.ZstdDecompressor().stream_reader(open(path, "rb"), closefd=True, read_across_frames=True)
        return io.BufferedReader(stream, 1 << 20)
    return open(path, "rb")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _cut(path, error) from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise _cut(path, error) from None
        raise


def _cut(path: Path, error: BaseException) -> DataError:
    return DataError(
        f"{path}: truncated or damaged ({error})", "part of the corpus would be missing, silently", f"copy {path} again"
    )


def _jsonl(file: IO[bytes], path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield _text_of(_decoded(line, path, number), f"{path}:{number}"), f"{path}:{number}"


def _text_of(line: str, place: str) -> str:
    try:
        item = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{place}: not JSON ({error})", "every line holds one document", "mend the line, or remove it"
        ) from None
    if not isinstance(item, dict) or not isinstance(item.get(KEY), str):
        keys = ", ".join(sorted(item)) if isinstance(item, dict) else f"a {type(item).__name__}"
        raise DataError(
            f"{place}: no string under the key {KEY!r} (found: {keys})",
            "it is the document",
            f"rename the key to {KEY}",
        )
    text: str = item[KEY]
    return text


def _decoded(data: bytes, path: Path, line: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        at = line + data[: error.start].count(b"\n")
        raise DataError(
            f"{path}:{at}: not UTF-8 text", "its words would be learned as rubbish", f"iconv -f latin1 -t utf-8 {path}"
        ) from None


def _parquet(path: Path) -> Iterator[tuple[str, str]]:
    parquet = _library("pyarrow.parquet", path)
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise _cut(path, error) from None
    if KEY not in file.schema_arrow.names:
        names = ", ".join(file.schema_arrow.names)
        raise DataError(
            f"{path}: no column {KEY!r} (found: {names})", "it is the document", f"rename the column to {KEY}"
        )
    row = 0
    for batch in file.iter_batches(columns=[KEY], batch_size=1024):
        for value in batch.column(0).to_pylist():
            row += 1
            if not isinstance(value, str):
                raise DataError(f"{path}: row {row} has no text", "every row is one document", "remove empty rows")
            yield value, f"{path}:{row}"


def _library(name: str, path: Path) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(
            f"{path}: reading it needs {name.partition('.')[0]}", "it is not installed", 'pip install "keepwarm[io]"'
        ) from None
