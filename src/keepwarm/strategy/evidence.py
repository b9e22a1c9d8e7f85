"""What the verdict of an attempt on the way is decided from: paired losses since the data switched, as series.

Every series has one value an evaluation. The clock starts at the data switch, not at the stage's start. Losses are
paired: the same windows now and in the reference, which is of the phase the attempt ends in; where a cooldown follows,
what it gave back on the reference's own windows (`returns`) is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.attempt.passed_over import broken_words
from keepwarm.evaluate.forgetting import paired_noise
from keepwarm.evaluate.heldout import gap, subset
from keepwarm.schedule.schedule import PEAK_TOLERANCE

Record = Mapping[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class OldSeries:
    """What an old corpus has forgotten, nats per token; `returns` of it come back in a cooldown, None = not known.

    Measured on a part of its windows and corrected by `gaps`, linear in steps in between and behind them as last known: at
    which steps since the switch all windows had forgotten how much more than those of the way.

    `lead`: how far the attempt itself began above the reference. It did where it went back to a checkpoint that was not
    taught this corpus yet: what it has not learned is no sign of what broke.
    """

    name: str
    reference: float  # the loss it is held against
    tolerance: float
    forgotten: Floats
    noise: Floats  # standard error of each
    returns: float | None
    control: Floats  # what the no-replay control had forgotten at the same tokens (NaN: not known)
    lead: float = 0.0
    gaps: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class NewSeries:
    """What the new corpus has gained on where the line stood, and where the no-replay control stood at the same tokens.

    `lead`: how far the attempt itself began above that, as one does that went back to an earlier checkpoint.
    """

    name: str
    gained: Floats
    noise: Floats
    control: Floats
    share: float  # of the control's gain that is needed
    lead: float = 0.0


@dataclass(frozen=True, eq=False, slots=True)
class Training:
    """Training loss and gradient norm since the evaluation before: mean and median."""

    loss: Floats
    norm: Floats


@dataclass(frozen=True, eq=False, slots=True)
class Evidence:
    """Everything known after the last of `since_steps`."""

    since_steps: Floats
    phase_steps: int
    step_tokens: float
    falling: bool  # the learning rate falls before the end
    faster: bool  # it is above the no-replay control's
    broken: str | None  # why training was given up
    old: tuple[OldSeries, ...]
    new: NewSeries | None
    training: Training
    switch_step: int = 0

    @property
    def share(self) -> float:
        """How much of the phase since the switch is seen."""
        return float(self.since_steps[-1]) / self.phase_steps if len(self.since_steps) else 0.0

    def until(self, count: int) -> Evidence:
        """What was known after the first `count` evaluations; what broke training came behind all but the last."""
        cut, since = slice(0, count), self.since_steps
        old = (
            replace(o, forgotten=_cut(o, since, count), noise=o.noise[cut], control=o.control[cut]) for o in self.old
        )
        new = self.new and replace(
            self.new, gained=self.new.gained[cut], noise=self.new.noise[cut], control=self.new.control[cut]
        )
        training = Training(self.training.loss[cut], self.training.norm[cut])
        broken = self.broken if count >= len(self.since_steps) else None
        return replace(
            self, since_steps=self.since_steps[cut], broken=broken, old=tuple(old), new=new, training=training
        )


def _cut(series: OldSeries, since: Floats, count: int) -> Floats:
    """What was known of a series after `count` evaluations: a gap that was measured later corrects nothing."""
    cut = slice(0, count)
    if not (series.gaps and count):
        return series.forgotten[cut]
    known = [each for each in series.gaps if each[0] <= since[cut][-1]]
    return (series.forgotten - _gap_at(series.gaps, since))[cut] + _gap_at(known, since[cut])


def _gap_at(gaps: Sequence[tuple[float, float]], since: Floats) -> Floats:
    if not gaps:
        return np.zeros(len(since))
    steps, values = zip(*gaps, strict=True)
    return np.asarray(np.interp(since, steps, values), dtype=np.float64)


def evidence(records: Sequence[Record]) -> Evidence:
    """The series of an attempt's records, up to the last of them."""
    header = records[0]
    switch = header["switch_step"]
    seen = [r for r in records if r["kind"] == "eval" and not r["full"] and r["step"] > switch and _finite(r)]
    own = own_start(records)
    last = seen[-1]["step"] if seen else switch
    whole = [r for r in records if r["kind"] == "eval" and r["full"] and switch <= r["step"] <= last and _finite(r)]
    return Evidence(
        np.array([r["step"] - switch for r in seen], dtype=np.float64),
        header["steps"] - switch,
        header["step_tokens"],
        header["ends"] != "peak",
        _faster(header, seen),
        broken_words(records),
        tuple(_old(header, seen, name, own, whole) for name in header["old"]) if seen else (),
        _new(header, seen, own) if seen and header["new"] else None,
        _training(records, switch, seen),
        switch,
    )


def own_start(records: Sequence[Record]) -> Record:
    """Each corpus's losses by window where the attempt itself began; empty where that is not on record."""
    found = next((r for r in records if r["kind"] == "eval" and r["full"] and r["step"] == 0), None)
    return {} if found is None else {name: windows for name, windows in found["windows"].items() if None not in windows}


