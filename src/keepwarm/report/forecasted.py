"""A stage's forecast for people, and what became of it: every attempt at full budget beside what was forecast for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keepwarm.attempt.line import COOKBOOK
from keepwarm.attempt.progress import attempts_of, end_of
from keepwarm.attempt.records import read_attempt
from keepwarm.errors import LineageError
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.report.account import PILOTS
from keepwarm.report.table import aligned
from keepwarm.strategy.forecast import INTERVAL, interval, predicted, rung_words
from keepwarm.units import format_count, format_share

FORECAST = "forecast.json"
_RUNGS = ("naive", "replay", "replay-previous-mix")  # whose one setting is the share that is forecast

Record = Mapping[str, Any]


def read_forecast(plan: Plan, stage: str) -> dict[str, Any] | None:
    """The forecast on record of a stage; None before one was made. LineageError if it is damaged."""
    path = Path(plan.run.folder) / "arms" / PILOTS / stage / FORECAST
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["corpora"], content["table"]
    except (ValueError, KeyError, TypeError) as error:
        raise LineageError(
            f"{path}: damaged ({error})", "attempts are compared with it",
            f"remove it and forecast again from the same pilots: rm {path}",
        ) from error  # fmt: skip
    return content


def as_asked(plan: Plan, stage: StageSpec, record: Record) -> dict[str, Any]:
    """A forecast under the tokens and the tolerances that the plan has by now: its laws hold whatever these are."""
    corpora = {
        name: corpus
        if corpus["reference"] is None
        else corpus | {"tolerance": plan.verdict.tolerance_of(name).nats(corpus["reference"])}
        for name, corpus in record["corpora"].items()
    }
    tokens = plan.of_stage(stage).whole_steps(stage.tokens)
    return {**record, "corpora": corpora, "stage_tokens": tokens, "adaptation": float(plan.verdict.adaptation)}


def measured_error(plan: Plan, stage: str) -> list[dict[str, Any]]:
    """What was forecast and what was measured, for each corpus of each attempt with a replay share that came to its end,
    started where the pilots did and reads what they foresaw. Empty without a forecast."""
    record = read_forecast(plan, stage)
    if record is None:
        return []
    rows = []
    arms = sorted(path.name for path in (Path(plan.run.folder) / "arms").iterdir() if path.name != PILOTS)
    for arm in arms:
        for each in attempts_of(Path(plan.run.folder), arm, stage):
            end = end_of(each.folder) if each.rung in _RUNGS and each.steps else None
            attempt = read_attempt(each.folder) if end is not None else None
            if end is None or attempt is None or attempt.start != record["from"]:
                continue
            share = 1 - float(sum(part.share for part in attempt.parts if part.role == "new"))
            for name, draws in predicted(record, share, attempt.tokens).items():
                found, loss = interval(draws), end.evaluation[name]["loss"]
                rows.append({
                    "arm": arm, "label": each.label, "share": share, "tokens": attempt.tokens, "corpus": name,
                    "forecast": found["value"], "low": found["low"], "high": found["high"], "measured": loss,
                    "error": found["value"] - loss, "inside": found["low"] <= loss <= found["high"],
                })  # fmt: skip
    return rows


def print_forecast(record: Record, errors: list[dict[str, Any]]) -> None:
    """Print `forecast_lines`."""
    print("\n".join(forecast_lines(record, errors)))


def forecast_lines(record: Record, errors: list[dict[str, Any]]) -> Iterator[str]:
    """The table, what to try first and why, what it cost, and how right it was where that is known."""
    yield f"{record['stage']}: forecast from {record['from']}"
    yield from _pilots(record)
    yield ""
    yield f"held-out loss, nats per token; in brackets where {INTERVAL:.0%} of {_draws(record)} bootstrap draws lie"
    yield from _table(record)
    yield ""
    yield from _recommendation(record)
    yield from _critical(record)
    yield from _checked(record)
    if errors:
        yield ""
        yield from _errors(errors)


def _pilots(record: Record) -> Iterator[str]:
    cost = record["cost"]
    words = ", ".join("old data alone" if p["control"] else format_share(p["share"]) for p in record["pilots"])
    steps = record["pilots"][0]["steps"]
    yield (
        f"pilots: {words}, {steps:,} steps each; {cost['tokens']:,} tokens trained, {cost['evaluation_tokens']:,} measured, "
        f"{cost['compute_tokens'] / record['stage_tokens']:.1%} of the stage's tokens in all"
    )
    thinned = {each["name"]: None for pilot in record["pilots"] for each in pilot["thinned"]}
    if thinned:
        yield f"in part, to be read as often as the whole stage would: {', '.join(thinned)}"


def _table(record: Record) -> Iterator[str]:
    names = list(record["corpora"])
    head = ["tokens", "replay", *names, "worst forgetting", "within tolerance", "gain", "enough"]
    rows = [head]
    for row in record["table"]:
        worst = row["forgetting"][row["worst"]]
        rows.append([
            format_count(row["tokens"]), format_share(row["share"]), *(_cell(row["loss"][name]) for name in names),
            f"{_cell(worst, '+')} {row['worst']}", f"{row['meets']:.0%}", _cell(row["gain"], "+"), f"{row['adapts']:.0%}",
        ])  # fmt: skip
    yield from aligned(rows, range(len(head)))


def _recommendation(record: Record) -> Iterator[str]:
    found = record["recommended"]
    tolerances = ", ".join(f"{n} {c['tolerance']:.3f}" for n, c in record["corpora"].items() if c["role"] == "old")
    if found is None:
        yield f"no replay share up to 50% is forecast to keep every old corpus within its tolerance ({tolerances} nats):"
        yield "  expect to need what comes after replay: buffer-mix, decay-then-introduce, rewarm-converged"
        return
    yield (
        f"least replay that keeps every old corpus within its tolerance ({tolerances} nats): {format_share(found['share'])}, "
        f"confidence {found['confidence']:.0%}; the new corpus gains enough: {found['adapts']:.0%}"
    )
    yield f"  {rung_words(record['rung'], found['share'])}"
    yield f"  costs {record['stage_tokens']:,} tokens; the full run then checks it"


def _critical(record: Record) -> Iterator[str]:
    words = "; ".join(
        f"{format_count(each['tokens'])}: {each['share']:.0%} [{each['low']:.0%}, {each['high']:.0%}]"
        for each in record["critical"]
    )
    yield f"most new data that keeps them: {words}"


def _checked(record: Record) -> Iterator[str]:
    """The pilots' ends, forecast from their first halves."""
    off = [
        f"{name} at {format_share(each['share'])}: {each['measured']:+.3f}, expected {_cell(each, '+')}"
        for name, corpus in record["corpora"].items()
        for each in corpus["check"]
        if not each["low"] <= each["measured"] <= each["high"]
    ]
    count = sum(len(corpus["check"]) for corpus in record["corpora"].values())
    yield f"checked: the pilots' first halves forecast {count - len(off)} of {count} losses at their ends"
    yield from (f"  outside: {words}" for words in off)


