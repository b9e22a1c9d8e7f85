"""Exclusion lists: spans of token files that training passes over when it reads, while `.bin` stays as it is.

One line each, with `#` comments and blank lines passed over:

    PREFIX document N      the document with this number in PREFIX.idx, counted from 0
    PREFIX tokens A:B      the token positions [A, B) in PREFIX.bin
    PREFIX content ID      what the lines about PREFIX were made for: 16 hex digits of its content; may be left out

PREFIX has no spaces and is resolved against the list's own folder, so that a list moves along with its files. In a
plan's list it may also be the name of a corpus that is given as text: the token file that the run made of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keepwarm import files
from keepwarm.corpora.identity import document_spans
from keepwarm.corpora.indexed import IndexedFile, open_indexed, pair, source_id
from keepwarm.errors import DataError, KeepwarmError

_FORM = "write it as: PREFIX document N, or: PREFIX tokens A:B (prefixes without spaces)"
_MEANING = "it would be unclear what is left out of training"
_FOREIGN = "the list was made for another file: what it means would be trained on"
_CONTENT = re.compile("[0-9a-f]{16}")

_Locate = Callable[[str], tuple[Path, str]]  # a prefix as it is written -> its path, and its file


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One line: a document's number, a span of tokens, or the file's content; exactly one of the three is given."""

    prefix: str  # as it is written
    path: Path  # the prefix on this machine
    file: str  # as `file_of` tells it: what lines about the same file share
    document: int | None = None
    tokens: tuple[int, int] | None = None  # [start, stop) positions in .bin
    content: str | None = None  # the id of what the other lines about this file were made for
    place: str = ""  # file:line, where it was read

    @property
    def line(self) -> str:
        """The line that says it."""
        if self.tokens is not None:
            return f"{self.prefix} tokens {self.tokens[0]}:{self.tokens[1]}"
        if self.content is not None:
            return f"{self.prefix} content {self.content}"
        return f"{self.prefix} document {self.document}"


def read_exclusions(path: Path | str, names: Mapping[str, Path] | None = None) -> tuple[Exclusion, ...]:
    """The exclusions of a list, in its order; it may be empty. A prefix that is one of `names` means that token file.

    DataError by file:line for what can't be understood.
    """
    listing, known = Path(path), names or {}

    @cache
    def locate(prefix: str) -> tuple[Path, str]:
        found = known.get(prefix, listing.parent / prefix)
        return found, file_of(found)

    rows = ((number, _without_comment(line.split())) for number, line in enumerate(_lines(listing), start=1))
    return tuple(_exclusion(fields, locate, f"{path}:{number}") for number, fields in rows if fields)


def of_documents(prefix: Path, numbers: Iterable[int], listing: Path) -> tuple[Exclusion, ...]:
    """Exclusions of whole documents for a list at `listing`, the file's content before them if there are any.

    A relative prefix is spelled from the list's folder. Raises DataError for one with a space: a list can't spell it.
    """
    text = str(pair(prefix)[0])[:-4]
    if not os.path.isabs(text):
        text = _spelled(prefix, listing.parent)
    if len(text.split()) != 1 or text.startswith("#"):
        raise DataError(
            f"{text}: an exclusion list can't name it",
            "its lines are divided at spaces, and # begins a comment",
            f"mv '{text}.bin' NAME.bin and '{text}.idx' NAME.idx, without spaces",
        )
    path, file = listing.parent / text, file_of(prefix)
    documents = [Exclusion(text, path, file, document=int(number)) for number in numbers]
    return (Exclusion(text, path, file, content=source_id(prefix)), *documents) if documents else ()


def write_exclusions(path: Path, exclusions: Sequence[Exclusion], *, why: str) -> None:
    """Write a list atomically, with a comment that says `why`. KeepwarmError if `path` has other content."""
    lines = [*_header(why), *(each.line for each in exclusions)]
    files.write_text(path, "\n".join(lines) + "\n")


