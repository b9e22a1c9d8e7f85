"""How a mix may be steered while an attempt trains: the old data's share, between two bounds, by a rule.

The mix has two poles, each an exact mixture: the old data and the new. At a share p of the old data it is p of the one
and 1 - p of the other. Who decides writes an event `mix` into the metrics; what was really fed follows from the attempt
and these events (steered.py), so a run that goes on from a checkpoint, a ledger and a report all read the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from keepwarm.blend.mixture import Mixture, combine
from keepwarm.units import format_share

MIX = "mix"  # the event that changes the mix
By = Literal["thermostat", "incremental"]


@dataclass(frozen=True, slots=True)
class Pole:
    """A role of the mix and what it is made of."""

    role: str
    mixture: Mixture

    @classmethod
    def of(cls, role: str, members: Mapping[str, Fraction]) -> Pole:
        """A role that is played by sources of these relative weights."""
        return cls(role, combine([(Fraction(1), members)]))

    @property
    def members(self) -> dict[str, Fraction]:
        """Its sources by relative weight."""
        return {source: Fraction(weight) for source, weight in self.mixture.weights}


@dataclass(frozen=True, slots=True)
class Steering:
    """Shares are of the old data. `stairs`: those that `incremental` goes down, the first of them its start."""

    by: By
    old: Pole
    new: Pole
    start: Fraction
    least: Fraction
    most: Fraction
    stairs: tuple[Fraction, ...] = ()

    def mixture(self, share: Fraction) -> Mixture:
        """What is fed where the old data has this share."""
        return combine([(share, self.old.members), (1 - share, self.new.members)])

    def words(self) -> str:
        """What was asked, in words."""
        least, most = format_share(self.least), format_share(self.most)
        return f"{self.old.role} steered from {format_share(self.start)} within {least} to {most}"

    def rule(self) -> dict[str, Any]:
        """All but what the poles are made of: what a decision needs to know."""
        return {
            "by": self.by, "old": self.old.role, "new": self.new.role, "start": str(self.start),
            "least": str(self.least), "most": str(self.most), "stairs": [str(share) for share in self.stairs],
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content; shares as exact text."""
        return self.rule() | {"sources": {pole.role: pole.mixture.as_dict() for pole in (self.old, self.new)}}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Steering:
        """The inverse of `to_dict`."""
        old, new = (Pole(content[key], Mixture.from_dict(content["sources"][content[key]])) for key in ("old", "new"))
        start, least, most = (Fraction(content[key]) for key in ("start", "least", "most"))
        return cls(content["by"], old, new, start, least, most, tuple(Fraction(share) for share in content["stairs"]))
