"""An attempt is made once: its `attempt.json` is written, or the one on disk must be the same try."""

from __future__ import annotations

from pathlib import Path

from keepwarm import files
from keepwarm.attempt.model import Attempt, to_json
from keepwarm.attempt.progress import end_of
from keepwarm.attempt.records import read_attempt, read_verdict
from keepwarm.errors import LineageError
from keepwarm.lineage.manifest import checkpoints_of
from keepwarm.plan.model import Plan

# Follow from what the corpora hold, and from what was allowed, when an attempt is made.
_OF_ITS_TIME = {"sources", "segments", "allow", "warnings"}
# What is done when training is unstable: another answer from now on leaves what is finished as it is.
_OF_ITS_COURSE = {"stability"}
# What a plan may change from a stage on, by name. Guard 5 holds each start to it; what is finished keeps its own.
_BY_NAME = {"optimizer": "optimizer", "document_eod": "document_mask"}


def settle_attempt(plan: Plan, attempt: Attempt) -> Attempt:
    """Write `attempt.json`, or give the one on disk, which must be the same try; LineageError if the plan has changed.

    What the plan's corpora hold may have changed: an attempt keeps the sources and weights that it was made with, and
    the guards that it was allowed to override. One of which nothing was trained yet, as where its model was refused, is
    made anew. One that is finished keeps its stability too, and its optimizer where the
    plan says by name that a stage has another.
    """
    folder = Path(plan.run.folder) / attempt.folder
    path = folder / "attempt.json"
    if not path.exists() or not _begun(folder):
        files.write_json(path, to_json(attempt), replace=True)
        return attempt
    recorded = read_attempt(folder)
    finished = read_verdict(folder) is not None or end_of(folder) is not None
    changed = differences(recorded, attempt) - (_OF_ITS_COURSE if finished else set())
    by_name = finished and changed <= set(_BY_NAME)
    if not changed or (by_name and any("budget-and-identity" in stage.allow for stage in plan.stages)):
        return recorded
    back = "put the plan back as it was (the run folder's plan.yaml)"
    raise LineageError(
        f"{path}: was made with other {', '.join(sorted(_BY_NAME.get(key, key) for key in changed))}",
        "the plan or its data changed after this attempt began; going on would mix two experiments in one record",
        f"{back}; or, to change it from a stage on and have it recorded: --allow STAGE:budget-and-identity"
        if by_name
        else f"{back}, or start anew: run: {{folder: ...}}",
    )


def differences(recorded: Attempt, attempt: Attempt) -> set[str]:
    """What of an attempt is another than on record; what may differ, because it is of the time it was made, left out."""
    before, now = to_json(recorded), to_json(attempt)
    return {key for key in now.keys() | before.keys() if now.get(key) != before.get(key)} - _OF_ITS_TIME


def _begun(folder: Path) -> bool:
    """Whether an attempt has a record of its training, a checkpoint or a verdict."""
    begun = (folder / "metrics.jsonl").exists() or bool(checkpoints_of(folder))
    return begun or end_of(folder) is not None or read_verdict(folder) is not None
