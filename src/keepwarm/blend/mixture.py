"""Which share of the tokens each source gets, in exact integers.

A corpus weighs its sources and a blend weighs corpora (or roles: new, base, buffer, previous mix), so a source's share
is a product of rationals. They are kept as integers over their common denominator: a share of 5% is 1/20, the shares
sum to exactly 1, and no share is lost to rounding however many files a corpus has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

from keepwarm.errors import PlanError

SMALLEST_SHARE_BITS = 32  # no share is below 2^-32


@dataclass(frozen=True, slots=True)
class Mixture:
    """Positive integer weights by source id, without common divisor, in the order given; every share >= 2^-32."""

    weights: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        """Hold the invariants; `combine` and `from_dict` are the ways in from outside."""
        ids = [source_id for source_id, _ in self.weights]
        assert ids and len(set(ids)) == len(ids), ids
        assert min(weight for _, weight in self.weights) > 0 and gcd(*(weight for _, weight in self.weights)) == 1

    @property
    def source_ids(self) -> tuple[str, ...]:
        """The sources fed, in order."""
        return tuple(source_id for source_id, _ in self.weights)

    @property
    def total(self) -> int:
        """Sum of the weights, the shares' common denominator."""
        return sum(weight for _, weight in self.weights)

    def share(self, source_id: str) -> Fraction:
        """Exact share of the samples that source `source_id` gets; 0 if it is not in the mixture."""
        return Fraction(dict(self.weights).get(source_id, 0), self.total)

    def as_dict(self) -> dict[str, str]:
        """Exact shares as text for JSON: {"9f3c...": "1/20", ...}."""
        total = self.total
        return {source_id: str(Fraction(weight, total)) for source_id, weight in self.weights}

    @classmethod
    def from_dict(cls, shares: Mapping[str, str]) -> Mixture:
        """The mixture that `as_dict` wrote. Raises PlanError on shares that are none, negative or not 1 in sum."""
        try:
            exact = {source_id: Fraction(share) for source_id, share in shares.items()}
        except (ValueError, ZeroDivisionError) as error:
            raise PlanError(
                f"mixture: {error}", "shares are exact fractions", 'write them as text such as "1/20" or "0.05"'
            ) from None
        _refuse_negative(exact, "mixture")
        _refuse_sum(list(exact.values()))
        return _of_shares(exact)


def combine(parts: Sequence[tuple[Fraction, Mapping[str, Fraction]]]) -> Mixture:
    """The mixture in which each part gets its share, divided among its sources in proportion to their weights.

    A source in two parts gets the sum of both. A part of share 0 and a source of weight 0 vanish. Raises PlanError if
    a share or weight is negative, the shares do not sum to exactly 1, a part with a share has no positive weight, or a
    source would get less than 2^-32 of the samples.
    """
    _refuse_sum([share for share, _ in parts])
    total: dict[str, Fraction] = {}
    for number, (share, inner) in enumerate(parts, start=1):
        where = f"part {number} of {len(parts)} of the mix"
        _refuse_negative({where: share, **inner}, where)
        weights = _integers(inner)
        whole = sum(weights.values())
        if share and not whole:
            raise PlanError(
                f"{where} has share {share} and no source with a positive weight",
                "there is nothing to take this share from",
                "give one of its sources a positive weight, or the part share 0",
            )
        for source_id, weight in weights.items():
            if share and weight:
                part = Fraction(share.numerator * weight, share.denominator * whole)
                total[source_id] = total[source_id] + part if source_id in total else part
    return _of_shares(total)


def _of_shares(shares: Mapping[str, Fraction]) -> Mixture:
    positive = {source_id: share for source_id, share in shares.items() if share}
    for source_id, share in positive.items():
        if share.numerator << SMALLEST_SHARE_BITS < share.denominator:
            raise PlanError(
                f"source {source_id} gets {float(share):.3g} of the mix",
                f"a share below 2^-32 ({2.0**-SMALLEST_SHARE_BITS:.3g}) is less than a sample in four thousand million",
                "raise its weight, or remove it",
            )
    weights = _integers(positive)
    divisor = gcd(*weights.values())
    return Mixture(tuple((source_id, weight // divisor) for source_id, weight in weights.items()))


def _integers(fractions: Mapping[str, Fraction]) -> dict[str, int]:
    """The same proportions in integers: a hundred fractions are added one by one in the time of thousands of these."""
    denominator = lcm(*(each.denominator for each in fractions.values()))
    return {name: each.numerator * (denominator // each.denominator) for name, each in fractions.items()}


def _refuse_negative(weights: Mapping[str, Fraction], where: str) -> None:
    for name, weight in weights.items():
        if weight.numerator < 0:
            raise PlanError(
                f"{where}: the weight of {name} is {weight}",
                "a source cannot be fed a negative number of tokens",
                "write a weight of 0 or more",
            )


def _refuse_sum(shares: Sequence[Fraction]) -> None:
    whole = sum(shares, Fraction(0))
    if whole != 1:
        raise PlanError(
            f"the shares {' + '.join(str(share) for share in shares) or 'of an empty mix'} sum to {whole}, not 1",
            "each sample comes from exactly one part, so the shares must be the whole",
            "change one of them so that they sum to 1",
        )
