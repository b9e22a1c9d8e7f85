"""The training loop: one attempt from its start (or its newest checkpoint) to its end.

Everything the loop does is a function of the attempt and the step: the batch is samples [step*GBS, (step+1)*GBS) of
the attempt's order, the learning rate is schedule.lr(tokens). So a killed run that goes on from a checkpoint writes
the same weights, bit for bit, as one that was never stopped (same machine, same threads). Where the mix is steered,
it is a function of the records too: a change is an event, and the order goes on from there with the next mix.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from keepwarm import __version__
from keepwarm.attempt.line import cursors_at
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.records import CONFIRM, STOPPED_EARLY, MetricsWriter, Record, finite, keep_until, read_metrics
from keepwarm.attempt.shared import lasting_changes
from keepwarm.attempt.steered import as_fed
from keepwarm.attempt.steering import MIX
from keepwarm.blend.loader import Loader
from keepwarm.blend.stream import Stream
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine import model as models
from keepwarm.errors import LineageError
from keepwarm.evaluate.heldout import HeldOut, Measured, bits_per_byte, measure
from keepwarm.lineage.manifest import Manifest, checkpoint_name, checkpoints_of, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the loop needs beside the attempt: where, from what, with what data, and whom to tell."""

    run_folder: Path
    plan_sha256: str
    attempt: Attempt
    header: Record
    stream: Stream
    heldout: Mapping[str, HeldOut]
    start: Manifest | None  # the checkpoint the attempt starts from; None for new or foreign weights
    make_model: Callable[[], nn.Module]  # the architecture (and foreign weights, where the attempt starts from them)
    identity: Mapping[str, Any]  # tokenizer_sha256, vocab_size, sequence_length
    save_steps: int
    threads: int
    tell: Callable[[Record], None]
    watch: Callable[[list[Record]], Sequence[Record]] | None  # asked after evaluations for events; None = nobody is
    stop: Callable[[], bool]  # asked at step borders: True = save and leave


class Stopped(Exception):
    """The loop was asked to stop; a checkpoint of where it stood is on disk."""


def no_decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups: matrices and embeddings decay, vectors (norms, biases) do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


