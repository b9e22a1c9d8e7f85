"""`keepwarm lr`: the learning rate, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def lr(
    plan: Path | None = None,
    /,
    *,
    schedule: str | None = None,
    megatron: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    state: Path | None = None,
    steps: str | None = None,
    csv: bool = False,
    json: bool = False,
    html: Path | None = None,
    to_megatron: bool = False,
    set: list[str] | None = None,
) -> int:
    """Show a learning rate: of a plan's line, a schedule, or Megatron-DeepSpeed's flags as it really follows them.

    Row k is the rate after k optimizer steps: the one step k+1 uses.

    Parameters
    ----------
    plan
        The plan file.
    schedule
        A schedule in words instead, such as "wsd lr_max=3e-4 tokens=22B warmup=1% cooldown=10%
        global_batch_size=3072 sequence_length=4096".
    megatron
        The trainer's flags instead, in one quoted text: "--lr 2e-4 --lr-decay-style cosine --train-iters 2000 ...".
        What does not do what it seems to say is told as a warning; what goes wrong in the trainer, as an error.
    state
        With --megatron: the checkpoint to resume (a Megatron-DeepSpeed or universal folder), or its scheduler state as
        JSON, perhaps with its "iteration".
    steps
        A:B:C = steps A to B inclusive, every C-th. All in about 20 rows when left out.
    csv
        Print `step,lr,phase`.
    json
        Print a list of {"step", "lr", "phase", "stage"}; with --megatron {"rows", "findings", "not_about_lr"}.
    html
        Write one HTML file with the curve instead; it opens from disk.
    to_megatron
        Print the trainer's flags for the plan's legs, or for the schedule, instead.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm.report.lr_command import Asked, show

    show(Asked(plan, schedule, megatron, state, steps, csv, json, html, to_megatron, tuple(set or ())))
    return 0
