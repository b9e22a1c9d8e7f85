"""Traps that a trainer's log shows: what was not loaded, frozen, skipped, repeated, or ended by an error."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from keepwarm.doctor.alcf import DEFAULT_TOKENIZER, DEFAULT_VOCABULARY
from keepwarm.doctor.loading import FROM_RANDOM
from keepwarm.doctor.trap import Sight, trap
from keepwarm.lineage.foreign_logs import LogLine
from keepwarm.lineage.log_points import Console, Validation, read_console

LEARNED = 100  # tokens a row of the embedding: of fewer no checkpoint has learned much
NEAR = 0.2  # nats: as near as this to ln(rows) a first loss is that of weights which know nothing
_JUMP, _AGAINST = 0.01, 10.0  # of the highest LR, and times the changes before and behind
_ARGUMENT = re.compile(r"^ +(\w+) \.{2,} (.*)$")
_PADDED = re.compile(r"padded vocab \(size: ([0-9]+)\) with ([0-9]+) dummy tokens \(new size: ([0-9]+)\)")
_STYLE = re.compile(r"> learning rate decay style: (\S+)")
_TAKEN = re.compile(r"> using checkpoint value (.+) for (learning rate decay style|learning rate)\b")
_LOADED = re.compile(r"successfully loaded checkpoint from (\S+) at iteration ([0-9]+)")


@dataclass(frozen=True, slots=True)
class Log:
    """A console, and what it says beside its points. `arguments` are the trainer's own list of them, as far as it is there."""

    console: Console
    arguments: Mapping[str, str]
    words: int | None  # of the vocabulary
    rows: int | None  # of the embedding
    style: str
    taken: tuple[tuple[str, str, str], ...]  # (place, value, what) of the checkpoint's scheduler that replaced a flag's
    loaded: tuple[str, ...]  # places
    begins_at_random: bool = False  # a run that is meant to

    @property
    def lines(self) -> tuple[LogLine, ...]:
        """Its iterations, as they were written."""
        return self.console.training


def read_log(path: Path, rows: int | None = None, begins_at_random: bool = False) -> Log:
    """A log; `rows` of the embedding where the log does not say it."""
    arguments: dict[str, str] = {}
    words = None
    style, taken, loaded = "", list[tuple[str, str, str]](), list[str]()
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, start=1):
            place = f"{path}:{number}"
            if (match := _ARGUMENT.match(text)) is not None:
                arguments[match[1]] = match[2].strip()
            elif (match := _PADDED.search(text)) is not None:
                words, rows = int(match[1]), int(match[3])
            elif (match := _STYLE.search(text)) is not None:
                style = match[1]
            elif (match := _TAKEN.search(text)) is not None:
                taken.append((place, match[1], match[2]))
            elif _LOADED.search(text):
                loaded.append(place)
    return Log(read_console(path), arguments, words, rows, style, tuple(taken), tuple(loaded), begins_at_random)


@trap(
    "began-at-random",
    "log",
    "silent",
    seen="`will start from random` in a log",
    source=FROM_RANDOM,
    harm="nothing was loaded: what came before is lost to this run, and the exit code is 0",
)
def began_at_random(log: Log) -> Iterator[Sight]:
    """Not of a run that saves to where it loads from: it was begun, not continued."""
    own = log.arguments.get("load", "?") == log.arguments.get("save") and log.arguments.get("finetune") == "False"
    if log.begins_at_random or own:
        return
    for place in log.console.from_random:
        first = next((line for line in log.lines if line.loss is not None), None)
        near = f"; the first loss is {first.loss:.4f}" if first is not None and first.loss is not None else ""
        at = f", ln {log.rows:,} = {math.log(log.rows):.4f}" if log.rows else ""
        yield Sight(
            place,
            f"the trainer found no checkpoint{near}{at}",
            "right for a first run; else LOAD=folder with a file `latest`",
        )


@trap(
    "loss-of-random-weights",
    "log",
    "silent",
    seen="a first loss near ln(rows of the embedding) where something was loaded",
    harm="the weights were not loaded, or the tokens are another tokenizer's",
    source="golden/logs/log_samples.txt: cooldown.md:107",
)
def loss_of_random_weights(log: Log) -> Iterator[Sight]:
    """A run that loaded something, and whose checkpoint had seen enough to know more than random weights do.

    Where the log does not say the rows, they are those of the script's default tokenizer.
    """
    first = next((line for line in log.lines if line.loss is not None), None)
    if first is None or first.loss is None or log.begins_at_random or log.console.from_random:
        return
    rows = log.rows or DEFAULT_VOCABULARY
    if first.iteration == 1:
        told = bool(log.loaded)
    else:
        told = first.tokens is None or first.tokens > LEARNED * rows
    if told and abs(first.loss - math.log(rows)) <= NEAR:
        whose = "" if log.rows else f" (of {DEFAULT_TOKENIZER}, the script's default)"
        yield Sight(
            first.place, f"iteration {first.iteration:,} has loss {first.loss:.4f}, ln {rows:,}{whose} = {math.log(rows):.4f}",
            "compare TOKENIZER_TYPE and TOKENIZER_MODEL with the checkpoint's and the token files'",
        )  # fmt: skip


