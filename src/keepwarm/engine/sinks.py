"""Copies of an attempt's records for the trackers of `run.trackers`. `metrics.jsonl` stays the only truth.

A tracker that fails is told of once and left out: training never stops because of one.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from keepwarm.attempt.model import Attempt
from keepwarm.attempt.records import REWOUND, Record, read_metrics
from keepwarm.engine.trackers import TRACKERS, Sink, Tracked
from keepwarm.errors import KeepwarmError

TRACKER_FAILED = "tracker-failed"  # told, and not in the metrics: it says nothing of the attempt
FOLDER = "trackers"
FLUSH_SECONDS = 2.0  # records are handed on together: a transaction of a tracker takes up to 25 ms
_LIBRARIES = {"tensorboard": "tensorboardX", "trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow"}
_ENVIRONMENT = {  # read when the libraries are imported
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # it is off by default, in favour of a database that mlflow-skinny lacks
}


@contextlib.contextmanager
def copied(
    names: Sequence[str], run_folder: Path, group: str, attempt: Attempt, tell: Callable[[Record], None]
) -> Iterator[Callable[[Record], None]]:
    """`tell`, with a copy of every record for each tracker of `names`. A record is in `metrics.jsonl` when it is told.

    Raises KeepwarmError, before anything is begun, where a tracker's library can't be loaded.
    """
    for name in names:
        _load(name)
    if not names:
        yield tell
        return
    copies = _Copies(names, run_folder, group, attempt, tell)
    try:
        yield copies.record
    finally:
        copies.close()


def _load(name: str) -> None:
    os.environ.update(_ENVIRONMENT)
    try:
        importlib.import_module(_LIBRARIES[name])
    except Exception as error:  # not there, or at odds with another library
        raise KeepwarmError(
            f"run.trackers: {name} can't be loaded ({error})",
            "the run would be trained without the tracker you asked for",
            "pip install 'keepwarm[trackers]', or leave it out: --set run.trackers=none",
        ) from error


class _Copies:
    """The open trackers of one attempt, and the records that wait for them."""

    def __init__(
        self, names: Sequence[str], run_folder: Path, group: str, attempt: Attempt, tell: Callable[[Record], None]
    ) -> None:
        self._tell = tell
        self._metrics = run_folder / attempt.folder / "metrics.jsonl"
        sources, called = {s.id: s.name for s in attempt.sources}, attempt.folder.removeprefix("arms/")
        self._tracked = {name: Tracked(run_folder / FOLDER / name, group, called, sources) for name in names}
        self._sinks: dict[str, Sink] = {}
        self._waiting: list[Record] = []
        self._last: Record | None = None
        self._handed_on = 0.0

    def record(self, record: Record) -> None:
        """Tell a record. The first, and one that takes steps back, has the trackers begin with all that is on disk."""
        self._tell(record)
        begins = self._last is None or record.get("event") == REWOUND
        self._last = record
        if begins:
            self.close()
            self._waiting = read_metrics(self._metrics)
            for name in tuple(self._tracked):
                self._try(name, self._open)
            self._hand_on()
        else:
            self._waiting.append(record)
            if time.monotonic() - self._handed_on >= FLUSH_SECONDS:
                self._hand_on()

    def close(self) -> None:
        """Hand on what waits and close what is open."""
        self._hand_on()
        for name in tuple(self._sinks):
            self._try(name, lambda name: self._sinks.pop(name).close())

    def _open(self, name: str) -> None:
        self._sinks[name] = TRACKERS[name](self._tracked[name])

    def _hand_on(self) -> None:
        for name in tuple(self._sinks):
            self._try(name, lambda name: self._sinks[name].write(self._waiting))
        self._waiting = []
        self._handed_on = time.monotonic()

    def _try(self, name: str, act: Callable[[str], None]) -> None:
        try:
            act(name)
        except Exception as error:  # a tracker's own bug may be of any kind
            del self._tracked[name]
            sink = self._sinks.pop(name, None)
            with contextlib.suppress(Exception):
                if sink is not None:
                    sink.close()
            assert self._last is not None
            words = " ".join(str(error).split()) or type(error).__name__
            self._tell(
                {"kind": "event", "event": TRACKER_FAILED, "step": self._last.get("step", 0),
                 "tokens": self._last.get("tokens", 0),
                 "text": f"{name}: {words}; training goes on without it, metrics.jsonl has all"}
            )  # fmt: skip
