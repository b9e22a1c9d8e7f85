"""Writing that survives a kill at any moment: aside, fsync, rename; and the lock that gives a run one owner.

A reader sees the old file or folder or the new one, never a half. Nothing is overwritten unless the caller says so.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from keepwarm.errors import KeepwarmError

_ASIDE = ".partial"
LOCK_POLL_SECONDS = 0.2
POLL_SECONDS = 0.002  # of a file that grows
_DISK_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space, or choose a folder on another disk"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or choose a folder on another disk"),
    errno.EROFS: ("the file system is read-only", "choose a folder that can be written"),
    errno.EACCES: ("permission denied", "choose a folder that you may write, or mend its permissions"),
    errno.EPERM: ("not permitted", "choose a folder that you may write, or mend its permissions"),
    errno.EFBIG: ("the file size limit is reached (ulimit -f)", "raise the limit, or choose another disk"),
    errno.ENOENT: ("there is no such folder, and none can be made", "choose another folder"),
    errno.ENOLCK: ("the file system can't lock files", "choose a folder on another disk"),
    errno.ENOSYS: ("the file system can't lock files", "choose a folder on another disk"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another folder"),
}


@contextlib.contextmanager
def explained(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn the disk's own refusals below into a three-line error that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_REASONS:
            raise
        what, fix = _DISK_REASONS[error.errno]
        why = f"keepwarm could not {doing} it, and left what was there before as it was"
        raise KeepwarmError(f"{path}: {what}", why, fix) from error


def fsync_folder(folder: Path) -> None:
    """Make renames and new names inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make the content of `path` durable."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_bytes(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write `data` to `path` atomically. Refuses to replace a file with other content unless `replace`."""
    path = Path(path)
    if not replace and path.exists():
        if path.read_bytes() == data:
            return
        raise KeepwarmError(
            f"{path}: exists already with other content",
            "nothing is overwritten silently",
            f"choose another name, or remove it first: rm {path}",
        )
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}{_ASIDE}-{os.getpid()}")
        try:
            with open(aside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
            fsync_folder(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, replace: bool = False) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode(), replace=replace)


def write_json(path: Path, value: Any, *, replace: bool = False) -> None:
    """`write_text` of readable JSON; NaN is refused because readers of JSON refuse it."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n", replace=replace)


def aside(final: Path) -> Path:
    """Where `new_folder` fills what becomes `final`."""
    return Path(final).with_name(f"{Path(final).name}{_ASIDE}")


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `final` by one rename when the block ends well and vanishes when it does not.

    Leftovers of a killed writer of the same folder are removed first. Raises KeepwarmError if `final` exists.
    """
    final = Path(final)
    filling = aside(final)
    if final.exists():
        raise KeepwarmError(
            f"{final}: exists already", "nothing is overwritten silently", f"choose another name, or: rm -r {final}"
        )
    with explained(final):
        shutil.rmtree(filling, ignore_errors=True)
        filling.mkdir(parents=True)
        try:
            yield filling
            for path in sorted(filling.rglob("*")):
                fsync_folder(path) if path.is_dir() else fsync_file(path)
            fsync_folder(filling)
            os.rename(filling, final)
            fsync_folder(final.parent)
        finally:
            shutil.rmtree(filling, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def facts(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file: {bytes, sha256}."""
    return {"bytes": Path(path).stat().st_size, "sha256": sha256_file(path)}


def facts_while(path: Path, whole: threading.Event) -> dict[str, Any] | None:
    """As `facts`, of a file that another thread writes from front to back and then sets `whole`. None if it made none."""
    digest, size, buffer = hashlib.sha256(), 0, memoryview(bytearray(1 << 22))
    while not path.exists():
        if whole.wait(POLL_SECONDS) and not path.exists():
            return None
    with open(path, "rb", buffering=0) as file:
        while True:
            last = whole.is_set()  # asked before reading: what is read then is the end
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                size += count
            if last:
                return {"bytes": size, "sha256": digest.hexdigest()}
            whole.wait(POLL_SECONDS)


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON (sorted keys, no spaces): a content hash for plans and attempts."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def owned(path: Path) -> IO[bytes]:
    """A file, made if missing, open for appending and held with flock until it is closed, or its owner dies somehow.

    Raises BlockingIOError if another has it. An owner who removes the file must do so before closing it.
    """
    while True:
        file = open(path, "ab", buffering=1 << 20)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # its owner removed it after it was opened here


def _held(lock: Path) -> bool:
    try:
        owned(lock).close()
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def run_lock(folder: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """One owner for a run folder: `folder/.lock` held with flock, freed by the kernel however the owner dies.

    Raises KeepwarmError while another has it; with `waiting`, tells it once who has it and waits.
    """
    folder = Path(folder)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                file = owned(folder / ".lock")
                break
            except BlockingIOError:
                owner = (folder / ".lock").read_text(encoding="utf-8").strip() or "unknown"
            if waiting is None:
                raise KeepwarmError(
                    f"{folder}: another keepwarm works in this run folder (process {owner})",
                    "two writers would mix their checkpoints and metrics",
                    f"wait for it, or stop it: kill {owner}",
                )
            waiting(f"{folder}: waiting for process {owner}, which works there")
            while _held(folder / ".lock"):
                time.sleep(LOCK_POLL_SECONDS)
    with file:
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())
        file.flush()
        yield
