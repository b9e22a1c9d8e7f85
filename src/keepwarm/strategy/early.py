"""The verdict on an attempt that is still training: a state machine over its evaluations, a pure function of them.

At each evaluation since the data switched, once there is enough to go by, the attempt stands as

diverged        old and new data both worse than before; or old data beyond its tolerance and nothing learned, with
                training above its own beginning or a gradient norm 10 times its median for three evaluations; or a
                number that is not finite; or an old corpus jumped five times beyond what no replay costs (then look at
                the data first)
not-recovering  an old corpus is forecast beyond its tolerance at the end: worsening, on a plateau, or falling too slowly
under-adapting  the new corpus is forecast to gain less than it must, of what the no-replay control gains
recovering      an old corpus is beyond its tolerance now, and forecast within at the end
recovered       neither

Old and new corpora are judged jointly: old data alone can't tell forgetting from broken optimisation. A decision is
`clear` where every number behind it lies two doubts from its limit, else `close`. Only what was clear at two
evaluations in a row stops an attempt. Which of its reasons holds may flip between evaluations; the outcome decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from keepwarm.strategy.evidence import Evidence, Floats, NewSeries, OldSeries
from keepwarm.strategy.recovery import FALLING_Z, Forecast, forecast
from keepwarm.strategy.trouble import Kind, trouble_of
from keepwarm.units import format_count

Sure = Literal["clear", "close"]

FEWEST_EVALUATIONS = 5
LEAST_SHARE = 0.25  # of the phase since the switch
LEAST_SHARE_FALLING = 0.60  # where LR falls before the end: what falls with it is not known earlier
LEAST_SHARE_DIVERGED = 0.10
PATIENCE = 2  # decisions in a row
BROKEN_FOR = 3  # evaluations
NORM_ALARM = 10.0  # times the median
SPIKE_ALARM = 5.0  # times what the no-replay control forgot, or the tolerance
DRIFT = 0.025  # of the reference, an e-fold of steps ahead: what no fit of a curve's beginning foretells (benchmarks)
NOISE_WIDTHS = 2.0
NOW = 3  # evaluations whose mean is where a corpus stands
NO_CONTROL = "more than noise (no control)"
STOPS = ("diverged", "not-recovering", "under-adapting")


@dataclass(frozen=True, slots=True)
class OldStand:
    """How an old corpus stands. Nats of forgetting; `forecast` is for the end of the constant phase, less the measured
    cooldown drop where a cooldown follows; `crosses_tokens` since the switch, None = never."""

    forgetting: float
    noise: float
    forecast: float
    doubt: float
    tolerance: float
    slope: float  # nats a million tokens
    state: str
    crosses_tokens: int | None
    lost: bool  # forecast beyond its tolerance
    beyond: bool  # and beyond it now, by more than noise
    clear: bool


@dataclass(frozen=True, slots=True)
class NewStand:
    """How the new corpus stands: `gain` and `needed` now, and what is forecast: a share of the control's gain, or nats
    where there is no control."""

    gain: float
    noise: float
    needed: float
    forecast: float
    doubt: float
    needed_is: str
    of_control: bool
    short: bool
    worse: bool  # than where the attempt itself began
    learned: bool  # more than noise since then
    clear: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What an attempt's records say after one of its evaluations."""

    outcome: str
    sure: Sure
    text: str
    since_steps: int
    old: Mapping[str, OldStand]
    new: Mapping[str, NewStand]
    spiked: bool = False

    @property
    def trouble(self) -> Kind | None:
        """What kind of trouble it is."""
        learning = all(stand.learned for stand in self.new.values())
        return "data bug" if self.spiked else trouble_of(self.outcome, learning=learning)

    def by_corpus(self) -> dict[str, str]:
        """The numbers of each corpus in a sentence."""
        old = {name: _words(name, stand) for name, stand in self.old.items()}
        return old | {name: _new_words(name, stand) for name, stand in self.new.items()}

    def corpora(self) -> dict[str, Any]:
        """The numbers by corpus, rounded for a record."""
        old = {name: _rounded(asdict(stand)) for name, stand in self.old.items()}
        return old | {name: _rounded(asdict(stand)) for name, stand in self.new.items()}


