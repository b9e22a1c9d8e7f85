"""The ladder: which candidate is tried next and why, from what those before it came to. Pure, on recorded numbers.

Candidates are tried in the order written, the cheaper of one rung first. What measurement says is needless or hopeless
is put off, not thrown away: it is tried, the least hopeless first, when everything else has failed and the budget lasts.
Put off are
- shares below the one that the measured shift lets the ladder begin with, until a higher one under-adapts,
- shares above one that under-adapted (COOKBOOK: alpha goes up only while old data is being forgotten), and below one
  that forgot too much,
- shares whose forgetting the law of their family forecasts clearly beyond the tolerance (strategy/promise.py),
- after a broken optimisation, whatever teaches at no lower a rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import takewhile
from typing import Any, Literal

from keepwarm.plan.rungs import Candidate
from keepwarm.strategy.promise import Forgotten, hopeless
from keepwarm.strategy.shift import Shift, starting_share
from keepwarm.units import format_share, lr_of

TRAINABLE = (
    "naive", "replay", "replay-rewarm", "replay-previous-mix", "thermostat", "buffer-mix", "balance",
    "decay-then-introduce", "rewarm-converged", "legacy-replay-rewarm", "special-continuation", "incremental",
)  # fmt: skip
SHARE_RUNGS = ("replay", "replay-previous-mix")
BROKEN = "broken optimisation"  # kinds of trouble (strategy/trouble.py), as a verdict names them
DATA_BUG = "data bug"
_NEEDLESS = -math.inf  # how hopeless what is only needless is

Order = Literal["promising", "written"]
Goal = Literal["first", "best"]


@dataclass(frozen=True, slots=True)
class Begin:
    """The replay share that a ladder begins with; lower ones wait. `asked_by`: by what, in words."""

    share: Fraction
    asked_by: str = "the measured shift"


LOWEST = Begin(Fraction(0))  # nothing waits


def begin_by(shift: Shift, *, own: bool) -> Begin:
    """Where a ladder begins by the measured shift; a stage's own ladder begins where it begins."""
    return LOWEST if own else Begin(starting_share(shift))


@dataclass(frozen=True, slots=True)
class Option:
    """A candidate at its place in the ladder, and the most that it may cost: training tokens, a measured one a third."""

    number: int
    candidate: Candidate
    cost_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate and the outcome on record: a verdict's, or `refused` (by a guard), or `skipped`."""

    number: int
    candidate: Candidate
    outcome: str
    forgotten: Mapping[str, Forgotten] = field(default_factory=dict)
    accepted: bool = False
    broken: bool = False  # the optimisation, not the mix

    @classmethod
    def of(cls, number: int, candidate: Candidate, verdict: Mapping[str, Any]) -> Tried:
        """From a recorded verdict; a person's word stands above it."""
        forgotten = {name: Forgotten.of(corpus) for name, corpus in verdict.get("old", {}).items()}
        accepted = verdict["accepted"] or (verdict["outcome"] == "recovered" and "decision" not in verdict)
        broken = verdict["outcome"] == "diverged" or verdict.get("trouble") == BROKEN
        return cls(number, candidate, verdict["outcome"], forgotten, accepted, broken)

    @property
    def worst_excess(self) -> float | None:
        """Nats beyond tolerance of the corpus that was forgotten most; None where nothing was measured."""
        return max((found.excess for found in self.forgotten.values()), default=None)


@dataclass(frozen=True, slots=True)
class PutOff:
    """A candidate that waits until the others have failed, and why; `hopeless`: by how many nats."""

    option: Option
    why: str
    hopeless: float = _NEEDLESS


@dataclass(frozen=True, slots=True)
class Choice:
    """What is tried next and why, and what is put off; without an option the search has ended."""

    option: Option | None
    why: str
    put_off: tuple[PutOff, ...] = ()


def choose(
    options: Sequence[Option],
    tried: Sequence[Tried],
    *,
    lr_max: float,
    begin: Begin = LOWEST,
    left_tokens: int | None = None,
    order: Order = "promising",
    goal: Goal = "first",
) -> Choice:
    """The next candidate of a ladder, `options` in the order written. `left_tokens` of the budget; None: no budget."""
    done = {each.number for each in tried}
    left = [option for option in options if option.number not in done]
    accepted = next((each for each in tried if each.accepted), None)
    if goal == "first" and accepted is not None:
        return Choice(None, f"{accepted.candidate.label} holds")
    if not left:
        return Choice(None, "every candidate was tried")
    fit = [option for option in left if left_tokens is None or option.cost_tokens <= left_tokens]
    unpaid = tuple(
        PutOff(option, f"may take {option.cost_tokens:,} tokens, {max(0, left_tokens or 0):,} of the budget are left")
        for option in left
        if option not in fit
    )
    if not fit:
        return Choice(None, "the budget of the search is spent", unpaid)
    waiting = {
        option.number: reason
        for option in fit
        if (reason := _put_off(option, options, tried, lr_max, begin, order)) is not None
    }
    put_off = (*waiting.values(), *unpaid)
    hopeful = [option for option in fit if option.number not in waiting]
    if hopeful:
        chosen = _cheapest(hopeful)
        return Choice(chosen, _why(chosen, hopeful, options), put_off)
    if accepted is not None:
        return Choice(None, "what is left promises nothing better", put_off)
    last = min(waiting.values(), key=lambda each: (each.hopeless, each.option.number))
    rest = tuple(each for each in put_off if each is not last)
    return Choice(last.option, f"everything else has failed; it was put off: {last.why}", rest)


