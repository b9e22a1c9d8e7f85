"""Mixing file lists by weight: what the seed's `mix_datasets.py` does, exactly.

new weight = (weight / sum of its file) * (the file's weight / sum of the files' weights). The default computes with
fractions and prints the shortest text that reads back as the nearest float, so no weight vanishes. `legacy` computes
and prints as the script does (floats in file order, six decimals), and refuses where that would be silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from keepwarm.corpora.filelist import Entry, read_filelist
from keepwarm.errors import DataError, KeepwarmError

USAGE = "keepwarm mix --inputs 0.9 new.txt 0.1 old.txt -o mix.txt"


@dataclass(frozen=True, slots=True)
class Mixed:
    """One line of the mixed list."""

    weight: Fraction
    printed: str
    entry: Entry


def mix(inputs: Sequence[str], *, legacy: bool = False) -> list[Mixed]:
    """Mix `WEIGHT FILE` pairs. KeepwarmError for bad arguments, DataError for bad lists."""
    pairs = _pairs(inputs)
    lists = [read_filelist(path, duplicates=legacy) for _, path in pairs]
    if not legacy:
        _refuse_duplicates([entry for entries in lists for entry in entries])
    total = sum(Fraction(text) for text, _ in pairs)
    mixed = []
    float_total = sum(float(text) for text, _ in pairs)
    for (text, _), entries in zip(pairs, lists, strict=True):
        share = Fraction(text) / total
        whole = sum(entry.weight for entry in entries)
        float_whole = 0.0
        for entry in entries:  # one by one, as the script adds: sum() may round otherwise
            float_whole += float(entry.text)
        for entry in entries:
            weight = entry.weight / whole * share
            old = (float(entry.text) / float_whole) * (float(text) / float_total)
            mixed.append(Mixed(weight, _six_decimals(old, entry) if legacy else _shortest(weight), entry))
    return mixed


def lines(mixed: Sequence[Mixed]) -> str:
    """The mixed list as text for the trainer: three fields a line, no comments."""
    return "".join(f"{each.printed} {each.entry.prefix} {each.entry.corpus}\n" for each in mixed)


def _pairs(inputs: Sequence[str]) -> list[tuple[str, str]]:
    if not inputs or len(inputs) % 2:
        count = "no pair is given" if not inputs else f"{len(inputs)} words do not make pairs"
        raise KeepwarmError(f"--inputs: {count}", "each list needs its weight: WEIGHT FILE [WEIGHT FILE ...]", USAGE)
    pairs = [(inputs[i], inputs[i + 1]) for i in range(0, len(inputs), 2)]
    for text, path in pairs:
        try:
            if Fraction(text) <= 0 or "/" in text:
                raise ValueError
        except (ValueError, ZeroDivisionError):
            raise KeepwarmError(
                f"--inputs: the weight {text!r} of {path} is not a positive finite number",
                "weights come first, then their lists: WEIGHT FILE [WEIGHT FILE ...]",
                USAGE,
            ) from None
    return pairs


def _refuse_duplicates(entries: Sequence[Entry]) -> None:
    places: dict[str, str] = {}
    for entry in entries:
        if entry.prefix in places:
            raise DataError(
                f"{entry.place}: {entry.prefix} stands in {places[entry.prefix]} already",
                "a trainer makes two data sets of it with the same order: the first half is read twice, the rest never",
                "leave it out of one list, with the weight it should have in all",
            )
        places[entry.prefix] = entry.place


def _shortest(weight: Fraction) -> str:
    """The shortest text of the nearest float, never in a form that a trainer's parser can't read."""
    value = float(weight)
    if value == 0.0:
        raise KeepwarmError(
            f"a weight of {weight} is below every float", "it would vanish", "raise the smallest weight"
        )
    return repr(value)


def _six_decimals(weight: float, entry: Entry) -> str:
    text = f"{weight:.6f}"
    if float(text) == 0.0:
        raise DataError(
            f"{entry.place}: its weight {weight:g} in the mix would be printed as {text}",
            "the script's six decimals make it vanish: the trainer then never reads this source",
            "leave --legacy out: the default prints every weight in full",
        )
    return text
