"""The training loop: one attempt from its start (or its newest checkpoint) to its end.

Everything the loop does is a function of the attempt and the step: the batch is samples [step*GBS, (step+1)*GBS) of
the attempt's order, the learning rate is schedule.lr(tokens), what is drawn is drawn from (seed, step). So a killed run
that goes on from a checkpoint writes the same weights, bit for bit, as one that was never stopped (same machine, same
processes, same threads), and another number of processes is fed the same samples. Where the mix is steered or a step is
passed over, it is a function of the records too. Every process runs this; the leader alone writes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from keepwarm.attempt import rewinds
from keepwarm.attempt.passed_over import given_up, passed_over_event, skipped_steps
from keepwarm.attempt.records import (
    CONFIRM,
    NON_FINITE,
    SKIPPED,
    STOPPED_EARLY,
    MetricsWriter,
    Record,
    finite,
    keep_until,
    read_metrics,
)
from keepwarm.attempt.shared import lasting_changes
from keepwarm.attempt.spikes import Finding, Recent
from keepwarm.attempt.steered import as_fed
from keepwarm.attempt.steering import MIX
from keepwarm.blend.loader import Loader
from keepwarm.blend.stream import Stream
from keepwarm.corpora.hashing import derive_key
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine.build import blueprint_of, check_documents, make_network
from keepwarm.engine.gradient import gradient
from keepwarm.engine.job import SILENT, Hooks, Job
from keepwarm.engine.machine import keep_memory, measure_machine
from keepwarm.engine.optimizer import adamw
from keepwarm.engine.parallel import World
from keepwarm.engine.progress import Pace, checkpoint_id, manifest_at
from keepwarm.engine.unstable import Rewound, answer, locate
from keepwarm.errors import LineageError
from keepwarm.evaluate.heldout import Measured, bits_per_byte, measure
from keepwarm.lineage.manifest import checkpoints_of, read_manifest


class Stopped(Exception):
    """The loop was asked to stop; a checkpoint of where it stood is on disk."""


def train(world: World, job: Job, hooks: Hooks = SILENT) -> None:
    """Bring an attempt to its end, from wherever it stands on disk. Raises Stopped when asked to stop."""
    going_on = True
    while going_on:
        training = Training(job, world, hooks)
        try:
            training.run()
            going_on = False
        except Rewound:
            continue
        finally:
            training.close()


@dataclass(frozen=True, slots=True)
class Standing:
    """What is on disk of an attempt, as the leader reads it."""

    checkpoint: str | None  # the newest, by name
    records: list[Record]  # up to it
    rewinds: tuple[rewinds.Rewind, ...]


class Training:
    """The state of one attempt being trained. `run` brings it to its end."""

    def __init__(self, job: Job, world: World, hooks: Hooks = SILENT) -> None:
        """Build the model and restore the newest checkpoint of the attempt, else its start."""
        self.job, self.attempt, self.world, self.hooks = job, job.attempt, world, hooks
        self.saver: checkpoints.Saver | None = None
        self.metrics: MetricsWriter | None = None
        torch.set_num_threads(max(1, job.threads // world.local_size))
        keep_memory()
        standing = world.share(self._standing() if world.leads else None)
        assert standing is not None
        self.events = [record for record in standing.records if record["kind"] == "event"]
        self.rewinds = standing.rewinds
        blueprint = blueprint_of(self.attempt, job.run_folder, job.start)
        restored = standing.checkpoint is not None
        self.network = make_network(blueprint, world, job.how, self.attempt.document_eod, restored=restored)
        self.optimizer = adamw(self.network.model, self.attempt.optimizer)
        self.step = 0
        self._restore(standing, drawn=blueprint.drawn)
        check_documents(self.network)
        self.network.model.train()
        self.stream = Stream(self.attempt.segments, job.sources, self.attempt.seed, self.attempt.sequence_length)
        self.changes = lasting_changes(self.attempt)
        self._follow(standing.records)
        self.pace = Pace(job, self.network, measure_machine(world.device, torch.get_num_threads()))
        self.last_full: dict[str, Measured] = {}
        self.saver = checkpoints.Saver(world)
        self.metrics = MetricsWriter(job.folder / "metrics.jsonl") if world.leads else None

    def _standing(self) -> Standing:
        """The newest checkpoint of this attempt wins over its start; metrics beyond it are dropped."""
        job, path = self.job, self.job.folder / "metrics.jsonl"
        made = rewinds.finish(job.folder)
        saved = checkpoints_of(job.folder)
        if not saved:
            path.unlink(missing_ok=True)
            return Standing(None, [], made)
        manifest = read_manifest(saved[-1])
        if manifest.attempt != self.attempt.sha256:
            raise LineageError(
                f"{saved[-1]}: belongs to another attempt",
                "its weights were trained on another mix or schedule",
                f"remove the attempt: rm -r {job.folder}",
            )
        return Standing(saved[-1].name, keep_until(path, manifest.step), made)

    def _restore(self, standing: Standing, *, drawn: bool) -> None:
        model, job = self.network.model, self.job
        if standing.checkpoint is not None:
            folder = job.folder / "checkpoints" / standing.checkpoint
            manifest = read_manifest(folder)
            checkpoints.load(folder, manifest, model, self.optimizer, self.world)
            self.step = manifest.step
        elif job.start is not None and not drawn:
            keep = self.optimizer if self.attempt.moments == "keep" else None
            checkpoints.load(job.run_folder / job.start.id, job.start, model, keep, self.world)

    def run(self) -> None:
        """Train to the last step, with evaluations and checkpoints on the way. Raises Stopped when asked to stop, and
        Rewound when the attempt goes on from an earlier checkpoint: then `train` makes another."""
        attempt = self.attempt
        if self.step == 0:
            self._write(self.job.header)
            self._before()
        elif given_up(self.events) or any(event["event"] == STOPPED_EARLY for event in self.events):
            return
        else:
            self._event("resumed", f"from step {self.step}")
        for event in rewinds.untold(self.rewinds, self.events):
            self._event(**event)
        going_on = self.step < attempt.steps
        while going_on:
            with Loader(self.stream, attempt.batches.samples, self.step, attempt.steps, part=self.world.part) as loader:
                going_on = self._steps(loader)
        assert self.saver is not None
        self.saver.wait()

    def _follow(self, records: Sequence[Record]) -> None:
        """Take the order of data that the records say is fed from here on, and what a step is held against."""
        segments = as_fed(self.attempt, records).segments
        if segments != self.stream.segments:
            self.stream = self.stream.with_segments(segments)
        self.recent = Recent(self.attempt.stability, self.attempt.batches, segments, records)

    def _steps(self, loader: Loader) -> bool:
        """Train to the end, or to where the mix changes: True when the attempt goes on with another order of data."""
        attempt, stream = self.attempt, self.stream
        while self.step < attempt.steps:
            if self._asked_to_stop():
                if self.step:  # else nothing was trained, and it begins anew
                    self._save()
                    assert self.saver is not None
                    self.saver.wait()
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

    def _asked_to_stop(self) -> bool:
        assert self.saver is not None
        self.saver.check()
        asked = self.hooks.stop(self.pace.ending_seconds(self.saver.slowest_seconds))
        return self.world.total(asked) > 0

    def close(self) -> None:
        """Finish what is being saved, and close the metrics file."""
        if self.saver is not None:
            self.saver.close()
        if self.metrics is not None:
            self.metrics.close()

    @property
    def tokens(self) -> int:
        """Tokens fed since the attempt began."""
        return self.attempt.tokens_at(self.step)

    def _before(self) -> None:
        """The loss of every corpus before the first step: read off the start's manifest where it was measured."""
        start = self.job.start
        if start is not None and set(start.evaluation) >= set(self.job.heldout):
            found = {name: Measured(**start.evaluation[name]) for name in self.job.heldout}
            self._record_evaluation(found, full=True, measured_by=start.id)
        else:
            self._evaluate(full=True)

    def _train_step(self, loader: Loader) -> bool:
        """One optimizer step. False when it was unstable and the attempt ends there, diverged."""
        attempt, step, began = self.attempt, self.step + 1, time.perf_counter()
        lr = float(attempt.schedule.lr(self.tokens))
        tokens, sources = loader.next()
        if (rewind := rewinds.passed_over_by(self.rewinds, step)) is not None:
            self.step = step
            self._event(**passed_over_event(rewind, (attempt.batches.samples(step - 1), attempt.batches.samples(step))))
            return True
        torch.manual_seed(derive_key("step", attempt.seed, step, self.world.rank))
        found = gradient(self.network, tokens, len(sources), attempt.micro_batch_size, attempt.optimizer.clip)
        finding = self.recent.find(step, found.loss, found.norm)
        if finding is not None:
            self.optimizer.zero_grad(set_to_none=True)
            return self._unstable(finding, tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step = step
        counts = np.bincount(sources, minlength=len(self.stream.source_ids))
        fed = {s: int(c) for s, c in zip(self.stream.source_ids, counts, strict=True) if c}
        rates = self.pace.rates(len(sources) * attempt.sequence_length, self.pace.timed("step", began))
        self._write(
            {"kind": "train", "step": step, "tokens": self.tokens, "loss": found.loss, "lr": lr,
             "grad_norm": found.norm, **rates, "samples": fed}
        )  # fmt: skip
        return True

    def _unstable(self, finding: Finding, tokens: NDArray[np.int32]) -> bool:
        """Skip the step, rewind, or give up: as the attempt's policy says. False when it gives up."""
        assert self.saver is not None
        self.saver.wait()  # a rewind chooses among the checkpoints on disk
        step = self.step + 1
        where = locate(self.network, self.stream, self.attempt, step, tokens)
        event: Record | None = None
        try:
            if self.world.leads:
                event = answer(self.job, finding, step, skipped_steps(self.events), len(self.rewinds), where)
        except Rewound:
            pass
        event = self.world.share(event)
        if event is None:
            raise Rewound
        skipped: bool = event["event"] == SKIPPED
        self.step += skipped
        self._event(**event)
        return skipped

    def _watched(self) -> bool:
        """Write what the strategist says of the evaluation, and follow it. True when it stops the attempt, which is
        measured in full where it stands and saved."""
        said = self._said()
        measured = CONFIRM in said
        if measured:
            self._evaluate(full=True)
            said = self._said()
        if MIX in said:
            self._follow(self.events)  # a step of the new mix is held against none of the old one
        if STOPPED_EARLY not in said:
            return False
        if not measured:
            self._evaluate(full=True)
        self._save()
        return True

    def _said(self) -> set[str]:
        """Write what the strategist says of the records so far; the names of its events."""
        asked = self.world.leads and self.hooks.watch is not None
        events = self.world.share(tuple(self.hooks.watch(self._on_disk())) if asked and self.hooks.watch else ())
        for event in events:
            self._event(**event)
        return {event["event"] for event in events}

    def _on_disk(self) -> list[Record]:
        return read_metrics(self.job.folder / "metrics.jsonl")

    def _evaluate(self, *, full: bool) -> None:
        began = time.perf_counter()
        found = {
            name: measure(heldout, self.network.window_losses, None if full else self.attempt.evaluation.subset[name])
            for name, heldout in self.job.heldout.items()
            if full or name in self.attempt.evaluation.subset
        }
        self.pace.timed("evaluation", began)
        self._record_evaluation(found, full=full)

    def _record_evaluation(self, found: dict[str, Measured], *, full: bool, measured_by: str | None = None) -> None:
        if full:
            self.last_full = found
        if not all(np.isfinite(m.loss) for m in found.values()):
            self._event(NON_FINITE, f"step {self.step}", what="a held-out loss")
        per_byte = {name: bits_per_byte(m.loss, self.job.heldout[name].tokens_per_byte) for name, m in found.items()}
        self._write(
            {"kind": "eval", "step": self.step, "tokens": self.tokens, "full": full,
             "lr": float(self.attempt.schedule.lr(self.tokens)), "phase": self.attempt.schedule.phase(self.tokens),
             "measured_by": measured_by,
             "loss": {name: finite(m.loss) for name, m in found.items()},
             "bits_per_byte": {name: finite(v) if v is not None else None for name, v in per_byte.items()},
             "windows": {name: list(map(finite, m.windows)) for name, m in found.items()}}
        )  # fmt: skip

    def _event(self, event: str, text: str, **more: Any) -> None:
        self._write({"kind": "event", "step": self.step, "tokens": self.tokens, "event": event, "text": text, **more})

    def _write(self, record: Record) -> None:
        """The leader writes; every process takes in what its next steps depend on."""
        if record["kind"] == "event":
            self.events.append(record)
        self.recent.add(record)
        if self.metrics is not None:
            self.metrics.write(record)
            self.hooks.tell(record)

    def _save(self) -> None:
        """Begin to save where the attempt stands."""
        assert self.saver is not None
        job = self.job
        folder = job.run_folder / checkpoint_id(job, self.step)
        self.saver.wait()
        if self.world.share(folder.exists()):  # stopped right where it went on from: it is already there
            return
        at_end = self.last_full if self.step == self.attempt.steps else {}
        made = manifest_at(job, self.stream, self.network, self.step, at_end)
        self.saver.save(folder, self.network.model, self.optimizer, made)
