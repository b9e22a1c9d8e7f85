"""Mixes and replay shares as a ladder lists them: exact, and refused where they are no mix."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from keepwarm.plan.values import Rate, Share, decimal_text
from keepwarm.units import format_share, parse_share

Mix = tuple[Fraction, Fraction, Fraction]  # (alpha_0, alpha_D, alpha_B)
LEAST_SEARCHED_ALPHA_0 = Fraction(5, 100)


def some(value: Any) -> Any:
    """One or several, as a tuple; ValueError for none."""
    if value in ([], ()):
        raise ValueError("is empty; name at least one")
    return tuple(value) if isinstance(value, list) else value if isinstance(value, tuple) else (value,)


def _mix(value: Any) -> Mix:
    if isinstance(value, tuple) and all(isinstance(each, Fraction) for each in value) and sum(value) == 1:
        return value
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise ValueError(f"{value!r} is not [d0, new, buffer], three shares")
    mix = tuple(parse_share(each) for each in value)
    if sum(mix) != 1:
        words = " + ".join(
            f"{name} {format_share(each)}" for name, each in zip(("d0", "new", "buffer"), mix, strict=True)
        )
        raise ValueError(f"shares add up to {float(sum(mix)):g}, they must add up to 1 ({words})")
    if not mix[1]:
        raise ValueError("the new data has no share, so the stage would not teach it")
    return mix  # type: ignore[return-value]


def _mixes(value: Any) -> Any:
    return tuple(_mix(each) for each in some(value))


def _replay(value: Any) -> Any:
    shares = tuple(parse_share(each) for each in some(value))
    for share in shares:
        if not 0 < share < 1:
            raise ValueError(
                f"a replay share lies between 0 and 1, not at {format_share(share)}; without replay: naive"
            )
    return shares


def _written(mixes: tuple[Mix, ...]) -> list[list[str]]:
    return [[decimal_text(each) for each in mix] for mix in mixes]


Mixes = Annotated[tuple[Any, ...], BeforeValidator(_mixes), PlainSerializer(_written, return_type=list)]
Shares = Annotated[tuple[Share, ...], BeforeValidator(_replay)]
Rates = Annotated[tuple[Rate, ...], BeforeValidator(some)]


def mix_words(mix: Mix) -> str:
    """A mix in percent: 5/48/47."""
    return "/".join(f"{float(each) * 100:.3g}" for each in mix)


def searched(first: Mix, last: Mix, count: int) -> Iterator[Mix]:
    """`count` mixes between two, halving: 1/2, 1/4, 3/4, 1/8, ...; alpha_0 at least 5 %, at alpha_B's cost."""
    places = [Fraction(2 * k + 1, 2**depth) for depth in range(1, 4) for k in range(2 ** (depth - 1))]
    for place in places[:count]:
        alpha_0, alpha_new, alpha_buffer = (a + (b - a) * place for a, b in zip(first, last, strict=True))
        missing = max(Fraction(0), LEAST_SEARCHED_ALPHA_0 - alpha_0)
        yield alpha_0 + missing, alpha_new, alpha_buffer - missing
