"""A token file held against itself: every finding with exact numbers, and a repaired copy where one exists.

`open_indexed` refuses what does not fit together and says one reason. Here all of it is looked at, including what a
reader can't know: whether ids are in the vocabulary, whether documents end where they should, whether the content is
still the one that the sidecar was written for. Reading is in blocks, so memory holds the index and 8 MB. Only where
documents seem to be cut at wrong places, the `.bin` is read a second time (shifted.py).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from keepwarm import files
from keepwarm.corpora.diagnosis import (
    STRUCTURAL,
    Case,
    Finding,
    Fix,
    documents_fault,
    dtype_name,
    judge,
    judge_ids,
    possible_readings,
    sound_documents,
    sound_lengths,
)
from keepwarm.corpora.identity import hash_path
from keepwarm.corpora.indexed import Sidecar, index_bytes, pair, read_sidecar, sidecar_path
from keepwarm.corpora.lenient import Progress, RawIndex, read_raw, scan
from keepwarm.corpora.names import link
from keepwarm.corpora.shifted import Shift, find_shift, whole
from keepwarm.errors import DataError

__all__ = ["Finding", "Report", "named", "repair", "repaired_prefix", "verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A token file as its index reads it, and what is wrong with it. None: not known, or not readable."""

    prefix: Path
    bin_bytes: int | None = None
    dtype: str | None = None
    sequences: int | None = None
    documents: int | None = None
    tokens: int | None = None
    empty_documents: int | None = None
    highest_id: int | None = None
    vocab_size: int | None = None
    eod: int | None = None
    eod_from: str | None = None  # "asked", "sidecar" or "inferred": it stands at every document's end
    documents_without_eod: int | None = None  # of those that are not empty
    eods_inside_documents: int | None = None
    content_id: str | None = None  # as IndexedWriter.content_id of the same documents
    findings: tuple[Finding, ...] = ()
    fix: Fix | None = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.findings


def verify(
    prefix: Path | str, *, vocab_size: int | None = None, eod: int | None = None, progress: Progress | None = None
) -> Report:
    """Read a pair and say everything that is wrong with it. `vocab_size` and `eod` are by default the sidecar's.

    Raises DataError if neither file exists, and for a vocabulary or document end that can't be one.
    """
    _check_asked(vocab_size, eod)
    stem = named([prefix])[0]
    binary, index = pair(stem)
    missing = _missing(binary, index)
    if missing:
        size = binary.stat().st_size if binary.is_file() else None
        return Report(prefix=stem, bin_bytes=size, findings=(missing,))
    sidecar, unreadable = _sidecar(stem)
    if vocab_size is None and sidecar is not None:
        vocab_size = sidecar.vocab_size or None  # 0: its writer did not know it
    raw, size = read_raw(index), binary.stat().st_size
    lengths = sound_lengths(raw, size)
    if lengths is None:
        return _without_lengths(stem, raw, index, size, unreadable)
    documents = sound_documents(raw, len(lengths))
    readings = possible_readings(raw, size, lengths, documents)
    wanted = sidecar.eod if eod is None and sidecar is not None else eod
    if "declared" in readings and (more := whole(binary, size, readings["declared"], wanted)) is not None:
        readings["whole"] = more
    seen, digest = scan(binary, list(readings.values()), vocab_size=vocab_size, eod=wanted, progress=progress)
    case = Case(
        binary, index, size, raw, lengths, readings, dict(zip(readings, seen, strict=True)), vocab_size, wanted is not None
    )  # fmt: skip
    case = replace(case, shift=_shift(case))
    origin = None if wanted is None else "asked" if eod is not None else "sidecar"
    return _report(case, stem, documents, digest, sidecar, unreadable, origin)


def named(prefixes: Sequence[Path | str]) -> list[Path]:
    """The prefixes of what is named, each once, where `x*` names both halves of a pair.

    DataError if nothing is named, or neither half of a pair exists: that is a name mistyped, not a damage.
    """
    if not prefixes:
        raise DataError("no token file is named", "there is nothing to verify", "keepwarm data verify PREFIX")
    stems = list(dict.fromkeys(Path(str(pair(prefix)[0])[:-4]) for prefix in prefixes))
    for stem in stems:
        if not any(path.is_file() for path in pair(stem)):
            raise DataError(f"{stem}.idx: no such file", "a token file is a .bin and an .idx together", f"ls {stem}*")
    return stems


