"""What the loop does about an unstable step: locate its batch, and skip it, rewind, or give up, as the attempt says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from keepwarm.attempt import rewinds
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.passed_over import given_up_event, skipped_event
from keepwarm.attempt.records import Record
from keepwarm.attempt.spikes import Finding
from keepwarm.blend.located import located, told
from keepwarm.blend.stream import Stream
from keepwarm.engine.job import Job
from keepwarm.engine.network import Network
from keepwarm.lineage.manifest import checkpoints_of, read_manifest


class Rewound(Exception):
    """The attempt goes on from an earlier checkpoint; which, is on record."""


def locate(
    network: Network, stream: Stream, attempt: Attempt, step: int, tokens: NDArray[np.int32]
) -> list[dict[str, Any]]:
    """Where the batch of step `step` (from 1) lies, by the losses of its samples: each process measures its own rows."""
    losses: list[float] = []
    with network.evaluating():  # every process takes part as often as the one with the most rows
        for row in range(network.world.largest_part(_samples(attempt, step)[1] - _samples(attempt, step)[0])):
            some = torch.from_numpy(tokens[row : row + 1] if row < len(tokens) else np.zeros_like(tokens[:1]))
            losses.append(network.token_losses(some).double().mean().item())
    found = [loss for each in network.world.together(losses[: len(tokens)]) for loss in each]
    return told(located(stream, *_samples(attempt, step)), found) if network.world.leads else []


def answer(job: Job, finding: Finding, step: int, skipped: int, before: int, where: Sequence[dict[str, Any]]) -> Record:
    """The event of what is done about step `step` (from 1), by the leader. Raises Rewound, where that is what is done.

    `skipped` steps were skipped before, `before` rewinds were made.
    """
    attempt = job.attempt
    asked, why = attempt.stability.answer(finding.kind, steps=attempt.steps, skipped=skipped, rewinds=before)
    if asked == "skip":
        return skipped_event(finding, _samples(attempt, step), where)
    if asked == "stop":
        return given_up_event(finding, why, step=step, samples=_samples(attempt, step), located=where)
    saved = [read_manifest(path).step for path in checkpoints_of(job.folder)]
    rewind_steps = attempt.stability.rewind_steps
    rewinds.begin(job.folder, finding, step=step, rewind_steps=rewind_steps, saved_steps=saved, located=where)
    raise Rewound


def _samples(attempt: Attempt, step: int) -> tuple[int, int]:
    return attempt.batches.samples(step - 1), attempt.batches.samples(step)
