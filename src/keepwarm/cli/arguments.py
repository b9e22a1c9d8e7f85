"""Quantities on the command line, refused in the command line's words."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar

from keepwarm.errors import KeepwarmError
from keepwarm.plan.values import Length
from keepwarm.units import parse_count, parse_ratio, parse_seconds, parse_share

Number = TypeVar("Number", int, Fraction)
given: list[str] = []  # the words of the command line that is being obeyed


def count(text: str, flag: str) -> int:
    """A positive number of tokens such as 22B."""
    return _positive(parse_count, text, flag, "it says how many tokens are fed", "22B")


def ratio(text: str, flag: str) -> Fraction:
    """A positive number, exact."""
    return _positive(parse_ratio, text, flag, "it says how often a file may be read", "4")


def counts(text: str, flag: str) -> tuple[int, ...]:
    """Positive numbers of tokens with commas between them: 100k,300k,1M."""
    return tuple(count(part.strip(), flag) for part in text.split(","))


def share_list(text: str, flag: str) -> tuple[Fraction, ...]:
    """Shares with commas between them, 0 allowed, rising and each once: 0,5%,25%."""
    try:
        return tuple(sorted({parse_share(part.strip()) for part in text.split(",")}))
    except ValueError as error:
        raise KeepwarmError(f"{flag}: {error}", "nothing was trained", f"{flag} 0,5%,25%") from None


def span(text: str, flag: str) -> tuple[int, int]:
    """Two whole numbers A:B."""
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal()):
        raise KeepwarmError(f"{flag} {text}: is not A:B", "nothing was written", f"{flag} 0:1000")
    return int(first), int(last)


def length(text: str, flag: str) -> Length:
    """A share of something's tokens, or tokens: 2% or 10M."""
    try:
        return Length.parse(text)
    except ValueError as error:
        raise KeepwarmError(f"{flag}: {error}", "nothing was trained", f"{flag} 2%") from None


def seconds(text: str, flag: str) -> float:
    """A time such as 3h50m, 90 s, or 03:50:00 as Slurm and PBS write it."""
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise KeepwarmError(f"{flag}: {error}", "nothing was trained", f"{flag} 3h50m") from None


def _positive(parse: Callable[[str], Number], text: str, flag: str, why: str, example: str) -> Number:
    try:
        found = parse(text)
    except ValueError as error:
        raise KeepwarmError(f"{flag}: {error}", why, f"{flag} {example}") from None
    if not found:
        raise KeepwarmError(f"{flag} {text}", why, f"{flag} {example}")
    return found
