"""When to stop an attempt that can't recover: a forecast of the worst old corpus at the end of the constant phase.

Often there is no spike and return at LR_max: the old loss jumps within the first 8 % after the switch and then creeps
like log(tokens). So the curve a + b log(1 + t/k) is fitted to the paired forgetting since the switch (exponential
saturation alone is optimistic by 0.1 nats, the dangerous direction), and the attempt is stopped when, twice in a row,
both what is measured and what is forecast, less twice their noise, lie beyond the tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.evaluate.forgetting import paired_noise
from keepwarm.evaluate.heldout import subset

FEWEST_EVALUATIONS = 5
LEAST_SHARE = 0.30  # of the phase since the switch
NOISE_WIDTHS = 2.0

Record = Mapping[str, Any]


def hopeless(records: Sequence[Record]) -> str | None:
    """Why an attempt that stays at LR_max can't come back within tolerance, or None while it may."""
    header = records[0]
    if header["ends"] != "peak" or not header["old"]:
        return None
    seen = [r for r in records if r["kind"] == "eval" and not r["full"] and r["step"] > header["switch_step"]]
    if len(seen) < FEWEST_EVALUATIONS + 1:
        return None
    for name in header["old"]:
        now, before = _beyond(header, seen, name), _beyond(header, seen[:-1], name)
        if now is not None and before is not None:
            return now
    return None


def _beyond(header: Record, seen: Sequence[Record], name: str) -> str | None:
    """The forecast in words when it and the last measurement lie clearly beyond the tolerance of one corpus."""
    phase_steps = header["steps"] - header["switch_step"]
    since = np.array([record["step"] - header["switch_step"] for record in seen], dtype=np.float64)
    if since[-1] < LEAST_SHARE * phase_steps:
        return None
    reference = np.asarray(header["references"][name]["windows"])
    picked = reference[subset(len(reference), len(seen[-1]["windows"][name]))]
    forgotten = np.array([np.mean(record["windows"][name]) - picked.mean() for record in seen])
    noise = paired_noise(seen[-1]["windows"][name], picked.tolist())
    forecast, rmse = log_forecast(since, forgotten, phase_steps)
    tolerance = header["tolerance"][name]["nats"]
    doubt = NOISE_WIDTHS * max(noise, rmse)
    if forgotten[-1] - NOISE_WIDTHS * noise <= tolerance or forecast - doubt <= tolerance:
        return None
    return (
        f"{name} has forgotten {forgotten[-1]:+.3f} nats after {int(since[-1])} of {phase_steps} steps, forecast at the "
        f"end {forecast:+.3f} +- {doubt:.3f}, tolerance {tolerance:.3f}"
    )


def log_forecast(since: NDArray[np.float64], values: NDArray[np.float64], end: float) -> tuple[float, float]:
    """Least squares of a + b log(1 + t/k), k = the first t: the value at `end`, and the fit's root mean square error."""
    curve = np.stack([np.ones_like(since), np.log1p(since / since[0])], axis=1)
    fit, *_ = np.linalg.lstsq(curve, values, rcond=None)
    rmse = float(np.sqrt(np.mean((curve @ fit - values) ** 2)))
    return float(fit[0] + fit[1] * np.log1p(end / since[0])), rmse
