"""`keepwarm lr PLAN`: the learning rate, step by step."""

from __future__ import annotations

from pathlib import Path


def lr(
    plan: Path,
    /,
    *,
    steps: str | None = None,
    csv: bool = False,
    json: bool = False,
    set: list[str] | None = None,
) -> int:
    """Show the learning rate over the plan's line. Row k is the rate after k optimizer steps: the one step k+1 uses.

    Parameters
    ----------
    plan
        The plan file.
    steps
        A:B:C = steps A to B inclusive, every C-th. All of the line in about 20 rows when left out.
    csv
        Print `step,lr,phase`.
    json
        Print a list of {"step", "lr", "phase", "stage"}.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm.plan.load import load_plan
    from keepwarm.report.learning_rate import print_rates

    print_rates(load_plan(plan, set or ()), steps, as_csv=csv, as_json=json)
    return 0
