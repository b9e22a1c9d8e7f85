"""The verdict: did the old corpora come back within tolerance, and was the new one learned?

Decided from an attempt's metrics alone, on paired held-out losses (the same windows, the same LR phase as the
reference). For each old corpus, excess = loss - reference - tolerance is held against +-2 noise: beyond it the answer
is `clear`, inside it the sign decides and the record says `close`. The new corpus must gain `adaptation` of the way from
where the attempt started to where the no-replay control came at the same tokens (the arms' starts differ, so the
control's own gain would not compare); where there is no control, more than 2 noise, and the record says so.
COOKBOOK, "The verdict"; which trouble it is follows the two-domain table of the same page's sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import cleandoc
from typing import Any, Literal

from keepwarm.evaluate.forgetting import paired_noise

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
    "diverged": """A loss or gradient that is not finite, or old and new data both got worse: the optimisation is broken.

    Formula: not finite; or an old corpus beyond its tolerance and gain < -2 noise

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


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome with the numbers it was decided from."""

    outcome: Outcome
    reasons: tuple[str, ...]
    step: int
    tokens: int
    old: Mapping[str, OldCorpus]
    new: Mapping[str, NewCorpus]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return asdict(self) | {"reasons": list(self.reasons)}


def judge(records: Sequence[Record]) -> Verdict:
    """The verdict on one attempt's `metrics.jsonl`."""
    header = next(record for record in records if record["kind"] == "header")
    evaluations = [record for record in records if record["kind"] == "eval"]
    last = max((record for record in records if "step" in record), key=lambda record: int(record["step"]), default=None)
    step, tokens = (int(last["step"]), int(last["tokens"])) if last else (0, 0)
    broken = next((r for r in records if r["kind"] == "event" and r["event"] == "non-finite"), None)
    if broken is not None:
        reason = f"{broken['what']} was not a finite number at step {broken['step']}"
        return Verdict("diverged", (reason,), step, tokens, {}, {})
    stopped = next((r for r in records if r["kind"] == "event" and r["event"] == "stopped-early"), None)
    last_step = stopped["step"] if stopped else header["steps"]
    end = next((record for record in evaluations if record["full"] and record["step"] == last_step > 0), None)
    if end is None:
        return Verdict("undecided", ("the attempt has not come to its end",), step, tokens, {}, {})
    old = {name: _old(name, header, end) for name in header["old"]}
    control = next((r["gain"] for r in records if r["kind"] == "event" and r["event"] == "control"), None)
    new = {header["new"]: _new(header, end, control)} if header["new"] else {}
    if stopped is not None:
        return Verdict(
            "not-recovering", (f"stopped early: {stopped['text']}", *_reasons(old, new)), step, tokens, old, new
        )
    return Verdict(_decide(old, new), _reasons(old, new), step, tokens, old, new)


def _old(name: str, header: Record, end: Record) -> OldCorpus:
    reference, tolerance = header["references"][name], header["tolerance"][name]["nats"]
    loss = end["loss"][name]
    noise = paired_noise(end["windows"][name], reference["windows"])
    forgetting = loss - reference["loss"]
    excess = forgetting - tolerance
    sure: Literal["clear", "close"] = "clear" if abs(excess) > NOISE_WIDTHS * noise else "close"
    return OldCorpus(
        loss, header["before"][name]["loss"], reference["loss"], forgetting, tolerance, noise, excess <= 0, sure
    )


def _new(header: Record, end: Record, control: float | None) -> NewCorpus:
    name = header["new"]
    before = header["before"][name]
    gain = before["loss"] - end["loss"][name]
    noise = paired_noise(end["windows"][name], before["windows"])
    if control is None:
        needed, needed_is = NOISE_WIDTHS * noise, "more than noise (no control to compare with)"
    else:
        share = header["adaptation"]["share"]
        needed, needed_is = share * control, f"{share:.0%} of the {control:.3f} to where the no-replay control came"
    return NewCorpus(end["loss"][name], before["loss"], gain, needed, needed_is, noise, gain > needed)


def _decide(old: Mapping[str, OldCorpus], new: Mapping[str, NewCorpus]) -> Outcome:
    lost = {name: corpus for name, corpus in old.items() if not corpus.within}
    unlearned = {name: corpus for name, corpus in new.items() if not corpus.learned}
    if lost and any(corpus.gain < -NOISE_WIDTHS * corpus.noise for corpus in unlearned.values()):
        return "diverged"  # the new data got worse too: the optimisation is broken, not the mix
    if lost:
        return "not-recovering"
    return "under-adapting" if unlearned else "recovered"


def _reasons(old: Mapping[str, OldCorpus], new: Mapping[str, NewCorpus]) -> tuple[str, ...]:
    words = tuple(_words_old(name, corpus) for name, corpus in old.items())
    return words + tuple(_words_new(name, corpus) for name, corpus in new.items())


def _words_old(name: str, corpus: OldCorpus) -> str:
    side = "within" if corpus.within else "beyond"
    return (
        f"{name} {corpus.reference:.3f} -> {corpus.loss:.3f}: forgot {corpus.forgetting:+.3f} nats, {side} the tolerance "
        f"of {corpus.tolerance:.3f} ({corpus.sure}: noise {corpus.noise:.3f})"
    )


def _words_new(name: str, corpus: NewCorpus) -> str:
    side = "met" if corpus.learned else "missed"
    return (
        f"{name} {corpus.before:.3f} -> {corpus.loss:.3f}: gained {corpus.gain:+.3f} nats, {side} the {corpus.needed:.3f} "
        f"needed ({corpus.needed_is})"
    )
