"""The verdict on a file: the metrics of an attempt, also of one that is still training, or logs of Megatron-DeepSpeed.

A log has one blended validation loss, whose meaning changes with the mix: from it alone nothing but `diverged` can be
decided. With one log of validation for each corpus the verdict is the same as of metrics; what these logs can't say is
assumed and told: the data switched before the first iteration of the training log, the last loss before is a corpus's
reference, and its noise is the scatter of the losses before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keepwarm.attempt.records import STOPPED_EARLY
from keepwarm.errors import DataError
from keepwarm.lineage.foreign_logs import LogLine
from keepwarm.lineage.log_points import Points
from keepwarm.strategy.early import Decision, decide, decisions, training_broke
from keepwarm.strategy.evidence import Evidence, Floats, NewSeries, OldSeries, Record, evidence, training_between
from keepwarm.strategy.trouble import helps, trouble_of
from keepwarm.strategy.verdict import judge

LEAST_NOISE = 0.003  # nats: what an evaluation of the same windows scatters by at least
EARLIER = 8  # losses before the switch that tell the noise
INTERVALS = 20  # of a training log


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict on a file. `corpora` holds the numbers by corpus, `said` the decisions on the way where they changed."""

    outcome: str
    reasons: tuple[str, ...]
    training_points: int
    validation_points: int
    unparsed_lines: int
    corpora: Mapping[str, Any]
    trouble: str | None
    helps: str | None
    said: tuple[Mapping[str, Any], ...]
    assumed: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return asdict(self) | {name: list(getattr(self, name)) for name in ("reasons", "said", "assumed")}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person says of logs: the new corpus, the tolerance (nats, or a share of the reference), the switch."""

    new: str | None
    tolerance: float
    relative: bool
    switch_iteration: int | None


def judge_metrics(records: Sequence[Record], cut_lines: int = 0) -> Judged:
    """The verdict on an attempt's metrics; of one in progress, how it stands at its last evaluation."""
    seen, found = evidence(records), judge(records)
    said = _changes(seen, [r["tokens"] for r in _on_the_way(records)], records[0]["switch_step"])
    points = {
        "training_points": len({r["step"] for r in records if r["kind"] == "train"}),
        "validation_points": len({r["step"] for r in records if r["kind"] == "eval"}),
        "unparsed_lines": cut_lines,
    }
    ended = any(r.get("event") == STOPPED_EARLY for r in records)
    if found.outcome == "undecided" and not ended:
        now = decide(seen)
        steps = f"step {max((r['step'] for r in records if 'step' in r), default=0)} of {records[0]['steps']}"
        reasons = (f"still training, {steps}", *_reasons(now))
        return Judged(
            now.outcome, reasons, **points, corpora=_stands(now), trouble=now.trouble, helps=helps(now.trouble),
            said=said, assumed=(),
        )  # fmt: skip
    corpora = {n: {"role": "old", **asdict(c)} for n, c in found.old.items()}
    corpora |= {n: {"role": "new", **asdict(c)} for n, c in found.new.items()}
    return Judged(
        found.outcome, found.reasons, **points, corpora=corpora, trouble=found.trouble, helps=found.helps, said=said,
        assumed=(),
    )  # fmt: skip


def judge_log(log: Points, validation: Mapping[str, Points], asked: Asked) -> Judged:
    """The verdict on a training log, with a log of validation for each corpus or without. DataError where a corpus's log
    has no validation loss, or the new one is not among them."""
    read = {each.path: each for each in (log, *validation.values())}.values()
    points = {
        "training_points": len(log.training),
        "validation_points": sum(len(each.validation) for each in read),
        "unparsed_lines": sum(each.unparsed_lines for each in read),
    }
    broken, notes = _training(log)
    if broken is None and not validation:
        broken = training_broke(*_intervals(log.training, asked.switch_iteration))
    if broken is not None or not validation:
        outcome = "diverged" if broken is not None else "undecided"
        kind = trouble_of(outcome, learning=True)
        alone = (
            "one blended validation loss means something else after every change of the mix: from it alone nothing but "
            "diverged can be decided; give each corpus's own: --validation CORPUS=LOG"
        )
        reasons = (broken, *notes) if broken is not None else (alone, *notes)
        return Judged(
            outcome, reasons, **points, corpora={}, trouble=kind, helps=helps(kind), said=(), assumed=()
        )  # fmt: skip
    seen, assumed = _evidence(log, validation, asked)
    now = decide(seen)
    reasons = (*_reasons(now), *notes)
    said = _changes(seen, None, round(seen.switch_step))
    return Judged(
        now.outcome, reasons, **points, corpora=_stands(now), trouble=now.trouble, helps=helps(now.trouble), said=said,
        assumed=tuple(assumed),
    )  # fmt: skip


