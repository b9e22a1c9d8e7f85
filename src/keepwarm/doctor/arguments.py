"""Traps in the flags behind `bash train_alcf.sh`: what the script writes over, splits, or contradicts."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from keepwarm.doctor.alcf import WRITTEN_LAST
from keepwarm.doctor.command import DRY_RUNS
from keepwarm.doctor.settings import Command
from keepwarm.doctor.trap import Sight, trap

OVERRIDE, USE_CHECKPOINT = "--override-opt_param-scheduler", "--use-checkpoint-opt_param-scheduler"
COOLDOWN = "--lr_constant_plus_cooldown"


def _given(command: Command) -> Iterator[tuple[str, str]]:
    """(flag, its value) of each flag of the command line; values joined as they stand."""
    words = command.launch.arguments
    for at, word in enumerate(words):
        if word.startswith("--"):
            flag, sign, value = word.partition("=")
            following = words[at + 1] if at + 1 < len(words) and not words[at + 1].startswith("--") else ""
            yield flag, value if sign else following


@trap(
    "overridden-flag",
    "command",
    "silent",
    seen="a flag that the script writes again behind the command line's",
    harm="the trainer takes the last one: the flag is ignored",
    source=f"{DRY_RUNS}: cli_overridden_by_script",
)
def overridden_flag(command: Command) -> Iterator[Sight]:
    """Only --lr, --lr-decay-style, --lr-warmup-fraction, --lr-decay-iters and what the script does not write survive."""
    written = {
        "--train-iters": command.train_iterations, "--load": command.load, "--save": command.save,
        "--seq-length": command.number("SEQ"), "--global-batch-size": command.global_batch,
        "--split": ",".join(str(command.number(name)) for name in ("TRAIN_SPLIT", "VAL_SPLIT", "TEST_SPLIT")),
    }  # fmt: skip
    for flag, value in _given(command):
        if flag not in WRITTEN_LAST:
            continue
        variable = WRITTEN_LAST[flag]
        simple = variable and " " not in variable
        last = written.get(flag, command.rate(variable) if simple else None)
        if str(last) == value:
            continue
        used = f"the script's own {flag}{f'={last}' if last not in (None, '') else ''} comes later"
        yield Sight(
            f"{command.launch.place}: {flag}={value}", used,
            f"{variable}={value} in front of bash, and no {flag}" if simple
            else f"set {variable} in front of bash" if variable else f"leave out {flag}: it can't be set from outside",
        )  # fmt: skip


@trap(
    "split-argument",
    "command",
    "silent",
    seen="an argument with a space or a quote in it",
    harm='the script runs `bash -c "${run_cmd[*]}"`, which splits it into several words',
    source=f"{DRY_RUNS}: arg_with_space",
)
def split_argument(command: Command) -> Iterator[Sight]:
    """What one shell has put together another takes apart."""
    for word in command.launch.arguments:
        if any(each in word for each in " \t\n'\"*?;&|<>()"):
            yield Sight(
                f"{command.launch.place}: {shlex.quote(word)}", f"it reaches the trainer as {' '.join(word.split())!r}, split",
                word.strip().replace(" ", "-").replace("'", "").replace('"', ""),
            )  # fmt: skip


@trap(
    "both-scheduler-flags",
    "command",
    "stops",
    seen=f"{OVERRIDE} without OVERRIDE_CKPT_OPT_PARAM=1",
    harm="the script adds the other flag, and the trainer stops: both override and use-checkpoint are set",
    source="golden/runs/both_flags_assert.log",
)
def both_scheduler_flags(command: Command) -> Iterator[Sight]:
    """The trainer asserts that at most one is there."""
    if command.has(OVERRIDE) and command.uses_checkpoint_scheduler:
        added = (
            f"{USE_CHECKPOINT} is on the command line"
            if command.has(USE_CHECKPOINT)
            else f"the script adds {USE_CHECKPOINT}"
        )
        yield Sight(f"{command.launch.place}: {OVERRIDE}", added, "OVERRIDE_CKPT_OPT_PARAM=1 in front of bash")


@trap(
    "neither-scheduler-flag",
    "command",
    "stops",
    seen=f"OVERRIDE_CKPT_OPT_PARAM=1 without {OVERRIDE}",
    harm="the variable only leaves a flag out: on a resume the trainer stops at the first LR value that differs",
    source="golden/lr/resume_longer_neither.csv",
)
def neither_scheduler_flag(command: Command) -> Iterator[Sight]:
    """The variable's name promises more than it does."""
    if not command.uses_checkpoint_scheduler and not command.has(OVERRIDE) and not command.has("--finetune"):
        yield Sight(command.where("OVERRIDE_CKPT_OPT_PARAM"), f"{OVERRIDE} is not among the flags", OVERRIDE)


@trap(
    "constant-lr-default",
    "command",
    "silent",
    seen="an infinite schedule without --constant-lr",
    harm="the plateau is 1.1e-4 whatever --lr is",
    source="golden/lr/infinite-cosine_T2000_defaults_min2e-6.csv",
)
def constant_lr_default(command: Command) -> Iterator[Sight]:
    """The parser's default."""
    style = dict(_given(command)).get("--lr-decay-style") or command.get("LR_DECAY_STYLE")
    if style.startswith("infinite") and not command.has("--constant-lr"):
        yield Sight(
            f"{command.launch.place}: {style}", f"--constant-lr is not given: 1.1e-4, and --lr is {command.rate('LR')}",
            "--constant-lr=1e-4",
        )  # fmt: skip
