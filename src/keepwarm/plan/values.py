"""The plan's small values: "5%", "10M", "0.3 nats" as exact frozen things that print as they were meant."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer

from keepwarm.units import parse_count, parse_lr, parse_ratio, parse_share


def decimal_text(value: Fraction) -> str:
    """Exact text of a fraction: a percentage where that ends, else numerator/denominator."""
    percent = value * 100
    if percent.denominator == 1:
        return f"{percent.numerator}%"
    text = f"{float(value)!r}"
    return text if Fraction(text) == value else str(value)


@dataclass(frozen=True, slots=True)
class Length:
    """A stretch of training: a share of something's tokens, or a number of tokens."""

    share: Fraction | None = None
    tokens: int | None = None

    @classmethod
    def parse(cls, value: Any) -> Length:
        """From "5%", 0.05, "10M" or 10_000_000. Whole numbers above 1 and suffixes are tokens, the rest shares."""
        if isinstance(value, Length):
            return value
        if isinstance(value, int) or (isinstance(value, str) and value.strip()[-1:] in "0123456789kKMBT"):
            text = str(value)
            if isinstance(value, int) or "." not in text or text[-1] in "kKMBT":
                return cls(tokens=parse_count(value))
        return cls(share=parse_share(value))

    def tokens_of(self, total_tokens: int) -> int:
        """Tokens of this stretch when the whole has `total_tokens` (a share is rounded to the nearest token)."""
        if self.tokens is not None:
            return self.tokens
        assert self.share is not None
        return round(self.share * total_tokens)

    def __str__(self) -> str:
        return str(self.tokens) if self.share is None else decimal_text(self.share)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much of a corpus may be forgotten: nats per token, or a share of its reference loss."""

    value: Fraction
    unit: Literal["nats", "relative"]

    @classmethod
    def parse(cls, value: Any) -> Tolerance:
        """From "0.3 nats" or "5%"."""
        if isinstance(value, Tolerance):
            return value
        words = str(value).split()
        if len(words) == 2 and words[1] == "nats":
            return cls(parse_ratio(words[0]), "nats")
        if len(words) == 1 and words[0].endswith("%"):
            return cls(parse_ratio(words[0]), "relative")
        raise ValueError(f"{value!r} is not a tolerance such as 0.3 nats or 5%")

    def nats(self, reference: float) -> float:
        """The tolerance in nats for a corpus whose reference loss is `reference`."""
        return float(self.value) * (1.0 if self.unit == "nats" else reference)

    def __str__(self) -> str:
        return f"{float(self.value)!r} nats" if self.unit == "nats" else decimal_text(self.value)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a search may cost: training tokens (one that is only measured counts a third), or hours of training."""

    tokens: int | None = None
    hours: Fraction | None = None

    @classmethod
    def parse(cls, value: Any) -> Budget:
        """From "3M tokens" or "12 hours"."""
        if isinstance(value, Budget):
            return value
        words = str(value).split()
        if len(words) == 2 and words[1] == "tokens" and (tokens := parse_count(words[0])):
            return cls(tokens=tokens)
        if len(words) == 2 and words[1] in ("hour", "hours") and (hours := parse_ratio(words[0])):
            return cls(hours=hours)
        raise ValueError(f"{value!r} is not a budget such as 3M tokens or 12 hours")

    def __str__(self) -> str:
        return f"{self.tokens} tokens" if self.hours is None else f"{float(self.hours):g} hours"


def _lr(value: Any) -> str | float:
    """A learning rate, kept as it was written; "lr_max/100" is resolved where lr_max is known."""
    if str(value) not in ("0", "0.0"):
        parse_lr(value, 1.0)
    return value if isinstance(value, str) else float(value)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str) else value


_text = PlainSerializer(str, return_type=str)
_exact = PlainSerializer(decimal_text, return_type=str)

Count = Annotated[int, BeforeValidator(parse_count)]
Share = Annotated[Fraction, BeforeValidator(parse_share), _exact]
Ratio = Annotated[Fraction, BeforeValidator(parse_ratio), _exact]
LengthField = Annotated[Length, BeforeValidator(Length.parse), _text]
BudgetField = Annotated[Budget, BeforeValidator(Budget.parse), _text]
ToleranceField = Annotated[Tolerance, BeforeValidator(Tolerance.parse), _text]
Rate = Annotated[str | float, BeforeValidator(_lr)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_tuple)]
