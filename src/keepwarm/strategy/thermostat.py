"""The old data's share, steered by what is forgotten: what a steered attempt's mix should be, from its records alone.

For each old corpus the paired forgetting F is measured at every evaluation. Shares are related by the forgetting law
(laws.py), so what was measured at one share is read as if at today's,

    F(t, p') = F(t, p) ((1 + b p) / (1 + b p'))^1/2,

and all of it together tells how F still grows, like log t, until the end T of the constant phase; how high it stands is
told by the evaluations at today's share alone. b is the prototype's figure, not fitted: where b p >> 1 the law hardly
depends on it, and what it gets wrong shows in the next evaluations and is steered away. An evaluation counts once a
change of the mix has had a twentieth of the phase to show.

The share rises when a corpus is forecast to end less than a noise below its tolerance (a miss costs the whole attempt,
a margin a little replay), to where the worst would end two noises below. It falls when all are forecast to end four
noises below, half of the way (in log p): whatever the true exponent of the law is, between 0 and twice the assumed one,
the steps then grow smaller. A change is by a factor of two at most, needs two evaluations since the one before, and
must have time left to show; behind four fifths of the phase nothing falls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from keepwarm.attempt.steering import MIX
from keepwarm.evaluate.forgetting import paired_noise
from keepwarm.evaluate.heldout import subset
from keepwarm.strategy.laws import ForgettingLaw
from keepwarm.strategy.recovery import forecast
from keepwarm.units import format_share

Record = Mapping[str, Any]

SETTLED = 0.05  # of the phase: what a change of the mix needs to show
FEWEST_EVALUATIONS = 4  # settled, since the data switched
FEWEST_AT_SHARE = 2  # of these at the share that is to be changed
LEVEL_EVALUATIONS = 3  # of the last ones, that say where a corpus stands
MOST_CHANGE = 2.0  # factor
RISES_ABOVE, AIM, FALLS_BELOW = 1.0, 2.0, 4.0  # noises below the tolerance: what a change answers, and is chosen for
LAST_FALL = 0.2  # of the phase: behind that a fall saves little, and what it gets wrong stays
LAW = ForgettingLaw(1.0, 100.0)  # 2.05 nats without replay, .82 at 5 %, .38 at 25 %: b = 105 and 112
SOONEST, LATEST = 0.5, 2.0  # of its equal tokens, when a step of `incremental` may end and must


@dataclass(frozen=True, slots=True)
class Outlook:
    """How an old corpus will stand at the end of the constant phase if the mix stays. Nats of forgetting."""

    name: str
    measured: float
    forecast: float
    noise: float
    tolerance: float

    def at(self, now: float, share: float) -> float:
        """The forecast for another share of the old data from now on."""
        return self.forecast * LAW.at(share) / LAW.at(now) if self.forecast > 0 else self.forecast

    def share_for(self, now: float) -> float:
        """The least share that is forecast to end two noises below the tolerance; inf where none is."""
        aim = self.tolerance - AIM * self.noise
        if self.forecast <= min(aim, 0):
            return 0.0
        return LAW.share_for(aim * LAW.at(now) / self.forecast) if self.forecast > 0 else math.inf

    def words(self) -> str:
        """Its numbers in a sentence."""
        return (
            f"{self.name} has forgotten {self.measured:+.3f} nats, forecast at the end {self.forecast:+.3f} +- "
            f"{self.noise:.3f}, tolerance {self.tolerance:.3f}"
        )


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a steered attempt stands. `outlooks` is empty while there is too little to decide by."""

    share: Fraction
    changes: int  # so far
    held_steps: int  # since the last of them
    left_steps: int
    phase_steps: int
    outlooks: tuple[Outlook, ...]

    @property
    def in_time(self) -> bool:
        """Whether a change would have time left to show."""
        return self.left_steps >= SETTLED * self.phase_steps


def steered(records: Sequence[Record]) -> tuple[dict[str, Any], ...]:
    """The event that changes the mix after the evaluation that ends `records`; none where it stays."""
    rule = records[0].get("steering")
    if rule is None or not records[0]["old"] or records[-1]["kind"] != "eval":
        return ()
    stand = stand_of(records)
    wanted = _incremental(rule, stand) if rule["by"] == "incremental" else _thermostat(rule, stand)
    if wanted is None or wanted[0] == stand.share:
        return ()
    share, why = wanted
    text = f"{rule['old']} {format_share(stand.share)} -> {format_share(share)}: {why}"
    return ({"event": MIX, "text": text, "shares": {rule["old"]: str(share), rule["new"]: str(1 - share)}},)


def may_still_raise(records: Sequence[Record]) -> bool:
    """Whether a thermostat can still bring an attempt back: it has more old data to give, or the most was given too
    lately to tell. Asked before such an attempt is stopped early; False of every other attempt."""
    rule = records[0].get("steering")
    if rule is None or rule["by"] != "thermostat":
        return False
    stand = stand_of(records)
    return stand.in_time and (stand.share < Fraction(rule["most"]) or not stand.outlooks)


