"""When an attempt's held-out losses are measured: dense after the switch of data, then evenly, within a share of compute.

An evaluation costs a third of training per token (forward against forward and backward); a stage spends at most 15 %
of its compute on it (COOKBOOK, "The verdict"). Both ends are measured over all windows, points on the way over a fixed
subset; the start is usually on record already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

COMPUTE_SHARE = 0.15  # of a stage's compute
FORWARD_COST = 1 / 3  # of a training token's
FEWEST_WINDOWS = 8  # of a corpus, in an evaluation during a stage


def planned_steps(steps: int) -> tuple[int, ...]:
    """Where a stage is looked at when compute allows: at 1, 2.5 and 5 %, then about every 3 %; never at its end."""
    places = [0.01, 0.025, 0.05, *np.arange(0.08, 0.99, 0.03)]
    wanted = {max(1, round(place * steps)) for place in places}
    return tuple(sorted(step for step in wanted if step < steps))


def affordable(
    steps: int, tokens: int, sequence_length: int, windows: Mapping[str, int], watched: Sequence[str]
) -> tuple[tuple[int, ...], dict[str, int]]:
    """Evaluation steps and windows a corpus that keep `steps` of `tokens` in all within `COMPUTE_SHARE`.

    `windows` = all held-out windows of every corpus (measured in full at the end), `watched` = the corpora looked at
    on the way. Points are thinned evenly, the first ones last, when the budget can't pay for all of them.
    """
    budget_tokens = COMPUTE_SHARE / FORWARD_COST * tokens
    left_tokens = budget_tokens - sum(windows.values()) * sequence_length
    points = planned_steps(steps)
    cheapest = sum(min(FEWEST_WINDOWS, windows[name]) for name in watched) * sequence_length
    count = min(len(points), max(0, int(left_tokens // cheapest))) if cheapest else 0
    if count == 0:
        return (), {}
    kept = tuple(points[i] for i in sorted({round(k * (len(points) - 1) / max(1, count - 1)) for k in range(count)}))
    each = max(FEWEST_WINDOWS, int(left_tokens // (len(kept) * len(watched) * sequence_length)))
    return kept, {name: min(windows[name], each) for name in watched}
