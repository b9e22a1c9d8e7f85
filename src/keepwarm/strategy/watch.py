"""What the strategist says after an evaluation on the way: events for the attempt's metrics, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keepwarm.attempt.records import STOPPED_EARLY
from keepwarm.strategy.early import Record, hopeless


def watch(records: Sequence[Record]) -> tuple[dict[str, Any], ...]:
    """Events, each `{"event":, "text":, ...}`; `stopped-early` ends the attempt."""
    reason = hopeless(records)
    return () if reason is None else ({"event": STOPPED_EARLY, "text": reason},)
