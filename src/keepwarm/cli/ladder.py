"""`keepwarm ladder`: the order in which a stage's candidates are tried."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

ladder = App(name="ladder", help="Ladders: suggest the order of a stage's candidates from earlier runs.")


@ladder.command
def suggest(
    plan: Path,
    /,
    *,
    stage: str,
    from_runs: Annotated[list[Path], Parameter(name="--from", consume_multiple=True)],
    json: bool = False,
    set: list[str] | None = None,
) -> int:
    """Suggest in which order to try a stage's candidates, by what came of them in earlier runs at a similar shift.

    Nothing is trained or written. The ladder that is shown can be pasted into the plan.

    Parameters
    ----------
    plan
        The plan file.
    stage
        Which stage the ladder is for.
    from_runs
        Run folders whose outcomes are the evidence, one or more.
    json
        Print everything as JSON.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm.plan.load import load_plan
    from keepwarm.report.suggested import print_suggested, suggested
    from keepwarm.report.terminal import print_json

    found = suggested(load_plan(plan, set or ()), stage, from_runs)
    if json:
        print_json(found)
    else:
        print_suggested(found)
    return 0