def _on_the_way(records: Sequence[Record]) -> list[Record]:
    switch = records[0]["switch_step"]
    return [
        r
        for r in records
        if r["kind"] == "eval" and not r["full"] and r["step"] > switch and None not in r["loss"].values()
    ]


def _reasons(now: Decision) -> tuple[str, ...]:
    """The decision, then each corpus it does not name."""
    others = [text for name, text in now.by_corpus().items() if not now.text.startswith(f"{name} ")]
    return (now.text if now.outcome == "undecided" else f"{now.text} ({now.sure})", *others)


def _stands(now: Decision) -> dict[str, Any]:
    corpora = now.corpora()
    return {name: {"role": "old" if name in now.old else "new", **corpora[name]} for name in corpora}


def _changes(seen: Evidence, tokens: Sequence[int] | None, switch: int) -> tuple[Mapping[str, Any], ...]:
    """The decisions at which the outcome, or how sure it is, changed."""
    found: list[Mapping[str, Any]] = []
    before = ("undecided", "close")
    for number, each in enumerate(decisions(seen)):
        if (each.outcome, each.sure) == before:
            continue
        before = (each.outcome, each.sure)
        at = {"step": switch + each.since_steps} | ({"tokens": tokens[number]} if tokens is not None else {})
        found.append({**at, "outcome": each.outcome, "sure": each.sure, "text": each.text})
    return tuple(found)


def _training(log: Points) -> tuple[str | None, tuple[str, ...]]:
    """Which loss ended as no finite number, or None; and what else there is to say of a log's training lines."""
    lines = log.training
    notes = [f"restarts: {log.restarts}; of an iteration that was trained again the last time counts"] * bool(
        log.restarts
    )
    skipped = [line for line in lines if line.skipped]
    if skipped:
        notes.append(
            f"iterations logged as skipped: {sum(line.skipped for line in skipped)}, the first in line "
            f"{_line_number(skipped[0])}; no loss is printed of them"
        )
    if log.unparsed_lines:
        notes.append(f"lines that begin like a point and can not be read: {log.unparsed_lines}")
    bad = [line for line in lines if line.not_finite]
    if bad:
        first, where = bad[0], f"at iteration {bad[0].iteration:,} (line {_line_number(bad[0])})"
        after = [line for line in lines if line.iteration > first.iteration and line.loss is not None]
        if not any(math.isfinite(line.loss or 0) for line in after):
            return f"the training loss is not a finite number {where}, and no later one is", tuple(notes)
        notes.append(f"losses that are not finite numbers: {len(bad)}, the first {where}; later ones are")
    return None, tuple(notes)


def _line_number(line: LogLine) -> str:
    return line.place.rpartition(":")[2]


def _losses(lines: Sequence[LogLine], switch: int) -> tuple[Floats, Floats, Floats]:
    """Iteration, loss and gradient norm (NaN: not printed) of the lines behind the switch that have a loss."""
    kept = [line for line in lines if line.iteration > switch and line.loss is not None and math.isfinite(line.loss)]
    rows = [(line.iteration, line.loss, math.nan if line.grad_norm is None else line.grad_norm) for line in kept]
    iteration, loss, norm = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return iteration, loss, norm


def _intervals(lines: Sequence[LogLine], switch: int | None) -> tuple[Floats, Floats]:
    """Mean loss and median gradient norm of equal intervals; shorter logs: of each line."""
    _, loss, norm = _losses(lines, -1 if switch is None else switch)
    parts = min(INTERVALS, len(loss))
    if not parts:
        return loss, norm
    return (
        np.array([part.mean() for part in np.array_split(loss, parts)]),
        np.array([np.median(part) for part in np.array_split(norm, parts)]),
    )


