"""What the loop is given: a job, the same in every process, and the leader's ears and mouth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwarm.attempt.model import Attempt
from keepwarm.attempt.records import Record, Watch
from keepwarm.corpora.source import Source
from keepwarm.engine.build import Computing
from keepwarm.evaluate.heldout import HeldOut
from keepwarm.lineage.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the loop needs beside the attempt: where, from what, with what data, computed how."""

    run_folder: Path
    plan_sha256: str
    attempt: Attempt
    header: Record
    sources: Mapping[str, Source]  # by id
    heldout: Mapping[str, HeldOut]
    start: Manifest | None  # the checkpoint the attempt starts from; None for new or foreign weights
    identity: Mapping[str, Any]  # what must be the same in every checkpoint of a line (guard 5)
    save_steps: int
    threads: int  # of this machine, for all its processes
    how: Computing

    @property
    def folder(self) -> Path:
        """Where the attempt lies."""
        return self.run_folder / self.attempt.folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Whom the leader tells, and asks. The other processes have none: what matters to them is shared."""

    tell: Callable[[Record], None] = lambda record: None
    watch: Watch | None = None  # asked after evaluations for events
    # Asked at step borders, with the seconds that saving and ending would take: True = save and leave.
    stop: Callable[[float], bool] = lambda seconds: False


SILENT = Hooks()
