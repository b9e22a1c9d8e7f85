"""The records of `metrics.jsonl` from logs and evaluations, shaped as natively: a pure function, written anew each time.

`lr` of a training record is what its step used: the line before says it, else the schedule does. A norm that is not a
finite number is left out. What has no place natively are events: the trainer's own blended `validation` loss, which is no
corpus's; a loss that is not finite and was followed by finite ones (`nan-loss`); and warnings.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from keepwarm.attempt.model import Attempt
from keepwarm.attempt.records import NON_FINITE, SKIPPED, Record, finite
from keepwarm.backends.megatron.evaluate import Losses
from keepwarm.backends.megatron.observed_logs import Course, Step
from keepwarm.backends.megatron.observed_warnings import agrees, frozen_stretches, rates_behind
from keepwarm.blend.stream import Stream
from keepwarm.evaluate.heldout import bits_per_byte, subset
from keepwarm.lineage.log_points import TEST, Validation
from keepwarm.lineage.manifest import Manifest

RESUMED, VALIDATION, NAN_LOSS = "resumed", "validation", "nan-loss"
_ORDER = {"train": 0, "eval": 2}  # of the records of a step; events come between, warnings and resumes behind


def records_of(
    attempt: Attempt, header: Record, course: Course, evaluations: Mapping[int, Losses], start: Manifest | None,
    stream: Stream, warnings: Sequence[Record], corpora: Collection[str],
) -> list[Record]:  # fmt: skip
    """All records in order: the header, then by step. `evaluations` by step of the attempt, of these `corpora`."""
    found = [
        *_trained(attempt, course, stream), *_validated(course, attempt.steps), *_resumed(course),
        *_measured(attempt, header, evaluations, start, corpora), *({"kind": "event", **each} for each in warnings),
    ]  # fmt: skip
    behind = {RESUMED, *(each["event"] for each in warnings)}
    found.sort(key=lambda each: (each["step"], 3 if each.get("event") in behind else _ORDER.get(each["kind"], 1)))
    return [header, *(_placed(each, attempt) for each in found)]


def _placed(record: Record, attempt: Attempt) -> Record:
    """With the tokens that were fed up to its step, behind the step."""
    first = {"kind": record["kind"], "step": record["step"], "tokens": attempt.tokens_at(record["step"])}
    return first | {key: value for key, value in record.items() if key not in first}


def _trained(attempt: Attempt, course: Course, stream: Stream) -> Iterator[Record]:
    """A record for each line, or the event that stands in its place."""
    if not course.steps:
        return
    frozen = {each.step for own in frozen_stretches(course) for each in own}
    finite_until = max((each.step for each in course.steps if _has_loss(each)), default=0)
    tail = [each.step for each in course.steps if _is_bad(each) and each.step > finite_until]
    ended = tail[0] if len(tail) > 1 or tail == [attempt.steps] else None
    due = rates_behind(attempt, [each.step - 1 for each in course.steps])
    before: Step | None = None
    fed = stream.cursors(0)
    for each, rate in zip(course.steps, due.tolist(), strict=True):
        now = stream.cursors(attempt.batches.samples(each.step))
        if each.line.skipped and each.step not in frozen:
            yield _skipped(each, attempt)
        if _has_loss(each):
            yield _train(each, attempt, _rate(before, each, rate), _fed(fed, now))
        elif _is_bad(each) and (ended is None or each.step <= ended):
            yield _not_finite(each, course.last, ends=each.step == ended)
        before, fed = each, now


def _has_loss(each: Step) -> bool:
    return each.line.loss is not None and math.isfinite(each.line.loss)


def _is_bad(each: Step) -> bool:
    """A loss that is not finite, of a step that was made; what is skipped leaves the weights as they were."""
    return each.line.not_finite and not each.line.skipped


def _rate(before: Step | None, now: Step, due: float) -> float:
    """What a step used: the LR of the line before, where that is of the step before and is not the one that is `due`."""
    if before is None or before.step != now.step - 1 or before.line.lr is None or agrees(before.line, due):
        return due
    return before.line.lr


def _fed(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    counts = {source: count - before.get(source, 0) for source, count in now.items()}
    return {source: count for source, count in counts.items() if count}


def _train(each: Step, attempt: Attempt, lr: float, samples: Mapping[str, int]) -> Record:
    line = each.line
    tokens = attempt.batches.size(each.step - 1) * attempt.sequence_length
    norm = line.grad_norm
    return {
        "kind": "train", "step": each.step, "loss": line.loss, "lr": lr,
        **({"grad_norm": norm} if norm is not None and math.isfinite(norm) and norm >= 0 else {}),
        "tokens_per_second": round(tokens / line.seconds, 1) if line.seconds else 0.0, "samples": dict(samples),
    }  # fmt: skip


def _skipped(each: Step, attempt: Attempt) -> Record:
    """Its samples were fed and taught nothing; of a line that stands for several steps, which of them is not known."""
    samples = [attempt.batches.samples(each.step - each.line.skipped), attempt.batches.samples(each.step)]
    scale = "" if each.line.loss_scale in (None, 1.0) else f", loss scale {each.line.loss_scale:g}"
    count = f"{each.line.skipped} iterations" if each.line.skipped > 1 else "iteration"
    text = f"no update: {count} logged as skipped{scale} ({each.line.place})"
    return {
        "kind": "event", "event": SKIPPED, "step": each.step, "text": text, "why": "logged", "samples": samples,
        "located": [],
    }  # fmt: skip


def _not_finite(each: Step, last: int, *, ends: bool) -> Record:
    """The event of a loss that is not finite. It `ends` the attempt as diverged where no later one is finite: two in a row
    at the least, for one alone may be a batch's fault."""
    at = f"the training loss is not a finite number at iteration {each.line.iteration:,} ({each.line.place})"
    if not ends:
        more = "the last one logged" if each.step == last else "later ones are"
        return {"kind": "event", "event": NAN_LOSS, "step": each.step, "text": f"{at}; {more}"}
    until = f", and no later one up to iteration {last + each.launch.first_iteration:,} is" if last > each.step else ""
    return {"kind": "event", "event": NON_FINITE, "step": each.step, "text": at + until, "why": "non-finite loss"}


