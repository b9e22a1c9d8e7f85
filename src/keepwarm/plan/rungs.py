"""The rungs of the cookbook as data, and the candidates each one stands for (COOKBOOK, "Rungs").

A rung names a strategy; what it leaves open (replay shares, mixes, rates) are lists, and every combination is a
candidate, tried in the order written, products left to right. All shares are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PlainSerializer

from keepwarm.plan.values import Rate, Share, decimal_text
from keepwarm.units import format_share, parse_share

Mix = tuple[Fraction, Fraction, Fraction]  # (alpha_0, alpha_D, alpha_B)
LEAST_SEARCHED_ALPHA_0 = Fraction(5, 100)


def _some(value: Any) -> Any:
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
    return tuple(_mix(each) for each in _some(value))


def _replay(value: Any) -> Any:
    shares = tuple(parse_share(each) for each in _some(value))
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
Rates = Annotated[tuple[Rate, ...], BeforeValidator(_some)]


class _Rung(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Naive(_Rung):
    """The new data alone, from the checkpoint at peak, at LR_max."""

    rung: Literal["naive"]


class Replay(_Rung):
    """D_0 replayed with share alpha beside the new data, at LR_max."""

    rung: Literal["replay"]
    shares: Shares = Field((Fraction(5, 100),), description="replay shares alpha, tried in this order")


class ReplayRewarm(_Rung):
    """The replay mix that did best, from a fresh optimizer, warmed up over 1 % of the tokens, then constant."""

    rung: Literal["replay-rewarm"]
    lr: Rates = Field(("lr_max", "lr_max/2", "2 lr_max"), description="rates to warm up to")


class ReplayPreviousMix(_Rung):
    """The mix the previous stage was really trained on, replayed with share alpha, at LR_max."""

    rung: Literal["replay-previous-mix"]
    shares: Shares = Field((Fraction(5, 100),), description="replay shares alpha, tried in this order")


class BufferMix(_Rung):
    """D_0, the new data and the buffer B by (alpha_0, alpha_D, alpha_B), at LR_max."""

    rung: Literal["buffer-mix"]
    mixes: Mixes = Field(
        (
            (Fraction(5, 100), Fraction(48, 100), Fraction(47, 100)),
            (Fraction(0), Fraction(10, 100), Fraction(90, 100)),
        ),
        description="mixes [d0, new, buffer], tried in this order",
    )
    search: int = Field(0, ge=0, le=7, description="how many mixes between the first and the last to try afterwards")


class Balance(_Rung):
    """The three sources balanced, then the final cooldown."""

    rung: Literal["balance"]
    mixes: Mixes = Field(
        (
            (Fraction(33, 100), Fraction(33, 100), Fraction(34, 100)),
            (Fraction(50, 100), Fraction(25, 100), Fraction(25, 100)),
            (Fraction(5, 100), Fraction(47, 100), Fraction(48, 100)),
        ),
        description="mixes [d0, new, buffer], tried in this order",
    )


class DecayThenIntroduce(_Rung):
    """From an earlier checkpoint decay LR on the base data, and bring in the new mix at a fifth of LR_max."""

    rung: Literal["decay-then-introduce"]
    decay: Annotated[tuple[Literal["cosine", "linear", "1-sqrt"], ...], BeforeValidator(_some)] = Field(
        ("cosine", "linear"), description="shapes of the decay"
    )
    to: Rates = Field(("lr_max/100",), description="rates the decay ends at")
    introduce_at: Rate = Field("lr_max/5", description="the rate at which the new mix enters")
    anchor: Literal["base-lr-max", "start-lr"] = Field("base-lr-max", description="whose rate LR_max is here")
    alpha_0: Share = Field(Fraction(6, 10), description="share of D_0 in the new mix")
    horizon: Literal["new-data", "stage"] = Field("new-data", description="what the stage's tokens measure")
    base_data: Literal["recorded", "d0"] = Field("recorded", description="what is fed before the new mix")


class RewarmConverged(_Rung):
    """From a converged checkpoint, warmed up again with more of D_0, then decayed."""

    rung: Literal["rewarm-converged"]
    lr: Rates = Field(("lr_max/2", "lr_max", "2 lr_max"), description="rates to warm up to")
    shares: Shares = Field((Fraction(25, 100), Fraction(30, 100), Fraction(50, 100)), description="shares of D_0")
    optimizer: Literal["reset", "keep"] = Field("reset", description="what happens to AdamW's moments")


class LegacyReplayRewarm(_Rung):
    """From the end of a cosine decay to 0: warm up over 1 %, decay by cosine, with a little of D_0."""

    rung: Literal["legacy-replay-rewarm"]
    lr: Rates = Field(("lr_max", "lr_max/2", "2 lr_max"), description="rates to warm up to")
    shares: Shares = Field((Fraction(10, 100),), description="shares of D_0")
    to: Rate = Field(0.0, description="the rate the cosine ends at; lr_max/10 as in 2403.08763")


class Incremental(_Rung):
    """The new data's share rises in equal steps of tokens to its target."""

    rung: Literal["incremental"]
    rises: Annotated[tuple[Share, ...], BeforeValidator(_some)] = Field(
        (Fraction(10, 100), Fraction(25, 100), Fraction(50, 100), Fraction(1)),
        description="shares of the target, equal tokens each",
    )
    alpha_0: Share = Field(Fraction(25, 100), description="share of D_0 at the end")
    schedule: Literal["decay", "peak"] = Field("decay", description="the 2407.07263 decay, or constant at LR_max")


