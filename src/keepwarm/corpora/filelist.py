"""File lists: `weight prefix corpus` lines, the way the lab names its token files.

Weights are exact: the decimal text is what counts. Blank lines and `#` comments (a line's, or after the third field)
are passed over; everything that the trainer or the seed's script would read wrongly is refused by file:line.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from keepwarm.errors import DataError


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `prefix` is as it was typed, `path` resolves it against the list's folder."""

    weight: Fraction
    text: str  # the weight's own text
    prefix: str
    corpus: str
    place: str  # file:line

    @property
    def path(self) -> Path:
        """The token file's prefix on this machine."""
        return Path(os.path.join(os.path.dirname(self.place.rpartition(":")[0]), self.prefix))


def read_filelist(path: Path | str, *, duplicates: bool = False, zeros: bool = False) -> tuple[Entry, ...]:
    """The entries of a list; DataError by file:line. `duplicates` lets the same prefix stand twice, `zeros` weigh 0."""
    entries: list[Entry] = []
    places: dict[str, str] = {}
    for number, line in enumerate(_lines(Path(path)), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        entry = _entry(fields, f"{path}:{number}", zeros)
        if entry.prefix in places and not duplicates:
            raise DataError(
                f"{entry.place}: {entry.prefix} stands at {places[entry.prefix]} already",
                "a trainer makes two data sets of it with the same order: the first half is read twice, the rest never",
                "put it once, with the sum of its weights",
            )
        places[entry.prefix] = entry.place
        entries.append(entry)
    if not entries:
        raise DataError(
            f"{path}: has no entries", "there is nothing to mix", "write lines such as: 1.0 data/shard0 papers"
        )
    return tuple(entries)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        reason = (error.strerror or "can't be read").lower()
        raise DataError(
            f"{path}: {reason}", "a file list is needed", "name a file of `weight prefix corpus` lines"
        ) from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 text", "paths would be read wrongly", f"iconv -f latin1 -t utf-8 {path}"
        ) from None
    return text.split("\n")


def _entry(fields: list[str], place: str, zeros: bool) -> Entry:
    form = "write it as: weight prefix corpus (prefixes without spaces)"
    if len(fields) < 3:
        raise DataError(f"{place}: {len(fields)} fields, not 3", "a line is `weight prefix corpus`", form)
    try:
        weight = Fraction(fields[0])
        if "/" in fields[0] or "_" in fields[0]:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise DataError(
            f"{place}: the weight {fields[0]!r} is not a finite number", "it can't be mixed", form
        ) from None
    if weight < 0 or (weight == 0 and not zeros):
        raise DataError(
            f"{place}: the weight {fields[0]} is not positive",
            "a source without weight is opened and never read, or crashes the trainer",
            "remove the line, or give it a weight above 0",
        )
    if len(fields) > 3 and not fields[3].startswith("#"):
        raise DataError(
            f"{place}: {len(fields)} fields, not 3 (is there a space in the path?)",
            "the seed's script drops what follows, and a path with a space becomes another path",
            form,
        )
    return Entry(weight, fields[0], fields[1], fields[2], place)
