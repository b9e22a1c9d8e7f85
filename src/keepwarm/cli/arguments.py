"""Quantities on the command line, refused in the command line's words."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar

from keepwarm.errors import KeepwarmError
from keepwarm.units import parse_count, parse_ratio

Number = TypeVar("Number", int, Fraction)


def count(text: str, flag: str) -> int:
    """A positive number of tokens such as 22B."""
    return _positive(parse_count, text, flag, "it says how many tokens are fed", "22B")


def ratio(text: str, flag: str) -> Fraction:
    """A positive number, exact."""
    return _positive(parse_ratio, text, flag, "it says how often a file may be read", "4")


def _positive(parse: Callable[[str], Number], text: str, flag: str, why: str, example: str) -> Number:
    try:
        found = parse(text)
    except ValueError as error:
        raise KeepwarmError(f"{flag}: {error}", why, f"{flag} {example}") from None
    if not found:
        raise KeepwarmError(f"{flag} {text}", why, f"{flag} {example}")
    return found
