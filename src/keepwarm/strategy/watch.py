"""What the strategist says after an evaluation on the way: events for the attempt's metrics, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keepwarm.attempt.records import CONFIRM, DECISION, STOPPED_EARLY
from keepwarm.strategy.early import decide, stops
from keepwarm.strategy.evidence import Record, evidence
from keepwarm.strategy.thermostat import may_still_raise, steered


def watch(records: Sequence[Record]) -> tuple[dict[str, Any], ...]:
    """Events, each `{"event":, "text":, ...}`: the decision, once there is enough to decide by; `stopped-early` ends the
    attempt, `mix` changes what it is fed.

    A few windows may forget more than all do. So what is to be stopped is `confirm`ed first: it is measured on all windows
    and asked about again, and what is known of the others then corrects every later evaluation.
    """
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
    if not seen.broken and not records[-1].get("full"):
        text = f"{stop.outcome} is clear on a part of the held-out windows: all are measured before it is stopped"
        return (*decided, {"event": CONFIRM, "text": text})
    return (*decided, {"event": STOPPED_EARLY, "text": stop.text, "outcome": stop.outcome, "trouble": stop.trouble})
