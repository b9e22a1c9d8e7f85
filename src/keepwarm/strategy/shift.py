"""Shift: how far a new corpus lies from the base's own data, measured before training, never read off a label.

Four numbers, none of which is enough alone: a low ratio of bits per byte is no proof of a weak shift (a model of code
loses all of it over speeches that cost 1.4 times the bits of its own text), nor do nearby tokens mean a nearby text. So
each number grades for itself, and the worst grade holds. The borders are ours, set on what small models really forgot
without replay (docs/benchmarks.md): next to nothing, half a nat, up to 1.2 nats, more. They are no paper's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any, Literal, get_args

from keepwarm.evaluate.divergence import Divergence
from keepwarm.units import format_share

Grade = Literal["none", "weak", "strong", "language"]
GRADES: tuple[Grade, ...] = get_args(Grade)  # the nearest first
STARTING_SHARES: Mapping[Grade, Fraction] = {
    "none": Fraction(0), "weak": Fraction(1, 100), "strong": Fraction(5, 100), "language": Fraction(25, 100),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that grades: below its three borders lie `none`, `weak` and `strong`, above them `language`."""

    key: str  # of Shift
    name: str
    borders: tuple[float, float, float]
    source: str
    of_ratios: bool = False  # compared in logarithms

    def grade(self, value: float) -> Grade:
        """The grade of a value."""
        return next((grade for grade, border in zip(GRADES, self.borders, strict=False) if value < border), GRADES[-1])

    def apart(self, first: float, second: float) -> float:
        """How far two values lie apart, in grades: one is the mean step from border to border."""
        low, *_, high = self.borders
        steps = len(self.borders) - 1
        if self.of_ratios:
            return steps * math.log(first / second) / math.log(high / low)
        return steps * (first - second) / (high - low)


MEASURES = (
    Measure("ratio", "bits/byte ratio", (1.3, 1.5, 2.0), "ours", of_ratios=True),
    Measure("js_unigram_excess", "unigram JS above its null", (0.03, 0.1, 0.25), "ours"),
    Measure("js_bigram_excess", "bigram JS above its null", (0.05, 0.25, 0.42), "ours"),
    Measure("fertility", "tokens/byte ratio", (1.1, 1.3, 1.6), "ours", of_ratios=True),
)