def _validated(course: Course, steps: int) -> Iterator[Record]:
    for step, each in course.validations:
        if 0 <= step <= steps:
            yield {
                "kind": "event", "event": VALIDATION, "step": step, "text": _validation_words(each),
                "loss": finite(each.loss), "drawn": each.drawn,
            }  # fmt: skip


def _validation_words(each: Validation) -> str:
    what = "test" if each.drawn == TEST else "validation"
    of = f" of {each.drawn}" if each.drawn and each.drawn != TEST else ""
    return f"the trainer's own {what} loss {each.loss:.6g}{of}, over the whole mix ({each.place})"


def _resumed(course: Course) -> Iterator[Record]:
    for each in course.restarts:
        again = (
            f": {each.again:,} logged iterations behind it were trained again, and count as logged then"
            if each.again
            else ""
        )
        text = f"from step {each.step:,}{again} ({each.place})"
        yield {"kind": "event", "event": RESUMED, "step": each.step, "text": text, "again": each.again}


def _measured(
    attempt: Attempt,
    header: Record,
    evaluations: Mapping[int, Losses],
    start: Manifest | None,
    corpora: Collection[str],
) -> Iterator[Record]:
    """Evaluations over all windows. That before the first step is the start's own, where it was measured.

    On the way each stands twice: over the windows that are measured natively there, from which the strategist tells how
    the attempt develops, and over all, by which that is corrected.
    """
    if start is not None and 0 not in evaluations and set(corpora) <= set(start.evaluation):
        yield _evaluation(attempt, header, 0, {name: start.evaluation[name] for name in corpora}, start.id)
    for step, each in sorted(evaluations.items()):
        if not 0 <= step <= attempt.steps:
            continue
        losses = {name: each[name] for name in corpora}
        bad = [name for name, found in losses.items() if found["loss"] is None or None in found["windows"]]
        if bad:
            text = f"the held-out loss of {', '.join(bad)}"
            yield {"kind": "event", "event": NON_FINITE, "step": step, "text": text, "what": "a held-out loss"}
        elif (sizes := attempt.evaluation.subset) and 0 < step < attempt.steps:
            part = {name: _part(found["windows"], sizes[name]) for name, found in losses.items() if name in sizes}
            yield _evaluation(attempt, header, step, part, None, full=False)
        yield _evaluation(attempt, header, step, losses, None)


def _part(windows: Sequence[float], size: int) -> dict[str, Any]:
    chosen = [windows[number] for number in subset(len(windows), size)]
    return {"loss": sum(chosen) / len(chosen), "windows": chosen}


def _evaluation(
    attempt: Attempt, header: Record, step: int, losses: Losses, measured_by: str | None, *, full: bool = True
) -> Record:  # fmt: skip
    tokens, per_byte = attempt.tokens_at(step), header["tokens_per_byte"]
    loss = {name: found["loss"] for name, found in losses.items()}
    return {
        "kind": "eval", "step": step, "full": full, "lr": float(attempt.schedule.lr(tokens)),
        "phase": attempt.schedule.phase(tokens), "measured_by": measured_by, "loss": loss,
        "bits_per_byte": {
            name: None if value is None else bits_per_byte(value, per_byte.get(name)) for name, value in loss.items()
        },
        "windows": {name: list(found["windows"]) for name, found in losses.items()},
    }  # fmt: skip
