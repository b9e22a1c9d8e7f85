"""Traps of the learning rate: the reference's own schedule of a launch's flags, and what is odd about it.

The schedule, its errors and its findings are those of `keepwarm lr --megatron` (schedule/megatron.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from keepwarm.doctor.arguments import COOLDOWN, OVERRIDE, USE_CHECKPOINT
from keepwarm.doctor.loading import loaded_step
from keepwarm.doctor.settings import Command
from keepwarm.doctor.trap import Grade, Sight, trap
from keepwarm.errors import KeepwarmError
from keepwarm.lineage.foreign_megatron import scheduler_state
from keepwarm.schedule.megatron import Finding, ReferenceSchedule, parse_flags, reference_schedule

# A run of one sample a step, long enough to show a curve, where batch or length are not known: shares decide, not counts.
_BATCH, ITERATIONS = 1, 100_000
GOLDEN = "golden/lr"


@dataclass(frozen=True, slots=True)
class Rates:
    """The schedule of a launch, or why the trainer stops before its first step."""

    schedule: ReferenceSchedule | None
    refused: KeepwarmError | None
    state: Mapping[str, Any] | None


@cache
def rates(command: Command) -> Rates:
    """The reference's schedule of a launch, from the checkpoint's scheduler where that is on this machine."""
    state = None
    step = loaded_step(command)
    if step is not None:
        try:
            state = scheduler_state(step)
        except KeepwarmError:
            state = None  # what is wrong with the checkpoint is said where checkpoints are looked at
    batch, iterations = command.global_batch, command.train_iterations
    if command.resumes and (batch is None or iterations is None):
        state = None  # a position in samples says nothing without the batch
    words = command.words(batch or _BATCH, iterations if iterations is not None else ITERATIONS)
    try:
        return Rates(reference_schedule(parse_flags(words), state), None, state)
    except KeepwarmError as error:
        return Rates(None, error, state)


def _where(command: Command) -> str:
    return f"{command.launch.place}: --lr-decay-style {command.get('LR_DECAY_STYLE') or 'cosine'}"


@trap(
    "refused-flags",
    "command",
    "stops",
    seen="LR flags that the trainer refuses, or lengths that make no schedule",
    harm="the trainer stops at start",
    source=f"{GOLDEN}/cases.json",
)
def refused_flags(command: Command) -> Iterator[Sight]:
    """What its parser and its checks refuse. Both scheduler flags have a trap of their own."""
    error = rates(command).refused
    no_iterations = command.train_iterations == 0 or (
        command.train_iterations is None and command.is_set("TRAIN_TOKENS")
    )
    both = error is not None and "both override and use-checkpoint" in error.what
    unknown = error is not None and "$" in error.what
    if error is not None and not both and not unknown and not (no_iterations and "train" in error.what):
        yield Sight(_where(command), error.what, _typed(error.fix), error.why)


@trap(
    "frozen-schedule",
    "command",
    "silent",
    seen="a schedule that raises an error after its start, such as an infinite one with --min-lr 0",
    harm="the trainer swallows the error: LR stays frozen, every iteration counts as skipped, the weights are still "
    "changed, the exit code is 0",
    source=f"{GOLDEN}/infinite-cosine_T2000_defaults_min0.csv",
)
def frozen_schedule(command: Command) -> Iterator[Sight]:
    """The default of --min-lr is 0, and the infinite styles divide by it."""
    schedule = rates(command).schedule
    if schedule is not None and schedule.error is not None:
        yield Sight(_where(command), schedule.error.what, schedule.error.fix, schedule.error.why)


def _findings(command: Command, kind: str) -> Iterator[Finding]:
    schedule = rates(command).schedule
    yield from (each for each in (schedule.findings if schedule else ()) if each.kind == kind)


@trap(
    "finetune-universal",
    "command",
    "silent",
    seen="--finetune --universal-checkpoint with a warm-up",
    harm="Adam's moments stay and the first step uses the checkpoint's LR: neither a restart nor a continuation",
    source="golden/runs/lr0_finetune_universal_FIRSTSTEP_USES_CKPT_LR.log",
)
def finetune_universal(command: Command) -> Iterator[Sight]:
    """Without a checkpoint to look at, a warm-up of 0 is taken for a continuation at the checkpoint's LR."""
    if command.prepared:
        return
    schedule, state = rates(command).schedule, rates(command).state
    for finding in _findings(command, "first-step"):
        assert schedule is not None
        if state is not None or float(schedule.lr([0])[0]) < schedule.values.max_lr:
            yield Sight(
                f"{command.launch.place}: --finetune --universal-checkpoint", finding.what,
                "LR_WARMUP_FRAC=0 to go on; to restart, LOAD a copy made by: keepwarm convert LOAD/global_stepN "
                "COPY/global_stepN_universal --to universal --moments reset --trust",
            )  # fmt: skip