@dataclass(frozen=True, slots=True)
class Shift:
    """A grade with the numbers it was decided from. `measured` is False when the plan declared the grade.

    JS in bits; bits/byte are the base's on held-out text. A number that could not be measured is None, and `notes` says
    why.
    """

    grade: Grade
    measured: bool
    new_bits_per_byte: float | None = None
    base_bits_per_byte: float | None = None
    js_unigram: float | None = None
    js_unigram_null: float | None = None
    js_bigram: float | None = None
    js_bigram_null: float | None = None
    new_tokens_per_byte: float | None = None
    base_tokens_per_byte: float | None = None
    sample_tokens: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float | None:
        """Bits per byte on the new corpus over those on the base's own holdout."""
        return _ratio(self.new_bits_per_byte, self.base_bits_per_byte)

    @property
    def fertility(self) -> float | None:
        """Tokens per byte of the new corpus over those of D_0: above 1 where the tokenizer fits it worse."""
        return _ratio(self.new_tokens_per_byte, self.base_tokens_per_byte)

    @property
    def js_unigram_excess(self) -> float | None:
        """Unigram divergence above its null, bits."""
        return _excess(self.js_unigram, self.js_unigram_null)

    @property
    def js_bigram_excess(self) -> float | None:
        """Bigram divergence above its null, bits."""
        return _excess(self.js_bigram, self.js_bigram_null)

    def words(self) -> str:
        """One phrase for tables and reports."""
        if not self.measured:
            return f"{self.grade} (the plan says so)"
        found = [_number_words(self, each) for each in MEASURES if getattr(self, each.key) is not None]
        return f"{self.grade} ({'; '.join(found)})"

    def why(self) -> list[str]:
        """What each number says, and what follows, a line each."""
        if not self.measured:
            return [f"the plan says {self.grade}; nothing was measured, and nothing of the ladder is put off"]
        lines = [
            f"{each.name} {value:.3f} says {each.grade(value)}: {_between(each, each.grade(value))}"
            for each in MEASURES
            if (value := getattr(self, each.key)) is not None
        ]
        return [*lines, *self.notes, f"the worst holds: {self.grade}; {_begins(self.grade)}"]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the numbers, the borders, what each says, and why."""
        content = asdict(self) | {"notes": list(self.notes)}
        if not self.measured:
            return {"grade": self.grade, "measured": False, "words": self.words(), "why": self.why()}
        content |= {each.key: getattr(self, each.key) for each in MEASURES}
        content["says"] = {
            each.key: {"grade": each.grade(value), "borders": list(each.borders), "source": each.source}
            for each in MEASURES
            if (value := getattr(self, each.key)) is not None
        }
        return content | {"starting_share": float(starting_share(self)), "words": self.words(), "why": self.why()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Shift:
        """What `as_dict` gave. KeyError, TypeError or ValueError for anything else."""
        names = [each.name for each in fields(cls) if each.name != "notes"]
        found = cls(**{name: content[name] for name in names}, notes=tuple(content["notes"]))
        if found.grade not in GRADES:
            raise ValueError(f"{found.grade!r} is no grade")
        return found


def graded(
    found: Divergence | None,
    new_bits_per_byte: float | None,
    base_bits_per_byte: float | None,
    notes: tuple[str, ...] = (),
) -> Shift | None:
    """The shift by all that could be measured, graded by the worst; None where nothing could."""
    numbers = asdict(found) if found else {}
    both = new_bits_per_byte is not None and base_bits_per_byte is not None
    rates = (new_bits_per_byte, base_bits_per_byte) if both else (None, None)
    shift = Shift("none", True, *rates, **numbers, notes=notes)
    values = {each: getattr(shift, each.key) for each in MEASURES}
    grades = [each.grade(value) for each, value in values.items() if value is not None]
    if not grades:
        return None
    return Shift(max(grades, key=GRADES.index), True, *rates, **numbers, notes=notes)


def explained() -> dict[str, str]:
    """Each grade in words, by name: what `explain` shows."""
    found: dict[str, str] = {}
    for number, grade in enumerate(GRADES, start=1):
        lies = "; ".join(f"{each.name} {_between(each, grade)}" for each in MEASURES)
        ladder = "weak" if grade in ("none", "weak") else "strong"
        found[grade] = (
            f"Grade {number} of {len(GRADES)} of how far new data lies from D_0, measured before training.\n\n"
            f"Formula: {lies}; the worst of them holds\n\n"
            f"When: `shift: auto`; the cookbook's ladder for a {ladder} shift is climbed, and {_begins(grade)}. A stage's own "
            "ladder begins where it begins, and a forecast stands above a grade.\n\n"
            "Source: ours, set on small models (docs/benchmarks.md, Shift)."
        )
    return found


def starting_share(shift: Shift) -> Fraction:
    """The replay share that the ladder begins with; 0, its lowest, where the plan declared the grade."""
    return STARTING_SHARES[shift.grade] if shift.measured else Fraction(0)


def _ratio(new: float | None, base: float | None) -> float | None:
    return None if new is None or not base else new / base


def _excess(found: float | None, null: float | None) -> float | None:
    return None if found is None or null is None else found - null


def _number_words(shift: Shift, each: Measure) -> str:
    """A number with what it was made of."""
    if each.key == "ratio":
        return f"bits/byte {shift.new_bits_per_byte:.2f} / {shift.base_bits_per_byte:.2f} = {shift.ratio:.2f}"
    if each.key == "fertility":
        return f"tokens/byte {shift.new_tokens_per_byte:.3f} / {shift.base_tokens_per_byte:.3f} = {shift.fertility:.2f}"
    kind = each.key.removesuffix("_excess")
    return f"{each.name.split()[0]} JS {getattr(shift, kind):.3f}, null {getattr(shift, f'{kind}_null'):.3f}"


def _between(each: Measure, grade: Grade) -> str:
    """Where a grade lies among the borders of a measure."""
    number = GRADES.index(grade)
    if number == len(each.borders):
        return f"{each.borders[-1]:g} or more"
    if number == 0:
        return f"below {each.borders[0]:g}"
    return f"{each.borders[number - 1]:g} to {each.borders[number]:g}"


def _begins(grade: Grade) -> str:
    share = STARTING_SHARES[grade]
    if not share:
        return "the ladder begins with its lowest share"
    return f"the ladder begins with {format_share(share)} of old data, lower shares wait"
