"""The verdict: did the old corpora come back within tolerance, and was the new one learned?

Decided from an attempt's metrics alone, on paired held-out losses (the same windows, the same LR phase as the
reference). For each old corpus, excess = loss - reference - tolerance is held against +-2 noise: beyond it the answer
is `clear`, inside it the sign decides and the record says `close`. The new corpus must gain `adaptation` of the way from
where the attempt started to where the no-replay control came at the same tokens (the arms' starts differ, so the
control's own gain would not compare); where there is no control, more than 2 noise, and the record says so.
COOKBOOK, "The verdict"; which trouble it is follows the two-domain table of the same page's sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from inspect import cleandoc
from typing import Any, Literal

import numpy as np

from keepwarm.attempt.passed_over import broken_words, passed_over_words
from keepwarm.attempt.records import DECISION
from keepwarm.evaluate.forgetting import paired_noise
from keepwarm.evaluate.references import lacking
from keepwarm.plan.corpus import called
from keepwarm.strategy.evidence import control_above, own_start
from keepwarm.strategy.trouble import Kind, helps, trouble_of

Outcome = Literal["recovered", "recovering", "not-recovering", "under-adapting", "diverged", "undecided"]
NOISE_WIDTHS = 2.0
_SOURCE = "Source: the cookbook, The verdict."
_OUTCOME_TEXTS: dict[Outcome, str] = {
    "recovered": """Every old corpus is within its tolerance of its reference, and the new one was learned: accepted.

    Formula: loss - reference <= tolerance for each old corpus, and gain > adaptation * the control's gain (without a
    control: > 2 noise)

    When: the stage's end becomes the line's, and B is filled from what was fed. Read `close` in the record as a margin
    within 2 noise.""",
    "recovering": """Not yet within tolerance, and forecast to be at the end of the constant phase.

    When: train on; no other rung is tried yet.""",
    "not-recovering": """An old corpus is beyond its tolerance: forgetting, now or by the forecast of an early stop.

    Formula: loss - reference - tolerance > 0 for some old corpus; `clear` beyond 2 noise

    When: more replay next, then the buffer, then a lower rate; the ladder has that order. The line stays where it was.""",
    "under-adapting": """The old corpora are within tolerance and the new one gained too little.

    Formula: gain <= adaptation * the control's gain (without a control: <= 2 noise)

    When: less replay or more tokens next; higher shares of the same rung are passed over.""",
    "diverged": """A loss or gradient that is not finite, or spikes, beyond what `stability` allows; or old and new data both
    got worse: the optimisation is broken.

    Formula: given up (keepwarm explain spike); or an old corpus beyond its tolerance, and the new one worse than where the
    attempt itself began by more than 2 noise

    When: a lower LR, a longer warm-up, or a look at the data; another mix will not mend it.""",
    "undecided": """The attempt has not come to its end, or the evidence is too thin.

    When: go on training, or evaluate its checkpoints on each corpus. From a log with one blended loss nothing else but
    diverged can be decided.""",
}
OUTCOMES: dict[Outcome, str] = {name: f"{cleandoc(text)}\n\n{_SOURCE}" for name, text in _OUTCOME_TEXTS.items()}

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OldCorpus:
    """How an old corpus stands at the end of the attempt. Losses in nats per token."""

    loss: float
    before: float
    reference: float
    forgetting: float
    tolerance: float
    noise: float
    within: bool
    sure: Literal["clear", "close"]
    forecast: float | None = None  # forgetting at the end, when the attempt was stopped before it
    doubt: float | None = None  # one standard deviation of it
    regret: float | None = None  # loss - where more D_0 alone came with the same tokens, in the same phase
    regret_noise: float | None = None
    stand_in: str | None = None  # "proxy" or "generated", where D_0's own data is not there


@dataclass(frozen=True, slots=True)
class NewCorpus:
    """What the new corpus gained, and what it had to gain."""

    loss: float
    before: float
    gain: float
    needed: float
    needed_is: str
    noise: float
    learned: bool
    since_start: float  # nats gained on where the attempt itself began, maybe an earlier checkpoint than the line's

    @property
    def worse(self) -> bool:
        """By more than noise than where the attempt itself began."""
        return self.since_start < -NOISE_WIDTHS * self.noise

    @property
    def improving(self) -> bool:
        """By more than noise on where the attempt itself began, whether that is enough or not."""
        return self.since_start > NOISE_WIDTHS * self.noise


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome with the numbers it was decided from."""

    outcome: Outcome
    reasons: tuple[str, ...]
    step: int
    tokens: int
    old: Mapping[str, OldCorpus]
    new: Mapping[str, NewCorpus]
    trouble: Kind | None = None
    helps: str | None = None  # against it, in words

    def as_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return asdict(self) | {"reasons": list(self.reasons)}


