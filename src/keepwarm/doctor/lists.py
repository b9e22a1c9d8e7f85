"""Traps of the trainer's file lists, as the trainer itself would read them: three fields a line and nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from keepwarm.blend.blendcorpus import SPARE
from keepwarm.corpora.indexed import CODES, HEADER, MAGIC
from keepwarm.doctor.command import within_reach
from keepwarm.doctor.trap import Sight, trap

SPLIT = (990, 10, 0)  # train_alcf.sh's TRAIN_SPLIT, VAL_SPLIT, TEST_SPLIT
_SIX_DIGITS = re.compile(r"[0-9]+\.[0-9]{6}")  # as mix_datasets.py prints them
_SURE = 0.01  # a weight's printed digits are enough where they leave less than this open
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not blank. `weight` is None where it is no number."""

    place: str
    text: str
    fields: tuple[str, ...]
    weight: float | None


@dataclass(frozen=True)
class FileList:
    """A list, and what is known of the launch that reads it."""

    path: Path
    lines: tuple[Line, ...]
    split: tuple[int, int, int] = SPLIT
    samples: int | None = None  # that the launch is built for

    @cached_property
    def entries(self) -> tuple[Line, ...]:
        """The lines that the trainer takes: three fields, the first a number."""
        return tuple(line for line in self.lines if len(line.fields) == 3 and line.weight is not None)

    def prefix(self, line: Line) -> Path:
        """A line's token file: as the trainer sees it, from the folder it runs in, else beside the list."""
        prefix = Path(line.fields[1].removesuffix(".bin"))
        return prefix if _pair_part(prefix, ".idx").exists() else self.path.parent / prefix


def read_list(path: Path, text: str, split: tuple[int, int, int] = SPLIT, samples: int | None = None) -> FileList:
    """The list's lines."""
    lines = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        fields = tuple(line.split())
        if fields:
            lines.append(Line(f"{path}:{number}", line.strip(), fields, _number(fields[0])))
    return FileList(path, tuple(lines), split, samples)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _pair_part(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)


@trap(
    "comment-in-list",
    "list",
    "stops",
    seen="a `#` line in a list",
    source="golden/launch/dry_runs.json: comment_in_list",
    harm="the script's sum of weights fails, and the trainer takes the line for a file",
)
def comment_in_list(listed: FileList) -> Iterator[Sight]:
    """mix_datasets.py passes such lines over; the trainer does not."""
    found = [line for line in listed.lines if line.fields[0].startswith("#")]
    if found:
        count = f"{len(found):,} comments, the first is" if len(found) > 1 else "a comment:"
        fix = f"sed -i '/^[[:space:]]*#/d' {listed.path}"
        yield Sight(found[0].place, f"{count} {found[0].text[:60]}", fix)


@trap(
    "fields-in-list",
    "list",
    "stops",
    seen="a line that has not three fields",
    source="pretrain_gpt_alcf.py:480-492",
    harm="the trainer stops: it unpacks three values",
)
def fields_in_list(listed: FileList) -> Iterator[Sight]:
    """Paths with spaces, comments behind a line, lists of prefixes alone."""
    form = "write it as: weight prefix corpus (prefixes without spaces)"
    for line in listed.lines:
        count = len(line.fields)
        if count == 3 or line.fields[0].startswith("#"):
            continue
        if count > 3 and line.fields[3].startswith("#"):
            why, fix = "a comment behind the line", " ".join(line.fields[:3])
        else:
            why, fix = ("a space in the path?" if count > 3 else "weight, prefix and corpus are needed"), form
        yield Sight(line.place, f"{count} field{'s' * (count != 1)}, {why}: {line.text[:60]}", fix)


