"""What a plan's corpora name on this machine: token files with their weights, or text that is to become one."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from keepwarm.corpora.filelist import read_filelist
from keepwarm.corpora.indexed import pair, read_header
from keepwarm.errors import DataError
from keepwarm.plan.corpus import CorpusSpec, FilesSpec, GenerateSpec

Fingerprint = Mapping[str, Any]  # path, bytes, mtime_ns


@dataclass(frozen=True, slots=True)
class Given:
    """A token file that is there (`prefix`), text files, or text that the base is to write; `weight` None: its tokens."""

    name: str
    files: tuple[Path, ...]
    prefix: Path | None = None
    weight: Fraction | None = None
    generate: GenerateSpec | None = None


def given(name: str, spec: CorpusSpec) -> tuple[Given, ...]:
    """The token files of a corpus, or its text in one piece; DataError if a file is missing, foreign or cut short."""
    if spec.generate is not None:
        return (Given(name, (), generate=spec.generate),)
    return given_files(name, spec.files, f"corpora.{name}.proxy" if spec.proxy is not None else f"corpora.{name}")


def given_files(name: str, spec: FilesSpec, key: str) -> tuple[Given, ...]:
    """The token files that `key` of a plan names, or its text in one piece."""
    if spec.list is not None:
        entries = read_filelist(Path(spec.list))
        return tuple(_indexed(name, entry.path, entry.weight) for entry in entries)
    if spec.indexed is not None:
        return tuple(_indexed(name, Path(prefix), None) for prefix in spec.indexed)
    found = sorted({Path(path) for pattern in spec.text or () for path in glob.glob(pattern, recursive=True)})
    found = [path for path in found if path.is_file()]
    if not found:
        raise DataError(
            f"{key}.text: no file matches {', '.join(spec.text or ())}",
            "a corpus without text can't be fed",
            f"{_written(key)} with files ending in .jsonl, .txt or .parquet (.gz, .zst)",
        )
    return (Given(name, tuple(found)),)


def _written(key: str) -> str:
    """How a text stands in a plan below a dotted key."""
    return ": {".join([*key.split("."), "text: PATH-OR-GLOB"]) + "}" * (key.count(".") + 1)


def fingerprints(paths: Sequence[Path]) -> list[Fingerprint]:
    """What tells at a glance that a file is still the same."""
    return [{"path": str(path), "bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns} for path in paths]


def difference(
    before: Sequence[Fingerprint], now: Sequence[Fingerprint], unchanged: Callable[[Sequence[Path]], bool]
) -> str | None:
    """The first file that changed or is gone, in words; files that were added are none.

    `unchanged` looks into files that have the size they had and another time: whether they hold what they held.
    """
    there = {item["path"]: item for item in now}
    touched = []
    for item in before:
        found = there.get(item["path"])
        if found is None:
            return f"{item['path']} was removed"
        if found["bytes"] != item["bytes"]:
            return f"{item['path']} changed"
        if found["mtime_ns"] != item["mtime_ns"]:
            touched.append(Path(item["path"]))
    return None if not touched or unchanged(touched) else f"{touched[0]} changed"


def _indexed(corpus: str, prefix: Path, weight: Fraction | None) -> Given:
    read_header(prefix)
    files = pair(prefix)
    plain = Path(str(files[0])[:-4])
    return Given(f"{corpus}:{plain.name}", files, plain, weight)
