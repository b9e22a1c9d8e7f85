"""What the strategist says after an evaluation on the way: events for the attempt's metrics, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keepwarm.attempt.records import DECISION, STOPPED_EARLY
from keepwarm.strategy.early import decide, stops
from keepwarm.strategy.evidence import Record, evidence
from keepwarm.strategy.thermostat import may_still_raise, steered


def watch(records: Sequence[Record]) -> tuple[dict[str, Any], ...]:
    """Events, each `{"event":, "text":, ...}`: the decision, once there is enough to decide by; `stopped-early` ends the
    attempt, `mix` changes what it is fed."""
    seen = evidence(records)
    now = decide(seen)
    decided: tuple[dict[str, Any], ...] = ()
    if now.outcome != "undecided":
        text = f"{now.outcome} ({now.sure}): {now.text}"
        decided = (
            {"event": DECISION, "text": text, "outcome": now.outcome, "sure": now.sure, "corpora": now.corpora()},
        )
    stop = None if may_still_raise(records) else stops(seen)
    if stop is None:
        return (*decided, *steered(records))
    return (*decided, {"event": STOPPED_EARLY, "text": stop.text, "outcome": stop.outcome, "trouble": stop.trouble})
