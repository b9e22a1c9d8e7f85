"""How the trainer begins an attempt: which of its ways, what LOAD names, and what must be made of the start before.

Proven by running the trainer: `--finetune --universal-checkpoint` goes on with the moments and the LR that the copy
holds, whatever its name says; from a copy whose moments, step and LR are 0 it is a clean restart. A plain resume keeps
the position in the data and in the schedule. So does a cooldown, which resumes its trunk under another schedule; far into
a trunk, where its list would be mostly what the trunk was fed, it goes on as new data does, with the same moments and LR.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwarm.attempt.line import COOLDOWN
from keepwarm.attempt.model import Attempt
from keepwarm.backends.megatron.flags import foreign_state
from keepwarm.backends.megatron.record import Begin
from keepwarm.lineage.manifest import Manifest

COPY = "start-universal"  # in an attempt's folder: the universal copy that its first launch loads
ANEW = ("--finetune", "--universal-checkpoint")  # iteration 0, the new list from its first sample
MOST_IN_FRONT = 10_000_000  # samples that a resume passes over: its list must lay them out, 2 GB of memory and 10 s
_STEP = re.compile(r"global_step([0-9]+)(_universal)?")


@dataclass(frozen=True, slots=True)
class Origin:
    """What an attempt begins with. `pointed`: the step in LOAD that the first job must begin from."""

    begins: Begin
    load: str | None
    prepare: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    first_iteration: int = 0
    pointed: str | None = None
    state: dict[str, Any] | None = None  # of the scheduler, as far as the first steps depend on it


def origin_of(attempt: Attempt, start: Manifest | None, run_folder: Path) -> Origin:
    """From an attempt's start and what it keeps of it."""
    if attempt.start is None:
        return Origin("trunk", None)
    weights = Path(start.location or run_folder / start.id) if start is not None else Path(attempt.start)
    match = _STEP.fullmatch(weights.name)
    iteration = int(match[1]) if match else 0
    samples = iteration * attempt.global_batch_size
    plain = match is not None and not match[2]
    if (
        start is not None
        and attempt.rung == COOLDOWN
        and plain
        and samples <= MOST_IN_FRONT
        and attempt.moments == "keep"
    ):
        return Origin(
            "cooldown", str(weights.parent), arguments=(f"--load-tag={weights.name}",), first_iteration=iteration,
            pointed=weights.name, state=foreign_state(start.lr, start.lr_max, iteration, samples),
        )  # fmt: skip
    copy = run_folder / attempt.folder / COPY
    step = f"global_step{match[1] if match else start.step if start is not None else 0}_universal"
    convert = ("keepwarm", "convert", str(weights), str(copy / step), "--to", "universal")
    if attempt.moments == "keep" and start is not None:
        state = foreign_state(start.lr, start.lr_max, 0, 0)
        if match and match[2]:
            return Origin("continue", str(weights.parent), arguments=ANEW, pointed=weights.name, state=state)
        return Origin("continue", str(copy), (*convert, "--trust"), ANEW, pointed=step, state=state)
    reset = (*convert, "--moments", "reset", "--trust")
    state = foreign_state(0.0, attempt.schedule.lr_max, 0, 0)
    return Origin("restart", str(copy), reset, ANEW, pointed=step, state=state)
