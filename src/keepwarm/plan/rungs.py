"""The rungs of the cookbook as data, and the candidates each one stands for (COOKBOOK, "Rungs").

A rung names a strategy; what it leaves open (replay shares, mixes, rates) are lists, and every combination is a
candidate, tried in the order written, products left to right. All shares are exact. The docstrings' paragraphs
`Formula:`, `When:` and `Source:` are what `keepwarm explain` shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, model_validator

from keepwarm.plan.mixes import Mix, Mixes, Rates, Shares, mix_words, searched, some
from keepwarm.plan.values import Rate, Share
from keepwarm.units import format_share

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
        yield mix_words(mix), {"mix": mix}
    for mix in searched(mixes[0], mixes[-1], search):
        yield f"{mix_words(mix)} (search)", {"mix": mix}


class Naive(_Rung):
    """The new data alone, from the checkpoint at peak, at LR_max.

    Formula: (alpha_0, alpha_D, alpha_B) = (0, 1, 0)

    When: first, where the shift may be weak enough to need no replay; it is stopped early if the old data does not
    come back. What the new corpus gains here is the measure of every other rung.

    Source: later practice, 1->2 and 2->3; the control of every other rung.
    """

    rung: Literal["naive"]


class Replay(_Rung):
    """D_0 replayed with share alpha beside the new data, at LR_max, with the optimizer's moments.

    Formula: (alpha_0, alpha_D, alpha_B) = (alpha, 1 - alpha, 0), alpha = .01, .05 (usual), .10, .25, .30

    When: the first rung of a weak shift. Raise alpha only while old data is being forgotten.

    Source: the seed, 1->2 step 1; Ibrahim et al. 2403.08763 (5 % for a weak shift, 25 % for a strong one).
    """

    rung: Literal["replay"]
    shares: Shares = Field((Fraction(5, 100),), description="replay shares alpha, tried in this order")

    def tries(self) -> Iterator[Try]:
        """One candidate a share."""
        return _share_tries(self.shares)


class ReplayRewarm(_Rung):
    """The replay mix that did best, from a fresh optimizer, warmed up, then constant.

    Its plateau is the line's LR_max from there on.

    Formula: lr(t) = LR t / W for t < W, then LR; W = 1 % of the tokens, LR in {LR_max, LR_max/2, 2 LR_max}

    When: replay at LR_max did not hold, or the checkpoint at peak has no optimizer state.

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

    Formula: alpha D_{i-1}^CPT + (1 - alpha) D_i, alpha = .01, .05, .10, .25, .30; D^CPT by recorded tokens

    When: the first rung of a strong shift: one share protects D_0 and all that was taught since.

    Source: the seed, 2->3 step 1.
    """

    rung: Literal["replay-previous-mix"]
    shares: Shares = Field((Fraction(5, 100),), description="replay shares alpha, tried in this order")

    def tries(self) -> Iterator[Try]:
        """One candidate a share."""
        return _share_tries(self.shares)


class Thermostat(_Rung):
    """The old data's share is steered while the attempt trains, so that the least replay keeps every old corpus.

    The old data is the mix the previous stage was really trained on (D_0 at the first stage), so one share protects all.
    After evaluations the forgetting of each old corpus is forecast for the end of the constant phase. The share rises
    when one of them would end beyond its tolerance or close to it, and falls when all would end well within; in between
    it stays. A change is by a factor of two at most, and has had time to show before the next one. Each is an event in
    the metrics with its numbers. At `most`, an attempt that still can't hold is stopped as any other.

    Formula: F(T, p') = (F(now) + growth) ((1 + b p) / (1 + b p'))^1/2, growth ~ log t up to the end T; raised where an
    F > tolerance - noise, to F(T, p') = tolerance - 2 noise of the worst; lowered half of that way where every
    F < tolerance - 4 noise

    When: the share that a new corpus needs is not known, or several shares would be tried one after another. It costs one
    attempt. Where runs are few and long, try it before a list of fixed shares.

    Source: ours; the forgetting law of 2502.06042 relates the shares, growth like log t is the cookbook's measurement.
    """

    rung: Literal["thermostat"]
    start: Share = Field(Fraction(5, 100), description="share of the old data to start with")
    least: Share = Field(Fraction(1, 100), description="the least share of the old data")
    most: Share = Field(Fraction(50, 100), description="the most share of the old data")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 0 < self.least <= self.start <= self.most < 1 or self.least == self.most:
            words = ", ".join(f"{key} {format_share(getattr(self, key))}" for key in ("least", "start", "most"))
            raise ValueError(
                f"{words}: they must rise, above 0 and below 1, and leave room to steer; a fixed share: replay-previous-mix"
            )
        return self

    def tries(self) -> Iterator[Try]:
        """One candidate."""
        yield f"{format_share(self.least)} to {format_share(self.most)}", self.settings()


class BufferMix(_Rung):
    """D_0, the new data and the buffer B by (alpha_0, alpha_D, alpha_B), at LR_max.

    Formula: alpha_0 + alpha_D + alpha_B = 1; B .05/.48/.47, C 0/.10/.90, then mixes between them with alpha_0 >= .05

    When: after replay-previous-mix, from the third stage on (B holds D_1..D_{i-1}, never D_0). Mix C does not protect
    D_0.

    Source: the seed, 2->3 step 2 (B, then C, "some explorations might be needed"); A .33/.33/.34 is later practice.
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
    """The three sources balanced at LR_max, then the final cooldown; the line goes on cooled.

    Formula: (alpha_0, alpha_D, alpha_B) = .33/.33/.34, .50/.25/.25, .05/.47/.48

    When: the last stage of a line. It is judged at peak, before its cooldown.

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
    """From an earlier checkpoint at peak LR decays on the base data; the new mix enters on the way down.

    It starts from the newest checkpoint at peak that lies one decay segment before the line's end.

    Formula: lr falls from LR_max to LR_max/N (N = 100, then 10, 50); the mix changes where lr(t) = LR_max/5, found from
    the curve; alpha_0 = .6 to .8 behind it

    When: replay is exhausted and the old data is still lost. It protects D_0 and under-adapts, so it comes late.

    Source: the seed, steps a-c; Parmar et al. 2407.07263; alpha_0 is later practice.
    """

    rung: Literal["decay-then-introduce"]
    decay: Annotated[tuple[Literal["cosine", "linear", "1-sqrt"], ...], BeforeValidator(some)] = Field(
        ("cosine", "linear"), description="shapes of the decay"
    )
    to: Rates = Field(("lr_max/100",), description="rates the decay ends at")
    introduce_at: Rate = Field("lr_max/5", description="the rate at which the new mix enters")
    anchor: Literal["base-lr-max", "start-lr"] = Field(
        "base-lr-max", description="what LR_max is here: the line's, or the LR at which its start checkpoint stands"
    )
    alpha_0: Annotated[tuple[Share, ...], BeforeValidator(some)] = Field(
        (Fraction(6, 10),), description="shares of D_0 in the new mix; one decay is trained for all of them"
    )
    horizon: Literal["new-data", "stage"] = Field("new-data", description="what the stage's tokens measure")
    base_data: Literal["recorded", "d0"] = Field("recorded", description="what is fed before the new mix")

    def tries(self) -> Iterator[Try]:
        """One candidate a shape and end of the decay and share of D_0, which the label has where there are several."""
        for decay, to, alpha_0 in product(self.decay, self.to, self.alpha_0):
            share = f" with {format_share(alpha_0)}" if len(self.alpha_0) > 1 else ""
            yield f"{decay} to {to}{share}", self.settings(decay=decay, to=to, alpha_0=alpha_0)


class RewarmConverged(_Rung):
    """From a converged checkpoint, warmed up again with more of D_0, then decayed; the line stays cooled.

    Where the line is at peak, a cooldown branch is trained first and its cost counted.

    Formula: lr(t) = LR t / W for t < W, W = 1 % of the tokens, LR in {LR_max/2, LR_max, 2 LR_max}; then a cosine to the
    plan's lr_min; alpha_0 = .25, .30, .50

    When: the line is cooled, or all rungs at peak failed; from a public model, which ships no optimizer state.

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

    Formula: lr(t) = LR t / W for t < W, W = 1 % of the tokens; then a cosine to 0 (by name to LR_max/10); alpha_0 = .10

    When: the base ended a cosine schedule, as agpt-7B did.

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
    """After a stage that ended by decay-then-introduce: its decay goes on, and the new mix enters on the way.

    Formula: lr falls from LR_3, where that stage ended, to LR_3/100; the mix changes where lr(t) = LR_3/5

    When: the stage before ended by decay-then-introduce, so that no rung at peak can start.

    Source: later practice, 3->4.
    """

    rung: Literal["special-continuation"]
    decay: Annotated[tuple[Literal["cosine", "linear", "1-sqrt"], ...], BeforeValidator(some)] = Field(
        ("cosine",), description="shapes of the decay"
    )
    alpha_0: Share = Field(Fraction(6, 10), description="share of D_0 in the new mix")
    horizon: Literal["new-data", "stage"] = Field("new-data", description="what the stage's tokens measure")

    def tries(self) -> Iterator[Try]:
        """One candidate a shape of the decay."""
        for decay in self.decay:
            yield decay, self.settings(decay=decay)


class Incremental(_Rung):
    """The new data's share rises in steps to its target, each of equal tokens or as the verdict allows.

    With `advance: verdict` a step ends once every old corpus is forecast to end within its tolerance at the next one,
    at the earliest after half of its equal tokens. It ends after twice those all the same: an attempt that stays below
    its target would not teach the new data, and what the target costs would not be known. It stays at LR_max, where
    losses on the way compare with the references.

    Formula: alpha_D = rise (1 - alpha_0), rise = .10, .25, .50, 1 over equal tokens each

    When: an abrupt change of the mix spikes; from a checkpoint at peak (moments kept) or a cooled one (warmed up first).

    Source: the seed, "Worth exploring"; Parmar et al. 2407.07263 for its decay.
    """

    rung: Literal["incremental"]
    rises: Annotated[tuple[Share, ...], BeforeValidator(some)] = Field(
        (Fraction(10, 100), Fraction(25, 100), Fraction(50, 100), Fraction(1)),
        description="shares of the target, equal tokens each",
    )
    alpha_0: Share = Field(Fraction(25, 100), description="share of D_0 at the end")
    schedule: Literal["decay", "peak"] = Field("decay", description="the 2407.07263 decay, or constant at LR_max")
    advance: Literal["tokens", "verdict"] = Field("tokens", description="what ends a step: its tokens, or the verdict")

    @model_validator(mode="after")
    def _judged_at_peak(self) -> Self:
        if self.advance == "verdict" and self.schedule != "peak":
            raise ValueError(
                "advance: verdict compares losses on the way with references at LR_max; write schedule: peak beside it"
            )
        return self


class Merge(_Rung):
    """Weights of two or more checkpoints of the line combined, without training.

    When: old and new abilities lie in different checkpoints of one line.

    Source: the seed, model merging.
    """

    rung: Literal["merge"]


ALL = (
    Naive, Replay, ReplayRewarm, ReplayPreviousMix, Thermostat, BufferMix, Balance, DecayThenIntroduce, RewarmConverged,
    LegacyReplayRewarm, SpecialContinuation, Incremental, Merge,
)  # fmt: skip
Rung = Annotated[
    Naive | Replay | ReplayRewarm | ReplayPreviousMix | Thermostat | BufferMix | Balance | DecayThenIntroduce | RewarmConverged
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


def name_of(rung: type[Any]) -> str:
    """The word that a plan has for a rung."""
    return str(get_args(rung.model_fields["rung"].annotation)[0])


def candidates(rung: Any) -> tuple[Candidate, ...]:
    """The candidates of a rung in the order they are tried."""
    made = [(f"{rung.rung} {words}".strip(), parameters) for words, parameters in rung.tries()]
    return tuple(Candidate(rung.rung, label, parameters) for label, parameters in made)
