"""The names of a token file, PREFIX.*, and who may write them.

A writer owns PREFIX.bin.partial with a lock that dies with it. When all tokens are there, the file gets a second name
(link), PREFIX.bin; then comes what lies beside it, then PREFIX.idx; PREFIX.bin.partial goes last. So a .bin without
.idx that is the same file as its .partial was left by a killed writer: the next writer clears it away. Any other file
under the prefix is somebody's, and stays.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from keepwarm import files
from keepwarm.errors import DataError


def pair(prefix: Path | str) -> tuple[Path, Path]:
    """The `.bin` and `.idx` of a prefix, which may carry either suffix."""
    text = str(prefix)
    text = text[:-4] if text.endswith((".bin", ".idx")) else text
    return Path(text + ".bin"), Path(text + ".idx")


def stem(prefix: Path | str) -> Path:
    """The prefix without a suffix."""
    return Path(str(pair(prefix)[0])[:-4])


def sidecar_path(prefix: Path | str) -> Path:
    """`PREFIX.meta.json`."""
    return Path(f"{stem(prefix)}.meta.json")


def hash_path(prefix: Path | str) -> Path:
    """Where the hashes of the documents' texts lie, one a document, in the order of the `.idx`."""
    return Path(f"{stem(prefix)}.hash.npy")


def view_path(prefix: Path | str) -> Path:
    """Says of a pair whose `.idx` holds part of a `.bin` which part it is; other pairs have none."""
    return Path(f"{stem(prefix)}.view.json")


def all_of(prefix: Path | str) -> list[Path]:
    """All that may lie under a prefix, in the order in which it is written."""
    binary, index = pair(prefix)
    return [binary, sidecar_path(prefix), hash_path(prefix), view_path(prefix), index]


def remove(prefix: Path | str) -> None:
    """Remove all that lies under a prefix, `.idx` first: never is a prefix with an `.idx` less than whole."""
    for path in reversed(all_of(prefix)):
        path.unlink(missing_ok=True)


def check_free(prefixes: Sequence[Path | str], output: Path | str) -> None:
    """DataError if `output`, for which `prefixes` shall be written, names no file, or if one of them is taken.

    What lies beside a pair counts too: it would be taken for the new pair's. What a killed writer left does not.
    """
    if stem(output).name in ("", ".."):
        raise DataError(
            f"--output {str(output)!r}: names no file",
            "token files are called PREFIX.bin and PREFIX.idx",
            f"--output {Path(output) / 'corpus'}",
        )
    for prefix in prefixes:
        there = [path for path in all_of(prefix) if path.exists()]
        if there and not _left_behind(prefix):
            raise _taken(there[0], output)


def claim(prefix: Path | str) -> IO[bytes]:
    """The empty PREFIX.bin.partial, owned until `release`; DataError if the prefix is taken or somebody writes it."""
    check_free([prefix], prefix)
    aside = _aside(prefix)
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = files.owned(aside)
    except BlockingIOError:
        raise DataError(
            f"{pair(prefix)[0]}: another keepwarm is writing it",
            "one file can't hold the tokens of two",
            f"wait for it, or choose another name: --output {stem(prefix)}-2",
        ) from None
    try:
        check_free([prefix], prefix)  # again: its last owner may just have ended
        remove(prefix)
        file.truncate(0)
    except BaseException:
        release(prefix, file, whole=True)
        raise
    return file


def give(prefix: Path | str) -> None:
    """Name the claimed file PREFIX.bin; DataError if the prefix was taken since."""
    check_free([prefix], prefix)
    binary = pair(prefix)[0]
    try:
        os.link(_aside(prefix), binary)
    except FileExistsError:
        raise _taken(binary, prefix) from None
    except OSError:  # a file system without links; there a kill before .idx leaves a .bin to clear away by hand
        os.rename(_aside(prefix), binary)


def release(prefix: Path | str, file: IO[bytes], *, whole: bool) -> None:
    """Give up the claimed `file`; unless the prefix is `whole`, with all that was written under it."""
    binary = pair(prefix)[0]
    if not whole and binary.exists() and os.path.samestat(binary.stat(), os.fstat(file.fileno())):
        remove(prefix)
    _aside(prefix).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        file.close()


def link(binary: Path, target: Path) -> None:
    """A second name for the same data; where the file system has no such thing, a symbolic link."""
    with files.explained(target):
        try:
            os.link(binary.resolve(), target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            os.symlink(binary.name if binary.parent == target.parent else binary.resolve(), target)
        files.fsync_folder(target.parent)


def _taken(path: Path, output: Path | str) -> DataError:
    return DataError(f"{path}: exists already", "token files are never overwritten", f"--output {stem(output)}-2")


def _aside(prefix: Path | str) -> Path:
    return Path(f"{pair(prefix)[0]}.partial")


def _left_behind(prefix: Path | str) -> bool:
    (binary, index), aside = pair(prefix), _aside(prefix)
    return not index.exists() and binary.exists() and aside.exists() and binary.samefile(aside)