def decide(seen: Evidence) -> Decision:
    """The decision after the last evaluation of `seen`."""
    since = int(seen.since_steps[-1]) if len(seen.since_steps) else 0
    if seen.broken:
        return Decision("diverged", "clear", seen.broken, since, {}, {})
    count, ended = len(seen.since_steps), seen.share >= 1
    if not ended and (count < FEWEST_EVALUATIONS or seen.share < LEAST_SHARE_DIVERGED):
        return Decision("undecided", "close", "too few evaluations since the data switched", since, {}, {})
    old = {series.name: _old(seen, series) for series in seen.old}
    new = {seen.new.name: _new(seen, seen.new)} if seen.new else {}
    trained = training_broke(seen.training.loss, seen.training.norm)
    lost = {name: stand for name, stand in old.items() if stand.lost}
    if (spiked := _spiked(seen)) is not None:
        return Decision("diverged", "clear", spiked, since, old, new, spiked=True)
    beyond = {name: stand for name, stand in old.items() if stand.beyond}
    learned = any(stand.learned for stand in new.values())
    if trained and beyond and not learned:
        return Decision("diverged", "clear" if seen.share >= LEAST_SHARE else "close", trained, since, old, new)
    worse = [name for name, stand in new.items() if stand.worse]
    if beyond and worse:
        sure: Sure = "clear" if all(new[name].clear for name in worse) else "close"
        text = f"{_list(beyond)} and {', '.join(worse)} both got worse"
        return Decision("diverged", sure, text, since, old, new)
    if seen.share < LEAST_SHARE:
        return Decision("undecided", "close", "too little of the phase is seen", since, old, new)
    return _by_domain(seen, since, old, new, lost)


def _by_domain(
    seen: Evidence, since: int, old: Mapping[str, OldStand], new: Mapping[str, NewStand], lost: Mapping[str, OldStand]
) -> Decision:
    if lost:
        worst = max(lost, key=lambda name: lost[name].forecast - lost[name].tolerance)
        sure: Sure = "clear" if _any_clear(lost) else "close"
        return Decision("not-recovering", sure, _words(worst, lost[worst]), since, old, new)
    short = [name for name, stand in new.items() if stand.short]
    if short:
        sure = "clear" if all(new[name].clear for name in short) and not seen.falling else "close"
        return Decision("under-adapting", sure, _new_words(short[0], new[short[0]]), since, old, new)
    beyond = [name for name, stand in old.items() if stand.forgetting > stand.tolerance]
    every_clear = all(stand.clear for stand in old.values()) and all(stand.clear for stand in new.values())
    sure = "clear" if every_clear else "close"
    outcome = "recovering" if beyond else "recovered"
    words = "; ".join(_words(name, old[name]) for name in beyond or list(old)[:1]) or "nothing old to forget"
    return Decision(outcome, sure, words, since, old, new)


def decisions(seen: Evidence) -> list[Decision]:
    """The decision after each evaluation."""
    return [decide(seen.until(count)) for count in range(1, len(seen.since_steps) + 1)]


def stops(seen: Evidence) -> Decision | None:
    """The decision to end the attempt here: the same outcome, clear, at the last evaluations in a row; else None."""
    last = decide(seen)
    if last.outcome not in STOPS or last.sure == "close":
        return None
    least = LEAST_SHARE_FALLING if seen.falling and last.outcome != "diverged" else 0.0
    if seen.share < least:
        return None
    for back in range(1, 1 if seen.broken else PATIENCE):
        before = decide(seen.until(len(seen.since_steps) - back))
        if before.outcome != last.outcome or before.sure == "close":
            return None
    return last


