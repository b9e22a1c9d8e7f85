"""The order of a ladder's candidates by what came of them in earlier runs at a similar shift. Pure, on recorded outcomes.

Each candidate has a chance to be accepted: the mean of a Beta distribution that begins with what the order written says
(one at place k, from 0, is tried when k have failed: 1 / (k + 2), Laplace's rule of succession) and that every outcome
moves by its similarity. It has a cost, in lengths of the stage, likewise. If outcomes were independent, the order that
spends the fewest tokens until one is accepted is the one by chance / cost (Mitten 1960); they are not quite, so what an
outcome says of its neighbours is counted too: where a share forgot too much, lower ones of its family would have, and
where one under-adapted, higher ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keepwarm.plan.rungs import Candidate
from keepwarm.plan.written import written
from keepwarm.strategy.ladder import TRAINABLE, Begin, Option, Tried, choose
from keepwarm.strategy.promise import kin, share_of
from keepwarm.strategy.shift import GRADES, MEASURES, Shift

PRIOR_WEIGHT = 2.0  # what the order written counts for, in outcomes at the same shift
FAR = 0.05  # similarity below which an outcome says nothing: about two and a half grades apart
_UNTRIED = "untried"


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a candidate in an earlier run, by the tolerance of the plan that asks."""

    run: str
    stage: str
    shift: Shift
    candidate: Candidate
    outcome: str
    accepted: bool
    tokens: int
    stage_tokens: int
    stopped_early: bool = False


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate with its chance to be accepted and its expected cost, a multiple of the stage's tokens.

    `place` is where it would be tried without evidence, from 0; None of one that only earlier runs have. `weight`: of the
    outcomes that speak of it, each by its similarity; `accepted`: of those that were accepted.
    """

    candidate: Candidate
    place: int | None
    chance: float
    cost: float
    weight: float = 0.0
    accepted: float = 0.0


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The order, the evidence with the similarity of each (0 to 1), and what either order is expected to cost.

    Costs are multiples of the stage's tokens until a candidate is accepted, or all have failed; as written, what only
    earlier runs have comes last.
    """

    order: tuple[Ranked, ...]
    evidence: tuple[tuple[Seen, float], ...]
    expected: float
    expected_as_written: float

    @property
    def counted(self) -> int:
        """Outcomes that are similar enough to say something."""
        return sum(weight >= FAR for _, weight in self.evidence)


def suggest(shift: Shift, ladder: Sequence[Candidate], begin: Begin, seen: Sequence[Seen]) -> Suggestion:
    """The order of a ladder's candidates, and of those that were accepted elsewhere; as written where nothing is known."""
    evidence = tuple(sorted(((each, similarity(shift, each.shift)) for each in seen), key=lambda each: -each[1]))
    close = [(each, weight) for each, weight in evidence if weight >= FAR]
    known_order = _as_written(ladder, begin)
    known = [_ranked(each, place, place, close) for place, each in enumerate(known_order)]
    others = [_ranked(each, None, len(known_order), close) for each in _accepted_elsewhere(known_order, close)]
    order = by_promise([*known, *others]) if close else known
    return Suggestion(tuple(order), evidence, expected_cost(order), expected_cost([*known, *others]))


def similarity(first: Shift, second: Shift) -> float:
    """1 of shifts that are alike, down to 0: exp(-d^2 / 2), d the mean distance of the numbers both have, in grades.

    Where they have none in common (a plan declared its grade), d is how many grades they are apart.
    """
    pairs = ((each, getattr(first, each.key), getattr(second, each.key)) for each in MEASURES)
    apart = [each.apart(ours, theirs) for each, ours, theirs in pairs if ours is not None and theirs is not None]
    if not apart:
        apart = [float(GRADES.index(first.grade) - GRADES.index(second.grade))]
    return math.exp(-sum(each**2 for each in apart) / len(apart) / 2)


def by_promise(ranked: Sequence[Ranked]) -> list[Ranked]:
    """By chance / cost, the highest first; equal ones stay as they are."""
    return sorted(ranked, key=lambda each: -each.chance / each.cost)


def expected_cost(order: Sequence[Ranked]) -> float:
    """Expected cost until the first is accepted, or all have failed: sum of c_i (1 - p_1) ... (1 - p_{i-1})."""
    total, left = 0.0, 1.0
    for each in order:
        total += left * each.cost
        left *= 1 - each.chance
    return total


def _as_written(ladder: Sequence[Candidate], begin: Begin) -> list[Candidate]:
    """The order in which candidates would be tried if none told anything of another."""
    options = [Option(number, candidate) for number, candidate in enumerate(ladder)]
    tried: list[Tried] = []
    while (option := choose(options, tried, lr_max=1.0, begin=begin).option) is not None:
        tried.append(Tried(option.number, option.candidate, _UNTRIED))
    return [each.candidate for each in tried]


def _accepted_elsewhere(ladder: Sequence[Candidate], close: Sequence[tuple[Seen, float]]) -> list[Candidate]:
    found: list[Candidate] = []
    for seen, _ in close:
        known = any(_same(seen.candidate, each) for each in (*ladder, *found))
        if seen.accepted and not known and seen.candidate.rung in TRAINABLE:
            found.append(seen.candidate)
    return found


def _ranked(candidate: Candidate, place: int | None, failed: int, close: Sequence[tuple[Seen, float]]) -> Ranked:
    """A candidate that comes when so many have failed, by the outcomes that speak of it."""
    said = list(_said(candidate, close))
    weight = sum(each for _, each, _ in said)
    accepted = sum(each for seen, each, own in said if own and seen.accepted)
    costs = [(each, seen.tokens / seen.stage_tokens) for seen, each, own in said if own]
    chance = (PRIOR_WEIGHT / (failed + 2) + accepted) / (PRIOR_WEIGHT + weight)
    cost = (PRIOR_WEIGHT + sum(each * share for each, share in costs)) / (PRIOR_WEIGHT + sum(each for each, _ in costs))
    return Ranked(candidate, place, chance, cost, weight, accepted)


def _said(candidate: Candidate, close: Sequence[tuple[Seen, float]]) -> Iterator[tuple[Seen, float, bool]]:
    """What speaks of a candidate: of each stage of each run its own outcome, else one that it follows from."""
    found: dict[tuple[str, str], tuple[Seen, float, bool]] = {}
    for seen, weight in close:
        own = _same(seen.candidate, candidate)
        if own or ((seen.run, seen.stage) not in found and _would_fail(candidate, seen)):
            found[seen.run, seen.stage] = (seen, weight, own)
    yield from found.values()


def _same(first: Candidate, second: Candidate) -> bool:
    return first.rung == second.rung and written(first) == written(second)


def _would_fail(candidate: Candidate, seen: Seen) -> bool:
    """Whether its failure follows from another one: less replay forgets more, more of it adapts less."""
    ours, theirs = share_of(candidate), share_of(seen.candidate)
    if ours is None or theirs is None or not (kin(candidate, seen.candidate) or kin(seen.candidate, candidate)):
        return False
    return (seen.outcome == "not-recovering" and ours < theirs) or (seen.outcome == "under-adapting" and ours > theirs)
