"""The forecast of a stage from pilots: what each replay share would lose and gain at each budget, and which to take.

A record (`forecast.json`) holds the laws of every corpus, one for each draw (strategy/surface.py), so that whatever is
asked of it later, at any share and budget, is answered with the same intervals and jointly over the corpora.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keepwarm.evaluate.heldout import subset
from keepwarm.strategy.laws import Floats, critical_law, new_gain, old_loss
from keepwarm.strategy.surface import Drift, Points, Steps, Surface, fit_new, fit_old
from keepwarm.units import format_share

INTERVAL = 0.8  # of the draws lie in an interval
SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.3, 0.5)  # of the table: the cookbook's, and no replay
CANDIDATES = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)  # shares to recommend
UNKNOWN_DRIFT = 0.1  # nats a factor e: the width, where nothing is on record
_KNOWN_AT_BEST = 1e-4  # nats a factor e
_CRITICAL = np.linspace(0, 0.95, 96)

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pilot:
    """A pilot's replay share and its metrics; `control`: the replayed data alone."""

    share: float
    records: Sequence[Record]
    control: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be forecast: a stage's tokens, budgets, and how the pilots were trained."""

    stage_tokens: int
    budgets: Sequence[int]
    steps: Steps
    before_tokens: int  # the line's, on the data that is replayed
    seed: int


def made(pilots: Sequence[Pilot], drifts: Mapping[str, tuple[float, float] | None], asked: Asked) -> dict[str, Any]:
    """The forecast's own part of the record. `drifts`: what the line's record says of each old corpus (`drift_of`)."""
    header = pilots[0].records[0]
    corpora = {}
    for name in (*header["old"], header["new"]):
        points = points_of(pilots, name)
        surface, check = _fitted(points, name, header, pilots, drifts.get(name), asked)
        reference = header["references"].get(name)
        corpora[name] = {
            "role": "old" if reference else "new",
            "before": header["before"][name]["loss"],
            "reference": reference["loss"] if reference else None,
            "tolerance": header["tolerance"][name]["nats"] if reference else None,
            "noise": surface.noise,
            "law": {key: _plain(value) for key, value in surface.law.items()},
            "check": check,
        }
    content: dict[str, Any] = {
        "stage_tokens": asked.stage_tokens, "adaptation": header["adaptation"]["share"], "interval": INTERVAL,
        "shares": sorted({each.share for each in pilots if not each.control}), "seed": asked.seed, "corpora": corpora,
    }  # fmt: skip
    shares = sorted({*SHARES, *content["shares"]})
    content["table"] = [row(content, share, tokens) for tokens in asked.budgets for share in shares]
    content["critical"] = [critical(content, tokens) for tokens in asked.budgets]
    pilot_tokens = max(float(points_of(pilots, header["new"]).tokens.max()), 1.0)
    far = [critical(content, float(t)) for t in np.geomspace(pilot_tokens, 2 * asked.stage_tokens, 8)]
    content["critical_law"] = critical_law([each["tokens"] for each in far], [each["share"] for each in far])
    content["recommended"] = recommended(content)
    return content


def points_of(pilots: Sequence[Pilot], corpus: str) -> Points:
    """What the pilots measured of a corpus on the way and at their ends."""
    shares, tokens, windows, whole = [], [], [], []
    for pilot in (each for each in pilots if not each.control):
        for at, difference, over_all in _differences(pilot, corpus):
            shares.append(pilot.share)
            tokens.append(at)
            windows.append(difference)
            whole.append(over_all.mean())
    return Points(np.array(shares), np.array(tokens, dtype=np.float64), np.array(windows), np.array(whole))


def predicted(record: Record, share: float, tokens: float) -> dict[str, Floats]:
    """Loss of each corpus at a replay share after so many tokens of the stage, one value a draw. Nats per token."""
    found = {}
    for number, (name, corpus) in enumerate(record["corpora"].items()):
        law = {key: np.asarray(value) for key, value in corpus["law"].items()}
        moved = old_loss(share, tokens, law) if corpus["role"] == "old" else -new_gain(share, tokens, law)
        around = np.random.default_rng((record["seed"], 3, number)).standard_normal(len(moved))
        found[name] = corpus["before"] + moved + corpus["noise"] * around  # what is measured has noise, too
    return found


def predicted_excess(record: Record, share: float) -> dict[str, tuple[float, float]]:
    """Of each old corpus at the stage's tokens: nats of forgetting beyond its tolerance, and its standard deviation."""
    draws = _excess(record, predicted(record, share, record["stage_tokens"]))
    return {name: (float(np.median(each)), _deviation(each)) for name, each in draws.items()}


def row(record: Record, share: float, tokens: float) -> dict[str, Any]:
    """A row of the table: losses with their intervals, forgetting, and how probably the old corpora and the new one hold."""
    losses = predicted(record, share, tokens)
    excess = _excess(record, losses)
    new = next(name for name, corpus in record["corpora"].items() if corpus["role"] == "new")
    before, least = record["corpora"][new]["before"], record["adaptation"]
    control = before - predicted(record, 0.0, tokens)[new]
    worst = max(excess, key=lambda name: float(np.median(excess[name])))
    return {
        "share": share, "tokens": int(tokens), "loss": {name: interval(draws) for name, draws in losses.items()},
        "forgetting": {n: interval(d + record["corpora"][n]["tolerance"]) for n, d in excess.items()},
        "worst": worst, "meets": _probability(np.max(list(excess.values()), axis=0) <= 0),
        "gain": interval(before - losses[new]), "adapts": _probability(before - losses[new] >= least * control),
    }  # fmt: skip


