"""What is wrong with a launch by its logs, as events for the metrics: each with the step it is seen at, and its evidence.

The trainer goes on, with exit status 0, where it found no weights to load, where its schedule raises an error (the step
is counted as skipped, LR stands still, and the weights are updated all the same), and where its flags say another
schedule than the one that was meant. A log says all of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm.attempt.model import Attempt
from keepwarm.backends.megatron.observed_logs import Course, Job, Step
from keepwarm.backends.megatron.record import Launch
from keepwarm.lineage.foreign_facts import LR_TOLERANCE
from keepwarm.lineage.foreign_logs import LogLine

RANDOM_LOSS_TOLERANCE = 0.05  # relative: how near a first loss is to that of random weights, ln(rows of the embedding)
FROZEN_STEPS = 2  # skipped in a row without a loss scale: one alone may be a gradient that was not finite
_PLACES = 10  # of lines that are not understood, in words; all of them stand in `places`
Event = dict[str, Any]


def warnings_of(attempt: Attempt, course: Course) -> list[Event]:
    """Every warning, without `tokens`."""
    found = [
        *_not_loaded(course), *_rates(attempt, course), *_positions(attempt, course), *_frozen(course),
        *_missing(course), *_unread(course), *_failed(course),
    ]  # fmt: skip
    return [{**event, "warning": True} for event in found]


def agrees(line: LogLine, lr: float) -> bool:
    """True if the line's digits are those of `lr`, but for rounding."""
    return any(line.has_rate(lr * (1 + each)) for each in (0.0, LR_TOLERANCE, -LR_TOLERANCE))


def rates_behind(attempt: Attempt, steps: Sequence[int]) -> NDArray[np.float64]:
    """LR of the step that follows each of these."""
    tokens = attempt.batches.samples_of(np.array(steps, dtype=np.int64)) * attempt.sequence_length
    return np.asarray(attempt.schedule.lr(tokens), dtype=np.float64)


def frozen_stretches(course: Course) -> list[list[Step]]:
    """Skipped iterations in a row, LR standing still, of a trainer that has no loss scale to skip them for."""
    key = [each.line.lr if each.line.skipped and each.line.loss_scale in (None, 1.0) else None for each in course.steps]
    numbered = groupby(zip(key, course.steps, strict=True), key=lambda each: each[0])
    stretches = [[step for _, step in own] for lr, own in numbered if lr is not None]
    return [own for own in stretches if sum(each.line.skipped for each in own) >= FROZEN_STEPS]


def interval(launch: Launch) -> int:
    """Iterations that a training line stands for."""
    return int(launch.environment.get("LOG_INTERVAL", 1))


def _event(event: str, step: int, text: str, **evidence: Any) -> Event:
    return {"step": step, "event": event, "text": text, **evidence}


def _not_loaded(course: Course) -> Iterator[Event]:
    """Weights that were to be loaded and were not: the trainer says so, or the first loss behind it is that of none."""
    for number, job in enumerate(course.jobs):
        before = [each for each in course.jobs[:number] if each.launch.name == job.launch.name]
        if job.console.from_random and (job.launch.load is not None or _saved(before)):
            place = job.console.from_random[0]
            text = f"the trainer found no checkpoint and began from random weights ({place})"
            yield _event(
                "weights-not-loaded", job.launch.begin_iteration - job.launch.first_iteration, text, place=place
            )
    resumed = {each.place for each in course.restarts}
    for last, now in zip([None, *course.steps], course.steps, strict=False):
        begins = last is None or last.launch.name != now.launch.name
        loads = now.launch.load is not None if begins else now.line.place in resumed
        if loads and _random(now) and not (last is not None and _random(last)):
            rows, loss = now.launch.padded_vocab_size, now.line.loss
            text = (
                f"the first loss behind a checkpoint is {loss:.3f}, and that of random weights is ln {rows:,} = "
                f"{math.log(rows):.3f}: the weights were not loaded ({now.line.place})"
            )
            yield _event("weights-not-loaded", now.step, text, place=now.line.place, loss=loss, random=math.log(rows))


def _random(step: Step) -> bool:
    """True of a loss that random weights would have."""
    random, loss = math.log(step.launch.padded_vocab_size), step.line.loss
    return loss is not None and abs(loss - random) <= RANDOM_LOSS_TOLERANCE * random


def _saved(jobs: Sequence[Job]) -> bool:
    """True where jobs of a launch went far enough for a checkpoint of it."""
    return any(
        line.iteration >= job.launch.begin_iteration + job.launch.save_iterations for job in jobs for line in job.lines
    )