@trap(
    "weight-in-list",
    "list",
    "silent",
    seen="a weight that is no number, or negative, nan or inf",
    harm="all shares become nan, or other than they were meant",
    source="golden/mix/cases.json: nan, neg, nonnum",
)
def weight_in_list(listed: FileList) -> Iterator[Sight]:
    """mix_datasets.py lets nan pass."""
    for line in listed.lines:
        bad = line.weight is None or not math.isfinite(line.weight) or line.weight < 0
        if len(line.fields) == 3 and bad and not line.fields[0].startswith("#"):
            yield Sight(line.place, f"the weight is {line.fields[0]!r}", f"1.0 {' '.join(line.fields[1:])}")


@trap(
    "zero-weight",
    "list",
    "silent",
    seen="a weight of 0, as mix_datasets.py prints one below 0.0000005",
    harm="the file gets 0 samples: it is opened and never read",
    source="golden/mix/cases.json: many_shards",
)
def zero_weight(listed: FileList) -> Iterator[Sight]:
    """All of them in one line, as there may be thousands."""
    zeros = [line for line in listed.entries if line.weight == 0]
    if zeros:
        named = ", ".join(line.fields[1] for line in zeros[:_SHOWN]) + (", .." if len(zeros) > _SHOWN else "")
        total = sum(line.weight or 0 for line in listed.entries)
        yield Sight(
            zeros[0].place, f"{len(zeros):,} of {len(listed.entries):,} files weigh 0 ({named}); all weights sum to {total:.6g}",
            "keepwarm mix --inputs SHARE LIST ... (enough digits), or remove the lines",
        )  # fmt: skip


@trap(
    "zero-weight-first",
    "list",
    "stops",
    seen="a corpus of weight 0 whose name sorts first",
    harm="the blend draws from it all the same, ties go to the first: IndexError in the middle of training",
    source="golden/data/zero_weight_first_corpus.json",
)
def zero_weight_first(listed: FileList) -> Iterator[Sight]:
    """Corpora take turns in the order of their names."""
    weights: dict[str, float] = {}
    for line in listed.entries:
        weights[line.fields[2]] = weights.get(line.fields[2], 0.0) + (line.weight or 0.0)
    if weights and weights[min(weights)] == 0 and any(weights.values()):
        first = next(line for line in listed.entries if line.fields[2] == min(weights))
        yield Sight(
            first.place, f"corpus {min(weights)} weighs 0 and sorts first of {len(weights)}", "remove its lines"
        )


@trap(
    "few-digits",
    "list",
    "silent",
    seen="weights printed with six decimals of which too few are left",
    harm="the file's share is not the one that was asked for",
    source="golden/mix/cases.json: many_shards",
)
def few_digits(listed: FileList) -> Iterator[Sight]:
    """Half a unit in the last place, against the weight."""
    if not listed.entries or not all(_SIX_DIGITS.fullmatch(line.fields[0]) for line in listed.entries):
        return
    vague = [line for line in listed.entries if line.weight and 0.5e-6 / line.weight > _SURE]
    if vague:
        worst = min(vague, key=lambda line: line.weight or 0.0)
        yield Sight(
            worst.place, f"{len(vague):,} of {len(listed.entries):,} weights are known to no better than 1 %; {worst.fields[0]} "
            f"may be off by {0.5e-6 / (worst.weight or 1):.0%}", "keepwarm mix --inputs SHARE LIST ... prints enough digits",
        )  # fmt: skip


@trap(
    "listed-twice",
    "list",
    "silent",
    seen="a prefix on two lines",
    source="golden/mix/cases.json: duplicate_prefixes",
    harm="the trainer makes two data sets with the same order: the first part is read twice, the rest never",
)
def listed_twice(listed: FileList) -> Iterator[Sight]:
    """The same seed and the same cache."""
    places: dict[str, str] = {}
    for line in listed.entries:
        prefix = line.fields[1].removesuffix(".bin")
        if prefix in places:
            yield Sight(
                line.place, f"{prefix} stands at {places[prefix]} already", "one line, with the sum of both weights"
            )
        places.setdefault(prefix, line.place)