class Training:
    """The state of one attempt being trained. `run` brings it to its end."""

    def __init__(self, job: Job) -> None:
        """Build the model and restore the newest checkpoint of the attempt, else its start."""
        self.job, self.attempt = job, job.attempt
        self.folder = job.run_folder / job.attempt.folder
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.attempt.seed)
        self.model = job.make_model()
        settings = job.attempt.optimizer
        self.optimizer = torch.optim.AdamW(
            no_decay_groups(self.model, settings.weight_decay), lr=0.0, betas=settings.betas, eps=settings.eps
        )
        self.step = 0
        self.stream = job.stream
        self.changes = lasting_changes(job.attempt)
        self.last_full: dict[str, Measured] | None = None
        self._restore()
        self.model.train()
        self.metrics = MetricsWriter(self.folder / "metrics.jsonl")

    def _restore(self) -> None:
        """The newest checkpoint of this attempt wins over its start; metrics beyond it are dropped."""
        path = self.folder / "metrics.jsonl"
        saved = checkpoints_of(self.folder)
        if saved:
            manifest = read_manifest(saved[-1])
            if manifest.attempt != self.attempt.sha256:
                raise LineageError(
                    f"{saved[-1]}: belongs to another attempt",
                    "its weights were trained on another mix or schedule",
                    f"remove the attempt: rm -r {self.folder}",
                )
            checkpoints.load(saved[-1], manifest, self.model, self.optimizer)
            self.step = manifest.step
            self._follow(keep_until(path, self.step))
            return
        if self.job.start is not None:
            folder = self.job.run_folder / self.job.start.id
            keep = self.optimizer if self.attempt.moments == "keep" else None
            if not models.is_hugging_face(folder):  # foreign weights came with the model
                checkpoints.load(folder, self.job.start, self.model, keep)
        path.unlink(missing_ok=True)

    def run(self) -> None:
        """Train to the last step, with evaluations and checkpoints on the way. Raises Stopped when asked to stop."""
        attempt = self.attempt
        if self.step == 0:
            self._write(self.job.header)
            self._before()
        else:
            if any(record.get("event") == STOPPED_EARLY for record in read_metrics(self.metrics.path)):
                return
            self._event("resumed", f"from step {self.step}")
        going_on = self.step < attempt.steps
        while going_on:
            with Loader(self.stream, attempt.batches.samples, self.step, attempt.steps) as loader:
                going_on = self._steps(loader)

    def _follow(self, records: Sequence[Record]) -> None:
        """Take the order of data that the records say is fed from here on."""
        segments = as_fed(self.attempt, records).segments
        if segments != self.stream.segments:
            self.stream = self.stream.with_segments(segments)

    def _steps(self, loader: Loader) -> bool:
        """Train to the end, or to where the mix changes: True when the attempt goes on with another order of data."""
        attempt, stream = self.attempt, self.stream
        while self.step < attempt.steps:
            if self.job.stop():
                self._save()
                raise Stopped
            if not self._train_step(loader):
                return False
            if self.step == attempt.steps:
                self._evaluate(full=True)
            elif self.step in attempt.evaluation.steps:
                self._evaluate(full=False)
                if self._watched():
                    return False
            if self.step == attempt.steps or self.step % self.job.save_steps == 0 or self.step in self.changes:
                self._save()
            if self.stream is not stream:
                return True
        return False

    def close(self) -> None:
        """Close the metrics file."""
        self.metrics.close()

    @property
    def tokens(self) -> int:
        """Tokens fed since the attempt began."""
        return self.attempt.tokens_at(self.step)

    def _before(self) -> None:
        """The loss of every corpus before the first step: read off the start's manifest where it was measured."""
        if self.job.start is not None and set(self.job.start.evaluation) >= set(self.job.heldout):
            found = {name: Measured(**self.job.start.evaluation[name]) for name in self.job.heldout}
            self._record_evaluation(found, full=True, measured_by=self.job.start.id)
        else:
            self._evaluate(full=True)

    def _train_step(self, loader: Loader) -> bool:
        """One optimizer step. False when the loss or gradient is not finite: the attempt ends there, diverged."""
        attempt, began = self.attempt, time.perf_counter()
        lr = float(attempt.schedule.lr(self.tokens))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        tokens, sources = loader.next()
        step_tokens = len(tokens) * attempt.sequence_length
        loss = 0.0
        for rows in torch.from_numpy(tokens).split(attempt.micro_batch_size):  # type: ignore[no-untyped-call]
            part = models.token_losses(self.model, rows.long(), attempt.document_eod).sum() / step_tokens
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), attempt.optimizer.clip))
        if not (np.isfinite(loss) and np.isfinite(norm)):
            self._event(
                "non-finite", f"step {self.step + 1}", what="the loss" if not np.isfinite(loss) else "the gradient"
            )
            return False
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        seconds = time.perf_counter() - began
        counts = np.bincount(sources, minlength=len(self.stream.source_ids))
        fed = {s: int(c) for s, c in zip(self.stream.source_ids, counts, strict=True) if c}
        self._write(
            {"kind": "train", "step": self.step, "tokens": self.tokens, "loss": loss, "lr": lr, "grad_norm": norm,
             "tokens_per_second": round(step_tokens / seconds, 1), "samples": fed}
        )  # fmt: skip
        return True

    def _watched(self) -> bool:
        """Write what the strategist says of the evaluation, and follow it. True when it stops the attempt, which is
        measured in full where it stands and saved."""
        said = self._said()
        measured = CONFIRM in said
        if measured:
            self._evaluate(full=True)
            said = self._said()
        if MIX in said:
            self._follow(read_metrics(self.metrics.path))
        if STOPPED_EARLY not in said:
            return False
        if not measured:
            self._evaluate(full=True)
        self._save()
        return True

    def _said(self) -> set[str]:
        """Write what the strategist says of the records so far; the names of its events."""
        events = self.job.watch(read_metrics(self.metrics.path)) if self.job.watch else ()
        for event in events:
            self._event(**event)
        return {event["event"] for event in events}

    def _evaluate(self, *, full: bool) -> None:
        losses = models.losses_of(self.model, self.attempt.document_eod)
        found = {
            name: measure(heldout, losses, None if full else self.attempt.evaluation.subset[name])
            for name, heldout in self.job.heldout.items()
            if full or name in self.attempt.evaluation.subset
        }
        self._record_evaluation(found, full=full)

    def _record_evaluation(self, found: dict[str, Measured], *, full: bool, measured_by: str | None = None) -> None:
        if full:
            self.last_full = found
        if not all(np.isfinite(m.loss) for m in found.values()):
            self._event("non-finite", f"step {self.step}", what="a held-out loss")
        per_byte = {name: bits_per_byte(m.loss, self.job.heldout[name].tokens_per_byte) for name, m in found.items()}
        self._write(
            {"kind": "eval", "step": self.step, "tokens": self.tokens, "full": full,
             "lr": float(self.attempt.schedule.lr(self.tokens)), "phase": self._phase(), "measured_by": measured_by,
             "loss": {name: finite(m.loss) for name, m in found.items()},
             "bits_per_byte": {name: finite(v) if v is not None else None for name, v in per_byte.items()},
             "windows": {name: list(map(finite, m.windows)) for name, m in found.items()}}
        )  # fmt: skip

    def _phase(self) -> Any:
        return self.attempt.schedule.phase(self.tokens)

    def _event(self, event: str, text: str, **more: Any) -> None:
        self._write({"kind": "event", "step": self.step, "tokens": self.tokens, "event": event, "text": text, **more})

    def _write(self, record: Record) -> None:
        self.metrics.write(record)
        self.job.tell(record)

    def _save(self) -> None:
        start_tokens = self.job.start.line_tokens if self.job.start else 0
        name = checkpoint_name(start_tokens + self.tokens, self._phase())
        folder = self.folder / "checkpoints" / name
        if folder.exists():  # stopped right where it went on from: this checkpoint is already there
            return
        checkpoints.save(
            folder, self.model, self.optimizer, lambda: self._manifest(f"{self.attempt.folder}/checkpoints/{name}")
        )

    def _manifest(self, name: str) -> Manifest:
        attempt, start = self.attempt, self.job.start
        samples = attempt.batches.samples(self.step)
        cursors = self.stream.cursors(samples)
        before = self.stream.cursors(0)
        fed = dict(start.source_tokens) if start else {}
        for source, position in cursors.items():
            if position > before.get(source, 0):
                fed[source] = fed.get(source, 0) + (position - before.get(source, 0)) * attempt.sequence_length
        at_end = self.step == attempt.steps and self.last_full is not None
        return Manifest(
            id=name, parent=attempt.start, arm=attempt.arm, stage=attempt.stage, rung=attempt.rung,
            attempt=attempt.sha256, plan=self.job.plan_sha256, step=self.step, samples=samples,
            attempt_tokens=self.tokens, line_tokens=(start.line_tokens if start else 0) + self.tokens,
            lr=float(attempt.schedule.lr(self.tokens)), lr_max=attempt.schedule.lr_max, phase=self._phase(),
            global_batch_size=attempt.batches.size(max(0, self.step - 1)), schedule=attempt.schedule.to_dict(),
            architecture_sha256=models.architecture_sha256(self.model.config),
            weights_sha256=models.weights_sha256(self.model),
            cursors=(cursors_at(start, attempt.sequence_length) if start else {}) | cursors,
            source_tokens=fed,
            source_names=(dict(start.source_names) if start else {}) | {s.id: s.name for s in attempt.sources},
            evaluation={n: {"loss": m.loss, "windows": list(m.windows)} for n, m in self.last_full.items()}
            if at_end and self.last_full else {},
            allowed=tuple(sorted({*attempt.allow, *(start.allowed if start else ())})),
            versions={"keepwarm": __version__, "torch": torch.__version__}, threads=self.job.threads,
            **self.job.identity,
        )  # fmt: skip
