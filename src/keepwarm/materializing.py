"""`keepwarm data materialize`: the samples of an attempt, on record or next in its ladder, as files of a trainer's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from keepwarm import files
from keepwarm.attempt.line import COOKBOOK, Feed, feed_of
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.progress import attempts_of
from keepwarm.attempt.records import attempt_in
from keepwarm.backends.megatron.materialized import (
    LIST,
    MaterializedList,
    Progress,
    bytes_of,
    facts,
    materialized_list,
    write_materialized,
)
from keepwarm.blend.buffer import load_buffers
from keepwarm.corpora.prepare import Prepared, prepare
from keepwarm.errors import KeepwarmError
from keepwarm.launching import asked_for
from keepwarm.plan.model import Plan
from keepwarm.report.progress import progress_bar
from keepwarm.units import format_bytes
from keepwarm.work import Listener, sampler_of


class Bar(Protocol):
    """report.progress.progress_bar, or a test's."""

    def __call__(self, doing: str) -> AbstractContextManager[tuple[Any, Progress]]:
        """What is done, for whoever watches."""


@dataclass(frozen=True, slots=True)
class Materialized:
    """What was written, and of which attempt."""

    attempt: Attempt
    data: MaterializedList
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        batch = self.attempt.global_batch_size
        return {
            "folder": str(self.data.folder), "list": str(self.data.folder / LIST), "bytes": self.bytes,
            "tokens": self.data.reading.samples * self.attempt.sequence_length, "global_batch_size": batch,
            "train_iterations": self.data.reading.samples // batch, "materialized": facts(self.attempt, self.data),
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        """For people."""
        reading, attempt, batch = self.data.reading, self.attempt, self.attempt.global_batch_size
        last = reading.first_sample + reading.samples
        shards = f"{len(self.data.shards)} shard{'s' if len(self.data.shards) > 1 else ''}"
        yield (
            f"{self.data.folder}: {attempt.folder} ({attempt.label}), samples {reading.first_sample:,} to {last:,} of "
            f"{attempt.batches.samples(attempt.steps):,}, {shards}, {format_bytes(self.bytes)}"
        )
        yield "train_alcf.sh reads them in this order with"
        yield (
            f"  DATA_FILE_LIST={self.data.folder / LIST} TRAIN_ITERS={reading.samples // batch} GLOBAL_BATCH={batch} "
            f"SEQ={attempt.sequence_length}"
        )
        yield f"  (its own --seed {reading.seed}, --split and --shuffle-sample-in-corpus, and a fresh data cache)"


def materialize(
    plan: Plan, out: Path, listener: Listener, *, stage: str | None, rung: str | None, samples: tuple[int, int] | None,
    shard_tokens: int | None, bar: Bar = progress_bar,
) -> Materialized:  # fmt: skip
    """Write the samples of an attempt into the folder `out`.

    The attempt is the one on record at `stage` that `rung` names, else the one that its ladder would try next. KeepwarmError
    for a folder that exists, samples that the attempt has not, or that are no whole steps.
    """
    folder = Path(out).absolute()
    if folder.exists():
        raise KeepwarmError(
            f"{out}: exists already", "nothing is overwritten silently", f"choose another name, or: rm -r {out}"
        )
    with files.run_lock(Path(plan.run.folder)):
        prepared = prepare(plan, listener.say, progress_bar, sampler_of(plan))
    attempt, feed = _attempt(plan, prepared, listener, stage, rung)
    first, last = _range(attempt, samples)
    shard_samples = None if shard_tokens is None else max(1, shard_tokens // attempt.sequence_length)
    data = materialized_list(attempt, folder, first_sample=first, last_sample=last, shard_samples=shard_samples)
    with bar(f"writing {out}") as (_, progress):
        write_materialized(attempt, feed, data, progress)
    return Materialized(attempt, data, bytes_of(attempt, feed, data))


def _attempt(
    plan: Plan, prepared: Prepared, listener: Listener, stage: str | None, rung: str | None
) -> tuple[Attempt, Feed]:
    folder = Path(plan.run.folder)
    if stage is not None and rung is not None:
        for tried in reversed(attempts_of(folder, COOKBOOK, stage)):
            recorded = attempt_in(tried.folder)
            if recorded is not None and rung in (tried.rung, tried.label, tried.folder.name):
                return recorded, feed_of(prepared, load_buffers(folder / "buffer"))
    asked = asked_for(plan, prepared, listener, stage, rung)
    return asked.attempt, asked.feed


def _range(attempt: Attempt, asked: tuple[int, int] | None) -> tuple[int, int]:
    whole, batch = attempt.batches.samples(attempt.steps), attempt.global_batch_size
    first, last = asked or (0, whole)
    if not 0 <= first < last <= whole:
        raise KeepwarmError(
            f"--samples {first}:{last}: the attempt has the samples 0 to {whole:,}",
            "nothing was written",
            f"--samples 0:{whole}",
        )
    if (last - first) % batch:
        upper = min(whole, first + -(-(last - first) // batch) * batch)
        raise KeepwarmError(
            f"--samples {first}:{last}: {last - first:,} samples are no whole number of steps of {batch}",
            "the trainer is launched for whole iterations, and its order of data depends on their number",
            f"--samples {first}:{upper}",
        )
    return first, last
