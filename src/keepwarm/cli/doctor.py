"""`keepwarm doctor`: the traps of a launch and of all that belongs to it, before they cost a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def doctor(
    *things: Annotated[str, Parameter(allow_leading_hyphen=False)],
    environment: Path | None = None,
    list_all: Annotated[bool, Parameter(name="--list", negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """List what goes wrong silently with Megatron-DeepSpeed: each trap with its evidence, what would happen, and a fix.

    Nothing is run and nothing is changed. Exits 1 if a trap was found, 0 if none was.

    Parameters
    ----------
    things
        A launch command (quoted, or a file), a job script, a file list, a data cache with its list, a checkpoint, a log, a
        token file, or a launch folder of keepwarm; what each is, is told by looking. What a launch names is looked at too.
    environment
        NAME=VALUE lines, all that the job has: `printenv` in the job, or a trainer's .env. NHOSTS and NGPU_PER_HOST
        say how many nodes and devices.
    list_all
        List all traps that are looked for.
    as_json
        Print one list of JSON.
    """
    import json
    from dataclasses import asdict

    from keepwarm.doctor.examine import examine
    from keepwarm.doctor.things import read_environment
    from keepwarm.doctor.trap import known
    from keepwarm.errors import DataError
    from keepwarm.report.doctored import doctored_lines, known_lines

    if list_all == bool(things):
        raise DataError(
            "--list with things" if list_all else "nothing is named", "either all traps are listed, or things are examined",
            "keepwarm doctor --list" if list_all else "keepwarm doctor 'LR=2e-4 bash train_alcf.sh --finetune'",
        )  # fmt: skip
    if list_all:
        rows = known()
        print(json.dumps(rows, indent=1, ensure_ascii=False) if as_json else "\n".join(known_lines(rows)))
        return 0
    looked = examine(things, read_environment(environment) if environment is not None else None)
    found = [asdict(one) for one in looked]
    print(json.dumps(found, indent=1, ensure_ascii=False) if as_json else "\n".join(doctored_lines(found)))
    return int(any(one.traps for one in looked))
