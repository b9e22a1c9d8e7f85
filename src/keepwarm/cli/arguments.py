"""Quantities on the command line, refused in the command line's words."""

from __future__ import annotations

from fractions import Fraction

from keepwarm.errors import KeepwarmError
from keepwarm.units import parse_count, parse_ratio


def count(text: str, flag: str) -> int:
    """A positive number of tokens such as 22B."""
    try:
        found = parse_count(text)
    except ValueError as error:
        raise KeepwarmError(f"{flag}: {error}", "it says how many tokens", f"{flag} 22B") from None
    if not found:
        raise KeepwarmError(f"{flag} {text}", "there is nothing to feed", f"{flag} 22B")
    return found


def ratio(text: str, flag: str) -> Fraction:
    """A positive number, exact."""
    try:
        found = parse_ratio(text)
    except ValueError as error:
        raise KeepwarmError(f"{flag}: {error}", "it says how often", f"{flag} 4") from None
    if not found:
        raise KeepwarmError(f"{flag} {text}", "nothing could be fed", f"{flag} 4")
    return found
