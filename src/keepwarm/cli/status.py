"""`keepwarm status PLAN`: what was tried, what was kept, what comes next."""

from __future__ import annotations

from pathlib import Path


def status(plan: Path, /, *, json: bool = False, set: list[str] | None = None) -> int:
    """Show the stages, attempts and losses of a run.

    Parameters
    ----------
    plan
        The plan file.
    json
        Print everything as JSON.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm.plan.load import load_plan
    from keepwarm.report.status import status as read_status
    from keepwarm.report.terminal import print_json, print_status

    asked = load_plan(plan, set or ())
    if json:
        print_json(read_status(asked))
    else:
        print_status(asked)
    return 0