def stand_of(records: Sequence[Record]) -> Stand:
    """What the records of a steered attempt say, up to their last one."""
    header = records[0]
    switch_step, steps = header["switch_step"], header["steps"]
    changes = [(switch_step, Fraction(header["steering"]["start"]))]
    settled: list[tuple[Record, Fraction]] = []
    step = switch_step
    for record in records:
        if record.get("event") == MIX:
            changes.append((record["step"], Fraction(record["shares"][header["steering"]["old"]])))
        elif _on_the_way(record) and record["step"] > switch_step:
            step = record["step"]
            if step - changes[-1][0] >= SETTLED * (steps - switch_step):
                settled.append((record, changes[-1][1]))
    since_step, share = changes[-1]
    fresh = sum(record["step"] > since_step for record, _ in settled)
    enough = len(settled) >= FEWEST_EVALUATIONS and fresh >= FEWEST_AT_SHARE
    outlooks = tuple(_outlook(header, settled, share, fresh, name) for name in header["old"]) if enough else ()
    return Stand(share, len(changes) - 1, step - since_step, steps - step, steps - switch_step, outlooks)


def _on_the_way(record: Record) -> bool:
    """Whether it is an evaluation during the attempt, of losses that are all finite."""
    if record["kind"] != "eval" or record["full"]:
        return False
    return all(None not in windows for windows in record["windows"].values())


def _outlook(
    header: Record, settled: Sequence[tuple[Record, Fraction]], share: Fraction, fresh: int, name: str
) -> Outlook:
    """The forecast of one corpus from its settled evaluations, of which the last `fresh` are at the share of today."""
    last = settled[-1][0]
    reference = np.asarray(header["references"][name]["windows"])
    picked = reference[subset(len(reference), len(last["windows"][name]))]
    since = np.array([record["step"] - header["switch_step"] for record, _ in settled], dtype=np.float64)
    forgotten = np.array([np.mean(record["windows"][name]) - picked.mean() for record, _ in settled])
    related = np.array([LAW.at(float(share)) / LAW.at(float(then)) for _, then in settled])
    values = np.where(forgotten > 0, forgotten * related, forgotten)
    level = slice(-min(fresh, LEVEL_EVALUATIONS), None)
    scatter = float(np.sqrt(np.mean(np.diff(values) ** 2) / 2))
    phase_steps, here_steps = header["steps"] - header["switch_step"], float(since[level].mean())
    end, here = (forecast(since.tolist(), values.tolist(), steps, scatter).value for steps in (phase_steps, here_steps))
    noise = math.hypot(paired_noise(last["windows"][name], picked.tolist()), scatter / math.sqrt(len(values[level])))
    ahead = float(values[level].mean()) + max(0.0, end - here)
    return Outlook(name, float(forgotten[-1]), ahead, noise, header["tolerance"][name]["nats"])


def _thermostat(rule: Record, stand: Stand) -> tuple[Fraction, str] | None:
    """The next share of the old data and why, or None where it stays."""
    least, most, now = float(Fraction(rule["least"])), float(Fraction(rule["most"])), float(stand.share)
    if not stand.outlooks or not stand.in_time:
        return None
    worst = max(stand.outlooks, key=lambda each: each.share_for(now))
    wanted = worst.share_for(now)
    if any(each.forecast > each.tolerance - RISES_ABOVE * each.noise for each in stand.outlooks):
        share = min(wanted, now * MOST_CHANGE, most)
    elif stand.left_steps >= LAST_FALL * stand.phase_steps and all(
        each.forecast < each.tolerance - FALLS_BELOW * each.noise for each in stand.outlooks
    ):
        share = max(math.sqrt(wanted * now), now / MOST_CHANGE, least)
    else:
        return None
    readable = Fraction(f"{share:.2g}")
    return min(max(readable, Fraction(rule["least"])), Fraction(rule["most"])), worst.words()


def _incremental(rule: Record, stand: Stand) -> tuple[Fraction, str] | None:
    """The next step down and why, or None where the present one goes on."""
    stairs = [Fraction(share) for share in rule["stairs"]]
    equal_steps = stand.phase_steps / len(stairs)
    if stand.changes + 1 == len(stairs):
        return None
    share = stairs[stand.changes + 1]
    if stand.held_steps >= LATEST * equal_steps:
        return share, f"after {LATEST:g} times its equal tokens"
    if not stand.outlooks or stand.held_steps < SOONEST * equal_steps:
        return None
    ahead = {each.name: each.at(float(stand.share), float(share)) for each in stand.outlooks}
    if any(ahead[each.name] > each.tolerance for each in stand.outlooks):
        return None
    words = (f"{each.words()}, and {ahead[each.name]:+.3f} behind this step" for each in stand.outlooks)
    return share, "; ".join(words)