def refuse_taken(path: Path, *, why: str) -> None:
    """KeepwarmError for a path that `write_exclusions` would refuse, as far as can be told before the list is known.

    A list with the same `why` may be there: the same work done again gives the same list.
    """
    fix = f"choose another name: --exclude {path}-2"
    if path.is_dir():
        raise KeepwarmError(f"{path}: is a folder", "an exclusion list is a file", f"--exclude {path}/NAME.exclude")
    for folder in path.parents:
        if folder.exists() and not folder.is_dir():
            raise KeepwarmError(f"{path}: {folder} is a file, not a folder", "nothing can be written inside it", fix)
    begin = ("\n".join(_header(why)) + "\n").encode()
    if path.exists() and path.read_bytes()[: len(begin)] != begin:
        raise KeepwarmError(f"{path}: exists already with other content", "nothing is overwritten silently", fix)


def file_of(prefix: Path) -> str:
    """What tells that two prefixes are one token file: its `.bin`, links followed."""
    return os.path.realpath(pair(prefix)[0])


def by_file(exclusions: Iterable[Exclusion]) -> dict[str, list[Exclusion]]:
    """The exclusions of each file, in their order."""
    found: dict[str, list[Exclusion]] = {}
    for each in exclusions:
        found.setdefault(each.file, []).append(each)
    return found


def refuse_foreign(exclusions: Sequence[Exclusion], prefixes: Sequence[Path]) -> None:
    """DataError by file:line for an exclusion from a file that is none of `prefixes`: it would exclude nothing."""
    known = {file_of(prefix) for prefix in prefixes}
    for each in exclusions:
        if each.file not in known:
            folder = Path(each.place.rpartition(":")[0]).parent
            raise DataError(
                f"{each.place}: {each.prefix} is no file of this plan",
                "the line would leave nothing out, and what it names would be trained on",
                "name one of: " + ", ".join(_spelled(prefix, folder) for prefix in list(prefixes)[:5]),
            )


def excluded_spans(prefix: Path, listed: Mapping[str, Sequence[Exclusion]]) -> NDArray[np.int64]:
    """`exclusions_of` one file, with the exclusions as `by_file` gives them; a file without any is not opened."""
    mine = listed.get(file_of(prefix), ())
    return exclusions_of(prefix, mine, open_indexed(prefix)) if mine else np.zeros((0, 2), dtype=np.int64)


def exclusions_of(prefix: Path, exclusions: Sequence[Exclusion], opened: IndexedFile) -> NDArray[np.int64]:
    """(spans, 2): the token positions [start, stop) that the list takes out of one file, ascending and joined.

    Lines about other files are passed over. Raises DataError by file:line for a document number or a position that
    lies beyond the file, and for a file whose content is not the one that the list was made for.
    """
    file = file_of(prefix)
    mine = [each for each in exclusions if each.file == file]
    _refuse_other_content(prefix, [each for each in mine if each.content is not None])
    documents = document_spans(opened)
    spans = [_span(each, documents, len(opened.tokens)) for each in mine if each.content is None]
    return joined(np.array(spans, dtype=np.int64).reshape(-1, 2))


def joined(spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """(k, 2): the union of (n, 2) spans in any order, ascending, disjoint, neighbours joined, none of them empty."""
    spans = spans[spans[:, 1] > spans[:, 0]]
    if not len(spans):
        return np.zeros((0, 2), dtype=np.int64)
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(spans[:, 1])
    breaks = np.flatnonzero(spans[1:, 0] > reach[:-1]) + 1
    starts = spans[np.append(0, breaks), 0]
    return np.stack([starts, reach[np.append(breaks - 1, len(spans) - 1)]], axis=1)


def subtract(kept: NDArray[np.int64], spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """(k, 2): what remains of the spans `kept` (n, 2) without `spans` (m, 2), ascending and disjoint like both.

    Between two neighbouring borders nothing changes, so each such piece is kept or not as its first token is.
    """
    borders = np.unique(np.concatenate([kept.ravel(), spans.ravel()]).astype(np.int64))
    remains = _within(borders, kept) & ~_within(borders, spans)  # of the piece that a border begins; the last has none
    change = np.diff(np.concatenate([[0], remains.astype(np.int8), [0]]))
    return np.stack([borders[np.flatnonzero(change == 1)], borders[np.flatnonzero(change == -1)]], axis=1)


def _header(why: str) -> list[str]:
    lines = ["Left out of training when it is read. In a plan: corpora: {NAME: {..., exclude: FILE}}", *why.split("\n")]
    return [f"# {line}".rstrip() for line in lines]


def _within(points: NDArray[np.int64], spans: NDArray[np.int64]) -> NDArray[np.bool_]:
    spans = spans[spans[:, 1] > spans[:, 0]]
    if not len(spans):
        return np.zeros(len(points), dtype=bool)
    before = np.searchsorted(spans[:, 0], points, side="right") - 1
    inside: NDArray[np.bool_] = (before >= 0) & (points < spans[before, 1])
    return inside


def _lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: {(error.strerror or 'can not be read').lower()}",
            "an exclusion list is needed: without it, everything would be trained on",
            f"keepwarm data overlap HOLDOUT PREFIX --exclude {path}",
        ) from None
    try:
        return data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 text", "paths would be read wrongly", f"iconv -f latin1 -t utf-8 {path}"
        ) from None