def judge(records: Sequence[Record]) -> Verdict:
    """The verdict on one attempt's `metrics.jsonl`."""
    header = next(record for record in records if record["kind"] == "header")
    evaluations = [record for record in records if record["kind"] == "eval"]
    last = max((record for record in records if "step" in record), key=lambda record: int(record["step"]), default=None)
    step, tokens = (int(last["step"]), int(last["tokens"])) if last else (0, 0)
    broken, passed_over = broken_words(records), passed_over_words(records)
    if broken is not None:
        return _with_trouble(Verdict("diverged", (broken, *passed_over), step, tokens, {}, {}))
    stopped = next((r for r in records if r["kind"] == "event" and r["event"] == "stopped-early"), None)
    last_step = stopped["step"] if stopped else header["steps"]
    end = next((record for record in evaluations if record["full"] and record["step"] == last_step > 0), None)
    if end is None:
        return Verdict("undecided", ("the attempt has not come to its end", *passed_over), step, tokens, {}, {})
    if missing := lacking(header):
        why = f"no loss to hold it against, from before and in the phase that it ends in: {', '.join(missing)}"
        return Verdict("undecided", (why, *passed_over), step, tokens, {}, {})
    more = next((r for r in records if r["kind"] == "event" and r["event"] == "regret" and "windows" in r), None)
    old = {name: _old(name, header, end, more) for name in header["old"]}
    new = {header["new"]: _new(header, end, records, stopped is not None)} if header["new"] else {}
    reasons = (*_reasons(old, new), *passed_over)
    if stopped is None:
        return _with_trouble(Verdict(_decide(old, new), reasons, step, tokens, old, new))
    reasons = (f"stopped early: {stopped['text']}", *reasons)
    outcome: Outcome = stopped.get("outcome", "not-recovering")
    found = Verdict(outcome, reasons, step, tokens, _with_forecasts(old, records), new)
    return _with_trouble(found, stopped.get("trouble"))


def _with_trouble(verdict: Verdict, kind: Kind | None = None) -> Verdict:
    learning = all(corpus.improving for corpus in verdict.new.values())
    kind = kind or trouble_of(verdict.outcome, learning=learning)
    return replace(verdict, trouble=kind, helps=helps(kind))


def _with_forecasts(old: Mapping[str, OldCorpus], records: Sequence[Record]) -> dict[str, OldCorpus]:
    """With what the last decision on the way expected at the end."""
    decided = [record["corpora"] for record in records if record.get("event") == DECISION]
    numbers = decided[-1] if decided else {}
    return {
        name: replace(corpus, forecast=numbers[name]["forecast"], doubt=numbers[name]["doubt"])
        if name in numbers
        else corpus
        for name, corpus in old.items()
    }