def critical(record: Record, tokens: float) -> dict[str, Any]:
    """The greatest share of new data whose old corpora all stay within tolerance (2407.17467), with its interval."""
    worst = [np.max(list(_excess(record, predicted(record, p, tokens)).values()), axis=0) for p in _CRITICAL]
    meets = np.array(worst) <= 0
    least = np.where(meets.any(axis=0), _CRITICAL[np.argmax(meets, axis=0)], 1.0)
    found = interval(1 - least)
    return {"tokens": int(tokens), "share": found["value"], "low": found["low"], "high": found["high"]}


def recommended(record: Record) -> dict[str, Any] | None:
    """The least replay share that is forecast to keep every old corpus at the stage's tokens; None where none up to half
    does. `confidence`: the share of draws in which it does."""
    for share in sorted({*CANDIDATES, *record["shares"]}):
        found = row(record, share, record["stage_tokens"])
        if found["meets"] >= 0.5:
            return {"share": share, "confidence": found["meets"], "adapts": found["adapts"], "worst": found["worst"]}
    return None


def rung_words(rung: str, share: float) -> str:
    """A share in the plan's words, to be pasted."""
    return "ladder: [{rung: naive}]" if not share else f"ladder: [{{rung: {rung}, shares: [{format_share(share)}]}}]"


def interval(draws: Floats) -> dict[str, float]:
    """The median, and where `INTERVAL` of the draws lie."""
    low, value, high = np.quantile(draws, [(1 - INTERVAL) / 2, 0.5, (1 + INTERVAL) / 2])
    return {"value": round(float(value), 5), "low": round(float(low), 5), "high": round(float(high), 5)}


def _fitted(
    points: Points, name: str, header: Record, pilots: Sequence[Pilot], recorded: tuple[float, float] | None,
    asked: Asked,
) -> tuple[Surface, list[dict[str, Any]]]:  # fmt: skip
    """A corpus's laws, for all windows; and, held out, the pilots' ends as their first halves forecast them."""
    if name == header["new"]:
        surface, half = (fit_new(each, asked.steps, asked.seed) for each in (points, _first_half(points)))
    else:
        drift = _drift(pilots, name, recorded, asked.before_tokens)
        surface, half = (fit_old(each, drift, asked.steps, asked.seed) for each in (points, _first_half(points)))
    end = float(points.tokens.max())
    check = []
    for share in np.unique(points.shares):
        moved = -new_gain(share, end, half.law) if name == header["new"] else old_loss(share, end, half.law)
        around = np.random.default_rng(asked.seed).standard_normal(len(moved))
        measured = points.values[(points.shares == share) & (points.tokens == end)].mean()
        check.append({"share": float(share), "measured": float(measured), **interval(moved + half.noise * around)})
    return surface, check


def _first_half(points: Points) -> Points:
    half = points.until(points.tokens.max() / 2)
    return half if len(np.unique(half.tokens)) > 1 else points


def _drift(pilots: Sequence[Pilot], name: str, recorded: tuple[float, float] | None, before: int) -> Drift:
    """From the line's record and, where there is one, the control pilot; each counts by how well it is known."""
    known = [recorded or (0.0, UNKNOWN_DRIFT)]
    for pilot in (each for each in pilots if each.control):
        seen = [(math.log1p(at / before), float(values.mean())) for at, values, _ in _differences(pilot, name)]
        x, y = (np.array(column) for column in zip(*seen, strict=True))
        slope = float(x @ y / (x @ x))
        rest = y - slope * x
        known.append((slope, math.sqrt(float(rest @ rest) / max(1, len(y) - 1) / float(x @ x))))
    slopes, doubts = (np.array(column) for column in zip(*known, strict=True))
    weights = 1 / np.maximum(doubts, _KNOWN_AT_BEST) ** 2
    return Drift(float(weights @ slopes / weights.sum()), float(weights.sum() ** -0.5), before)


def _differences(pilot: Pilot, corpus: str) -> list[tuple[int, Floats, Floats]]:
    """(tokens, windows of the way, all windows or those) after the first step: differences to the loss before it."""
    header = pilot.records[0]
    before = np.array(header["before"][corpus]["windows"])
    chosen = subset(len(before), header["evaluation"]["subset"][corpus])
    found = []
    for record in pilot.records:
        if record["kind"] == "eval" and record["step"] > 0:
            now = np.array(record["windows"][corpus], dtype=np.float64)
            part = (now[chosen] if record["full"] else now) - before[chosen]
            found.append((int(record["tokens"]), part, now - before if record["full"] else part))
    return found


def _excess(record: Record, losses: Mapping[str, Floats]) -> dict[str, Floats]:
    old = {name: corpus for name, corpus in record["corpora"].items() if corpus["role"] == "old"}
    return {name: losses[name] - corpus["reference"] - corpus["tolerance"] for name, corpus in old.items()}


def _deviation(draws: Floats) -> float:
    """As wide as a normal one whose interval is that of the draws."""
    low, high = np.quantile(draws, [0.1587, 0.8413])
    return float(high - low) / 2


def _probability(holds: Any) -> float:
    return round(float(np.mean(holds)), 4)


def _plain(value: Any) -> Any:
    """Numbers for JSON, six significant digits."""
    return float(f"{value:.6g}") if np.ndim(value) == 0 else [float(f"{each:.6g}") for each in value]
