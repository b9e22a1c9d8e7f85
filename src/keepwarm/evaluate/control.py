"""The curve of the no-replay control: what an attempt that is still training is held against.

It goes into the attempt's header as it stands on disk when the attempt begins, so that the metrics alone decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keepwarm.attempt.model import Attempt
from keepwarm.attempt.records import read_metrics

NAIVE = "naive"


def control_curve(folders: Sequence[Path], attempt: Attempt) -> dict[str, Any] | None:
    """The curve of the first of these attempts without replay that was measured on the same windows; None of an attempt
    that has no such control (or is it)."""
    if attempt.new is None or attempt.rung == NAIVE:
        return None
    for folder in folders:
        path = folder / "metrics.jsonl"
        found = curve(read_metrics(path), attempt.evaluation.subset) if path.exists() else None
        if found is not None:
            return {"from": f"{folder.parents[1].name}/{folder.parent.name}/{folder.name}", **found}
    return None


def curve(records: Sequence[Mapping[str, Any]], subset: Mapping[str, int]) -> dict[str, Any] | None:
    """Tokens, the highest rate, and the losses of each corpus on so many windows; None of fewer than two points."""
    seen = [r for r in records if r["kind"] == "eval" and not r["full"] and set(r["loss"]) >= set(subset)]
    seen = [r for r in seen if all(len(r["windows"][n]) == size and r["loss"][n] for n, size in subset.items())]
    if len(seen) < 2 or not subset:
        return None
    return {
        "windows": dict(subset), "lr": max(r["lr"] for r in seen), "tokens": [r["tokens"] for r in seen],
        "loss": {name: [r["loss"][name] for r in seen] for name in subset},
    }  # fmt: skip