def _faster(header: Record, seen: Sequence[Record]) -> bool:
    control = header.get("adaptation", {}).get("control")
    return control is not None and any(r["lr"] > control["lr"] * (1 + PEAK_TOLERANCE) for r in seen)


def _finite(record: Record) -> bool:
    return None not in record["loss"].values()


def _old(header: Record, seen: Sequence[Record], name: str, own: Record, whole: Sequence[Record]) -> OldSeries:
    reference, switch = header["references"][name], header["switch_step"]
    forgotten, noise = _paired(reference["windows"], seen, name)
    size, tokens = len(seen[0]["windows"][name]), [r["tokens"] for r in seen]
    gaps = _gaps(reference["windows"], name, size, whole, switch)
    since = np.array([r["step"] - switch for r in seen], dtype=np.float64)
    return OldSeries(
        name, float(np.mean(reference["windows"])), header["tolerance"][name]["nats"], forgotten + _gap_at(gaps, since),
        noise, _returns(header, name, None if gaps else size),
        control_above(header, reference["windows"], name, size, tokens), _lead(own, reference["windows"], name, size), gaps,
    )  # fmt: skip


def _returns(header: Record, name: str, size: int | None) -> float | None:
    """What a cooldown of the start gave back, on so many windows or all; None of a reference that was measured cooled."""
    if header["ends"] == "peak":
        return 0.0
    drop = header.get("cooldown_drop")
    if drop is None:
        return None
    windows = drop["windows"][name]
    return float(np.mean(windows if size is None else _picked(windows, size)))


def _new(header: Record, seen: Sequence[Record], own: Record) -> NewSeries | None:
    name = header["new"]
    if name not in header["before"] or name not in seen[0]["windows"]:
        return None
    before = header["before"][name]["windows"]
    lost, noise = _paired(before, seen, name)
    size, tokens = len(seen[0]["windows"][name]), [r["tokens"] for r in seen]
    came = -control_above(header, before, name, size, tokens)
    share, lead = header["adaptation"]["share"], _lead(own, before, name, size)
    return NewSeries(name, -lost, noise, came, share, lead)


def _lead(own: Record, reference: Sequence[float], name: str, size: int) -> float:
    """How far the attempt itself began above a corpus's reference, over the same windows; 0 where it began below."""
    if name not in own:
        return 0.0
    return max(0.0, float(np.mean(_picked(own[name], size)) - np.mean(_picked(reference, size))))


def control_above(header: Record, reference: Sequence[float], name: str, size: int, tokens: Sequence[int]) -> Floats:
    """How far above a corpus's reference the no-replay control stood at these tokens, over the same `size` windows; NaN
    where that is not known."""
    control = header.get("adaptation", {}).get("control")
    if control is None or control["windows"].get(name) != size:
        return np.full(len(tokens), np.nan)
    came = np.interp(tokens, control["tokens"], control["loss"][name], left=np.nan, right=np.nan)
    return np.asarray(came - np.mean(_picked(reference, size)))


def _paired(reference: Sequence[float], seen: Sequence[Record], name: str) -> tuple[Floats, Floats]:
    """Loss minus reference over the same windows, and its standard error, of every evaluation."""
    rows = [(r["windows"][name], _picked(reference, len(r["windows"][name]))) for r in seen]
    differences = np.array([np.mean(now) - np.mean(then) for now, then in rows])
    return differences, np.array([paired_noise(now, then) for now, then in rows])


def _gaps(
    reference: Sequence[float], name: str, size: int, whole: Sequence[Record], switch: int
) -> tuple[tuple[float, float], ...]:
    """How much more all windows have forgotten than the `size` of the way, wherever all were measured."""
    moved = [(r["step"], np.asarray(r["windows"][name]) - np.asarray(reference)) for r in whole if name in r["windows"]]
    return tuple((step - switch, gap(each, size)) for step, each in moved)


def _picked(windows: Sequence[float], size: int) -> list[float]:
    values = np.asarray(windows, dtype=np.float64)
    picked: list[float] = values[subset(len(values), size)].tolist()
    return picked


def _training(records: Sequence[Record], switch: int, seen: Sequence[Record]) -> Training:
    found = [r for r in records if r["kind"] == "train" and r["step"] > switch]
    steps = np.array([r["step"] for r in found], dtype=np.float64)
    loss = np.array([r["loss"] for r in found], dtype=np.float64)
    norm = np.array([r.get("grad_norm", np.nan) for r in found], dtype=np.float64)
    return training_between(steps, loss, norm, [switch, *(r["step"] for r in seen)])


def training_between(steps: Floats, loss: Floats, norm: Floats, borders: Sequence[int]) -> Training:
    """Training by interval: behind each of these steps up to the next, NaN where nothing was trained between them."""
    parts = [(steps > a) & (steps <= b) for a, b in pairwise(borders)]
    return Training(
        np.array([loss[part].mean() if part.any() else np.nan for part in parts]),
        np.array([np.median(norm[part]) if part.any() else np.nan for part in parts]),
    )