def _check_asked(vocab_size: int | None, eod: int | None) -> None:
    if vocab_size is not None and vocab_size < 1:
        raise DataError(f"--vocab-size {vocab_size}", "a vocabulary has at least one entry", "--vocab-size 50257")
    if eod is not None and (eod < 0 or (vocab_size is not None and eod >= vocab_size)):
        limit = "" if vocab_size is None else f" and is below {vocab_size:,}"
        raise DataError(f"--eod {eod}", f"the id of a document end counts from 0{limit}", "--eod 0")


def _missing(binary: Path, index: Path) -> Finding | None:
    gone = [path for path in (index, binary) if not path.is_file()]
    there = binary if index in gone else index
    return Finding("missing-file", f"{gone[0]}: no such file, while {there} is there", False) if gone else None


def _sidecar(stem: Path) -> tuple[Sidecar | None, list[Finding]]:
    try:
        return read_sidecar(stem), []
    except DataError as error:
        return None, [Finding("sidecar", error.what, False)]


def _without_lengths(stem: Path, raw: RawIndex, index: Path, size: int, more: list[Finding]) -> Report:
    """The index is so damaged that nothing is known about the `.bin`."""
    found = [Finding("header", f"{index}: {fault}", False) for fault in raw.faults]
    if raw.lengths is not None:
        negative = int(np.count_nonzero(raw.lengths < 0))
        found.append(Finding("lengths", f"{index}: {negative:,} lengths are negative", False))
    return Report(prefix=stem, bin_bytes=size, dtype=dtype_name(raw), findings=(*found, *more))


def _shift(case: Case) -> Shift | None:
    declared = case.readings.get("declared")
    if declared is None or declared.span is None or "uncounted" in case.readings or case.confirmed("declared"):
        return None
    for name in ("whole", "declared"):
        if name in case.seen:
            shift = find_shift(case.binary, case.size, declared, case.seen[name], known=case.eod_known)
            if shift is not None:
                return shift
    return None


def _report(
    case: Case, stem: Path, documents: Any, digest: Any, sidecar: Sidecar | None, more: list[Finding], origin: str | None
) -> Report:  # fmt: skip
    found, fix, name = judge(case)
    ids = judge_ids(case, name) if name is not None else None
    raw, lengths = case.raw, case.lengths
    tokens = int(lengths.sum())
    digest.update(np.ascontiguousarray(lengths, "<i8").data)
    digest.update(np.ascontiguousarray(documents, "<i8").data)
    content = digest.hexdigest()
    known_documents = raw.documents is not None and documents_fault(raw.documents, len(lengths)) is None
    found += [ids] if ids is not None else []
    if not any(finding.kind in STRUCTURAL for finding in found):  # else it differs of course
        found += _against_sidecar(stem, sidecar, tokens, len(documents) - 1, content)
    if known_documents:
        found += _against_hashes(stem, len(documents) - 1)
    edges = np.concatenate([[0], np.cumsum(lengths)])[documents]
    return Report(
        prefix=stem, bin_bytes=case.size, dtype=dtype_name(raw), sequences=len(lengths), documents=len(documents) - 1,
        tokens=tokens, empty_documents=int(np.count_nonzero(np.diff(edges) == 0)), vocab_size=case.vocab_size,
        content_id=content, findings=(*found, *more), fix=fix, **_facts(case, name, origin),
    )  # fmt: skip


def _facts(case: Case, right: str | None, origin: str | None) -> dict[str, Any]:
    """What the scan saw, as the index reads it; the document end also where another reading shows it."""
    if "declared" not in case.seen:
        return {}
    seen, ends = case.seen["declared"], len(case.readings["declared"].ends)
    facts: dict[str, Any] = {"highest_id": seen.high}
    if origin is not None:
        facts |= {"eod": seen.eod, "eod_from": origin}
    elif right is not None and case.confirmed(right):
        facts |= {"eod": case.seen[right].eod, "eod_from": "inferred"}
    if facts.get("eod") is not None and facts["eod"] == seen.eod:
        facts |= {"documents_without_eod": ends - seen.closed, "eods_inside_documents": seen.eods - seen.closed}
    return facts


