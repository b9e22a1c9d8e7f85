"""The decision record in words: what was tried and why, what was seen when, why it ended, what helps, what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keepwarm.attempt.records import DECISION, STOPPED_EARLY, Record
from keepwarm.report.forecasted import error_lines
from keepwarm.units import format_count


def said(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The decisions on an attempt, where the outcome or how sure it is changed; last the one that stopped it."""
    found: list[dict[str, Any]] = []
    for record in records:
        if record.get("event") == DECISION:
            if found and (found[-1]["outcome"], found[-1]["sure"]) == (record["outcome"], record["sure"]):
                continue
            keys = ("step", "tokens", "outcome", "sure", "text")
            found.append({key: record[key] for key in keys})
        elif record.get("event") == STOPPED_EARLY:
            at = {key: record[key] for key in ("step", "tokens")}
            found.append({**at, "outcome": record.get("outcome"), "sure": "stopped", "text": record["text"]})
    return found


def decision_lines(found: Mapping[str, Any]) -> list[str]:
    """The record of `status`'s content, stage by stage; none before the first attempt."""
    lines: list[str] = []
    for stage in found["stages"]:
        if stage["attempts"]:
            lines += ["", f"{stage['name']}: {stage['new']}, {stage['state']}", *stage_decisions(stage)]
    return ["decisions", *lines[1:]] if lines else []


def stage_decisions(stage: Mapping[str, Any]) -> Iterator[str]:
    """The record of one of its stages, a line at a time."""
    yield from (f"  {line}" for line in shift_lines(stage["shift"]))
    why = {choice["candidate"]: choice["why"] for choice in stage["choices"]}
    order = {number: place for place, number in enumerate(why)}
    attempts = sorted(stage["attempts"], key=lambda each: order.get(_number(each), len(order) + _number(each)))
    for place, attempt in enumerate(attempts, start=1):
        chosen = why.get(_number(attempt))
        yield f"  {place}. {attempt['label']}" + (f": {chosen}" if chosen else "")
        yield from (f"     {line}" for line in _attempt(attempt))
    put_off = stage["choices"][-1]["put_off"] if stage["choices"] else []
    yield from (f"  put off: {each['label']}: {each['why']}" for each in put_off)
    yield from (f"  {line}" for line in error_lines(stage["forecast"]))


def shift_lines(shift: Mapping[str, Any] | None) -> Iterator[str]:
    """What the ladder began by, and why; nothing where it was not measured."""
    if shift is not None:
        yield f"shift {shift['words']} -> ladder {shift['ladder']}"
        if shift["measured"] and shift["ladder"] != "own":
            yield shift["why"][-1]


def _number(attempt: Mapping[str, Any]) -> int:
    """The candidate's place in the ladder: its folder begins with it."""
    return int(Path(attempt["folder"]).name.partition("-")[0])


def _attempt(attempt: Mapping[str, Any]) -> Iterator[str]:
    for each in attempt.get("said", []):
        verb = f"stopped as {each['outcome']}: " if each["sure"] == "stopped" else ""  # else its text begins with it
        share = f"{each['step'] / attempt['steps']:.0%}" if attempt["steps"] else ""
        yield f"at {share}, {format_count(each['tokens'])} tokens: {verb}{each['text']}"
    if attempt["outcome"] is None:
        yield f"at step {attempt['step']:,} of {attempt['steps']:,}"
        yield from (f"  {line}" for line in attempt.get("passed_over", []))  # later the verdict's reasons have them
    else:
        yield f"{attempt['outcome']}{' -> accepted' if attempt['accepted'] else ''}"
        reasons = attempt["reasons"][1:] if attempt.get("said") and attempt["said"][-1]["sure"] == "stopped" else None
        yield from (f"  {reason}" for reason in (attempt["reasons"] if reasons is None else reasons))
    if attempt.get("trouble"):
        yield f"trouble: {attempt['trouble']}; helps: {attempt['helps']}"
    if attempt["decision"]:
        yield f"a person: {attempt['decision']['decision']}, because {attempt['decision'].get('because', 'not said')}"
    yield f"cost: {format_count(attempt['tokens'])} tokens" if attempt["tokens"] else "cost: nothing was trained"