def _old(seen: Evidence, series: OldSeries) -> OldStand:
    if seen.share >= 1:
        return _old_at_end(series)
    now, noise = float(series.forgotten[-NOW:].mean()), float(series.noise[-1])
    ahead = forecast(seen.since_steps.tolist(), series.forgotten.tolist(), seen.phase_steps, noise)
    value, doubt = ahead.value, math.hypot(ahead.doubt, DRIFT * series.reference * math.log(1 / seen.share))
    if seen.falling:  # what falls with LR is not in the fit: the better of both, and no more sure than they agree
        value, doubt = min(value, now), max(doubt, abs(value - now) / 2)
    returns = series.returns if series.returns is not None else 0.0
    value, stands = value - returns, now - returns
    lost = value > series.tolerance
    clear = abs(value - series.tolerance) > NOISE_WIDTHS * doubt and series.returns is not None
    beyond = stands - NOISE_WIDTHS * noise > series.tolerance
    if lost:
        clear = clear and beyond
    crosses = ahead.crosses(series.tolerance + returns)
    return OldStand(
        stands, noise, value, doubt, series.tolerance, ahead.slope / seen.step_tokens * 1e6,
        _state(seen, series, ahead, now, noise),
        round(crosses * seen.step_tokens) if math.isfinite(crosses) else None, lost, beyond, clear,
    )  # fmt: skip


def _old_at_end(series: OldSeries) -> OldStand:
    """Nothing is left to forecast."""
    value, noise = float(series.forgotten[-1]), float(series.noise[-1])
    lost, clear = value > series.tolerance, abs(value - series.tolerance) > NOISE_WIDTHS * noise
    return OldStand(value, noise, value, noise, series.tolerance, 0.0, "at its end", None, lost, lost and clear, clear)


def _state(seen: Evidence, series: OldSeries, ahead: Forecast, now: float, noise: float) -> str:
    """How the curve moves; whether it left the band of the first forecast that was made of it."""
    moves = "worsening" if ahead.trend_z > -FALLING_Z else "falling" if ahead.trend_z < FALLING_Z else "on a plateau"
    first = next(
        (
            i
            for i, t in enumerate(seen.since_steps, 1)
            if i >= FEWEST_EVALUATIONS and t >= LEAST_SHARE * seen.phase_steps
        ),
        None,
    )
    if first is None or first == len(seen.since_steps):
        return moves
    made = forecast(seen.since_steps[:first].tolist(), series.forgotten[:first].tolist(), seen.since_steps[-1], noise)
    return f"{moves}, worse than first forecast" if now > made.value + NOISE_WIDTHS * made.doubt else moves


def _new(seen: Evidence, series: NewSeries) -> NewStand:
    gain, noise = float(series.gained[-1]), float(series.noise[-1])
    since, since_start = seen.since_steps, gain + series.lead
    learned = since_start > NOISE_WIDTHS * noise
    if seen.share >= 1:
        needed = NOISE_WIDTHS * noise
        short, clear = gain <= needed, abs(gain - needed) > NOISE_WIDTHS * noise
        return NewStand(
            gain, noise, needed, gain, noise, NO_CONTROL, False, short, since_start < -needed, learned, clear
        )
    ahead = forecast(since.tolist(), series.gained.tolist(), seen.phase_steps, noise)
    worse = since_start < -NOISE_WIDTHS * noise
    hopeless = max(gain, ahead.value) + series.lead + NOISE_WIDTHS * ahead.doubt < 0
    known = np.isfinite(series.control) & (series.control >= max(series.control[-1] / 2, NOISE_WIDTHS * noise))
    of_control = bool(known[-1] and known.sum() >= FEWEST_EVALUATIONS)
    if of_control:
        ratio = series.gained[known] / series.control[known]
        shares = forecast(since[known].tolist(), ratio.tolist(), seen.phase_steps, noise / float(series.control[-1]))
        value, doubt = shares.exponential.value, shares.doubt  # a share saturates
        short = value < series.share
        clear = abs(value - series.share) > NOISE_WIDTHS * doubt and (ratio[-1] < series.share or not short)
        needed, needed_is = series.share * float(series.control[-1]), f"{series.share:.0%} of the control's"
    else:
        value, doubt, needed, needed_is = ahead.value, ahead.doubt, NOISE_WIDTHS * noise, NO_CONTROL
        short, clear = value <= needed, abs(value - needed) > NOISE_WIDTHS * doubt
    sure = hopeless if worse else clear
    return NewStand(gain, noise, needed, value, doubt, needed_is, of_control, short, worse, learned, sure)