@trap(
    "frozen-rate",
    "log",
    "silent",
    seen="iterations that count as skipped, one after the other, with the same LR and no loss",
    harm="the scheduler raises an error that the trainer swallows: weights change, the schedule stands still, the exit code is 0",
    source="reference/megatron.md 6d: infinite cosine with --min-lr 0",
)
def frozen_rate(log: Log) -> Iterator[Sight]:
    """A loss scale that overflows lets LR stand too, and the scale falls then."""
    run: list[LogLine] = []
    for line in (*log.lines, None):
        if line is not None and line.skipped and line.loss is None and (not run or line.lr == run[-1].lr):
            run.append(line)
            continue
        falls = any(a.loss_scale != b.loss_scale for a, b in pairwise(run))
        if len(run) > 1 and not falls:
            yield Sight(
                run[0].place, f"{len(run):,} iterations from {run[0].iteration:,} on are skipped, LR stays {run[0].lr:g}",
                "--min-lr above 0 with an infinite schedule; keepwarm lr --megatron '...' says which line raises",
            )  # fmt: skip
        run = []


@trap(
    "loss-absent",
    "log",
    "silent",
    seen="an iteration without a loss that was not skipped",
    source="golden/logs/log_generated.json",
    harm="the loss was NaN (or not above 0): the trainer does not print it, nor does it count it",
)
def loss_absent(log: Log) -> Iterator[Sight]:
    """All of them in one line. An infinite loss is printed."""
    gone = [line for line in log.lines if line.loss is None and not line.skipped]
    odd = [line for line in log.lines if line.loss is not None and not math.isfinite(line.loss)]
    for lines, what in ((gone, "print no loss and are not skipped"), (odd, "have a loss that is not finite")):
        if lines:
            norms = ", ".join(f"{line.grad_norm:g}" for line in lines[:3] if line.grad_norm is not None)
            yield Sight(
                lines[0].place, f"{len(lines):,} iterations from {lines[0].iteration:,} on {what}"
                + (f"; grad_norm {norms}" if norms else ""),
                f"go back to a checkpoint before iteration {lines[0].iteration:,}, and skip its batches",
            )  # fmt: skip


@trap(
    "validation-nan",
    "log",
    "silent",
    seen="a validation loss that is NaN",
    source="golden/logs/log_generated.json",
    harm="the weights are broken; the perplexity beside it is capped at e^20 and looks like a number",
)
def validation_nan(log: Log) -> Iterator[Sight]:
    """The first one."""
    for point in log.console.points:
        if isinstance(point, Validation) and not math.isfinite(point.loss):
            yield Sight(
                point.place, f"validation loss {point.loss} at iteration {point.iteration:,}",
                f"go back to a checkpoint before iteration {point.iteration:,}",
            )  # fmt: skip
            return


@trap(
    "rate-jumped",
    "log",
    "silent",
    seen="an LR that changes within an iteration far more than before and behind",
    harm="two schedules meet there, or a cooldown began in its middle",
    source="golden/lr/resume_const1800_cooldown0.9_to2000_override.csv",
)
def rate_jumped(log: Log) -> Iterator[Sight]:
    """Against the changes on both sides, so that a warm-up's and a cooldown's own steps are none."""
    lines = [line for line in log.lines if line.lr is not None]
    highest = max((line.lr or 0.0 for line in lines), default=0.0)
    for a, b, c, d in zip(lines, lines[1:], lines[2:], lines[3:], strict=False):
        if [line.iteration - a.iteration for line in (b, c, d)] != [1, 2, 3]:
            continue
        before, change, behind = (abs((y.lr or 0.0) - (x.lr or 0.0)) for x, y in ((a, b), (b, c), (c, d)))
        if change > _JUMP * highest and change > _AGAINST * max(before, behind):
            yield Sight(
                c.place, f"LR {b.lr:g} at iteration {b.iteration:,}, {c.lr:g} at {c.iteration:,}",
                "keepwarm lr --megatron '...' --state CHECKPOINT shows the curve of a resume before it is run",
            )  # fmt: skip


@trap(
    "repeated-iterations",
    "log",
    "lost",
    seen="a restart that trains iterations again",
    source="reference/megatron.md section 7",
    harm="what was trained behind the last save is paid twice",
)
def repeated_iterations(log: Log) -> Iterator[Sight]:
    """Each time that iterations go back; a rate that is another one the second time is said too."""
    rates: dict[int, float | None] = {}
    for before, line in pairwise((*log.lines[:1], *log.lines)):
        if line is not before and line.iteration <= before.iteration:
            old, again = rates.get(line.iteration), before.iteration - line.iteration + 1
            differs = (
                f"; LR is {line.lr:g}, and was {old:g}"
                if old is not None and line.lr is not None and old != line.lr
                else ""
            )
            yield Sight(
                line.place, f"iteration {line.iteration:,} follows {before.iteration:,}: "
                f"{again:,} iteration{'s' * (again != 1)} trained again{differs}",
                "SAVE_INTERVAL below what a job may lose, and --exit-duration-in-mins below the walltime",
            )  # fmt: skip
        rates[line.iteration] = line.lr


