"""Human quantities to exact numbers and back: "22B" tokens, "5%", "lr_max/100".

Everything is exact: a share is a `Fraction` of its decimal text (0.05 is 1/20, never 0.05000000000000000277), a
token count is an `int`. Tokens, steps and samples are never mixed; names carry the unit (`_tokens`, `_steps`,
`_samples`).
"""

from __future__ import annotations

import re
from fractions import Fraction

_SCALE = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_COUNT = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kKMBT]?)")
_LR = re.compile(r"(?:([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*\*?\s*)?lr_max(?:\s*/\s*([0-9.]+))?")


def parse_count(text: str | int) -> int:
    """Exact integer of "300k", "1.5T", "2_000" or 12. Raises ValueError with the reason in words."""
    if isinstance(text, bool):
        raise ValueError(f"{text!r} is not a count")
    if isinstance(text, int):
        if text < 0:
            raise ValueError(f"{text} is negative")
        return text
    match = _COUNT.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"{text!r} is not a count such as 300k, 1.5M or 22B")
    value = Fraction(match[1].replace("_", "")) * _SCALE["k" if match[2] == "K" else match[2]]
    if value.denominator != 1:
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


def parse_share(text: str | float | int | Fraction) -> Fraction:
    """Exact share of "5%" or 0.05 (the decimal text is what counts), within [0, 1]. Raises ValueError."""
    share = parse_ratio(text)
    if not 0 <= share <= 1:
        raise ValueError(f"{text} is not between 0 and 1 (or 0% and 100%)")
    return share


def parse_ratio(text: str | float | int | Fraction) -> Fraction:
    """Exact non-negative ratio of "70%", "0.7", 0.7 or a Fraction. Raises ValueError."""
    if isinstance(text, bool):
        raise ValueError(f"{text!r} is not a share")
    try:
        words = str(text).strip()
        value = Fraction(words[:-1].strip()) / 100 if words.endswith("%") else Fraction(words)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is not a share such as 5% or 0.05") from None
    if value < 0:
        raise ValueError(f"{text} is negative")
    return value


def parse_seconds(text: str) -> float:
    """Seconds of a time: 3h50m, 40 min, 90 s, 1d2h, or 03:50:00. ValueError for anything else, and for none at all."""
    clock = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    words = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?", re.sub(r"\s+", "", text))
    found = clock or words
    days, hours, minutes, rest = (int(part or 0) for part in found.groups()) if found else (0, 0, 0, 0)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if not total:
        raise ValueError(f"{text!r} is not a time such as 3h50m, 90 s or 03:50:00")
    return float(total)


def parse_lr(text: str | float | int, lr_max: float) -> float:
    """Learning rate of 3e-4, "lr_max", "lr_max/100" or "2 lr_max". Raises ValueError unless it is positive."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        value = float(text)
    else:
        match = _LR.fullmatch(str(text).strip())
        try:
            value = lr_max * float(match[1] or 1) / float(match[2] or 1) if match else float(text)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{text!r} is not a learning rate such as 3e-4 or lr_max/100") from None
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a positive learning rate")
    return value


def lr_of(text: str | float, lr_max: float) -> float:
    """A rate of the plan in numbers; 0 is allowed, as the end of a decay."""
    return 0.0 if str(text) in ("0", "0.0") else parse_lr(text, lr_max)


def format_count(count: int) -> str:
    """Short text for people, at most three significant places: 301056 -> "301k", 22_000_000_000 -> "22B"."""
    for suffix in ("T", "B", "M", "k"):
        if count >= _SCALE[suffix]:
            return f"{count / _SCALE[suffix]:.3g}{suffix}" if count < 1000 * _SCALE[suffix] else f"{count:,}"
    return str(count)


def format_bytes(size: int) -> str:
    """Short text for people, three significant places: 1_234_567 -> "1.23 MB"."""
    for unit, scale in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} bytes"


def format_share(share: Fraction | float) -> str:
    """Percent with at most three significant places: Fraction(1, 20) -> "5%"."""
    return f"{float(share) * 100:.3g}%"
