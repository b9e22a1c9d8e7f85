"""What the jobs of an attempt left, as records, warnings, a verdict and the next command: a pure function of files.

attempt.json, the launches' records, their logs and the evaluations go in; `metrics.jsonl` comes out, written anew each
time and byte for byte the same from the same files, so that `judge`, `status` and `report` read it as natively. Once an
attempt has its verdict nothing is written any more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwarm.attempt.line import Feed, open_stream
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.passed_over import broken_words
from keepwarm.attempt.point import checkpoint_id
from keepwarm.attempt.progress import end_of
from keepwarm.attempt.records import Record, read_metrics, read_verdict, write_metrics
from keepwarm.backends.megatron.evaluate import Losses, read_evaluations, saved_steps
from keepwarm.backends.megatron.observed_logs import Course, course, read_jobs
from keepwarm.backends.megatron.observed_next import Next, Stands, next_of
from keepwarm.backends.megatron.observed_records import records_of
from keepwarm.backends.megatron.observed_saved import saved_at
from keepwarm.backends.megatron.observed_warnings import interval, warnings_of
from keepwarm.backends.megatron.record import Launch, launches_of
from keepwarm.backends.megatron.write import SUBMITTED
from keepwarm.blend.stream import Stream
from keepwarm.errors import KeepwarmError, LineageError
from keepwarm.lineage.manifest import Manifest, checkpoints_of, write_record
from keepwarm.strategy.verdict import Verdict, judge

Launches = Sequence[tuple[Path, Launch]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An attempt to be looked at, and what its records rest on."""

    run_folder: Path
    plan_sha256: str
    attempt: Attempt
    header: Record  # the first record as natively, but for how it is computed
    start: Manifest | None  # what it starts from
    feed: Feed
    identity: Mapping[str, Any]  # what must be the same in every checkpoint of a line

    @property
    def folder(self) -> Path:
        """Of the attempt."""
        return self.run_folder / self.attempt.folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was found. `records` is what metrics.jsonl holds; `warnings` are events of it."""

    attempt: Attempt
    folder: Path
    records: tuple[Record, ...]
    warnings: tuple[Record, ...]
    unread: tuple[str, ...]  # file:line of what looks like a point and can't be read
    cut: tuple[str, ...]  # of last lines without an end: still being written, or their job was killed
    verdict: Verdict
    step: int  # the last that is logged and counts
    launches: tuple[Stands, ...]
    evaluated: tuple[int, ...]  # iterations
    unevaluated: tuple[int, ...]  # saved and not measured
    end: Manifest | None  # of the last step
    next: Next

    @property
    def steps(self) -> int:
        """Of the attempt."""
        return self.attempt.steps

    @property
    def finished(self) -> bool:
        """True when it needs no more work of the cluster."""
        return self.end is not None or self.verdict.outcome == "diverged"

    @property
    def logged(self) -> bool:
        """True when the last iteration of its last launch is logged."""
        return self.launches[-1].reached

    def as_dict(self) -> dict[str, Any]:
        """JSON-able content, without the records."""
        kinds = [record["kind"] for record in self.records]
        return {
            "folder": str(self.folder), "stage": self.attempt.stage, "label": self.attempt.label, "step": self.step,
            "steps": self.steps, "training_points": kinds.count("train"), "evaluations": kinds.count("eval"),
            "launches": [each.as_dict() for each in self.launches], "evaluated": list(self.evaluated),
            "unevaluated": list(self.unevaluated), "unread": list(self.unread), "cut": list(self.cut),
            "warnings": list(self.warnings), "verdict": self.verdict.as_dict(),
            "end": self.end.id if self.end else None, "next": self.next.as_dict(),
        }  # fmt: skip


def observe(asked: Asked, logs: Sequence[Path] = (), *, write: bool = True) -> Observed:
    """Read an attempt's logs (those that are named, else those of its launches) and evaluations; `write` its metrics, and
    its last manifest once everything is there.

    KeepwarmError if it was not launched, LineageError for damaged records, DataError for a log of another run.
    """
    folder, launches = asked.folder, _launches(asked)
    found = course(read_jobs(folder, launches, logs))
    measured, saved = read_evaluations(folder, asked.identity["holdout"]), saved_steps(folder)
    stands = _stands(launches, found)
    records, end = _recorded(asked, launches, found, measured, saved, reached=stands[-1].reached)
    if read_verdict(folder) is not None:  # with what the control arms said, which no log does
        records = read_metrics(folder / "metrics.jsonl")
    elif write:
        write_metrics(folder / "metrics.jsonl", records)
        for each in _on_the_way(asked, launches, found, open_stream(asked.attempt, asked.feed), saved):
            write_record(asked.run_folder / each.id, each)
        if end is not None and end_of(folder) is None:
            write_record(asked.run_folder / end.id, end)
    verdict = judge(records)
    unevaluated = tuple(iteration for iteration in saved if iteration not in measured)
    told = tuple(record for record in records if record.get("warning"))
    done = end is not None or verdict.outcome == "diverged"
    return Observed(
        attempt=asked.attempt, folder=folder, records=tuple(records), warnings=told, unread=found.unread,
        cut=tuple(job.console.cut for job in found.jobs if job.console.cut), verdict=verdict, step=found.last,
        launches=stands, evaluated=tuple(measured), unevaluated=unevaluated, end=end,
        next=next_of(stands, [each["event"] for each in told], saved, unevaluated, done=done),
    )  # fmt: skip


def _recorded(
    asked: Asked, launches: Launches, found: Course, measured: Mapping[int, Losses], saved: Mapping[int, Path], *,
    reached: bool,
) -> tuple[list[Record], Manifest | None]:  # fmt: skip
    """The records, and the manifest of the last step, where it is `reached`, saved, measured and what it should be."""
    attempt, first = asked.attempt, launches[0][1].first_iteration
    losses = {iteration - first: each for iteration, each in measured.items()}
    warnings, stream = warnings_of(attempt, found), open_stream(attempt, asked.feed)

    def records() -> list[Record]:
        corpora = tuple(asked.identity["holdout"])
        return records_of(attempt, _header(asked, launches), found, losses, asked.start, stream, warnings, corpora)

    made = records()
    end: Manifest | str | None = end_of(asked.folder)
    if end is None and reached and broken_words(made) is None:
        end = _saved(
            asked, launches[-1][1], attempt.steps, found, stream, saved.get(launches[-1][1].end_iteration),
            losses.get(attempt.steps),
        )  # fmt: skip
    if not isinstance(end, str):
        return made, end
    warnings.append({"step": attempt.steps, "event": "checkpoint-differs", "text": end, "warning": True})
    return records(), None


def _launches(asked: Asked) -> list[tuple[Path, Launch]]:
    found = launches_of(asked.folder)
    stage = f"--stage {asked.attempt.stage} --rung {asked.folder.name}"
    if not found:
        raise KeepwarmError(
            f"{asked.folder}: was not launched yet", "there are no jobs whose logs could be read",
            f"keepwarm launch PLAN {stage} --write",
        )  # fmt: skip
    for path, launch in found:
        if launch.attempt != asked.attempt.sha256:
            raise LineageError(
                f"{path}: is a launch of another attempt",
                "its losses are of another mix or schedule",
                f"remove it, and launch again: keepwarm launch PLAN {stage} --write",
            )
    return found


def _header(asked: Asked, launches: Launches) -> Record:
    """With how it is computed; a CPU's threads have no part in that."""
    launch = launches[0][1]
    return {
        **asked.header, "backend": "megatron", "threads": 0, "precision": launch.environment.get("DTYPE", "bf16"),
        "world_size": launch.world_size, "compiled": False,
    }  # fmt: skip