class Merge(_Rung):
    """Weights of two or more checkpoints of the line combined."""

    rung: Literal["merge"]


Rung = Annotated[
    Naive | Replay | ReplayRewarm | ReplayPreviousMix | BufferMix | Balance | DecayThenIntroduce | RewarmConverged
    | LegacyReplayRewarm | Incremental | Merge,
    Discriminator("rung"),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidate:
    """One try that a rung stands for."""

    rung: str
    label: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def share(self) -> Fraction | None:
        """Replay share, of the rungs that have one."""
        return self.parameters.get("share")

    @property
    def mix(self) -> Mix | None:
        """(alpha_0, alpha_D, alpha_B), of the rungs that have one."""
        return self.parameters.get("mix")


def candidates(rung: Any) -> tuple[Candidate, ...]:
    """The candidates of a rung in the order they are tried."""
    return tuple(_candidates(rung))


def _candidates(rung: Any) -> Iterator[Candidate]:
    name = rung.rung
    if isinstance(rung, Replay | ReplayPreviousMix):
        for share in rung.shares:
            yield Candidate(name, f"{name} {format_share(share)}", {"share": share})
    elif isinstance(rung, BufferMix | Balance):
        for mix in rung.mixes:
            yield Candidate(name, f"{name} {_words(mix)}", {"mix": mix})
        for mix in searched(rung.mixes[0], rung.mixes[-1], getattr(rung, "search", 0)):
            yield Candidate(name, f"{name} {_words(mix)} (search)", {"mix": mix})
    elif isinstance(rung, DecayThenIntroduce):
        for decay, to in product(rung.decay, rung.to):
            yield Candidate(name, f"{name} {decay} to {to}", {**_settings(rung), "decay": decay, "to": to})
    elif isinstance(rung, RewarmConverged | LegacyReplayRewarm):
        for lr, share in product(rung.lr, rung.shares):
            label = f"{name} {lr} with {format_share(share)}"
            yield Candidate(name, label, {**_settings(rung), "lr": lr, "share": share})
    elif isinstance(rung, ReplayRewarm):
        for lr in rung.lr:
            yield Candidate(name, f"{name} {lr}", {"lr": lr})
    else:
        yield Candidate(name, name, _settings(rung))


def _settings(rung: _Rung) -> dict[str, Any]:
    return {key: getattr(rung, key) for key in type(rung).model_fields if key != "rung"}


def _words(mix: Mix) -> str:
    return "/".join(f"{float(each) * 100:.3g}" for each in mix)


def searched(first: Mix, last: Mix, count: int) -> Iterator[Mix]:
    """`count` mixes between two, halving: 1/2, 1/4, 3/4, 1/8, ...; alpha_0 at least 5 %, at alpha_B's cost."""
    places = [Fraction(2 * k + 1, 2**depth) for depth in range(1, 4) for k in range(2 ** (depth - 1))]
    for place in places[:count]:
        alpha_0, alpha_new, alpha_buffer = (a + (b - a) * place for a, b in zip(first, last, strict=True))
        missing = max(Fraction(0), LEAST_SEARCHED_ALPHA_0 - alpha_0)
        yield alpha_0 + missing, alpha_new, alpha_buffer - missing
