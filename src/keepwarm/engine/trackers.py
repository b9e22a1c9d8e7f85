"""The trackers: each is a sink for an attempt's records, below RUN/trackers/NAME/, without login and without network.

A tracker is opened anew whenever its attempt begins or goes on, drops what it had of it and is given all records that
still count. None of them can take back a step by itself: TensorBoard's purge_step hides steps of which a writer that was
killed may have kept nothing, mlflow and trackio add a second point, and wandb ignores `resume` when offline. Ids and
names stay. Times are those of writing; the axis is the step, with tokens as a value.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from keepwarm import files
from keepwarm.attempt.records import Record

PROJECT = "keepwarm"
_EVENT_TAG = "event "
_MLFLOW_BATCH = 1000  # metrics a call takes
_UNFIT = re.compile(r"[^A-Za-z0-9_.-]+")  # for a part of a tag, in one tracker or the other


class Sink(Protocol):
    """Takes copies of records. Whatever it raises is its own affair: it is closed and training goes on."""

    def write(self, records: Sequence[Record]) -> None:
        """Take more records, in order."""

    def close(self) -> None:
        """Write what is not on disk yet and end what runs in the background."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """An attempt as a tracker knows it."""

    folder: Path  # RUN/trackers/NAME
    group: str  # the plan's name
    name: str  # arm/stage/NN-rung
    sources: Mapping[str, str]  # id -> name


def values(record: Record, sources: Mapping[str, str]) -> dict[str, float]:
    """The numbers of a record by tag: `train/...` and `share/SOURCE` (of the step's samples, 0 where it has none),
    `eval/...` over all held-out windows, `eval_subset/...` over some. Empty where a record has none."""
    if record["kind"] == "train":
        found = {_tag("train", key): value for key, value in record.items() if key != "step" and _is_number(value)}
        samples = sum(record["samples"].values())
        for source, name in sources.items():
            tag = _tag("share", name)
            found[tag] = found.get(tag, 0.0) + record["samples"].get(source, 0) / samples
        return found
    if record["kind"] == "eval":
        head = "eval" if record["full"] else "eval_subset"
        measured = {
            _tag(head, what, corpus): value
            for what in ("loss", "bits_per_byte")
            for corpus, value in record[what].items()
            if value is not None
        }
        return {_tag(head, "tokens"): record["tokens"], **measured}
    return {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tag(*names: str) -> str:
    """Names as one tag. A name that is a path is one part of it: mlflow keeps tags as files, and `a` beside `a/b` is none."""
    return "/".join(_UNFIT.sub("_", name) for name in names)


def _rows(records: Sequence[Record], sources: Mapping[str, str]) -> list[tuple[int, dict[str, float]]]:
    """(step, values) of the records that have values."""
    return [(record["step"], found) for record in records if (found := values(record, sources))]


def _events(records: Sequence[Record]) -> list[tuple[int, str, str]]:
    """(step, event, text) of the events."""
    return [(r["step"], r["event"], r["text"]) for r in records if r["kind"] == "event"]


class TensorBoard:
    """Event files, one folder an attempt. Values are fp32, as TensorBoard has them.

    Written in step with training: the thread of tensorboardX's own writer dies of a full disk, and its queue then blocks.
    """

    def __init__(self, tracked: Tracked) -> None:
        """Begin an event file that takes back what those before it say (purge from step 0). They stay: a TensorBoard that
        is looking would stop at one that is gone."""
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._sources, self._summary, self._event = tracked.sources, summary, event_pb2.Event
        folder = tracked.folder / tracked.name
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self._add(0, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def _add(self, step: int, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=step, **content))

    def write(self, records: Sequence[Record]) -> None:
        """Scalars and texts, on disk when it returns."""
        for step, found in _rows(records, self._sources):
            parts = [self._summary.scalar(tag, value) for tag, value in found.items()]
            for part in parts[1:]:
                parts[0].MergeFrom(part)
            self._add(step, summary=parts[0])
        for step, event, text in _events(records):
            self._add(step, summary=self._summary.text("events", f"{event}: {text}"))
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class Trackio:
    """A SQLite file with all attempts: TRACKIO_DIR=RUN/trackers/trackio trackio show.

    Goes to trackio's store: `trackio.init` asks the hub who the user is, and its thread loses rows without a word.
    """

    def __init__(self, tracked: Tracked) -> None:
        """Drop what the store has of the attempt."""
        from trackio import sqlite_storage

        self._tracked, self._module = tracked, sqlite_storage
        tracked.folder.mkdir(parents=True, exist_ok=True)
        with self._store() as store:
            store.delete_run(PROJECT, tracked.name)

    @contextlib.contextmanager
    def _store(self) -> Iterator[Any]:
        """The store of this run folder; trackio reads its TRACKIO_DIR once for the whole process."""
        before, self._module.TRACKIO_DIR = self._module.TRACKIO_DIR, self._tracked.folder
        try:
            yield self._module.SQLiteStorage
        finally:
            self._module.TRACKIO_DIR = before

    def write(self, records: Sequence[Record]) -> None:
        """Rows, and events as alerts; on disk when it returns."""
        name, rows, events = self._tracked.name, _rows(records, self._tracked.sources), _events(records)
        config = {"_Group": self._tracked.group}
        with self._store() as store:
            store.bulk_log(PROJECT, name, [found for _, found in rows], [step for step, _ in rows], config=config)
            steps, titles, texts = ([event[k] for event in events] for k in range(3))
            store.bulk_alert(PROJECT, name, titles, texts, ["info"] * len(events), steps)

    def close(self) -> None:
        """Nothing is open between writes."""


class Wandb:
    """Offline runs, one folder an attempt: `wandb sync RUN/trackers/wandb/ARM/STAGE/NN-RUNG/wandb/offline-run-*`."""

    def __init__(self, tracked: Tracked) -> None:
        """Replace the attempt's offline run by one with the same id."""
        import wandb

        self._sources, self._wandb = tracked.sources, wandb
        folder = tracked.folder / tracked.name
        ids = [path.stem.removeprefix("run-") for path in folder.glob("wandb/offline-run-*/run-*.wandb")]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.environ.setdefault(
            "WANDB_CACHE_DIR", str(tracked.folder / "cache")
        )  # its service keeps a log of itself there
        settings = wandb.Settings(
            mode="offline", console="off", silent=True, disable_git=True, disable_code=True, disable_job_creation=True,
            x_disable_stats=True, x_disable_meta=True,
        )  # fmt: skip
        self._run = wandb.init(
            project=PROJECT, dir=folder, id=ids[0] if ids else None, name=tracked.name, group=tracked.group,
            settings=settings, reinit="create_new",
        )  # fmt: skip
        self._run.define_metric("*", step_metric="step")

    def write(self, records: Sequence[Record]) -> None:
        """Rows of the history with `step` in them; events are rows with their words."""
        for step, found in _rows(records, self._sources):
            self._run.log({"step": step, **found})
        for step, event, text in _events(records):
            self._run.log({"step": step, "event": f"{event}: {text}"})

    def close(self) -> None:
        """End the run, and wandb's service unless a run of somebody else needs it."""
        try:
            self._run.finish()
        finally:
            if self._wandb.run is None:
                self._wandb.teardown()


class MLflow:
    """A file store with an experiment for the plan: the one local store that mlflow-skinny has."""

    def __init__(self, tracked: Tracked) -> None:
        """Find the attempt's run, or begin it; a found one keeps its id and loses its metrics and events."""
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._sources, self._metric = tracked.sources, Metric
        store = tracked.folder.resolve()
        with files.run_lock(store, waiting=lambda _: None):  # the store would make an experiment twice
            self._client = MlflowClient(tracking_uri=store.as_uri(), registry_uri=store.as_uri())
            known = self._client.get_experiment_by_name(tracked.group)
            experiment = known.experiment_id if known else self._client.create_experiment(tracked.group)
            runs = self._client.search_runs([experiment], f"attributes.run_name = '{tracked.name}'")
            run = runs[0] if runs else self._client.create_run(experiment, run_name=tracked.name)
        self._id = run.info.run_id
        metrics = store / experiment / self._id / "metrics"  # the client has no word for taking a metric back
        shutil.rmtree(metrics, ignore_errors=True)
        metrics.mkdir()
        for tag in run.data.tags:
            if tag.startswith(_EVENT_TAG):
                self._client.delete_tag(self._id, tag)
        self._client.update_run(self._id, status="RUNNING")

    def write(self, records: Sequence[Record]) -> None:
        """Metrics, and events as tags that begin with their step; on disk when it returns."""
        now = int(time.time() * 1000)
        found = [
            self._metric(tag, value, now, step)
            for step, row in _rows(records, self._sources)
            for tag, value in row.items()
        ]
        for first in range(0, len(found), _MLFLOW_BATCH):
            self._client.log_batch(self._id, metrics=found[first : first + _MLFLOW_BATCH])
        for step, event, text in _events(records):
            self._client.set_tag(self._id, f"{_EVENT_TAG}{step:07d} {event}", text)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)


TRACKERS: dict[str, Callable[[Tracked], Sink]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": Wandb,
    "mlflow": MLflow,
}