@trap(
    "rate-flags-ignored",
    "command",
    "silent",
    seen="LR_DECAY_STYLE or LR flags such as the cooldown's, on a resume with --use-checkpoint-opt_param-scheduler",
    harm="the checkpoint's schedule goes on as it was, without a warning",
    source="golden/runs/cooldown_flags_IGNORED_usecheckpoint.log",
)
def rate_flags_ignored(command: Command) -> Iterator[Sight]:
    """Where the checkpoint is not here; else the reference's own findings say what differs. LOAD=SAVE goes on as it began,
    and what keepwarm launches is held against the reference's schedule before.
    """
    if not command.resumes or not command.uses_checkpoint_scheduler or command.has(OVERRIDE):
        return
    if rates(command).state is not None or command.prepared:
        return
    cooling = [flag for flag in (COOLDOWN, f"{COOLDOWN}_frac") if command.has(flag)]
    style = [f"LR_DECAY_STYLE={command.get('LR_DECAY_STYLE')}"] if command.is_set("LR_DECAY_STYLE") else []
    asked = [*style, *(flag for flag in _OF_THE_STYLE if command.has(flag))] if command.load != command.save else []
    if cooling or asked:
        yield Sight(
            f"{command.launch.place}: {' '.join([*asked, *cooling])}",
            f"the script adds {USE_CHECKPOINT}: style, LR, minimum and lengths are those of LOAD's checkpoint",
            f"OVERRIDE_CKPT_OPT_PARAM=1 in front of bash, and {OVERRIDE}",
        )


_OF_THE_STYLE = ("--lr-decay-style", "--min-lr", "--constant-lr", "--lr-cooldown-fraction", "--lr-constant-fraction")
_SIMPLE: Mapping[str, tuple[str, Grade, str, str, str]] = {  # kind of finding: name, grade, seen, harm, source
    "ignored": (
        "flag-without-effect", "silent", "an LR flag that this style, or the checkpoint's scheduler, does not use",
        "the learning rate is not the one that the flag says", f"{GOLDEN}/resume_cosine_to_constcool0.1_usecheckpoint.csv",
    ),
    "long-cooldown": (
        "cooldown-share", "silent", "--lr_constant_plus_cooldown_frac above 0.5, such as 0.9 for `the last 10 %`",
        "it is the share of all iterations that cool: LR is far down before the cooldown was meant to begin",
        f"{GOLDEN}/constcool_f0.9_T2000_min2e-6.csv",
    ),
    "jump": (
        "rate-jump", "silent", "two pieces of the LR curve that do not meet", "the loss jumps, or forgets what was learned",
        f"{GOLDEN}/resume_const1800_cooldown0.9_to2000_override.csv",
    ),
    "position": (
        "batch-moved-position", "silent", "a resume with another global batch", "LR goes on from samples, "
        "iterations from their own count: the run ends before or behind its curve", f"{GOLDEN}/cases.json: resume_gbsdouble",
    ),
    "double-load": (
        "position-twice", "silent", "a scheduler state whose position is twice what was consumed",
        "LR is that of a run twice as far",
        f"{GOLDEN}/cases.json: double_load_state_dict",
    ),
    "nothing-to-train": (
        "nothing-to-train", "stops", "a checkpoint at or behind the last iteration",
        "the trainer stops at once, with exit code 0",
        "golden/runs/rung_decay2.log",
    ),
    "starts-below": (
        "starts-below", "silent", "a schedule that never reaches --lr",
        "the learning rate is lower than asked for from the start",
        f"{GOLDEN}/cases.json",
    ),
    "token-lag": (
        "token-lag", "silent", "a learning rate counted in tokens", "it lags one iteration behind",
        f"{GOLDEN}/tokens_cosine_T2000.csv",
    ),
    "ends-early": (
        "cut-off-decay", "silent", "warm-up, cooldown and constant shares of an infinite schedule that fill the whole run",
        "the annealing is cut off: the run ends high above the minimum LR", f"{GOLDEN}/infinite-cosine_T2000_fracsum_eq1.csv",
    ),
}  # fmt: skip


def _typed(fix: str) -> str:
    """A fix in the trainer's flags, as it is typed at train_alcf.sh."""
    if USE_CHECKPOINT in fix:
        return f"OVERRIDE_CKPT_OPT_PARAM=1 in front of bash, and {OVERRIDE}"
    return re.sub(r"--train-iters ([0-9]+)", r"TRAIN_ITERS=\1", fix)


def _simple(kind: str) -> Callable[[Command], Iterator[Sight]]:
    def find(command: Command) -> Iterator[Sight]:
        for finding in _findings(command, kind):
            if kind != "ends-early" or not command.is_set("LR_DECAY_ITERS"):  # a longer decay by name is meant so
                yield Sight(command.launch.place, finding.what, _typed(finding.fix), finding.why)

    return find


for _kind, (_name, _grade, _seen, _harm, _source) in _SIMPLE.items():
    trap(_name, "command", _grade, seen=_seen, harm=_harm, source=_source)(_simple(_kind))