def _against_sidecar(stem: Path, sidecar: Sidecar | None, tokens: int, documents: int, content: str) -> list[Finding]:
    if sidecar is None:
        return []
    pairs = [("tokens", sidecar.tokens, tokens), ("documents", sidecar.documents, documents)]
    differ = [f"{said:,} {what}, the pair has {there:,}" for what, said, there in pairs if said != there]
    if not differ and sidecar.content_id != content:
        differ = [f"content {sidecar.content_id}, the pair has {content}: tokens or document ends were changed since"]
    return [Finding("sidecar", f"{sidecar_path(stem)}: says {words}", False) for words in differ]


def _against_hashes(stem: Path, documents: int) -> list[Finding]:
    path = hash_path(stem)
    if not path.exists():
        return []
    try:
        hashes = np.load(path, mmap_mode="r", allow_pickle=False)
        shape, dtype = hashes.shape, hashes.dtype
    except (OSError, ValueError, EOFError) as error:
        return [Finding("hashes", f"{path}: can't be read ({' '.join(str(error).split())})", False)]
    if dtype != np.uint64 or shape != (documents,):
        held = f"{shape[0]:,} hashes" if len(shape) == 1 and dtype == np.uint64 else f"{dtype} {shape}"
        return [Finding("hashes", f"{path}: holds {held}, the pair has {documents:,} documents", False)]
    return []


def repaired_prefix(prefix: Path | str) -> Path:
    """Where `repair` writes."""
    return Path(str(pair(prefix)[0])[:-4] + ".repaired")


def repair(prefix: Path | str, report: Report, progress: Progress | None = None) -> Path:
    """Write PREFIX.repaired.idx, and PREFIX.repaired.bin as a link to the `.bin`; its prefix. Originals stay as they are.

    A `.bin` of which only the first bytes are to be read is copied up to there. What was written is verified. Raises
    DataError if nothing can be repaired, if the name is taken, or if the pair changed since it was verified.
    """
    fix = _repairable(report)
    binary, target = pair(prefix)[0], repaired_prefix(prefix)
    new_binary, new_index = pair(target)
    taken = [str(path) for path in (new_binary, new_index) if path.exists() or path.is_symlink()]
    if taken:
        raise DataError(f"{taken[0]}: exists already", "nothing is overwritten silently", f"rm {' '.join(taken)}")
    if binary.stat().st_size != report.bin_bytes:
        raise DataError(
            f"{binary}: changed since it was verified",
            "what was found out is true of the file as it was",
            f"keepwarm data verify {report.prefix} --repair",
        )
    made: list[Path] = []
    try:
        one = fix.reading
        link(binary, new_binary) if one.bytes == report.bin_bytes else _copy(binary, new_binary, one.bytes)
        made.append(new_binary)
        files.write_bytes(new_index, index_bytes(one.dtype, one.lengths, one.documents))
        made.append(new_index)
        _check_repaired(target, report, progress)
    except BaseException:
        for path in reversed(made):
            path.unlink()
        raise
    return target


def _repairable(report: Report) -> Fix:
    if report.fix is None:
        raise DataError(
            f"{report.prefix}: {'nothing is wrong' if report.ok else 'nothing that was found can be repaired'}",
            "a repair writes a new index, it does not change tokens",
            f"keepwarm data verify {report.prefix}",
        )
    return report.fix


def _check_repaired(target: Path, report: Report, progress: Progress | None) -> None:
    again = verify(target, vocab_size=report.vocab_size, eod=report.eod, progress=progress)
    left = [finding.what for finding in again.findings if finding.kind in STRUCTURAL]
    if left:
        raise DataError(
            f"{report.prefix}: the repaired pair is not whole either ({'; '.join(left)})",
            "more is wrong with it than one new index can mend",
            f"keepwarm data verify {report.prefix}",
        )


def _copy(binary: Path, target: Path, size: int) -> None:
    """The first `size` bytes of `binary`, written aside and renamed."""
    aside = target.with_name(f"{target.name}.partial-{os.getpid()}")
    with files.explained(target):
        try:
            with open(binary, "rb") as source, open(aside, "wb") as out:
                while out.tell() < size:
                    block = source.read(min(shutil.COPY_BUFSIZE, size - out.tell()))  # type: ignore[attr-defined]
                    if not block:
                        raise DataError(
                            f"{binary}: became shorter while it was read",
                            "another program writes to it",
                            f"ls -l {binary}",
                        )
                    out.write(block)
                out.flush()
                os.fsync(out.fileno())
            os.replace(aside, target)
            files.fsync_folder(target.parent)
        finally:
            aside.unlink(missing_ok=True)
