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


Try = tuple[str, dict[str, Any]]  # what tells a candidate from the rung's others, and its parameters


class _Rung(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def settings(self, **chosen: Any) -> dict[str, Any]:
        """The rung's settings, with one value of each list chosen."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "rung"} | chosen

    def tries(self) -> Iterator[Try]:
        """The candidates the rung stands for, in the order they are tried; by default itself."""
        yield "", self.settings()


def _share_tries(shares: tuple[Fraction, ...]) -> Iterator[Try]:
    for share in shares:
        yield format_share(share), {"share": share}


def _mix_tries(mixes: tuple[Mix, ...], search: int) -> Iterator[Try]:
    for mix in mixes:
        yield _words(mix), {"mix": mix}
    for mix in searched(mixes[0], mixes[-1], search):
        yield f"{_words(mix)} (search)", {"mix": mix}


class Naive(_Rung):
    """The new data alone, from the checkpoint at peak, at LR_max.

    Source: later practice 1->2 and 2->3; the control of every other rung.
    """

    rung: Literal["naive"]


class Replay(_Rung):
    """D_0 replayed with share alpha beside the new data, at LR_max.

    Source: the seed, 1->2 step 1; Ibrahim et al. 2403.08763 (5 % for a weak shift, 25 % for a strong one).
    """

    rung: Literal["replay"]
    shares: Shares = Field((Fraction(5, 100),), description="replay shares alpha, tried in this order")

    def tries(self) -> Iterator[Try]:
        """One candidate a share."""
        return _share_tries(self.shares)


class ReplayRewarm(_Rung):
    """The replay mix that did best, from a fresh optimizer, warmed up over 1 % of the tokens, then constant.

    Source: the seed, 1->2 step 2 (its launch command); Gupta et al. 2308.04014.
    """

    rung: Literal["replay-rewarm"]
    lr: Rates = Field(("lr_max", "lr_max/2", "2 lr_max"), description="rates to warm up to")

    def tries(self) -> Iterator[Try]:
        """One candidate a rate."""
        for lr in self.lr:
            yield str(lr), {"lr": lr}


class ReplayPreviousMix(_Rung):
    """The mix the previous stage was really trained on, replayed with share alpha, at LR_max.

    Source: the seed, 2->3 step 1.
    """

    rung: Literal["replay-previous-mix"]
    shares: Shares = Field((Fraction(5, 100),), description="replay shares alpha, tried in this order")

    def tries(self) -> Iterator[Try]:
        """One candidate a share."""
        return _share_tries(self.shares)


class BufferMix(_Rung):
    """D_0, the new data and the buffer B by (alpha_0, alpha_D, alpha_B), at LR_max.

    Source: the seed, 2->3 step 2 (B .05/.48/.47, then C 0/.10/.90); A .33/.33/.34 is later practice.
    """

    rung: Literal["buffer-mix"]
    mixes: Mixes = Field(
        (
            (Fraction(5, 100), Fraction(48, 100), Fraction(47, 100)),
            (Fraction(0), Fraction(10, 100), Fraction(90, 100)),
        ),
        description="mixes [d0, new, buffer], tried in this order",
    )
    search: int = Field(0, ge=0, le=7, description="how many mixes between the first and the last to try afterwards")

    def tries(self) -> Iterator[Try]:
        """One candidate a mix, then the searched ones."""
        return _mix_tries(self.mixes, self.search)


class Balance(_Rung):
    """The three sources balanced, then the final cooldown.

    Source: the seed, 3->4; later practice.
    """

    rung: Literal["balance"]
    mixes: Mixes = Field(
        (
            (Fraction(33, 100), Fraction(33, 100), Fraction(34, 100)),
            (Fraction(50, 100), Fraction(25, 100), Fraction(25, 100)),
            (Fraction(5, 100), Fraction(47, 100), Fraction(48, 100)),
        ),
        description="mixes [d0, new, buffer], tried in this order",
    )

    def tries(self) -> Iterator[Try]:
        """One candidate a mix."""
        return _mix_tries(self.mixes, 0)


class DecayThenIntroduce(_Rung):
    """From an earlier checkpoint decay LR on the base data, and bring in the new mix at a fifth of LR_max.

    Source: the seed, steps a-c; Parmar et al. 2407.07263.
    """

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

    def tries(self) -> Iterator[Try]:
        """One candidate a shape and end of the decay."""
        for decay, to in product(self.decay, self.to):
            yield f"{decay} to {to}", self.settings(decay=decay, to=to)


class RewarmConverged(_Rung):
    """From a converged checkpoint, warmed up again with more of D_0, then decayed.

    Source: the seed, "converged checkpoint"; Ibrahim et al. 2403.08763.
    """

    rung: Literal["rewarm-converged"]
    lr: Rates = Field(("lr_max/2", "lr_max", "2 lr_max"), description="rates to warm up to")
    shares: Shares = Field((Fraction(25, 100), Fraction(30, 100), Fraction(50, 100)), description="shares of D_0")
    optimizer: Literal["reset", "keep"] = Field("reset", description="what happens to AdamW's moments")

    def tries(self) -> Iterator[Try]:
        """One candidate a rate and share of D_0."""
        for lr, share in product(self.lr, self.shares):
            yield f"{lr} with {format_share(share)}", self.settings(lr=lr, share=share)


class LegacyReplayRewarm(_Rung):
    """From the end of a cosine decay to 0: warm up over 1 %, decay by cosine, with a little of D_0.

    Source: the seed, legacy agpt-7B; Ibrahim et al. 2403.08763.
    """

    rung: Literal["legacy-replay-rewarm"]
    lr: Rates = Field(("lr_max", "lr_max/2", "2 lr_max"), description="rates to warm up to")
    shares: Shares = Field((Fraction(10, 100),), description="shares of D_0")
    to: Rate = Field(0.0, description="the rate the cosine ends at; lr_max/10 as in 2403.08763")

    def tries(self) -> Iterator[Try]:
        """One candidate a rate and share of D_0."""
        for lr, share in product(self.lr, self.shares):
            yield f"{lr} with {format_share(share)}", self.settings(lr=lr, share=share)


class SpecialContinuation(_Rung):
    """After a stage that ended by decay-then-introduce: its decay goes on to a hundredth, the new mix enters at a fifth.

    Source: later practice 3->4.
    """

    rung: Literal["special-continuation"]
    decay: Annotated[tuple[Literal["cosine", "linear", "1-sqrt"], ...], BeforeValidator(_some)] = Field(
        ("cosine",), description="shapes of the decay"
    )
    alpha_0: Share = Field(Fraction(6, 10), description="share of D_0 in the new mix")
    horizon: Literal["new-data", "stage"] = Field("new-data", description="what the stage's tokens measure")

    def tries(self) -> Iterator[Try]:
        """One candidate a shape of the decay."""
        for decay in self.decay:
            yield decay, self.settings(decay=decay)


class Incremental(_Rung):
    """The new data's share rises in equal steps of tokens to its target.

    Source: the seed, "Worth exploring"; Parmar et al. 2407.07263.
    """

    rung: Literal["incremental"]
    rises: Annotated[tuple[Share, ...], BeforeValidator(_some)] = Field(
        (Fraction(10, 100), Fraction(25, 100), Fraction(50, 100), Fraction(1)),
        description="shares of the target, equal tokens each",
    )
    alpha_0: Share = Field(Fraction(25, 100), description="share of D_0 at the end")
    schedule: Literal["decay", "peak"] = Field("decay", description="the 2407.07263 decay, or constant at LR_max")


class Merge(_Rung):
    """Weights of two or more checkpoints of the line combined.

    Source: the seed, model merging.
    """

    rung: Literal["merge"]


ALL = (
    Naive, Replay, ReplayRewarm, ReplayPreviousMix, BufferMix, Balance, DecayThenIntroduce, RewarmConverged,
    LegacyReplayRewarm, SpecialContinuation, Incremental, Merge,
)  # fmt: skip
Rung = Annotated[
    Naive | Replay | ReplayRewarm | ReplayPreviousMix | BufferMix | Balance | DecayThenIntroduce | RewarmConverged
    | LegacyReplayRewarm | SpecialContinuation | Incremental | Merge,
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
    made = [(f"{rung.rung} {words}".strip(), parameters) for words, parameters in rung.tries()]
    return tuple(Candidate(rung.rung, label, parameters) for label, parameters in made)


def _words(mix: Mix) -> str:
    return "/".join(f"{float(each) * 100:.3g}" for each in mix)


def searched(first: Mix, last: Mix, count: int) -> Iterator[Mix]:
    """`count` mixes between two, halving: 1/2, 1/4, 3/4, 1/8, ...; alpha_0 at least 5 %, at alpha_B's cost."""
    places = [Fraction(2 * k + 1, 2**depth) for depth in range(1, 4) for k in range(2 ** (depth - 1))]
    for place in places[:count]:
        alpha_0, alpha_new, alpha_buffer = (a + (b - a) * place for a, b in zip(first, last, strict=True))
        missing = max(Fraction(0), LEAST_SEARCHED_ALPHA_0 - alpha_0)
        yield alpha_0 + missing, alpha_new, alpha_buffer - missing
