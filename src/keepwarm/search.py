"""The search through a stage's ladder, as far as it has come: what is next, within its budget, and what comes behind it.

What was chosen is on record before it is begun (attempt/choices.py) and stands; only the choice behind the last one is
computed, from the recorded verdicts and the account. So a run that was killed goes on with the same choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from keepwarm.attempt.choices import read_choices, record_choice
from keepwarm.attempt.line import Line
from keepwarm.attempt.records import Record, read_verdict, write_verdict
from keepwarm.plan.model import StageSpec
from keepwarm.plan.rungs import Candidate
from keepwarm.report.account import search_tokens, spent, tokens_per_hour
from keepwarm.report.forecasted import as_asked, read_forecast
from keepwarm.strategy.forecast import recommended
from keepwarm.strategy.ladder import TRAINABLE, Begin, Choice, Option, Tried, begin_by, best_replay, choose
from keepwarm.strategy.shift import Shift
from keepwarm.tries import Try, cost_tokens
from keepwarm.work import Run

PENDING = "pending"  # the outcome of what is still being trained


@dataclass(slots=True)
class Search:
    """A stage's ladder and what was tried of it, in the order it was tried."""

    context: Run
    stage: StageSpec
    line: Line
    candidates: Sequence[Candidate]
    begin: Begin
    tried: list[Tried] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The stage's folder."""
        return self.context.folder / "arms" / self.line.arm / self.stage.name

    def next(self) -> Choice:
        """What is tried next: as it is on record, else by what was tried."""
        return self._next(self.tried)

    def asked(self, option: Option) -> Try:
        """A candidate, as it is tried now."""
        return Try(self.stage, self.line, option.number, option.candidate, best_replay(self.tried))

    def coming(self, option: Option) -> list[Try]:
        """What is trained side by side: a candidate, and those that would come next if it were not accepted.

        Nothing whose own start depends on what the ones before it come to; nothing while a person is asked about each.
        """
        wanted = self.context.plan.search.side_by_side
        asked = self.asked(option)
        judged = read_verdict(self.context.folder / asked.folder) is not None
        if wanted == 1 or judged or self.context.approve == "each-rung":
            return []
        found, pending = [asked], [*self.tried, Tried(option.number, option.candidate, PENDING)]
        while len(found) < wanted:
            after = self._next(pending).option
            if after is None or (after.candidate.rung == "replay-rewarm" and _open_replay(pending)):
                break
            pending.append(Tried(after.number, after.candidate, PENDING))
            behind = self.asked(after)
            if after.candidate.rung in TRAINABLE and read_verdict(self.context.folder / behind.folder) is None:
                found.append(behind)
        return found

    def record(self, choice: Choice, passed: str | None) -> None:
        """Write a choice down, unless it is on record; `passed`: why the candidate is passed over."""
        assert choice.option is not None
        if self._recorded(self.tried) is not None:
            return
        spent_tokens, budget_tokens = self._money()
        content: dict[str, Any] = {
            "candidate": choice.option.number, "label": choice.option.candidate.label,
            "why": choice.why if passed is None else f"passed over: {passed}",
            "put_off": [{"label": each.option.candidate.label, "why": each.why} for each in choice.put_off],
            "spent_tokens": round(spent_tokens), "budget_tokens": budget_tokens,
        }  # fmt: skip
        record_choice(self.folder, content)

    def best(self) -> tuple[Try, Record] | None:
        """Of what would be accepted, the one with the lowest mean held-out loss; its verdict says so from now on."""
        options = {each.number: each for each in self._options()}
        fit = [self.asked(options[each.number]) for each in self.tried if each.accepted]
        if not fit:
            return None
        verdicts = [(asked, read_verdict(self.context.folder / asked.folder) or {}) for asked in fit]
        asked, verdict = min(verdicts, key=lambda each: mean_change(each[1]))
        words = f"the best of {len(fit)}: held-out losses {mean_change(verdict):+.3f} nats from their references in the mean"
        verdict = {**verdict, "accepted": True, "reasons": [*verdict["reasons"], words]}
        write_verdict(self.context.folder / asked.folder, verdict, replace=True)
        return asked, verdict

    def _next(self, tried: Sequence[Tried]) -> Choice:
        recorded = self._recorded(tried)
        if recorded is not None:
            return recorded
        spent_tokens, budget_tokens = self._money()
        options, pending = self._options(), {each.number for each in tried if each.outcome == PENDING}
        left = None
        if budget_tokens is not None:
            reserved = sum(option.cost_tokens for option in options if option.number in pending)
            left = int(budget_tokens - spent_tokens - reserved)
        search = self.context.plan.search
        return choose(
            options, tried, lr_max=self.line.end.lr_max, begin=self.begin, left_tokens=left,
            order=search.order, goal=search.choose,
        )  # fmt: skip

    def _recorded(self, tried: Sequence[Tried]) -> Choice | None:
        """The next choice on record that was not come to yet."""
        done = {each.number for each in tried}
        for choice in read_choices(self.folder):
            number = int(choice["candidate"])
            if number in done or number >= len(self.candidates):
                continue
            if self.candidates[number].label == choice["label"]:
                return Choice(Option(number, self.candidates[number]), str(choice["why"]))
        return None

    def _options(self) -> list[Option]:
        costs = (cost_tokens(self.context, self.stage, self.line, each) for each in self.candidates)
        return [Option(n, each, cost) for n, (each, cost) in enumerate(zip(self.candidates, costs, strict=True))]

    def _money(self) -> tuple[float, int | None]:
        """Training tokens that the search cost so far, and its budget; None: no budget, or hours at a rate not known."""
        entries, budget = spent(self.context.plan), self.context.plan.search.budget
        cost = search_tokens(entries, self.stage.name, self.line.end.id)
        if budget is None or budget.hours is None:
            return cost, None if budget is None else budget.tokens
        rate = tokens_per_hour(entries)
        return cost, None if rate is None else int(float(budget.hours) * rate)


def beginning(context: Run, stage: StageSpec, line: Line, shift: Shift) -> Begin:
    """The replay share that a ladder begins with: as a forecast from this checkpoint recommends, else by the measured
    shift; without a forecast a stage's own ladder begins where it begins."""
    record = read_forecast(context.plan, stage.name)
    if record is not None and record["from"] == line.end.id:
        found = recommended(as_asked(context.plan, stage, record))
        if found is not None:
            return Begin(Fraction(str(found["share"])), "the forecast")
    return begin_by(shift, own=stage.ladder is not None)


def mean_change(verdict: Record) -> float:
    """Held-out losses less their references in the same phase, in the mean over old corpora and the new one; nats."""
    changes = [corpus["forgetting"] for corpus in verdict["old"].values()]
    changes += [-corpus["gain"] for corpus in verdict["new"].values()]
    return float(sum(changes) / len(changes))


def _open_replay(tried: Sequence[Tried]) -> bool:
    return any(each.candidate.rung == "replay" and each.outcome == PENDING for each in tried)
