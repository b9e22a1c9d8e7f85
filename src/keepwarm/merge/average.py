"""The plain mean of checkpoints of one trunk: what a cooldown would give, for no training (1803.05407, 2405.18392)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keepwarm.attempt.records import MetricsWriter
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine.build import empty_like, evaluated
from keepwarm.engine.network import network_of
from keepwarm.evaluate.heldout import HeldOut
from keepwarm.lineage.manifest import Manifest


def average(
    run_folder: Path, members: Sequence[Manifest], merged: Manifest, heldout: Mapping[str, HeldOut], threads: int,
    document_eod: int | None,
) -> Manifest:  # fmt: skip
    """Save the mean of the members' weights as the checkpoint `merged`; its manifest, with its losses everywhere.

    Its metrics hold the losses of the last member and its own. Raises LineageError if a member is not whole.
    """
    torch.set_num_threads(threads)
    last = members[-1]
    model = empty_like(run_folder / last.id, last, 0)
    sums: dict[str, torch.Tensor] = {}
    for member in members:
        checkpoints.load(run_folder / member.id, member, model, None)
        for name, value in model.state_dict().items():
            sums[name] = sums.get(name, 0.0) + value.to(torch.float64, copy=True)
    network = network_of(model, document_eod)
    before = last.evaluation or evaluated(network, heldout)
    _fill(model, {name: total / len(members) for name, total in sums.items()})
    after = evaluated(network, heldout)
    _record(run_folder / merged.id, (before, last.id if last.evaluation else None), (after, None))
    record = replace(merged, evaluation=after, threads=threads)
    return checkpoints.save_weights(run_folder / merged.id, model, record)


def _fill(model: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(values[name])


def _record(checkpoint: Path, *evaluations: tuple[Mapping[str, Any], str | None]) -> None:
    path = checkpoint.parents[1] / "metrics.jsonl"
    path.unlink(missing_ok=True)
    writer = MetricsWriter(path)
    for found, measured_by in evaluations:
        loss, windows = ({name: each[key] for name, each in found.items()} for key in ("loss", "windows"))
        writer.write(
            {"kind": "eval", "step": 0, "tokens": 0, "full": True, "measured_by": measured_by, "loss": loss, "windows": windows}
        )  # fmt: skip
    writer.close()