def _errors(errors: list[dict[str, Any]]) -> Iterator[str]:
    yield "what became of it"
    rows = [["attempt", "corpus", "forecast", "measured", "error", "inside"]]
    for each in errors:
        inside = "yes" if each["inside"] else "no"
        rows.append([
            _tried(each), each["corpus"], _forecast(each), f"{each['measured']:.3f}", f"{each['error']:+.3f}", inside,
        ])  # fmt: skip
    yield from aligned(rows, (2, 3, 4))


def error_lines(errors: Sequence[Record]) -> Iterator[str]:
    """What became of a forecast, a sentence for each corpus of each attempt at full budget; nothing without one."""
    for each in errors:
        outside = "" if each["inside"] else ", outside the interval"
        yield (
            f"forecast of {_tried(each)}: {each['corpus']} {_forecast(each)}, measured {each['measured']:.3f}: "
            f"off by {each['error']:+.3f}{outside}"
        )


def _tried(error: Record) -> str:
    label = f"{error['label']}, {format_count(error['tokens'])}"
    return label if error["arm"] == COOKBOOK else f"{error['arm']} {label}"


def _forecast(error: Record) -> str:
    return _cell({"value": error["forecast"], "low": error["low"], "high": error["high"]})


def _draws(record: Record) -> int:
    return len(next(iter(record["corpora"].values()))["law"]["scale"])


def _cell(found: Mapping[str, float], sign: str = "") -> str:
    value, low, high = (f"{found[key]:{sign}.3f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