def best_replay(tried: Sequence[Tried]) -> Fraction | None:
    """The replay share that forgot least beyond tolerance, of those that were trained; None if none was."""
    found = [each for each in tried if each.candidate.rung == "replay" and each.worst_excess is not None]
    best = min(found, key=lambda each: each.worst_excess or 0.0, default=None)
    return best.candidate.share if best else None


def skip_reason(candidate: Candidate) -> str | None:
    """Why a candidate is never trained, or None."""
    if candidate.rung in TRAINABLE:
        return None
    return f"the rung {candidate.rung} is not built yet in this version"


def _cheapest(hopeful: Sequence[Option]) -> Option:
    """The first, or a cheaper one of the same rung that stands right behind it."""
    rung = hopeful[0].candidate.rung
    same = takewhile(lambda option: option.candidate.rung == rung, hopeful)
    return min(same, key=lambda option: (option.cost_tokens, option.number))


def _why(chosen: Option, hopeful: Sequence[Option], options: Sequence[Option]) -> str:
    if chosen is not hopeful[0]:
        return f"the cheapest of its rung: at most {chosen.cost_tokens:,} tokens"
    return "the first of the ladder" if chosen is options[0] else "the next of the ladder"


def _put_off(
    option: Option, options: Sequence[Option], tried: Sequence[Tried], lr_max: float, begin: Begin, order: Order,
) -> PutOff | None:  # fmt: skip
    """Why a candidate is put off, or None. In the order written only what under-adapts more, as the cookbook says."""
    candidate = option.candidate
    if (words := _adapts_less(candidate, tried)) is not None:
        return PutOff(option, words)
    if order == "written":
        return None
    if (words := _forgets_more(candidate, tried)) is not None:
        return PutOff(option, words, math.inf)
    seen = [(each.candidate, each.forgotten) for each in tried if each.forgotten and not each.broken]
    if (beyond := hopeless(candidate, seen)) is not None:
        return PutOff(option, *beyond)
    words = _below_start(candidate, options, tried, begin) or _no_slower(candidate, tried, lr_max)
    return None if words is None else PutOff(option, words)


def _same_rung(candidate: Candidate, tried: Sequence[Tried], outcome: str) -> list[tuple[Fraction, Tried]]:
    """The shares of a candidate's rung that came to an outcome."""
    if candidate.rung not in SHARE_RUNGS:
        return []
    same = [each for each in tried if each.candidate.rung == candidate.rung and each.outcome == outcome]
    return [(share, each) for each in same if (share := each.candidate.share) is not None]


def _adapts_less(candidate: Candidate, tried: Sequence[Tried]) -> str | None:
    for share, each in _same_rung(candidate, tried, "under-adapting"):
        if candidate.share is not None and candidate.share > share:
            return f"{each.candidate.label} under-adapted already; more replay would adapt less"
    return None


def _forgets_more(candidate: Candidate, tried: Sequence[Tried]) -> str | None:
    for share, each in _same_rung(candidate, tried, "not-recovering"):
        if candidate.share is not None and candidate.share < share:
            return f"{each.candidate.label} forgot too much already; less replay would forget more"
    return None


def _below_start(candidate: Candidate, options: Sequence[Option], tried: Sequence[Tried], begin: Begin) -> str | None:
    """Shares below the one to begin with: the least of the rung that is asked for, or its greatest."""
    share = candidate.share
    if candidate.rung not in SHARE_RUNGS or share is None or _same_rung(candidate, tried, "under-adapting"):
        return None
    shares = [each.candidate.share for each in options if each.candidate.rung == candidate.rung]
    known = [each for each in shares if each is not None]
    if share >= min((each for each in known if each >= begin.share), default=max(known)):
        return None
    return f"{begin.asked_by} asks for {format_share(begin.share)} to begin with"


def _no_slower(candidate: Candidate, tried: Sequence[Tried], lr_max: float) -> str | None:
    broken = [each for each in tried if each.broken]
    if not broken:
        return None
    lowest = min(broken, key=lambda each: _rate(each.candidate, lr_max))
    if _rate(candidate, lr_max) < _rate(lowest.candidate, lr_max):
        return None
    return f"the optimisation broke in {lowest.candidate.label}; what teaches at a lower rate comes first"


def _rate(candidate: Candidate, lr_max: float) -> float:
    """The highest rate at which a candidate teaches the new data."""
    asked = candidate.parameters
    return lr_of(asked.get("introduce_at", asked.get("lr", "lr_max")), lr_max)
