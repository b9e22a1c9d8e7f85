"""`keepwarm data materialize`: an attempt's samples as a trainer's own files."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def materialize(
    plan: Path,
    out: Annotated[Path, Parameter(name="OUT")],
    /,
    *,
    stage: str | None = None,
    rung: str | None = None,
    samples: str | None = None,
    shard_tokens: str | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    set: list[str] | None = None,
) -> int:
    """Copy the samples of an attempt, in their order, as token files and a list for Megatron-DeepSpeed.

    For a mix that changes on the way, which the trainer's list can't say: it is mixed already. Written aside and renamed;
    stopped, it leaves nothing.

    Parameters
    ----------
    plan
        The plan file.
    out
        The folder to write.
    stage
        base, or a stage; the first that is not accepted when left out.
    rung
        A rung of its ladder, an attempt's label or its folder's name; the ladder's next candidate when left out.
    samples
        A:B, the samples from A up to B, counted from 0; all of them when left out.
    shard_tokens
        Several files of about so many tokens each, such as 10B; one when left out.
    as_json
        Print JSON.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm.cli.arguments import count, span
    from keepwarm.materializing import materialize as write
    from keepwarm.plan.load import load_plan
    from keepwarm.report.terminal import Terminal, console_aside

    made = write(
        load_plan(plan, set or ()), out, Terminal(out=console_aside()), stage=stage, rung=rung,
        samples=None if samples is None else span(samples, "--samples"),
        shard_tokens=None if shard_tokens is None else count(shard_tokens, "--shard-tokens"),
    )  # fmt: skip
    print(json_text.dumps(made.to_dict(), ensure_ascii=False) if as_json else "\n".join(made.lines()))
    return 0
