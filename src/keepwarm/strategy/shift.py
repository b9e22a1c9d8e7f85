"""Shift: how far a new corpus lies from the base's own data, measured before training, never read off a label.

First measure: the base model's bits per byte on the new corpus over those on D_0's holdout. The borders are ours, set
from a prototype in which English man pages (ratio 1.55) were forgotten for as badly as German (2.24) was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Grade = Literal["none", "weak", "strong", "language"]
BORDERS: tuple[tuple[float, Grade], ...] = ((1.1, "none"), (1.5, "weak"), (2.0, "strong"))


@dataclass(frozen=True, slots=True)
class Shift:
    """A grade with the numbers it was decided from. `measured` is False when the plan declared the grade."""

    grade: Grade
    measured: bool
    new_bits_per_byte: float | None = None
    base_bits_per_byte: float | None = None

    @property
    def ratio(self) -> float | None:
        """Bits per byte on the new corpus over those on the base's own holdout."""
        if self.new_bits_per_byte is None or not self.base_bits_per_byte:
            return None
        return self.new_bits_per_byte / self.base_bits_per_byte

    def words(self) -> str:
        """One phrase for tables and reports."""
        if not self.measured:
            return f"{self.grade} (the plan says so)"
        return (
            f"{self.grade} (bits/byte {self.new_bits_per_byte:.2f} / {self.base_bits_per_byte:.2f} = {self.ratio:.2f})"
        )


def grade(new_bits_per_byte: float, base_bits_per_byte: float) -> Shift:
    """Grade a shift by the ratio of bits per byte."""
    ratio = new_bits_per_byte / base_bits_per_byte
    found: Grade = next((name for border, name in BORDERS if ratio < border), "language")
    return Shift(found, True, new_bits_per_byte, base_bits_per_byte)
