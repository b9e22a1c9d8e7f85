"""What a point of an attempt is, for its manifest; and how fast it got there, for its records."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from keepwarm import __version__
from keepwarm.attempt.line import cursors_at
from keepwarm.attempt.records import Record
from keepwarm.blend.stream import Stream
from keepwarm.engine import model as models
from keepwarm.engine.job import Job
from keepwarm.engine.machine import Machine, flops_per_token, memory_bytes
from keepwarm.engine.network import Network
from keepwarm.evaluate.heldout import Measured
from keepwarm.lineage.manifest import Manifest, checkpoint_name

_SAVED_BYTES_PER_SECOND = 200e6  # until a checkpoint has been timed: a slow disk, with hashing
_STATE_BYTES = 12  # of a parameter: itself and two moments in fp32


def line_tokens(job: Job, step: int) -> int:
    """Tokens of the whole line after a step of the attempt."""
    return (job.start.line_tokens if job.start else 0) + job.attempt.tokens_at(step)


def checkpoint_id(job: Job, step: int) -> str:
    """The id of the checkpoint after a step: its folder in the run folder."""
    phase = job.attempt.schedule.phase(job.attempt.tokens_at(step))
    return f"{job.attempt.folder}/checkpoints/{checkpoint_name(line_tokens(job, step), phase)}"


def manifest_at(job: Job, stream: Stream, network: Network, step: int, at_end: Mapping[str, Measured]) -> Manifest:
    """The manifest after a step, its hashes still lacking; `at_end`: what was measured there over all windows."""
    attempt, start = job.attempt, job.start
    samples, tokens = attempt.batches.samples(step), attempt.tokens_at(step)
    cursors, before = stream.cursors(samples), stream.cursors(0)
    fed = dict(start.source_tokens) if start else {}
    for source, position in cursors.items():
        if position > before.get(source, 0):
            fed[source] = fed.get(source, 0) + (position - before.get(source, 0)) * attempt.sequence_length
    return Manifest(
        id=checkpoint_id(job, step), parent=attempt.start, arm=attempt.arm, stage=attempt.stage, rung=attempt.rung,
        attempt=attempt.sha256, plan=job.plan_sha256, step=step, samples=samples,
        attempt_tokens=tokens, line_tokens=line_tokens(job, step),
        lr=float(attempt.schedule.lr(tokens)), lr_max=attempt.schedule.lr_max, phase=attempt.schedule.phase(tokens),
        global_batch_size=attempt.batches.size(max(0, step - 1)), schedule=attempt.schedule.to_dict(),
        architecture_sha256=models.architecture_sha256(network.model.config),
        cursors=(cursors_at(start, attempt.sequence_length) if start else {}) | cursors,
        source_tokens=fed,
        source_names=(dict(start.source_names) if start else {}) | {s.id: s.name for s in attempt.sources},
        evaluation={name: {"loss": m.loss, "windows": list(m.windows)} for name, m in at_end.items()},
        allowed=tuple(sorted({*attempt.allow, *(start.allowed if start else ())})),
        versions={"keepwarm": __version__, "torch": torch.__version__}, threads=job.threads,
        world_size=job.how.world_size, precision=job.how.precision, compiled=job.how.compiled, **job.identity,
    )  # fmt: skip


class Pace:
    """How long things take, and what share of the machine's peak that is."""

    def __init__(self, job: Job, network: Network, machine: Machine) -> None:
        """Nothing was timed yet."""
        self._peak = machine.peak[job.how.precision] * network.world.size
        self._device = network.world.device
        self._flops_a_token = flops_per_token(network.model, job.attempt.sequence_length)
        bytes_a_process = _STATE_BYTES * sum(p.numel() for p in network.model.parameters()) / network.world.size
        self._saving_seconds = bytes_a_process / _SAVED_BYTES_PER_SECOND
        self.slowest = {"step": 0.0, "evaluation": 0.0}

    def timed(self, what: str, began: float) -> float:
        """Seconds since `began`, remembered where they are the most."""
        seconds = time.perf_counter() - began
        self.slowest[what] = max(self.slowest[what], seconds)
        return seconds

    def rates(self, tokens: int, seconds: float) -> Record:
        """Of a step: tokens/s, MFU (Chowdhery et al. 2204.02311, appendix B; of the measured peak), and memory."""
        tokens_per_second = tokens / seconds
        return {
            "tokens_per_second": round(tokens_per_second, 1),
            "mfu": round(tokens_per_second * self._flops_a_token / self._peak, 4),
            "memory_bytes": memory_bytes(self._device),
        }

    def ending_seconds(self, slowest_save_seconds: float) -> float:
        """The most that the next step and its evaluation, and then saving twice, would take."""
        saving = slowest_save_seconds or self._saving_seconds
        return sum(self.slowest.values()) + 2 * saving