@trap(
    "listed-file-missing",
    "list",
    "stops",
    seen="a prefix whose .idx or .bin is not there",
    harm="the trainer stops at start",
    source="corpora of the reference trainer",
)
def listed_file_missing(listed: FileList) -> Iterator[Sight]:
    """Only where a file's folder can be looked into from here."""
    gone: list[tuple[str, str]] = []
    for line in listed.entries:
        prefix = listed.prefix(line)
        here = within_reach(prefix) or within_reach(Path(line.fields[1]))
        missing = [suffix for suffix in (".idx", ".bin") if here and not _pair_part(prefix, suffix).exists()]
        gone += [(line.place, f"{prefix}{' and '.join(missing)}")] if missing else []
    if gone:
        more = f"; {len(gone):,} lines in all" if len(gone) > 1 else ""
        yield Sight(gone[0][0], f"{gone[0][1]}: no such file{more}", "name the prefixes as they are on this machine")


@trap(
    "empty-split",
    "list",
    "stops",
    seen="a file with so few sequences that a part of the split is empty",
    harm="the trainer stops: 'NoneType' object is not subscriptable",
    source="golden/data/blend_split990_10_0.json",
)
def empty_split(listed: FileList) -> Iterator[Sight]:
    """Sequences are split, not documents, and each end is rounded."""
    found: list[tuple[Line, int, str]] = []
    for line in listed.entries:
        sequences = _sequences(_pair_part(listed.prefix(line), ".idx"))
        parts = zip(("train", "valid", "test"), split_of(sequences, listed.split), listed.split, strict=True)
        empty = [name for name, part, share in parts if share and not part]
        found += [(line, sequences, " and ".join(empty))] if sequences and empty else []
    if found:
        line, sequences, empty_part = found[0]
        more = f"; {len(found):,} files in all" if len(found) > 1 else ""
        split = ",".join(map(str, listed.split))
        yield Sight(
            line.place,
            f"{sequences:,} sequences of {line.fields[1]} split {split} leave {empty_part} none{more}",
            "TRAIN_SPLIT=90 VAL_SPLIT=10, or merge small files: keepwarm data merge A B -o C",
        )


def split_of(sequences: int, split: tuple[int, int, int]) -> tuple[int, int, int]:
    """Sequences of train, valid and test, as the trainer rounds them (dataset_utils.get_train_valid_test_split_)."""
    whole = sum(split)
    ends = [0]
    for share in split:
        ends.append(ends[-1] + round(share / whole * sequences))
    over = ends[-1] - sequences
    ends = [ends[0], *(end - over for end in ends[1:])]
    return tuple(b - a for a, b in pairwise(ends))  # type: ignore[return-value]


def _sequences(index: Path) -> int:
    """Sequences of a token file; 0 where its header can't be read."""
    try:
        with open(index, "rb") as file:
            head = file.read(HEADER.size)
    except OSError:
        return 0
    if len(head) < HEADER.size:
        return 0
    magic, _, code, sequences, _ = HEADER.unpack(head)
    return int(sequences) if magic == MAGIC and code in CODES else 0


@trap(
    "never-drawn",
    "list",
    "silent",
    seen="a corpus whose share is below one sample of the run",
    source="blend/blendcorpus.py",
    harm="the blend draws nothing from it: the mix lacks what the list says it has",
)
def never_drawn(listed: FileList) -> Iterator[Sight]:
    """A corpus of share w gets its first sample when w times the samples drawn reaches about one."""
    total = sum(line.weight or 0.0 for line in listed.entries)
    if listed.samples is None or not total or not math.isfinite(total):
        return
    weights: dict[str, float] = {}
    for line in listed.entries:
        weights[line.fields[2]] = weights.get(line.fields[2], 0.0) + (line.weight or 0.0)
    for line in listed.entries:
        name = line.fields[2]
        share = weights.pop(name, 0.0) / total
        if share > 0 and share * listed.samples * SPARE < 1:
            yield Sight(
                line.place,
                f"corpus {name} has {share:.2g} of {listed.samples:,} samples: less than one",
                "give it more, or remove it",
            )
