"""What a point of an attempt is, for its manifest; and how fast it got there, for its records."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from keepwarm import __version__
from keepwarm.attempt import point
from keepwarm.attempt.records import Record
from keepwarm.blend.stream import Stream
from keepwarm.engine import model as models
from keepwarm.engine.job import Job
from keepwarm.engine.machine import Machine, flops_per_token, memory_bytes
from keepwarm.engine.network import Network
from keepwarm.evaluate.heldout import Measured
from keepwarm.lineage.manifest import Manifest

_SAVED_BYTES_PER_SECOND = 200e6  # until a checkpoint has been timed: a slow disk, with hashing
_STATE_BYTES = 12  # of a parameter: itself and two moments in fp32


def checkpoint_id(job: Job, step: int) -> str:
    """The id of the checkpoint after a step: its folder in the run folder."""
    return point.checkpoint_id(job.attempt, job.start, step)


def manifest_at(job: Job, stream: Stream, network: Network, step: int, at_end: Mapping[str, Measured]) -> Manifest:
    """The manifest after a step, its hashes still lacking; `at_end`: what was measured there over all windows."""
    evaluation = {name: {"loss": m.loss, "windows": list(m.windows)} for name, m in at_end.items()}
    return point.manifest_at(
        job.attempt, job.start, stream, step, job.plan_sha256, evaluation,
        architecture_sha256=models.architecture_sha256(network.model.config),
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