def _spiked(seen: Evidence) -> str | None:
    """Which old corpus jumped far beyond what no replay costs at the same rate; None where none did."""
    for series in seen.old:
        if seen.faster or np.isnan(series.control).all():
            continue
        expected = max(float(np.nanmax(series.control)), series.tolerance, NOISE_WIDTHS * float(series.noise[-1]))
        if series.forgotten.max() - series.lead > SPIKE_ALARM * expected:
            top, without = float(series.forgotten.max()), float(np.nanmax(series.control))
            return f"{series.name} jumped by {top:.3f} nats, where training without replay costs {without:.3f}"
    return None


def training_broke(loss: Floats, norm: Floats) -> str | None:
    """Why training itself is broken, for three intervals in a row; None while it is not. Mean losses and median norms
    of intervals, NaN where there is none."""
    if len(loss) <= BROKEN_FOR or np.isnan(loss[[0, *range(-BROKEN_FOR - 1, 0)]]).any():
        return None
    if loss[-BROKEN_FOR:].min() > loss[0] + NOISE_WIDTHS * _scatter(loss):
        return f"the training loss is above where it began: {loss[0]:.3f} -> {loss[-1]:.3f}"
    usual = float(np.median(norm[:-BROKEN_FOR]))
    if norm[-BROKEN_FOR:].min() > NORM_ALARM * usual:
        return f"the gradient norm is {norm[-1] / usual:.0f} times its median"
    return None


def _scatter(loss: Floats) -> float:
    """How far an interval's loss stands from its neighbours' by chance, of the last ones: behind a jump."""
    return 1.4826 * float(np.median(np.abs(np.diff(loss[-BROKEN_FOR - 1 :])))) / math.sqrt(2)


def _any_clear(lost: Mapping[str, OldStand]) -> bool:
    return any(stand.clear for stand in lost.values())


def _list(lost: Mapping[str, OldStand]) -> str:
    return ", ".join(f"{name} {stand.forgetting:+.3f}" for name, stand in lost.items())


def _words(name: str, stand: OldStand) -> str:
    """The numbers of an old corpus in a sentence."""
    text = (
        f"{name} has forgotten {stand.forgetting:+.3f} nats ({stand.state}), forecast at the end {stand.forecast:+.3f} "
        f"+- {stand.doubt:.3f}, tolerance {stand.tolerance:.3f}"
    )
    if stand.lost and stand.state.startswith("falling"):
        tokens = stand.crosses_tokens
        crosses = f"crosses after {format_count(tokens)} tokens" if tokens is not None else "never crosses"
        text += f", which the fit {crosses}: too slow"
    return text


def _new_words(name: str, stand: NewStand) -> str:
    ahead = f"{stand.forecast:+.3f} +- {stand.doubt:.3f}"
    if stand.of_control:
        ahead = f"{stand.forecast:.0%} +- {stand.doubt:.0%}"
    return (
        f"{name} gained {stand.gain:+.3f} nats of the {stand.needed:.3f} needed by now ({stand.needed_is}), forecast at "
        f"the end {ahead}"
    )


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) and math.isfinite(v) else v for k, v in values.items()}