def _evidence(log: Points, validation: Mapping[str, Points], asked: Asked) -> tuple[Evidence, list[str]]:
    """The series of per-corpus logs from the switch on, and what was assumed."""
    if asked.new is not None and asked.new not in validation:
        raise DataError(
            f"--new {asked.new}: no validation log of it is given",
            "what it gained can't be told without",
            f"--validation {asked.new}=LOG (given: {', '.join(validation)})",
        )
    assumed = []
    switch = asked.switch_iteration
    if switch is None:
        if not log.training:
            raise DataError(
                f"{log.path}: no training line", "when the data switched can't be told from it", "--switch ITERATION"
            )
        switch = log.training[0].iteration - 1
        assumed.append(f"the data switched at iteration {switch:,}, before the first one of {log.path.name}")
    end = (
        log.training[-1].iterations
        if log.training
        else max(v.iteration for p in validation.values() for v in p.validation)
    )
    if end <= switch:
        raise DataError(
            f"--switch {switch}: {log.path} ends at iteration {end:,}",
            "what is judged is what came behind the switch of data",
            "--switch ITERATION before it, or the log of what was trained from there on",
        )
    series = {name: _series(name, points, switch, assumed) for name, points in validation.items()}
    since = _common([found[0] for found in series.values()], validation)
    old, new = [], None
    for name, (iterations, loss, reference, noise) in series.items():
        values = loss[np.isin(iterations, since)] - reference
        spread = np.full(len(values), noise)
        unknown = np.full(len(values), np.nan)
        if name == asked.new:
            new = NewSeries(name, -values, spread, unknown, 0.0)
        else:
            limit = asked.tolerance * reference if asked.relative else asked.tolerance
            old.append(OldSeries(name, reference, limit, values, spread, 0.0, unknown))
    if asked.new is None:
        assumed.append("no corpus is named as the new one (--new CORPUS), so what was learned is not judged")
    assumed.append("the learning rate is the same before the switch and at the end")
    step_tokens = _step_tokens(log.training)
    if step_tokens is None:
        assumed.append(f"{log.path.name} does not say how many tokens it consumed: an iteration counts as one")
    training = training_between(*_losses(log.training, switch), [switch, *since])
    return (
        Evidence(
            np.asarray(since, dtype=np.float64) - switch, end - switch, step_tokens or 1.0, False, False, None,
            tuple(old), new, training, switch,
        ),
        assumed,
    )  # fmt: skip


def _step_tokens(lines: Sequence[LogLine]) -> float | None:
    """Tokens an iteration, on average; None where they are not printed."""
    counted = [(line.iteration, line.tokens) for line in lines if line.tokens is not None]
    if len(counted) < 2:
        return None
    (first, before), (last, after) = counted[0], counted[-1]
    return (after - before) / (last - first)


def _series(name: str, points: Points, switch: int, assumed: list[str]) -> tuple[Floats, Floats, float, float]:
    """Iterations and losses behind the switch, the reference, and the noise of a loss."""
    found = {v.iteration: v.loss for v in points.validation if math.isfinite(v.loss)}
    before = [found[i] for i in sorted(found) if i <= switch]
    after = [i for i in sorted(found) if i > switch]
    if not before and len(after) > 1:
        first = after.pop(0)
        before = [found[first]]
        assumed.append(f"{name}: its first loss, at iteration {first:,}, stands for the one before the switch")
    if not before or not after:
        raise DataError(
            f"{points.path}: validation losses of {name} up to iteration {switch:,}: {len(before)}, behind it: {len(after)}",
            "one before the switch of data (its reference) and one behind it are the least",
            "evaluate the checkpoint the stage started from and a later one, both into this log; or --switch ITERATION",
        )
    steps = np.diff(before[-EARLIER:])
    noise = max(LEAST_NOISE, float(np.std(steps)) / math.sqrt(2)) if len(steps) > 1 else LEAST_NOISE
    if len(steps) < 2:
        assumed.append(f"{name}: too few losses before the switch to tell its noise, taken as {LEAST_NOISE} nats")
    return np.array(after), np.array([found[i] for i in after]), before[-1], noise


def _common(iterations: Sequence[Floats], validation: Mapping[str, Points]) -> list[int]:
    """The iterations at which every corpus was validated."""
    shared = set(iterations[0].tolist()).intersection(*(each.tolist() for each in iterations[1:]))
    if not shared:
        raise DataError(
            f"{', '.join(validation)}: validated at no iteration in common",
            "corpora are judged jointly, at the same checkpoints",
            "evaluate each checkpoint on every corpus",
        )
    return sorted(shared)
