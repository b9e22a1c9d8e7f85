"""The ladder: which candidate comes next, from what the ones before it came to.

Candidates are tried in the order written. A replay share goes up only while old data is being forgotten (COOKBOOK,
`replay`): after an attempt that under-adapts, the higher shares of the same rung could only adapt less, so they are
passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from keepwarm.plan.rungs import Candidate

TRAINABLE = (
    "naive", "replay", "replay-rewarm", "replay-previous-mix", "buffer-mix", "balance", "decay-then-introduce",
    "rewarm-converged", "legacy-replay-rewarm", "special-continuation", "incremental",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate and the outcome on record: a verdict's, or `refused` (by a guard), or `skipped`."""

    candidate: Candidate
    outcome: str
    worst_excess: float | None = None  # nats beyond tolerance of the corpus that was forgotten most


def best_replay(tried: Sequence[Tried]) -> Fraction | None:
    """The replay share that forgot least beyond tolerance, of those that were trained; None if none was."""
    found = [each for each in tried if each.candidate.rung == "replay" and each.worst_excess is not None]
    best = min(found, key=lambda each: each.worst_excess or 0.0, default=None)
    return best.candidate.share if best else None


def skip_reason(candidate: Candidate, tried: Sequence[Tried]) -> str | None:
    """Why the next candidate need not be trained, or None when it is to be tried."""
    if candidate.rung not in TRAINABLE:
        return f"the rung {candidate.rung} is not built yet in this version"
    if candidate.rung in ("replay", "replay-previous-mix"):
        for earlier in tried:
            same = earlier.candidate.rung == candidate.rung and earlier.candidate.share is not None
            if same and earlier.outcome == "under-adapting":
                return f"{earlier.candidate.label} under-adapted already; more replay would adapt less"
    return None