def _old(name: str, header: Record, end: Record, more: Record | None) -> OldCorpus:
    reference, tolerance = header["references"][name], header["tolerance"][name]["nats"]
    loss = end["loss"][name]
    noise = paired_noise(end["windows"][name], reference["windows"])
    forgetting = loss - reference["loss"]
    excess = forgetting - tolerance
    sure: Literal["clear", "close"] = "clear" if abs(excess) > NOISE_WIDTHS * noise else "close"
    regret = None if more is None else loss - more["loss"][name]
    regret_noise = None if more is None else paired_noise(end["windows"][name], more["windows"][name])
    stand_in = header.get("stand_in", {}).get(name)
    return OldCorpus(
        loss, header["before"][name]["loss"], reference["loss"], forgetting, tolerance, noise, excess <= 0, sure,
        regret=regret, regret_noise=regret_noise, stand_in=stand_in,
    )  # fmt: skip


def _new(header: Record, end: Record, records: Sequence[Record], stopped: bool) -> NewCorpus:
    name = header["new"]
    before = header["before"][name]
    gain = before["loss"] - end["loss"][name]
    noise = paired_noise(end["windows"][name], before["windows"])
    control, where = _control(header, end, records, stopped)
    if control is None:
        needed, needed_is = NOISE_WIDTHS * noise, "more than noise (no control to compare with)"
    else:
        share = header["adaptation"]["share"]
        needed, needed_is = share * control, f"{share:.0%} of the {control:.3f} to where the no-replay control {where}"
    began = max(before["loss"], float(np.mean(own_start(records).get(name, before["windows"]))))
    since_start = began - end["loss"][name]
    return NewCorpus(end["loss"][name], before["loss"], gain, needed, needed_is, noise, gain > needed, since_start)


def _control(header: Record, end: Record, records: Sequence[Record], stopped: bool) -> tuple[float | None, str]:
    """How far the no-replay control came below the attempt's start: at its end, or at the tokens of an early stop."""
    if not stopped:
        return next((r["gain"] for r in records if r["kind"] == "event" and r["event"] == "control"), None), "came"
    name, control = header["new"], header["adaptation"].get("control")
    if control is None or name not in control["windows"]:
        return None, ""
    size, tokens = control["windows"][name], [end["tokens"]]
    came = -float(control_above(header, header["before"][name]["windows"], name, size, tokens)[0])
    return (None if math.isnan(came) else came), "was by then"


def _decide(old: Mapping[str, OldCorpus], new: Mapping[str, NewCorpus]) -> Outcome:
    lost = {name: corpus for name, corpus in old.items() if not corpus.within}
    unlearned = {name: corpus for name, corpus in new.items() if not corpus.learned}
    if lost and any(corpus.worse for corpus in unlearned.values()):
        return "diverged"  # the new data got worse too: the optimisation is broken, not the mix
    if lost:
        return "not-recovering"
    return "under-adapting" if unlearned else "recovered"


def _reasons(old: Mapping[str, OldCorpus], new: Mapping[str, NewCorpus]) -> tuple[str, ...]:
    words = tuple(_words_old(name, corpus) for name, corpus in old.items())
    return words + tuple(_words_new(name, corpus) for name, corpus in new.items())


def _words_old(name: str, corpus: OldCorpus) -> str:
    side = "within" if corpus.within else "beyond"
    against = ""
    if corpus.regret is not None:
        against = f"; regret {corpus.regret:+.3f} (noise {corpus.regret_noise:.3f}) against more D_0 alone"
    return (
        f"{called(name, corpus.stand_in)} {corpus.reference:.3f} -> {corpus.loss:.3f}: "
        f"forgot {corpus.forgetting:+.3f} nats, {side} the tolerance of {corpus.tolerance:.3f} "
        f"({corpus.sure}: noise {corpus.noise:.3f}){against}"
    )


def _words_new(name: str, corpus: NewCorpus) -> str:
    side = "met" if corpus.learned else "missed"
    return (
        f"{name} {corpus.before:.3f} -> {corpus.loss:.3f}: gained {corpus.gain:+.3f} nats, {side} the {corpus.needed:.3f} "
        f"needed ({corpus.needed_is})"
    )