def _rates(attempt: Attempt, course: Course) -> Iterator[Event]:
    """LR against the schedule's, also as many steps late as were skipped: the trainer's schedule stands still at them.

    The last line of a launch has the LR of a step that its flags were never meant for.
    """
    if not course.steps:
        return
    late = np.cumsum([each.line.skipped for each in course.steps])
    steps = np.array([each.step for each in course.steps])
    due, later = rates_behind(attempt, steps.tolist()), rates_behind(attempt, np.maximum(0, steps - late).tolist())
    lines = [each for each in course.steps if each.line.iteration != each.launch.end_iteration]
    rate = dict(zip(steps.tolist(), zip(due.tolist(), later.tolist(), strict=True), strict=True))
    wrong = [each for each in lines if not any(agrees(each.line, lr) for lr in rate[each.step])]
    if wrong:
        first = wrong[0]
        logged, expected = first.line.lr, rate[first.step][0]
        text = (
            f"iteration {first.line.iteration:,} logs LR {logged:g}, the attempt's schedule has {expected:g} for the step "
            f"behind it ({first.line.place}); so do {len(wrong):,} of {len(lines):,} lines"
        )
        more = {"iteration": first.line.iteration, "logged": logged, "due": expected, "lines": len(wrong)}
        yield _event("lr-differs", first.step, text, place=first.line.place, **more)


def _positions(attempt: Attempt, course: Course) -> Iterator[Event]:
    """What a line says of its batch, its position in the data and the launch's length, against the record's."""
    for each in course.steps:
        line, launch = each.line, each.launch
        samples = launch.first_iteration * launch.global_batch_size + attempt.batches.samples(each.step)
        said = {
            "global batch size": (line.global_batch_size, attempt.batches.size(each.step - 1)),
            "consumed samples": (line.samples, samples),
            "consumed tokens": (line.tokens, samples * attempt.sequence_length),
            "iterations in all": (line.iterations, launch.train_iterations),
        }
        wrong = {name: pair for name, pair in said.items() if pair[0] not in (None, pair[1])}
        if wrong:
            words = ", ".join(f"{name} {logged:,}, not {due:,}" for name, (logged, due) in wrong.items())
            text = f"iteration {line.iteration:,} logs {words} ({line.place}): it is not the launch that was written"
            yield _event(
                "position-differs", each.step, text, place=line.place, differs={k: list(v) for k, v in wrong.items()}
            )
            break
    if course.outside:
        text = f"{len(course.outside):,} lines are of iterations that their launch does not train ({course.outside[0]})"
        yield _event("position-differs", course.last, text, places=list(course.outside))


def _frozen(course: Course) -> Iterator[Event]:
    for own in frozen_stretches(course):
        first, last, count = own[0].line, own[-1].line, sum(each.line.skipped for each in own)
        text = (
            f"iterations {first.iteration:,} to {last.iteration:,}: {count:,} are logged as skipped, LR standing still at "
            f"{first.lr:g} ({first.place}): the trainer's schedule raised an error that it hides, and the weights were "
            "updated all the same (an infinite schedule does so with --min-lr 0)"
        )
        yield _event("scheduler-failed", own[0].step, text, place=first.place, skipped=count, lr=first.lr)


def _missing(course: Course) -> Iterator[Event]:
    last = 0
    for each in course.steps:
        if each.step - last > interval(each.launch):
            first = each.launch.first_iteration
            text = (
                f"iterations {last + 1 + first:,} to {each.step - 1 + first:,} are in no log (next: {each.line.place})"
            )
            yield _event("iterations-missing", each.step, text, place=each.line.place, steps=[last + 1, each.step - 1])
        last = each.step


def _unread(course: Course) -> Iterator[Event]:
    if course.unread:
        more = len(course.unread) - _PLACES
        told = ", ".join(course.unread[:_PLACES]) + (f" and {more:,} more" if more > 0 else "")
        text = f"{len(course.unread):,} lines look like training or validation and can't be read: {told}"
        yield _event("unread-lines", course.last, text, places=list(course.unread))


def _failed(course: Course) -> Iterator[Event]:
    """The last job's error, where its launch has not come to its end."""
    if course.jobs and (job := course.jobs[-1]).console.failure is not None:
        done = max((line.iteration for line in job.lines), default=job.launch.begin_iteration)
        if done + interval(job.launch) <= job.launch.end_iteration:
            text = f"{job.name} ends with an error: {job.console.failure}"
            yield _event("job-failed", course.last, text, log=job.name)