def _without_comment(fields: list[str]) -> list[str]:
    """Fields up to one that begins with `#`; inside a name it belongs to the name."""
    comment = next((place for place, field in enumerate(fields) if field.startswith("#")), len(fields))
    return fields[:comment]


def _exclusion(fields: list[str], locate: _Locate, place: str) -> Exclusion:
    if len(fields) != 3:
        raise DataError(f"{place}: {len(fields)} fields, not 3", _MEANING, _FORM)
    prefix, word, value = fields
    path, file = locate(prefix)
    if word == "document":
        return Exclusion(prefix, path, file, document=_number(value, place), place=place)
    if word == "tokens":
        return Exclusion(prefix, path, file, tokens=_positions(value, place), place=place)
    if word != "content":
        raise DataError(f"{place}: {word!r} is neither `document` nor `tokens` nor `content`", _MEANING, _FORM)
    if not _CONTENT.fullmatch(value):
        raise DataError(
            f"{place}: {value!r} is not 16 hex digits",
            "it would be unclear what the list was made for",
            "remove the line, or write the list again: keepwarm data overlap HOLDOUT PREFIX --exclude FILE",
        )
    return Exclusion(prefix, path, file, content=value, place=place)


def _positions(value: str, place: str) -> tuple[int, int]:
    start_text, colon, stop_text = value.partition(":")
    if not colon:
        raise DataError(f"{place}: {value!r} is not a span A:B", _MEANING, _FORM)
    start, stop = _number(start_text, place), _number(stop_text, place)
    if stop <= start:
        raise DataError(
            f"{place}: the span {value} is empty",
            "its end has to lie behind its beginning",
            f"tokens {start}:{start + 1}",
        )
    return start, stop


def _number(text: str, place: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise DataError(f"{place}: {text!r} is not a number", _MEANING, _FORM)
    if text.startswith("-"):
        raise DataError(f"{place}: {text} is negative", "documents and tokens are counted from 0", _FORM)
    return int(text)


def _spelled(prefix: Path, folder: Path) -> str:
    """A prefix as a list in `folder` names it."""
    return os.path.relpath(os.path.realpath(str(pair(prefix)[0])[:-4]), os.path.realpath(folder))


def _refuse_other_content(prefix: Path, contents: Sequence[Exclusion]) -> None:
    now = source_id(prefix) if contents else ""
    for each in contents:
        if each.content != now:
            raise DataError(
                f"{each.place}: the list was made for the content {each.content} of {each.prefix}, now it holds {now}",
                "its numbers mean other documents now: what was to be left out would be trained on",
                "write the list again: keepwarm data overlap HOLDOUT PREFIX --exclude FILE",
            )


def _span(exclusion: Exclusion, documents: NDArray[np.int64], tokens: int) -> tuple[int, int]:
    fix = f"keepwarm data show {exclusion.path}"
    if exclusion.document is not None:
        if exclusion.document >= len(documents):
            what = f"document {exclusion.document:,} of {len(documents):,}, counted from 0"
            raise DataError(f"{exclusion.place}: {what}", _FOREIGN, fix)
        start, stop = documents[exclusion.document].tolist()
        return start, stop
    assert exclusion.tokens is not None, exclusion
    if exclusion.tokens[1] > tokens:
        what = f"position {exclusion.tokens[1]:,} lies beyond the file's {tokens:,} tokens"
        raise DataError(f"{exclusion.place}: {what}", _FOREIGN, fix)
    return exclusion.tokens