def _stands(launches: Launches, found: Course) -> tuple[Stands, ...]:
    stands = []
    for path, launch in launches:
        own = [each.line.iteration for each in found.steps if each.launch.name == launch.name]
        jobs = tuple(job.name for job in found.jobs if job.launch.name == launch.name)
        stands.append(
            Stands(
                launch.name, path, launch.begin_iteration, launch.end_iteration, max(own, default=launch.begin_iteration),
                jobs, _submitted(path), launch.scheduler, interval(launch),
            )
        )  # fmt: skip
    return tuple(stands)


def _submitted(launch_folder: Path) -> str | None:
    path = launch_folder / SUBMITTED
    return str(json.loads(path.read_text(encoding="utf-8"))["job_id"]) if path.exists() else None


def _saved(
    asked: Asked, launch: Launch, step: int, found: Course, stream: Stream, checkpoint: Path | None, losses: Losses | None
) -> Manifest | str | None:  # fmt: skip
    """A step's manifest, or what is wrong with its checkpoint; None while it is not saved, or the last one not measured."""
    if checkpoint is None or (losses is None and step == asked.attempt.steps):
        return None
    skipped = sum(each.line.skipped for each in found.steps if each.step <= step)
    at_end = losses if losses is not None and step == asked.attempt.steps else {}
    return saved_at(
        asked.attempt, launch, step, asked.start, stream, checkpoint, at_end, asked.plan_sha256, asked.identity, skipped
    )  # fmt: skip


def _on_the_way(
    asked: Asked, launches: Launches, found: Course, stream: Stream, saved: Mapping[int, Path]
) -> list[Manifest]:
    """Manifests of the saved steps before the last that are logged and have none yet: later rungs may start from them."""
    first, there = launches[0][1].first_iteration, {path.name for path in checkpoints_of(asked.folder)}
    made: list[Manifest] = []
    for iteration, checkpoint in saved.items():
        step = iteration - first
        if not 0 < step < asked.attempt.steps or step > found.last:
            continue
        name = Path(checkpoint_id(asked.attempt, asked.start, step)).name
        launch = next(each for _, each in launches if iteration <= each.end_iteration)
        each = None if name in there else _saved(asked, launch, step, found, stream, checkpoint, None)
        made += [each] if isinstance(each, Manifest) else []
    return made