@trap(
    "iterations-missing",
    "log",
    "silent",
    seen="a gap in a log's iterations",
    source="logs of chained jobs",
    harm="a log is missing or was overwritten: what happened in between is not known",
)
def iterations_missing(log: Log) -> Iterator[Sight]:
    """Lines are as far apart as the smallest distance says."""
    distances = [b.iteration - a.iteration for a, b in pairwise(log.lines) if b.iteration > a.iteration]
    usual = min(distances, default=1)
    for a, b in pairwise(log.lines):
        if b.iteration - a.iteration > usual:
            fix = "name the log between them too"
            yield Sight(b.place, f"iteration {b.iteration:,} follows {a.iteration:,}", fix)


@trap(
    "schedule-of-checkpoint",
    "log",
    "silent",
    seen="`using checkpoint value` for a style that is not the flags'",
    harm="--use-checkpoint-opt_param-scheduler took the checkpoint's schedule: the flags are ignored",
    source="golden/runs/cooldown_flags_IGNORED_usecheckpoint.log",
)
def schedule_of_checkpoint(log: Log) -> Iterator[Sight]:
    """The style was printed twice: as asked, and as taken."""
    for place, value, what in log.taken:
        if what == "learning rate decay style" and log.style and value != log.style:
            yield Sight(
                place, f"the flags say {log.style}, the checkpoint's {value} is used",
                "OVERRIDE_CKPT_OPT_PARAM=1 in front of bash, and --override-opt_param-scheduler",
            )  # fmt: skip


@trap(
    "zeros-in-vocabulary",
    "log",
    "silent",
    seen="a resume whose vocabulary is padded otherwise than in the checkpoint, or from a universal copy",
    harm="padded rows are zeros and join the softmax: the loss jumps",
    source="golden/runs/universalD_tp2_padded256.log",
)
def zeros_in_vocabulary(log: Log) -> Iterator[Sight]:
    """A plain resume with the same cut keeps its rows."""
    plain = log.arguments.get("universal_checkpoint") == "False"
    if log.words and log.rows and log.rows != log.words and log.lines and log.lines[0].iteration > 1 and not plain:
        first = next((line for line in log.lines if line.loss is not None), None)
        loss = f"; the first loss is {first.loss:.4f}" if first is not None and first.loss is not None else ""
        yield Sight(
            log.lines[0].place, f"{log.words:,} words in {log.rows:,} rows, ln {log.rows:,} = {math.log(log.rows):.4f}{loss}",
            "resume with the tensor parallelism of the checkpoint, from its plain step",
        )  # fmt: skip


@trap(
    "ended-by-error",
    "log",
    "stops",
    seen="an error of a process in a log",
    source="golden/runs/both_flags_assert.log",
    harm="the job ended there, and the exit code may still be tee's 0",
)
def ended_by_error(log: Log) -> Iterator[Sight]:
    """The last error that is no launcher's."""
    if log.console.failure:
        what, _, place = log.console.failure.rpartition(" (")
        known = next((fix for word, fix in _KNOWN.items() if word in what), "mend the cause, then submit again")
        yield Sight(place.rstrip(")"), what, known)


_KNOWN = {
    "both override and use-checkpoint": "OVERRIDE_CKPT_OPT_PARAM=1 in front of bash",
    "latest_universal does not exist": "LOAD=folder that holds latest_universal, or leave out --universal-checkpoint",
    "narrow(): length must be non-negative": "keepwarm convert STEP STEP_universal --to universal --trust",
    "index": "remove the data cache: it may be another list's (keepwarm doctor CACHE LIST)",
    "'NoneType' object is not subscriptable": "TRAIN_SPLIT=90 VAL_SPLIT=10: a file has too few sequences for the split",
}


@trap(
    "weight-of-one-step",
    "log",
    "silent",
    seen="--finetune --universal-checkpoint in a log, with LR rising from its first line",
    harm="Adam's moments and the checkpoint's LR were used for one step",
    source="golden/runs/lr0_finetune_universal_FIRSTSTEP_USES_CKPT_LR.log",
)
def weight_of_one_step(log: Log) -> Iterator[Sight]:
    """By the trainer's own list of arguments."""
    both = [log.arguments.get(name) == "True" for name in ("finetune", "universal_checkpoint")]
    rates = [line.lr for line in log.lines[:2] if line.lr is not None]
    if all(both) and len(rates) == 2 and rates[1] > rates[0]:
        yield Sight(
            log.lines[0].place, f"a warm-up begins at LR {rates[0]:g}, behind a step with the checkpoint's own LR",
            "LOAD=COPY, made by: keepwarm convert LOAD/global_stepN COPY/global_stepN_universal --to universal "
            "--moments reset --trust",
        )  # fmt: skip
