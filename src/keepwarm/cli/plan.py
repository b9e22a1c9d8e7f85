"""`keepwarm plan PLAN`: exact numbers before anything is trained."""

from __future__ import annotations

import gc
from pathlib import Path


def plan(plan: Path, /, *, json: bool = False, rate: float | None = None, set: list[str] | None = None) -> int:
    """Show steps, tokens, epochs, learning rates and cost of a plan. Nothing is written or trained.

    Parameters
    ----------
    plan
        The plan file.
    json
        Print everything as JSON.
    rate
        Tokens a second, to turn tokens into hours (else the run's own measured rate, once there is one).
    set
        Change a key of the plan, as for `run`.
    """
    gc.disable()  # a tenth of the command's time: it imports much, drops nothing, and ends
    try:
        from keepwarm.plan.load import load_plan
        from keepwarm.report.numbers import numbers
        from keepwarm.report.planned import print_plan
        from keepwarm.report.terminal import print_json

        asked = load_plan(plan, set or ())
        found = numbers(asked)
        if json:
            print_json(found)
        else:
            print_plan(asked, found, rate)
    finally:
        gc.enable()
    return 0
