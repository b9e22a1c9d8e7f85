"""Rewinds of an attempt: `rewinds.json` in its folder says which were made and which steps they pass over for good.

A rewind drops the records behind its checkpoint, its own reason among them; so it is on record here. Skipped steps need
no such file: whoever comes to the step again has the same records before it, and skips it again.

Consistent after a kill at any moment: `begin` writes the rewind, not done, in one atomic write, and nothing is trained
until `finish` has removed the checkpoints behind the one gone back to, cut the metrics there and marked it done. Before
`begin` has written, the run goes on from its newest checkpoint and finds the same again. After it, every start of the
attempt calls `finish` first, and as nothing was trained since, all that lies behind the checkpoint is what the rewind
gave up. The event `rewound` is told last, by whoever finds it `untold`. Steps to pass over are only ever added, by
findings at steps that are not passed over yet; so no rewind meets the same failure again.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from keepwarm import files
from keepwarm.attempt.records import REWOUND, Record, keep_until
from keepwarm.attempt.spikes import Finding
from keepwarm.errors import LineageError
from keepwarm.lineage.manifest import checkpoints_of, read_manifest

NAME = "rewinds.json"
_GIVEN_UP = ".rewound"  # a checkpoint on its way out: no longer one by its name


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewind:
    """One rewind. Steps are numbered from 1, as in the records; `why` and the numbers are those of the finding."""

    number: int  # from 1
    first_step: int  # passed over are the steps from here
    last_step: int  # to the one that was found
    to_step: int  # of the checkpoint gone back to; 0: the attempt's start
    why: str
    loss: float | None
    grad_norm: float | None
    text: str
    located: tuple[dict[str, Any], ...] = ()  # what the batch that was found is made of (blend/located.py)
    done: bool = False

    def event(self) -> Record:
        """What the metrics say of it, but for where."""
        back = f"to step {self.to_step:,}" if self.to_step else "to where the attempt began"
        steps = f"steps {self.first_step:,} to {self.last_step:,}"
        text = f"{back}: at step {self.last_step:,} {self.text}; {steps} are passed over"
        keys = ("number", "first_step", "last_step", "to_step", "why", "loss", "grad_norm")
        content = {key: getattr(self, key) for key in keys} | {"located": list(self.located)}
        return {"event": REWOUND, "text": text, **content}


def read_rewinds(folder: Path) -> tuple[Rewind, ...]:
    """The rewinds of the attempt in `folder`, in order; LineageError if the record is damaged."""
    path = Path(folder) / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return tuple(Rewind(**{**each, "located": tuple(each["located"])}) for each in content["rewinds"])
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError) as error:
        raise LineageError(
            f"{path}: damaged ({error})",
            "it says which steps the attempt passes over; without it their batches would be trained on again",
            f"remove the attempt: rm -r {folder}",
        ) from error


def begin(
    folder: Path, finding: Finding, *, step: int, rewind_steps: int, saved_steps: Iterable[int],
    located: Sequence[dict[str, Any]] = (),
) -> Rewind:  # fmt: skip
    """Decide on a rewind and record it, not done. `step` is the one that was found (from 1), `saved_steps` are those of
    the attempt's checkpoints that can be gone back to."""
    before, first = read_rewinds(folder), max(1, step - rewind_steps + 1)
    to_step = max((saved for saved in saved_steps if saved < first), default=0)
    made = Rewind(
        number=len(before) + 1, first_step=first, last_step=step, to_step=to_step, text=finding.text,
        located=tuple(located), **finding.numbers(),
    )  # fmt: skip
    _write(folder, (*before, made))
    return made


def finish(folder: Path) -> tuple[Rewind, ...]:
    """Carry out the last rewind as far as that has not been done; gives all rewinds.

    Afterwards the newest checkpoint is the one gone back to, and `metrics.jsonl` ends there.
    """
    rewinds = read_rewinds(folder)
    if not rewinds or rewinds[-1].done:
        return rewinds
    for aside in (Path(folder) / "checkpoints").glob(f"*{_GIVEN_UP}"):
        shutil.rmtree(aside)
    for checkpoint in reversed(checkpoints_of(folder)):
        if read_manifest(checkpoint).step > rewinds[-1].to_step:
            aside = checkpoint.with_name(checkpoint.name + _GIVEN_UP)
            checkpoint.rename(aside)
            shutil.rmtree(aside)
    metrics = Path(folder) / "metrics.jsonl"
    if metrics.exists():
        keep_until(metrics, rewinds[-1].to_step)
    rewinds = (*rewinds[:-1], replace(rewinds[-1], done=True))
    _write(folder, rewinds)
    return rewinds


def passed_over_by(rewinds: Sequence[Rewind], step: int) -> Rewind | None:
    """The first rewind that passes over `step` (from 1); None where it is to be trained on."""
    return next((each for each in rewinds if each.first_step <= step <= each.last_step), None)


def untold(rewinds: Sequence[Rewind], records: Iterable[Record]) -> list[Record]:
    """The events of rewinds that the metrics do not have: told before anything is trained."""
    told = {record["number"] for record in records if record.get("event") == REWOUND}
    return [each.event() for each in rewinds if each.number not in told]


def untouched_steps(folder: Path) -> float:
    """Steps that are trained as if there had been no rewind; infinite of an attempt that had none."""
    return min((each.first_step - 1 for each in read_rewinds(folder)), default=math.inf)


def _write(folder: Path, rewinds: Sequence[Rewind]) -> None:
    content = [asdict(each) | {"located": list(each.located)} for each in rewinds]
    files.write_json(Path(folder) / NAME, {"format": 1, "rewinds": content}, replace=True)
